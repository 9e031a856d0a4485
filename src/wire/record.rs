//! An event as JSON: the common form that every protocol of ours shows, and that a store keeps.
//!
//! Owns the names of the fields. A wire form may say how it is made from plain data and read back, so the conversions
//! stand here and nowhere twice.

#[cfg(test)]
mod tests;

use crate::json::quote;
use crate::model::{BlockId, Event, OutputStream, Usage};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

/// One event. The list is closed; `type` tells which.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventRecord<'a> {
    /// A message to the user.
    Text {
        /// The block whose deltas it replaces.
        #[serde(skip_serializing_if = "Option::is_none")]
        block: Option<&'a str>,
        /// Its parts.
        #[serde(serialize_with = "quote::texts")]
        #[schemars(with = "Vec<String>")]
        parts: &'a [String],
    },
    /// A live piece of answer text.
    TextDelta {
        /// The block it belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        block: Option<&'a str>,
        /// The piece.
        #[serde(serialize_with = "quote::text")]
        #[schemars(with = "String")]
        text: &'a str,
    },
    /// Reasoning.
    Thinking {
        /// The text.
        #[serde(serialize_with = "quote::text")]
        #[schemars(with = "String")]
        text: &'a str,
    },
    /// A tool call.
    ToolUse {
        /// Names the call.
        id: &'a str,
        /// The tool.
        name: &'a str,
        /// Its input.
        #[schemars(with = "serde_json::Value")]
        input: &'a RawValue,
    },
    /// What a tool call gave.
    ToolResult {
        /// The call.
        id: &'a str,
        /// The result as text.
        #[serde(serialize_with = "quote::text")]
        #[schemars(with = "String")]
        output: &'a str,
        /// Whether it failed.
        is_error: bool,
        /// Exit code, if the tool was a program.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
    },
    /// A sign of life.
    Progress {
        /// What kind.
        kind: &'a str,
        /// Its details.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<serde_json::Value>")]
        detail: Option<&'a RawValue>,
    },
    /// Forget the deltas of a block.
    Discarded {
        /// The block.
        block: &'a str,
    },
    /// Tokens and cost of the turn so far.
    Usage {
        /// Tokens read.
        input_tokens: u64,
        /// Tokens written.
        output_tokens: u64,
        /// Input tokens that came from a cache.
        cached_tokens: u64,
        /// Output tokens spent on reasoning.
        reasoning_tokens: u64,
        /// Cost in US dollars.
        #[serde(skip_serializing_if = "Option::is_none")]
        cost_usd: Option<f64>,
    },
    /// Output of a command.
    CommandOutput {
        /// `stdout` or `stderr`.
        stream: &'a str,
        /// The text.
        #[serde(serialize_with = "quote::text")]
        #[schemars(with = "String")]
        text: &'a str,
        /// The command.
        command: &'a str,
    },
    /// A file is complete.
    Artifact {
        /// Its path.
        path: &'a str,
        /// Its size in bytes.
        size: u64,
    },
    /// Something went wrong that does not end the turn.
    Warning {
        /// One sentence.
        text: &'a str,
        /// The request field it is about.
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<&'a str>,
    },
}

/// The two words of a command's streams on every wire.
#[must_use]
pub const fn stream_word(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}

impl<'a> From<&'a Event> for EventRecord<'a> {
    fn from(event: &'a Event) -> Self {
        use crate::json::as_raw;
        match event {
            Event::Text { block, parts } => Self::Text { block: block.as_deref(), parts },
            Event::TextDelta { block, text } => Self::TextDelta { block: block.as_deref(), text },
            Event::Thinking { text } => Self::Thinking { text },
            Event::ToolUse { id, name, input } => Self::ToolUse { id, name, input: as_raw(input) },
            Event::ToolResult { id, output, is_error, exit_code } => {
                Self::ToolResult { id, output, is_error: *is_error, exit_code: *exit_code }
            }
            Event::Progress { kind, detail } => Self::Progress { kind, detail: detail.as_ref().map(as_raw) },
            Event::Discarded { block } => Self::Discarded { block },
            Event::Usage(usage) => Self::Usage {
                input_tokens: usage.input_tokens,
                output_tokens: usage.output_tokens,
                cached_tokens: usage.cached_tokens,
                reasoning_tokens: usage.reasoning_tokens,
                cost_usd: usage.cost_usd,
            },
            Event::CommandOutput { stream, text, command } => {
                Self::CommandOutput { stream: stream_word(*stream), text, command }
            }
            Event::Artifact { path, size } => Self::Artifact { path, size: *size },
            Event::Warning { text, field } => Self::Warning { text, field: field.as_deref() },
        }
    }
}

/// A command's output whose command is that of the one before it in the same series.
#[derive(Serialize)]
struct SameCommand<'a> {
    r#type: &'static str,
    stream: &'a str,
    #[serde(serialize_with = "quote::text")]
    text: &'a str,
}

/// Writes a series of events, each as one JSON object in the form of [`EventRecord`]. A command's output whose command
/// is that of the output before it leaves the command out: it may be long, and comes with every piece.
#[derive(Debug, Default)]
pub struct SeriesWriter {
    command: Option<Arc<str>>,
}

impl SeriesWriter {
    /// Writes the next event behind what is there.
    #[allow(clippy::expect_used, clippy::missing_panics_doc, reason = "writing to memory cannot fail")]
    pub fn write(&mut self, out: &mut Vec<u8>, event: &Event) {
        let written = match event {
            Event::CommandOutput { stream, text, command } if self.command.as_ref() == Some(command) => {
                serde_json::to_writer(
                    out,
                    &SameCommand { r#type: "command_output", stream: stream_word(*stream), text },
                )
            }
            _ => {
                if let Event::CommandOutput { command, .. } = event {
                    self.command = Some(command.clone());
                }
                serde_json::to_writer(out, &EventRecord::from(event))
            }
        };
        written.expect("every event is JSON");
    }
}

/// Text that is no event, or one of a kind that this version does not know. Says where, and never what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an event record: {0}")]
pub struct UnreadableEvent(String);

/// Reads a series of events back: the events are exactly those that were written. Only a cost that is no finite number
/// is gone, since JSON has no form for it.
#[derive(Debug, Default)]
pub struct SeriesReader {
    command: Option<Arc<str>>,
    block: Option<BlockId>,
}

impl SeriesReader {
    /// Reads the next event. Commands and blocks that repeat share their text.
    ///
    /// # Errors
    /// The text is no record of an event.
    pub fn read(&mut self, record: &[u8]) -> Result<Event, UnreadableEvent> {
        let record: AnyRecord<'_> = serde_json::from_slice(record)
            .map_err(|error| UnreadableEvent(format!("line {}, column {}", error.line(), error.column())))?;
        self.event(record)
    }

    fn event(&mut self, record: AnyRecord<'_>) -> Result<Event, UnreadableEvent> {
        use crate::json::from_raw;
        Ok(match record.kind {
            "text" => Event::Text { block: self.block(record.block), parts: given(record.parts, "parts")? },
            "text_delta" => Event::TextDelta { block: self.block(record.block), text: given(record.text, "text")? },
            "thinking" => Event::Thinking { text: given(record.text, "text")? },
            "tool_use" => Event::ToolUse {
                id: given(record.id, "id")?,
                name: given(record.name, "name")?,
                input: from_raw(given(record.input, "input")?),
            },
            "tool_result" => Event::ToolResult {
                id: given(record.id, "id")?,
                output: given(record.output, "output")?,
                is_error: given(record.is_error, "is_error")?,
                exit_code: record.exit_code,
            },
            "progress" => {
                Event::Progress { kind: given(record.progress, "kind")?, detail: record.detail.map(from_raw) }
            }
            "discarded" => Event::Discarded { block: given(self.block(record.block), "block")? },
            "usage" => Event::Usage(Usage {
                input_tokens: given(record.input_tokens, "input_tokens")?,
                output_tokens: given(record.output_tokens, "output_tokens")?,
                cached_tokens: given(record.cached_tokens, "cached_tokens")?,
                reasoning_tokens: given(record.reasoning_tokens, "reasoning_tokens")?,
                // Parsed here: serde_json's own parser is off by one bit now and then.
                cost_usd: record.cost_usd.and_then(|number| number.get().parse().ok()),
            }),
            "command_output" => Event::CommandOutput {
                stream: match record.stream {
                    Some("stdout") => OutputStream::Stdout,
                    Some("stderr") => OutputStream::Stderr,
                    _ => return Err(UnreadableEvent("no such stream".to_owned())),
                },
                text: given(record.text, "text")?,
                command: self.command(record.command)?,
            },
            "artifact" => Event::Artifact { path: given(record.path, "path")?, size: given(record.size, "size")? },
            "warning" => Event::Warning { text: given(record.text, "text")?, field: record.field },
            _ => return Err(UnreadableEvent("an unknown type".to_owned())),
        })
    }

    fn command(&mut self, command: Option<String>) -> Result<Arc<str>, UnreadableEvent> {
        if let Some(command) = command {
            shared(&mut self.command, &command);
        }
        given(self.command.clone(), "command")
    }

    fn block(&mut self, block: Option<String>) -> Option<BlockId> {
        block.map(|block| shared(&mut self.block, &block))
    }
}

fn shared(last: &mut Option<Arc<str>>, text: &str) -> Arc<str> {
    match last {
        Some(last) if **last == *text => last.clone(),
        _ => last.insert(text.into()).clone(),
    }
}

fn given<T>(value: Option<T>, field: &str) -> Result<T, UnreadableEvent> {
    value.ok_or_else(|| UnreadableEvent(format!("`{field}` is missing")))
}

/// The fields of every event. An enum with a tag would copy its content before it is known what it is, and lose the
/// text of opaque JSON on the way.
#[derive(Deserialize)]
struct AnyRecord<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    block: Option<String>,
    parts: Option<Vec<String>>,
    text: Option<String>,
    id: Option<String>,
    name: Option<String>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    input: Option<&'a RawValue>,
    output: Option<String>,
    is_error: Option<bool>,
    exit_code: Option<i32>,
    #[serde(rename = "kind")]
    progress: Option<String>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    detail: Option<&'a RawValue>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
    #[serde(borrow)]
    cost_usd: Option<&'a RawValue>,
    stream: Option<&'a str>,
    command: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    field: Option<String>,
}

/// A value that is there is there, also when it is `null`.
fn even_null<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}
