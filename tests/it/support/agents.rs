//! The built-in agents under test: a server whose agent calls the fake model, and turns through each way in.

use super::clients::{play, ws};
use super::model::Model;
use super::{HttpAnswer, Server, WsClient, repository};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

/// A turn as a RuntimeUse client saw it that wants events.
#[derive(Debug)]
pub struct Seen {
    pub events: Vec<Value>,
    /// The blocks of `assistant_message`s.
    pub messages: Vec<Value>,
    pub terminal: Value,
}

impl Seen {
    pub fn text(&self) -> &str {
        self.terminal["data"]["text"].as_str().unwrap_or_else(|| panic!("no text: {}", self.terminal))
    }

    pub fn error(&self) -> &str {
        self.terminal["error"].as_str().unwrap_or_else(|| panic!("no error: {}", self.terminal))
    }

    pub fn category(&self) -> &str {
        self.terminal["metadata"]["category"].as_str().unwrap_or_else(|| panic!("no category: {}", self.terminal))
    }

    /// The events of one type.
    pub fn of(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["type"] == kind).collect()
    }

    /// All deltas joined.
    pub fn deltas(&self) -> String {
        self.of("text_delta").iter().map(|delta| delta["text"].as_str().unwrap()).collect()
    }

    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = self.events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        kinds.dedup();
        kinds
    }
}

/// Takes a turn on an open connection; `more` are further fields of the request.
pub async fn turn(client: &mut WsClient, prompt: &str, more: &Value) -> Seen {
    begin(client, prompt, more).await;
    rest(client).await
}

pub async fn begin(client: &mut WsClient, prompt: &str, more: &Value) {
    let mut fields = json!({"extensions": ["events", "notices"], "model": "test-model", "system_prompt": "Be brief."});
    for (name, value) in more.as_object().unwrap() {
        fields[name] = value.clone();
    }
    client.query_with(prompt, fields).await;
}

pub async fn rest(client: &mut WsClient) -> Seen {
    let mut frames = client.until_terminal().await;
    let terminal = frames.pop().expect("a terminal");
    let (events, messages): (Vec<Value>, Vec<Value>) =
        frames.into_iter().partition(|frame| frame["message_type"] == "event_message");
    let messages = messages.iter().filter(|frame| frame["message_type"] == "assistant_message");
    Seen {
        events: events.into_iter().map(|frame| frame["event"].clone()).collect(),
        messages: messages.map(|frame| frame["text_blocks"].clone()).collect(),
        terminal,
    }
}

/// A turn on a connection of its own.
pub async fn ask(server: &Server, prompt: &str, more: &Value) -> Seen {
    turn(&mut server.connect("/").await, prompt, more).await
}

/// Queries by the real client, in one session of it: what each came to.
pub async fn ask_really(server: &Server, queries: &Value) -> Vec<Value> {
    let results = play("ask.py", &[ws(server), queries.to_string()]).await;
    (0..queries.as_array().unwrap().len()).map(|n| results[n.to_string()].clone()).collect()
}

/// A turn by `/runtime/advance`.
pub async fn advance(server: &Server, prompt: &str, state: &Value) -> (HttpAnswer, Value) {
    let answer = server.advance(&json!({"input": prompt, "state": state})).await;
    let body = answer.json();
    (answer, body)
}

/// The environment in which an agent of OpenAI's finds the fake model.
pub fn with_model<'a>(model: &'a Model, key: &'a str) -> impl FnOnce(&mut Command) + 'a {
    move |command: &mut Command| {
        command.env("OPENAI_BASE_URL", model.base()).env("OPENAI_API_KEY", key);
        command.env("ANTHROPIC_BASE_URL", model.root());
    }
}

/// The Claude CLI that `make agents` installs. Without it nothing is shown: a failure.
pub fn claude_program() -> PathBuf {
    installed("node_modules/@anthropic-ai/claude-code-linux-x64/claude")
}

/// The Codex CLI that `make agents` installs. Without it nothing is shown: a failure.
pub fn codex_program() -> PathBuf {
    installed("node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex")
}

pub fn installed(path: &str) -> PathBuf {
    let program = repository(".cache/agents").join(path);
    assert!(program.exists(), "{} is not there: run `make agents`", program.display());
    program
}
