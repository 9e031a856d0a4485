//! How a turn ended: exactly one of these per turn.

use super::{ArtifactFailure, CommandEnd, Fault, RawJson};
use std::borrow::Cow;
use std::time::Duration;

/// The one end of a turn, with what it leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// What happens to the session's state.
    pub state: StateChange,
    /// The handler's own metadata, a JSON object.
    pub metadata: Option<RawJson>,
    /// Files of the turn that its caller did not get.
    pub artifact_failures: Vec<ArtifactFailure>,
    /// The tools that were used, in order, where the caller wanted to know.
    pub tools: Vec<ToolCall>,
}

/// One call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its input, a JSON value.
    pub input: RawJson,
    /// What it gave; `None` while it has given nothing.
    pub result: Option<ToolResult>,
}

/// What a call of a tool gave.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// The result as text.
    pub output: String,
    /// Whether the call failed.
    pub is_error: bool,
}

impl ToolCall {
    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let output = self.result.as_ref().map_or(0, |result| result.output.len());
        self.id.len() + self.name.len() + self.input.as_str().len() + output + size_of::<Self>()
    }
}

impl Outcome {
    /// An outcome that leaves the state alone.
    #[must_use]
    pub fn new(ending: Ending) -> Self {
        Self { ending, state: StateChange::Keep, metadata: None, artifact_failures: Vec::new(), tools: Vec::new() }
    }

    /// Whether the turn is settled by this outcome. One that the stopping server cut is not: a retry runs it.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        !matches!(self.ending, Ending::Cancelled(CancelReason::Draining) | Ending::Interrupted)
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let answer = match &self.ending {
            Ending::Answered(Answer::Text(text)) | Ending::TimedOut { partial: text, .. } => text.len(),
            Ending::Answered(Answer::Structured(json)) => json.as_str().len(),
            Ending::Answered(Answer::Commands(ends)) => ends.iter().map(CommandEnd::weight).sum(),
            Ending::Failed(fault) => fault.message.len() + fault.metadata.as_ref().map_or(0, |m| m.as_str().len()),
            Ending::Cancelled(_) | Ending::Interrupted => 0,
        };
        let state = if let StateChange::Set(state) = &self.state { state.as_str().len() } else { 0 };
        let tools: usize = self.tools.iter().map(ToolCall::weight).sum();
        answer + state + tools + self.metadata.as_ref().map_or(0, |m| m.as_str().len())
    }
}

/// The ways a turn can end.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// The handler answered.
    Answered(Answer),
    /// The turn failed.
    Failed(Fault),
    /// Somebody stopped it.
    Cancelled(CancelReason),
    /// A limit stopped it.
    TimedOut {
        /// Which limit.
        limit: Limit,
        /// How long the limit was.
        after: Duration,
        /// The answer text said until then, cut to a bound.
        partial: String,
    },
    /// The server died while it ran.
    Interrupted,
}

/// What a handler answers with.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Plain text.
    Text(String),
    /// A JSON value, normally an object that fits the caller's schema.
    Structured(RawJson),
    /// How the commands ended that were the turn's main work, as far as they were run.
    Commands(Vec<CommandEnd>),
}

impl Answer {
    /// The answer as one text: what is structured as JSON, of commands what they wrote.
    #[must_use]
    pub fn plain(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Structured(json) => json.as_str().into(),
            Self::Commands(ends) => ends.iter().map(|end| end.stdout.as_str()).collect(),
        }
    }
}

/// What a turn does to its session's opaque state. Three cases: leaving it alone is not the same as clearing it.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum StateChange {
    /// Leave the state as it is.
    #[default]
    Keep,
    /// Forget the state.
    Clear,
    /// Replace the state by this value. Never `null`.
    Set(RawJson),
}

/// Who stopped a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// Its caller asked for it.
    Caller,
    /// Its caller went away, and the protocol says that ends it.
    Disconnected,
    /// The server is stopping. Such a turn leaves no recorded outcome, so that a retry runs it.
    Draining,
}

/// Which limit ended a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// No event and no sign of life for too long (`--idle-timeout`).
    Silence,
    /// The turn as a whole took too long (`--turn-timeout`).
    Turn,
    /// The limit that came with the request.
    Request,
}
