//! `dari-runtime-v1`: the adapter between `POST /runtime/advance` and turns.
//!
//! Owns the request's way to a turn and the statuses of what is no turn. What a body means is in `input`, what an
//! answer looks like in `answer`, where instructions come from in `instructions`.

mod answer;
mod input;
mod instructions;

use super::body::{self, BodyError};
use super::{Runtime, problem};
use crate::engine::Ticket;
use crate::json::{self, FingerprintBuilder};
use crate::model::{Conflict, Fault, FaultCode, OnDrain, Repeat, SessionId, StateIn, TraceContext, TurnRequest};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use answer::Receipt;
use bytes::Bytes;
use input::{Canned, Input, InputText, Malformed, UserTurn, Workspace};
use instructions::Finder;
use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

/// Bodies up to 64 MiB are taken.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Beyond this a body is read off the worker's thread, where it would keep other connections waiting. So is one whose
/// instructions must be looked for on a disk.
const LARGE_BODY_BYTES: usize = 256 << 10;

/// Paths and instructions of the adapter.
#[derive(Debug, Clone)]
pub struct DariOptions {
    /// Path of the health check.
    pub health_path: String,
    /// Path of turns.
    pub advance_path: String,
    /// The file with the instructions of requests that bring none.
    pub system_prompt_file: Option<PathBuf>,
    /// Where a bundle's instructions are looked for, in order.
    pub bundle_folders: Vec<PathBuf>,
    /// Where attachments with a path or name are looked for.
    pub workspace: PathBuf,
    /// Sends blanks before an answer at this interval.
    pub keepalive: Option<Duration>,
    /// Whether answers carry events instead of a text.
    pub events: Events,
}

/// Which events answers carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Events {
    /// None: answers have a text.
    #[default]
    Off,
    /// What is complete: calls of tools that gave something, and the answer.
    Completed,
    /// Calls of tools when they are asked for, too. A platform may take that for a turn that waits.
    All,
}

impl Default for DariOptions {
    fn default() -> Self {
        Self {
            health_path: "/health".to_owned(),
            advance_path: "/runtime/advance".to_owned(),
            system_prompt_file: None,
            bundle_folders: Vec::new(),
            workspace: "/workspace".into(),
            keepalive: None,
            events: Events::Off,
        }
    }
}

/// Whether a body asks for a turn.
#[cfg(feature = "inside")]
pub fn reads_advance(body: &str) -> bool {
    json::check(body.as_bytes()).is_ok_and(|text| matches!(input::read(text, &|_| None), Ok(Input::Turn(_))))
}

/// The adapter's part of the runtime.
pub struct Dari {
    options: DariOptions,
    instructions: Finder,
}

impl Dari {
    pub fn new(options: DariOptions) -> Self {
        let instructions = Finder::new(options.system_prompt_file.clone(), options.bundle_folders.clone());
        Self { options, instructions }
    }

    pub fn health_path(&self) -> &str {
        &self.options.health_path
    }

    pub fn advance_path(&self) -> &str {
        &self.options.advance_path
    }

    /// Reads a body as far as a turn.
    fn prepare(&self, body: &[u8], head: Head) -> Result<Box<TurnRequest>, NoTurn> {
        let text = json::check(body).map_err(|_| Refused::NotJson)?;
        let workspace = Workspace::new(&self.options.workspace);
        match input::read(text, &|attachment| workspace.resolve(attachment)) {
            Err(Malformed::NotAnObject) => Err(Refused::NotAnObject.into()),
            Err(Malformed::NoUserInput) => Err(Refused::NoUserInput.into()),
            Ok(Input::NotATurn(canned)) => Err(NoTurn::Canned(canned)),
            Ok(Input::Turn(turn)) => Ok(Box::new(self.turn_request(turn, head))),
        }
    }

    fn turn_request(&self, turn: UserTurn<'_>, head: Head) -> TurnRequest {
        // Without an id there is one session: a sandbox belongs to one.
        let session = SessionId::scoped("dari", turn.session.as_deref().unwrap_or("main"));
        if !turn.unknown_keys.is_empty() {
            tracing::debug!(%session, keys = ?turn.unknown_keys, "a request has keys that nothing is known about");
        }
        let found = self.instructions.find(turn.instructions.as_deref());
        for warning in &found.warnings {
            tracing::warn!(%session, "{warning}");
        }
        let state = turn.state.map(|state| match state {
            Cow::Borrowed(raw) => json::from_raw(raw),
            Cow::Owned(raw) => json::from_raw(&raw),
        });
        let asked = identity(&turn.input);
        let repeat = match turn.message_id.or(head.key) {
            Some(id) => Repeat::ById { id, body: asked.finish(), conflict: Conflict::NewTurn },
            // Absent and null are the same state: none.
            None => Repeat::ByBody {
                body: match &state {
                    Some(state) => asked.json(state.as_str()),
                    None => asked.absent(),
                }
                .finish(),
            },
        };
        TurnRequest {
            repeat,
            trace: head.trace,
            attachments: turn.attachments,
            system_prompt: Some(found.text),
            state: StateIn::Given(state),
            on_drain: OnDrain::Grace,
            tells_tools: self.options.events != Events::Off,
            ..TurnRequest::new(session, "dari", turn.prompt)
        }
    }
}

/// What identifies an input. Where a request has no id, its state comes in besides.
fn identity(input: &InputText<'_>) -> FingerprintBuilder {
    let asked = FingerprintBuilder::new();
    match input {
        InputText::Input(raw) => asked.json(raw.get()),
        // Sorted by name, so their order in the body means nothing.
        InputText::Members(members) => {
            members.iter().fold(asked.text("members"), |asked, (name, value)| asked.text(name).json(value.get()))
        }
    }
}

/// What the head of a request says about its turn.
struct Head {
    /// Its name, if the body has none.
    key: Option<String>,
    trace: Option<Box<TraceContext>>,
}

/// Why no turn came of a request.
enum NoTurn {
    /// It is none.
    Canned(Canned),
    /// It cannot be understood.
    Refused(Refused),
    /// The engine does not take it.
    Fault(Fault),
}

impl From<Refused> for NoTurn {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl NoTurn {
    fn answer(self) -> HttpResponse {
        match self {
            Self::Canned(canned) => answer::canned(canned),
            Self::Refused(refused) => refused.answer(),
            Self::Fault(fault) => not_taken(&fault),
        }
    }
}

/// Why a request is no turn. One row each of the spec's section 2.8.
#[derive(Debug, Clone, Copy)]
enum Refused {
    NotJson,
    NotAnObject,
    NoUserInput,
    TooLarge,
    TimedOut,
    Encoded,
}

impl Refused {
    fn answer(self) -> HttpResponse {
        let (status, detail) = match self {
            Self::NotJson => (StatusCode::BAD_REQUEST, "request body is not valid JSON"),
            Self::NotAnObject => (StatusCode::BAD_REQUEST, "request body must be a JSON object"),
            Self::NoUserInput => (StatusCode::UNPROCESSABLE_ENTITY, "no user input found"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "request body is too large"),
            Self::TimedOut => (StatusCode::REQUEST_TIMEOUT, "request body timed out"),
            Self::Encoded => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported content encoding"),
        };
        problem::detail(status, detail)
    }
}

/// One turn: `POST` on the advance path. The turn goes on when the caller goes away and this future with it.
pub async fn advance(request: HttpRequest, payload: web::Payload, runtime: web::Data<Runtime>) -> HttpResponse {
    let ticket = match receive(&request, payload, &runtime).await {
        Ok((body, head)) => admit(body, head, &runtime).await,
        Err(refused) => Err(refused.into()),
    };
    let ticket = match ticket {
        Ok(ticket) => ticket,
        Err(none) => return none.answer(),
    };
    if ticket.is_repeat {
        let (session, turn) = (&ticket.turn.session, &ticket.turn.id);
        tracing::info!(%session, %turn, "a repeat: it gets the answer of the turn before");
    }
    let receipt = Receipt { turn: ticket.turn, caller: request.conn_data().cloned() };
    let events = runtime.dari.options.events;
    match runtime.dari.options.keepalive {
        Some(period) => answer::with_blanks(receipt, period, events),
        None => {
            let outcome = receipt.turn.outcome().await;
            answer::of(receipt, &outcome, events)
        }
    }
}

/// Reads the whole body, and what the head says besides.
async fn receive(
    request: &HttpRequest,
    payload: web::Payload,
    runtime: &web::Data<Runtime>,
) -> Result<(Bytes, Head), Refused> {
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refused::Encoded);
    }
    let header = |name| request.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let declared = header(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
    let body: Bytes = body::read(payload, declared, MAX_BODY_BYTES, runtime.limits.body_timeout).await.map_err(
        |error| match error {
            BodyError::TooLarge => Refused::TooLarge,
            BodyError::TimedOut => Refused::TimedOut,
            // The connection is gone: whatever is answered, nobody reads it, and no turn starts.
            BodyError::Cut => Refused::NotJson,
        },
    )?;
    let key = header(header::HeaderName::from_static("idempotency-key"));
    let key = key.filter(|key| (1..=256).contains(&key.len())).map(str::to_owned);
    Ok((body, Head { key, trace: super::trace::of(request.headers()) }))
}

/// Submits what a body asks for.
async fn admit(body: Bytes, head: Head, runtime: &web::Data<Runtime>) -> Result<Ticket, NoTurn> {
    if body.len() <= LARGE_BODY_BYTES && runtime.dari.instructions.is_fresh() {
        let turn = runtime.dari.prepare(&body, head)?;
        let turn = match runtime.engine.submit_to_loaded(turn) {
            Ok(admitted) => return admitted.map_err(NoTurn::Fault),
            Err(turn) => turn,
        };
        // Its past is read first; a caller who leaves meanwhile has asked all the same.
        let submitter = runtime.clone();
        let admitting =
            runtime.engine.spawn(async move { submitter.engine.submit(*turn).await.map_err(NoTurn::Fault) });
        return admitting
            .await
            .unwrap_or_else(|_| Err(NoTurn::Fault(Fault::new(FaultCode::Internal, "internal error"))));
    }
    let (reader, submitter) = (runtime.clone(), runtime.clone());
    // The request is complete: were its caller lost while it is read, its turn would be too if this future did it.
    let admitting = runtime.engine.spawn(async move {
        let turn = tokio::task::spawn_blocking(move || reader.dari.prepare(&body, head)).await;
        // Reading does not panic; were it to, this one request is refused.
        let turn = turn.unwrap_or_else(|_| Err(Refused::NotJson.into()))?;
        submitter.engine.submit(*turn).await.map_err(NoTurn::Fault)
    });
    admitting.await.unwrap_or_else(|_| Err(NoTurn::Fault(Fault::new(FaultCode::Internal, "internal error"))))
}

fn not_taken(fault: &Fault) -> HttpResponse {
    let detail = match fault.code {
        FaultCode::QueueFull | FaultCode::ServerFull => "turn queue is full",
        FaultCode::Draining => "shutting down",
        FaultCode::Parked => "not ready",
        _ => "internal error",
    };
    problem::detail(problem::status(fault.code), detail)
}
