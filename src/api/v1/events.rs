//! The log of a session, read: page by page, or live as server-sent events or over a WebSocket.
//!
//! Owns the reading. Entries are written straight into the bytes that go out, about [`PIECE`] of them at once, and a
//! reader that takes nothing is asked for nothing: what it leaves untaken is the log's business.

use super::{not_found, parameter};
use crate::api::hangup::Hangup;
use crate::api::websocket::{self, Heard, Messages, Upgraded};
use crate::api::{Protocol, Runtime, problem};
use crate::engine::{Followed, Follower};
use crate::model::{Seq, SessionId};
use crate::telemetry::{Whose, carried};
use crate::wire::v1::{write_entry, write_gap};
use actix_http::ws::{OpCode, Parser};
use actix_web::body::{BodyStream, BoxBody, MessageBody};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{AggregatedMessage, CloseCode, CloseReason};
use bytes::{Bytes, BytesMut};
use std::convert::Infallible;
use std::io::Write as _;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

/// About how much of a log one page has.
const PAGE: usize = 1 << 20;
/// About how much of it is written to a stream at once.
const PIECE: usize = 64 << 10;
/// A longer text is not kept as room for the next one.
const LONGEST_KEPT: usize = 256 << 10;
/// A stream that has nothing to tell says so, for proxies.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// The largest message a reader may send: there is nothing to say.
const MESSAGE: usize = 64 << 10;
/// Pongs and the like that may wait for a socket that takes nothing.
const ORDERS: usize = 8;
/// How long the end of a WebSocket may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What a reader is told that says something all the same.
const ONLY_READ: &str = "this socket is for reading: POST /v1/turns/ID/input, DELETE /v1/turns/ID";

/// `GET /v1/sessions/:id/events?after=N`: a page; with `Accept: text/event-stream`, or as a WebSocket, everything from
/// there on.
pub async fn events(
    request: HttpRequest,
    payload: web::Payload,
    session: web::Path<String>,
    runtime: web::Data<Runtime>,
) -> HttpResponse {
    let Ok(session) = SessionId::new(&session) else { return not_found("no such session") };
    // A stream that was cut goes on where its reader was.
    let last = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
    let after = match last.or_else(|| parameter(&request, "after")).map(str::parse::<u64>) {
        None => 0,
        Some(Ok(after)) => after,
        Some(Err(_)) => return problem::error(StatusCode::BAD_REQUEST, "after: expected the number of an event"),
    };
    let loading = runtime.clone();
    let whose = Whose::session(&session);
    // Not on this connection's future: a session that is loaded is loaded once.
    let follower = runtime.engine.spawn(async move { loading.engine.follow(&session, Seq(after)).await }).await;
    let Ok(Some(follower)) = follower else { return not_found("no such session") };
    if websocket::is_upgrade(&request) {
        return whose.calls(|| socket(&request, payload, follower, runtime));
    }
    let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/event-stream") { stream(follower, runtime) } else { page(follower).await }
}

async fn page(mut follower: Follower) -> HttpResponse {
    let (mut out, mut has_any) = (br#"{"events":["#.to_vec(), false);
    while !follower.is_at_end() && out.len() < PAGE {
        for followed in follower.next(PIECE).await {
            if std::mem::replace(&mut has_any, true) {
                out.push(b',');
            }
            write_followed(&mut out, &followed);
        }
    }
    out.extend_from_slice(if follower.is_at_end() { br#"],"more":false}"# } else { br#"],"more":true}"# });
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).content_type("application/json").body(out)
}

fn write_followed(out: &mut Vec<u8>, followed: &Followed) {
    match followed {
        Followed::Entry(one) => write_entry(out, one),
        Followed::Gap { from, to } => write_gap(out, *from, *to),
    }
}

fn number(followed: &Followed) -> u64 {
    match followed {
        Followed::Entry(one) => one.seq.0,
        Followed::Gap { to, .. } => to.0,
    }
}

fn stream(follower: Follower, runtime: web::Data<Runtime>) -> HttpResponse {
    let chunks = futures_util::stream::unfold((follower, runtime), |(mut follower, runtime)| async move {
        let piece = tokio::select! {
            () = runtime.stopping.cancelled() => return None,
            piece = tokio::time::timeout(SIGN_OF_LIFE, follower.next(PIECE)) => piece,
        };
        let mut text = Vec::new();
        match piece {
            Err(_) => text.extend_from_slice(b": still here\n\n"),
            Ok(entries) => {
                text.reserve(PIECE.min(entries.len() * 256));
                for one in &entries {
                    // Writing to memory cannot fail.
                    let _ = write!(text, "id: {}\ndata: ", number(one));
                    write_followed(&mut text, one);
                    text.extend_from_slice(b"\n\n");
                }
            }
        }
        Some((Ok::<_, Infallible>(Bytes::from(text)), (follower, runtime)))
    });
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .content_type("text/event-stream")
        .streaming(Box::pin(chunks))
}

/// The same over a WebSocket, each event as one text.
fn socket(
    request: &HttpRequest,
    payload: web::Payload,
    follower: Follower,
    runtime: web::Data<Runtime>,
) -> HttpResponse {
    let Upgraded { response, messages, .. } =
        match websocket::upgrade(request, payload, &runtime, Protocol::V1, MESSAGE) {
            Ok(upgraded) => upgraded,
            Err(answer) => return answer,
        };
    let (orders, taken) = mpsc::channel(ORDERS);
    let hangup = request.conn_data::<Hangup>().cloned();
    actix_web::rt::spawn(carried(listen(messages, orders, hangup)));
    let ping = runtime.limits.ping.map(|period| {
        let mut ping = tokio::time::interval(period);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        ping
    });
    // The answer's own body sends what is queued for it, message by message. This one is asked for more whenever the
    // socket takes more: what a reader leaves untaken stays in the log.
    response.map_body(|_, kept| {
        let writer =
            Writer { follower, runtime, taken, ping, text: Vec::new(), out: BytesMut::new(), over: false, kept };
        let pieces = futures_util::stream::unfold(writer, |mut writer| async move {
            let piece = writer.next().await?;
            Some((Ok::<_, Infallible>(piece), writer))
        });
        BodyStream::new(Box::pin(pieces)).boxed()
    })
}

/// What the reading end of a socket wants to be written.
enum Order {
    Pong(Bytes),
    Close(Option<CloseReason>),
}

/// The writing end of a socket.
struct Writer {
    follower: Follower,
    runtime: web::Data<Runtime>,
    taken: mpsc::Receiver<Order>,
    ping: Option<Interval>,
    /// Room for one event's text.
    text: Vec<u8>,
    out: BytesMut,
    over: bool,
    /// The body that this one stands for: dropped, it ends the messages too.
    #[expect(dead_code, reason = "it is only kept")]
    kept: BoxBody,
}

impl Writer {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let order = tokio::select! {
            biased;
            // The reading end goes without a word only when the connection is gone.
            order = self.taken.recv() => Some(order?),
            () = self.runtime.stopping.cancelled() => Some(Order::Close(Some(CloseCode::Away.into()))),
            () = tick(&mut self.ping) => None,
            entries = self.follower.next(PIECE) => {
                self.write(&entries);
                return Some(self.out.split().freeze());
            }
        };
        match order {
            None => Parser::write_message(&mut self.out, b"", OpCode::Ping, true, false),
            Some(Order::Pong(bytes)) => Parser::write_message(&mut self.out, &bytes, OpCode::Pong, true, false),
            Some(Order::Close(reason)) => {
                self.over = true;
                Parser::write_close(&mut self.out, reason, false);
            }
        }
        Some(self.out.split().freeze())
    }

    fn write(&mut self, entries: &[Followed]) {
        self.out.reserve(PIECE.min(entries.len() * 256));
        for one in entries {
            self.text.clear();
            write_followed(&mut self.text, one);
            Parser::write_message(&mut self.out, &self.text, OpCode::Text, true, false);
        }
        if self.text.capacity() > LONGEST_KEPT {
            self.text = Vec::new();
        }
    }
}

async fn tick(ping: &mut Option<Interval>) {
    match ping {
        Some(ping) => {
            ping.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// The reading end: answers pings, and ends the socket with the reader, or with its mistakes.
async fn listen(mut messages: Messages, orders: mpsc::Sender<Order>, hangup: Option<Hangup>) {
    let close = loop {
        let heard = tokio::select! {
            heard = messages.next() => heard,
            () = orders.closed() => break None,
        };
        match heard {
            Heard::Message(AggregatedMessage::Ping(bytes)) => {
                // A peer that takes none of them gets only the first few.
                let _ = orders.try_send(Order::Pong(bytes));
            }
            Heard::Message(AggregatedMessage::Text(_) | AggregatedMessage::Binary(_)) => {
                let reason = CloseReason { code: CloseCode::Policy, description: Some(ONLY_READ.to_owned()) };
                break Some(Some(reason));
            }
            Heard::Message(_) => {}
            Heard::Closing(reason) => break Some(reason),
            Heard::Gone => break None,
            Heard::Silence => {
                tracing::info!("a reader of events gave no sign of life and was cut");
                if let Some(hangup) = &hangup {
                    hangup.shutdown();
                }
                return;
            }
        }
    };
    let written = tokio::time::timeout(LAST_WORDS, async {
        if let Some(reason) = close {
            let _ = orders.send(Order::Close(reason)).await;
            orders.closed().await;
        }
    });
    let is_written = written.await.is_ok();
    drop(orders);
    if let Some(hangup) = hangup {
        if is_written { hangup.after_reading_away(LAST_WORDS).await } else { hangup.shutdown() }
    }
}
