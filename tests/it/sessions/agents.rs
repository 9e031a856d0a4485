//! The real CLIs through sessions, with a model on loopback: what reaches the model, what is told, what it cost, how it fails.

use super::{Reader, create, delete, ended, kinds, lines, of, post};
use crate::support::agents::{claude_program, codex_program};
use crate::support::model::{Block, Model, Play, status, text, tool};
use crate::support::{Server, eventually, proc, repository};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const KEY: &str = "sk-good-0123456789";

struct Stage {
    server: Server,
    model: Model,
    folder: TempDir,
}

impl Stage {
    async fn new(plays: Vec<Play>) -> Self {
        let model = Model::start(plays).await;
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        let server = serve(&folder);
        Self { server, model, folder }
    }

    fn work(&self) -> String {
        self.folder.path().join("work").canonicalize().unwrap().to_str().unwrap().to_owned()
    }

    /// A request for a session of this agent, whose calls go to the model.
    fn body(&self, agent: &str, more: &Value) -> Value {
        let env = match agent {
            "claude" => json!({"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": self.model.root()}),
            _ => json!({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": self.model.base()}),
        };
        let mut body = json!({"agent": agent, "model": "test-model", "work_dir": self.work(), "env": env});
        for (name, value) in more.as_object().unwrap() {
            if name == "env" {
                body["env"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            } else {
                body[name] = value.clone();
            }
        }
        body
    }

    async fn create(&self, agent: &str, more: &Value) -> String {
        create(&self.server, &self.body(agent, more)).await
    }

    /// A session to its end: its snapshot and lines.
    async fn run(&self, agent: &str, more: &Value) -> (String, Value, Vec<Value>) {
        let id = self.create(agent, more).await;
        let snapshot = ended(&self.server, &id).await;
        let lines = lines(&self.server, &id).await;
        (id, snapshot, lines)
    }
}

fn serve(folder: &TempDir) -> Server {
    let (claude, codex) = (claude_program(), codex_program());
    let data = folder.path().join("data");
    let args = [
        "--agent",
        "echo",
        "--claude-program",
        claude.to_str().unwrap(),
        "--codex-program",
        codex.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
    ];
    Server::start_with(&args, |command| {
        command.env("HOME", folder.path());
        // None of these is for the agent.
        command.env("ANTHROPIC_API_KEY", "sk-own-0123456789").env("OPENAI_API_KEY", "sk-own-0123456789");
        command.env("OTHER_SECRET", "not-for-the-agent");
    })
}

fn command(agent: &str, command: &str) -> Block {
    match agent {
        "claude" => Block::Tool("Bash", json!({"command": command, "description": "x"})),
        _ => Block::Tool("exec_command", json!({"cmd": command, "login": false})),
    }
}

/// One prompt: the tool, its result, the answer, what it cost, the agent's own id.
#[tokio::test]
async fn one_prompt() {
    for agent in ["claude", "codex"] {
        let look = Play::Say(vec![
            Block::Text("Let me look.".into()),
            command(agent, "pwd; echo [$OTHER_SECRET] [$GREETING] $XDG_RUNTIME_DIR"),
        ]);
        let stage = Stage::new(vec![look, text("All done.")]).await;
        let more = json!({"prompt": "Look, marker-4711", "env": {"GREETING": "hello"}});
        let (id, snapshot, all) = stage.run(agent, &more).await;
        assert_eq!((&snapshot["state"], &snapshot["exit_code"]), (&json!("completed"), &json!(0)), "{all:?}");
        let tool = of(&all, "tool_use")[0];
        assert_eq!((&tool["name"], tool["input"]["command"].as_str().unwrap().contains("pwd")), (&json!("Bash"), true));
        let result = of(&all, "tool_result")[0];
        assert_eq!((&result["id"], &result["name"]), (&tool["id"], &json!("Bash")));
        let output = result["output"].as_str().unwrap();
        assert_eq!(output.trim_end(), format!("{}\n[] [hello]", stage.work()), "{agent}");
        assert!(result["duration_ms"].is_u64(), "{result}");
        let deltas: String = of(&all, "agent_message")
            .iter()
            .filter(|data| data["delta"] == true)
            .map(|data| data["text"].as_str().unwrap())
            .collect();
        assert_eq!(deltas, "Let me look.All done.");
        let results = of(&all, "result");
        assert_eq!(results.len(), 1);
        assert_eq!((&results[0]["status"], &results[0]["text"]), (&json!("success"), &json!("All done.")));
        let usage = &results[0]["usage"];
        assert_eq!(snapshot["input_tokens"], usage["input_tokens"], "{agent}");
        assert!(usage["output_tokens"].as_u64().unwrap() > 0, "{results:?}");
        assert_eq!(snapshot["cost_usd"].is_f64(), agent == "claude", "{snapshot}");
        assert_eq!(results[0].get("cost_usd"), snapshot.get("cost_usd"));
        assert_eq!(snapshot["tool_call_count"], 1);
        let native = snapshot["agent_session_id"].as_str().unwrap();
        assert_eq!(
            (&snapshot["tags"]["claude_session_id"], &results[0]["session_id"]),
            (&json!(native), &json!(native))
        );
        // A program may have something to say on its standard error first, such as on a machine that is new to it.
        let notices = of(&all, "system");
        let notice = notices.iter().find(|data| data["subtype"] != "stderr").unwrap();
        let subtype = if agent == "claude" { "init" } else { "thread_started" };
        assert_eq!(notice["subtype"], subtype);
        assert_eq!(all.last().unwrap()["data"], json!({"code": 0}));
        // The prompt is the model's business alone.
        assert!(stage.model.calls()[0].body.to_string().contains("marker-4711"));
        assert!(!stage.server.log().contains("marker-4711"), "{}", stage.server.log());
        let header = if agent == "claude" { "x-api-key" } else { "authorization" };
        assert!(stage.model.calls()[0].headers[header].contains(KEY));
        let dir = stage.folder.path().join(format!("data/{agent}-sessions/{id}"));
        assert!(dir.join("session.json").exists());
        eventually("nothing is left", || {
            let left = proc::descendants(stage.server.pid());
            let left: Vec<_> = left.iter().filter(|process| process.command.contains("stream-json")).collect();
            left.is_empty().then_some(())
        })
        .await;
    }
}

/// Several prompts of one agent; what is pointed to; a steer and an interrupt.
#[tokio::test]
async fn a_talk() {
    for agent in ["claude", "codex"] {
        let stage = Stage::new(vec![text("one"), text("two"), text("three")]).await;
        let id = stage.create(agent, &json!({"interactive": true, "prompt": "first"})).await;
        let mut reader = Reader::open(&stage.server, &id, "?since=0").await;
        reader.until_line("result").await;
        let running = proc::descendants(stage.server.pid());
        assert!(!running.is_empty() && running.iter().all(|one| !one.command.contains("first")), "{running:?}");
        reader.prompt("second").await;
        let lines = reader.until_line("result").await;
        assert_eq!(of(&lines, "result")[0]["text"], "two", "{agent}: {lines:?}");
        assert_eq!(stage.server.get(&format!("/sessions/{id}")).await.json()["state"], "running");
        reader.send(json!({"type": "context", "context": {"text": "func f()", "file_path": "/a.go"}})).await;
        reader.send(json!({"type": "mention", "data": {"filePath": "/b.go", "lineStart": 1, "lineEnd": 4}})).await;
        reader.prompt("third").await;
        reader.until_line("result").await;
        let call = stage.model.last().to_string();
        for piece in ["first", "second", "Context from /a.go:\\nfunc f()", "/b.go, lines 1 to 4", "third"] {
            assert!(call.contains(piece), "{agent}: no {piece} in {call}");
        }
        // A steer while a command runs reaches the model with the command's result.
        stage.model.play([Play::Say(vec![command(agent, "sleep 1")]), text("steered")]);
        reader.prompt("work").await;
        reader.until_line("tool_use").await;
        reader.send(json!({"type": "steer", "data": "turn left"})).await;
        let lines = reader.until_line("result").await;
        assert_eq!(of(&lines, "result")[0]["text"], "steered", "{agent}: {lines:?}");
        assert!(stage.model.last().to_string().contains("turn left"), "{agent}");
        // An interrupt, and on.
        stage.model.play([Play::Hang("Wait"), text("after")]);
        reader.prompt("hang").await;
        reader.until_line("agent_message").await;
        let began = Instant::now();
        reader.send(json!({"type": "interrupt"})).await;
        // Each in its own words.
        let word = if agent == "claude" { "error_during_execution" } else { "interrupted" };
        let lines = reader.until_line("result").await;
        assert_eq!(
            (&of(&lines, "result")[0]["status"], &of(&lines, "result")[0]["is_error"]),
            (&json!(word), &json!(true))
        );
        assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
        reader.prompt("on").await;
        let lines = reader.until_line("result").await;
        assert_eq!(of(&lines, "result")[0]["text"], "after", "{agent}: {lines:?}");
        assert_eq!(delete(&stage.server, &id).await.status, 200);
        assert_eq!(reader.until("exit").await["exit_code"], -1);
        let left = proc::descendants(stage.server.pid());
        let left: Vec<_> = left.iter().filter(|process| process.command.contains("stream-json")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// By our id and by the agent's own, also after a restart.
#[tokio::test]
async fn going_on() {
    for agent in ["claude", "codex"] {
        let mut stage = Stage::new(vec![text("one"), text("two"), text("three"), text("four")]).await;
        let (first, snapshot, _) = stage.run(agent, &json!({"prompt": "say-first"})).await;
        let native = snapshot["agent_session_id"].as_str().unwrap().to_owned();
        for (resumed, n) in [(first.clone(), 2), (native.clone(), 3)] {
            let (_, snapshot, all) =
                stage.run(agent, &json!({"prompt": format!("say-{n}"), "resume_session": resumed})).await;
            assert_eq!(snapshot["agent_session_id"], native, "{agent}: {resumed} {all:#?}");
            let call = stage.model.last().to_string();
            assert!(call.contains("say-first") && call.contains(&format!("say-{n}")), "{agent}: {call}");
        }
        // One after the other: the folder has one owner.
        stage.server.signal(nix::sys::signal::Signal::SIGTERM);
        stage.server.exited().await;
        stage.server = serve(&stage.folder);
        let (_, snapshot, _) = stage.run(agent, &json!({"prompt": "say-4", "resume_session": first})).await;
        assert_eq!(snapshot["agent_session_id"], native);
        assert!(stage.model.last().to_string().contains("say-first"), "{agent}");
        // One that never came so far.
        let bad = stage.body(agent, &json!({"interactive": true}));
        let empty = create(&stage.server, &bad).await;
        let refused = post(&stage.server, &stage.body(agent, &json!({"prompt": "x", "resume_session": empty}))).await;
        let text = format!("session {empty} has no agent session to resume");
        assert_eq!((refused.status, refused.json()), (400, json!({"error": text})));
    }
}

/// Each category that a model or a machine can provoke.
#[tokio::test]
async fn categories() {
    for (agent, plays, more, category, retryable) in [
        ("claude", vec![], json!({"model": "unknown-model"}), "model_not_found", false),
        ("codex", vec![], json!({"model": "unknown-model"}), "model_not_found", false),
        ("claude", vec![], json!({"env": {"ANTHROPIC_API_KEY": "bad-key-123"}}), "auth_error", false),
        ("codex", vec![], json!({"env": {"OPENAI_API_KEY": "bad-key-123"}}), "auth_error", false),
        ("claude", vec![status(403, "permission_error")], json!({}), "permission_denied", false),
        ("codex", vec![status(403, "permission_error"); 12], json!({}), "permission_denied", false),
        ("claude", vec![status(429, "rate_limit_error"); 12], json!({}), "rate_limit", true),
        ("codex", vec![status(429, "rate_limit_error"); 12], json!({}), "rate_limit", true),
        ("claude", vec![status(529, "overloaded_error"); 12], json!({}), "upstream_api_error", true),
        ("codex", vec![status(500, "api_error"); 40], json!({}), "upstream_api_error", true),
    ] {
        let stage = Stage::new(plays).await;
        let mut more = more;
        more["prompt"] = json!("Hi");
        more["env"]["CLAUDE_CODE_MAX_RETRIES"] = json!("1");
        let (_, snapshot, all) = stage.run(agent, &more).await;
        assert_eq!(snapshot["error_category"], category, "{agent}: {all:?}");
        assert_eq!((&snapshot["retryable"], &snapshot["state"]), (&json!(retryable), &json!("failed")));
        let exit = all.last().unwrap();
        assert_eq!(
            (&exit["data"]["error_category"], &exit["data"]["retryable"]),
            (&json!(category), &json!(retryable))
        );
        assert_eq!((&exit["exit_code"], of(&all, "error")[0]["fatal"].clone()), (&json!(1), json!(true)));
        assert!(!of(&all, "result").is_empty(), "{agent} {category}: {:?}", kinds(&all));
    }
}

/// Without a key, without a program, and with one that dies.
#[tokio::test]
async fn starts_that_fail() {
    let folder = TempDir::new().unwrap();
    let fake = repository("tests/it/scripts/fake-claude");
    let server = Server::start_with(
        &["--agent", "echo", "--claude-program", fake.to_str().unwrap(), "--codex-program", "/no/such"],
        |command| {
            command.env("HOME", folder.path());
        },
    );
    let id =
        create(&server, &json!({"agent": "codex", "prompt": "x", "env": {"OPENAI_API_KEY": "sk-x-0123456789"}})).await;
    let snapshot = ended(&server, &id).await;
    assert_eq!((&snapshot["exit_code"], &snapshot["error_category"]), (&json!(1), &json!("startup_crash")));
    assert_eq!(kinds(&lines(&server, &id).await), ["error", "system", "exit"]);
    let id = create(&server, &json!({"agent": "codex", "prompt": "x"})).await;
    assert_eq!(ended(&server, &id).await["error_category"], "auth_error");
    // It exits with 7: for everybody, early or late.
    let id = create(&server, &json!({"agent": "claude", "interactive": true, "name": "seven"})).await;
    let mut readers = [Reader::open(&server, &id, "").await, Reader::open(&server, &id, "").await];
    readers[0].until("connected").await;
    readers[1].until("connected").await;
    readers[0].prompt("die").await;
    for reader in &mut readers {
        assert_eq!(reader.until("exit").await["exit_code"], 7);
    }
    assert_eq!(Reader::open(&server, &id, "").await.until("exit").await["exit_code"], 7);
    assert_eq!(server.get(&format!("/sessions/{id}/info")).await.json()["exit_code"], 7);
    let all = lines(&server, &id).await;
    assert_eq!(all.last().unwrap()["exit_code"], 7);
    assert!(all.last().unwrap()["data"]["error_detail"].as_str().unwrap().contains("the reason"), "{all:?}");
}

/// Its costs are a running total; a turn is told its own.
#[tokio::test]
async fn costs() {
    let folder = TempDir::new().unwrap();
    let fake = repository("tests/it/scripts/fake-claude");
    let server = Server::start_with(&["--agent", "echo", "--claude-program", fake.to_str().unwrap()], |command| {
        command.env("HOME", folder.path());
    });
    let id = create(&server, &json!({"agent": "claude", "interactive": true})).await;
    let mut reader = Reader::open(&server, &id, "").await;
    for total in [0.25, 0.5, 0.75] {
        reader.prompt("plain").await;
        let lines = reader.until_line("result").await;
        let result = of(&lines, "result")[0];
        assert_eq!(
            (&result["cost_usd"], &result["num_turns"], &result["duration_ms"]),
            (&json!(0.25), &json!(1), &json!(5))
        );
        assert_eq!(result["usage"], json!({"input_tokens": 1, "output_tokens": 2}));
        assert_eq!(server.get(&format!("/sessions/{id}/info")).await.json()["cost_usd"], total);
    }
}

/// What the request says of the configuration is read by the program; the user's own files stay as they are.
#[tokio::test]
async fn configuration() {
    let stage = Stage::new(vec![text("one")]).await;
    let own = stage.folder.path().join(".claude");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("settings.json"), r#"{"env":{"FROM_USER":"user-1"}}"#).unwrap();
    stage.model.play([]);
    let script = repository("tests/it/scripts/mcp_server.py");
    let more = json!({
        "prompt": "Hi",
        "claude": {"claude_md": "Always say marker-md.", "settings_json": {"env": {"FROM_SESSION": "session-2"}},
                   "max_turns": 5, "allowed_tools": ["Bash"]},
        "mcp_servers": [{"name": "testing", "type": "stdio", "cmd": ["python3", script]}],
    });
    let (id, snapshot, all) = stage.run("claude", &more).await;
    assert_eq!(snapshot["state"], "completed", "{all:?}");
    let call = stage.model.calls().iter().map(|call| call.body.to_string()).find(|call| call.contains("marker-md"));
    assert!(call.is_some(), "{}", stage.model.last());
    let init = of(&all, "system").into_iter().find(|data| data["subtype"] == "init").unwrap();
    assert!(init["mcp_servers"].to_string().contains("testing"), "{init}");
    stage.model.play([Play::Say(vec![command("claude", "echo $FROM_USER $FROM_SESSION")]), text("two")]);
    let (_, _, all) = stage.run("claude", &more).await;
    assert_eq!(of(&all, "tool_result")[0]["output"], "user-1 session-2");
    let dir = stage.folder.path().join(format!("data/claude-sessions/{id}"));
    assert_eq!(fs::read_to_string(dir.join("CLAUDE.md")).unwrap(), "Always say marker-md.");
    assert!(fs::read_to_string(dir.join("settings.json")).unwrap().contains("skipDangerousModePermissionPrompt"));
    assert!(fs::read_to_string(dir.join(".mcp.json")).unwrap().contains("testing"));
    assert_eq!(fs::read_to_string(own.join("settings.json")).unwrap(), r#"{"env":{"FROM_USER":"user-1"}}"#);

    let more = json!({
        "prompt": "Hi",
        "codex": {"instructions": "Always say marker-codex.", "config_toml": {"model_reasoning_effort": "low"},
                  "approval_mode": "suggest"},
        "mcp_servers": [{"name": "testing", "type": "stdio", "cmd": ["python3", script]}],
    });
    stage.model.play([Play::Say(vec![command("codex", "echo asked")]), text("three")]);
    let (_, snapshot, all) = stage.run("codex", &more).await;
    assert_eq!(snapshot["state"], "completed", "{all:?}");
    assert_eq!(of(&all, "tool_result")[0]["output"].as_str().unwrap().trim_end(), "asked", "{all:?}");
    let call = stage.model.last();
    assert!(call.to_string().contains("marker-codex"), "{call}");
    assert_eq!(call["reasoning"]["effort"], "low", "{call}");
    assert!(call["tools"].to_string().contains("testing"), "{}", call["tools"]);
}

/// Every mode of asking, and nobody is asked.
#[tokio::test]
async fn approvals() {
    for mode in ["full-auto", "auto-edit", "suggest"] {
        let stage = Stage::new(vec![
            Play::Say(vec![command("codex", "echo done > made")]),
            tool("none", json!({})),
            text("ok"),
        ])
        .await;
        let (_, snapshot, all) = stage.run("codex", &json!({"prompt": "x", "codex": {"approval_mode": mode}})).await;
        assert_eq!(snapshot["state"], "completed", "{mode}: {all:?}");
        assert!(stage.folder.path().join("work/made").exists(), "{mode}");
    }
}

/// A login and memories of another place: the program's configuration is the session's own folder then.
#[tokio::test]
async fn a_configuration_of_its_own() {
    let stage = Stage::new(vec![text("one")]).await;
    let at = |name: &str| stage.folder.path().join(name);
    fs::create_dir(at("memories")).unwrap();
    fs::write(at("login.json"), r#"{"claudeAiOauth":{}}"#).unwrap();
    let more = json!({
        "prompt": "Hi",
        "claude": {"credentials_path": "~/login.json", "memory_path": at("memories"), "claude_md": "Always say marker-own."},
    });
    let (id, snapshot, all) = stage.run("claude", &more).await;
    assert_eq!(snapshot["state"], "completed", "{all:?}");
    let call = stage.model.calls().iter().any(|call| call.body.to_string().contains("marker-own"));
    assert!(call, "{}", stage.model.last());
    let dir = stage.folder.path().join(format!("data/claude-sessions/{id}"));
    assert_eq!(fs::read_to_string(dir.join(".credentials.json")).unwrap(), r#"{"claudeAiOauth":{}}"#);
    assert_eq!(fs::metadata(dir.join(".credentials.json")).unwrap().permissions().mode() & 0o777, 0o600);
    let own: Value = serde_json::from_str(&fs::read_to_string(dir.join(".claude.json")).unwrap()).unwrap();
    assert_eq!(own["hasCompletedOnboarding"], true);
    assert_eq!(own["projects"][stage.work()]["hasTrustDialogAccepted"], true, "{own}");
    let links: Vec<_> = fs::read_dir(dir.join("projects"))
        .unwrap()
        .flatten()
        .filter_map(|one| fs::read_link(one.path()).ok())
        .collect();
    assert_eq!(links, [at("memories")]);
    assert!(!at(".claude/.credentials.json").exists());
}

/// Limits and words of Claude's own.
#[tokio::test]
async fn words_of_claude() {
    let call = || Play::Say(vec![command("claude", "echo hi")]);
    let stage = Stage::new(vec![call(), call(), call()]).await;
    let (_, snapshot, all) = stage.run("claude", &json!({"prompt": "x", "claude": {"max_turns": 1}})).await;
    let result = of(&all, "result")[0];
    assert_eq!((&result["status"], &result["is_error"]), (&json!("error_max_turns"), &json!(true)), "{all:?}");
    assert_eq!((&snapshot["exit_code"], snapshot.get("error_category")), (&json!(1), None));
    let stage = Stage::new(vec![text("plain")]).await;
    let (_, snapshot, all) = stage.run("claude", &json!({"prompt": "x", "claude": {"bare": true}})).await;
    assert_eq!(snapshot["state"], "completed", "{all:?}");
    // Three times in a row without a success is enough.
    let stage = Stage::new(vec![]).await;
    let more = json!({"interactive": true, "env": {"ANTHROPIC_API_KEY": "bad-key-123"}});
    let id = stage.create("claude", &more).await;
    let mut reader = Reader::open(&stage.server, &id, "").await;
    for n in 1..=3 {
        reader.prompt("Hi").await;
        let lines = reader.until_line("error").await;
        assert_eq!(of(&lines, "error")[0]["fatal"], n == 3, "{lines:?}");
        assert_eq!(of(&lines, "error")[0]["error_category"], "auth_error");
    }
    assert_eq!(reader.until("exit").await["error_category"], "auth_error");
}

/// What is said before the model has said anything is not lost.
#[tokio::test]
async fn a_steer_before_the_first_word() {
    for agent in ["claude", "codex"] {
        let late = Play::After(Duration::from_millis(700), Box::new(text("one")));
        let stage = Stage::new(vec![late, text("two"), text("three")]).await;
        let id = stage.create(agent, &json!({"interactive": true, "prompt": "first"})).await;
        let mut reader = Reader::open(&stage.server, &id, "?since=0").await;
        reader.send(json!({"type": "steer", "data": "turn left"})).await;
        eventually("the model hears of it", || {
            stage.model.calls().iter().any(|call| call.body.to_string().contains("turn left")).then_some(())
        })
        .await;
        reader.until_line("result").await;
        assert_eq!(delete(&stage.server, &id).await.status, 200);
        let all = lines(&stage.server, &id).await;
        assert!(of(&all, "error").is_empty(), "{agent}: {all:?}");
    }
}

/// What was said before an interrupt is not forgotten, also where nothing was answered yet.
#[tokio::test]
async fn an_interrupt_of_the_first_turn() {
    for agent in ["claude", "codex"] {
        let stage = Stage::new(vec![Play::Hang("Wait"), text("two")]).await;
        let id = stage.create(agent, &json!({"interactive": true, "prompt": "say-first"})).await;
        let mut reader = Reader::open(&stage.server, &id, "?since=0").await;
        reader.until_line("agent_message").await;
        reader.send(json!({"type": "interrupt"})).await;
        reader.until_line("result").await;
        let native = stage.server.get(&format!("/sessions/{id}")).await.json()["agent_session_id"].clone();
        reader.prompt("say-second").await;
        let lines = reader.until_line("result").await;
        assert_eq!(of(&lines, "result")[0]["text"], "two", "{agent}: {lines:?}");
        let call = stage.model.last().to_string();
        assert!(call.contains("say-first") && call.contains("say-second"), "{agent}: {call}");
        assert_eq!(stage.server.get(&format!("/sessions/{id}")).await.json()["agent_session_id"], native, "{agent}");
    }
}

/// Instructions in the working directory are found, unless that is switched off.
#[tokio::test]
async fn discovery() {
    for (agent, file) in [("claude", "CLAUDE.md"), ("codex", "AGENTS.md")] {
        let stage = Stage::new(vec![]).await;
        fs::write(stage.folder.path().join("work").join(file), "Always say marker-project.").unwrap();
        for (discover, is_found) in [(json!(null), true), (json!(false), false)] {
            let before = stage.model.calls().len();
            let (_, snapshot, all) = stage.run(agent, &json!({"prompt": "Hi", "auto_discover": discover})).await;
            assert_eq!(snapshot["state"], "completed", "{all:?}");
            let calls = stage.model.calls().split_off(before);
            let found = calls.iter().any(|call| call.body.to_string().contains("marker-project"));
            assert_eq!(found, is_found, "{agent} {discover}");
        }
    }
}
