//! Reading back what a cut turn did, for the turn after it.
//!
//! Owns what of its entries counts: its prompt, its texts and its tools, within bounds.

use super::Followed;
use super::session::{Cut, Session};
use crate::model::{CutTurn, Entry, Event, Repeat, Seq, ToolCall, ToolResult, What};
use std::sync::Arc;

/// How much of the log is read at once, in bytes, and how much at all.
const PAGE: usize = 256 << 10;
const MOST: usize = 32 << 20;
/// The newest calls and texts are kept, up to so many and so much.
const CALLS: usize = 200;
const SAID: usize = 16 << 10;

/// What the log tells of a turn that was cut. What is no longer kept is not told.
pub(super) async fn read(session: &Session, cut: &Cut, next: &Repeat) -> Arc<CutTurn> {
    let is_retry = cut.repeat != Repeat::Never && cut.repeat == *next;
    let mut found = CutTurn { is_retry, prompt: String::new(), said: String::new(), tools: Vec::new() };
    let mut follower = session.log.follow(Seq(cut.from.0.saturating_sub(1)));
    let mut bytes = 0;
    while !follower.is_at_end() && bytes < MOST {
        for followed in follower.next(PAGE).await {
            if let Followed::Entry(entry) = followed {
                bytes += entry.weight();
                if entry.turn == cut.turn {
                    note(&mut found, &entry);
                }
            }
        }
    }
    Arc::new(found)
}

fn note(found: &mut CutTurn, entry: &Entry) {
    match &entry.what {
        What::Accepted { request, .. } => found.prompt.clone_from(&request.prompt),
        What::Said(Event::Text { parts, .. }) => {
            let room = SAID.saturating_sub(found.said.len());
            let text = parts.concat();
            found.said.push_str(&text[..text.floor_char_boundary(room)]);
        }
        What::Said(Event::ToolUse { id, name, input }) => {
            if found.tools.len() >= CALLS {
                found.tools.remove(0);
            }
            let (id, name, input) = (id.clone(), name.clone(), input.clone());
            found.tools.push(ToolCall { id, name, input, result: None });
        }
        What::Said(Event::ToolResult { id, output, is_error, .. }) => {
            if let Some(call) = found.tools.iter_mut().rev().find(|call| call.id == *id) {
                call.result = Some(ToolResult { output: output.clone(), is_error: *is_error });
            }
        }
        What::Said(_) | What::Ended(_) => {}
    }
}
