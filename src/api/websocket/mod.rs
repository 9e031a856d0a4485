//! A request that becomes a WebSocket: what every protocol that speaks over one does in the same way.
//!
//! Owns the upgrade, the bounds of what a peer sends, the codes that its mistakes are closed with, and how long it may be
//! silent. What is said over the socket is its protocol's business.

mod inspect;

use super::{Protocol, Runtime};
use crate::awake;
use crate::telemetry::metrics::{Open, metrics};
use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use actix_ws::{
    AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Closed, Item, ProtocolError, Session,
};
use bytes::Bytes;
use inspect::{Inspected, Seen};
use std::time::Duration;
use tokio::time::Instant;

pub use inspect::Room;

/// Whether a request asks to become a WebSocket.
pub fn is_upgrade(request: &HttpRequest) -> bool {
    let has = |name, word: &str| {
        request
            .headers()
            .get_all(name)
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    };
    has(header::UPGRADE, "websocket") && has(header::CONNECTION, "upgrade")
}

/// A WebSocket whose answer is not sent yet.
pub struct Upgraded {
    pub response: HttpResponse,
    /// The writing end.
    pub socket: Session,
    /// The reading end.
    pub messages: Messages,
}

/// Turns a request into a WebSocket whose messages have at most `limit` bytes. The whole answer where that cannot be.
pub fn upgrade(
    request: &HttpRequest,
    payload: web::Payload,
    runtime: &Runtime,
    protocol: Protocol,
    limit: usize,
) -> Result<Upgraded, HttpResponse> {
    let offered = first_subprotocol(request);
    let protocols: Vec<&str> = offered.iter().map(String::as_str).collect();
    let seen = Seen::new();
    let inspected = Inspected::new(payload.into_inner(), limit, runtime.room.clone(), seen.clone());
    let mut inspected: Payload = Payload::Stream { payload: Box::pin(inspected) };
    // The only way from a stream to the type that the library takes; it does nothing else.
    let payload = web::Payload::from_request(request, &mut inspected).into_inner();
    let handled = payload.and_then(|payload| actix_ws::handle_with_protocols(request, payload, &protocols));
    let (response, socket, stream) = handled.map_err(|error| error.error_response())?;
    let stream = stream.max_frame_size(limit).aggregate_continuations().max_continuation_size(limit);
    let open = metrics().websocket(protocol.name());
    let messages = Messages { stream, seen, dead_after: runtime.limits.dead_after, open };
    Ok(Upgraded { response, socket, messages })
}

/// The peer echoes the first subprotocol it is offered, whatever it is.
fn first_subprotocol(request: &HttpRequest) -> Option<String> {
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    offered.split(',').map(str::trim).find(|word| !word.is_empty()).map(str::to_owned)
}

/// What a peer sends.
pub struct Messages {
    stream: AggregatedMessageStream,
    seen: Seen,
    dead_after: Option<Duration>,
    /// Counts the connection as long as somebody reads it.
    #[expect(dead_code, reason = "it is only kept")]
    open: Open,
}

/// What a peer sent, or how its messages ended.
pub enum Heard {
    /// A whole message, or a control frame other than a close.
    Message(AggregatedMessage),
    /// The end, to be answered by a close frame with this reason.
    Closing(Option<CloseReason>),
    /// The connection is simply gone.
    Gone,
    /// The peer gave no sign of life for too long.
    Silence,
}

impl Messages {
    /// The same, with another bound of silence than the server's own.
    #[must_use]
    pub fn dead_after(self, silence: Option<Duration>) -> Self {
        Self { dead_after: silence, ..self }
    }

    /// The next message. Cancel-safe.
    pub async fn next(&mut self) -> Heard {
        let Some(silence) = self.dead_after else {
            let next = self.stream.recv().await;
            return self.heard(next);
        };
        // Bytes move the end of silence without waking anybody: the timer looks again when it fires.
        loop {
            let dead_at = self.seen.last() + silence;
            tokio::select! {
                biased;
                next = self.stream.recv() => return self.heard(next),
                slept = awake::sleep_until(dead_at) => match slept {
                    // Nobody was there to ask the peer whether it lives.
                    Err(_) => self.seen.forgive(),
                    Ok(()) if self.seen.last() + silence > Instant::now() => {}
                    Ok(()) => return Heard::Silence,
                },
            }
        }
    }

    fn heard(&self, next: Option<Result<AggregatedMessage, ProtocolError>>) -> Heard {
        match next {
            Some(Ok(AggregatedMessage::Close(reason))) => Heard::Closing(reason.map(|reason| reason.code.into())),
            Some(Ok(message)) => Heard::Message(message),
            Some(Err(error)) => close_reason(&error).map_or(Heard::Gone, |reason| Heard::Closing(Some(reason))),
            None => self.seen.wrong().map_or(Heard::Gone, |code| Heard::Closing(Some(code.into()))),
        }
    }
}

/// Sends a text, a long one in fragments of at most `most` bytes: what a peer has to say comes in between.
pub async fn send_text(socket: &mut Session, text: String, most: usize) -> Result<(), Closed> {
    if text.len() <= most {
        return socket.text(text).await;
    }
    let mut rest = Bytes::from(text);
    socket.continuation(Item::FirstText(rest.split_to(most))).await?;
    while rest.len() > most {
        socket.continuation(Item::Continue(rest.split_to(most))).await?;
    }
    socket.continuation(Item::Last(rest)).await
}

/// The close code that says what was wrong with a frame. A connection that is simply gone has none.
fn close_reason(error: &ProtocolError) -> Option<CloseReason> {
    match error {
        ProtocolError::Overflow => Some(CloseCode::Size.into()),
        ProtocolError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => Some(CloseCode::Invalid.into()),
        ProtocolError::Io(_) => None,
        _ => Some(CloseCode::Protocol.into()),
    }
}
