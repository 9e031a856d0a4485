//! The built-in `claude` agent: the real Claude CLI, and a model on loopback that speaks the real wire.

use crate::support::agents::{Seen, advance, ask, ask_really, begin, claude_program, rest, turn};
use crate::support::model::{Block, Model, Play, status, text, tool};
use crate::support::{Server, eventually, finish, proc, server_command};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const KEY: &str = "sk-ant-good-0123456789";

/// A server, its model, and the folders of its agent.
struct Stage {
    server: Server,
    model: Model,
    folder: TempDir,
}

impl Stage {
    async fn new(plays: Vec<Play>, args: &[&str]) -> Self {
        let model = Model::start(plays).await;
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("work")).unwrap();
        let server = serve(&model, &folder, args, Some(KEY));
        Self { server, model, folder }
    }

    /// Another server in the same place.
    fn restart(&mut self, args: &[&str]) {
        self.server = serve(&self.model, &self.folder, args, Some(KEY));
    }

    async fn ask(&self, prompt: &str) -> Seen {
        ask(&self.server, prompt, &json!({})).await
    }

    /// The processes of the program that are not the spare of another test.
    fn processes(&self) -> Vec<proc::Process> {
        let below = proc::descendants(self.server.pid());
        below.into_iter().filter(|process| process.command.contains("stream-json")).collect()
    }
}

fn serve(model: &Model, folder: &TempDir, args: &[&str], key: Option<&str>) -> Server {
    let (program, work) = (claude_program(), folder.path().join("work"));
    let own =
        ["--agent", "claude", "--claude-program", program.to_str().unwrap(), "--workspace", work.to_str().unwrap()];
    Server::start_with(&[&own, args].concat(), |command| {
        command.env("ANTHROPIC_BASE_URL", model.root()).env("CLAUDE_CONFIG_DIR", folder.path().join("config"));
        command.env("HOME", folder.path());
        if let Some(key) = key {
            command.env("ANTHROPIC_API_KEY", key);
        }
    })
}

fn bash(command: &str) -> Play {
    tool("Bash", json!({"command": command, "description": "test"}))
}

fn person() -> Value {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                        "required": ["name"]});
    json!({"output_format_json_schema_str": json!({"type": "json_schema", "schema": schema}).to_string()})
}

/// The texts of the user's and the assistant's messages that a call carried, less what the program adds.
fn said(call: &Value) -> Vec<String> {
    let messages = call["messages"].as_array().unwrap();
    let texts = messages.iter().flat_map(|message| match &message["content"] {
        Value::String(text) => vec![text.clone()],
        blocks => {
            blocks.as_array().unwrap().iter().filter_map(|block| block["text"].as_str()).map(str::to_owned).collect()
        }
    });
    texts.filter(|text| !text.contains("<system-reminder>") && !text.starts_with("# Environment")).collect()
}

#[tokio::test]
async fn a_plain_turn() {
    let scene = Stage::new(vec![text("Hello there, friend.")], &[]).await;
    let seen = scene.ask("Hi").await;
    assert_eq!((seen.text(), seen.deltas().as_str()), ("Hello there, friend.", "Hello there, friend."));
    assert_eq!(seen.messages, [json!(["Hello there, friend."])]);
    assert_eq!(seen.kinds(), ["progress", "text_delta", "text", "usage"]);
    assert_eq!(seen.of("text")[0]["block"], seen.of("text_delta")[0]["block"]);
    let metadata = &seen.terminal["metadata"];
    for name in ["duration_ms", "duration_api_ms", "num_turns", "total_cost_usd", "usage", "session_id"] {
        assert!(!metadata[name].is_null(), "no {name}: {metadata}");
    }
    let usage = seen.of("usage")[0];
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(10), &json!(3)));
    assert_eq!(usage["cost_usd"], metadata["total_cost_usd"]);

    let call = &scene.model.calls()[0];
    assert_eq!(call.headers["x-api-key"], KEY);
    assert_eq!(call.body["model"], "test-model");
    assert!(call.body["system"].to_string().contains("Be brief."));
    assert_eq!(said(&call.body), ["Hi"]);
    assert!(!scene.server.log().contains(KEY));
}

#[tokio::test]
async fn the_real_client_and_dari() {
    let scene = Stage::new(vec![text("one"), text("two"), text("three"), text("four")], &[]).await;
    let answers = ask_really(&scene.server, &json!([{"prompt": "1"}, {"prompt": "2"}])).await;
    assert_eq!((&answers[0]["text"], &answers[0]["messages"]), (&json!("one"), &json!([["one"]])), "{answers:?}");
    assert_eq!(answers[1]["text"], "two");
    assert_eq!(said(&scene.model.last()), ["2"], "a plain query is a talk of its own");

    let (_, first) = advance(&scene.server, "3", &Value::Null).await;
    assert_eq!(first["text"], "three");
    let state = &first["state"];
    assert_eq!((&state["v"], &state["turns"], &state["cli"]), (&json!(1), &json!(1), &json!("2.1.329")));
    let (_, second) = advance(&scene.server, "4", state).await;
    assert_eq!((&second["text"], &second["state"]["turns"]), (&json!("four"), &json!(2)));
    assert_eq!(second["state"]["claude_session_id"], state["claude_session_id"]);
    assert_eq!(said(&scene.model.last()), ["3", "three", "4"]);
}

#[tokio::test]
async fn a_round_of_tools() {
    let look = Play::Say(vec![
        Block::Thinking("There may be a file."),
        Block::Text("Let me look.".into()),
        Block::Tool("Bash", json!({"command": "echo $GREETING; exit 3", "description": "x"})),
    ]);
    let scene = Stage::new(vec![look, bash("echo fine"), text("Done.")], &[]).await;
    let seen = ask(&scene.server, "Look", &json!({"agent_env": {"GREETING": "grüezi"}})).await;
    assert_eq!(seen.text(), "Done.");
    assert_eq!(
        seen.kinds(),
        [
            "progress",
            "thinking",
            "text_delta",
            "text",
            "tool_use",
            "tool_result",
            "tool_use",
            "tool_result",
            "text_delta",
            "text",
            "usage"
        ]
    );
    let uses = seen.of("tool_use");
    assert_eq!((&uses[0]["name"], &uses[0]["input"]["command"]), (&json!("Bash"), &json!("echo $GREETING; exit 3")));
    let results = seen.of("tool_result");
    assert_eq!(
        (&results[0]["id"], &results[0]["exit_code"], &results[0]["is_error"]),
        (&uses[0]["id"], &json!(3), &json!(true))
    );
    assert!(results[0]["output"].as_str().unwrap().contains("grüezi"), "{}", results[0]);
    assert_eq!(
        (&results[1]["output"], &results[1]["exit_code"], &results[1]["is_error"]),
        (&json!("fine"), &json!(0), &json!(false))
    );
    assert_eq!(seen.messages, [json!(["Let me look."]), json!(["Done."])]);
}

/// The process of a session is kept: the second turn needs no start. A restart of the server, or of the process, and even a
/// conversation that is gone, end nothing.
#[tokio::test]
async fn memory() {
    let plays = vec![text("one"), text("two"), text("three"), text("four"), text("five")];
    let mut scene = Stage::new(plays, &[]).await;
    let (_, first) = advance(&scene.server, "1", &Value::Null).await;
    let state = first["state"].clone();
    let processes = |scene: &Stage| scene.processes().iter().map(|process| process.pid).collect::<Vec<_>>();
    let (_, second) = advance(&scene.server, "2", &state).await;
    assert_eq!(second["text"], "two");

    // The processes are killed.
    for pid in processes(&scene) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    let (_, third) = advance(&scene.server, "3", &second["state"]).await;
    assert_eq!(third["text"], "three");
    assert_eq!(said(&scene.model.last()), ["1", "one", "2", "two", "3"]);

    scene.restart(&[]);
    let (_, fourth) = advance(&scene.server, "4", &third["state"]).await;
    assert_eq!((&fourth["text"], &fourth["state"]["turns"]), (&json!("four"), &json!(4)));
    assert_eq!(said(&scene.model.last()).len(), 7);

    // Another sandbox: what the program kept is gone.
    std::fs::remove_dir_all(scene.folder.path().join("config")).unwrap();
    scene.restart(&[]);
    let (_, fifth) = advance(&scene.server, "5", &fourth["state"]).await;
    assert_eq!((&fifth["text"], &fifth["state"]["turns"]), (&json!("five"), &json!(1)));
    assert_eq!(said(&scene.model.last()), ["5"]);
}

#[tokio::test]
async fn structured_output() {
    let plays = vec![
        tool("StructuredOutput", json!({"name": "Ann", "age": 7})),
        tool("StructuredOutput", json!({"age": "old"})),
        tool("StructuredOutput", json!({"name": "Bob"})),
    ];
    let scene = Stage::new(plays, &[]).await;
    let seen = ask(&scene.server, "Who?", &person()).await;
    assert_eq!(
        seen.terminal["data"],
        json!({"type": "structured_output", "structured_output": {"name": "Ann", "age": 7}})
    );
    assert_eq!(seen.of("tool_use").len(), 0, "the tool of the answer is nobody's business");
    let seen = ask(&scene.server, "Who?", &person()).await;
    assert_eq!(seen.terminal["data"]["structured_output"], json!({"name": "Bob"}), "the program repaired it");

    // A model that never gives one: the program asks once more, so do we.
    scene.model.play((0..20).map(|_| text("Ann is seven.")));
    let seen = ask(&scene.server, "Who?", &person()).await;
    assert_eq!((seen.category(), &seen.terminal["metadata"]["retryable"]), ("structured_output_missing", &json!(true)));
    assert_eq!(seen.terminal["metadata"]["text"], "Ann is seven.");
    assert!(!seen.terminal["metadata"]["session_id"].is_null());
}

/// Each way to fail: its category, whether another try is worth it, what is said.
#[tokio::test]
async fn failures() {
    let refusal = || Play::Say(vec![Block::Refusal("I will not.")]);
    for (plays, fields, category, retryable, says) in [
        (vec![status(403, "permission_error")], json!({}), "permission_denied", false, "says no"),
        (vec![], json!({"model": "unknown-model"}), "model_not_found", false, "unknown-model"),
        (vec![status(400, "invalid_request_error"); 12], json!({}), "invalid_request", false, "says no"),
        (vec![status(529, "overloaded_error"), status(529, "overloaded_error")], json!({}), "overloaded", true, "529"),
        (vec![refusal(), refusal(), refusal()], json!({}), "invalid_request", false, ""),
    ] {
        let scene = Stage::new(plays, &["--claude-retries", "1"]).await;
        let seen = ask(&scene.server, "Hi", &fields).await;
        assert_eq!(
            seen.terminal["metadata"]["category"],
            category,
            "{} calls: {}",
            scene.model.calls().len(),
            seen.terminal
        );
        assert_eq!(seen.terminal["metadata"]["retryable"], retryable, "{category}");
        assert!(seen.error().contains(says), "{category}: {}", seen.error());
        assert!(!seen.terminal["metadata"]["session_id"].is_null(), "metadata also on failure: {}", seen.terminal);
        // The text of an error is no answer. A refusal is known to be one only after it was said.
        assert!(says.is_empty() || seen.messages.is_empty(), "{:?}", seen.messages);
        // On the other host it is said, and the state stays.
        scene.model.play([status(403, "permission_error")]);
        let (answer, body) = advance(&scene.server, "Hi", &Value::Null).await;
        assert_eq!(answer.status, 200);
        assert!(!body["text"].as_str().unwrap().is_empty() && body.get("state").is_none(), "{body}");
    }
}

#[tokio::test]
async fn a_limit_of_rate_passes() {
    let slow = Play::Status {
        status: 429,
        code: "rate_limit_error",
        message: "Slow.",
        headers: vec![("retry-after", "1".into())],
    };
    let scene = Stage::new(vec![slow.clone(), text("Hello.")], &["--claude-retries", "1"]).await;
    let seen = scene.ask("Hi").await;
    assert_eq!(seen.text(), "Hello.");
    let calls = scene.model.calls();
    assert!(calls[1].at - calls[0].at >= Duration::from_millis(900), "retry-after was not kept");
    let retries: Vec<_> = seen.of("progress").into_iter().filter(|event| event["kind"] == "retry").collect();
    assert_eq!((retries.len(), &retries[0]["detail"]["status"]), (1, &json!(429)));
    scene.model.play([slow.clone(), slow]);
    let seen = scene.ask("Hi").await;
    assert_eq!((seen.category(), &seen.terminal["metadata"]["retryable"]), ("rate_limit", &json!(true)));
}

/// The program would try a bad key for minutes.
#[tokio::test]
async fn a_bad_key() {
    let scene = Stage::new(vec![], &[]).await;
    let began = Instant::now();
    let seen = ask(&scene.server, "Hi", &json!({"agent_env": {"ANTHROPIC_API_KEY": "bad-key-123"}})).await;
    assert_eq!(seen.category(), "auth_error", "{}", seen.terminal);
    // With its own tries it would take minutes.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(!seen.terminal.to_string().contains("bad-key-123") && !scene.server.log().contains("bad-key-123"));
    assert_eq!(scene.ask("Hi").await.text(), "ok", "the next turn has the server's key");
}

#[tokio::test]
async fn a_missing_key() {
    let model = Model::start(vec![]).await;
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("work")).unwrap();
    let server = serve(&model, &folder, &[], None);
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        let seen = ask(&server, "Hi", &json!({})).await;
        quickest = quickest.min(began.elapsed());
        assert_eq!(seen.category(), "auth_error", "{}", seen.terminal);
        assert!(seen.error().contains("ANTHROPIC_API_KEY is not set"), "{}", seen.error());
    }
    assert!(quickest < Duration::from_secs(1), "{quickest:?}");
    let (answer, body) = advance(&server, "Hi", &Value::Null).await;
    assert_eq!((answer.status, body.get("state")), (200, None));
    assert!(body["text"].as_str().unwrap().contains("ANTHROPIC_API_KEY"), "{body}");
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_missing_program() {
    let folder = TempDir::new().unwrap();
    let empty = folder.path().display().to_string();
    let mut command = server_command(&["--agent", "claude", "--port", "0", "--workspace", &empty]);
    command.env("PATH", &empty).env("HOME", &empty);
    let end = finish(command).await;
    assert_eq!(end.code, Some(1));
    assert!(
        end.stderr.contains("the Claude handler requires the Claude CLI (`claude`) to be installed."),
        "{}",
        end.stderr
    );
    let named: PathBuf = folder.path().join("nothing");
    let named = named.to_str().unwrap();
    let end = finish(server_command(&["--agent", "claude", "--port", "0", "--claude-program", named])).await;
    assert!(end.code == Some(1) && end.stderr.contains("nothing is not a program"), "{}", end.stderr);
}

#[tokio::test]
async fn rounds_have_a_limit() {
    let plays = vec![bash("true"), bash("true"), bash("true"), bash("true")];
    let scene = Stage::new(plays, &["--claude-max-turns", "2"]).await;
    let seen = scene.ask("Loop").await;
    assert_eq!((seen.category(), &seen.terminal["metadata"]["retryable"]), ("max_turns", &json!(false)));
    assert!(seen.error().starts_with("Agent ended with error_max_turns"), "{}", seen.error());
    assert!(seen.terminal["metadata"]["num_turns"].as_u64().is_some_and(|turns| turns >= 2), "{}", seen.terminal);
}

#[tokio::test]
async fn a_cancel_while_it_speaks() {
    let scene = Stage::new(vec![Play::Hang("Well, then")], &[]).await;
    let mut client = scene.server.connect("/?session=s").await;
    begin(&mut client, "Hi", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(rest(&mut client).await.error(), "Request cancelled");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    eventually("the service sees the hang-up", || scene.model.calls()[0].hung_up.then_some(())).await;
    assert_eq!(turn(&mut client, "Hi", &json!({})).await.text(), "ok", "the next turn works");
}

/// Tools run in sessions of their own; they end all the same, and before the cancel is answered.
#[tokio::test]
async fn a_cancel_while_a_tool_runs() {
    let mark = format!("turnhost-claude-{}", std::process::id());
    let command = format!(
        "trap '' TERM; (setsid python3 -c 'import time; time.sleep(300)' {mark} &) ; python3 -c 'import time; time.sleep(300)' {mark}"
    );
    let scene = Stage::new(vec![bash(&command)], &[]).await;
    let mut client = scene.server.connect("/").await;
    begin(&mut client, "Hi", &json!({})).await;
    eventually("the tool runs", || (proc::marked(&mark).len() >= 3).then_some(())).await;
    client.send(&json!({"message_type": "cancel_message"})).await;
    let seen = rest(&mut client).await;
    assert_eq!(seen.error(), "Request cancelled");
    proc::gone(&mark).await;
    assert_eq!(seen.of("tool_use").len(), 1);
    assert_eq!(turn(&mut client, "Hi", &json!({})).await.text(), "ok");
}

/// What is said meanwhile goes with the output of the tool that runs.
#[tokio::test]
async fn a_steer() {
    let folder = TempDir::new().unwrap();
    let gate = folder.path().join("gate");
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done; echo open", gate.display());
    let scene = Stage::new(vec![bash(&wait), text("So be it.")], &[]).await;
    let mut client = scene.server.connect("/").await;
    begin(&mut client, "Work", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "tool_use" {}
    client.send(&json!({"message_type": "input_message", "text": "Use the blue one."})).await;
    client.send(&json!({"message_type": "input_message"})).await;
    while client.next().await.unwrap()["message_type"] != "notice_message" {}
    while client.next().await.unwrap()["event"]["kind"] != "heard" {}
    std::fs::write(&gate, "").unwrap();
    assert_eq!(rest(&mut client).await.text(), "So be it.");
    assert!(scene.model.last().to_string().contains("Use the blue one."), "{}", scene.model.last()["messages"]);
    assert_eq!(scene.model.calls().len(), 2);
}

/// A server of tools, by a file of the operator and by the metadata of one request.
#[tokio::test]
async fn tools_of_a_server() {
    let folder = TempDir::new().unwrap();
    let script = crate::support::repository("tests/it/scripts/mcp_server.py");
    let server = json!({"type": "stdio", "command": "python3", "args": [script], "env": {"WORD": "tangerine"}});
    let config = folder.path().join("mcp.json");
    std::fs::write(&config, json!({"mcpServers": {"fruit": server}}).to_string()).unwrap();
    let plays = vec![tool("mcp__fruit__name", json!({})), text("A fruit.")];
    let scene = Stage::new(plays, &["--claude-mcp-config", config.to_str().unwrap()]).await;
    let seen = scene.ask("Which?").await;
    assert_eq!(seen.text(), "A fruit.");
    assert_eq!(seen.of("tool_use")[0]["name"], "mcp__fruit__name");
    assert!(seen.of("tool_result")[0]["output"].as_str().unwrap().contains("tangerine"), "{:?}", seen.events);

    // One request has another, and fewer rounds than it wants. Its key is on no command line.
    let server = json!({"type": "stdio", "command": "python3", "args": [script], "env": {"WORD": "secret-word-7"}});
    let own = json!({"metadata": {"claude": {"mcp_servers": {"word": server}, "max_turns": 1}}});
    scene.model.play([tool("mcp__word__name", json!({})), text("Never said.")]);
    let mut client = scene.server.connect("/").await;
    begin(&mut client, "Which?", &own).await;
    while client.next().await.unwrap()["event"]["type"] != "tool_use" {}
    let below = proc::descendants(scene.server.pid());
    assert!(!below.iter().any(|process| process.command.contains("secret-word-7")), "{below:?}");
    let seen = rest(&mut client).await;
    assert_eq!(seen.category(), "max_turns", "{}", seen.terminal);
    let wrong = json!({"metadata": {"claude": {"max_turn": 1}}});
    let seen = ask(&scene.server, "Which?", &wrong).await;
    assert_eq!(seen.category(), "invalid_request");
    assert!(seen.error().starts_with("metadata.claude: unknown field `max_turn`"), "{}", seen.error());

    // A server that does not start is told of, and ends nothing.
    let gone = json!({"metadata": {"claude": {"mcp_servers": {"gone": {"type": "stdio", "command": "/nowhere"}}}}});
    let seen = ask(&scene.server, "Hi", &gone).await;
    assert_eq!(seen.text(), "Never said.", "what the model had left to say");
    assert!(
        seen.of("warning").iter().any(|event| event["text"].as_str().unwrap().contains("MCP server gone")),
        "{:?}",
        seen.events
    );
}

/// The key reaches no command line.
#[tokio::test]
async fn what_others_can_see() {
    let scene = Stage::new(vec![Play::Hang("Well,")], &[]).await;
    let mut client = scene.server.connect("/").await;
    let secret = "topsecret-0123456789";
    begin(
        &mut client,
        "A private prompt",
        &json!({"agent_env": {"TOKEN_OF_MINE": secret}, "system_prompt": "Private too"}),
    )
    .await;
    while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
    for process in proc::descendants(scene.server.pid()) {
        for hidden in [KEY, secret, "private", "Private"] {
            assert!(!process.command.contains(hidden), "{}", process.command);
        }
    }
    client.send(&json!({"message_type": "cancel_message"})).await;
    rest(&mut client).await;
    assert!(!scene.server.log().contains(secret) && !scene.server.log().contains(KEY));
}

/// At the end of the server nothing of the agent is left.
#[tokio::test]
async fn nothing_is_left() {
    let mut scene = Stage::new(vec![text("Hello.")], &[]).await;
    advance(&scene.server, "Hi", &Value::Null).await;
    let below = proc::descendants(scene.server.pid());
    assert!(below.iter().any(|process| process.command.contains("stream-json")), "{below:?}");
    scene.server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(scene.server.exited().await.success());
    let left = |pid: u32| proc::all().into_iter().any(|process| process.pid == pid && process.state != 'Z');
    eventually("the processes are gone", || (!below.iter().any(|process| left(process.pid))).then_some(())).await;
}

async fn first_delta(client: &mut crate::support::WsClient, prompt: &str) -> Duration {
    let began = Instant::now();
    begin(client, prompt, &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
    let took = began.elapsed();
    rest(client).await;
    took
}

/// A fresh query takes the process that was started ahead; a further turn of a session the one it has.
#[tokio::test]
async fn the_first_delta() {
    let scene = Stage::new(vec![], &[]).await;
    let mut fresh = Vec::new();
    for _ in 0..9 {
        // The one of the query before is gone, and the next does nothing any more.
        let (mut last, mut same) = (0, 0);
        let is_up = || {
            let spent = match &*scene.processes() {
                [one] if proc::resident_kib(one.pid) > 100_000 => proc::cpu_ticks(one.pid),
                _ => 0,
            };
            same = if spent > 0 && spent == last { same + 1 } else { 0 };
            last = spent;
            (same >= 20).then_some(())
        };
        eventually("the spare is up", is_up).await;
        fresh.push(first_delta(&mut scene.server.connect("/").await, "Hi").await);
    }
    let mut client = scene.server.connect("/?session=s").await;
    first_delta(&mut client, "Hi").await;
    let mut further = Vec::new();
    for _ in 0..9 {
        further.push(first_delta(&mut client, "Again").await);
    }
    fresh.sort();
    further.sort();
    println!("first delta, medians: fresh query {:?}, further turn {:?}; {fresh:?} {further:?}", fresh[4], further[4]);
    // Busy machines are slow; what is promised is measured alone.
    assert!(fresh[0] < Duration::from_millis(400), "{fresh:?}");
    assert!(further[0] < Duration::from_millis(120), "{further:?}");
}
