//! One round of a tool by each of the built-in agents: what a reader sees has one shape, whoever spoke.

use crate::support::agents::{Seen, ask, claude_program, codex_program};
use crate::support::model::{Block, Model, Play, text};
use crate::support::{PATIENCE, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The events of one turn in which the model looks, runs a command, and answers.
async fn round(agent: &str, command: Block) -> Seen {
    let look = Play::Say(vec![Block::Text("Let me look.".into()), command]);
    let model = Model::start(vec![look, text("Done.")]).await;
    let folder = TempDir::new().unwrap();
    let (claude, codex) = (claude_program(), codex_program());
    let args = [
        "--agent",
        agent,
        "--claude-program",
        claude.to_str().unwrap(),
        "--codex-program",
        codex.to_str().unwrap(),
        "--workspace",
        folder.path().to_str().unwrap(),
    ];
    let server = Server::start_with(&args, |command| {
        command.env("ANTHROPIC_BASE_URL", model.root()).env("ANTHROPIC_API_KEY", "sk-ant-good-0123456789");
        command.env("OPENAI_BASE_URL", model.base()).env("OPENAI_API_KEY", "sk-good-0123456789");
        command.env("HOME", folder.path()).env("CLAUDE_CONFIG_DIR", folder.path().join("claude"));
        command.env("CODEX_HOME", folder.path().join("codex"));
    });
    let seen = tokio::time::timeout(PATIENCE, ask(&server, "Look", &json!({}))).await.expect("an end in time");
    assert_eq!(seen.text(), "Done.", "{agent}");
    seen
}

/// The events without what may differ: names that the service drew, pieces of a text, the tool's own name and input, and
/// what kind of progress there was besides the start.
fn shape(seen: &Seen) -> Vec<Value> {
    let mut names: Vec<Value> = Vec::new();
    let mut events: Vec<Value> = Vec::new();
    for event in &seen.events {
        let mut event = event.clone();
        for member in ["block", "id"] {
            if let Some(name) = event.get_mut(member) {
                let at = names.iter().position(|known| known == name).unwrap_or_else(|| {
                    names.push(name.clone());
                    names.len() - 1
                });
                *name = json!(format!("#{at}"));
            }
        }
        match event["type"].as_str().unwrap() {
            "tool_use" => {
                assert!(event["input"].to_string().contains("echo hi"), "{event}");
                (event["name"], event["input"]) = (json!("…"), json!("…"));
            }
            "progress" if event["kind"] != "started" => continue,
            "usage" => {
                let tokens = ["input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"];
                assert!(tokens.iter().all(|name| event[*name].is_u64()), "{event}");
                event = json!({"type": "usage"});
            }
            "text_delta" => {
                if let Some(last) = events.last_mut().filter(|last| last["type"] == "text_delta") {
                    assert_eq!(last["block"], event["block"]);
                    let text = format!("{}{}", last["text"].as_str().unwrap(), event["text"].as_str().unwrap());
                    last["text"] = json!(text);
                    continue;
                }
            }
            _ => {}
        }
        events.push(event);
    }
    events
}

#[tokio::test]
async fn a_reader_cannot_tell_who_spoke() {
    let expected = json!([
        {"type": "progress", "kind": "started", "detail": {"model": "test-model"}},
        {"type": "text_delta", "block": "#0", "text": "Let me look."},
        {"type": "text", "block": "#0", "parts": ["Let me look."]},
        {"type": "tool_use", "id": "#1", "name": "…", "input": "…"},
        {"type": "tool_result", "id": "#1", "output": "hi", "is_error": false, "exit_code": 0},
        {"type": "text_delta", "block": "#2", "text": "Done."},
        {"type": "text", "block": "#2", "parts": ["Done."]},
        {"type": "usage"},
    ]);
    for (agent, command) in [
        ("claude", Block::Tool("Bash", json!({"command": "echo hi", "description": "x"}))),
        ("openai", Block::Shell(json!({"commands": ["echo hi"]}))),
        ("codex", Block::Tool("exec_command", json!({"cmd": "echo hi", "login": false}))),
    ] {
        let mut events = shape(&round(agent, command).await);
        for event in events.iter_mut().filter(|event| event["type"] == "tool_result") {
            event["output"] = json!(event["output"].as_str().unwrap().trim_end());
        }
        assert_eq!(json!(events), expected, "{agent}");
    }
}
