//! What a store keeps of a turn besides its events: what was asked, and how it ended.
//!
//! Owns the form. An answer comes back from it as it went in, to the byte; `env` and secrets are not in it.

use crate::json::{as_raw, from_raw, quote};
use crate::model::{
    Answer, ArtifactFailure, CancelReason, CommandEnd, Conflict, CutBy, Ending, Event, Fault, FaultCode, Fingerprint,
    Limit, Outcome, ProcessEnd, RawJson, Repeat, StateChange, StateIn, ToolCall, ToolResult, TurnRequest,
};
use crate::wire::record::{EventRecord, SeriesReader};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;

/// What is written of the state that a request brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenState {
    /// The session's own one counts, or the one that came is known to be the same.
    Keep,
    /// The one that came, whatever it is.
    Change,
}

/// What was asked, as far as a reader of the log wants to know it, or a retry is told by it.
#[derive(Debug, Serialize, Deserialize)]
struct AcceptedRecord<'a> {
    /// 1, or more after a crash.
    attempt: u32,
    /// The protocol it came by.
    #[serde(borrow)]
    protocol: Cow<'a, str>,
    /// The caller's own name for it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    source_id: Option<Cow<'a, str>>,
    /// The user's text.
    #[serde(borrow, serialize_with = "quote::text")]
    prompt: Cow<'a, str>,
    /// The model.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    model: Option<Cow<'a, str>>,
    /// The caller's key for it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    /// The fingerprint of what was asked, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// The same key with another body is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    refuses: bool,
    /// As in an outcome; absent is `keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
}

impl<'a> AcceptedRecord<'a> {
    /// Of a request. `body` has room for its fingerprint.
    fn new(attempt: u32, request: &'a TurnRequest, given: GivenState, hex: &'a mut String) -> Self {
        let (key, body, refuses) = match &request.repeat {
            Repeat::Never => (None, None, false),
            Repeat::ByBody { body } => (None, Some(body), false),
            Repeat::ById { id, body, conflict } => (Some(id.as_str()), Some(body), *conflict == Conflict::Refuse),
        };
        let body = body.map(|body| {
            *hex = format!("{:032x}", u128::from_be_bytes(body.0));
            hex.as_str()
        });
        let (state, value) = match (&request.state, given) {
            (StateIn::Given(state), GivenState::Change) => match state {
                Some(value) => (Some("set"), Some(as_raw(value))),
                None => (Some("clear"), None),
            },
            _ => (None, None),
        };
        Self {
            attempt,
            protocol: request.protocol.into(),
            source_id: request.source_id.as_deref().map(Cow::from),
            prompt: request.prompt.as_str().into(),
            model: request.model.as_deref().map(Cow::from),
            key: key.map(Cow::from),
            body,
            refuses,
            state,
            value,
        }
    }

    /// Puts back what was kept into a request of the same session.
    fn restore(self, request: &mut TurnRequest) {
        request.protocol = match &*self.protocol {
            "dari" => "dari",
            "runtimeuse" => "runtimeuse",
            "sessions" => "sessions",
            "v1" => "v1",
            _ => "unknown",
        };
        let body = self.body.and_then(|hex| u128::from_str_radix(hex, 16).ok());
        let body = body.map(|body| Fingerprint(body.to_be_bytes()));
        request.repeat = match (self.key, body) {
            (_, None) => Repeat::Never,
            (None, Some(body)) => Repeat::ByBody { body },
            (Some(id), Some(body)) => {
                let conflict = if self.refuses { Conflict::Refuse } else { Conflict::NewTurn };
                Repeat::ById { id: id.into_owned(), body, conflict }
            }
        };
        request.state = match self.state {
            Some("set") => StateIn::Given(self.value.map(from_raw)),
            Some("clear") => StateIn::Given(None),
            _ => StateIn::Stored,
        };
        request.source_id = self.source_id.map(Cow::into_owned);
        request.prompt = self.prompt.into_owned();
        request.model = self.model.map(Cow::into_owned);
    }
}

/// How a turn ended.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct OutcomeRecord<'a> {
    /// `text`, `structured`, `commands`, `failed`, `cancelled`, `timed_out` or `interrupted`.
    how: &'a str,
    #[serde(borrow, skip_serializing_if = "Option::is_none", serialize_with = "quote::text_if_any")]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    structured: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    commands: Vec<CommandRecord<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    fault: Option<FaultRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_ms: Option<u64>,
    /// `keep`, `clear` or `set`.
    state: &'a str,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    artifact_failures: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    #[serde(borrow, skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolRecord<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ToolRecord<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    input: &'a RawValue,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none", serialize_with = "quote::text_if_any")]
    output: Option<Cow<'a, str>>,
    #[serde(default)]
    is_error: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct FaultRecord<'a> {
    code: &'a str,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    detail: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    /// Exit code, signal and the end of standard error.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    process: Option<(Option<i32>, Option<i32>, Cow<'a, str>)>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    command: Option<Box<CommandRecord<'a>>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    answered: Option<Box<OutcomeRecord<'a>>>,
    retryable: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct CommandRecord<'a> {
    #[serde(borrow)]
    command: Cow<'a, str>,
    exit_code: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(default)]
    timed_out: bool,
    took_us: u64,
    #[serde(borrow, serialize_with = "quote::text")]
    stdout: Cow<'a, str>,
    stdout_bytes: u64,
    stdout_cut: bool,
    #[serde(borrow)]
    stdout_tail: Cow<'a, str>,
    #[serde(borrow)]
    stderr_tail: Cow<'a, str>,
}

/// Names of reasons and limits.
const REASONS: [(&str, CancelReason); 3] = [
    ("caller", CancelReason::Caller),
    ("disconnected", CancelReason::Disconnected),
    ("draining", CancelReason::Draining),
];
const LIMITS: [(&str, Limit); 3] = [("silence", Limit::Silence), ("turn", Limit::Turn), ("request", Limit::Request)];

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> Option<&'static str> {
    names.iter().find(|(_, one)| one == value).map(|(name, _)| *name)
}

fn by_name<T: Copy>(names: &[(&str, T)], name: Option<&str>) -> Option<T> {
    names.iter().find(|(one, _)| Some(*one) == name).map(|(_, value)| *value)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> OutcomeRecord<'a> {
    fn answer(answer: &'a Answer, metadata: Option<&'a RawJson>) -> Self {
        let record = Self { state: "keep", metadata: metadata.map(as_raw), ..Self::default() };
        match answer {
            Answer::Text(text) => Self { how: "text", text: Some(text.into()), ..record },
            Answer::Structured(value) => Self { how: "structured", structured: Some(as_raw(value)), ..record },
            Answer::Commands(ends) => {
                Self { how: "commands", commands: ends.iter().map(CommandRecord::from).collect(), ..record }
            }
        }
    }

    fn to_answer(&self) -> Option<Answer> {
        Some(match self.how {
            "text" => Answer::Text(self.text.as_deref()?.to_owned()),
            "structured" => Answer::Structured(from_raw(self.structured?)),
            "commands" => Answer::Commands(self.commands.iter().map(CommandRecord::restore).collect()),
            _ => return None,
        })
    }

    /// The outcome again; `None` if this is none.
    fn restore(&self) -> Option<Outcome> {
        let ending = match self.how {
            "failed" => Ending::Failed(self.fault.as_ref()?.restore()?),
            "cancelled" => Ending::Cancelled(by_name(&REASONS, self.why)?),
            "timed_out" => Ending::TimedOut {
                limit: by_name(&LIMITS, self.why)?,
                after: Duration::from_millis(self.after_ms?),
                partial: self.text.as_deref().unwrap_or_default().to_owned(),
            },
            "interrupted" => Ending::Interrupted,
            _ => Ending::Answered(self.to_answer()?),
        };
        let state = match self.state {
            "clear" => StateChange::Clear,
            "set" => StateChange::Set(from_raw(self.value?)),
            _ => StateChange::Keep,
        };
        let failure = |(path, error): &(Cow<'_, str>, Cow<'_, str>)| ArtifactFailure {
            path: path.to_string(),
            error: error.to_string(),
        };
        Some(Outcome {
            ending,
            state,
            metadata: self.metadata.map(from_raw),
            artifact_failures: self.artifact_failures.iter().map(failure).collect(),
            tools: self.tools.iter().map(ToolRecord::restore).collect(),
        })
    }
}

impl<'a> From<&'a Outcome> for OutcomeRecord<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        let record = match &outcome.ending {
            Ending::Answered(answer) => Self::answer(answer, None),
            Ending::Failed(fault) => Self { how: "failed", fault: Some(fault.into()), ..Self::default() },
            Ending::Cancelled(reason) => Self { how: "cancelled", why: name_of(&REASONS, reason), ..Self::default() },
            Ending::TimedOut { limit, after, partial } => Self {
                how: "timed_out",
                why: name_of(&LIMITS, limit),
                after_ms: Some(millis(*after)),
                text: Some(partial.into()),
                ..Self::default()
            },
            Ending::Interrupted => Self { how: "interrupted", ..Self::default() },
        };
        let (state, value) = match &outcome.state {
            StateChange::Keep => ("keep", None),
            StateChange::Clear => ("clear", None),
            StateChange::Set(value) => ("set", Some(as_raw(value))),
        };
        let failures = outcome.artifact_failures.iter();
        Self {
            state,
            value,
            metadata: outcome.metadata.as_ref().map(as_raw),
            artifact_failures: failures.map(|one| (one.path.as_str().into(), one.error.as_str().into())).collect(),
            tools: outcome.tools.iter().map(ToolRecord::from).collect(),
            ..record
        }
    }
}

impl<'a> From<&'a ToolCall> for ToolRecord<'a> {
    fn from(call: &'a ToolCall) -> Self {
        Self {
            id: call.id.as_str().into(),
            name: call.name.as_str().into(),
            input: as_raw(&call.input),
            output: call.result.as_ref().map(|result| result.output.as_str().into()),
            is_error: call.result.as_ref().is_some_and(|result| result.is_error),
        }
    }
}

impl ToolRecord<'_> {
    fn restore(&self) -> ToolCall {
        let result = |output: &Cow<'_, str>| ToolResult { output: output.to_string(), is_error: self.is_error };
        ToolCall {
            id: self.id.to_string(),
            name: self.name.to_string(),
            input: from_raw(self.input),
            result: self.output.as_ref().map(result),
        }
    }
}

impl<'a> From<&'a Fault> for FaultRecord<'a> {
    fn from(fault: &'a Fault) -> Self {
        let process = |end: &'a ProcessEnd| (end.exit_code, end.signal, end.stderr_tail.as_str().into());
        let answered = fault.answered.as_deref();
        Self {
            code: fault.code.name(),
            message: fault.message.as_str().into(),
            detail: fault.detail.as_deref().map(Cow::from),
            metadata: fault.metadata.as_ref().map(as_raw),
            process: fault.process.as_ref().map(process),
            command: fault.command.as_deref().map(|end| Box::new(end.into())),
            answered: answered.map(|(answer, metadata)| Box::new(OutcomeRecord::answer(answer, metadata.as_ref()))),
            retryable: fault.retryable,
        }
    }
}

impl FaultRecord<'_> {
    fn restore(&self) -> Option<Fault> {
        let code = FaultCode::ALL.into_iter().find(|code| code.name() == self.code)?;
        let process = |(exit_code, signal, tail): &(Option<i32>, Option<i32>, Cow<'_, str>)| ProcessEnd {
            exit_code: *exit_code,
            signal: *signal,
            stderr_tail: tail.to_string(),
        };
        let answered = self
            .answered
            .as_ref()
            .and_then(|record| Some(Box::new((record.to_answer()?, record.metadata.map(from_raw)))));
        Some(Fault {
            code,
            message: self.message.to_string(),
            detail: self.detail.as_ref().map(|detail| detail.to_string()),
            metadata: self.metadata.map(from_raw),
            process: self.process.as_ref().map(process),
            command: self.command.as_ref().map(|record| Box::new(record.restore())),
            answered,
            retryable: self.retryable,
        })
    }
}

impl<'a> From<&'a CommandEnd> for CommandRecord<'a> {
    fn from(end: &'a CommandEnd) -> Self {
        Self {
            command: (*end.command).into(),
            exit_code: end.exit_code,
            signal: if let Some(CutBy::Signal(signal)) = end.cut { Some(signal) } else { None },
            timed_out: end.cut == Some(CutBy::Timeout),
            took_us: u64::try_from(end.took.as_micros()).unwrap_or(u64::MAX),
            stdout: end.stdout.as_str().into(),
            stdout_bytes: end.stdout_bytes,
            stdout_cut: end.stdout_cut,
            stdout_tail: end.stdout_tail.as_str().into(),
            stderr_tail: end.stderr_tail.as_str().into(),
        }
    }
}

impl CommandRecord<'_> {
    fn restore(&self) -> CommandEnd {
        let cut = if self.timed_out { Some(CutBy::Timeout) } else { self.signal.map(CutBy::Signal) };
        CommandEnd {
            command: (*self.command).into(),
            exit_code: self.exit_code,
            cut,
            took: Duration::from_micros(self.took_us),
            stdout: self.stdout.to_string(),
            stdout_bytes: self.stdout_bytes,
            stdout_cut: self.stdout_cut,
            stdout_tail: self.stdout_tail.to_string(),
            stderr_tail: self.stderr_tail.to_string(),
        }
    }
}

/// What was asked, as it is kept, behind what is there.
pub fn write_accepted(out: &mut Vec<u8>, attempt: u32, request: &TurnRequest, given: GivenState) {
    write(out, &AcceptedRecord::new(attempt, request, given, &mut String::new()));
}

/// Puts what was kept back into a request of the same session, and gives the attempt; `None` if this is no such record.
#[must_use]
pub fn read_accepted(record: &[u8], request: &mut TurnRequest) -> Option<u32> {
    let record = serde_json::from_slice::<AcceptedRecord<'_>>(record).ok()?;
    let attempt = record.attempt;
    record.restore(request);
    Some(attempt)
}

/// How a turn ended, as it is kept, behind what is there.
pub fn write_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    write(out, &OutcomeRecord::from(outcome));
}

/// The outcome again; `None` if this is none.
#[must_use]
pub fn read_outcome(record: &[u8]) -> Option<Outcome> {
    serde_json::from_slice::<OutcomeRecord<'_>>(record).ok()?.restore()
}

/// An event, as it is kept, behind what is there.
pub fn write_event(out: &mut Vec<u8>, event: &Event) {
    write(out, &EventRecord::from(event));
}

/// The event again; `None` if this is none.
#[must_use]
pub fn read_event(record: &[u8]) -> Option<Event> {
    SeriesReader::default().read(record).ok()
}

#[allow(clippy::expect_used, reason = "writing strings, numbers and raw JSON to memory cannot fail")]
fn write(out: &mut Vec<u8>, record: &impl Serialize) {
    serde_json::to_writer(out, record).expect("every record is JSON");
}

#[cfg(test)]
mod tests;
