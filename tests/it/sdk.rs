//! The two handlers on SDKs of others, as users copy them: real SDKs, and a model on loopback.

use crate::support::agents::{advance, ask_really, begin, installed, rest, turn};
use crate::support::model::{Block, Model, Play, status, text, tool};
use crate::support::{Server, eventually, proc, repository};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A handler that users copy, the name it gives its shell, and how that is called.
struct Kind {
    file: &'static str,
    shell: &'static str,
}

const CLAUDE: Kind = Kind { file: "claude_agent_sdk.py", shell: "Bash" };
const OPENAI: Kind = Kind { file: "openai_agents.mjs", shell: "shell" };

struct Scene {
    server: Server,
    model: Model,
    _folder: TempDir,
}

impl Scene {
    async fn of(kind: &Kind, plays: Vec<Play>) -> Self {
        let model = Model::start(plays).await;
        let folder = TempDir::new().unwrap();
        let handler = folder.path().join(kind.file);
        std::fs::copy(repository("handlers").join(kind.file), &handler).unwrap();
        symlink(installed("node_modules"), folder.path().join("node_modules")).unwrap();
        let (python, handler) = (installed("venv/bin/python"), handler.display().to_string());
        let args = ["--handler", &handler, "--python", python.to_str().unwrap()];
        let server = Server::start_with(&args, |command| {
            command.env("ANTHROPIC_BASE_URL", model.root()).env("ANTHROPIC_API_KEY", "sk-ant-good-0123456789");
            command.env("OPENAI_BASE_URL", model.base()).env("OPENAI_API_KEY", "sk-good-0123456789");
            command.env("CLAUDE_CONFIG_DIR", folder.path().join("config")).env("HOME", folder.path());
        });
        Self { server, model, _folder: folder }
    }
}

#[tokio::test]
async fn a_turn_and_the_next_one() {
    for kind in [CLAUDE, OPENAI] {
        let scene = Scene::of(&kind, vec![text("Hello there."), text("one"), text("two"), text("three")]).await;
        let mut client = scene.server.connect("/").await;
        let seen = turn(&mut client, "Hi", &json!({})).await;
        assert_eq!(
            (seen.text(), seen.deltas().as_str()),
            ("Hello there.", "Hello there."),
            "{}: {}",
            kind.file,
            scene.server.log()
        );
        assert_eq!(seen.messages, [json!(["Hello there."])]);
        let answers = ask_really(&scene.server, &json!([{"prompt": "1"}])).await;
        assert_eq!(answers[0]["text"], "one", "{}", kind.file);

        let (_, first) = advance(&scene.server, "two?", &Value::Null).await;
        let (_, second) = advance(&scene.server, "three?", &first["state"]).await;
        assert_eq!((&first["text"], &second["text"]), (&json!("two"), &json!("three")), "{}", kind.file);
        let asked = scene.model.last();
        let remembers = asked["previous_response_id"] == "resp_3" || asked["messages"].to_string().contains("two?");
        assert!(remembers, "{}: {asked}", kind.file);
    }
}

#[tokio::test]
async fn a_round_of_tools() {
    for kind in [CLAUDE, OPENAI] {
        let call = Block::Tool(kind.shell, json!({"command": "echo $GREETING", "description": "x"}));
        let scene = Scene::of(&kind, vec![Play::Say(vec![call]), text("Done.")]).await;
        let mut client = scene.server.connect("/").await;
        let seen = turn(&mut client, "Look", &json!({"agent_env": {"GREETING": "grüezi"}})).await;
        assert_eq!(seen.text(), "Done.", "{}: {}", kind.file, scene.server.log());
        let (uses, results) = (seen.of("tool_use"), seen.of("tool_result"));
        assert_eq!((uses.len(), &uses[0]["name"], &uses[0]["id"]), (1, &json!(kind.shell), &results[0]["id"]));
        assert!(results[0]["output"].as_str().unwrap().contains("grüezi"), "{}: {}", kind.file, results[0]);
    }
}

#[tokio::test]
async fn a_schema() {
    let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"],
                        "additionalProperties": false});
    let format = json!({"output_format_json_schema_str": json!({"type": "json_schema", "schema": schema}).to_string()});
    for (kind, play) in [(CLAUDE, tool("StructuredOutput", json!({"age": 7}))), (OPENAI, text(r#"{"age":7}"#))] {
        let scene = Scene::of(&kind, vec![play]).await;
        let seen = turn(&mut scene.server.connect("/").await, "Who?", &format).await;
        assert_eq!(seen.terminal["data"]["structured_output"], json!({"age": 7}), "{}: {}", kind.file, seen.terminal);
    }
}

#[tokio::test]
async fn an_error_of_the_service() {
    for kind in [CLAUDE, OPENAI] {
        let scene = Scene::of(&kind, vec![status(403, "permission_error")]).await;
        let mut client = scene.server.connect("/").await;
        let seen = turn(&mut client, "Hi", &json!({})).await;
        assert!(seen.error().contains("the fake model says no"), "{}: {}", kind.file, seen.terminal);
        assert!(seen.messages.is_empty());
        assert_eq!(turn(&mut client, "Hi", &json!({})).await.text(), "ok", "{}", kind.file);
    }
}

#[tokio::test]
async fn a_cancel() {
    for kind in [CLAUDE, OPENAI] {
        let mark = format!("turnhost-sdk-{}", std::process::id());
        let waits = tool(kind.shell, json!({"command": format!("sh -c 'sleep 299; : {mark}'"), "description": "x"}));
        let scene = Scene::of(&kind, vec![Play::Hang("Well, then"), text("Next."), waits]).await;
        let mut client = scene.server.connect("/").await;
        begin(&mut client, "Hi", &json!({})).await;
        while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
        let began = Instant::now();
        client.send(&json!({"message_type": "cancel_message"})).await;
        assert_eq!(rest(&mut client).await.error(), "Request cancelled", "{}", kind.file);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        eventually("the service sees the hang-up", || scene.model.calls()[0].hung_up.then_some(())).await;
        assert_eq!(turn(&mut client, "Hi", &json!({})).await.text(), "Next.", "{}", kind.file);

        begin(&mut client, "Hi", &json!({})).await;
        eventually("the tool runs", || (!proc::marked(&mark).is_empty()).then_some(())).await;
        client.send(&json!({"message_type": "cancel_message"})).await;
        assert_eq!(rest(&mut client).await.error(), "Request cancelled", "{}", kind.file);
        eventually("no process is left", || proc::marked(&mark).is_empty().then_some(())).await;
        let claudes = || proc::descendants(scene.server.pid()).iter().any(|one| one.command.contains("stream-json"));
        eventually("no Claude Code is left", || (!claudes()).then_some(())).await;
    }
}

/// What users copy is short, and says how it is installed.
#[test]
fn they_are_short() {
    for kind in [CLAUDE, OPENAI] {
        let source = std::fs::read_to_string(repository("handlers").join(kind.file)).unwrap();
        assert!(source.lines().count() < 60, "{}: {} lines", kind.file, source.lines().count());
        let readme = std::fs::read_to_string(repository("handlers/README.md")).unwrap();
        let install =
            source.lines().map(|line| line.trim_start_matches(['/', ' '])).find(|line| line.contains("install"));
        assert!(readme.contains(install.expect("an install line")), "handlers/README.md does not say: {install:?}");
        let run = format!("turnhost --handler handlers/{}", kind.file);
        assert!(readme.contains(&run) && source.contains(&run), "not said how to run it: {run}");
    }
}
