//! What an agent is told of the turn that was cut before its own.
//!
//! Owns the words. A tool call that had finished stands and is not to be repeated; of one that had not nobody knows.

use super::Turn;
use crate::model::{CutTurn, ToolCall};
use std::borrow::Cow;
use std::fmt::Write as _;

/// The most calls that are told of, the newest ones.
const CALLS: usize = 50;
/// The most that is told of a text, in bytes.
const TEXT: usize = 4096;

impl Turn {
    /// The user's text, behind what the agent has to know of a turn that was cut.
    #[must_use]
    pub fn told_prompt(&self) -> Cow<'_, str> {
        let prompt = self.request.prompt.as_str();
        self.cut.as_ref().map_or(Cow::Borrowed(prompt), |cut| format!("[{}]\n\n{prompt}", note(cut)).into())
    }
}

fn note(cut: &CutTurn) -> String {
    let mut note = if cut.is_retry {
        "An earlier attempt at this task was interrupted when the server ended.".to_owned()
    } else {
        format!("The task before this one was interrupted when the server ended. It was: {}", short(&cut.prompt))
    };
    if !cut.said.is_empty() {
        let _ = write!(note, "\nIt had said: {}", short(&cut.said));
    }
    if !cut.tools.is_empty() {
        note.push_str("\nWhat its tools have done stands; do not repeat it:");
    }
    let left_out = cut.tools.len().saturating_sub(CALLS);
    if left_out > 0 {
        let _ = write!(note, "\n- {left_out} calls before these");
    }
    for call in &cut.tools[left_out..] {
        tell(&mut note, call);
    }
    note
}

fn tell(note: &mut String, call: &ToolCall) {
    let _ = write!(note, "\n- {} {}", call.name, short(call.input.as_str()));
    let _ = match &call.result {
        Some(result) if result.is_error => write!(note, " failed: {}", short(&result.output)),
        Some(result) => write!(note, " finished: {}", short(&result.output)),
        None => write!(note, ": outcome unknown, it was running; look before you do it again"),
    };
}

fn short(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    let end = text.floor_char_boundary(TEXT);
    if end == text.len() { text.into() } else { format!("{}…", &text[..end]).into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RawJson, ToolResult};

    fn call(name: &str, result: Option<(&str, bool)>) -> ToolCall {
        let result = result.map(|(output, is_error)| ToolResult { output: output.to_owned(), is_error });
        ToolCall { id: "1".into(), name: name.into(), input: RawJson::from_valid("{}"), result }
    }

    #[test]
    fn what_is_told() {
        let tools = vec![call("a", Some(("done\n", false))), call("b", Some(("no", true))), call("c", None)];
        let cut = CutTurn { is_retry: true, prompt: "p".into(), said: String::new(), tools };
        assert_eq!(
            note(&cut),
            "An earlier attempt at this task was interrupted when the server ended.\n\
             What its tools have done stands; do not repeat it:\n- a {} finished: done\n- b {} failed: no\n\
             - c {}: outcome unknown, it was running; look before you do it again"
        );
        let many = vec![call("a", None); 60];
        let cut = CutTurn { is_retry: false, prompt: "ü".repeat(5000), said: "Well".into(), tools: many };
        let note = note(&cut);
        assert!(note.len() < 10_000 && note.contains("It was: üü") && note.contains("…\nIt had said: Well"), "{note}");
        assert!(note.contains("- 10 calls before these"), "{note}");
    }
}
