//! The JSON-RPC of `codex app-server`, as far as we speak it: one object per line, both ways.
//!
//! Owns the shapes. What comes in is read in steps, outermost first: a part that looks strange costs only itself.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A request of ours.
#[derive(Debug, Serialize)]
pub struct Request<'a, P> {
    /// Comes back with the reply.
    pub id: u64,
    /// What is asked.
    pub method: &'a str,
    /// Its parameters.
    pub params: &'a P,
}

/// A notification of ours.
#[derive(Debug, Serialize)]
pub struct Notification<'a> {
    /// What is told.
    pub method: &'a str,
}

/// Our answer to a request of theirs: a result or an error.
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    /// The id of their request, as it came.
    pub id: &'a RawValue,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// An error of JSON-RPC.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorBody {
    /// -32600 for whatever is wrong with a request.
    pub code: i64,
    /// What is wrong.
    pub message: String,
}

/// `initialize`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Initialize<'a> {
    /// Who we are.
    pub client_info: ClientInfo<'a>,
    /// What we can take.
    pub capabilities: Capabilities,
}

/// Who we are.
#[derive(Debug, Serialize)]
pub struct ClientInfo<'a> {
    /// Goes to the model's service too, as `originator`.
    pub name: &'a str,
    /// For people.
    pub title: &'a str,
    /// Ours.
    pub version: &'a str,
}

/// What we can take.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Always `true`.
    pub experimental_api: bool,
}

/// `thread/start`, and with an id `thread/resume`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenThread<'a> {
    /// The thread to go on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<&'a str>,
    /// `true` with an id: we do not want to read what was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_turns: Option<bool>,
    /// The model; the program's own default without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
    /// Whether it is kept in memory alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// Where commands run.
    pub cwd: &'a str,
    /// When it asks.
    pub approval_policy: &'a str,
    /// What commands may touch.
    pub sandbox: &'a str,
    /// The caller's instructions, in addition to the program's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub developer_instructions: Option<&'a str>,
    /// Settings, in the words of the program's configuration file.
    pub config: &'a RawValue,
}

/// `turn/start`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StartTurn<'a> {
    /// The thread.
    pub thread_id: &'a str,
    /// What the user says.
    pub input: &'a [Input<'a>],
    /// The model of this turn and those after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
    /// How hard it thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<&'a str>,
    /// The schema of the last message; a strict one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<&'a RawValue>,
}

/// `turn/steer`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Steer<'a> {
    /// The thread.
    pub thread_id: &'a str,
    /// The turn that runs.
    pub expected_turn_id: &'a str,
    /// What the user says.
    pub input: &'a [Input<'a>],
}

/// `turn/interrupt`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interrupt<'a> {
    /// The thread.
    pub thread_id: &'a str,
    /// The turn that runs.
    pub turn_id: &'a str,
}

/// `thread/unsubscribe`, `thread/backgroundTerminals/clean`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfThread<'a> {
    /// The thread.
    pub thread_id: &'a str,
}

/// A part of what the user says.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Input<'a> {
    /// Text.
    Text {
        /// The text.
        text: Cow<'a, str>,
    },
    /// An image.
    Image {
        /// Where it is, or a `data:` URL that holds it.
        url: String,
    },
}

/// A line of theirs: a reply (`id`, then `result` or `error`), a request (`id`, `method`) or a notification (`method`).
#[derive(Debug, Deserialize)]
pub struct Line<'a> {
    /// Of our request, or of theirs.
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    /// What is asked or told.
    #[serde(borrow)]
    pub method: Option<Cow<'a, str>>,
    /// Its parameters.
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
    /// The reply.
    #[serde(borrow)]
    pub result: Option<&'a RawValue>,
    /// Why there is none: an [`ErrorBody`].
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

/// Whose a notification is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Whose<'a> {
    /// The thread.
    #[serde(borrow)]
    pub thread_id: Option<Cow<'a, str>>,
}

/// All parameters of notifications that we look at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told<'a> {
    /// The turn.
    #[serde(borrow)]
    pub turn_id: Option<Cow<'a, str>>,
    /// The item that a delta belongs to.
    #[serde(borrow)]
    pub item_id: Option<Cow<'a, str>>,
    /// More of its text.
    #[serde(borrow)]
    pub delta: Option<Cow<'a, str>>,
    /// A warning, or how far a tool is.
    #[serde(borrow)]
    pub message: Option<Cow<'a, str>>,
    /// An [`Item`].
    #[serde(borrow)]
    pub item: Option<&'a RawValue>,
    /// A [`TurnBody`].
    #[serde(borrow)]
    pub turn: Option<&'a RawValue>,
    /// A [`TurnError`].
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
    /// Whether the program tries again by itself.
    #[serde(default)]
    pub will_retry: bool,
    /// A [`TokenUsage`].
    #[serde(borrow)]
    pub token_usage: Option<&'a RawValue>,
}

/// Something with an id.
#[derive(Debug, Deserialize)]
pub struct Named {
    /// The id.
    pub id: String,
}

/// The reply to `thread/start` and `thread/resume`.
#[derive(Debug, Deserialize)]
pub struct ThreadReply {
    /// The thread.
    pub thread: Named,
}

/// The reply to `turn/start`.
#[derive(Debug, Deserialize)]
pub struct TurnReply {
    /// The turn.
    pub turn: Named,
}

/// A turn that has begun or ended.
#[derive(Debug, Deserialize)]
pub struct TurnBody {
    /// Its id.
    pub id: String,
    /// `inProgress`, `completed`, `interrupted` or `failed`.
    #[serde(default)]
    pub status: String,
    /// Why it failed.
    pub error: Option<TurnError>,
}

/// Why a turn failed, or has to begin again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TurnError {
    /// For people.
    pub message: String,
    /// A name, or an object with one name and what belongs to it.
    pub codex_error_info: Option<Value>,
    /// What the message leaves out.
    pub additional_details: Option<String>,
}

/// What was used.
#[derive(Debug, Deserialize)]
pub struct TokenUsage {
    /// By the last call of the model.
    pub last: Tokens,
}

/// Tokens of one call.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tokens {
    /// Read, the cached ones too.
    pub input_tokens: u64,
    /// Of these, from a cache.
    pub cached_input_tokens: u64,
    /// Written, those of reasoning too.
    pub output_tokens: u64,
    /// Of these, of reasoning.
    pub reasoning_output_tokens: u64,
}

/// Something that a turn is made of. One shape for all kinds: what a kind does not have is absent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// `agentMessage`, `reasoning`, `commandExecution`, `fileChange`, `mcpToolCall`, `dynamicToolCall`, `webSearch`, …
    pub r#type: String,
    /// Its id.
    #[serde(default)]
    pub id: String,
    /// Of a message.
    pub text: Option<String>,
    /// Of reasoning: the parts of its summary.
    pub summary: Option<Vec<String>>,
    /// Of reasoning: its parts; of other kinds anything.
    pub content: Option<Box<RawValue>>,
    /// Of a command, as a shell's line.
    pub command: Option<String>,
    /// All its output; absent while it runs, or where there is none.
    pub aggregated_output: Option<String>,
    /// How it ended.
    pub exit_code: Option<i32>,
    /// `inProgress`, `completed`, `failed` or `declined`.
    pub status: Option<String>,
    /// Of files.
    pub changes: Option<Box<RawValue>>,
    /// Of a tool of an MCP server.
    pub server: Option<String>,
    /// Of any tool.
    pub tool: Option<String>,
    /// Of any tool.
    pub arguments: Option<Box<RawValue>>,
    /// Of a tool of an MCP server.
    pub result: Option<Box<RawValue>>,
    /// Of a tool of an MCP server.
    pub error: Option<Box<RawValue>>,
    /// Of a search.
    pub query: Option<String>,
}

/// What is kept between turns.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// 1.
    pub v: u32,
    /// The thread.
    pub codex_thread_id: String,
    /// Turns that it has had.
    #[serde(default)]
    pub turns: u64,
}
