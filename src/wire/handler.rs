//! The stdio handler protocol, version 1: one JSON object per line, UTF-8, both ways.
//!
//! Owns the shape of every line. `handlers/README.md` tells the same story to the people who write handlers;
//! `handler::stdio` gives the lines their meaning.

use crate::json::quote;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The version in `hello`.
pub const PROTOCOL_VERSION: u32 = 1;

/// A line from the server to the handler.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "built, written and dropped on the spot, one at a time")]
pub enum ToHandler<'a> {
    /// The first line. The handler answers with `ready`.
    Hello {
        /// Version of this protocol.
        protocol: u32,
        /// Name and version of the server.
        server: &'a str,
    },
    /// Are you there? Answer at once with a `pong` of the same number. Sent only to `concurrent` handlers.
    Ping {
        /// Any number.
        n: u64,
    },
    /// Run this turn; answer with exactly one `result` or `error` of the same id.
    Turn(TurnLine<'a>),
    /// Stop this turn soon. It still ends with one `result` or `error`, which is dropped.
    Cancel {
        /// Id of the turn.
        id: &'a str,
    },
    /// Another message of the user into a running turn. Sent only to handlers that can `steer`.
    Input {
        /// Id of the turn.
        id: &'a str,
        /// The user's text.
        text: &'a str,
    },
}

/// The turn that a handler is to run. Every key is always there; `null` where the caller gave nothing.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TurnLine<'a> {
    /// Names the turn in every line about it.
    pub id: &'a str,
    /// The user's text.
    #[serde(serialize_with = "quote::text")]
    #[schemars(with = "String")]
    pub prompt: &'a str,
    /// The session's opaque state, as a handler last returned it.
    #[schemars(with = "Option<serde_json::Value>")]
    pub state: Option<&'a RawValue>,
    /// The session.
    pub session_id: &'a str,
    /// 1, or more when an earlier attempt was cut by a crash.
    pub attempt: u32,
    /// The caller's own name for the request.
    pub source_id: Option<&'a str>,
    /// Instructions to the agent.
    pub system_prompt: Option<&'a str>,
    /// The model to use.
    pub model: Option<&'a str>,
    /// The output format as the caller gave it, for example `{"type":"json_schema","schema":{…}}`.
    #[schemars(with = "Option<serde_json::Value>")]
    pub output_format: Option<&'a RawValue>,
    /// Only the JSON Schema in it.
    #[schemars(with = "Option<serde_json::Value>")]
    pub output_schema: Option<&'a RawValue>,
    /// Files and images that came with the prompt.
    pub attachments: Vec<AttachmentLine<'a>>,
    /// The caller's environment for the agent; not merged with anything.
    pub env: Option<BTreeMap<&'a str, &'a str>>,
    /// Values the handler should keep out of its own logs; what leaves the server is redacted anyway.
    pub secrets: Vec<&'a str>,
    /// The caller's metadata.
    #[schemars(with = "Option<serde_json::Value>")]
    pub metadata: Option<&'a RawValue>,
    /// The caller's place in its trace, as W3C Trace Context has it.
    pub traceparent: Option<&'a str>,
    /// What goes with it.
    pub tracestate: Option<&'a str>,
}

/// A file or image that came with the prompt.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AttachmentLine<'a> {
    /// `file`, `image` or `other`.
    pub kind: &'a str,
    /// The platform's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_id: Option<&'a str>,
    /// A path in the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// The file's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<&'a str>,
    /// Its media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<&'a str>,
    /// Where it can be fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<&'a str>,
    /// Its content in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a str>,
}

/// The part of a handler's line that is read first.
#[derive(Debug, Deserialize)]
pub struct Head<'a> {
    /// What kind of line it is.
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// The turn it belongs to.
    #[serde(borrow, default)]
    pub id: Option<Cow<'a, str>>,
}

/// A line from the handler to the server. This enum only describes: lines are read as [`Head`], then as the struct
/// of their kind, because raw JSON cannot pass through a tagged enum.
#[derive(Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case")]
pub enum FromHandler<'a> {
    /// The handler is loaded and takes turns.
    Ready(Ready),
    /// Answer to `ping`.
    Pong(Pong),
    /// A message to the user.
    Text(TextLine),
    /// A live piece of answer text.
    Delta(DeltaLine),
    /// Reasoning.
    Thinking(ThinkingLine),
    /// A tool call.
    ToolUse(ToolUseLine<'a>),
    /// The result of a tool call.
    ToolResult(ToolResultLine),
    /// A sign of life.
    Progress(ProgressLine<'a>),
    /// Tokens and cost so far.
    Usage(UsageLine),
    /// A line for the server's log.
    Log(LogLine),
    /// Something went wrong that does not end the turn.
    Warning(WarningLine),
    /// The turn's answer.
    Result(ResultLine<'a>),
    /// The turn failed; without an id and before `ready`: the handler cannot be loaded.
    Error(ErrorLine<'a>),
}

/// `ready`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Ready {
    /// The handler's name, for logs.
    #[serde(default)]
    pub name: Option<String>,
    /// Any of `concurrent`, `cancel`, `steer`. Unknown words are ignored.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

/// `pong`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Pong {
    /// The number of the `ping`.
    pub n: u64,
}

/// `text`: one message to the user, as one string or as several parts.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct TextLine {
    /// The whole message.
    #[serde(default)]
    pub text: Option<String>,
    /// Or its parts; one line is one message whatever the number of parts.
    #[serde(default)]
    pub parts: Option<Vec<String>>,
    /// The block whose deltas it replaces.
    #[serde(default)]
    pub block: Option<String>,
}

/// `delta`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct DeltaLine {
    /// The piece.
    pub text: String,
    /// The block it belongs to.
    #[serde(default)]
    pub block: Option<String>,
    /// Forget the earlier deltas of the block.
    #[serde(default)]
    pub discard: bool,
}

/// `thinking`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ThinkingLine {
    /// The reasoning text.
    pub text: String,
}

/// `tool_use`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ToolUseLine<'a> {
    /// Names the call.
    pub call_id: String,
    /// The tool.
    pub name: String,
    /// Its input.
    #[serde(borrow, default)]
    #[schemars(with = "serde_json::Value")]
    pub input: Option<&'a RawValue>,
}

/// `tool_result`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ToolResultLine {
    /// The call.
    pub call_id: String,
    /// What it gave, as text.
    #[serde(default)]
    pub output: String,
    /// Whether it failed.
    #[serde(default)]
    pub is_error: bool,
    /// Exit code, if the tool was a program.
    #[serde(default)]
    pub exit_code: Option<i32>,
}

/// `progress`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ProgressLine<'a> {
    /// What kind of progress, in the handler's own words.
    #[serde(default)]
    pub kind: Option<String>,
    /// Its details.
    #[serde(borrow, default)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub detail: Option<&'a RawValue>,
}

/// `usage`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct UsageLine {
    /// Tokens read.
    #[serde(default)]
    pub input_tokens: u64,
    /// Tokens written.
    #[serde(default)]
    pub output_tokens: u64,
    /// Input tokens that came from a cache.
    #[serde(default)]
    pub cached_tokens: u64,
    /// Output tokens spent on reasoning.
    #[serde(default)]
    pub reasoning_tokens: u64,
    /// Cost in US dollars.
    #[serde(default)]
    pub cost_usd: Option<f64>,
}

/// `log`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct LogLine {
    /// `debug`, `info`, `warn` or `error`; anything else counts as `info`.
    #[serde(default)]
    pub level: Option<String>,
    /// The text.
    pub text: String,
}

/// `warning`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct WarningLine {
    /// One sentence.
    pub text: String,
    /// The request field it is about.
    #[serde(default)]
    pub field: Option<String>,
}

/// `result`: exactly one of `text` and `structured_output`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ResultLine<'a> {
    /// A text answer.
    #[serde(borrow, default, deserialize_with = "present")]
    #[schemars(with = "Option<String>")]
    pub text: Option<&'a RawValue>,
    /// A structured answer: any JSON value. The RuntimeUse protocol takes objects only.
    #[serde(borrow, default, deserialize_with = "present")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub structured_output: Option<&'a RawValue>,
    /// Absent: keep the session's state. `null`: clear it. Any other value replaces it.
    #[serde(borrow, default, deserialize_with = "present")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub state: Option<&'a RawValue>,
    /// The handler's metadata, a JSON object.
    #[serde(borrow, default)]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub metadata: Option<&'a RawValue>,
}

/// `error`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ErrorLine<'a> {
    /// One sentence for the caller.
    #[serde(default)]
    pub message: Option<String>,
    /// A word of the handler's own.
    #[serde(default)]
    pub code: Option<String>,
    /// Whether the same turn may succeed later.
    #[serde(default)]
    pub retryable: Option<bool>,
    /// As in `result`: a failed turn may change the state too.
    #[serde(borrow, default, deserialize_with = "present")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub state: Option<&'a RawValue>,
    /// More about the error, a JSON object.
    #[serde(borrow, default)]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub metadata: Option<&'a RawValue>,
}

/// Keeps an explicit `null` apart from an absent key: serde's own `Option` cannot.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}
