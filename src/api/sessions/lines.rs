//! What a session's turns say, as lines of its log.
//!
//! Owns which event becomes which line, and what is counted on the way. When lines are written, and how a session ends, is
//! `conduct`'s.

use super::AgentKind;
use super::ending::{self, TurnEnd};
use super::session::Session;
use super::times::now;
use crate::json;
use crate::model::{Answer, Ending, Event, Outcome, OutputStream, RawJson, Usage};
use crate::wire::session_line::{ErrorData, ExitData, LineData, LineUsage, ResultData, write_line};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Writes a session's log.
pub struct Lines {
    session: Arc<Session>,
    kind: AgentKind,
    out: Vec<u8>,
    /// Where the log is to go on.
    at: u64,
    /// A write that was begun.
    writing: Option<JoinHandle<io::Result<()>>>,
    /// Calls without a result: the tool's name, and since when.
    calls: HashMap<String, (String, u64)>,
    turn: Said,
    /// Lines are missing: there must be none behind them.
    is_broken: bool,
    pub began: u64,
}

/// What the running turn has said so far.
#[derive(Default)]
struct Said {
    began: u64,
    has_begun: bool,
    texts: Vec<String>,
    bytes: usize,
    usage: Option<Usage>,
    /// What the agent tells of the end of a turn that was stopped.
    cut: ending::Metadata,
}

/// The members of an object; of anything else the member `value`.
fn members(value: &str) -> Map<String, Value> {
    match serde_json::from_str(value).unwrap_or_default() {
        Value::Object(members) => members,
        Value::Null => Map::new(),
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

fn object<const N: usize>(pairs: [(&str, Value); N]) -> LineData<'static> {
    LineData::Other(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

impl Lines {
    pub fn new(session: Arc<Session>, kind: AgentKind) -> Self {
        let began = session.look(|record| record.created_at);
        let at = session.log.end().bytes;
        Self {
            session,
            kind,
            out: Vec::new(),
            at,
            writing: None,
            calls: HashMap::new(),
            turn: Said::default(),
            is_broken: false,
            began,
        }
    }

    /// Whether the agent is Codex, whose tools have names of their own here.
    fn is_codex(&self) -> bool {
        self.kind == AgentKind::Codex
    }

    /// Whether the agent is a program of lines, which has no answers.
    fn is_plain(&self) -> bool {
        self.kind == AgentKind::Plain
    }

    fn line(&mut self, kind: &str, data: &LineData<'_>, at_ms: u64) {
        let start = self.at + self.out.len() as u64;
        write_line(&mut self.out, start, kind, data, at_ms);
    }

    /// Writes what has come together. Cancel-safe: what was begun is waited for the next time, and nothing comes before it.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.written().await?;
        if self.out.is_empty() {
            return Ok(());
        }
        let (session, lines) = (self.session.clone(), std::mem::take(&mut self.out));
        self.at += lines.len() as u64;
        // A disk may take its time.
        self.writing = Some(tokio::task::spawn_blocking(move || session.log.append(&lines)));
        self.written().await
    }

    async fn written(&mut self) -> io::Result<()> {
        if let Some(writing) = &mut self.writing {
            let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            self.writing = None;
            self.is_broken |= written.is_err();
            written?;
        }
        if self.is_broken { Err(io::Error::other("some of it was not written")) } else { Ok(()) }
    }

    /// A turn begins.
    pub fn accepted(&mut self, at_ms: u64) {
        self.turn = Said { began: at_ms, ..Said::default() };
    }

    /// Something that a turn says.
    pub fn said(&mut self, event: &Event, at: u64) {
        match event {
            Event::TextDelta { block, text } => {
                self.turn.bytes += text.len();
                if !text.is_empty() {
                    self.line("agent_message", &LineData::Message { text, delta: true, item_id: block.as_deref() }, at);
                }
            }
            Event::Text { block, parts } => {
                let text = parts.join("\n");
                self.turn.bytes += text.len();
                if !text.is_empty() {
                    self.line(
                        "agent_message",
                        &LineData::Message { text: &text, delta: false, item_id: block.as_deref() },
                        at,
                    );
                }
                self.turn.texts.push(text);
            }
            Event::Thinking { text } => {
                self.line("progress", &object([("subtype", "thinking".into()), ("text", text.as_str().into())]), at);
            }
            Event::ToolUse { id, name, input } => self.tool_use(id, name, input, at),
            Event::ToolResult { id, output, is_error, .. } => {
                let (name, since) = self.calls.remove(id).unzip();
                let duration_ms = since.map(|since| at.saturating_sub(since));
                let result =
                    LineData::ToolResult { id, name: name.as_deref(), output, is_error: *is_error, duration_ms };
                self.line("tool_result", &result, at);
            }
            Event::Progress { kind, detail } => self.progress(kind, detail.as_ref(), at),
            Event::Discarded { block } => {
                self.line("system", &object([("subtype", "discarded".into()), ("item_id", (**block).into())]), at);
            }
            Event::Usage(usage) => self.turn.usage = Some(*usage),
            Event::CommandOutput { stream, text, .. } if self.is_plain() => {
                self.turn.bytes += text.len();
                let kind = if *stream == OutputStream::Stdout { "stdout" } else { "stderr" };
                self.line(kind, &object([("text", text.as_str().into())]), at);
            }
            Event::CommandOutput { stream, text, .. } => {
                let subtype = if *stream == OutputStream::Stdout { "stdout_raw" } else { "stderr" };
                self.line("system", &object([("subtype", subtype.into()), ("text", text.as_str().into())]), at);
            }
            Event::Artifact { path, size } => {
                let data =
                    object([("subtype", "artifact".into()), ("path", path.as_str().into()), ("size", (*size).into())]);
                self.line("system", &data, at);
            }
            Event::Warning { text, .. } => {
                self.line("system", &object([("subtype", "warning".into()), ("message", text.as_str().into())]), at);
            }
        }
    }

    fn tool_use(&mut self, id: &str, name: &str, input: &RawJson, at: u64) {
        // `mcp__SERVER__TOOL` is how both agents call a tool of a server.
        let of_server = name.strip_prefix("mcp__").and_then(|rest| rest.split_once("__"));
        let shown = match (name, of_server) {
            ("commandExecution", _) if self.is_codex() => "Bash",
            ("fileChange", _) if self.is_codex() => "Edit",
            (_, Some((_, tool))) if self.is_codex() => tool,
            _ => name,
        };
        self.calls.insert(id.to_owned(), (shown.to_owned(), at));
        self.session.change(|record| record.tool_call_count += 1);
        let server = of_server.map(|(server, _)| server);
        self.line("tool_use", &LineData::ToolUse { id, name: shown, server, input: json::as_raw(input) }, at);
    }

    fn progress(&mut self, kind: &str, detail: Option<&RawJson>, at: u64) {
        let mut data = detail.map_or_else(Map::new, |detail| members(detail.as_str()));
        if kind == "started" {
            self.turn.has_begun = true;
            // What these agents tell of themselves comes right behind.
            if self.kind != AgentKind::Other {
                return;
            }
        }
        if kind == "cut" {
            self.turn.cut = serde_json::from_value(Value::Object(data)).unwrap_or_default();
            return;
        }
        if kind == "session" {
            let native = ["session_id", "thread_id"].iter().find_map(|name| data.get(*name)?.as_str());
            if let Some(native) = native.map(str::to_owned) {
                self.native_id(&native);
            }
        }
        if kind == "notice" {
            // It has a subtype of its own.
            return self.line("system", &LineData::Other(data), at);
        }
        let (line, subtype) = match kind {
            "session" if self.is_codex() => ("system", "thread_started"),
            "started" | "session" => ("system", "init"),
            "stderr" | "agent_raw" | "stdout_raw" | "lifecycle" => ("system", kind),
            "retry" => ("system", "api_retry"),
            "warning" | "heard" | "compaction" | "compact_boundary" | "permission_denied" | "informational" => {
                ("system", kind)
            }
            _ => ("progress", kind),
        };
        data.insert("subtype".to_owned(), subtype.into());
        self.line(line, &LineData::Other(data), at);
    }

    /// The agent has told its own id.
    fn native_id(&self, id: &str) {
        self.session.change(|record| {
            if record.agent_session_id.as_deref() != Some(id) {
                record.agent_session_id = Some(id.to_owned());
                record.tags.insert("claude_session_id".to_owned(), id.to_owned());
            }
        });
    }

    /// The end of a turn: what it came to.
    pub fn ended(&mut self, turn: &str, outcome: &Outcome, at: u64) -> TurnEnd {
        let mut turn_said = std::mem::take(&mut self.turn);
        let mut metadata = ending::metadata(outcome);
        if let Ending::Cancelled(_) = outcome.ending {
            metadata = std::mem::take(&mut turn_said.cut);
        }
        if let Some(native) = ending::native_id(outcome, &metadata) {
            self.native_id(&native);
        }
        let usage = ending::usage(&metadata, turn_said.usage.as_ref());
        let cost = ending::cost(&metadata, turn_said.usage.as_ref());
        self.session.change(|record| {
            record.input_tokens += usage.map_or(0, |usage| usage.input_tokens);
            record.output_tokens += usage.map_or(0, |usage| usage.output_tokens);
            record.cost_usd = round(record.cost_usd + cost.unwrap_or_default());
        });
        let has_begun =
            turn_said.has_begun || turn_said.bytes > 0 || usage.is_some_and(|usage| usage.output_tokens > 0);
        let end = ending::of(outcome, &metadata, has_begun, turn_said.bytes);
        if self.is_plain() {
            return end;
        }
        let text = match &outcome.ending {
            Ending::Answered(Answer::Commands(_)) => None,
            Ending::Answered(answer) => Some(answer.plain()),
            _ => None,
        };
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            // Most agents have said it already.
            let is_said = turn_said.texts.last().is_some_and(|last| last == text) || turn_said.texts.concat() == *text;
            if !is_said {
                self.line("agent_message", &LineData::Message { text, delta: false, item_id: None }, at);
            }
        }
        if end.is_crash && !has_begun {
            // The agent never came as far as a turn.
            return end;
        }
        let native = self.session.look(|record| record.agent_session_id.clone());
        let result = ResultData {
            session_id: native.as_deref(),
            turn_id: Some(turn),
            status: &end.status,
            cost_usd: cost,
            duration_ms: Some(metadata.duration_ms.unwrap_or_else(|| at.saturating_sub(turn_said.began))),
            num_turns: metadata.num_turns,
            usage,
            is_error: !end.is_success,
            error_detail: end.message.as_deref(),
            text: text.as_deref(),
        };
        self.line("result", &LineData::Result(Box::new(result)), at);
        end
    }

    pub fn heartbeat(&mut self, is_running: bool) {
        let record = self.session.record();
        let data = object([
            ("subtype", "heartbeat".into()),
            ("uptime_ms", now().saturating_sub(self.began).into()),
            ("input_tokens", record.input_tokens.into()),
            ("output_tokens", record.output_tokens.into()),
            ("tool_calls", record.tool_call_count.into()),
            ("agent_running", is_running.into()),
        ]);
        self.line("system", &data, now());
    }

    /// A notice of ours.
    pub fn system<const N: usize>(&mut self, pairs: [(&str, Value); N]) {
        self.line("system", &object(pairs), now());
    }

    pub fn error(&mut self, error: ErrorData<'_>) {
        self.line("error", &LineData::Error(error), now());
    }

    /// The last line.
    pub fn exit(&mut self, exit: ExitData<'_>) {
        self.line("exit", &LineData::Exit(exit), now());
    }
}

/// Sums of floating point numbers, as people write money.
pub fn round(cost: f64) -> f64 {
    (cost * 1e10).round() / 1e10
}

/// Tokens as the agent tells them.
pub fn line_usage(usage: &Usage) -> LineUsage {
    LineUsage {
        input_tokens: usage.input_tokens.saturating_sub(usage.cached_tokens),
        output_tokens: usage.output_tokens,
        cache_read_input_tokens: usage.cached_tokens,
        cache_creation_input_tokens: 0,
    }
}
