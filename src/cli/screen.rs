//! A turn in a terminal, as `run` and `chat` show it.
//!
//! Owns what is printed where: what the agent says goes to standard output, everything about it to standard error.

use super::terminal::Paint;
use super::{INTERRUPTED, OK, TURN_FAILED};
use crate::engine::Followed;
use crate::model::{Ending, Event, Outcome, Usage, What};
use crate::wire::record::EventRecord;
use crate::wire::v1::outcome_members;
use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

/// A longer input of a tool is cut, where tools are shown in brief.
const INPUT_CHARS: usize = 80;

/// What one turn after another prints.
pub struct Screen {
    json: bool,
    /// A talk shows tools by their names, and what a turn has used.
    talk: bool,
    paint: Paint,
    /// The last message that was shown whole.
    said: Option<String>,
    /// Blocks whose text was shown in pieces.
    open: HashSet<String>,
    mid_line: bool,
    usage: Option<Usage>,
}

impl Screen {
    /// For one turn: everything is shown.
    pub fn new(json: bool) -> Self {
        let open = HashSet::new();
        Self { json, talk: false, paint: Paint::stderr(), said: None, open, mid_line: false, usage: None }
    }

    /// For turn after turn.
    pub fn talk(json: bool) -> Self {
        Self { talk: true, ..Self::new(json) }
    }

    /// Shows what is new in the log; the outcome, once it is there, is the caller's to show with [`Screen::end`].
    pub fn show(&mut self, batch: Vec<Followed>) -> Option<Arc<Outcome>> {
        for item in batch {
            let Followed::Entry(entry) = item else {
                self.aside("[some of it is no longer kept]");
                continue;
            };
            match &entry.what {
                What::Accepted { .. } => {}
                What::Said(event) => self.event(event),
                What::Ended(outcome) => return Some(outcome.clone()),
            }
        }
        None
    }

    /// Shows one event.
    pub fn event(&mut self, event: &Event) {
        if self.json {
            out(&(serde_json::to_string(&EventRecord::from(event)).unwrap_or_default() + "\n"));
            return;
        }
        match event {
            Event::TextDelta { block, text } => {
                self.open.insert(block.as_deref().unwrap_or_default().to_owned());
                self.mid_line = !text.ends_with('\n');
                out(text);
            }
            Event::Text { block, parts } => {
                let whole = parts.join("\n");
                // What came in pieces stands there already.
                let streamed = self.open.remove(block.as_deref().unwrap_or_default());
                self.end_line();
                if !streamed {
                    out(&format!("{whole}\n"));
                }
                self.said = Some(whole);
            }
            Event::CommandOutput { text, .. } | Event::Thinking { text } => self.aside(text.trim_end()),
            Event::ToolUse { name, input, .. } if self.talk => {
                let input: String = input.as_str().chars().take(INPUT_CHARS + 1).collect();
                let cut = if input.chars().count() > INPUT_CHARS { "…" } else { "" };
                let input: String = input.chars().take(INPUT_CHARS).collect();
                self.aside(format!("[tool] {name} {input}{cut}").trim_end());
            }
            Event::ToolResult { output, is_error, .. } if self.talk => {
                if *is_error {
                    let first = output.trim().lines().next().unwrap_or_default();
                    self.aside(&format!("[tool failed] {first}"));
                }
            }
            Event::ToolUse { name, input, .. } => self.aside(&format!("[{name}] {}", input.as_str())),
            Event::ToolResult { output, .. } => self.aside(output.trim_end()),
            Event::Warning { text, .. } => self.aside(&format!("warning: {text}")),
            Event::Progress { kind, .. } if self.talk && kind == "heard" => self.aside("[heard]"),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Progress { .. } | Event::Discarded { .. } | Event::Artifact { .. } => {}
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.mid_line) {
            out("\n");
        }
    }

    /// A line about the turn, not of it.
    pub fn aside(&mut self, text: &str) {
        self.end_line();
        eprintln!("{}", self.paint.dim(text));
    }

    /// Shows how a turn ended, and forgets the turn.
    pub fn end(&mut self, outcome: &Outcome) -> u8 {
        self.end_line();
        self.open.clear();
        let said = self.said.take();
        if self.json {
            out(&format!("{{\"type\":\"ended\",{}}}\n", outcome_members(outcome)));
        }
        let code = match &outcome.ending {
            Ending::Answered(answer) => {
                let text = answer.plain();
                if !self.json && said.as_deref() != Some(&text) {
                    out(&format!("{text}\n"));
                }
                OK
            }
            Ending::Failed(fault) => {
                if let Some(process) = fault.process.as_ref().filter(|process| !process.stderr_tail.trim().is_empty()) {
                    self.aside(process.stderr_tail.trim_end());
                }
                eprintln!("{} {}", self.paint.red("Failed:"), fault.message);
                TURN_FAILED
            }
            Ending::Cancelled(_) => {
                eprintln!("{}", self.paint.red("Cancelled."));
                INTERRUPTED
            }
            Ending::TimedOut { after, .. } => {
                eprintln!("{} no end within {after:?}", self.paint.red("Timed out:"));
                TURN_FAILED
            }
            Ending::Interrupted => TURN_FAILED,
        };
        if let Some(usage) = self.usage.take().filter(|_| self.talk && !self.json) {
            let cost = usage.cost_usd.map_or_else(String::new, |cost| format!(", ${cost:.4}"));
            self.aside(&format!("[{} tokens in, {} out{cost}]", usage.input_tokens, usage.output_tokens));
        }
        code
    }
}

fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // Whoever closed our output does not want the rest.
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}
