//! Everything a turn can say before it ends: the closed list of events.

use super::{Entry, RawJson};
use std::sync::Arc;

/// Names a block of answer text, so that deltas and the whole text of the same block can be matched.
pub type BlockId = Arc<str>;

/// What a part of a text takes besides its bytes: its place in the list, and an allocation.
const PART_BYTES: usize = size_of::<String>() + 24;

/// One thing a turn says. The list is closed: a new kind is added here and handled by every adapter.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// One message to the user, made of one or more text parts. Authoritative: it replaces the deltas of its block.
    Text {
        /// The block whose deltas this text replaces, if it was streamed.
        block: Option<BlockId>,
        /// The parts in order; one call of a handler's sender is one event, whatever the number of parts.
        parts: Vec<String>,
    },
    /// A live piece of answer text.
    TextDelta {
        /// The block it belongs to.
        block: Option<BlockId>,
        /// The piece.
        text: String,
    },
    /// Reasoning, or a summary of it.
    Thinking {
        /// The reasoning text.
        text: String,
    },
    /// The agent calls a tool; said once per call, with its complete input.
    ToolUse {
        /// Id of the call; the matching [`Event::ToolResult`] carries the same.
        id: String,
        /// Name of the tool.
        name: String,
        /// Its input, a JSON value.
        input: RawJson,
    },
    /// What a tool call gave. Every [`Event::ToolUse`] gets one.
    ToolResult {
        /// Id of the call.
        id: String,
        /// The result as text.
        output: String,
        /// Whether the call failed.
        is_error: bool,
        /// Exit code, if the tool was a program.
        exit_code: Option<i32>,
    },
    /// A sign of life: start-up, retries, subagents, compaction.
    Progress {
        /// What kind of progress, in the handler's own words.
        kind: String,
        /// Its details, a JSON value.
        detail: Option<RawJson>,
    },
    /// Forget the deltas of this block: the model started it over.
    Discarded {
        /// The block.
        block: BlockId,
    },
    /// What this turn has used so far; later ones replace earlier ones.
    Usage(Usage),
    /// Output of a command of the turn.
    CommandOutput {
        /// Which of the command's two streams.
        stream: OutputStream,
        /// The text, cut at character borders.
        text: String,
        /// The command as it was given.
        command: Arc<str>,
    },
    /// A file of the turn is complete and may be fetched.
    Artifact {
        /// Path of the file, as its directory was named.
        path: String,
        /// Size in bytes.
        size: u64,
    },
    /// Something went wrong that does not end the turn.
    Warning {
        /// One sentence.
        text: String,
        /// The request field it is about, if any.
        field: Option<String>,
    },
}

/// Tokens and money of one turn.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Tokens read by the model.
    pub input_tokens: u64,
    /// Tokens written by the model.
    pub output_tokens: u64,
    /// Of the input tokens, those read from a cache.
    pub cached_tokens: u64,
    /// Of the output tokens, those spent on reasoning.
    pub reasoning_tokens: u64,
    /// Cost in US dollars, where the agent tells.
    pub cost_usd: Option<f64>,
}

/// One of a program's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Event {
    /// The number of its kind in the list above, from 0.
    #[must_use]
    pub const fn kind(&self) -> usize {
        match self {
            Self::Text { .. } => 0,
            Self::TextDelta { .. } => 1,
            Self::Thinking { .. } => 2,
            Self::ToolUse { .. } => 3,
            Self::ToolResult { .. } => 4,
            Self::Progress { .. } => 5,
            Self::Discarded { .. } => 6,
            Self::Usage(_) => 7,
            Self::CommandOutput { .. } => 8,
            Self::Artifact { .. } => 9,
            Self::Warning { .. } => 10,
        }
    }

    /// About how many bytes of memory this event takes in a log: its text, and what everything around it costs.
    #[must_use]
    pub fn weight(&self) -> usize {
        let text = match self {
            Self::Text { parts, .. } => parts.iter().map(|part| part.len() + PART_BYTES).sum(),
            Self::TextDelta { text, .. } | Self::Thinking { text } | Self::CommandOutput { text, .. } => text.len(),
            Self::ToolUse { id, name, input } => id.len() + name.len() + input.as_str().len(),
            Self::ToolResult { id, output, .. } => id.len() + output.len(),
            Self::Progress { kind, detail } => kind.len() + detail.as_ref().map_or(0, |d| d.as_str().len()),
            Self::Discarded { block } => block.len(),
            Self::Usage(_) => 0,
            Self::Artifact { path, .. } => path.len(),
            Self::Warning { text, field } => text.len() + field.as_ref().map_or(0, String::len),
        };
        text + Entry::OVERHEAD
    }
}
