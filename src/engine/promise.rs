//! Turns whose callers come back for the outcome: each has an id that is known before the turn is, and stays known.
//!
//! Owns the order of things: a promise is stored before its turn is admitted, so that none is begun that nobody would know
//! of after a restart, and taken back when no new turn came of it.

use super::{Engine, Ticket, TurnRecord, draw_turn_id};
use crate::failpoint;
use crate::model::{Fault, FaultCode, SessionId, TurnId, TurnRequest};
use crate::store::Promised;
use std::sync::Arc;

impl Engine {
    /// The id of a turn that is to be admitted.
    #[must_use]
    pub fn draw_turn() -> TurnId {
        draw_turn_id()
    }

    /// Admits a turn under the id that its request has. With `words` it is promised before: should the process end before
    /// the turn has begun, [`Engine::promised`] of the next one gives them back. A store that fails costs the promise, not
    /// the turn.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub async fn submit_promised(&self, request: TurnRequest, words: Option<Vec<u8>>) -> Result<Ticket, Fault> {
        let id = request.id.clone();
        if let (Some(turn), Some(words)) = (id.clone(), words) {
            let session = request.session.clone();
            if let Err(error) = self.0.store.promise(Promised { turn, session, request: words }).await {
                tracing::error!(session = %request.session, %error, "a turn is not kept until it begins");
            }
        }
        failpoint::reach("promise-stored");
        let admitted = self.submit(request).await;
        let is_begun = admitted.as_ref().is_ok_and(|ticket| !ticket.is_repeat);
        if let Some(id) = id
            && !is_begun
        {
            self.take_back(&id);
        }
        admitted
    }

    /// Admits what an earlier process promised. Refused only for now, it stays promised.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub async fn resume_promised(&self, request: TurnRequest) -> Result<Ticket, Fault> {
        let id = request.id.clone();
        let admitted = self.submit(request).await;
        let is_void = match &admitted {
            Ok(ticket) => ticket.is_repeat,
            Err(fault) => fault.code == FaultCode::KeyConflict,
        };
        if let Some(id) = id
            && is_void
        {
            self.take_back(&id);
        }
        admitted
    }

    /// Takes a promise back that cannot be kept.
    pub fn take_back(&self, turn: &TurnId) {
        self.0.store.withdraw(turn);
    }

    /// What an earlier process promised and did not begin.
    pub async fn promised(&self) -> Vec<Promised> {
        self.0.store.promised().await.unwrap_or_else(|error| {
            tracing::error!(%error, "promised turns could not be read");
            Vec::new()
        })
    }

    /// A turn that runs, waits, or has ended and is remembered, in memory or in the store.
    pub async fn find_turn(&self, id: &TurnId) -> Option<Found> {
        if let Some(turn) = self.turn(id) {
            return Some(Found::Turn(turn));
        }
        let session = self.0.store.session_of(id).await.unwrap_or_else(|error| {
            tracing::error!(turn = %id, %error, "a turn could not be looked up");
            None
        })?;
        let session = self.0.registry.known(&session).await?;
        let session = self.0.registry.recalled(session, |session| session.has_let_go_of_turn(id)).await;
        let found = session.turn(id).map(Found::Turn);
        let found = found.or_else(|| session.was_cut(id).map(|attempt| Found::Cut(session.id.clone(), attempt)));
        self.0.registry.went_quiet(&session);
        found
    }
}

/// What is known of a turn.
pub enum Found {
    /// The turn.
    Turn(Arc<TurnRecord>),
    /// It was begun in this session, so many times, and the server ended before it did: its retry is the next attempt.
    Cut(SessionId, u32),
}
