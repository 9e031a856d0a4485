//! What a turn's outcome looks like on Dari's wire, and when it counts as delivered.
//!
//! Owns the body's bytes: they are made from the recorded outcome alone, so every repeat gets the same ones.

use super::Events;
use super::input::Canned;
use crate::api::hangup::Hangup;
use crate::api::problem;
use crate::engine::TurnRecord;
use crate::failpoint;
use crate::json;
use crate::model::{Answer, CancelReason, Ending, FaultCode, Limit, Outcome, StateChange, ToolCall, ToolResult};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use std::borrow::Cow;
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
pub fn of(receipt: Receipt, outcome: &Outcome, events: Events) -> HttpResponse {
    failpoint::reach("answer-made");
    match body(outcome, events) {
        Ok(text) => ok().body(BoxBody::new(Delivery { bytes: Some(text.into()), receipt })),
        Err((status, detail)) => problem::detail(status, detail),
    }
}

/// The same, with a blank at every period until it is there: for proxies that cut silent connections. The status is
/// 200 whatever comes.
pub fn with_blanks(receipt: Receipt, period: Duration, events: Events) -> HttpResponse {
    let (chunks, taken) = mpsc::channel(1);
    let turn = receipt.turn.clone();
    actix_web::rt::spawn(async move {
        let outcome = loop {
            match tokio::time::timeout(period, turn.outcome()).await {
                Ok(outcome) => break outcome,
                Err(_) if chunks.send(Bytes::from_static(b" ")).await.is_err() => return,
                Err(_) => {}
            }
        };
        let text = body(&outcome, events)
            .unwrap_or_else(|(_, detail)| format!(r#"{{"detail":{}}}"#, json::string(detail)).into_bytes());
        // Nobody takes it: the connection is gone.
        let _ = chunks.send(text.into()).await;
    });
    ok().body(BoxBody::new(Blanks { chunks: taken, receipt }))
}

fn ok() -> HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::CONTENT_TYPE, JSON));
    answer
}

fn body(outcome: &Outcome, events: Events) -> Result<Vec<u8>, (StatusCode, &'static str)> {
    let text = text(outcome)?;
    let state_bytes = if let StateChange::Set(state) = &outcome.state { state.as_str().len() } else { 0 };
    let mut body = Vec::with_capacity(text.len() + text.len() / 8 + state_bytes + 32);
    if events == Events::Off {
        body.extend_from_slice(br#"{"text":"#);
        json::write_string(&mut body, &text);
    } else {
        // Never beside a text: the platform might record the answer twice.
        body.extend_from_slice(br#"{"events":["#);
        for call in &outcome.tools {
            tool_events(&mut body, call, events);
        }
        body.extend_from_slice(br#"{"type":"assistant.message_completed","data":{"content":[{"type":"text","text":"#);
        json::write_string(&mut body, &text);
        body.extend_from_slice(br#"}]}}],"action":{"type":"wait_for_user"}"#);
    }
    match &outcome.state {
        StateChange::Keep => {}
        StateChange::Clear => body.extend_from_slice(br#","state":null"#),
        StateChange::Set(state) => {
            body.extend_from_slice(br#","state":"#);
            body.extend_from_slice(state.as_str().as_bytes());
        }
    }
    body.push(b'}');
    Ok(body)
}

/// The events of one call, each with a comma behind it.
fn tool_events(body: &mut Vec<u8>, call: &ToolCall, events: Events) {
    let mut event = |kind: &str, result: Option<&ToolResult>| {
        body.extend_from_slice(br#"{"type":"#);
        json::write_string(body, kind);
        body.extend_from_slice(br#","data":{"tool_call_id":"#);
        json::write_string(body, &call.id);
        body.extend_from_slice(br#","tool_name":"#);
        json::write_string(body, &call.name);
        body.extend_from_slice(br#","arguments":"#);
        body.extend_from_slice(json::compact(call.input.as_str()).as_bytes());
        if let Some(result) = result {
            body.extend_from_slice(br#","result":{"output":"#);
            json::write_string(body, &result.output);
            body.extend_from_slice(br#"},"is_error":"#);
            body.extend_from_slice(if result.is_error { b"true" } else { b"false" });
        }
        body.extend_from_slice(b"}},");
    };
    if events == Events::All {
        event("tool.call_requested", None);
    }
    if let Some(result) = &call.result {
        event(if result.is_error { "tool.call_failed" } else { "tool.call_completed" }, Some(result));
    }
}

fn text(outcome: &Outcome) -> Result<Cow<'_, str>, (StatusCode, &'static str)> {
    Ok(match &outcome.ending {
        Ending::Answered(Answer::Text(text)) if text.trim().is_empty() => "The agent gave no answer.".into(),
        Ending::Answered(Answer::Text(text)) => text.into(),
        Ending::Answered(Answer::Structured(value)) => json::compact(value.as_str()),
        Ending::Answered(answer @ Answer::Commands(_)) => answer.plain(),
        Ending::Failed(fault) if fault.code == FaultCode::Internal => {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, "internal error"));
        }
        Ending::Failed(fault) if fault.code == FaultCode::Draining => {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
        }
        Ending::Failed(fault) if fault.message.trim().is_empty() => "The turn failed.".into(),
        Ending::Failed(fault) => fault.message.as_str().into(),
        Ending::Cancelled(CancelReason::Draining) | Ending::Interrupted => {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
        }
        Ending::Cancelled(_) => "The turn was cancelled.".into(),
        Ending::TimedOut { limit, after, partial } => cut(*limit, *after, partial).into(),
    })
}

fn cut(limit: Limit, after: Duration, partial: &str) -> String {
    let seconds = after.as_secs_f64();
    let why = match limit {
        Limit::Silence => format!("The turn was cut: the agent gave no sign of life for {seconds} s."),
        Limit::Turn | Limit::Request => format!("The turn was cut: it took longer than {seconds} s."),
    };
    if partial.trim().is_empty() { why } else { format!("{partial}\n\n{why}") }
}

/// Who waits for an answer, and for which.
pub struct Receipt {
    pub turn: Arc<TurnRecord>,
    pub caller: Option<Hangup>,
}

impl Receipt {
    /// The connection has polled the answer to its end, so it counts as delivered, unless the caller has gone meanwhile.
    /// Bodies of callers who went before are dropped unpolled. But when the caller's end and the turn's come at once (on
    /// a busy machine, or after a pause), the HTTP library still polls the body once, and then drops it.
    fn sign(&self) {
        if !self.caller.as_ref().is_some_and(Hangup::is_gone) {
            self.turn.mark_delivered();
        }
    }
}

/// The body of an answer.
struct Delivery {
    bytes: Option<Bytes>,
    receipt: Receipt,
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
        this.receipt.sign();
        Poll::Ready(None)
    }
}

/// The body of an answer with blanks before it.
struct Blanks {
    chunks: mpsc::Receiver<Bytes>,
    receipt: Receipt,
}

impl MessageBody for Blanks {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        let chunk = this.chunks.poll_recv(cx);
        // The answer is the last thing that comes.
        if matches!(chunk, Poll::Ready(None)) {
            this.receipt.sign();
        }
        chunk.map(|chunk| chunk.map(Ok))
    }
}
