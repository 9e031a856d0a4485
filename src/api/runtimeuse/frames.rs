//! Turns what a turn says, and how it ends, into RuntimeUse messages.
//!
//! Owns the server's half of the protocol: texts, metadata, and the bound on an error's size. Writes nothing itself.

use super::read::{Extras, Refusal};
use super::results;
use crate::artifact::handout::Announcement;
use crate::failpoint;
use crate::json::{self, as_raw};
use crate::model::{
    Answer, ArtifactFailure, CommandEnd, Ending, Event, Fault, FaultCode, Limit, Outcome, RawJson, Seq,
};
use crate::wire::record::{EventRecord, stream_word};
use crate::wire::runtimeuse::{
    AnsweredBefore, ArtifactFailureItem, CommandItem, FailedCommand, ResultData, ServerMessage,
};
use serde_json::json;
use std::time::Duration;

/// The client takes messages of at most 1 MiB; an error keeps well below it (N11).
const MAX_ERROR_BYTES: usize = 1_000_000;
/// What is left of an error's text when even that is too long.
const MAX_ERROR_TEXT: usize = 200_000;

/// How much of a message may tell what was not uploaded.
const MAX_FAILURES_BYTES: usize = 200_000;

/// What the frames of one request have in common.
#[derive(Debug, Clone)]
pub struct Context {
    /// Our additive fields of the request.
    pub extras: Extras,
    /// Whether the request's session has a name: its frames carry `seq`.
    pub is_named: bool,
}

impl Context {
    /// What a client goes on behind is the last frame of an entry: only that one tells its number, where there are
    /// several and a lost socket could come between them.
    fn seq_before_more(&self, seq: Seq, more: bool) -> Option<u64> {
        if self.is_named && more { None } else { self.seq(seq) }
    }

    fn seq(&self, seq: Seq) -> Option<u64> {
        (self.is_named || self.extras.request_id.is_some()).then_some(seq.0)
    }

    /// The frames of one event, in order. Most events have one, or none for a client that did not opt in.
    pub fn event(&self, seq: Seq, event: &Event, out: &mut Vec<String>) {
        let request_id = self.extras.request_id.as_deref();
        let shown = self.seq_before_more(seq, self.extras.events);
        match event {
            Event::Text { parts, .. } => {
                out.push(write(&ServerMessage::AssistantMessage { text_blocks: parts, request_id, seq: shown }));
            }
            Event::CommandOutput { stream, text, command } => {
                self.output(stream_word(*stream), text, command, seq, self.extras.events, out);
            }
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

    /// Output as one frame; as more where one would be too long for the client. `more` frames of its entry follow.
    fn output(&self, stream: &str, text: &str, command: &str, seq: Seq, more: bool, out: &mut Vec<String>) {
        let request_id = self.extras.request_id.as_deref();
        let shown = self.seq_before_more(seq, more);
        let frame = write(&ServerMessage::CommandOutputMessage { stream, text, command, request_id, seq: shown });
        let half = text.floor_char_boundary(text.len() / 2);
        if frame.len() <= self.extras.max_frame_bytes || half == 0 {
            out.push(frame);
        } else {
            self.output(stream, &text[..half], command, seq, true, out);
            self.output(stream, &text[half..], command, seq, more, out);
        }
    }

    /// Asks where a complete file is to be uploaded.
    pub fn upload_request(context: Option<&Self>, file: &Announcement) -> String {
        write(&ServerMessage::ArtifactUploadRequestMessage {
            filename: &file.filename,
            filepath: &file.filepath,
            size: file.size,
            request_id: context.and_then(|context| context.extras.request_id.as_deref()),
        })
    }

    /// The one terminal of a request.
    pub fn terminal(&self, seq: Seq, outcome: &Outcome) -> String {
        failpoint::reach("answer-made");
        match &outcome.ending {
            Ending::Answered(Answer::Text(text)) => self.result(seq, outcome, ResultData::Text { text }),
            Ending::Answered(Answer::Structured(value)) if json::is_object(value.as_str()) => {
                self.result(seq, outcome, ResultData::StructuredOutput { structured_output: as_raw(value) })
            }
            Ending::Answered(Answer::Structured(_)) => {
                let text = "handler result: \"structured_output\" must be an object";
                self.failed(seq, outcome, text, &object(&json!({"error_name": "HandlerResultError"})))
            }
            Ending::Answered(Answer::Commands(ends)) => self.commands(seq, outcome, ends),
            Ending::Failed(fault) => self.failed(seq, outcome, &fault.message, &fault_metadata(fault)),
            Ending::Cancelled(_) => self.failed(seq, outcome, "Request cancelled", &empty()),
            Ending::TimedOut { limit, after, .. } => {
                let metadata = object(&json!({"error_name": "TimeoutError"}));
                self.failed(seq, outcome, &timeout_text(*limit, *after), &metadata)
            }
            Ending::Interrupted => {
                let text = "the server ended while the request ran";
                self.failed(seq, outcome, text, &object(&json!({"error_name": "Interrupted"})))
            }
        }
    }

    fn commands(&self, seq: Seq, outcome: &Outcome, ends: &[CommandEnd]) -> String {
        let failures = failures(&outcome.artifact_failures);
        let frame = |results: &[CommandItem<'_>]| {
            write(&ServerMessage::CommandExecutionResultMessage {
                results,
                artifact_failures: &failures,
                request_id: self.extras.request_id.as_deref(),
                seq: self.seq(seq),
            })
        };
        let empty = frame(&[]).len();
        frame(&results::items(ends, self.extras.max_frame_bytes.saturating_sub(empty + 1)))
    }

    /// The error that a request ended with.
    fn failed(&self, seq: Seq, outcome: &Outcome, text: &str, metadata: &RawJson) -> String {
        let request_id = self.extras.request_id.as_deref();
        error(text, metadata, &failures(&outcome.artifact_failures), None, request_id, self.seq(seq))
    }

    fn result(&self, seq: Seq, outcome: &Outcome, data: ResultData<'_>) -> String {
        let metadata = outcome.metadata.clone().unwrap_or_else(empty);
        write(&ServerMessage::ResultMessage {
            metadata: as_raw(&metadata),
            data,
            artifact_failures: &failures(&outcome.artifact_failures),
            request_id: self.extras.request_id.as_deref(),
            seq: self.seq(seq),
        })
    }

    /// A fault that came before there was a turn.
    pub fn refused(&self, fault: &Fault) -> String {
        error(&fault.message, &fault_metadata(fault), &[], None, self.extras.request_id.as_deref(), None)
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
    error(&refusal.text, &metadata, &[], running.then_some(false), refusal.request_id.as_deref(), None)
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
    error("Received request while another is in flight!", &metadata, &[], Some(false), request_id, None)
}

/// The last message of a session.
pub fn end_session_confirm(failed: &[ArtifactFailure]) -> String {
    write(&ServerMessage::EndSessionConfirmMessage { artifact_failures: &failures(failed) })
}

/// As many as fit beside the rest of a message.
fn failures(failures: &[ArtifactFailure]) -> Vec<ArtifactFailureItem<'_>> {
    let mut room = MAX_FAILURES_BYTES;
    let fits = |failure: &&ArtifactFailure| {
        // Twice: a path may be written with escapes.
        let bytes = 2 * (failure.path.len() + failure.error.len()) + 32;
        room = room.saturating_sub(bytes);
        room > 0
    };
    failures.iter().take_while(fits).map(failure_item).collect()
}

fn failure_item(failure: &ArtifactFailure) -> ArtifactFailureItem<'_> {
    ArtifactFailureItem { filepath: &failure.path, error: &failure.error }
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
    if fault.command.is_some() || fault.answered.is_some() {
        return command_metadata(fault);
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

/// How a command failed, and what the handler had answered before it.
fn command_metadata(fault: &Fault) -> RawJson {
    let item = fault.command.as_deref().map(|end| CommandItem {
        stdout_tail: &end.stdout_tail,
        stderr_tail: &end.stderr_tail,
        ..results::item(end)
    });
    let empty = empty();
    let result = fault.answered.as_deref().and_then(|(answer, metadata)| {
        let data = match answer {
            Answer::Text(text) => ResultData::Text { text },
            Answer::Structured(value) => ResultData::StructuredOutput { structured_output: as_raw(value) },
            Answer::Commands(_) => return None,
        };
        Some(AnsweredBefore { data, metadata: as_raw(metadata.as_ref().unwrap_or(&empty)) })
    });
    let metadata = FailedCommand { error_name: "CommandError", item, result };
    RawJson::from_valid(serde_json::to_string(&metadata).unwrap_or_default())
}

fn error(
    text: &str,
    metadata: &RawJson,
    artifact_failures: &[ArtifactFailureItem<'_>],
    terminal: Option<bool>,
    request_id: Option<&str>,
    seq: Option<u64>,
) -> String {
    let frame = |error: &str, metadata: &RawJson| {
        let metadata = as_raw(metadata);
        write(&ServerMessage::ErrorMessage { error, metadata, artifact_failures, terminal, request_id, seq })
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
