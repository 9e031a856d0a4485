//! Bodies that are written member by member, described: what callers get, for the documents about our HTTP.
//!
//! Owns the descriptions only. A test holds real answers against them.

use super::record::EventRecord;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Why a request was not served.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorText {
    /// One sentence.
    pub error: String,
}

/// How a turn stands, and once it has ended, how it ended.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TurnShown {
    /// The turn.
    pub turn: String,
    /// Its session.
    pub session: String,
    /// `running` also where it still waits; `interrupted`: the server's end cut it, and a retry runs it.
    pub status: TurnStatus,
    /// Which attempt was cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Its outcome.
    #[serde(flatten)]
    pub outcome: Option<OutcomeShown>,
}

/// How a turn stands.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnStatus {
    /// It waits or runs.
    Running,
    /// It has its outcome.
    Ended,
    /// It was cut.
    Interrupted,
}

/// How a turn ended.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OutcomeShown {
    /// Which way.
    pub outcome: OutcomeWord,
    /// The answer, if it is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The answer, if it is a JSON value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured_output: Option<Value>,
    /// What kind of failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The failure in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The limit that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// The session's new state, where the turn changed it; `null` if it was cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Value>,
    /// The agent's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
}

/// The ways a turn can end.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeWord {
    /// The agent answered.
    Answered,
    /// It failed.
    Failed,
    /// Somebody stopped it.
    Cancelled,
    /// A limit stopped it.
    TimedOut,
    /// The server's end cut it.
    Interrupted,
}

/// A page of a session's log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventsPage<'a> {
    /// In the order of their numbers.
    pub events: Vec<LogEntry<'a>>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// One entry of a session's log.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogEntry<'a> {
    /// A turn was admitted and begins.
    Accepted {
        /// Its number in the log.
        seq: u64,
        /// The turn.
        turn: String,
        /// Unix milliseconds.
        at_ms: u64,
        /// 1, or more when earlier attempts were cut.
        attempt: u32,
        /// What it came by.
        protocol: String,
        /// What was asked.
        prompt: String,
    },
    /// A turn said something.
    Event {
        /// Its number in the log.
        seq: u64,
        /// The turn.
        turn: String,
        /// Unix milliseconds.
        at_ms: u64,
        /// What.
        event: EventRecord<'a>,
    },
    /// A turn ended.
    Ended {
        /// Its number in the log.
        seq: u64,
        /// The turn.
        turn: String,
        /// Unix milliseconds.
        at_ms: u64,
        /// How.
        #[serde(flatten)]
        outcome: OutcomeShown,
    },
    /// Entries that are no longer kept.
    Gap {
        /// The last of them.
        seq: u64,
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
}

/// A session of agentruntime. Which keys there are depends on where it is told of; those without a value are left out.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionShown {
    /// Its id, in lists and in `/info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Its id, in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `running`, `completed` or `failed`, in lists and in `/info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The same in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Its agent, in lists and in `/info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its agent, in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// The caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// Of all its turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Of all its turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Of all its turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_category: Option<String>,
}

/// A session that was asked to end.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionEnded {
    /// The session.
    pub id: String,
    /// How it stands now.
    pub state: String,
}
