//! How a turn, and with it perhaps its session, ends: by which word, category and exit code.
//!
//! Owns the way from an outcome to what a `result` and an `exit` tell of it. The categories are `category`'s.

use super::category;
use super::lines::{line_usage, round};
use crate::model::{CancelReason, Ending, Fault, FaultCode, Limit, Outcome, StateChange, Usage};
use crate::wire::session_line::LineUsage;
use serde::Deserialize;
use serde_json::Value;

/// The last of standard error that is told.
const DETAIL: usize = 8 << 10;

/// What a turn came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TurnEnd {
    pub status: String,
    pub is_success: bool,
    /// Whether the agent itself is gone.
    pub is_crash: bool,
    /// Whether somebody interrupted the turn, and nothing is wrong.
    pub is_interrupted: bool,
    /// What the session exits with, if it ends by this.
    pub exit: Exit,
    /// What went wrong.
    pub message: Option<String>,
}

/// How a session ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub category: Option<&'static str>,
    pub retryable: Option<bool>,
    pub detail: Option<String>,
}

impl Exit {
    /// One that somebody wanted.
    pub fn killed(detail: &str) -> Self {
        Self { code: -1, detail: Some(detail.to_owned()), ..Self::default() }
    }

    /// A limit of ours.
    pub fn limit(category: &'static str, retryable: bool, detail: String) -> Self {
        Self { code: -1, category: Some(category), retryable: Some(retryable), detail: Some(detail) }
    }
}

/// What agents tell besides their answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    pub duration_ms: Option<u64>,
    pub num_turns: Option<u64>,
    pub total_cost_usd: Option<f64>,
    usage: Option<Value>,
    session_id: Option<String>,
    thread_id: Option<String>,
    pub category: Option<String>,
    pub phase: Option<String>,
    pub subtype: Option<String>,
    pub status: Option<u16>,
    pub retryable: Option<bool>,
    pub stderr_tail: Option<String>,
    /// How the agent's process ended, where several sessions share it.
    exit_code: Option<i32>,
    signal: Option<i32>,
}

/// The metadata of a turn, however it ended. One of another form is none.
pub fn metadata(outcome: &Outcome) -> Metadata {
    let raw = match &outcome.ending {
        Ending::Failed(fault) => fault.metadata.as_ref(),
        _ => outcome.metadata.as_ref(),
    };
    let value: Value = raw.and_then(|raw| serde_json::from_str(raw.as_str()).ok()).unwrap_or_default();
    serde_json::from_value(value).unwrap_or_default()
}

/// The agent's own id, where its state or metadata tells it.
pub fn native_id(outcome: &Outcome, metadata: &Metadata) -> Option<String> {
    let told = metadata.session_id.clone().or_else(|| metadata.thread_id.clone());
    told.or_else(|| {
        let StateChange::Set(state) = &outcome.state else { return None };
        let state: Value = serde_json::from_str(state.as_str()).ok()?;
        ["claude_session_id", "codex_thread_id"].iter().find_map(|name| Some(state[*name].as_str()?.to_owned()))
    })
}

/// The tokens of a turn: in the agent's own words where it has them.
pub fn usage(metadata: &Metadata, said: Option<&Usage>) -> Option<LineUsage> {
    let own = metadata.usage.as_ref().filter(|usage| usage["input_tokens"].is_u64());
    let count = |usage: &Value, name: &str| usage[name].as_u64().unwrap_or_default();
    own.map(|usage| LineUsage {
        input_tokens: count(usage, "input_tokens"),
        output_tokens: count(usage, "output_tokens"),
        cache_read_input_tokens: count(usage, "cache_read_input_tokens"),
        cache_creation_input_tokens: count(usage, "cache_creation_input_tokens"),
    })
    .or_else(|| said.map(line_usage))
}

/// What a turn cost.
pub fn cost(metadata: &Metadata, said: Option<&Usage>) -> Option<f64> {
    metadata.total_cost_usd.or_else(|| said?.cost_usd).map(round)
}

/// What a turn came to.
pub fn of(outcome: &Outcome, metadata: &Metadata, has_begun: bool, said: usize) -> TurnEnd {
    // A word of the agent's own, unless it is the one for success.
    let word = metadata.subtype.as_deref().filter(|word| *word != "success");
    let failed = |status: &str, exit: Exit| TurnEnd {
        status: status.to_owned(),
        message: exit.detail.clone(),
        exit,
        ..TurnEnd::default()
    };
    match &outcome.ending {
        Ending::Answered(_) => TurnEnd { status: "success".to_owned(), is_success: true, ..TurnEnd::default() },
        Ending::Cancelled(CancelReason::Draining) | Ending::Interrupted => {
            failed("interrupted", Exit::killed("the server is stopping"))
        }
        Ending::Cancelled(_) => TurnEnd {
            is_interrupted: true,
            message: None,
            ..failed(word.unwrap_or("interrupted"), Exit { code: 130, ..Exit::killed("interrupted") })
        },
        Ending::TimedOut { limit: Limit::Silence, after, .. } => {
            failed("error", Exit::limit("stall", true, format!("the agent was silent for {after:?}")))
        }
        Ending::TimedOut { after, .. } => {
            failed("error", Exit::limit("timeout", false, format!("the turn took longer than {after:?}")))
        }
        Ending::Failed(fault) => {
            let exit = exit_of(fault, metadata, has_begun, said);
            let is_crash = fault.process.is_some()
                || matches!(fault.code, FaultCode::HandlerUnavailable | FaultCode::HandlerExited)
                || metadata.category.as_deref() == Some("startup_crash");
            TurnEnd { is_crash, message: Some(fault.message.clone()), ..failed(word.unwrap_or("error"), exit) }
        }
    }
}

/// The last of standard error, else the reason.
pub fn detail<'a>(stderr: &'a str, reason: &'a str) -> &'a str {
    let stderr = stderr.trim();
    let detail = if stderr.is_empty() { reason } else { stderr };
    &detail[detail.ceil_char_boundary(detail.len().saturating_sub(DETAIL))..]
}

fn exit_of(fault: &Fault, metadata: &Metadata, has_begun: bool, said: usize) -> Exit {
    let process = fault.process.as_ref();
    let (code, signal) = process.map_or((metadata.exit_code, metadata.signal), |end| (end.exit_code, end.signal));
    let by_process = code.or(signal.map(|signal| 128 + signal));
    let category = category::of(fault, metadata, has_begun, said);
    let stderr = process.map(|end| end.stderr_tail.as_str()).or(metadata.stderr_tail.as_deref());
    let detail = detail(stderr.unwrap_or_default(), &fault.message);
    Exit {
        code: by_process.filter(|code| *code != 0).unwrap_or(1),
        category: category.map(|(name, _)| name),
        retryable: category.map(|(_, retryable)| retryable),
        detail: Some(detail.to_owned()),
    }
}
