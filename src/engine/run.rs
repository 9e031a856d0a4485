//! Runs the turns of one session, one after the other: accept, run, watch the limits, end.
//!
//! Owns the life of a turn between the queue and its outcome. What a turn says goes through `funnel`, what it asks is
//! the handler's business.

use super::funnel::Funnel;
use super::session::{Begun, Session, Waiting};
use super::work::{Doing, Done};
use super::{Inner, cut, turn::TurnRecord};
use crate::awake::{self, Missed};
use crate::failpoint;
use crate::handler::{Failure, Reply, Turn};
use crate::model::{
    ArtifactFailure, CancelReason, CutTurn, Ending, Lifetime, Limit, Outcome, RawJson, StateChange, TurnRequest, What,
};
use crate::telemetry::metrics::{AgentMeter, Ended as How, Tokens};
use crate::telemetry::traces::{Beginning, End, TurnTrace};
use crate::telemetry::{self, Whose};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A quiet session's log keeps this much in memory; the store has the rest.
const QUIET_LOG_BYTES: usize = 64 << 10;

/// How long beyond the grace a stopped turn's commands may take to be gone.
const WORK_OVERTIME: Duration = Duration::from_secs(1);

/// Works on a session's queue until it is empty.
pub(super) async fn run_session(engine: Arc<Inner>, session: Arc<Session>) {
    while let Some(Begun { waiting, state, cut }) = session.begin() {
        let cut = match &cut {
            Some(cut) => Some(cut::read(&session, cut, &waiting.record.repeat).await),
            None => None,
        };
        // Before a turn runs it needs one of the server's places; a turn that is stopped meanwhile needs none.
        let place = tokio::select! {
            place = engine.places.acquire() => place.ok(),
            _ = waiting.record.stop.pulled() => None,
        };
        let whose = Whose::turn(&session.id, &waiting.record.id).traced(trace(&engine, &waiting));
        whose.does(run_turn(&engine, &session, waiting, state, cut)).await;
        drop(place);
    }
    if session.lifetime == Lifetime::Named {
        session.log.shrink(QUIET_LOG_BYTES);
    }
    engine.registry.went_quiet(&session);
}

/// Begins a turn's span.
fn trace(engine: &Inner, Waiting { record, request }: &Waiting) -> TurnTrace {
    TurnTrace::begin(&Beginning {
        agent: engine.meters.of(request.agent.as_deref()).agent(),
        session: &record.session,
        turn: &record.id,
        attempt: record.attempt.get().copied().unwrap_or(1),
        protocol: request.protocol,
        model: request.model.as_deref(),
        parent: request.trace.as_deref(),
    })
}

/// Settles a turn that never began. Its end is in the log too: that is where its reader waits for it.
pub(super) fn settle_unbegun(engine: &Inner, session: &Session, waiting: &Waiting) {
    let Waiting { record, request } = waiting;
    let outcome = Arc::new(Outcome::new(Ending::Cancelled(record.stop.reason())));
    engine.meters.of(request.agent.as_deref()).count(request.protocol, how(&outcome.ending));
    session.log.append(&record.id, What::Ended(outcome.clone()));
    record.settle(outcome);
    engine.turn_left();
}

async fn run_turn(
    engine: &Arc<Inner>,
    session: &Arc<Session>,
    waiting: Waiting,
    state: Option<RawJson>,
    cut: Option<Arc<CutTurn>>,
) {
    let Waiting { record, request } = waiting;
    let attempt = record.attempt.get().copied().unwrap_or(1);
    let accepted = session.log.append(&record.id, What::Accepted { attempt, request: request.clone() });
    failpoint::reach("turn-accepted");
    if let Some(seq) = accepted {
        let _ = record.accepted.set(seq);
        session.log.stored(seq).await;
    }
    failpoint::reach("turn-stored");
    let trace = TurnTrace::here();
    let request = trace.passed_on(request);
    let _clean_logs = telemetry::guard(&request.secrets);
    let redactor = engine.redactor.combined(&request.secrets);
    let funnel = Funnel::new(session.log.clone(), record.id.clone(), redactor, request.tells_tools);
    let _ = record.signs.set(funnel.signs().clone());
    let meter = engine.meters.of(request.agent.as_deref());
    meter.began(record.admitted_at.elapsed());
    let (ended, artifact_failures) = if record.stop.is_pulled() {
        (Ended::Stopped(record.stop.reason(), None), Vec::new())
    } else {
        let turn = Turn {
            id: record.id.clone(),
            session: session.id.clone(),
            attempt,
            state,
            request: request.clone(),
            inputs: record.inputs.clone(),
            cut,
        };
        drive(&Doing { engine, session, record: &record, funnel: &funnel, request: request.clone() }, turn).await
    };
    failpoint::reach("handler-ended");
    funnel.finish();
    let outcome = Arc::new(Outcome { artifact_failures, tools: funnel.tools(), ..outcome_of(ended, &funnel) });
    log_outcome(&record, &request, &outcome);
    count(meter, &request, &outcome, &funnel);
    trace.end(&end(&outcome.ending, &funnel));
    session.end(&record, &outcome);
    let ended = session.log.append(&record.id, What::Ended(outcome.clone()));
    failpoint::reach("turn-ended");
    if let Some(seq) = ended {
        session.log.stored(seq).await;
    }
    // A store that was given up is tried again when the next turn begins, and not before.
    if !session.log.outran_store() {
        let _ = record.is_stored.set(());
    }
    failpoint::reach("outcome-stored");
    record.settle(outcome);
    failpoint::reach("outcome-settled");
    engine.turn_left();
}

/// How a turn's work came to an end.
enum Ended {
    ByItself(Result<Reply, Failure>),
    /// Somebody stopped it; the handler may still have replied within the grace.
    Stopped(CancelReason, Option<Reply>),
    TimedOut(Limit, Duration, Option<Reply>),
}

/// Does a turn's work, and stops it when somebody pulls the switch or a limit is reached.
async fn drive(doing: &Doing<'_>, turn: Turn) -> (Ended, Vec<ArtifactFailure>) {
    let (engine, record) = (doing.engine, doing.record);
    let is_plain = doing.is_plain();
    // Commands are gone at the end of the grace, or a second later.
    let patience = |grace| if is_plain { grace } else { grace + WORK_OVERTIME };
    let running = doing.perform(turn);
    tokio::pin!(running);
    tokio::select! {
        biased;
        // First, so that a handler that honours a cancel by failing is told as cancelled and not as failed.
        reason = record.stop.pulled() => {
            let reply = within(patience(engine.stop_grace(reason)), running).await;
            (Ended::Stopped(reason, reply), Vec::new())
        }
        done = &mut running => match done.result {
            // The switch was pulled after it was looked at above, and the handler has heard it already.
            Err(_) if record.stop.is_pulled() => (Ended::Stopped(record.stop.reason(), None), Vec::new()),
            result => (Ended::ByItself(result), done.artifact_failures),
        },
        (limit, after) = limit_reached(engine, &doing.request, doing.funnel) => {
            record.stop.end();
            let reply = within(patience(engine.options.stop_grace), running).await;
            (Ended::TimedOut(limit, after, reply), Vec::new())
        }
    }
}

/// Gives a stopped turn its grace; what its handler replies then can no longer be the answer, but its state counts.
async fn within(grace: Duration, running: Pin<&mut impl Future<Output = Done>>) -> Option<Reply> {
    match tokio::time::timeout(grace, running).await {
        Ok(done) => done.result.ok(),
        Err(_) => {
            tracing::warn!("a handler did not stop within {grace:?} and was dropped");
            None
        }
    }
}

/// Resolves when the turn has been silent for too long or has taken too long.
async fn limit_reached(engine: &Inner, request: &TurnRequest, funnel: &Funnel) -> (Limit, Duration) {
    let mut began = Instant::now();
    let whole = match (request.timeout, engine.options.turn_timeout) {
        (Some(asked), Some(ours)) if asked <= ours => Some((Limit::Request, asked)),
        (Some(asked), None) => Some((Limit::Request, asked)),
        (_, Some(ours)) => Some((Limit::Turn, ours)),
        (None, None) => None,
    };
    loop {
        let silent = engine.options.idle_timeout.map(|idle| (Limit::Silence, idle, funnel.signs().last() + idle));
        let late = whole.map(|(limit, after)| (limit, after, began + after));
        let Some((limit, after, at)) = [silent, late].into_iter().flatten().min_by_key(|(_, _, at)| *at) else {
            return std::future::pending().await;
        };
        // Events move the end of silence without waking anybody: the timer looks again when it fires.
        if at <= Instant::now() {
            return (limit, after);
        }
        if let Err(Missed(missed)) = awake::sleep_until(at).await {
            tracing::info!(?missed, "the process did not run for a while: a turn's silence begins anew");
            began += missed;
            funnel.signs().alive();
        }
    }
}

fn outcome_of(ended: Ended, funnel: &Funnel) -> Outcome {
    let (ending, state, metadata) = match ended {
        Ended::ByItself(Ok(reply)) => {
            (Ending::Answered(funnel.redact_answer(reply.answer)), reply.state, funnel.redact_metadata(reply.metadata))
        }
        Ended::ByItself(Err(failure)) => (Ending::Failed(funnel.redact_fault(failure.fault)), failure.state, None),
        Ended::Stopped(reason, reply) => (Ending::Cancelled(reason), state_of(reply), None),
        Ended::TimedOut(limit, after, reply) => {
            (Ending::TimedOut { limit, after, partial: funnel.partial() }, state_of(reply), None)
        }
    };
    Outcome { state, metadata, ..Outcome::new(ending) }
}

const fn how(ending: &Ending) -> How {
    match ending {
        Ending::Answered(_) => How::Answered,
        Ending::Failed(_) => How::Failed,
        Ending::TimedOut { .. } => How::TimedOut,
        Ending::Interrupted | Ending::Cancelled(CancelReason::Draining) => How::Interrupted,
        Ending::Cancelled(_) => How::Cancelled,
    }
}

/// The end of a turn's span.
fn end(ending: &Ending, funnel: &Funnel) -> End {
    let outcome = how(ending);
    let error = match (ending, outcome) {
        (Ending::Failed(fault), _) => Some(fault.code.name()),
        // A caller who gives a turn up is no error.
        (_, How::Answered | How::Cancelled) => None,
        _ => Some(outcome.name()),
    };
    End { outcome: outcome.name(), error, usage: funnel.tally().usage }
}

/// The turn in numbers.
fn count(meter: &AgentMeter, request: &TurnRequest, outcome: &Outcome, funnel: &Funnel) {
    let tally = funnel.tally();
    meter.count(request.protocol, how(&outcome.ending));
    meter.took(funnel.signs().age(), tally.first);
    if let Ending::Failed(fault) = &outcome.ending {
        meter.failed(fault.code.name());
    }
    if tally.tools > 0 {
        meter.used_tools(tally.tools);
    }
    if let Some(usage) = tally.usage {
        meter.used(Tokens {
            input: usage.input_tokens,
            output: usage.output_tokens,
            cached: usage.cached_tokens,
            reasoning: usage.reasoning_tokens,
            cost: usage.cost_usd.unwrap_or_default(),
        });
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
