//! Whether a process answers: pings, pongs, and how long the answer may take.
//!
//! Owns the numbers. One ping is in the air at a time, and everybody who wants to know waits for its answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A process that takes longer to answer has a blocked thread: it gets no new turns until it answers.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// A process that answered a ping this recently, and has ended a turn or answered within [`FRESH`], is not asked again: with
/// many short turns at once, a ping for each would cost as much as the turn. A thread that blocks within that moment delays
/// the turns that come within it, and no others.
const TRUSTED: Duration = Duration::from_millis(10);
const FRESH: Duration = Duration::from_millis(1);

/// The pulse of one process.
pub struct Pulse {
    air: Mutex<Air>,
    answered: watch::Sender<u64>,
}

#[derive(Default)]
struct Air {
    /// The number of the last ping.
    last: u64,
    /// When it was sent, if it was not answered yet.
    sent: Option<Instant>,
    /// When one was last answered.
    answered: Option<Instant>,
    /// When it last answered, or ended a turn.
    alive: Option<Instant>,
}

/// A ping in the air.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Its number.
    pub n: u64,
    /// Whether it has to be sent: whoever begins it sends it.
    pub is_new: bool,
    until: Instant,
}

impl Pulse {
    /// Of a process that was not asked yet.
    pub fn new() -> Self {
        Self { air: Mutex::default(), answered: watch::Sender::new(0) }
    }

    /// Whether nothing is in the air: the process answered all it was asked.
    pub fn is_calm(&self) -> bool {
        self.air().sent.is_none()
    }

    /// Whether it has just shown that it answers, so that there is no need to ask.
    pub fn is_felt(&self) -> bool {
        let air = self.air();
        let within = |at: Option<Instant>, time| at.is_some_and(|at| at.elapsed() < time);
        air.sent.is_none() && within(air.answered, TRUSTED) && within(air.alive, FRESH)
    }

    /// Notes that it has ended a turn.
    pub fn beat(&self) {
        self.air().alive = Some(Instant::now());
    }

    /// The ping in the air, or a new one.
    pub fn ask(&self) -> Ping {
        let mut air = self.air();
        let is_new = air.sent.is_none();
        if is_new {
            air.last += 1;
        }
        let sent = *air.sent.get_or_insert_with(Instant::now);
        Ping { n: air.last, is_new, until: sent + PATIENCE }
    }

    /// Notes an answer. One to an older ping says nothing about now.
    pub fn answer(&self, n: u64) {
        let mut air = self.air();
        if n == air.last {
            air.sent = None;
            air.answered = Some(Instant::now());
            air.alive = air.answered;
            self.answered.send_replace(n);
        }
    }

    /// Whether a ping is answered in time. Cancel-safe.
    pub async fn is_answered(&self, ping: Ping) -> bool {
        let mut answered = self.answered.subscribe();
        let waiting = answered.wait_for(|n| *n >= ping.n);
        tokio::time::timeout_at(ping.until, waiting).await.is_ok_and(|answered| answered.is_ok())
    }

    fn air(&self) -> MutexGuard<'_, Air> {
        self.air.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_ping_serves_all_who_ask() {
        let pulse = Pulse::new();
        let (first, second) = (pulse.ask(), pulse.ask());
        assert_eq!((first.n, first.is_new, second.n, second.is_new), (1, true, 1, false));
        let (a, b, ()) = tokio::join!(pulse.is_answered(first), pulse.is_answered(second), async {
            tokio::time::sleep(PATIENCE / 2).await;
            pulse.answer(1);
        });
        assert!(a && b && pulse.is_calm());
        assert_eq!((pulse.ask().n, pulse.ask().is_new), (2, false));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_just_answered_is_not_asked() {
        let pulse = Pulse::new();
        let wait = |time| tokio::time::advance(time);
        pulse.beat();
        assert!(!pulse.is_felt(), "it was never asked");
        pulse.ask();
        assert!(!pulse.is_felt());
        pulse.answer(1);
        assert!(pulse.is_felt());
        wait(FRESH).await;
        assert!(!pulse.is_felt(), "it may be blocked since");
        pulse.beat();
        assert!(pulse.is_felt());
        for _ in 0..TRUSTED.as_millis() {
            wait(FRESH).await;
            pulse.beat();
        }
        assert!(!pulse.is_felt(), "ended turns alone are not enough");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_makes_it_calm_again() {
        let pulse = Pulse::new();
        let ping = pulse.ask();
        let began = Instant::now();
        assert!(!pulse.is_answered(ping).await);
        assert_eq!(began.elapsed(), PATIENCE);
        // Asked again there is nothing to wait for.
        assert!(!pulse.is_answered(pulse.ask()).await);
        assert_eq!(began.elapsed(), PATIENCE);
        pulse.answer(7);
        assert!(!pulse.is_calm());
        pulse.answer(1);
        assert!(pulse.is_calm());
    }
}
