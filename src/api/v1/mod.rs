//! Our own view of every session: its events, new turns, and what can be done to a turn that runs.
//!
//! Owns the paths under `/v1`; the reading of logs is in `events`. A turn that came by another protocol is seen, steered and cancelled here all the same.

mod events;
mod promise;
mod quiesce;

pub use events::events;
pub use promise::resume;
pub use quiesce::{quiesce, wake};

use super::body::{self, BodyError};
use super::{ApiLimits, Runtime, problem};
use crate::engine::{Engine, Found, Ticket, TurnRecord};
use crate::failpoint;
use crate::json;
use crate::model::{CancelReason, Conflict, Fault, FaultCode, Repeat, SessionId, StateIn, TurnId, TurnRequest};
use crate::redact::Secret;
use crate::wire::v1::{NewInput, NewTurn, outcome_members};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use std::sync::Arc;
use std::time::Duration;

/// The largest body of a new turn.
const BODY: usize = 64 << 20;
/// How long a caller may wait for an outcome.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

pub fn not_allowed(allow: &'static str) -> HttpResponse {
    let mut answer = problem::error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
    answer
}

fn not_found(what: &str) -> HttpResponse {
    problem::error(StatusCode::NOT_FOUND, what)
}

/// A parameter of the query.
fn parameter<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request
        .query_string()
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(one, _)| *one == name))
        .map(|(_, v)| v)
}

/// A parameter of the query that is a time in seconds, an hour at most.
fn seconds(request: &HttpRequest, name: &str) -> Result<Option<Duration>, ()> {
    match parameter(request, name).map(str::parse::<f64>) {
        None => Ok(None),
        Some(Ok(seconds)) if seconds >= 0.0 => {
            Ok(Some(Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)))
        }
        Some(_) => Err(()),
    }
}

/// `POST /v1/sessions/:id/turns`: 202 with the turn, or with `?wait=SECONDS` its outcome if it comes in time.
pub async fn begin(
    request: HttpRequest,
    payload: web::Payload,
    session: web::Path<String>,
    runtime: web::Data<Runtime>,
) -> HttpResponse {
    let bad = |text: &str| problem::error(StatusCode::BAD_REQUEST, text);
    let Ok(session) = SessionId::new(&session) else {
        return bad("a session's id is 1 to 256 characters without control characters");
    };
    let Ok(wait) = seconds(&request, "wait") else { return bad("wait: expected a number of seconds") };
    let key = request.headers().get("idempotency-key").map(|key| key.to_str().unwrap_or_default().to_owned());
    if key.as_ref().is_some_and(|key| !(1..=256).contains(&key.len())) {
        return bad("Idempotency-Key: expected 1 to 256 characters of ASCII");
    }
    let body = match body::read(payload, None, BODY, runtime.limits.body_timeout).await {
        Ok(body) => body,
        Err(error) => return unread(error),
    };
    let id = Engine::draw_turn();
    let asked = match new_turn(session, id, key.as_deref(), &body, &runtime.limits) {
        Ok(asked) => TurnRequest { trace: super::trace::of(request.headers()), ..asked },
        Err(text) => return bad(&text),
    };
    let promise = promise::words(&asked, key.as_deref(), &body);
    let submitter = runtime.clone();
    // Admitted whether its caller is still there or not.
    let admitted = runtime.engine.spawn(async move { submitter.engine.submit_promised(asked, promise).await }).await;
    let Ticket { turn, is_repeat } = match admitted {
        Ok(Ok(ticket)) => ticket,
        Ok(Err(fault)) => return refused(&fault),
        Err(_) => return problem::error(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
    };
    if let Some(wait) = wait
        && tokio::time::timeout(wait, turn.outcome()).await.is_ok()
    {
        turn.mark_delivered();
        return replayed(told(&turn, StatusCode::OK), is_repeat);
    }
    replayed(told(&turn, StatusCode::ACCEPTED), is_repeat)
}

/// Tells a caller that its key was known: nothing was begun.
fn replayed(mut answer: HttpResponse, is_repeat: bool) -> HttpResponse {
    if is_repeat {
        let name = header::HeaderName::from_static("idempotent-replayed");
        answer.headers_mut().insert(name, header::HeaderValue::from_static("true"));
    }
    answer
}

fn unread(error: BodyError) -> HttpResponse {
    match error {
        BodyError::TooLarge => problem::error(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 MiB"),
        BodyError::TimedOut => problem::error(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        BodyError::Cut => problem::error(StatusCode::BAD_REQUEST, "the body was cut off"),
    }
}

fn refused(fault: &Fault) -> HttpResponse {
    let status = match fault.code {
        FaultCode::KeyConflict => StatusCode::CONFLICT,
        FaultCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem::error(status, &fault.message)
}

/// The request of a body. A turn without a key of its caller's has its own id for one: it is remembered by it.
fn new_turn(
    session: SessionId,
    id: TurnId,
    key: Option<&str>,
    body: &[u8],
    limits: &ApiLimits,
) -> Result<TurnRequest, String> {
    let text = json::check_within(body, limits.requests.nesting)
        .map_err(|error| format!("the body is not valid JSON: {error}"))?;
    let new: NewTurn<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let is_object = |raw: &&serde_json::value::RawValue| json::is_object(raw.get());
    if new.metadata.as_ref().is_some_and(|raw| !is_object(raw)) {
        return Err("metadata: expected an object".to_owned());
    }
    if new.output_format.as_ref().is_some_and(|raw| !is_object(raw)) {
        return Err("output_format: expected an object".to_owned());
    }
    let repeat = Repeat::ById {
        id: key.unwrap_or(id.as_str()).to_owned(),
        body: json::FingerprintBuilder::new().json(text).finish(),
        conflict: Conflict::Refuse,
    };
    let env = new.env.map(|env| env.into_iter().map(|(name, value)| (name, Secret::new(value))).collect());
    Ok(TurnRequest {
        id: Some(id),
        repeat,
        system_prompt: new.system_prompt,
        model: new.model,
        output_format: new.output_format.map(json::from_raw),
        state: match new.state {
            None => StateIn::Stored,
            Some(raw) if raw.get() == "null" => StateIn::Given(None),
            Some(raw) => StateIn::Given(Some(json::from_raw(raw))),
        },
        env,
        secrets: new.secrets.into_iter().map(Secret::new).collect(),
        metadata: new.metadata.map(json::from_raw),
        timeout: new.timeout_ms.filter(|ms| *ms > 0).map(Duration::from_millis),
        ..TurnRequest::new(session, "v1", new.prompt)
    })
}

/// What is known of a turn.
fn told(turn: &TurnRecord, status: StatusCode) -> HttpResponse {
    let head =
        format!(r#""turn":{},"session":{}"#, json::string(turn.id.as_str()), json::string(turn.session.as_str()));
    failpoint::reach("answer-made");
    let body = match turn.ended() {
        Some(outcome) => format!(r#"{{{head},"status":"ended",{}}}"#, outcome_members(&outcome)),
        None => format!(r#"{{{head},"status":"running"}}"#),
    };
    HttpResponse::build(status).content_type("application/json").body(body)
}

async fn find(turn: &str, runtime: &Runtime) -> Result<Arc<TurnRecord>, HttpResponse> {
    let id = TurnId::from_drawn(turn.to_owned());
    match runtime.engine.find_turn(&id).await {
        Some(Found::Turn(turn)) => Ok(turn),
        Some(Found::Cut(session, attempt)) => {
            let (turn, session) = (json::string(turn), json::string(session.as_str()));
            let body = format!(r#"{{"turn":{turn},"session":{session},"status":"interrupted","attempt":{attempt}}}"#);
            Err(HttpResponse::Ok().content_type("application/json").body(body))
        }
        None => Err(not_found("no such turn is running or remembered")),
    }
}

/// `GET /v1/turns/:id`
pub async fn show(turn: web::Path<String>, runtime: web::Data<Runtime>) -> HttpResponse {
    match find(&turn, &runtime).await {
        Ok(turn) => told(&turn, StatusCode::OK),
        Err(answer) => answer,
    }
}

/// `DELETE /v1/turns/:id`: asks for its end. How it ended is told to everybody who waits for it.
pub async fn cancel(turn: web::Path<String>, runtime: web::Data<Runtime>) -> HttpResponse {
    let turn = match find(&turn, &runtime).await {
        Ok(turn) => turn,
        Err(answer) => return answer,
    };
    runtime.engine.cancel(&turn, CancelReason::Caller);
    told(&turn, StatusCode::ACCEPTED)
}

/// `POST /v1/turns/:id/input`: another message of the user into a running turn.
pub async fn input(payload: web::Payload, turn: web::Path<String>, runtime: web::Data<Runtime>) -> HttpResponse {
    let turn = match find(&turn, &runtime).await {
        Ok(turn) => turn,
        Err(answer) => return answer,
    };
    let body = match body::read(payload, None, BODY, runtime.limits.body_timeout).await {
        Ok(body) => body,
        Err(error) => return unread(error),
    };
    let new: NewInput = match serde_json::from_slice(&body) {
        Ok(new) => new,
        Err(error) => return problem::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match turn.steer(new.text) {
        Ok(()) => told(&turn, StatusCode::ACCEPTED),
        Err(refused) => problem::error(StatusCode::CONFLICT, &refused.to_string()),
    }
}
