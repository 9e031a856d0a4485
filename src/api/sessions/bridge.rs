//! `/ws/sessions/:id`: what was, what comes, and what the client has to say.
//!
//! Owns one connection. Each has a cursor of its own into the session's log, so that a slow or leaving client is nobody
//! else's business. Two tasks on the connection's worker: one reads what the client says, one writes.

use super::heard::{self, Heard};
use super::listen::{ASIDES, Aside, LAST_WORDS, Lost, Patience, listen, next_ping, upgrade as upgrade_within};
use super::session::{Deaf, Input, Session};
use super::{PIECE, parameter, unknown};
use crate::api::Runtime;
use crate::api::hangup::Hangup;
use crate::api::websocket::{Messages, Upgraded, send_text};
use crate::store::LogEnd;
use crate::wire::sessions::ServerFrame;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{CloseCode, Session as Socket};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often it is looked whether a result that is being written is there, a millisecond apart.
const SETTLING: u32 = 500;
/// Longer frames go out in pieces.
const FRAME: usize = 64 << 10;

/// Turns the request into a WebSocket of its session.
pub async fn upgrade(
    request: HttpRequest,
    payload: web::Payload,
    id: web::Path<String>,
    runtime: web::Data<Runtime>,
) -> HttpResponse {
    let Some(session) = super::find(&runtime, &id).await else { return unknown() };
    let since = parameter(&request, "since").and_then(|since| since.parse::<u64>().ok());
    let Upgraded { response, socket, messages } = match upgrade_within(&request, payload, &runtime, Duration::MAX) {
        Ok(upgraded) => upgraded,
        Err(answer) => return answer,
    };
    let hangup = request.conn_data::<Hangup>().cloned();
    let writer = Writer { session, socket, patience: Patience::of(&runtime.limits), at: 0 };
    actix_web::rt::spawn(serve(writer, since, messages, hangup));
    response
}

async fn serve(writer: Writer, since: Option<u64>, messages: Messages, hangup: Option<Hangup>) {
    let (asides, taken) = mpsc::channel(ASIDES);
    let session = writer.session.clone();
    // Before anything that the client says can have been answered.
    let standing = writer.standing().await;
    let mut writing = actix_web::rt::spawn(writer.write(since, standing, taken));
    tokio::select! {
        () = listen(messages, asides, |text| frame(&session, text)) => {
            // What was answered to the last frames still goes out.
            let _ = tokio::time::timeout(LAST_WORDS, &mut writing).await;
        }
        _ = &mut writing => {}
    }
    writing.abort();
    if let Some(hangup) = hangup {
        hangup.after_reading_away(LAST_WORDS).await;
    }
}

/// Does what a frame says; what is answered, if anything.
fn frame(session: &Session, text: &str) -> Option<ServerFrame<'static>> {
    let error = |error: String| Some(ServerFrame::Error { error });
    match heard::frame(text) {
        Err(problem) => error(problem),
        Ok(Heard::Ping) => Some(ServerFrame::Pong),
        Ok(Heard::Nothing) => None,
        Ok(Heard::Input(Input::Interrupt)) => {
            // Nothing happens where nothing runs.
            let _ = session.tell(Input::Interrupt);
            None
        }
        Ok(Heard::Input(input)) => match session.tell(input) {
            Ok(()) => None,
            Err(refused @ (Deaf::Closed | Deaf::Full)) => error(refused.to_string()),
        },
    }
}

/// Waits until a log has grown, or has got its end.
pub async fn wait_for(ends: &mut watch::Receiver<LogEnd>) {
    if ends.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

type Answer = Aside<ServerFrame<'static>>;

struct Writer {
    session: Arc<Session>,
    socket: Socket,
    patience: Patience,
    /// The client has everything before this.
    at: u64,
}

/// How a session stands when a client comes.
struct Standing {
    /// Where the log ends.
    first: u64,
    /// How many prompts have no result before that.
    unanswered: Option<usize>,
}

impl Writer {
    async fn write(mut self, since: Option<u64>, standing: Standing, asides: mpsc::Receiver<Answer>) {
        if let Err(Lost::Slow) = self.stream(since, standing, asides).await {
            tracing::info!(session = %self.session.engine_id, "a client took nothing and was dropped");
        }
    }

    async fn stream(
        &mut self,
        since: Option<u64>,
        Standing { first, unanswered }: Standing,
        mut asides: mpsc::Receiver<Answer>,
    ) -> Result<(), Lost> {
        let mut ends = self.session.log.watch();
        self.at = since.unwrap_or(first).min(first);
        while self.at < first {
            let (bytes, gap) = self.piece().await;
            let next = self.at;
            let data = STANDARD.encode(&bytes);
            self.say(&ServerFrame::Replay { data, offset: next, encoding: "base64", gap }).await?;
        }
        let (id, status) = self.session.look(|record| (record.id.clone(), record.state.clone()));
        let connected =
            ServerFrame::Connected { session_id: &id, mode: "pipe", status: &status, offset: self.at, unanswered };
        self.say(&connected).await?;
        let mut pings = self.patience.pings();
        loop {
            let end = *ends.borrow_and_update();
            if end.bytes > self.at {
                let (bytes, _) = self.piece().await;
                let (offset, data) = (self.at, String::from_utf8_lossy(&bytes));
                self.say(&ServerFrame::Stdout { data: &data, offset }).await?;
                // Answers do not wait for the end of a long stream.
                while let Ok(aside) = asides.try_recv() {
                    self.aside(aside).await?;
                }
                continue;
            }
            if end.is_final {
                return self.exit().await;
            }
            tokio::select! {
                biased;
                aside = asides.recv() => match aside {
                    Some(aside) => self.aside(aside).await?,
                    None => return Ok(()),
                },
                () = wait_for(&mut ends) => {}
                () = next_ping(&mut pings) => self.patience.sent(self.socket.ping(b"")).await?,
            }
        }
    }

    /// Where the log ends, and how many prompts have no result before that.
    async fn standing(&self) -> Standing {
        for _ in 0..SETTLING {
            if let Some((end, unanswered)) = self.session.standing() {
                return Standing { first: end.bytes, unanswered: Some(unanswered) };
            }
            // A disk may take its time.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Standing { first: self.session.log.end().bytes, unanswered: None }
    }

    /// The next piece of the log, and whether it is lost.
    async fn piece(&mut self) -> (Vec<u8>, bool) {
        let (session, from) = (self.session.clone(), self.at);
        match tokio::task::spawn_blocking(move || session.log.read(from, PIECE)).await {
            Ok(Ok(piece)) => {
                self.at = piece.next;
                (piece.bytes, false)
            }
            _ => {
                self.at = self.session.log.end().bytes;
                (Vec::new(), true)
            }
        }
    }

    async fn exit(&mut self) -> Result<(), Lost> {
        // The record says how, before the log is closed.
        let exit = self.session.look(|record| ServerFrame::Exit {
            exit_code: record.exit_code.unwrap_or(-1),
            error_category: record.error_category.clone(),
            retryable: record.retryable,
            error_detail: record.error_detail.clone().filter(|_| record.exit_code != Some(0)),
        });
        self.say(&exit).await?;
        let _ = self.patience.sent(self.socket.clone().close(Some(CloseCode::Normal.into()))).await;
        Ok(())
    }

    async fn aside(&mut self, aside: Answer) -> Result<(), Lost> {
        match aside {
            Aside::Answer(frame) => self.say(&frame).await,
            Aside::Pong(bytes) => self.patience.sent(self.socket.pong(&bytes)).await,
            Aside::Close(reason) => {
                let _ = self.patience.sent(self.socket.clone().close(reason)).await;
                Err(Lost::Socket)
            }
        }
    }

    async fn say(&mut self, frame: &ServerFrame<'_>) -> Result<(), Lost> {
        let text = serde_json::to_string(frame).unwrap_or_default();
        self.patience.sent(send_text(&mut self.socket, text, FRAME)).await
    }
}
