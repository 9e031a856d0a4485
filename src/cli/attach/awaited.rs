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
    /// A turn has said something, and no result yet.
    is_running: bool,
    /// Results to come.
    results: u32,
    /// Steers that no turn has heard yet.
    steers: u32,
}

impl Awaited {
    /// A line was sent.
    pub fn prompted(&mut self) {
        self.expect(1);
    }

    /// A steer was sent: of the running turn, else it is a prompt.
    pub fn steered(&mut self) {
        if self.results > 0 || self.is_running {
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
        self.results = self.results.saturating_sub(1);
    }

    /// The session's log has a line of this kind more.
    pub fn said(&mut self, said: Said) {
        match said {
            Said::Work => self.is_running = true,
            Said::Heard => self.steers = self.steers.saturating_sub(1),
            Said::Result => {
                self.is_running = false;
                // What the turn did not hear any more is the next one's.
                self.results = self.results.saturating_sub(1) + std::mem::take(&mut self.steers);
            }
            Said::Other => {}
        }
    }

    /// Whether everything that was sent is answered, and no more is to be sent.
    pub fn is_over(&self) -> bool {
        self.is_typed && self.was_sent && self.results == 0
    }

    fn expect(&mut self, results: u32) {
        if self.results == 0 && self.is_running {
            self.results = 1;
        }
        self.results += results;
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
        // Nothing was sent: the session's end is waited for.
        let mut awaited = Awaited { is_typed: true, ..Awaited::default() };
        awaited.said(Result);
        assert!(!awaited.is_over());
    }
}
