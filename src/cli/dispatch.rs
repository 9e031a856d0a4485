//! `turnhost dispatch`: starts a session that a file describes, copies its log, waits for its end.
//!
//! Owns the order of that, and what becomes of a connection that breaks: the log is read on from the byte that it had come to.

use super::servers::Asked;
use super::{CANNOT, OK, template};
use crate::config::{ConfigError, DispatchConfig};
use crate::wire::session_client::{Opened, Snapshot};
use reqwest::{Method, Response};
use std::io::Write;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// A server that does not answer for so long is gone.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often in a row a lost server is tried again.
const TRIES: u32 = 8;
/// Pauses between two looks at a log that has not grown, and between two tries.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_TRY: Duration = Duration::from_secs(5);
/// Taken from the log at once.
const PIECE: usize = 1 << 20;

/// Starts the session and follows it.
pub fn dispatch(runtime: &Runtime, config: DispatchConfig) -> Result<u8, ConfigError> {
    let filled = template::read(&config.file, &config.environment).map_err(ConfigError)?;
    for name in &filled.unset {
        eprintln!("note: the variable {name} is not set, so it is empty in {}", config.file.display());
    }
    let body = serde_json::Value::Object(filled.request).to_string();
    let asked = Asked::new(config.server)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        let opened = tokio::select! {
            opened = open(&asked, body) => opened?,
            _ = interrupt.recv() => return Ok(interrupted(None)),
            _ = terminate.recv() => return Ok(interrupted(None)),
        };
        eprintln!("session_id: {}\nws_url: {}\nlog_url: {}", opened.session_id, opened.ws_url, opened.log_url);
        for warning in &opened.warnings {
            eprintln!("warning: {warning}");
        }
        tokio::select! {
            code = follow(&asked, &opened.session_id) => code,
            _ = interrupt.recv() => Ok(interrupted(Some(&opened.session_id))),
            _ = terminate.recv() => Ok(interrupted(Some(&opened.session_id))),
        }
    })
}

fn signals(error: std::io::Error) -> ConfigError {
    ConfigError(format!("signals cannot be caught: {error}"))
}

fn interrupted(id: Option<&str>) -> u8 {
    match id {
        Some(id) => eprintln!("Interrupted; session {id} goes on"),
        None => eprintln!("Interrupted"),
    }
    CANNOT
}

async fn open(asked: &Asked, body: String) -> Result<Opened, ConfigError> {
    let request = asked.request(Method::POST, "/sessions").header("content-type", "application/json");
    let answer = request.timeout(PATIENCE).body(body).send().await;
    let answer = answer.map_err(|error| ConfigError(asked.unanswered(&error)))?;
    if answer.status().as_u16() != 201 {
        return Err(ConfigError(asked.refusal(answer).await));
    }
    let opened: Opened = answer.json().await.map_err(|error| ConfigError(asked.unanswered(&error)))?;
    if opened.session_id.is_empty() {
        return Err(ConfigError(super::servers::other(asked.url())));
    }
    Ok(opened)
}

/// What one look at the log came to.
enum Look {
    /// There may be more.
    On { grew: bool },
    /// This was all of it.
    Whole,
    /// The session was deleted meanwhile; what is left is in its file.
    Deleted,
}

/// Copies the log to its end; the exit code.
async fn follow(asked: &Asked, id: &str) -> Result<u8, ConfigError> {
    let mut copied = Copied { at: 0 };
    let (mut tries, mut pause) = (0, PAUSE);
    loop {
        let before = copied.at;
        let look = copied.look(asked, id).await;
        if copied.at != before {
            tries = 0;
        }
        match look {
            Ok(Look::Whole) => break,
            Ok(Look::On { grew }) => {
                tries = 0;
                pause = if grew { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                tokio::time::sleep(pause).await;
            }
            Ok(Look::Deleted) => {
                copied.rest(asked, id).await.map_err(Lost::into_error)?;
                eprintln!("session {id} was deleted");
                return Ok(CANNOT);
            }
            Err(Lost::Server(reason)) => {
                tries += 1;
                if tries > TRIES {
                    return Err(ConfigError(reason));
                }
                tokio::time::sleep((PAUSE * 2_u32.saturating_pow(tries)).min(LONGEST_TRY)).await;
            }
            Err(lost) => return Err(lost.into_error()),
        }
    }
    let state = state(asked, id).await.map_err(Lost::into_error)?;
    Ok(if state.as_deref() == Some("completed") { OK } else { CANNOT })
}

/// Why there is no more of it.
enum Lost {
    /// It may come back.
    Server(String),
    /// It will not.
    Refused(String),
    /// Nobody reads our output any more.
    Unread,
}

impl Lost {
    fn into_error(self) -> ConfigError {
        match self {
            Self::Server(reason) | Self::Refused(reason) => ConfigError(reason),
            Self::Unread => ConfigError("standard output was closed; the session goes on".to_owned()),
        }
    }
}

/// How a session stands; `None` when it is no longer known.
async fn state(asked: &Asked, id: &str) -> Result<Option<String>, Lost> {
    let answer = asked.request(Method::GET, &format!("/sessions/{id}")).timeout(PATIENCE).send().await;
    let answer = answer.map_err(|error| Lost::Server(asked.unanswered(&error)))?;
    match answer.status().as_u16() {
        404 => Ok(None),
        200 => {
            let snapshot: Snapshot = answer.json().await.map_err(|error| Lost::Server(asked.unanswered(&error)))?;
            Ok(Some(snapshot.state))
        }
        _ => Err(Lost::Refused(asked.refusal(answer).await)),
    }
}

/// How much of the log was copied.
struct Copied {
    at: u64,
}

impl Copied {
    /// Copies what is new.
    async fn look(&mut self, asked: &Asked, id: &str) -> Result<Look, Lost> {
        let before = self.at;
        let answer = self.ask(asked, id).await?;
        let Some(answer) = answer else { return Ok(Look::Deleted) };
        let says = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let is_whole = says("agentruntime-log-complete").as_deref() == Some("true");
        self.copy(asked, answer).await?;
        if is_whole {
            return Ok(Look::Whole);
        }
        if self.at != before {
            return Ok(Look::On { grew: true });
        }
        // A server that does not say when a log is complete says so by the session's state: then one look more.
        match state(asked, id).await?.as_deref() {
            None => Ok(Look::Deleted),
            Some("completed" | "failed") => {
                let Some(answer) = self.ask(asked, id).await? else { return Ok(Look::Deleted) };
                self.copy(asked, answer).await?;
                Ok(if self.at == before { Look::Whole } else { Look::On { grew: true } })
            }
            Some(_) => Ok(Look::On { grew: false }),
        }
    }

    async fn ask(&self, asked: &Asked, id: &str) -> Result<Option<Response>, Lost> {
        let path = format!("/sessions/{id}/logs?cursor={}&limit={PIECE}", self.at);
        let answer = tokio::time::timeout(PATIENCE, asked.request(Method::GET, &path).send()).await;
        let answer = answer.map_err(|_| Lost::Server(format!("the server at {} does not answer", asked.url())))?;
        let answer = answer.map_err(|error| Lost::Server(asked.unanswered(&error)))?;
        match answer.status().as_u16() {
            200 => Ok(Some(answer)),
            404 => Ok(None),
            500.. => Err(Lost::Server(asked.refusal(answer).await)),
            _ => Err(Lost::Refused(asked.refusal(answer).await)),
        }
    }

    /// Copies a body as it comes; every byte that was written counts, whatever becomes of the rest.
    async fn copy(&mut self, asked: &Asked, mut answer: Response) -> Result<(), Lost> {
        loop {
            let piece = tokio::time::timeout(PATIENCE, answer.chunk()).await;
            let piece = piece.map_err(|_| Lost::Server(format!("the server at {} went silent", asked.url())))?;
            let Some(piece) = piece.map_err(|error| Lost::Server(asked.unanswered(&error)))? else { return Ok(()) };
            let length = piece.len() as u64;
            let written = tokio::task::spawn_blocking(move || {
                let mut out = std::io::stdout().lock();
                out.write_all(&piece).and_then(|()| out.flush())
            });
            if !matches!(written.await, Ok(Ok(()))) {
                return Err(Lost::Unread);
            }
            self.at += length;
        }
    }

    /// What is left of the log of a session that is gone.
    async fn rest(&mut self, asked: &Asked, id: &str) -> Result<(), Lost> {
        let request = asked.request(Method::GET, &format!("/sessions/{id}/log"));
        let answer = request.header("range", format!("bytes={}-", self.at)).send().await;
        let answer = answer.map_err(|error| Lost::Server(asked.unanswered(&error)))?;
        // Anything else: there is no more of it, or nothing of it at all.
        if answer.status().as_u16() == 206 { self.copy(asked, answer).await } else { Ok(()) }
    }
}
