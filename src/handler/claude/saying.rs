//! What a turn says, from the lines of the program.
//!
//! Owns which line is which event, and which pieces of text were taken back: a call that is tried again begins anew, and the
//! whole text of a block may come from another message than its pieces.

use crate::handler::{Sink, Turn};
use crate::json;
use crate::model::{BlockId, Event, RawJson};
use crate::wire::claude::{
    ApiRetry, Block, BlockDelta, Init, LineHead, MessageLine, StreamEvent, StreamHead, StreamLine,
};
use futures_util::FutureExt;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// The tool by which an answer to a schema is given; nobody's business but ours.
const OUTPUT_TOOL: &str = "StructuredOutput";

/// Parts of a stream whose content comes otherwise.
const KNOWN: [&str; 4] = ["content_block_stop", "message_delta", "message_stop", "ping"];

fn is_known(line: &[u8]) -> bool {
    KNOWN.contains(&&*parse::<StreamHead>(line).event.r#type)
}

/// What a turn has said so far.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is about something else")]
pub struct Saying {
    /// The message that is being streamed, and its block.
    message: String,
    index: u64,
    /// Blocks of which pieces were said, and not yet the whole.
    open: Vec<BlockId>,
    /// Calls without a result, and their tools.
    calls: HashMap<String, String>,
    pub has_begun: bool,
    /// Texts of the turn: an answer that was cut and continued is all of them.
    pub texts: Vec<String>,
    /// Whether the answer was cut at its limit and went on in another message.
    pub is_continued: bool,
    /// The error that stands for an answer.
    pub api_error: Option<String>,
    /// Its text.
    pub error_text: Option<String>,
    /// Whether the model has said anything yet.
    pub is_answering: bool,
    /// Whether what has no other event is told as it is.
    tells_all: bool,
}

/// What a line means for the turn besides what it says.
#[derive(Debug, PartialEq, Eq)]
pub enum Sign {
    Nothing,
    /// The program's version.
    Version(String),
    /// The key is not taken; the program would try it for minutes.
    BadKey,
}

fn parse<'a, T: serde::Deserialize<'a> + Default>(line: &'a [u8]) -> T {
    serde_json::from_slice(line).unwrap_or_default()
}

impl Saying {
    /// Of a turn that has said nothing yet.
    pub fn of(turn: &Turn) -> Self {
        Self { tells_all: turn.has_own_environment(), ..Self::default() }
    }

    /// Takes a line that is neither the end of a turn nor a request.
    pub async fn take(&mut self, head: &LineHead, line: &[u8], sink: &Sink) -> Sign {
        match (head.r#type.as_str(), head.subtype.as_deref()) {
            ("stream_event", _) if head.parent_tool_use_id.is_none() => match serde_json::from_slice(line) {
                Ok(StreamLine { event: StreamEvent::Other }) if self.tells_all && !is_known(line) => {
                    self.raw(line, sink).await;
                }
                Ok(StreamLine { event }) => self.stream(event, sink).await,
                Err(_) => self.raw(line, sink).await,
            },
            ("assistant" | "user", _) if head.parent_tool_use_id.is_some() => {
                let detail = json!({"tool_use_id": head.parent_tool_use_id, "message": head.r#type});
                progress(sink, "subagent", &detail).await;
            }
            ("assistant", _) => self.assistant(&parse(line), line, sink).await,
            ("user", _) => self.user(&parse(line), sink).await,
            ("system", Some("init")) => return self.init(&parse(line), sink).await,
            ("system", Some("api_retry")) => return self.retry(&parse(line), sink).await,
            ("system", Some(_)) if self.tells_all => progress(sink, "notice", &notice(parse(line))).await,
            ("system", Some(kind)) => {
                let told = ["compact_boundary", "permission_denied", "informational"];
                if told.contains(&kind) || kind.starts_with("task_") {
                    let detail: Value = serde_json::from_slice(line).unwrap_or_default();
                    progress(sink, kind, &without_ids(detail)).await;
                } else {
                    sink.alive();
                }
            }
            ("keep_alive" | "streamlined_text", _) => sink.alive(),
            _ => self.raw(line, sink).await,
        }
        Sign::Nothing
    }

    /// What has no event of its own.
    async fn raw(&self, line: &[u8], sink: &Sink) {
        if !self.tells_all {
            return sink.alive();
        }
        progress(sink, "agent_raw", &json!({"raw": parse::<Value>(line)})).await;
    }

    async fn stream(&mut self, event: StreamEvent, sink: &Sink) {
        match event {
            StreamEvent::MessageStart { message } => {
                self.discard(sink).await;
                self.message = message.id;
                self.is_answering = true;
            }
            StreamEvent::ContentBlockStart { index } => self.index = index,
            StreamEvent::ContentBlockDelta { index, delta: BlockDelta::TextDelta { text } } => {
                let block = self.block(index);
                if !self.open.contains(&block) {
                    self.open.push(block.clone());
                }
                let _ = sink.say(Event::TextDelta { block: Some(block), text }).await;
            }
            StreamEvent::ContentBlockDelta { .. } | StreamEvent::Other => sink.alive(),
        }
    }

    fn block(&self, index: u64) -> BlockId {
        Arc::from(format!("{}/{index}", self.message))
    }

    async fn assistant(&mut self, line: &MessageLine, whole: &[u8], sink: &Sink) {
        let is_streamed = line.message.id == self.message;
        if !is_streamed {
            self.discard(sink).await;
        }
        if let Some(error) = &line.error {
            self.discard(sink).await;
            self.api_error = Some(error.clone());
            self.error_text = blocks(line.message.content.as_deref()).into_iter().find_map(|block| block.text);
            return;
        }
        for block in blocks(line.message.content.as_deref()) {
            match block.r#type.as_str() {
                "text" => {
                    let text = block.text.unwrap_or_default();
                    let id = self.block(self.index);
                    let is_open = is_streamed && self.open.contains(&id);
                    self.open.retain(|open| *open != id);
                    if !text.is_empty() {
                        self.texts.push(text.clone());
                        let _ = sink.say(Event::Text { block: is_open.then_some(id), parts: vec![text] }).await;
                    }
                }
                "thinking" => {
                    let text = block.thinking.unwrap_or_default();
                    if !text.is_empty() {
                        let _ = sink.say(Event::Thinking { text }).await;
                    }
                }
                "tool_use" if block.name != OUTPUT_TOOL => {
                    let input = block.input.as_deref().map_or_else(|| RawJson::from_valid("{}"), json::from_raw);
                    self.calls.insert(block.id.clone(), block.name.clone());
                    let _ = sink.say(Event::ToolUse { id: block.id, name: block.name, input }).await;
                }
                "tool_use" | "redacted_thinking" => sink.alive(),
                _ => self.raw(whole, sink).await,
            }
        }
    }

    async fn user(&mut self, line: &MessageLine, sink: &Sink) {
        if line.is_synthetic || line.is_replay {
            let text = text_of(line.message.content.as_deref());
            self.is_continued |= line.is_synthetic && text.starts_with("Output token limit hit");
            return sink.alive();
        }
        for block in blocks(line.message.content.as_deref()).into_iter().filter(|block| block.r#type == "tool_result") {
            let Some(tool) = self.calls.remove(&block.tool_use_id) else { continue };
            let output = text_of(block.content.as_deref());
            let is_error = block.is_error.unwrap_or_default();
            let exit_code = if tool == "Bash" { exit_code(&output, is_error) } else { None };
            let _ = sink.say(Event::ToolResult { id: block.tool_use_id, output, is_error, exit_code }).await;
        }
    }

    /// Comes at the start of every turn; what does not change is told once.
    async fn init(&mut self, init: &Init, sink: &Sink) -> Sign {
        if !std::mem::replace(&mut self.has_begun, true) {
            progress(sink, "started", &json!({"model": init.model})).await;
            for server in init.mcp_servers.iter().filter(|server| server.status == "failed") {
                let text = format!("the MCP server {} could not be started: its tools are missing", server.name);
                let _ = sink.say(Event::Warning { text, field: None }).await;
            }
        }
        init.claude_code_version.clone().map_or(Sign::Nothing, Sign::Version)
    }

    async fn retry(&mut self, retry: &ApiRetry, sink: &Sink) -> Sign {
        self.discard(sink).await;
        let detail = json!({
            "attempt": retry.attempt + 1,
            "after_ms": retry.retry_delay_ms.round(),
            "error": retry.error,
            "status": retry.error_status,
        });
        progress(sink, "retry", &detail).await;
        if retry.error.as_deref() == Some("authentication_failed") { Sign::BadKey } else { Sign::Nothing }
    }

    /// Takes back pieces whose whole never came.
    async fn discard(&mut self, sink: &Sink) {
        for block in self.open.drain(..) {
            let _ = sink.say(Event::Discarded { block }).await;
        }
    }

    /// At the end of a turn nothing is left open.
    pub async fn close(&mut self, sink: &Sink) {
        let mut open: Vec<String> = self.calls.drain().map(|(id, _)| id).collect();
        open.sort();
        for id in open {
            let output = "not finished".to_owned();
            let _ = sink.say(Event::ToolResult { id, output, is_error: true, exit_code: None }).await;
        }
    }
}

async fn progress(sink: &Sink, kind: &str, detail: &Value) {
    let detail = Some(RawJson::from_valid(detail.to_string()));
    let _ = sink.say(Event::Progress { kind: kind.to_owned(), detail }).await;
}

/// Says what the program tells of itself at the start, for callers that know it by that.
pub async fn tell_session(line: &[u8], sink: &Sink) {
    progress(sink, "session", &notice(parse(line))).await;
}

/// Says what the program says that is no line of its protocol.
pub async fn tell_lines(kind: &str, text: &str, sink: &Sink) {
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        progress(sink, kind, &json!({"text": line})).await;
    }
}

/// Says how the program itself calls the end of a turn that was stopped. Does not wait: the turn has no time.
pub fn tell_cut(line: &[u8], sink: &Sink) {
    let mut detail: Value = parse(line);
    if let Some(members) = detail.as_object_mut() {
        members.retain(|name, _| ["subtype", "duration_ms", "num_turns"].contains(&name.as_str()));
    }
    let detail = Some(RawJson::from_valid(detail.to_string()));
    let _ = sink.say(Event::Progress { kind: "cut".to_owned(), detail }).now_or_never();
}

/// A notice as it is; of a user's own hooks no more than that they ran.
fn notice(mut detail: Value) -> Value {
    let is_of_a_hook = detail["subtype"].as_str().is_some_and(|subtype| subtype.starts_with("hook_"));
    if let Some(members) = detail.as_object_mut() {
        members.retain(|name, _| name == "subtype" || (!is_of_a_hook && !["type", "uuid"].contains(&name.as_str())));
    }
    detail
}

/// Details without what only the program itself understands.
fn without_ids(mut detail: Value) -> Value {
    if let Some(members) = detail.as_object_mut() {
        for name in ["type", "subtype", "uuid", "session_id", "user_message_uuids"] {
            members.remove(name);
        }
    }
    detail
}

fn blocks(content: Option<&RawValue>) -> Vec<Block> {
    content.and_then(|content| serde_json::from_str(content.get()).ok()).unwrap_or_default()
}

/// A string, or the texts of blocks.
fn text_of(content: Option<&RawValue>) -> String {
    let Some(content) = content else { return String::new() };
    if let Ok(text) = serde_json::from_str::<String>(content.get()) {
        return text;
    }
    let texts =
        blocks(Some(content)).into_iter().map(|block| block.text.unwrap_or_else(|| format!("[{}]", block.r#type)));
    texts.collect::<Vec<_>>().join("\n")
}

/// The program tells a code only in words.
fn exit_code(output: &str, is_error: bool) -> Option<i32> {
    if !is_error {
        return Some(0);
    }
    output.strip_prefix("Exit code ")?.lines().next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_from_words() {
        assert_eq!(exit_code("hi", false), Some(0));
        assert_eq!(exit_code("Exit code 3\nno such file", true), Some(3));
        assert_eq!(exit_code("Exit code 127", true), Some(127));
        assert_eq!(exit_code("[Request interrupted by user]", true), None);
    }

    #[test]
    fn results_are_text_or_blocks() {
        let text = |json: &str| text_of(Some(&RawValue::from_string(json.to_owned()).unwrap()));
        assert_eq!(text(r#""a\nb""#), "a\nb");
        assert_eq!(text(r#"[{"type":"text","text":"a"},{"type":"image","source":{}}]"#), "a\n[image]");
        assert_eq!(text("7"), "");
    }
}
