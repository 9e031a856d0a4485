//! What a turn's outcome looks like on Dari's wire, and when it counts as delivered.
//!
//! Owns the body's bytes: they are made from the recorded outcome alone, so every repeat gets the same ones.

use super::input::Canned;
use crate::api::problem;
use crate::engine::TurnRecord;
use crate::json;
use crate::model::{Answer, CancelReason, Ending, FaultCode, Limit, Outcome, StateChange};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

const JSON: &str = "application/json";

/// The answer to something that is no user turn; the state is left alone.
pub fn canned(canned: Canned) -> HttpResponse {
    let body = match canned {
        Canned::Empty => "{}",
        Canned::ResultNotRequested => r#"{"text":"No tool or model result was requested."}"#,
    };
    HttpResponse::Ok().content_type(JSON).body(body)
}

/// The answer that a turn came to.
pub fn of(turn: Arc<TurnRecord>, outcome: &Outcome) -> HttpResponse {
    match body(outcome) {
        Ok(text) => ok().body(BoxBody::new(Delivery { bytes: Some(text.into()), turn })),
        Err((status, detail)) => problem::detail(status, detail),
    }
}

/// The same, with a blank at every period until it is there: for proxies that cut silent connections. The status is
/// 200 whatever comes.
pub fn with_blanks(turn: Arc<TurnRecord>, period: Duration) -> HttpResponse {
    let (chunks, taken) = mpsc::channel(1);
    actix_web::rt::spawn(async move {
        let outcome = loop {
            match tokio::time::timeout(period, turn.outcome()).await {
                Ok(outcome) => break outcome,
                Err(_) if chunks.send(Bytes::from_static(b" ")).await.is_err() => return,
                Err(_) => {}
            }
        };
        let text = body(&outcome).unwrap_or_else(|(_, detail)| format!(r#"{{"detail":{}}}"#, json::string(detail)));
        // Taken by the connection, which then asks for more: the last chunk was written.
        if chunks.send(text.into()).await.is_ok() && chunks.reserve().await.is_ok() {
            turn.mark_delivered();
        }
    });
    ok().body(BoxBody::new(Blanks(taken)))
}

fn ok() -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::CONTENT_TYPE, JSON));
    answer
}

fn body(outcome: &Outcome) -> Result<String, (StatusCode, &'static str)> {
    let text = match &outcome.ending {
        Ending::Answered(Answer::Text(text)) if text.trim().is_empty() => "The agent gave no answer.".to_owned(),
        Ending::Answered(Answer::Text(text)) => text.clone(),
        Ending::Answered(Answer::Structured(value)) => json::compact(value.as_str()).into_owned(),
        Ending::Failed(fault) if fault.code == FaultCode::Internal => {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, "internal error"));
        }
        Ending::Failed(fault) if fault.code == FaultCode::Draining => {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
        }
        Ending::Failed(fault) if fault.message.trim().is_empty() => "The turn failed.".to_owned(),
        Ending::Failed(fault) => fault.message.clone(),
        Ending::Cancelled(CancelReason::Draining) | Ending::Interrupted => {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
        }
        Ending::Cancelled(_) => "The turn was cancelled.".to_owned(),
        Ending::TimedOut { limit, after, partial } => cut(*limit, *after, partial),
    };
    let mut body = format!(r#"{{"text":{}"#, json::string(&text));
    match &outcome.state {
        StateChange::Keep => {}
        StateChange::Clear => body.push_str(r#","state":null"#),
        StateChange::Set(state) => {
            body.push_str(r#","state":"#);
            body.push_str(state.as_str());
        }
    }
    body.push('}');
    Ok(body)
}

fn cut(limit: Limit, after: Duration, partial: &str) -> String {
    let seconds = after.as_secs_f64();
    let why = match limit {
        Limit::Silence => format!("The turn was cut: the agent gave no sign of life for {seconds} s."),
        Limit::Turn | Limit::Request => format!("The turn was cut: it took longer than {seconds} s."),
    };
    if partial.trim().is_empty() { why } else { format!("{partial}\n\n{why}") }
}

/// The body of an answer. It counts as delivered when the connection has polled it to its end; a caller who went away
/// before drops it unpolled.
struct Delivery {
    bytes: Option<Bytes>,
    turn: Arc<TurnRecord>,
}

impl MessageBody for Delivery {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        if let Some(bytes) = this.bytes.take() {
            return Poll::Ready(Some(Ok(bytes)));
        }
        this.turn.mark_delivered();
        Poll::Ready(None)
    }
}

struct Blanks(mpsc::Receiver<Bytes>);

impl MessageBody for Blanks {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        self.get_mut().0.poll_recv(cx).map(|chunk| chunk.map(Ok))
    }
}
