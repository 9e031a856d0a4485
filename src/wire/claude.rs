//! The stream-json of Claude Code's command line: what we write to it, and what we read of what it says.
//!
//! Owns the shapes. A line is read in two steps: first its head, then the part that its type has. Keys come in any order,
//! and types, keys and values that are not known here are ignored.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A line to the program.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToCli<'a> {
    /// A message of the user.
    User {
        /// Names the message; the end of its turn names it again.
        uuid: &'a str,
        /// The message.
        message: UserMessage<'a>,
        /// Always `null`.
        parent_tool_use_id: Option<&'a str>,
        /// Always empty.
        session_id: &'a str,
    },
    /// Something asked of the program.
    ControlRequest {
        /// Its name.
        request_id: &'a str,
        /// What is asked.
        request: Control<'a>,
    },
    /// An answer to something that the program asked.
    ControlResponse {
        /// The answer.
        response: ControlAnswer<'a>,
    },
}

/// What a user said.
#[derive(Debug, Serialize)]
pub struct UserMessage<'a> {
    /// Always `user`.
    pub role: &'a str,
    /// A string, or blocks.
    pub content: &'a RawValue,
}

/// What can be asked of the program.
#[derive(Debug, Serialize)]
#[serde(tag = "subtype", rename_all = "snake_case")]
pub enum Control<'a> {
    /// The beginning: what holds for all turns of the process.
    Initialize {
        /// Replaces the program's own instructions.
        #[serde(rename = "systemPrompt", skip_serializing_if = "Option::is_none")]
        system_prompt: Option<[&'a str; 1]>,
        /// Is added to them.
        #[serde(rename = "appendSystemPrompt", skip_serializing_if = "Option::is_none")]
        append_system_prompt: Option<&'a str>,
        /// The schema of the answers.
        #[serde(rename = "jsonSchema", skip_serializing_if = "Option::is_none")]
        json_schema: Option<&'a RawValue>,
    },
    /// Settings of the live process.
    ApplyFlagSettings {
        /// The settings.
        settings: FlagSettings<'a>,
    },
    /// Stops the running turn.
    Interrupt {
        /// Takes back prompts that wait, too.
        cancel_queued: bool,
    },
}

/// Settings that a live process takes. The model goes this way: `set_model` costs a call of the API.
#[derive(Debug, Serialize)]
pub struct FlagSettings<'a> {
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
    /// Variables, for the program and its tools.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<&'a str, &'a str>,
}

/// An answer to something that the program asked.
#[derive(Debug, Serialize)]
pub struct ControlAnswer<'a> {
    /// Always `error`: nothing that it could ask is offered.
    pub subtype: &'a str,
    /// Which request.
    pub request_id: &'a str,
    /// Why not.
    pub error: &'a str,
}

/// What every line begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LineHead {
    /// Its type.
    pub r#type: String,
    /// Its subtype.
    pub subtype: Option<String>,
    /// The conversation.
    pub session_id: Option<String>,
    /// The call of the subagent that says it.
    pub parent_tool_use_id: Option<String>,
    /// Of a request of the program: its name.
    pub request_id: Option<String>,
}

/// `command_lifecycle`: what became of a message of the user.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lifecycle {
    /// The message.
    pub command_uuid: String,
    /// `queued`, `started`, `completed` or `cancelled`.
    pub state: String,
}

/// `system/init`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Init {
    /// The model.
    pub model: Option<String>,
    /// The program's version.
    pub claude_code_version: Option<String>,
    /// Servers of tools, and whether they run.
    pub mcp_servers: Vec<McpServer>,
}

/// A server of tools.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct McpServer {
    /// Its name.
    pub name: String,
    /// `connected`, `failed`, …
    pub status: String,
}

/// `system/api_retry`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiRetry {
    /// Which try failed.
    pub attempt: u32,
    /// How many there may be.
    pub max_retries: u32,
    /// Until the next.
    pub retry_delay_ms: f64,
    /// The status; none where the network failed.
    pub error_status: Option<u16>,
    /// The name of the error.
    pub error: Option<String>,
}

/// `stream_event`.
#[derive(Debug, Deserialize)]
pub struct StreamLine {
    /// An event of the Messages API.
    pub event: StreamEvent,
}

/// `stream_event`, of which the type alone counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StreamHead {
    /// The event.
    pub event: LineHead,
}

/// An event of the Messages API.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// A message begins.
    MessageStart {
        /// Its beginning.
        message: MessageStart,
    },
    /// A block begins.
    ContentBlockStart {
        /// Which.
        index: u64,
    },
    /// A piece of a block.
    ContentBlockDelta {
        /// Which.
        index: u64,
        /// The piece.
        delta: BlockDelta,
    },
    /// Anything else.
    #[serde(other)]
    Other,
}

/// The beginning of a message.
#[derive(Debug, Deserialize)]
pub struct MessageStart {
    /// Its id.
    pub id: String,
}

/// A piece of a block.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    /// Of a text.
    TextDelta {
        /// The piece.
        text: String,
    },
    /// Anything else.
    #[serde(other)]
    Other,
}

/// `assistant` and `user`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MessageLine {
    /// The message.
    pub message: Message,
    /// The name of the error that stands for an answer.
    pub error: Option<String>,
    /// The status of that error.
    pub api_error_status: Option<u16>,
    /// Its type.
    pub api_error_type: Option<String>,
    /// Text that the program put in.
    #[serde(rename = "isSynthetic")]
    pub is_synthetic: bool,
    /// An echo of ours.
    #[serde(rename = "isReplay")]
    pub is_replay: bool,
}

/// A message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Message {
    /// Its id.
    pub id: String,
    /// A string, or blocks.
    pub content: Option<Box<RawValue>>,
}

/// A block of a message: the members of all kinds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Block {
    /// `text`, `thinking`, `tool_use`, `tool_result`, …
    pub r#type: String,
    /// Of a text.
    pub text: Option<String>,
    /// Of thinking.
    pub thinking: Option<String>,
    /// Of a call: its id.
    pub id: String,
    /// Of a call: the tool.
    pub name: String,
    /// Of a call: its input.
    pub input: Option<Box<RawValue>>,
    /// Of a result: the call.
    pub tool_use_id: String,
    /// Of a result: a string, or blocks.
    pub content: Option<Box<RawValue>>,
    /// Of a result: whether the call failed.
    pub is_error: Option<bool>,
}

/// `result`: the end of a turn.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResultLine {
    /// `success`, or how it ended otherwise.
    pub subtype: String,
    /// Counts, whatever the subtype says.
    pub is_error: bool,
    /// The text.
    pub result: Option<String>,
    /// What went wrong.
    pub errors: Vec<String>,
    /// The answer to a schema.
    pub structured_output: Option<Box<RawValue>>,
    /// The status of the API's error.
    pub api_error_status: Option<u16>,
    /// Its type.
    pub api_error_type: Option<String>,
    /// `connection_failed`.
    pub api_error: Option<String>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// Why the turn ended.
    pub terminal_reason: Option<String>,
    /// Why the program did not start.
    pub startup_failure_reason: Option<String>,
    /// The messages of the user that the turn took in.
    pub user_message_uuids: Option<Vec<String>>,
    /// Who began the turn, if it was not the user.
    pub origin: Option<Box<RawValue>>,
    /// How long it took.
    pub duration_ms: Option<Box<RawValue>>,
    /// How long calls of the API took.
    pub duration_api_ms: Option<Box<RawValue>>,
    /// Rounds.
    pub num_turns: Option<Box<RawValue>>,
    /// Money, in all that the process has done.
    pub total_cost_usd: Option<f64>,
    /// Tokens of this turn.
    pub usage: Option<Box<RawValue>>,
    /// Tokens and money of this turn, by model.
    pub model_usage_since_last_result: Option<BTreeMap<String, ModelUsage>>,
}

/// What one model took.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ModelUsage {
    /// Read.
    pub input_tokens: u64,
    /// Written.
    pub output_tokens: u64,
    /// Read from a cache.
    pub cache_read_input_tokens: u64,
    /// Written to one.
    pub cache_creation_input_tokens: u64,
    /// Spent on thinking.
    pub thinking_tokens: u64,
    /// Money.
    #[serde(rename = "costUSD")]
    pub cost_usd: f64,
}

/// Tokens as the Messages API counts them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiUsage {
    /// Read, less those of the cache.
    pub input_tokens: u64,
    /// Written.
    pub output_tokens: u64,
    /// Read from a cache.
    pub cache_read_input_tokens: u64,
    /// Written to one.
    pub cache_creation_input_tokens: u64,
    /// Of those written.
    pub output_tokens_details: OutputDetails,
}

/// Details of the tokens written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OutputDetails {
    /// Spent on thinking.
    pub thinking_tokens: u64,
}

/// What is kept between turns.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The form of this state.
    pub v: u32,
    /// The conversation.
    pub claude_session_id: String,
    /// Its turns so far.
    #[serde(default)]
    pub turns: u64,
    /// The version of the program that had the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cli: Option<String>,
}

/// A team of agents.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AgentTeam {
    /// Its name.
    pub name: String,
    /// This agent's name in it.
    pub agent_name: String,
    /// This agent's id.
    pub agent_id: String,
}

/// `claude` in the metadata of a request: what one turn may have otherwise than the server's options say.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestOptions {
    /// Rounds of the turn.
    pub max_turns: Option<u32>,
    /// The tools that it has.
    pub tools: Option<Vec<String>>,
    /// `default`, `acceptEdits`, `plan`, `bypassPermissions`, …
    pub permission_mode: Option<String>,
    /// Servers of tools, by name.
    pub mcp_servers: Option<serde_json::Map<String, serde_json::Value>>,
    /// A file with servers of tools, in place of `mcp_servers`: they come with keys.
    pub mcp_config: Option<String>,
    /// Which settings files are read: any of `user`, `project` and `local`.
    pub setting_sources: Option<String>,
    /// A file with further settings.
    pub settings_file: Option<String>,
    /// Instructions, in addition to the program's own.
    pub append_system_prompt: Option<String>,
    /// Tools that need no permission.
    pub allowed_tools: Vec<String>,
    /// Without anything of the user's.
    pub bare: bool,
    /// Whether servers of tools are those of `mcp_config` alone.
    pub strict_mcp_config: bool,
    /// The team that the agent is of.
    pub team: Option<AgentTeam>,
}
