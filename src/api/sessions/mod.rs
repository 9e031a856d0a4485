//! The agentruntime 0.8 protocol: the adapter between its sessions and ours.
//!
//! Owns its paths over plain HTTP. What a request asks for is checked in `request` and `work_dir`, a session's life is in
//! `conduct`, its log is made in `lines` and `ending`, the WebSocket is `bridge`'s, the bodies `shown`'s.

mod book;
mod bridge;
mod category;
mod conduct;
mod effect;
mod ending;
mod heard;
mod history;
mod hooks;
mod kept;
mod lines;
mod listen;
mod materialise;
mod request;
mod session;
mod shown;
mod sidecar;
mod times;
mod work_dir;

use super::{Runtime, body, problem};
use crate::model::RawJson;
use crate::wire::sessions::SessionResponse;
use actix_files::NamedFile;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, guard, web};
use book::{Book, NotAdded};
use bytes::Bytes;
use conduct::conduct;
use futures_util::FutureExt;
pub use kept::watch_ages;
use request::Refusal;
use serde_json::{Value, json};
use session::Session;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{OnceCell, watch};

/// The largest body of a new session.
const BODY: usize = 32 << 20;
/// Read from a log at once.
const PIECE: usize = 256 << 10;
/// The form of all JSON here.
pub(super) const JSON: &str = "application/json; charset=utf-8";

/// Options of the protocol.
#[derive(Debug, Clone, Default)]
pub struct SessionsOptions {
    /// Where sessions and their logs are kept. Without it they end with the server.
    pub data_dir: Option<PathBuf>,
    /// The server's home: what is below it and holds keys is no place to work in.
    pub home: Option<PathBuf>,
    /// For paths that name a variable.
    pub variables: Variables,
    /// The agents that are offered by name.
    pub agents: Vec<(String, AgentKind)>,
    /// Sessions that may live at once; 0 is no limit.
    pub max_sessions: usize,
    /// How long a session that has ended is remembered, with its log. `None`: for ever.
    pub log_max_age: Option<Duration>,
    /// How many bytes the logs of those may have together; the oldest go first. `None`: any.
    pub log_max_bytes: Option<u64>,
    /// What the sidecar asks for, as the body of a request.
    pub sidecar: String,
    /// What the silence of a running turn leads to.
    pub stalls: Stalls,
    /// Nothing but the sidecar is served.
    pub alone: Option<SidecarOnly>,
}

/// A server that is a sidecar and nothing else.
#[derive(Debug, Clone)]
pub struct SidecarOnly {
    /// Its agent.
    pub agent: String,
    /// How long it stays when its agent has ended, from the last connection on.
    pub cleanup: Duration,
    /// Where its hooks work.
    pub work_dir: PathBuf,
    /// What its hooks are told as the session's id; empty where it is the session's own.
    pub session_id: String,
}

/// The server's environment, for paths that name a variable of it. It is not shown: there are keys in it.
#[derive(Clone, Default)]
pub struct Variables(pub Arc<BTreeMap<OsString, OsString>>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Variables(…)")
    }
}

/// What the silence of a running turn leads to. `None`: nothing.
#[derive(Debug, Clone, Copy)]
pub struct Stalls {
    /// It is told of after this long.
    pub warning: Option<Duration>,
    /// The session is ended after this long.
    pub kill: Option<Duration>,
    /// An agent that had its one prompt and does not end is killed after this long.
    pub result: Option<Duration>,
}

impl Default for Stalls {
    fn default() -> Self {
        let (warning, kill) = (Some(Duration::from_mins(10)), Some(Duration::from_mins(50)));
        Self { warning, kill, result: Some(Duration::from_secs(10)) }
    }
}

/// What an agent is, as far as the protocol makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentKind {
    /// Claude Code.
    Claude,
    /// Codex.
    Codex,
    /// Any other handler.
    Other,
    /// A program of lines: its one turn is its life.
    Plain,
}

impl AgentKind {
    /// The state with which the agent goes on with a conversation of its own.
    fn state_of(self, native: &str) -> Option<RawJson> {
        let state = match self {
            Self::Claude => json!({"v": 1, "claude_session_id": native, "turns": 1}),
            Self::Codex => json!({"v": 1, "codex_thread_id": native, "turns": 1}),
            Self::Other | Self::Plain => return None,
        };
        Some(RawJson::from_valid(state.to_string()))
    }
}

/// What the protocol works with.
pub struct Sessions {
    options: SessionsOptions,
    book: Book,
    /// The session of the sidecar, once somebody has connected to it.
    sidecar: OnceCell<Arc<Session>>,
    /// Connections to the sidecar so far.
    callers: watch::Sender<u64>,
    /// Why its agent could not be started.
    unstarted: OnceLock<String>,
}

impl Sessions {
    /// Opens what is kept.
    pub fn open(options: SessionsOptions) -> Self {
        let limits = kept::Limits { max_age: options.log_max_age, max_bytes: options.log_max_bytes };
        let book = Book::open(options.data_dir.as_deref(), limits);
        Self { options, book, ..Self::closed(SessionsOptions::default()) }
    }

    /// Where the protocol is not served: nothing is touched.
    pub fn closed(options: SessionsOptions) -> Self {
        Self {
            options,
            book: Book::default(),
            sidecar: OnceCell::new(),
            callers: watch::Sender::new(0),
            unstarted: OnceLock::new(),
        }
    }

    /// Whether nothing but the sidecar is served.
    pub fn is_sidecar_only(&self) -> bool {
        self.options.alone.is_some()
    }

    /// Whether this agent may be named.
    pub fn offers(&self, agent: &str) -> bool {
        self.kind(agent).is_some()
    }

    fn kind(&self, agent: &str) -> Option<AgentKind> {
        self.options.agents.iter().find(|(name, _)| name == agent).map(|(_, kind)| *kind)
    }
}

/// What the fuzz target of the frames calls.
#[cfg(any(fuzzing, test))]
pub fn fuzz_frame(text: &str) {
    let is_sound = |input: &session::Input| match input {
        session::Input::Prompt(text) | session::Input::Steer(text) => !text.is_empty() && text.trim() == text,
        session::Input::Context(text) => !text.is_empty(),
        session::Input::Interrupt => true,
    };
    match heard::frame(text) {
        Ok(heard::Heard::Input(input)) => assert!(is_sound(&input)),
        Ok(_) => {}
        Err(problem) => assert!(!problem.is_empty() && problem.len() < 400),
    }
    match heard::command(text) {
        Ok((word, input)) => assert!(!word.is_empty() && is_sound(&input)),
        Err(problem) => assert!(!problem.is_empty() && problem.len() < 400),
    }
}

/// What the fuzz target of the requests calls.
#[cfg(any(fuzzing, test))]
pub fn fuzz_request(body: &[u8]) {
    let agents = vec![("claude".to_owned(), AgentKind::Claude), ("codex".to_owned(), AgentKind::Codex)];
    let home = Some(PathBuf::from("/nonexistent/home"));
    let sessions = Sessions::closed(SessionsOptions { home, agents, ..SessionsOptions::default() });
    match request::check(body, &sessions) {
        Ok(asked) => {
            assert!(!asked.request.agent.is_empty() && (asked.request.interactive || !asked.request.prompt.is_empty()));
            assert_eq!(uuid::Uuid::parse_str(&asked.record.id).ok(), Some(asked.uuid));
            let made = materialise::Materialised::default();
            let _ = request::plan(asked.request, asked.kind, &asked.record, made, asked.start);
        }
        Err(refusal) => assert!(!refusal.text().is_empty()),
    }
}

/// Puts the protocol's routes in their places.
pub fn configure(config: &mut web::ServiceConfig, is_sidecar_only: bool) {
    let upgrade = |path: &str| web::resource(path.to_owned()).default_service(web::to(not_found));
    config.service(upgrade("/ws").route(web::get().to(sidecar::upgrade)));
    if is_sidecar_only {
        return;
    }
    config
        .service(upgrade("/sessions").route(web::get().to(list)).route(web::post().to(create)))
        .service(upgrade("/sessions/history").route(web::get().to(history)))
        .service(
            web::resource("/sessions/{id}")
                .guard(guard::fn_guard(|context| context.head().uri.path() != "/sessions/create"))
                .route(web::get().to(snapshot))
                .route(web::delete().to(delete))
                .default_service(web::to(not_found)),
        )
        .service(upgrade("/sessions/{id}/info").route(web::get().to(info)))
        .service(upgrade("/sessions/{id}/logs").route(web::get().to(logs)))
        .service(upgrade("/sessions/{id}/log").route(web::get().to(whole_log)).route(web::head().to(whole_log)))
        .service(upgrade("/ws/sessions/{id}").route(web::get().to(bridge::upgrade)));
}

async fn not_found() -> HttpResponse {
    problem::error(StatusCode::NOT_FOUND, "not found")
}

fn shown(status: StatusCode, body: &Value) -> HttpResponse {
    HttpResponse::build(status).content_type(JSON).body(body.to_string())
}

fn unknown() -> HttpResponse {
    shown(StatusCode::NOT_FOUND, &json!({"error": "session not found"}))
}

async fn create(request: HttpRequest, payload: web::Payload, runtime: web::Data<Runtime>) -> HttpResponse {
    let declared = request.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    let body = match body::read(payload, declared, BODY, runtime.limits.body_timeout).await {
        Ok(body) => body,
        Err(body::BodyError::TooLarge) => {
            return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request body too large").answer();
        }
        Err(_) => return Refusal::new(StatusCode::BAD_REQUEST, "the body did not come whole").answer(),
    };
    let trace = super::trace::of(request.headers());
    let opening = runtime.clone();
    // The folder and the log are made off this worker, and whether the caller is still there or not.
    let opened = runtime.engine.spawn(async move {
        let opening_too = opening.clone();
        let opened = tokio::task::spawn_blocking(move || open(&body, &opening_too)).await;
        let mut opened = opened.unwrap_or_else(|error| Err(broken(&error.to_string())))?;
        opened.1.template.trace = trace;
        Ok(begin(&opening, opened))
    });
    let (session, warnings) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(refusal)) => return Refusal::answer(&refusal),
        Err(error) => return broken(&error.to_string()).answer(),
    };
    let record = session.record();
    let (ws_url, log_url) = shown::urls(&request, &record.id);
    let answer = SessionResponse {
        session_id: &record.id,
        task_id: &record.task_id,
        agent: &record.agent,
        runtime: "local",
        status: "running",
        name: &record.name,
        ws_url,
        log_url,
        warnings,
    };
    HttpResponse::Created().content_type(JSON).body(serde_json::to_string(&answer).unwrap_or_default())
}

fn broken(reason: &str) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason)
}

/// Starts the task of a session.
fn begin(runtime: &web::Data<Runtime>, (session, plan, warnings): Opened) -> (Arc<Session>, Vec<String>) {
    session.asked(usize::from(plan.prompt.is_some()));
    let (conducted, running) = (session.clone(), conduct(runtime.clone(), session.clone(), plan));
    let ending = runtime.clone();
    let _task = runtime.engine.spawn(async move {
        // A defect of ours costs its session, and nobody waits for that for ever.
        if std::panic::AssertUnwindSafe(running).catch_unwind().await.is_err() {
            tracing::error!(session = %conducted.engine_id, "a session's task panicked");
            conducted.lose();
            let ended =
                move || ending.sessions.book.ended(&conducted, book::save(&conducted.folder, &conducted.record()));
            let _ = tokio::task::spawn_blocking(ended).await;
        }
    });
    (session, warnings)
}

type Opened = (Arc<Session>, conduct::Plan, Vec<String>);

fn open(body: &Bytes, runtime: &Runtime) -> Result<Opened, Refusal> {
    let sessions = &runtime.sessions;
    let asked = request::check(body, sessions)?;
    if runtime.engine.is_draining() {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
    }
    let record = asked.record.clone();
    let session = sessions.book.add(asked.uuid, asked.record, sessions.options.max_sessions);
    let session = session.map_err(|error| {
        let status = match error {
            NotAdded::Exists => StatusCode::CONFLICT,
            NotAdded::Full => StatusCode::SERVICE_UNAVAILABLE,
            NotAdded::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, error.to_string())
    })?;
    let made = materialise::materialise(&asked.request, asked.kind, &record, &session.folder, sessions);
    let made = made.map_err(|error| {
        sessions.book.remove(&session);
        broken(&format!("the agent's configuration cannot be written: {error}"))
    })?;
    Ok((session, request::plan(asked.request, asked.kind, &record, made, asked.start), asked.warnings))
}

async fn list(runtime: web::Data<Runtime>) -> HttpResponse {
    let listed = web::block(move || {
        let mut all: Vec<_> = runtime.sessions.book.records().into_iter().collect();
        // In the order they were made.
        all.sort_unstable_by_key(|(uuid, record)| (record.created_at, *uuid));
        all.iter().map(|(_, record)| shown::summary(record)).collect()
    });
    match listed.await {
        Ok(all) => shown(StatusCode::OK, &all),
        Err(error) => broken(&error.to_string()).answer(),
    }
}

/// A session of the id as somebody sent it. Files are read where it is not in memory.
pub(super) async fn find(runtime: &web::Data<Runtime>, id: &str) -> Option<Arc<Session>> {
    let uuid = uuid::Uuid::parse_str(id).ok()?;
    if let Some(session) = runtime.sessions.book.get(&uuid) {
        return Some(session);
    }
    let reading = runtime.clone();
    web::block(move || reading.sessions.book.find(&uuid)).await.ok().flatten()
}

async fn history(request: HttpRequest, runtime: web::Data<Runtime>) -> HttpResponse {
    let limit = parameter(&request, "limit").and_then(|limit| limit.parse::<usize>().ok()).unwrap_or(50);
    match web::block(move || runtime.sessions.book.history(limit)).await {
        Ok(all) => shown(StatusCode::OK, &all.iter().map(shown::history).collect()),
        Err(error) => broken(&error.to_string()).answer(),
    }
}

async fn snapshot(id: web::Path<String>, runtime: web::Data<Runtime>) -> HttpResponse {
    let Some(session) = find(&runtime, &id).await else { return unknown() };
    shown(StatusCode::OK, &shown::snapshot(&session))
}

async fn info(request: HttpRequest, id: web::Path<String>, runtime: web::Data<Runtime>) -> HttpResponse {
    let Some(session) = find(&runtime, &id).await else { return unknown() };
    shown(StatusCode::OK, &shown::info(&session, &request))
}

/// A parameter of the query.
pub(super) fn parameter(request: &HttpRequest, name: &str) -> Option<String> {
    let query = web::Query::<Vec<(String, String)>>::from_query(request.query_string()).ok()?.into_inner();
    query.into_iter().find(|(one, _)| one == name).map(|(_, value)| value)
}

/// `GET /sessions/:id/logs?cursor=N`
async fn logs(request: HttpRequest, id: web::Path<String>, runtime: web::Data<Runtime>) -> HttpResponse {
    let Some(session) = find(&runtime, &id).await else { return unknown() };
    let cursor =
        match parameter(&request, "cursor").filter(|cursor| !cursor.is_empty()).map(|cursor| cursor.parse::<i64>()) {
            None => 0,
            Some(Ok(cursor)) => u64::try_from(cursor).unwrap_or(0),
            Some(Err(_)) => return shown(StatusCode::BAD_REQUEST, &json!({"error": "invalid cursor"})),
        };
    let limit = parameter(&request, "limit").and_then(|limit| limit.parse::<usize>().ok()).filter(|limit| *limit > 0);
    let end = session.log.end();
    let from = cursor.min(end.bytes);
    let mut answer = HttpResponse::Ok();
    answer.content_type("text/plain; charset=utf-8").insert_header(("cache-control", "no-store"));
    let cursor_header = "Agentruntime-Log-Cursor";
    let complete = ("Agentruntime-Log-Complete", "true");
    if let Some(limit) = limit.filter(|limit| (*limit as u64) < end.bytes - from) {
        let read = session.clone();
        let piece = web::block(move || read.log.read(from, limit)).await;
        let Ok(Ok(piece)) = piece else { return lost() };
        if end.is_final && piece.next == end.bytes {
            answer.insert_header(complete);
        }
        return answer.insert_header((cursor_header, piece.next.to_string())).body(piece.bytes);
    }
    if end.is_final {
        answer.insert_header(complete);
    }
    answer.insert_header((cursor_header, end.bytes.to_string()));
    let whole = futures_util::stream::unfold((session, from, end.bytes), |(session, from, until)| async move {
        if from >= until {
            return None;
        }
        let read = session.clone();
        let most = PIECE.min(usize::try_from(until - from).unwrap_or(PIECE));
        let piece = web::block(move || read.log.read(from, most)).await;
        let piece = piece.map_err(io::Error::other).and_then(|piece| piece);
        Some(match piece {
            Ok(mut piece) => {
                // What was added since is behind the cursor that was told.
                let left = usize::try_from(until - from).unwrap_or(usize::MAX);
                piece.bytes.truncate(left);
                let next = from + piece.bytes.len() as u64;
                (Ok(Bytes::from(piece.bytes)), (session, next, until))
            }
            Err(error) => (Err(error), (session, until, until)),
        })
    });
    answer.no_chunking(end.bytes - from).streaming(Box::pin(whole))
}

fn lost() -> HttpResponse {
    shown(StatusCode::NOT_FOUND, &json!({"error": "log file not found"}))
}

fn ndjson() -> mime::Mime {
    "application/x-ndjson".parse().unwrap_or(mime::TEXT_PLAIN)
}

/// `GET /sessions/:id/log`: the file, also of a session that is no longer known.
async fn whole_log(request: HttpRequest, id: web::Path<String>, runtime: web::Data<Runtime>) -> HttpResponse {
    let Ok(uuid) = uuid::Uuid::parse_str(&id) else { return lost() };
    let Some(path) = runtime.sessions.book.log_path(&uuid) else { return lost() };
    match web::block(move || NamedFile::open(path)).await {
        Ok(Ok(file)) => file.set_content_type(ndjson()).disable_content_disposition().into_response(&request),
        _ => lost(),
    }
}

/// `DELETE /sessions/:id`: ends it if it lives, and forgets it. Its log stays.
async fn delete(id: web::Path<String>, runtime: web::Data<Runtime>) -> HttpResponse {
    let Some(session) = find(&runtime, &id).await else { return unknown() };
    if !session.delete() {
        return unknown();
    }
    let ending = runtime.clone();
    // It is ended whether its caller waits for that or not.
    let ended = runtime.engine.spawn(async move {
        session.kill.cancel();
        session.over.cancelled().await;
        let state = session.look(|record| json!({"id": record.id, "state": record.state}));
        let removed = tokio::task::spawn_blocking(move || ending.sessions.book.delete(&session)).await;
        if let Err(error) = removed {
            tracing::error!(%error, "a session was not removed");
        }
        state
    });
    match ended.await {
        Ok(state) => shown(StatusCode::OK, &state),
        Err(error) => broken(&error.to_string()).answer(),
    }
}
