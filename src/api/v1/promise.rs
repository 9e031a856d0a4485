//! Turns that were answered with 202 and had not begun when the server ended: they run after its next start.
//!
//! Owns the words in which they are kept. What carries an environment or secrets is not kept at all.

use super::new_turn;
use crate::api::Runtime;
use crate::model::TurnRequest;
use crate::store::Promised;
use crate::wire::v1::PromisedTurn;
use actix_web::web;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What is kept of a request; `None` where nothing may be.
pub(super) fn words(request: &TurnRequest, key: Option<&str>, body: &[u8]) -> Option<Vec<u8>> {
    if request.env.is_some() || !request.secrets.is_empty() {
        return None;
    }
    let body: &RawValue = serde_json::from_slice(body).ok()?;
    serde_json::to_vec(&PromisedTurn { key: key.map(Cow::Borrowed), body }).ok()
}

/// Runs what an earlier process promised, in the order in which it did so.
pub async fn resume(runtime: web::Data<Runtime>) {
    for promised in runtime.engine.promised().await {
        let (turn, session) = (promised.turn.clone(), promised.session.clone());
        match again(&promised, &runtime) {
            Some(request) => match runtime.engine.resume_promised(request).await {
                Ok(_) => tracing::info!(%turn, %session, "a turn that an earlier process was asked for begins now"),
                Err(fault) => tracing::error!(%turn, %session, error = fault.message, "a promised turn was refused"),
            },
            None => {
                tracing::error!(%turn, %session, "a promised turn could not be read");
                runtime.engine.take_back(&turn);
            }
        }
    }
}

fn again(promised: &Promised, runtime: &Runtime) -> Option<TurnRequest> {
    let kept: PromisedTurn<'_> = serde_json::from_slice(&promised.request).ok()?;
    let (session, id) = (promised.session.clone(), promised.turn.clone());
    new_turn(session, id, kept.key.as_deref(), kept.body.get().as_bytes(), &runtime.limits).ok()
}
