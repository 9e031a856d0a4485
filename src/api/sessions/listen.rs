//! The reading end of a connection, of the bridge and of the sidecar alike.
//!
//! Owns the bounds of what a client sends and how long it may be silent; what its frames mean is told by who listens.

use crate::api::websocket::{self, Heard, Messages, Upgraded};
use crate::api::{ApiLimits, Protocol, Runtime};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, CloseReason, Closed};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

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

/// What a client is asked, and how long it may take.
#[derive(Clone, Copy)]
pub struct Patience {
    ping: Option<Duration>,
    untaken: Option<Duration>,
}

/// The connection is of no more use.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    Socket,
    /// The client took nothing for too long.
    Slow,
}

impl Patience {
    pub fn of(limits: &ApiLimits) -> Self {
        Self { ping: limits.ping, untaken: limits.dead_after }
    }

    /// Ticks when a ping is due.
    pub fn pings(self) -> Option<Interval> {
        let period = self.ping.filter(|period| !period.is_zero())?;
        let mut pings = tokio::time::interval_at(Instant::now() + period, period);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(pings)
    }

    /// Waits until the client takes what is being sent, and not for too long. Everything is sent in this way: with all its room
    /// full, a pong waits as a text does.
    pub async fn sent(self, sending: impl Future<Output = Result<(), Closed>>) -> Result<(), Lost> {
        let sent = match self.untaken {
            Some(untaken) => tokio::time::timeout(untaken, sending).await.map_err(|_| Lost::Slow)?,
            None => sending.await,
        };
        sent.map_err(|Closed| Lost::Socket)
    }
}

/// Waits for the next ping. Cancel-safe.
pub async fn next_ping(pings: &mut Option<Interval>) {
    match pings {
        Some(pings) => _ = pings.tick().await,
        None => std::future::pending().await,
    }
}

/// Turns a request into a WebSocket whose client may be silent for as long as others, and no longer than this.
pub fn upgrade(
    request: &HttpRequest,
    payload: web::Payload,
    runtime: &Runtime,
    longest: Duration,
) -> Result<Upgraded, HttpResponse> {
    let upgraded = websocket::upgrade(request, payload, runtime, Protocol::Sessions, MESSAGE);
    let Upgraded { messages, response, socket } = upgraded
        .map_err(|_| HttpResponse::BadRequest().content_type("text/plain; charset=utf-8").body("Bad Request"))?;
    let silence = runtime.limits.dead_after.map(|silence| silence.min(longest));
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
            Heard::Gone => return,
            Heard::Silence => {
                tracing::info!("a client gave no sign of life and was dropped");
                return;
            }
        };
        // A client that takes none of its answers is read no further, and found silent then.
        if let Some(aside) = aside
            && asides.send(aside).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    /// The protocol's own numbers are the defaults of the options.
    #[tokio::test(start_paused = true)]
    async fn as_the_protocol_says() {
        let limits = ApiLimits::default();
        let (patience, began) = (Patience::of(&limits), Instant::now());
        let mut pings = patience.pings();
        for n in 1..4 {
            next_ping(&mut pings).await;
            assert_eq!(began.elapsed(), Duration::from_secs(30 * n));
        }
        let began = Instant::now();
        assert_eq!(patience.sent(pending()).await, Err(Lost::Slow));
        assert_eq!(began.elapsed(), Duration::from_mins(1));
        assert_eq!(patience.sent(std::future::ready(Ok(()))).await, Ok(()));
        assert_eq!(patience.sent(std::future::ready(Err(Closed))).await, Err(Lost::Socket));
        let off = Patience::of(&ApiLimits { ping: None, dead_after: None, ..limits });
        assert!(off.pings().is_none());
    }
}
