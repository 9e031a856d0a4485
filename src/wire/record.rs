//! An event as JSON: the common form that every protocol of ours shows, and that a store keeps.
//!
//! Owns the names of the fields. A wire form may say how it is made from plain data, so the conversion stands here and
//! nowhere twice.

use crate::model::{Event, OutputStream};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

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
        parts: &'a [String],
    },
    /// A live piece of answer text.
    TextDelta {
        /// The block it belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        block: Option<&'a str>,
        /// The piece.
        text: &'a str,
    },
    /// Reasoning.
    Thinking {
        /// The text.
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
