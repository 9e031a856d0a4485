//! The reading end of a connection, of the bridge and of the sidecar alike.
//!
//! Owns the bounds of what a client sends and how long it may be silent; what its frames mean is told by who listens.

use crate::api::websocket::{self, Heard, Messages, Upgraded};
use crate::api::{Protocol, Runtime};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, CloseReason};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two pings.
pub const PING: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long is dropped.
pub const UNTAKEN: Duration = Duration::from_mins(1);
/// Answers to a client that wait for the socket.
pub const ASIDES: usize = 64;
/// How long the end of a connection may take.
pub const LAST_WORDS: Duration = Duration::from_secs(2);
/// The largest message of a client.
const MESSAGE: usize = 32 << 20;

/// What goes to the client besides the log.
pub enum Aside<T> {
    /// The answer to one of its frames.
    Answer(T),
    Pong(Bytes),
    Close(Option<CloseReason>),
}

/// Turns a request into a WebSocket whose client may be silent for so long.
pub fn upgrade(
    request: &HttpRequest,
    payload: web::Payload,
    runtime: &Runtime,
    silence: Duration,
) -> Result<Upgraded, HttpResponse> {
    let upgraded = websocket::upgrade(request, payload, runtime, Protocol::Sessions, MESSAGE);
    let Upgraded { messages, response, socket } = upgraded
        .map_err(|_| HttpResponse::BadRequest().content_type("text/plain; charset=utf-8").body("Bad Request"))?;
    Ok(Upgraded { messages: messages.dead_after(silence), response, socket })
}

/// Reads what the client says until it is gone. `answer` does what a frame says; what is answered, if anything.
pub async fn listen<T>(mut messages: Messages, asides: mpsc::Sender<Aside<T>>, answer: impl Fn(&str) -> Option<T>) {
    loop {
        let aside = match messages.next().await {
            Heard::Message(AggregatedMessage::Text(text)) => answer(&text).map(Aside::Answer),
            Heard::Message(AggregatedMessage::Binary(bytes)) => {
                answer(&String::from_utf8_lossy(&bytes)).map(Aside::Answer)
            }
            Heard::Message(AggregatedMessage::Ping(bytes)) => Some(Aside::Pong(bytes)),
            Heard::Message(AggregatedMessage::Pong(_)) => None,
            Heard::Message(AggregatedMessage::Close(reason)) | Heard::Closing(reason) => {
                let _ = asides.send(Aside::Close(reason)).await;
                return;
            }
            Heard::Gone | Heard::Silence => return,
        };
        // A client that takes none of its answers is read no further, and found silent then.
        if let Some(aside) = aside
            && asides.send(aside).await.is_err()
        {
            return;
        }
    }
}
