//! The agentruntime 0.8 protocol as one of its clients reads it: frames of the bridge, lines of a log, the list of sessions.
//!
//! Owns the shapes of what comes from a server, which may be an older one: every member may be missing. What we send as a
//! server is in `sessions` and `session_line`.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A text; anything else counts as a member that is not there.
fn text<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(value)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

/// A frame of `/ws/sessions/:id`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BridgeFrame<'a> {
    /// What it is.
    #[serde(borrow)]
    pub r#type: Cow<'a, str>,
    /// Bytes of the log: base64 in `replay`, text in `stdout`.
    #[serde(borrow)]
    pub data: Option<Cow<'a, str>>,
    /// The position behind them.
    pub offset: Option<u64>,
    /// Bytes before these are lost.
    pub gap: Option<bool>,
    /// Prompts before it that have no result yet.
    pub unanswered: Option<u32>,
    /// What was wrong with a frame of ours.
    pub error: Option<String>,
    /// How the session ended.
    pub exit_code: Option<i32>,
    /// Why, by name.
    pub error_category: Option<String>,
    /// Why, in words.
    pub error_detail: Option<String>,
}

/// A line of a log.
#[derive(Debug, Deserialize)]
pub struct LogLine<'a> {
    /// What it is.
    #[serde(borrow)]
    pub r#type: Cow<'a, str>,
    /// What it says: mostly a [`LineSays`].
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
}

/// What a line says, as far as people are shown it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LineSays {
    /// Of a message, a notice, an agent's standard error.
    #[serde(deserialize_with = "text")]
    pub text: Option<String>,
    /// Whether the text is a piece of a message.
    pub delta: Value,
    /// The message that it is a piece of.
    #[serde(deserialize_with = "text")]
    pub item_id: Option<String>,
    /// The tool.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
    /// The call of the tool.
    #[serde(deserialize_with = "text")]
    pub id: Option<String>,
    /// How a turn ended.
    #[serde(deserialize_with = "text")]
    pub status: Option<String>,
    /// Of an error or a notice.
    #[serde(deserialize_with = "text")]
    pub message: Option<String>,
    /// The kind of a notice.
    #[serde(deserialize_with = "text")]
    pub subtype: Option<String>,
    /// The hook that a notice is of.
    #[serde(deserialize_with = "text")]
    pub source: Option<String>,
    /// Why something failed.
    #[serde(deserialize_with = "text")]
    pub error_detail: Option<String>,
}

/// One of `GET /sessions`, or of `GET /sessions/history`, which counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Listed {
    /// Its id.
    pub session_id: String,
    /// The caller's name for it.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
    /// Its agent.
    #[serde(deserialize_with = "text")]
    pub agent: Option<String>,
    /// How it stands.
    #[serde(deserialize_with = "text")]
    pub status: Option<String>,
    /// RFC 3339.
    #[serde(deserialize_with = "text")]
    pub created_at: Option<String>,
    /// Read by its model.
    pub input_tokens: Option<u64>,
    /// Written by it.
    pub output_tokens: Option<u64>,
    /// US dollars.
    pub cost_usd: Option<f64>,
}

/// The answer to `POST /sessions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Opened {
    /// The session.
    pub session_id: String,
    /// Its stream.
    pub ws_url: String,
    /// Its log.
    pub log_url: String,
    /// Fields without effect.
    pub warnings: Vec<String>,
}

/// `GET /sessions/:id`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// `running`, `completed` or `failed`.
    pub state: String,
}

/// Any error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// In words, or by name.
    pub error: String,
    /// In words, where `error` is a name.
    pub message: String,
}
