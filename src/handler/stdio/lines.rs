//! What a handler's lines mean: events, results, errors; and how a turn becomes a line.
//!
//! Owns the translation between the stdio protocol's wire and the model. Pure: no process, no waiting.

use super::super::{Failure, Reply, Turn};
use crate::json::{self, as_raw};
use crate::model::{Answer, Event, Fault, FaultCode, RawJson, StateChange, Usage};
use crate::wire::handler as wire;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What a program can do besides one turn at a time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Capabilities {
    /// It runs several turns at once, and answers pings.
    pub concurrent: bool,
    /// It can stop a turn.
    pub cancel: bool,
    /// It takes what the user says while a turn runs.
    pub steer: bool,
}

impl Capabilities {
    /// From the words of its first line.
    pub fn of(words: &[String]) -> Self {
        let has = |word: &str| words.iter().any(|one| one == word);
        Self { concurrent: has("concurrent"), cancel: has("cancel"), steer: has("steer") }
    }
}

/// A line, understood.
pub enum Said {
    Ready {
        name: Option<String>,
        capabilities: Vec<String>,
    },
    Pong {
        n: u64,
    },
    Event {
        turn: String,
        event: Event,
    },
    /// A sign of life that is no event of its own.
    Log {
        turn: Option<String>,
        level: tracing::Level,
        text: String,
    },
    Ended {
        turn: String,
        end: Result<Reply, Failure>,
    },
    /// An error that belongs to no turn: the handler cannot go on.
    Broken {
        message: String,
    },
    /// JSON, but nothing we know. It is logged.
    Unknown {
        reason: String,
    },
}

/// Reads one line that looks like JSON. `None` when it is not: then it is a log line.
pub fn read(line: &[u8]) -> Option<Said> {
    let text = json::check(line).ok()?;
    let head: wire::Head<'_> = serde_json::from_str(text).ok()?;
    Some(match head.id {
        None => of_process(&head.kind, text),
        Some(id) => of_turn(&head.kind, id.into_owned(), text),
    })
}

fn unknown(reason: impl Into<String>) -> Said {
    Said::Unknown { reason: reason.into() }
}

/// The fields of a line, or what is wrong with them. Values are never part of the sentence.
fn fields<'a, T: Deserialize<'a>>(kind: &str, text: &'a str) -> Result<T, Said> {
    serde_json::from_str(text).map_err(|error| unknown(format!("a {kind:?} line has a wrong field: {error}")))
}

fn of_process(kind: &str, text: &str) -> Said {
    let read = || match kind {
        "ready" => {
            let ready: wire::Ready = fields(kind, text)?;
            Ok(Said::Ready { name: ready.name, capabilities: ready.capabilities })
        }
        "pong" => fields::<wire::Pong>(kind, text).map(|pong| Said::Pong { n: pong.n }),
        "log" => log(None, kind, text),
        "error" => {
            let error: wire::ErrorLine<'_> = fields(kind, text)?;
            Ok(Said::Broken { message: error.message.unwrap_or_else(|| "it gave no reason".to_owned()) })
        }
        _ => Err(unknown(format!("a line of type {kind:?} names no turn"))),
    };
    read().unwrap_or_else(|unknown| unknown)
}

fn log(turn: Option<String>, kind: &str, text: &str) -> Result<Said, Said> {
    let line: wire::LogLine = fields(kind, text)?;
    let level = match line.level.as_deref() {
        Some("debug") => tracing::Level::DEBUG,
        Some("warn") => tracing::Level::WARN,
        Some("error") => tracing::Level::ERROR,
        _ => tracing::Level::INFO,
    };
    Ok(Said::Log { turn, level, text: line.text })
}

fn of_turn(kind: &str, turn: String, text: &str) -> Said {
    let read = || match kind {
        "result" => Ok(Said::Ended { turn: turn.clone(), end: result(text) }),
        "error" => Ok(Said::Ended { turn: turn.clone(), end: Err(error(text)) }),
        "log" => log(Some(turn.clone()), kind, text),
        _ => Ok(Said::Event { turn: turn.clone(), event: event(kind, text)? }),
    };
    read().unwrap_or_else(|unknown| unknown)
}

fn event(kind: &str, text: &str) -> Result<Event, Said> {
    Ok(match kind {
        "text" => {
            let line: wire::TextLine = fields(kind, text)?;
            let parts = line.parts.or_else(|| line.text.map(|text| vec![text]));
            Event::Text { block: line.block.map(Into::into), parts: parts.unwrap_or_default() }
        }
        "delta" => {
            let line: wire::DeltaLine = fields(kind, text)?;
            match line.block {
                Some(block) if line.discard => Event::Discarded { block: block.into() },
                block => Event::TextDelta { block: block.map(Into::into), text: line.text },
            }
        }
        "thinking" => Event::Thinking { text: fields::<wire::ThinkingLine>(kind, text)?.text },
        "tool_use" => {
            let line: wire::ToolUseLine<'_> = fields(kind, text)?;
            let input = line.input.map_or_else(|| RawJson::from_valid("{}"), json::from_raw);
            Event::ToolUse { id: line.call_id, name: line.name, input }
        }
        "tool_result" => {
            let line: wire::ToolResultLine = fields(kind, text)?;
            let wire::ToolResultLine { call_id: id, output, is_error, exit_code } = line;
            Event::ToolResult { id, output, is_error, exit_code }
        }
        "progress" => {
            let line: wire::ProgressLine<'_> = fields(kind, text)?;
            let kind = line.kind.unwrap_or_else(|| "progress".to_owned());
            Event::Progress { kind, detail: line.detail.map(json::from_raw) }
        }
        "usage" => {
            let line: wire::UsageLine = fields(kind, text)?;
            Event::Usage(Usage {
                input_tokens: line.input_tokens,
                output_tokens: line.output_tokens,
                cached_tokens: line.cached_tokens,
                reasoning_tokens: line.reasoning_tokens,
                cost_usd: line.cost_usd,
            })
        }
        "warning" => {
            let line: wire::WarningLine = fields(kind, text)?;
            Event::Warning { text: line.text, field: line.field }
        }
        _ => return Err(unknown(format!("unknown line type {kind:?}"))),
    })
}

fn protocol_fault(text: impl Into<String>) -> Failure {
    Fault::new(FaultCode::HandlerProtocol, text).into()
}

/// A `result` line always ends its turn: a wrong one with a fault that names the defect.
fn result(text: &str) -> Result<Reply, Failure> {
    let line: wire::ResultLine<'_> =
        serde_json::from_str(text).map_err(|error| protocol_fault(format!("handler result: {error}")))?;
    let answer = match (line.text.filter(|raw| raw.get() != "null"), line.structured_output) {
        (Some(raw), None) => Answer::Text(
            serde_json::from_str(raw.get())
                .map_err(|_| protocol_fault(format!("handler result: \"text\" must be a string, got {}", kind(raw))))?,
        ),
        (None, Some(raw)) => Answer::Structured(json::from_raw(raw)),
        (Some(_), Some(_)) => {
            return Err(protocol_fault("handler result: expected \"text\" or \"structured_output\", got both"));
        }
        (None, None) => {
            return Err(protocol_fault("handler result: expected \"text\" or \"structured_output\", got neither"));
        }
    };
    if let Some(metadata) = line.metadata.filter(|raw| !json::is_object(raw.get())) {
        return Err(protocol_fault(format!("handler result: \"metadata\" must be an object, got {}", kind(metadata))));
    }
    Ok(Reply { answer, state: state(line.state), metadata: line.metadata.map(json::from_raw) })
}

fn error(text: &str) -> Failure {
    let line: wire::ErrorLine<'_> = match serde_json::from_str(text) {
        Ok(line) => line,
        Err(error) => return protocol_fault(format!("handler error: {error}")),
    };
    let message = line.message.unwrap_or_else(|| "the handler failed and gave no reason".to_owned());
    let mut fault = Fault::new(FaultCode::HandlerFailed, message);
    fault.retryable = line.retryable.unwrap_or(false);
    let given = line.metadata.filter(|raw| json::is_object(raw.get())).map(json::from_raw);
    // A handler that only has a word of its own for the error still tells it.
    fault.metadata = given.or_else(|| {
        let code = line.code.as_deref()?;
        Some(RawJson::from_valid(format!(r#"{{"error_name":"Error","code":{}}}"#, json::string(code))))
    });
    Failure { fault, state: state(line.state) }
}

fn state(raw: Option<&RawValue>) -> StateChange {
    match raw {
        None => StateChange::Keep,
        Some(raw) if raw.get() == "null" => StateChange::Clear,
        Some(raw) => StateChange::Set(json::from_raw(raw)),
    }
}

fn kind(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A line to the handler, with its line end.
pub fn write(line: &wire::ToHandler<'_>) -> Vec<u8> {
    // Only strings, numbers and raw JSON are in there: writing them cannot fail.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The line that asks for a turn.
pub fn turn(turn: &Turn) -> Vec<u8> {
    let request = &*turn.request;
    let state = turn.state.as_ref().map(OneLine::of);
    let format = request.output_format.as_ref().map(OneLine::of);
    let metadata = request.metadata.as_ref().map(OneLine::of);
    let schema = format.as_ref().and_then(|format| schema_of(format.raw()));
    write(&wire::ToHandler::Turn(wire::TurnLine {
        id: turn.id.as_str(),
        prompt: &request.prompt,
        state: state.as_ref().map(OneLine::raw),
        session_id: turn.session.as_str(),
        attempt: turn.attempt,
        source_id: request.source_id.as_deref(),
        system_prompt: request.system_prompt.as_deref(),
        model: request.model.as_deref(),
        output_format: format.as_ref().map(OneLine::raw),
        output_schema: schema,
        attachments: request
            .attachments
            .iter()
            .map(|attachment| wire::AttachmentLine {
                kind: attachment.kind,
                file_id: attachment.file_id.as_deref(),
                path: attachment.path.as_deref(),
                filename: attachment.filename.as_deref(),
                mime_type: attachment.mime_type.as_deref(),
                url: attachment.url.as_deref(),
                data: attachment.data.as_deref(),
            })
            .collect(),
        env: request.env.as_ref().map(|env| env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect()),
        secrets: request.secrets.iter().map(crate::redact::Secret::expose).collect(),
        metadata: metadata.as_ref().map(OneLine::raw),
        traceparent: request.trace.as_ref().map(|trace| trace.parent()),
        tracestate: request.trace.as_ref().and_then(|trace| trace.state()),
    }))
}

/// Raw JSON that may stand in a line: as it came, but for line breaks between its tokens.
enum OneLine<'a> {
    AsItCame(&'a RawValue),
    Joined(Box<RawValue>),
}

impl<'a> OneLine<'a> {
    fn of(raw: &'a RawJson) -> Self {
        match json::one_line(raw.as_str()) {
            Cow::Borrowed(_) => Self::AsItCame(as_raw(raw)),
            Cow::Owned(joined) => {
                RawValue::from_string(joined).map_or_else(|_| Self::AsItCame(as_raw(raw)), Self::Joined)
            }
        }
    }

    fn raw(&self) -> &RawValue {
        match self {
            Self::AsItCame(raw) => raw,
            Self::Joined(raw) => raw,
        }
    }
}

/// The JSON Schema inside an output format.
fn schema_of(format: &RawValue) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Format<'a> {
        #[serde(borrow, default)]
        schema: Option<&'a RawValue>,
    }
    serde_json::from_str::<Format<'_>>(format.get()).ok()?.schema
}
