//! One admitted turn: its switch to stop it, and its one outcome.
//!
//! Owns "exactly one outcome": it can be set once, and everybody who waits gets the same.

use super::signs::Signs;
use crate::failpoint;
use crate::handler::{InputRefused, Inputs};
use crate::model::{CancelReason, Outcome, Repeat, Seq, SessionId, TurnId};
use crate::store::Store;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

/// A turn that the engine has admitted. Shared by everybody who waits for it, watches it or stops it.
pub struct TurnRecord {
    /// The turn's id.
    pub id: TurnId,
    /// Its session.
    pub session: SessionId,
    pub(super) repeat: Repeat,
    pub(super) stop: Stop,
    pub(super) inputs: Inputs,
    outcome: SetOnce<Arc<Outcome>>,
    delivered: AtomicBool,
    /// Told when a caller has the whole answer.
    store: Option<Arc<dyn Store>>,
    /// Once it runs.
    pub(super) signs: OnceLock<Arc<Signs>>,
    /// Where its entries begin in the log, once it has any that this process wrote.
    pub(super) accepted: OnceLock<Seq>,
    pub(super) admitted_at: tokio::time::Instant,
    /// 1, or more when earlier attempts were cut.
    pub(super) attempt: OnceLock<u32>,
    /// How many turns of the session had begun when this one ended; tells whether another began since.
    pub(super) begun_at_end: OnceLock<u64>,
    pub(super) ended_at: OnceLock<tokio::time::Instant>,
    /// The store has its beginning and its end.
    pub(super) is_stored: OnceLock<()>,
}

impl fmt::Debug for TurnRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnRecord").field("id", &self.id).field("session", &self.session).finish_non_exhaustive()
    }
}

impl TurnRecord {
    pub(super) fn new(
        id: TurnId,
        session: SessionId,
        repeat: Repeat,
        is_delivered: bool,
        store: Option<Arc<dyn Store>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            session,
            repeat,
            stop: Stop::default(),
            inputs: Inputs::default(),
            outcome: SetOnce::new(),
            delivered: AtomicBool::new(is_delivered),
            store,
            signs: OnceLock::new(),
            accepted: OnceLock::new(),
            admitted_at: tokio::time::Instant::now(),
            attempt: OnceLock::new(),
            begun_at_end: OnceLock::new(),
            ended_at: OnceLock::new(),
            is_stored: OnceLock::new(),
        })
    }

    /// Whether a request that is known so is this very one again.
    #[must_use]
    pub fn is_repeated_by(&self, repeat: &Repeat) -> bool {
        *repeat != Repeat::Never && self.repeat == *repeat
    }

    /// Waits for the turn's outcome. Cancel-safe; any number of callers get the same.
    pub async fn outcome(&self) -> Arc<Outcome> {
        self.outcome.wait().await.clone()
    }

    /// The outcome, if the turn has ended.
    #[must_use]
    pub fn ended(&self) -> Option<Arc<Outcome>> {
        self.outcome.get().cloned()
    }

    /// Passes another message of the user into the turn.
    ///
    /// # Errors
    /// When its handler does not listen, or has not taken what was said before.
    pub fn steer(&self, text: String) -> Result<(), InputRefused> {
        if self.ended().is_some() { Err(InputRefused::Unheard) } else { self.inputs.push(text) }
    }

    /// Settles the turn. The first call decides; later ones change nothing.
    pub(super) fn settle(&self, outcome: Arc<Outcome>) {
        let _ = self.ended_at.set(tokio::time::Instant::now());
        let _ = self.outcome.set(outcome);
    }

    /// Notes that a caller has received the whole answer.
    pub fn mark_delivered(&self) {
        let was_delivered = self.delivered.swap(true, Ordering::AcqRel);
        // Those that cannot be repeated are nobody's retry.
        if !was_delivered
            && self.repeat != Repeat::Never
            && let Some(store) = &self.store
        {
            store.delivered(&self.session, &self.id);
            failpoint::reach("answer-delivered");
        }
    }

    /// Whether some caller has received the whole answer.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.delivered.load(Ordering::Acquire)
    }
}

/// The switch that stops a turn; the first reason counts.
#[derive(Debug, Default)]
pub(super) struct Stop {
    token: CancellationToken,
    reason: OnceLock<CancelReason>,
}

impl Stop {
    pub(super) fn pull(&self, reason: CancelReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    pub(super) async fn pulled(&self) -> CancelReason {
        self.token.cancelled().await;
        self.reason()
    }

    pub(super) fn is_pulled(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(super) fn reason(&self) -> CancelReason {
        self.reason.get().copied().unwrap_or(CancelReason::Caller)
    }

    /// What the handler waits for: fires when the switch is pulled, and with [`Stop::end`].
    pub(super) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Tells the handler to stop for a reason that is nobody's wish: its outcome is decided already.
    pub(super) fn end(&self) {
        self.token.cancel();
    }
}
