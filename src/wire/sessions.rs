//! The agentruntime 0.8 protocol: what its clients send, and the bodies they get.
//!
//! Owns the shapes. Unknown fields are ignored, and `null` is a field that is not there. Lines of a session's log are in
//! `session_line`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A field that is `null` has its default.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(value).map(Option::unwrap_or_default)
}

/// `POST /sessions`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "SessionRequest")]
pub struct SessionRequest<'a> {
    /// Which agent.
    #[serde(deserialize_with = "or_default")]
    pub agent: String,
    /// The first message of the user. Required unless `interactive`.
    #[serde(deserialize_with = "or_default")]
    pub prompt: String,
    /// Whether the agent stays for more.
    #[serde(deserialize_with = "or_default")]
    pub interactive: bool,
    /// The caller's own UUID for the session.
    #[serde(deserialize_with = "or_default")]
    pub session_id: String,
    /// The caller's.
    #[serde(deserialize_with = "or_default")]
    pub task_id: String,
    /// The caller's.
    #[serde(deserialize_with = "or_default")]
    pub tags: BTreeMap<String, String>,
    /// The caller's.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `local`, or empty.
    #[serde(deserialize_with = "or_default")]
    pub runtime: String,
    /// The model.
    #[serde(deserialize_with = "or_default")]
    pub model: String,
    /// Such as `90s` or `1h30m`.
    #[serde(deserialize_with = "or_default")]
    pub timeout: String,
    /// No effect here.
    #[serde(deserialize_with = "or_default")]
    pub pty: bool,
    /// A session to go on with: its id, or the agent's own.
    #[serde(deserialize_with = "or_default")]
    pub resume_session: String,
    /// No effect here.
    #[serde(deserialize_with = "or_default")]
    pub persist_session: bool,
    /// The agent's current directory.
    #[serde(deserialize_with = "or_default")]
    pub work_dir: String,
    /// The first that may be written is the working directory where `work_dir` is not there.
    #[serde(deserialize_with = "or_default")]
    pub mounts: Vec<Mount>,
    /// `host:container[:mode]`
    #[serde(deserialize_with = "or_default")]
    pub volumes: Vec<String>,
    /// Programs around the agent.
    #[serde(deserialize_with = "or_default")]
    pub lifecycle: Lifecycle,
    /// Options of Claude Code.
    #[serde(borrow, deserialize_with = "or_default")]
    pub claude: ClaudeConfig<'a>,
    /// Options of Codex.
    #[serde(borrow, deserialize_with = "or_default")]
    pub codex: CodexConfig<'a>,
    /// Servers of tools.
    #[serde(deserialize_with = "or_default")]
    pub mcp_servers: Vec<McpServer>,
    /// The agent's environment.
    #[serde(deserialize_with = "or_default")]
    pub env: BTreeMap<String, String>,
    /// No effect here.
    #[serde(deserialize_with = "or_default")]
    pub container: Container,
    /// Taken, and without effect.
    #[serde(deserialize_with = "or_default")]
    pub auto_discover: Option<AutoDiscover>,
    /// A team of Claude agents.
    #[serde(deserialize_with = "or_default")]
    pub team: Option<Team>,
}

/// A directory of the host.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Mount {
    /// Where it is.
    #[serde(deserialize_with = "or_default")]
    pub host: String,
    /// Where a container sees it.
    #[serde(deserialize_with = "or_default")]
    pub container: String,
    /// `rw` or `ro`.
    #[serde(deserialize_with = "or_default")]
    pub mode: String,
    /// `bind` or `volume`.
    #[serde(deserialize_with = "or_default")]
    pub r#type: String,
}

/// Programs around the agent.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Lifecycle {
    /// Before the agent starts.
    #[serde(deserialize_with = "or_default")]
    pub pre_init: String,
    /// Before its first prompt.
    #[serde(deserialize_with = "or_default")]
    pub post_init: String,
    /// Beside it.
    #[serde(deserialize_with = "or_default")]
    pub sidecar: String,
    /// After it.
    #[serde(deserialize_with = "or_default")]
    pub post_run: String,
    /// Seconds.
    #[serde(deserialize_with = "or_default")]
    pub hook_timeout: u32,
}

/// Options of Claude Code.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClaudeConfig<'a> {
    /// Its settings.
    #[serde(borrow)]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub settings_json: Option<&'a RawValue>,
    /// Instructions.
    #[serde(deserialize_with = "or_default")]
    pub claude_md: String,
    /// Servers of tools, as in `.mcp.json`.
    #[serde(borrow)]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub mcp_json: Option<&'a RawValue>,
    /// A file with a login.
    #[serde(deserialize_with = "or_default")]
    pub credentials_path: String,
    /// A folder of memories.
    #[serde(deserialize_with = "or_default")]
    pub memory_path: String,
    /// Rounds.
    #[serde(deserialize_with = "or_default")]
    pub max_turns: u32,
    /// Tools that need no permission.
    #[serde(deserialize_with = "or_default")]
    pub allowed_tools: Vec<String>,
    /// Without anything of the user's.
    #[serde(deserialize_with = "or_default")]
    pub bare: bool,
    /// Taken, and without effect.
    #[serde(deserialize_with = "or_default")]
    pub output_format: String,
}

/// Options of Codex.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CodexConfig<'a> {
    /// Its configuration file, as JSON.
    #[serde(borrow)]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub config_toml: Option<&'a RawValue>,
    /// Instructions.
    #[serde(deserialize_with = "or_default")]
    pub instructions: String,
    /// `full-auto`, `auto-edit` or `suggest`.
    #[serde(deserialize_with = "or_default")]
    pub approval_mode: String,
}

/// A server of tools.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct McpServer {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `http`, `stdio` or `websocket`.
    #[serde(deserialize_with = "or_default")]
    pub r#type: String,
    /// Where it is.
    #[serde(deserialize_with = "or_default")]
    pub url: String,
    /// Its program and arguments.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Its environment.
    #[serde(deserialize_with = "or_default")]
    pub env: BTreeMap<String, String>,
    /// What it is shown.
    #[serde(deserialize_with = "or_default")]
    pub token: String,
}

/// Limits of a container.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Container {
    /// Its image.
    #[serde(deserialize_with = "or_default")]
    pub image: String,
    /// Its memory.
    #[serde(deserialize_with = "or_default")]
    pub memory: String,
    /// Its processors.
    #[serde(deserialize_with = "or_default")]
    pub cpus: String,
    /// Its network.
    #[serde(deserialize_with = "or_default")]
    pub network: String,
    /// Its security options.
    #[serde(deserialize_with = "or_default")]
    pub security_opt: Vec<String>,
}

/// All, nothing, or by name.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AutoDiscover {
    /// All or nothing.
    All(bool),
    /// By name.
    Some(BTreeMap<String, bool>),
}

/// A team of Claude agents.
#[derive(Debug, Clone, Default, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(default)]
pub struct Team {
    /// The team.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// This agent's name in it.
    #[serde(deserialize_with = "or_default")]
    pub agent_name: String,
    /// This agent's id.
    #[serde(deserialize_with = "or_default")]
    pub agent_id: String,
}

/// The answer to `POST /sessions`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionResponse<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The caller's.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub task_id: &'a str,
    /// Its agent.
    pub agent: &'a str,
    /// `local`
    pub runtime: &'a str,
    /// `running`
    pub status: &'a str,
    /// The caller's.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: &'a str,
    /// Its stream.
    pub ws_url: String,
    /// Its log.
    pub log_url: String,
    /// Fields without effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How a session stands: what all the bodies are made of, and what is kept of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionRecord {
    /// Its id, as it was given.
    pub id: String,
    /// The caller's.
    pub task_id: String,
    /// Its agent.
    pub agent: String,
    /// The caller's.
    pub name: String,
    /// The caller's, and ours.
    pub tags: BTreeMap<String, String>,
    /// Its team.
    pub team: Option<Team>,
    /// Whether it takes more than one prompt.
    pub interactive: bool,
    /// `running`, `completed` or `failed`.
    pub state: String,
    /// Once it has ended.
    pub exit_code: Option<i32>,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Unix milliseconds.
    pub ended_at: Option<u64>,
    /// Unix milliseconds.
    pub last_activity: Option<u64>,
    /// Of all its turns.
    pub input_tokens: u64,
    /// Of all its turns.
    pub output_tokens: u64,
    /// Of all its turns.
    pub cost_usd: f64,
    /// Of all its turns.
    pub tool_call_count: u64,
    /// The agent's own id.
    pub agent_session_id: Option<String>,
    /// Why it failed.
    pub error_category: Option<String>,
    /// Whether the same may go well later.
    pub retryable: Option<bool>,
    /// Why it failed, in words.
    pub error_detail: Option<String>,
    /// Its working directory.
    pub work_dir: Option<String>,
}

/// A frame of a client of `/ws/sessions/:id`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClientFrame<'a> {
    /// What it is.
    #[serde(deserialize_with = "or_default")]
    pub r#type: String,
    /// Its text, or its members.
    #[serde(borrow)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub data: Option<&'a RawValue>,
    /// Of `context`.
    #[serde(borrow)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub context: Option<&'a RawValue>,
    /// Of `mention`.
    #[serde(borrow)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub mention: Option<&'a RawValue>,
}

/// What a client points the agent to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Pointed {
    /// Text of a file.
    #[serde(deserialize_with = "or_default")]
    pub text: String,
    /// The file.
    #[serde(alias = "filePath", deserialize_with = "or_default")]
    pub file_path: String,
    /// Its first line.
    #[serde(alias = "lineStart", deserialize_with = "or_default")]
    pub line_start: u64,
    /// Its last line.
    #[serde(alias = "lineEnd", deserialize_with = "or_default")]
    pub line_end: u64,
}

/// A text as the member `content`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Content {
    /// The text.
    #[serde(deserialize_with = "or_default")]
    pub content: String,
}

/// A command to the sidecar, on `/ws`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Command<'a> {
    /// `prompt`, `interrupt`, `steer`, `context` or `mention`.
    #[serde(deserialize_with = "or_default")]
    pub r#type: String,
    /// A [`Content`] or a [`Pointed`].
    #[serde(borrow)]
    #[schemars(with = "Option<serde_json::Value>")]
    pub data: Option<&'a RawValue>,
}

/// A frame to a client of `/ws/sessions/:id`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// What was before.
    Replay {
        /// Base64 of bytes of the log.
        data: String,
        /// The position behind them.
        offset: u64,
        /// Always `base64`.
        encoding: &'a str,
        /// Whether bytes before these are lost.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        gap: bool,
    },
    /// Live from here on.
    Connected {
        /// The session.
        session_id: &'a str,
        /// Always `pipe`.
        mode: &'a str,
        /// How it stands.
        status: &'a str,
        /// Where the live part begins.
        offset: u64,
        /// Prompts before it that have no `result` yet, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        unanswered: Option<usize>,
    },
    /// Whole lines of the log.
    Stdout {
        /// The lines.
        data: &'a str,
        /// The position behind them.
        offset: u64,
    },
    /// The answer to `ping`.
    Pong,
    /// Something was wrong with a frame of the client.
    Error {
        /// What.
        error: String,
    },
    /// The session has ended.
    Exit {
        /// How.
        exit_code: i32,
        /// Why.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_category: Option<String>,
        /// Whether the same may go well later.
        #[serde(skip_serializing_if = "Option::is_none")]
        retryable: Option<bool>,
        /// In words.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_detail: Option<String>,
    },
}
