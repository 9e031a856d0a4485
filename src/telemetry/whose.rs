//! Whose work a piece of code does: the session and the turn that its log lines belong to.
//!
//! Owns how that follows a future from thread to thread. It costs an exchange of a few words at each poll, and nothing
//! else unless a line is written. How a line shows it is `line`'s business.

use super::traces::TurnTrace;
use crate::model::{SessionId, TurnId};
use std::future::Future;

/// Whose work something is. Cloning shares the ids.
#[derive(Debug, Clone, Default)]
pub struct Whose {
    /// The session, if it is one's.
    pub session: Option<SessionId>,
    /// The turn of that session, if it is one's.
    pub turn: Option<TurnId>,
    /// That turn's span.
    #[cfg_attr(not(feature = "otel"), allow(dead_code, reason = "only spans tell it"))]
    pub(super) trace: TurnTrace,
}

tokio::task_local! {
    static HERE: Whose;
}

impl Whose {
    /// A session's work besides its turns.
    #[must_use]
    pub fn session(session: &SessionId) -> Self {
        Self { session: Some(session.clone()), ..Self::default() }
    }

    /// A turn's work.
    #[must_use]
    pub fn turn(session: &SessionId, turn: &TurnId) -> Self {
        Self { turn: Some(turn.clone()), ..Self::session(session) }
    }

    /// What the code that asks is part of; empty where nobody said.
    #[must_use]
    pub fn here() -> Self {
        HERE.try_with(Clone::clone).unwrap_or_default()
    }

    /// The same without the turn: for what outlives it.
    #[must_use]
    pub fn beyond_the_turn(self) -> Self {
        Self { session: self.session, ..Self::default() }
    }

    /// The same with the turn's span.
    #[must_use]
    pub fn traced(self, trace: TurnTrace) -> Self {
        Self { trace, ..self }
    }

    /// Log lines of the future are this one's, whoever polls it. Tasks that it spawns have to be told, see [`carried`].
    pub fn does<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        HERE.scope(self, future)
    }

    /// Log lines of the call are this one's.
    pub fn calls<T>(self, call: impl FnOnce() -> T) -> T {
        HERE.sync_scope(self, call)
    }
}

/// A future for another task that goes on with the work of the code that makes it.
pub fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    Whose::here().does(future)
}

/// The same for a call on another thread.
pub fn carried_call<T>(call: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let whose = Whose::here();
    move || whose.calls(call)
}
