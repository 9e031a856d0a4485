//! Which answers are still to come once everything was typed.
//!
//! Owns the count. A result does not name the line that it answers, so they are counted: every prompt has one, also one that
//! waited; a steer has one where the turn ended before it heard it; and a turn that ran before has one of its own.

use super::screen::Said;

/// What is still to come.
#[derive(Debug, Default)]
pub struct Awaited {
    /// Nothing more is typed.
    pub is_typed: bool,
    /// Something was sent.
    was_sent: bool,
    /// Turns that others have asked for and that have no result yet, as far as that is known.
    others: u32,
    /// Results to come.
    results: u32,
    /// Of them, the last ones: those of what was sent.
    own: u32,
    /// Steers that no turn has heard yet.
    steers: u32,
}

impl Awaited {
    /// How many prompts had no result when the connection was made. One that is made again counts ours, too.
    pub fn connected(&mut self, unanswered: u32) {
        if !self.was_sent {
            self.others = unanswered;
        }
    }

    /// A line was sent.
    pub fn prompted(&mut self) {
        self.expect(1);
    }

    /// A steer was sent: of the running turn, else it is a prompt.
    pub fn steered(&mut self) {
        if self.results > 0 || self.others > 0 {
            self.expect(0);
            self.steers += 1;
        } else {
            self.expect(1);
        }
    }

    /// An interrupt was sent: where a turn runs, it ends with a result.
    pub fn interrupted(&mut self) {
        self.expect(0);
    }

    /// The server did not take what was sent.
    pub fn refused(&mut self) {
        self.own = self.own.saturating_sub(1);
        // Where nothing is left to be answered, those before it do not matter either.
        self.results = if self.own == 0 { 0 } else { self.results.saturating_sub(1) };
    }

    /// The session's log has a line of this kind more.
    pub fn said(&mut self, said: Said) {
        match said {
            Said::Work => self.others = self.others.max(1),
            Said::Heard => self.steers = self.steers.saturating_sub(1),
            Said::Result => {
                self.others = self.others.saturating_sub(1);
                // What the turn did not hear any more is the next one's.
                let unheard = std::mem::take(&mut self.steers);
                self.results = self.results.saturating_sub(1);
                self.own = self.own.min(self.results) + unheard;
                self.results += unheard;
            }
            Said::Other => {}
        }
    }

    /// Whether everything that was sent is answered, and no more is to be sent.
    pub fn is_over(&self) -> bool {
        self.is_typed && self.was_sent && self.results == 0
    }

    fn expect(&mut self, results: u32) {
        if self.results == 0 {
            self.results = self.others;
        }
        self.results += results;
        self.own += results;
        self.was_sent = true;
    }
}

#[cfg(test)]
mod tests {
    use super::Said::{Heard, Other, Result, Work};
    use super::*;

    /// `p` a prompt, `s` a steer, `i` an interrupt, `x` a refusal, `w` work, `h` heard, `r` a result: what is over at the end of
    /// the input, and not before the last step.
    #[test]
    fn each_line_is_waited_for() {
        // A steer that a turn did not hear has a turn of its own.
        let all = "pr pwr ppwrr wprr wpwrwr rpr psrr pshr pwshr sr wsrr wshr pir wir px i";
        for steps in all.split(' ') {
            let mut awaited = Awaited::default();
            for (at, step) in steps.char_indices() {
                match step {
                    'p' => awaited.prompted(),
                    's' => awaited.steered(),
                    'i' => awaited.interrupted(),
                    'x' => awaited.refused(),
                    'w' => awaited.said(Work),
                    'h' => awaited.said(Heard),
                    _ => awaited.said(Result),
                }
                awaited.said(Other);
                awaited.is_typed = true;
                let was_sent = steps[..=at].contains(['p', 's', 'i']);
                assert_eq!(awaited.is_over(), was_sent && at + 1 == steps.len(), "{steps} at {at}: {awaited:?}");
            }
        }
        // Turns of others that have said nothing yet come first.
        let mut awaited = Awaited { is_typed: true, ..Awaited::default() };
        awaited.connected(2);
        awaited.prompted();
        for left in (0..3).rev() {
            assert!(!awaited.is_over());
            awaited.said(Work);
            awaited.said(Result);
            assert_eq!(awaited.is_over(), left == 0, "{awaited:?}");
        }
        // One that was refused does not wait for those of others.
        let mut awaited = Awaited { is_typed: true, ..Awaited::default() };
        awaited.connected(1);
        awaited.prompted();
        awaited.refused();
        assert!(awaited.is_over());
        // Nothing was sent: the session's end is waited for.
        let mut awaited = Awaited { is_typed: true, ..Awaited::default() };
        awaited.said(Result);
        assert!(!awaited.is_over());
    }
}
