//! `/ws`: the protocol of the sidecar, which drives one agent. Here that is the server's own.
//!
//! Owns the one session of the sidecar and its connections: events one by one, commands, and who is told what is wrong.

use super::bridge::wait_for;
use super::heard;
use super::listen::{ASIDES, Aside, LAST_WORDS, Lost, Patience, listen, next_ping, upgrade as upgrade_within};
use super::session::{Input, Session};
use super::{Sessions, begin, open, parameter};
use crate::api::Runtime;
use crate::api::websocket::{Messages, Upgraded};
use crate::json;
use crate::store::LogEnd;
use crate::wire::session_line::{ErrorData, ExitData, LineData, write_line};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{CloseCode, Closed, Session as Socket};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A client that is silent for so long is gone.
const SILENT: Duration = Duration::from_secs(40);
/// Read from the log at once.
const PIECE: usize = 64 << 10;

/// Turns the request into a WebSocket of the sidecar; the first one starts the agent.
pub async fn upgrade(request: HttpRequest, payload: web::Payload, runtime: web::Data<Runtime>) -> HttpResponse {
    let since = match parameter(&request, "since").map(|since| since.parse::<u64>()) {
        None => None,
        Some(Ok(since)) => Some(since),
        Some(Err(_)) => {
            return HttpResponse::BadRequest().content_type("text/plain; charset=utf-8").body("invalid since");
        }
    };
    let Upgraded { response, socket, messages } = match upgrade_within(&request, payload, &runtime, SILENT) {
        Ok(upgraded) => upgraded,
        Err(answer) => return answer,
    };
    actix_web::rt::spawn(serve(runtime, since, socket, messages));
    response
}

async fn serve(runtime: web::Data<Runtime>, since: Option<u64>, mut socket: Socket, messages: Messages) {
    let starting = runtime.clone();
    // Whoever leaves meanwhile does not keep others from the agent.
    let started = runtime.engine.spawn(async move {
        let opening = starting.clone();
        let start = || async move {
            let sessions = opening.clone();
            let request = Bytes::from(sessions.sessions.options.sidecar.clone());
            let opened = tokio::task::spawn_blocking(move || open(&request, &sessions)).await;
            let mut opened = opened.map_err(|error| error.to_string())?.map_err(|refusal| refusal.text())?;
            if let Some(alone) = &opening.sessions.options.alone {
                opened.1.hooks.work_in(&alone.work_dir, &alone.session_id);
            }
            Ok::<_, String>(begin(&opening, opened).0)
        };
        starting.sessions.sidecar.get_or_try_init(start).await.cloned()
    });
    let started = started.await.unwrap_or_else(|error| Err(error.to_string()));
    if let Err(reason) = &started {
        let _ = runtime.sessions.unstarted.set(reason.clone());
    }
    runtime.sessions.callers.send_modify(|callers| *callers += 1);
    match started {
        Ok(session) => talk(session, since, socket, messages, Patience::of(&runtime.limits)).await,
        Err(reason) => {
            let mut lines = Vec::new();
            let error = ErrorData { message: &reason, code: Some(500), ..ErrorData::default() };
            write_line(&mut lines, 0, "error", &LineData::Error(error), super::times::now());
            let exit = ExitData { code: 1, error_detail: Some(&reason), ..ExitData::default() };
            let start = lines.len() as u64;
            write_line(&mut lines, start, "exit", &LineData::Exit(exit), super::times::now());
            for line in String::from_utf8_lossy(&lines).lines() {
                let _ = socket.text(line.to_owned()).await;
            }
            let _ = socket.close(Some(CloseCode::Normal.into())).await;
        }
    }
}

async fn talk(session: Arc<Session>, since: Option<u64>, socket: Socket, messages: Messages, patience: Patience) {
    let (asides, taken) = mpsc::channel(ASIDES);
    // Before anything that the client says can have been answered.
    let end = session.log.end();
    let mut writing = actix_web::rt::spawn(write(session.clone(), since, end, socket, taken, patience));
    tokio::select! {
        () = listen(messages, asides, |text| command(&session, text).err()) => {
            let _ = tokio::time::timeout(LAST_WORDS, &mut writing).await;
        }
        _ = &mut writing => {}
    }
    writing.abort();
}

impl Sessions {
    /// Comes back once a server that is nothing else has had no agent and no new connection for long enough.
    pub async fn is_done(&self) {
        let Some(alone) = &self.options.alone else { return std::future::pending().await };
        let mut callers = self.callers.subscribe();
        loop {
            callers.mark_unchanged();
            let over = async {
                match self.sidecar.get() {
                    Some(session) => session.over.cancelled().await,
                    None if self.unstarted.get().is_some() => {}
                    None => std::future::pending().await,
                }
            };
            let ending = async {
                over.await;
                tokio::time::sleep(alone.cleanup).await;
            };
            tokio::select! {
                () = ending => return,
                _ = callers.changed() => {}
            }
        }
    }

    /// How a server that is nothing else is.
    pub fn sidecar_health(&self) -> Option<Value> {
        let alone = self.options.alone.as_ref()?;
        let session = self.sidecar.get();
        let record = session.map(|session| session.record());
        let unstarted = self.unstarted.get().cloned();
        // Of one and the same moment.
        let is_running = record.as_ref().is_some_and(|record| record.state == "running");
        let native = record.as_ref().and_then(|record| record.agent_session_id.clone());
        // One that never came as far as to have an id.
        let failed =
            || record.filter(|record| record.state == "failed" && record.agent_session_id.is_none())?.error_detail;
        let error = unstarted.or_else(failed);
        let mut body = json!({"status": "ok", "agent_running": is_running, "agent_type": alone.agent});
        if let Some(native) = native {
            body["session_id"] = native.into();
        }
        if let Some(error) = error {
            body["status"] = "error".into();
            body["error_detail"] = error.into();
        }
        Some(body)
    }
}

/// Does what a command says.
fn command(session: &Session, text: &str) -> Result<(), String> {
    let (word, input) = heard::command(text)?;
    if !session.interactive && session.is_live() && input != Input::Interrupt {
        return Err(format!("{word} needs an interactive session"));
    }
    session.tell(input).map_err(|_| "backend unavailable".to_owned())
}

/// Writes events, one per frame, from behind `since` on, until the last one.
async fn write(
    session: Arc<Session>,
    since: Option<u64>,
    end: LogEnd,
    mut socket: Socket,
    mut asides: mpsc::Receiver<Aside<String>>,
    patience: Patience,
) {
    let mut ends = session.log.watch();
    // What has ended is told to whoever comes later, too.
    let mut at = since.unwrap_or(if end.is_final { 0 } else { end.bytes }).min(end.bytes);
    // A line that `since` cuts is not for this client.
    let mut is_cut = at > 0 && since.is_some() && !stands_behind_a_line(&session, at).await;
    let mut pings = patience.pings();
    loop {
        let end = *ends.borrow_and_update();
        if end.bytes > at {
            let (read, from) = (session.clone(), at);
            let piece = tokio::task::spawn_blocking(move || read.log.read(from, PIECE)).await;
            let text = match piece {
                Ok(Ok(piece)) => {
                    at = piece.next;
                    String::from_utf8_lossy(&piece.bytes).into_owned()
                }
                _ => {
                    let data = json!({"subtype": "gap", "from": at, "to": end.bytes});
                    at = end.bytes;
                    let now = super::times::now();
                    format!(r#"{{"type":"system","data":{data},"offset":{at},"timestamp":{now}}}"#)
                }
            };
            for line in text.lines().skip(usize::from(std::mem::take(&mut is_cut))) {
                if !sent(socket.text(line.to_owned()), patience).await {
                    return;
                }
            }
            continue;
        }
        if end.is_final {
            sent(socket.close(Some(CloseCode::Normal.into())), patience).await;
            return;
        }
        let goes_on = tokio::select! {
            biased;
            aside = asides.recv() => match aside {
                // What is wrong is told to its sender alone.
                Some(Aside::Answer(message)) => sent(socket.text(wrong(&message)), patience).await,
                Some(Aside::Pong(bytes)) => sent(socket.pong(&bytes), patience).await,
                Some(Aside::Close(reason)) => {
                    sent(socket.close(reason), patience).await;
                    return;
                }
                None => {
                    sent(socket.close(None), patience).await;
                    return;
                }
            },
            () = wait_for(&mut ends) => true,
            () = next_ping(&mut pings) => sent(socket.ping(b""), patience).await,
        };
        if !goes_on {
            return;
        }
    }
}

/// Whether the byte before this one ends a line.
async fn stands_behind_a_line(session: &Arc<Session>, at: u64) -> bool {
    let read = session.clone();
    let byte = tokio::task::spawn_blocking(move || read.log.read(at - 1, 1)).await;
    matches!(byte, Ok(Ok(piece)) if piece.bytes.first() == Some(&b'\n'))
}

/// Not recorded, so it has no place in the log.
fn wrong(message: &str) -> String {
    format!(r#"{{"type":"error","data":{{"message":{},"code":400}},"offset":0,"timestamp":0}}"#, json::string(message))
}

/// Whether the client takes what is being sent.
async fn sent(sending: impl Future<Output = Result<(), Closed>>, patience: Patience) -> bool {
    let sent = patience.sent(sending).await;
    if sent == Err(Lost::Slow) {
        tracing::info!("a client took nothing and was dropped");
    }
    sent.is_ok()
}
