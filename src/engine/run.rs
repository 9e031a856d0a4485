//! Runs the turns of one session, one after the other: accept, run, watch the limits, end.
//!
//! Owns the life of a turn between the queue and its outcome. What a turn says goes through `funnel`, what it asks is
//! the handler's business.

use super::funnel::Funnel;
use super::session::{Session, Waiting};
use super::{Inner, turn::TurnRecord};
use crate::handler::{Cancel, Failure, Reply, Sink, Turn};
use crate::model::{
    CancelReason, Ending, Fault, FaultCode, Lifetime, Limit, Outcome, RawJson, StateChange, TurnRequest, What,
};
use crate::telemetry;
use futures_util::FutureExt;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A quiet session's log keeps this much in memory; the store has the rest.
const QUIET_LOG_BYTES: usize = 64 << 10;

/// Works on a session's queue until it is empty.
pub(super) async fn run_session(engine: Arc<Inner>, session: Arc<Session>) {
    while let Some((waiting, state)) = session.begin() {
        // Before a turn runs it needs one of the server's places; a turn that is stopped meanwhile needs none.
        let place = tokio::select! {
            place = engine.places.acquire() => place.ok(),
            _ = waiting.record.stop.pulled() => None,
        };
        run_turn(&engine, &session, waiting, state).await;
        drop(place);
    }
    if session.lifetime == Lifetime::Named {
        session.log.shrink(QUIET_LOG_BYTES);
    }
    engine.registry.went_quiet(&session);
}

/// Settles a turn that never began. Its end is in the log too: that is where its reader waits for it.
pub(super) fn settle_unbegun(engine: &Inner, session: &Session, record: &Arc<TurnRecord>) {
    let outcome = Arc::new(Outcome::new(Ending::Cancelled(record.stop.reason())));
    session.log.append(&record.id, What::Ended(outcome.clone()));
    record.settle(outcome);
    engine.turn_left();
}

async fn run_turn(engine: &Arc<Inner>, session: &Arc<Session>, waiting: Waiting, state: Option<RawJson>) {
    let Waiting { record, request } = waiting;
    let attempt = 1;
    let accepted = session.log.append(&record.id, What::Accepted { attempt, request: request.clone() });
    if let Some(seq) = accepted {
        session.log.stored(seq).await;
    }
    let _clean_logs = telemetry::guard(&request.secrets);
    let funnel = Funnel::new(session.log.clone(), record.id.clone(), engine.redactor.combined(&request.secrets));
    let ended = if record.stop.is_pulled() {
        Ended::Stopped(record.stop.reason(), None)
    } else {
        let turn =
            Turn { id: record.id.clone(), session: session.id.clone(), attempt, state, request: request.clone() };
        drive(engine, &record, &funnel, turn).await
    };
    funnel.finish();
    let outcome = Arc::new(outcome_of(ended, &funnel));
    log_outcome(&record, &request, &outcome);
    session.end(&record, &outcome);
    if let Some(seq) = session.log.append(&record.id, What::Ended(outcome.clone())) {
        session.log.stored(seq).await;
    }
    record.settle(outcome);
    engine.turn_left();
}

/// How the handler's part of a turn came to an end.
enum Ended {
    Handler(Result<Reply, Failure>),
    /// Somebody stopped it; the handler may still have replied within the grace.
    Stopped(CancelReason, Option<Reply>),
    TimedOut(Limit, Duration, Option<Reply>),
}

/// Runs the handler, and stops it when somebody pulls the switch or a limit is reached.
async fn drive(engine: &Inner, record: &Arc<TurnRecord>, funnel: &Arc<Funnel>, turn: Turn) -> Ended {
    let request = turn.request.clone();
    let stop = record.stop.token();
    let running = AssertUnwindSafe(async {
        engine.handler.run(turn, Sink::new(funnel.clone()), Cancel::new(stop.clone())).await
    })
    .catch_unwind();
    tokio::pin!(running);
    tokio::select! {
        biased;
        // First, so that a handler that honours a cancel by failing is told as cancelled and not as failed.
        reason = record.stop.pulled() => {
            let reply = within(engine.stop_grace(reason), running).await;
            Ended::Stopped(reason, reply)
        }
        result = &mut running => match caught(result) {
            // The switch was pulled after it was looked at above, and the handler has heard it already.
            Err(_) if record.stop.is_pulled() => Ended::Stopped(record.stop.reason(), None),
            result => Ended::Handler(result),
        },
        (limit, after) = limit_reached(engine, &request, funnel) => {
            record.stop.end();
            let reply = within(engine.options.stop_grace, running).await;
            Ended::TimedOut(limit, after, reply)
        }
    }
}

/// Gives a stopped handler its grace; what it replies then can no longer be the answer, but its state counts.
async fn within<F>(grace: Duration, running: std::pin::Pin<&mut F>) -> Option<Reply>
where
    F: Future<Output = Result<Result<Reply, Failure>, Box<dyn Any + Send>>>,
{
    match tokio::time::timeout(grace, running).await {
        Ok(Ok(Ok(reply))) => Some(reply),
        Ok(_) => None,
        Err(_) => {
            tracing::warn!("a handler did not stop within {grace:?} and was dropped");
            None
        }
    }
}

fn caught(result: Result<Result<Reply, Failure>, Box<dyn Any + Send>>) -> Result<Reply, Failure> {
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no text".to_owned());
        Err(Fault::new(FaultCode::HandlerPanicked, "the handler panicked").with_detail(text).into())
    })
}

/// Resolves when the turn has been silent for too long or has taken too long.
async fn limit_reached(engine: &Inner, request: &TurnRequest, funnel: &Funnel) -> (Limit, Duration) {
    let began = Instant::now();
    let whole = match (request.timeout, engine.options.turn_timeout) {
        (Some(asked), Some(ours)) if asked <= ours => Some((Limit::Request, asked)),
        (Some(asked), None) => Some((Limit::Request, asked)),
        (_, Some(ours)) => Some((Limit::Turn, ours)),
        (None, None) => None,
    };
    loop {
        let silent = engine.options.idle_timeout.map(|idle| (Limit::Silence, idle, funnel.last_sign() + idle));
        let late = whole.map(|(limit, after)| (limit, after, began + after));
        let Some((limit, after, at)) = [silent, late].into_iter().flatten().min_by_key(|(_, _, at)| *at) else {
            return std::future::pending().await;
        };
        // Events move the end of silence without waking anybody: the timer looks again when it fires.
        if at <= Instant::now() {
            return (limit, after);
        }
        tokio::time::sleep_until(at).await;
    }
}

fn outcome_of(ended: Ended, funnel: &Funnel) -> Outcome {
    match ended {
        Ended::Handler(Ok(reply)) => Outcome {
            ending: Ending::Answered(funnel.redact_answer(reply.answer)),
            state: reply.state,
            metadata: funnel.redact_metadata(reply.metadata),
        },
        Ended::Handler(Err(failure)) => {
            Outcome { ending: Ending::Failed(funnel.redact_fault(failure.fault)), state: failure.state, metadata: None }
        }
        Ended::Stopped(reason, reply) => {
            Outcome { ending: Ending::Cancelled(reason), state: state_of(reply), metadata: None }
        }
        Ended::TimedOut(limit, after, reply) => Outcome {
            ending: Ending::TimedOut { limit, after, partial: funnel.partial() },
            state: state_of(reply),
            metadata: None,
        },
    }
}

fn state_of(reply: Option<Reply>) -> StateChange {
    reply.map_or(StateChange::Keep, |reply| reply.state)
}

fn log_outcome(record: &TurnRecord, request: &TurnRequest, outcome: &Outcome) {
    let (session, turn, protocol) = (&record.session, &record.id, request.protocol);
    match &outcome.ending {
        Ending::Failed(fault) => {
            let (code, detail) = (fault.code.name(), fault.detail.as_deref().unwrap_or_default());
            let stderr = fault.process.as_ref().map_or("", |process| process.stderr_tail.as_str());
            tracing::warn!(%session, %turn, protocol, code, message = fault.message, detail, stderr, "turn failed");
        }
        Ending::TimedOut { limit, after, .. } => {
            tracing::warn!(%session, %turn, protocol, ?limit, ?after, "turn timed out");
        }
        Ending::Cancelled(reason) => tracing::info!(%session, %turn, protocol, ?reason, "turn cancelled"),
        Ending::Answered(_) | Ending::Interrupted => tracing::debug!(%session, %turn, protocol, "turn ended"),
    }
}
