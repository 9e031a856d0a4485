//! What a turn is made of, as events.
//!
//! Owns how a turn speaks, and what is open: everything that began is closed once, by its own end or with the turn.

use crate::handler::Sink;
use crate::json;
use crate::model::{BlockId, Event, RawJson};
use crate::wire::codex::Item;
use futures_util::FutureExt;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a turn speaks. One that is to stop says what it still has to say, and does not wait for room.
pub struct Voice<'a> {
    sink: &'a Sink,
    is_hurried: AtomicBool,
}

impl<'a> Voice<'a> {
    pub fn new(sink: &'a Sink) -> Self {
        Self { sink, is_hurried: AtomicBool::new(false) }
    }

    pub async fn say(&self, event: Event) {
        if self.is_hurried.load(Ordering::Relaxed) {
            // Taken with the first poll.
            let _ = self.sink.say(event).now_or_never();
        } else {
            let _ = self.sink.say(event).await;
        }
    }

    pub async fn progress(&self, kind: &str, detail: &Value) {
        self.say(Event::Progress { kind: kind.to_owned(), detail: Some(written(detail)) }).await;
    }

    pub fn alive(&self) {
        self.sink.alive();
    }

    pub fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
    }
}

/// The items of one turn.
pub struct Items<'a> {
    voice: &'a Voice<'a>,
    tools: Vec<String>,
    /// Messages that have begun, and whether something of them was said.
    messages: Vec<(BlockId, bool)>,
    /// The text of the last message.
    pub answer: Option<String>,
}

impl<'a> Items<'a> {
    pub fn new(voice: &'a Voice<'a>) -> Self {
        Self { voice, tools: Vec::new(), messages: Vec::new(), answer: None }
    }

    async fn say(&self, event: Event) {
        self.voice.say(event).await;
    }

    /// Whether an item of this kind has an event, or needs none.
    pub fn knows(item: &Item) -> bool {
        ["agentMessage", "reasoning", "contextCompaction", "userMessage"].contains(&item.r#type.as_str())
            || tool_use(item).is_some()
    }

    pub async fn started(&mut self, item: &Item) {
        if item.r#type == "agentMessage" {
            // One message at a time: one that never ended was thrown away, as when the user spoke into it.
            self.discard_messages().await;
            self.messages.push((Arc::from(item.id.as_str()), false));
        } else if let Some(event) = tool_use(item) {
            self.tools.push(item.id.clone());
            self.say(event).await;
        }
    }

    pub async fn text(&mut self, id: &str, text: &str) {
        let known = self.messages.iter_mut().find(|(block, _)| **block == *id);
        let block = match known {
            Some((block, is_said)) => {
                *is_said = true;
                block.clone()
            }
            None => {
                let block: BlockId = Arc::from(id);
                self.messages.push((block.clone(), true));
                block
            }
        };
        self.say(Event::TextDelta { block: Some(block), text: text.to_owned() }).await;
    }

    /// What a tool says while it runs.
    pub async fn output(&self, id: &str, text: &str) {
        self.voice.progress("tool_output", &json!({"id": id, "text": text})).await;
    }

    pub async fn completed(&mut self, item: Item) {
        match item.r#type.as_str() {
            "agentMessage" => {
                self.messages.retain(|(block, _)| **block != *item.id);
                let Some(text) = item.text.filter(|text| !text.is_empty()) else { return };
                self.answer = Some(text.clone());
                self.say(Event::Text { block: Some(Arc::from(item.id)), parts: vec![text] }).await;
            }
            "reasoning" => {
                let summary = item.summary.filter(|parts| !parts.is_empty());
                let parts = summary.or_else(|| serde_json::from_str(item.content.as_deref()?.get()).ok());
                let text = parts.unwrap_or_default().join("\n\n");
                if !text.is_empty() {
                    self.say(Event::Thinking { text }).await;
                }
            }
            "contextCompaction" => {
                self.say(Event::Progress { kind: "compaction".to_owned(), detail: None }).await;
            }
            _ => {
                let Some(use_of) = tool_use(&item) else { return };
                if let Some(at) = self.tools.iter().position(|id| *id == item.id) {
                    self.tools.swap_remove(at);
                } else {
                    self.say(use_of).await;
                }
                self.say(tool_result(item)).await;
            }
        }
    }

    /// The model begins again: what it has said of messages that have not ended is not the answer.
    pub async fn discard_messages(&mut self) {
        for (block, is_said) in std::mem::take(&mut self.messages) {
            if is_said {
                self.say(Event::Discarded { block }).await;
            }
        }
    }

    /// The turn is over: what has not ended by now never will.
    pub async fn close(&mut self) {
        self.discard_messages().await;
        for id in std::mem::take(&mut self.tools) {
            let output = "not finished".to_owned();
            self.say(Event::ToolResult { id, output, is_error: true, exit_code: None }).await;
        }
    }
}

/// The call of a tool; `None` for an item that is none.
fn tool_use(item: &Item) -> Option<Event> {
    let value = |raw: &Option<Box<RawValue>>| raw.as_deref().map_or_else(empty, json::from_raw);
    let (name, input) = match item.r#type.as_str() {
        "commandExecution" => (item.r#type.clone(), written(&json!({"command": item.command}))),
        "fileChange" => {
            let changes = value(&item.changes);
            (item.r#type.clone(), RawJson::from_valid(format!("{{\"changes\":{}}}", changes.as_str())))
        }
        "mcpToolCall" => {
            let (server, tool) = (item.server.as_deref().unwrap_or("?"), item.tool.as_deref().unwrap_or("?"));
            (format!("mcp__{server}__{tool}"), value(&item.arguments))
        }
        "dynamicToolCall" => (item.tool.clone()?, value(&item.arguments)),
        "webSearch" => (item.r#type.clone(), written(&json!({"query": item.query}))),
        _ => return None,
    };
    Some(Event::ToolUse { id: item.id.clone(), name, input })
}

fn tool_result(item: Item) -> Event {
    let status = item.status.unwrap_or_default();
    let is_error = matches!(status.as_str(), "failed" | "declined") || item.exit_code.is_some_and(|code| code != 0);
    let output = match item.r#type.as_str() {
        "commandExecution" => item.aggregated_output.unwrap_or_default(),
        "mcpToolCall" => match (&item.result, &item.error) {
            (_, Some(error)) => message(error),
            (Some(result), None) => content(result),
            (None, None) => status,
        },
        _ => status,
    };
    Event::ToolResult { id: item.id, output, is_error, exit_code: item.exit_code }
}

/// The texts of an MCP tool's result; all of it where there are none.
fn content(result: &RawValue) -> String {
    let value: Value = serde_json::from_str(result.get()).unwrap_or_default();
    let parts = value["content"].as_array().into_iter().flatten();
    let texts: Vec<&str> = parts.filter_map(|part| part["text"].as_str()).collect();
    if texts.is_empty() { result.get().to_owned() } else { texts.join("\n") }
}

fn message(error: &RawValue) -> String {
    let value: Value = serde_json::from_str(error.get()).unwrap_or_default();
    value["message"].as_str().map_or_else(|| error.get().to_owned(), str::to_owned)
}

fn empty() -> RawJson {
    RawJson::from_valid("{}")
}

fn written(value: &Value) -> RawJson {
    RawJson::from_valid(value.to_string())
}
