//! Turns what a turn says, and how it ends, into RuntimeUse messages.
//!
//! Owns the server's half of the protocol: texts, metadata, and the bound on an error's size. Writes nothing itself.

use super::read::{Extras, Refusal};
use crate::json::{self, as_raw};
use crate::model::{Answer, Ending, Event, Fault, FaultCode, Limit, Outcome, RawJson, Seq};
use crate::wire::record::{EventRecord, stream_word};
use crate::wire::runtimeuse::{ResultData, ServerMessage};
use serde_json::json;
use std::time::Duration;

/// The client takes messages of at most 1 MiB; an error keeps well below it (N11).
const MAX_ERROR_BYTES: usize = 1_000_000;
/// What is left of an error's text when even that is too long.
const MAX_ERROR_TEXT: usize = 200_000;

/// What the frames of one request have in common.
#[derive(Debug, Clone)]
pub struct Context {
    /// Our additive fields of the request.
    pub extras: Extras,
    /// Whether the request's session has a name: its frames carry `seq`.
    pub is_named: bool,
}

impl Context {
    fn seq(&self, seq: Seq) -> Option<u64> {
        (self.is_named || self.extras.request_id.is_some()).then_some(seq.0)
    }

    /// The frames of one event, in order. Most events have one, or none for a client that did not opt in.
    pub fn event(&self, seq: Seq, event: &Event, out: &mut Vec<String>) {
        let request_id = self.extras.request_id.as_deref();
        let shown = self.seq(seq);
        match event {
            Event::Text { parts, .. } => {
                out.push(write(&ServerMessage::AssistantMessage { text_blocks: parts, request_id, seq: shown }));
            }
            Event::CommandOutput { stream, text, command } => out.push(write(&ServerMessage::CommandOutputMessage {
                stream: stream_word(*stream),
                text,
                command,
                request_id,
                seq: shown,
            })),
            Event::Warning { text, field } if self.extras.notices => out.push(write(&ServerMessage::NoticeMessage {
                level: "warning",
                text,
                field: field.as_deref(),
                request_id,
                seq: shown,
            })),
            _ => {}
        }
        if self.extras.events {
            let event = EventRecord::from(event);
            out.push(write(&ServerMessage::EventMessage { seq: seq.0, event, request_id }));
        }
    }

    /// The one terminal of a request.
    pub fn terminal(&self, seq: Seq, outcome: &Outcome) -> String {
        match &outcome.ending {
            Ending::Answered(Answer::Text(text)) => self.result(seq, outcome, ResultData::Text { text }),
            Ending::Answered(Answer::Structured(value)) if json::is_object(value.as_str()) => {
                self.result(seq, outcome, ResultData::StructuredOutput { structured_output: as_raw(value) })
            }
            Ending::Answered(Answer::Structured(_)) => {
                let text = "handler result: \"structured_output\" must be an object";
                self.error(Some(seq), text, &object(&json!({"error_name": "HandlerResultError"})))
            }
            Ending::Failed(fault) => self.error(Some(seq), &fault.message, &fault_metadata(fault)),
            Ending::Cancelled(_) => self.error(Some(seq), "Request cancelled", &empty()),
            Ending::TimedOut { limit, after, .. } => {
                self.error(Some(seq), &timeout_text(*limit, *after), &object(&json!({"error_name": "TimeoutError"})))
            }
            Ending::Interrupted => {
                let text = "the server ended while the request ran";
                self.error(Some(seq), text, &object(&json!({"error_name": "Interrupted"})))
            }
        }
    }

    fn result(&self, seq: Seq, outcome: &Outcome, data: ResultData<'_>) -> String {
        let metadata = outcome.metadata.clone().unwrap_or_else(empty);
        write(&ServerMessage::ResultMessage {
            metadata: as_raw(&metadata),
            data,
            request_id: self.extras.request_id.as_deref(),
            seq: self.seq(seq),
        })
    }

    /// An error that ends the request.
    pub fn error(&self, seq: Option<Seq>, text: &str, metadata: &RawJson) -> String {
        let shown = seq.and_then(|seq| self.seq(seq));
        error(text, metadata, None, self.extras.request_id.as_deref(), shown)
    }

    /// A fault that came before there was a turn.
    pub fn refused(&self, fault: &Fault) -> String {
        self.error(None, &fault.message, &fault_metadata(fault))
    }

    /// Sent every 15 s while the request runs.
    pub fn heartbeat(&self, elapsed: Duration) -> String {
        write(&ServerMessage::HeartbeatMessage {
            phase: "request_in_flight",
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            request_id: self.extras.request_id.as_deref(),
        })
    }
}

/// The answer to a message that is refused. `running` tells that it does not end the request in flight.
pub fn refusal(refusal: &Refusal, running: bool) -> String {
    let mut metadata = serde_json::Map::new();
    metadata.insert("error_name".to_owned(), json!("ValidationError"));
    if let Some(field) = &refusal.field {
        metadata.insert("field".to_owned(), json!(field));
    }
    let metadata = object(&serde_json::Value::Object(metadata));
    error(&refusal.text, &metadata, running.then_some(false), refusal.request_id.as_deref(), None)
}

/// The same as a notice, for a client that opted in.
pub fn refusal_notice(refusal: &Refusal) -> String {
    write(&ServerMessage::NoticeMessage {
        level: "error",
        text: &refusal.text,
        field: refusal.field.as_deref(),
        request_id: refusal.request_id.as_deref(),
        seq: None,
    })
}

/// The answer to a second request while one runs.
pub fn in_flight(request_id: Option<&str>) -> String {
    let metadata = object(&json!({"error_name": "Error"}));
    error("Received request while another is in flight!", &metadata, Some(false), request_id, None)
}

/// The last message of a session.
pub fn end_session_confirm() -> String {
    write(&ServerMessage::EndSessionConfirmMessage {})
}

fn timeout_text(limit: Limit, after: Duration) -> String {
    let ms = after.as_millis();
    match limit {
        Limit::Turn | Limit::Request => format!("Request timed out after {ms} ms"),
        Limit::Silence => format!("Request timed out after {ms} ms without a sign of life from the handler"),
    }
}

fn fault_metadata(fault: &Fault) -> RawJson {
    if let Some(metadata) = &fault.metadata {
        return metadata.clone();
    }
    let mut metadata = serde_json::Map::new();
    let name = match fault.code {
        FaultCode::HandlerFailed => "Error",
        FaultCode::HandlerExited => "HandlerExited",
        FaultCode::HandlerPanicked => "HandlerPanicked",
        FaultCode::HandlerProtocol => "HandlerResultError",
        _ => "ServerError",
    };
    metadata.insert("error_name".to_owned(), json!(name));
    metadata.insert("code".to_owned(), json!(fault.code.name()));
    metadata.insert("retryable".to_owned(), json!(fault.retryable));
    if let Some(process) = &fault.process {
        if let Some(code) = process.exit_code {
            metadata.insert("exit_code".to_owned(), json!(code));
        }
        if let Some(signal) = process.signal {
            metadata.insert("signal".to_owned(), json!(signal));
        }
        if !process.stderr_tail.is_empty() {
            metadata.insert("stderr_tail".to_owned(), json!(process.stderr_tail));
        }
    }
    object(&serde_json::Value::Object(metadata))
}

fn error(text: &str, metadata: &RawJson, terminal: Option<bool>, request_id: Option<&str>, seq: Option<u64>) -> String {
    let frame = |error: &str, metadata: &RawJson| {
        write(&ServerMessage::ErrorMessage { error, metadata: as_raw(metadata), terminal, request_id, seq })
    };
    let whole = frame(text, metadata);
    if whole.len() <= MAX_ERROR_BYTES {
        return whole;
    }
    // Metadata goes first: the text is what a person reads.
    let note = object(&json!({"metadata_truncated": true, "metadata_bytes": metadata.as_str().len()}));
    let without = frame(text, &note);
    if without.len() <= MAX_ERROR_BYTES {
        return without;
    }
    let cut = &text[..text.floor_char_boundary(MAX_ERROR_TEXT.min(text.len()))];
    frame(&format!("{cut}... [truncated {} bytes]", text.len() - cut.len()), &note)
}

fn empty() -> RawJson {
    RawJson::from_valid("{}")
}

fn object(value: &serde_json::Value) -> RawJson {
    RawJson::from_valid(value.to_string())
}

fn write(message: &ServerMessage<'_>) -> String {
    // Only strings, numbers and raw JSON are in there: writing them cannot fail.
    serde_json::to_string(message).unwrap_or_default()
}
