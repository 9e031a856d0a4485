//! A turn that was cut before it had an outcome, as the turn after it is told of it.

use super::ToolCall;

/// What is known of a cut turn.
#[derive(Debug, Clone, PartialEq)]
pub struct CutTurn {
    /// The turn after it is its retry, and no other one.
    pub is_retry: bool,
    /// What was asked.
    pub prompt: String,
    /// What it had said, without deltas.
    pub said: String,
    /// The tools that it had called, those without a result included.
    pub tools: Vec<ToolCall>,
}
