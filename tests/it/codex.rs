//! The built-in `codex` agent: the real Codex CLI against a model on loopback that speaks the real wire.

use crate::support::agents::{Seen, advance, ask, ask_really, begin, codex_program, rest, turn, with_model};
use crate::support::model::{Block, Model, Play, status, text, tool};
use crate::support::{Server, eventually, finish, proc, server_command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const KEY: &str = "sk-good-0123456789";

/// A server, its model, and the folder where the CLI keeps what it keeps.
struct Setup {
    server: Server,
    model: Model,
    home: TempDir,
}

async fn start(plays: Vec<Play>, args: &[&str]) -> Setup {
    let home = tempfile::tempdir().unwrap();
    let model = Model::start(plays).await;
    Setup { server: server(&model, home.path(), args), model, home }
}

fn server(model: &Model, home: &Path, args: &[&str]) -> Server {
    let (program, workspace) = (codex_program(), home.join("work"));
    std::fs::create_dir_all(&workspace).unwrap();
    let own = ["--agent", "codex", "--codex-model", "default-model", "--codex-program", program.to_str().unwrap()];
    let args = [&own[..], &["--workspace", workspace.to_str().unwrap()], args].concat();
    Server::start_with(&args, |command| {
        with_model(model, KEY)(command);
        command.env("HOME", home);
    })
}

fn shell(command: &str) -> Play {
    tool("exec_command", json!({"cmd": command, "login": false}))
}

fn person() -> Value {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                        "required": ["name"]});
    json!({"output_format_json_schema_str": json!({"type": "json_schema", "schema": schema}).to_string()})
}

/// The processes of the CLI itself.
fn app_servers(server: &Server) -> Vec<proc::Process> {
    let below = proc::descendants(server.pid());
    below.into_iter().filter(|process| process.command.contains("app-server")).collect()
}

fn end(process: &proc::Process) {
    kill(Pid::from_raw(i32::try_from(process.pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// What the model was told, as text: the contents of all messages of a kind.
fn told(body: &Value, role: &str) -> Vec<String> {
    let items = body["input"].as_array().unwrap().iter().filter(|item| item["role"] == role);
    let parts = items.flat_map(|item| item["content"].as_array().unwrap());
    parts.filter_map(|part| part["text"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_plain_turn() {
    let Setup { server, model, home: _home } = start(vec![text("Hello there.")], &[]).await;
    let seen = ask(&server, "Hi", &json!({})).await;
    assert_eq!((seen.text(), seen.deltas().as_str()), ("Hello there.", "Hello there."));
    assert_eq!(seen.messages, [json!(["Hello there."])]);
    assert_eq!(seen.kinds(), ["progress", "text_delta", "text", "usage"]);
    let usage = json!({"inputTokens": 10, "outputTokens": 3, "totalTokens": 13});
    assert_eq!(seen.terminal["metadata"]["usage"], usage);
    assert!(seen.terminal["metadata"]["thread_id"].as_str().unwrap().len() > 30);
    let usage =
        json!({"type": "usage", "input_tokens": 10, "output_tokens": 3, "cached_tokens": 4, "reasoning_tokens": 1});
    assert_eq!(seen.of("usage"), [&usage]);

    let calls = model.calls();
    assert_eq!(calls.len(), 1);
    let call = &calls[0];
    assert_eq!((call.path.as_str(), &call.body["model"]), ("/v1/responses", &json!("test-model")));
    assert_eq!(call.headers["authorization"], format!("Bearer {KEY}"));
    assert!(told(&call.body, "developer").iter().any(|one| one == "Be brief."));
    assert_eq!(told(&call.body, "user").last().unwrap(), "Hi");
}

/// The same by the client that people use, and by the other host; each remembers.
#[tokio::test]
async fn the_real_client_and_dari() {
    let Setup { server, model, home: _home } =
        start(vec![text("one"), text("two"), text("three"), text("four")], &[]).await;
    let answers = ask_really(&server, &json!([{"prompt": "1"}, {"prompt": "2"}])).await;
    assert_eq!((&answers[0]["text"], &answers[0]["messages"]), (&json!("one"), &json!([["one"]])));
    assert_eq!(answers[1]["text"], "two");

    let (_, first) = advance(&server, "3", &Value::Null).await;
    assert_eq!((&first["text"], &first["state"]["turns"]), (&json!("three"), &json!(1)));
    assert_eq!(model.last()["model"], "default-model");
    let (_, second) = advance(&server, "4", &first["state"]).await;
    assert_eq!((&second["text"], &second["state"]["turns"]), (&json!("four"), &json!(2)));
    assert_eq!(second["state"]["codex_thread_id"], first["state"]["codex_thread_id"]);
    assert_eq!(told(&model.last(), "assistant"), ["three"]);
    assert_eq!(app_servers(&server).len(), 1, "one process serves all threads");
}

#[tokio::test]
async fn a_round_of_tools() {
    let first = Play::Say(vec![
        Block::Thinking("Let me look."),
        Block::Tool("exec_command", json!({"cmd": "echo out; echo $GREETING; exit 3", "login": false})),
        Block::Search,
    ]);
    let Setup { server, model, home: _home } = start(vec![first, text("Done.")], &[]).await;
    let mut client = server.connect("/?session=one").await;
    let greeting = json!({"agent_env": {"GREETING": "grüezi"}});
    let seen = turn(&mut client, "Look", &greeting).await;
    assert_eq!(seen.text(), "Done.");
    assert_eq!(seen.of("thinking")[0]["text"], "Let me look.");
    let [command, search] = seen.of("tool_use")[..] else { panic!("{:?}", seen.kinds()) };
    let (command, search) = if command["name"] == "webSearch" { (search, command) } else { (command, search) };
    assert_eq!((&command["name"], &search["name"]), (&json!("commandExecution"), &json!("webSearch")));
    assert!(command["input"]["command"].as_str().unwrap().contains("echo out"), "{command}");
    let results = seen.of("tool_result");
    let result = results.iter().find(|one| one["id"] == command["id"]).unwrap();
    assert_eq!((&result["is_error"], &result["exit_code"]), (&json!(true), &json!(3)));
    assert_eq!(result["output"].as_str().unwrap().replace('\r', ""), "out\ngrüezi\n");
    assert_eq!(results.len(), 2);
    assert_eq!(seen.terminal["metadata"]["usage"]["totalTokens"], 26);

    // Another environment for the same talk: commands see it, and what was said is still there.
    model.play([shell("echo $GREETING"), text("Done.")]);
    let seen = turn(&mut client, "Again", &json!({"agent_env": {"GREETING": "salut"}})).await;
    assert_eq!(seen.of("tool_result")[0]["output"].as_str().unwrap().trim(), "salut");
    assert!(told(&model.last(), "user").iter().any(|one| one == "Look"));
}

#[tokio::test]
async fn files_that_are_changed_are_told() {
    let patch = "*** Begin Patch\n*** Add File: hello.txt\n+Hello\n*** End Patch\n";
    let command = format!("apply_patch <<'EOF'\n{patch}EOF\n");
    let Setup { server, home, model: _model } = start(vec![shell(&command), text("Done.")], &[]).await;
    let seen = ask(&server, "Write", &json!({})).await;
    assert_eq!(seen.text(), "Done.");
    assert_eq!(std::fs::read_to_string(home.path().join("work/hello.txt")).unwrap(), "Hello\n", "{seen:?}");
    assert_eq!(seen.of("tool_use")[0]["name"], "fileChange");
    let change = &seen.of("tool_use")[0]["input"]["changes"][0];
    assert!(change["path"].as_str().unwrap().ends_with("hello.txt"), "{change}");
    assert_eq!(seen.of("tool_result")[0]["is_error"], false);
}

/// The talk outlives its process, and the server.
#[tokio::test]
async fn a_talk_goes_on_elsewhere() {
    let Setup { server, model, home } = start(vec![text("one"), text("two"), text("three")], &[]).await;
    let (_, first) = advance(&server, "1", &Value::Null).await;
    end(&app_servers(&server)[0]);
    eventually("the CLI is gone", || app_servers(&server).is_empty().then_some(())).await;
    let (_, second) = advance(&server, "2", &first["state"]).await;
    assert_eq!(second["text"], "two");
    assert_eq!(told(&model.last(), "assistant"), ["one"]);
    drop(server);

    let server = self::server(&model, home.path(), &[]);
    let (_, third) = advance(&server, "3", &second["state"]).await;
    assert_eq!((&third["text"], &third["state"]["turns"]), (&json!("three"), &json!(3)));
    assert_eq!(told(&model.last(), "assistant"), ["one", "two"]);
}

#[tokio::test]
async fn a_thread_that_nobody_knows() {
    let Setup { server, model: _model, home: _home } = start(vec![text("one"), text("two")], &[]).await;
    for thread in ["01a1fccb-339d-7a61-9441-7642735d0000", "nonsense"] {
        let state = json!({"v": 1, "codex_thread_id": thread, "turns": 7});
        let (answer, body) = advance(&server, "Hi", &state).await;
        assert_eq!((answer.status, &body["state"]["turns"]), (200, &json!(1)));
        assert_ne!(body["state"]["codex_thread_id"], thread);
    }
}

#[tokio::test]
async fn structured_output() {
    let plays = vec![
        text(r#"{"name":"Ann","age":7}"#),
        text("Ann is seven."),
        text(r#"{"name":"Ann","age":8}"#),
        text(r#"{"age":"old"}"#),
        text(r#"{"name":3}"#),
    ];
    let Setup { server, model, home: _home } = start(plays, &[]).await;
    let seen = ask(&server, "Who?", &person()).await;
    assert_eq!(
        seen.terminal["data"],
        json!({"type": "structured_output", "structured_output": {"name": "Ann", "age": 7}})
    );
    // A property is optional, so the service cannot hold the model to it; the model is told.
    assert_eq!(model.last()["text"]["format"], Value::Null);
    assert!(told(&model.last(), "user").last().unwrap().contains(r#""required":["name"]"#));

    let seen = ask(&server, "Who?", &person()).await;
    assert_eq!(seen.terminal["data"]["structured_output"], json!({"name": "Ann", "age": 8}), "after one repair");
    assert!(told(&model.last(), "user").last().unwrap().starts_with("Your answer does not fit the schema: "));
    assert_eq!(seen.terminal["metadata"]["usage"]["totalTokens"], 26);

    let seen = ask(&server, "Who?", &person()).await;
    assert_eq!((seen.category(), &seen.terminal["metadata"]["retryable"]), ("structured_output_missing", &json!(true)));
    assert!(seen.error().contains("/name") && seen.error().contains("string"), "{}", seen.error());
    assert_eq!(seen.terminal["metadata"]["text"], r#"{"name":3}"#);

    let strict = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false});
    let strict = json!({"output_format_json_schema_str": json!({"type": "json_schema", "schema": strict}).to_string()});
    model.play([text(r#"{"a":"b"}"#)]);
    assert_eq!(ask(&server, "Who?", &strict).await.terminal["data"]["structured_output"], json!({"a": "b"}));
    let format = model.last()["text"]["format"].clone();
    assert_eq!((&format["strict"], &format["schema"]["required"]), (&json!(true), &json!(["a"])));
}

/// Each way to fail, its category, and whether another try is worth it.
#[tokio::test]
async fn failures() {
    let quota = Play::Status { status: 429, code: "insufficient_quota", message: "Pay.", headers: vec![] };
    let no = || vec![status(403, "x"), status(403, "x"), status(403, "x")];
    let cut = || vec![Play::Cut("Half of"), Play::Cut("Half of"), Play::Cut("Half of")];
    let Setup { server, model, home: _home } = start(vec![], &[]).await;
    for (plays, fields, category, retryable, message) in [
        (no(), json!({}), "permission_denied", false, "the fake model says no"),
        (vec![], json!({"model": "unknown-model"}), "model_not_found", false, "there is no such model"),
        (vec![status(429, "rate_limit_exceeded")], json!({}), "rate_limit", true, "429"),
        (vec![quota], json!({}), "rate_limit", false, ""),
        (vec![status(400, "context_length_exceeded")], json!({}), "invalid_request", false, "context window"),
        (vec![status(400, "x")], json!({}), "invalid_request", false, "the fake model says no"),
        (vec![Play::Say(vec![Block::Refusal("I will not.")])], json!({}), "invalid_request", false, "refused"),
        (vec![Play::Break("Half", "max_output_tokens")], json!({}), "invalid_request", false, "max_output_tokens"),
        (vec![Play::Break("Half", "max_output_tokens")], person(), "structured_output_missing", true, "max_output"),
        (cut(), json!({}), "upstream_api_error", true, "stream disconnected"),
    ] {
        model.play(plays);
        let seen = ask(&server, "Hi", &fields).await;
        println!("{category}: {}", seen.terminal);
        assert_eq!(seen.category(), category, "{}", seen.terminal);
        assert!(seen.error().contains(message), "{}", seen.error());
        assert!(!seen.error().contains("127.0.0.1"), "{}", seen.error());
        assert_eq!(seen.terminal["metadata"]["retryable"], retryable, "{category}");
    }
    // On the other host it is said, and the state stays.
    model.play(no());
    let (answer, body) = advance(&server, "Hi", &Value::Null).await;
    assert_eq!(answer.status, 200);
    assert!(!body["text"].as_str().unwrap().is_empty() && body.get("state").is_none(), "{body}");
    assert_eq!(ask(&server, "Hi", &json!({})).await.text(), "ok", "the same process goes on");
    assert_eq!(app_servers(&server).len(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_begins_again() {
    let Setup { server, model: _model, home: _home } = start(vec![Play::Cut("Half of"), text("All of it.")], &[]).await;
    let seen = ask(&server, "Hi", &json!({})).await;
    assert_eq!((seen.text(), seen.deltas().as_str()), ("All of it.", "Half ofAll of it."));
    assert_eq!(seen.of("discarded").len(), 1);
    assert_eq!(seen.of("discarded")[0]["block"], seen.of("text_delta")[0]["block"]);
    assert!(seen.of("progress").iter().any(|event| event["kind"] == "retry"), "{:?}", seen.events);
}

/// The CLI would wait for the network for ever.
#[tokio::test]
async fn a_service_that_cannot_be_reached() {
    let Setup { server, model, home: _home } = start(vec![], &["--codex-retry-limit", "1500ms"]).await;
    let began = Instant::now();
    // Nothing listens on port 1.
    let env = json!({"agent_env": {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}});
    let seen = ask(&server, "Hi", &env).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!((seen.category(), &seen.terminal["metadata"]["retryable"]), ("timeout", &json!(true)));
    assert!(seen.error().starts_with("the model was called again and again for 1.5s: "), "{}", seen.error());
    assert_eq!(model.calls().len(), 0);
    assert_eq!(ask(&server, "Hi", &json!({})).await.text(), "ok");
    assert_eq!(app_servers(&server).len(), 1);
}

/// A missing key is told at once, and names the variable; the server lives.
#[tokio::test]
async fn a_missing_key() {
    let (home, program) = (tempfile::tempdir().unwrap(), codex_program());
    let args = ["--agent", "codex", "--codex-program", program.to_str().unwrap()];
    let server = Server::start_with(&args, |command| {
        command.env("HOME", home.path());
    });
    let began = Instant::now();
    let seen = ask(&server, "Hi", &json!({})).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(seen.category(), "auth_error");
    assert!(seen.error().starts_with("OPENAI_API_KEY is not set: "), "{}", seen.error());
    let (answer, body) = advance(&server, "Hi", &Value::Null).await;
    assert_eq!((answer.status, body.get("state")), (200, None));
    assert!(body["text"].as_str().unwrap().contains("OPENAI_API_KEY"), "{body}");
    assert_eq!(server.get("/health").await.status, 200);

    // The request may bring one.
    let model = Model::start(vec![]).await;
    let env = json!({"agent_env": {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": model.base()}});
    assert_eq!(ask(&server, "Hi", &env).await.text(), "ok");
    assert_eq!(model.calls()[0].headers["authorization"], format!("Bearer {KEY}"));
}

#[tokio::test]
async fn a_missing_cli() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = server_command(&["--agent", "codex", "--port", "0"]);
    command.env("PATH", folder.path()).current_dir(folder.path());
    let ended = finish(command).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let sentence = "the codex agent requires the Codex CLI (`codex`) to be installed: npm install -g @openai/codex";
    assert!(ended.stderr.contains(sentence), "{}", ended.stderr);
}

/// Services repeat keys in their errors. Nobody else sees them.
#[tokio::test]
async fn a_bad_key_is_not_told() {
    let Setup { server, model: _model, home: _home } = start(vec![], &[]).await;
    let seen = ask(&server, "Hi", &json!({"agent_env": {"OPENAI_API_KEY": "bad-key-123"}})).await;
    assert_eq!(seen.category(), "auth_error");
    assert!(!format!("{seen:?}").contains("bad-key-123"), "{seen:?}");
    assert!(!server.log().contains("bad-key-123"));
    assert_eq!(app_servers(&server).len(), 2, "a key has a process of its own");
}

/// The key is the model's service's, and commands are the model's.
#[tokio::test]
async fn commands_see_no_key() {
    let Setup { server, model, home } = start(vec![shell("env"), text("Done.")], &[]).await;
    let seen = ask(&server, "Look", &json!({"agent_env": {"MY_PASSWORD": "geheim-123"}})).await;
    let told = model.last()["input"].to_string();
    assert!(told.contains("OPENAI_BASE_URL") && !told.contains("OPENAI_API_KEY") && !told.contains(KEY), "{told}");
    assert!(told.contains("MY_PASSWORD"), "the turn's own variables are for commands");
    assert!(!format!("{seen:?}").contains(KEY) && !server.log().contains(KEY));
    for process in proc::descendants(server.pid()) {
        assert!(!process.command.contains(KEY) && !process.command.contains("geheim"), "{}", process.command);
    }
    let mut folders = vec![home.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                assert!(!String::from_utf8_lossy(&bytes).contains(KEY), "{}", entry.path().display());
            }
        }
    }
}

#[tokio::test]
async fn a_cancel_while_it_speaks() {
    let Setup { server, model, home: _home } = start(vec![Play::Hang("Well,")], &[]).await;
    let mut client = server.connect("/").await;
    begin(&mut client, "Hi", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    let seen = rest(&mut client).await;
    assert_eq!(seen.error(), "Request cancelled");
    println!("a cancel took {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    eventually("the service sees the hang-up", || model.calls()[0].hung_up.then_some(())).await;
    assert_eq!(turn(&mut client, "Hi", &json!({})).await.text(), "ok", "the next turn works");
}

#[tokio::test]
async fn a_cancel_while_a_command_runs() {
    let mark = format!("turnhost-codex-{}", std::process::id());
    let command = "trap '' TERM; (setsid sleep 300 &); sleep 300";
    let Setup { server, model, home: _home } = start(vec![text("one"), shell(command)], &[]).await;
    let mut client = server.connect("/?session=one").await;
    let env = json!({"agent_env": {"TEST_MARK": mark}});
    assert_eq!(turn(&mut client, "Hi", &env).await.text(), "one");
    begin(&mut client, "Sleep", &env).await;
    eventually("the command runs", || (proc::marked(&mark).len() >= 2).then_some(())).await;
    let process = app_servers(&server)[0].pid;
    client.send(&json!({"message_type": "cancel_message"})).await;
    let seen = rest(&mut client).await;
    assert_eq!(seen.error(), "Request cancelled");
    let uses = seen.of("tool_use").len();
    assert_eq!((uses, seen.of("tool_result").len()), (uses, uses));
    eventually("nothing of it is left", || proc::marked(&mark).is_empty().then_some(())).await;
    assert_eq!(turn(&mut client, "Hi", &env).await.text(), "ok");
    assert!(told(&model.last(), "assistant").iter().any(|one| one == "one"));
    assert_eq!(app_servers(&server)[0].pid, process, "the process goes on");
}

/// A process that dies takes its turn along, says so, and is replaced.
#[tokio::test]
async fn a_cli_that_dies() {
    let Setup { server, model: _model, home: _home } = start(vec![Play::Hang("Well,")], &[]).await;
    let mut client = server.connect("/").await;
    begin(&mut client, "Hi", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
    end(&app_servers(&server)[0]);
    let seen = rest(&mut client).await;
    assert_eq!((seen.category(), seen.error()), ("startup_crash", "codex was ended by signal 9"));
    let metadata = &seen.terminal["metadata"];
    assert_eq!((&metadata["phase"], &metadata["retryable"]), (&json!("turn"), &json!(true)));
    assert_eq!(turn(&mut client, "Hi", &json!({})).await.text(), "ok", "the next turn works");
}

/// What the user says meanwhile comes with the next call of the same turn.
#[tokio::test]
async fn a_steer() {
    let Setup { server, model, home } = start(vec![], &[]).await;
    let gate = home.path().join("gate");
    let command = format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display());
    model.play([shell(&command), text("So be it."), text("So be it.")]);
    let mut client = server.connect("/").await;
    begin(&mut client, "Work", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "tool_use" {}
    client.send(&json!({"message_type": "input_message", "text": "Use the blue one."})).await;
    client.send(&json!({"message_type": "input_message", "text": "Please."})).await;
    // Both were read when the next message of the same connection is answered.
    client.send(&json!({"message_type": "input_message"})).await;
    while client.next().await.unwrap()["message_type"] != "notice_message" {}
    std::fs::write(&gate, "").unwrap();
    let seen: Seen = rest(&mut client).await;
    assert_eq!(seen.text(), "So be it.");
    let said = told(&model.last(), "user");
    assert!(said.ends_with(&["Use the blue one.".to_owned(), "Please.".to_owned()]), "{said:?}");
}

#[tokio::test]
async fn an_image_reaches_the_model() {
    let Setup { server, model, home: _home } = start(vec![text("A cat.")], &[]).await;
    let data = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
    let input = json!({"parts": [{"type": "text", "text": "What is this?"},
                                 {"type": "image", "mime_type": "image/png", "data": data}]});
    assert_eq!(server.advance(&json!({"input": input})).await.json()["text"], "A cat.");
    let asked = model.last()["input"].to_string();
    assert!(asked.contains(r#""type":"input_image""#) && asked.contains("data:image/png;base64,"), "{asked}");
}

/// From the request to the model's call, and from the first byte of the service to the first delta at the caller.
#[tokio::test]
async fn the_first_delta_comes_soon() {
    let Setup { server, model, home: _home } = start(vec![], &[]).await;
    let (mut called, mut took) = (Vec::new(), Vec::new());
    let mut client = server.connect("/").await;
    for _ in 0..10 {
        let began = Instant::now();
        begin(&mut client, "Hi", &json!({})).await;
        while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
        let (now, answered) = (Instant::now(), model.calls().last().unwrap().answered.unwrap());
        called.push(answered - began);
        took.push(now - answered);
        let _: Seen = rest(&mut client).await;
    }
    called.sort();
    took.sort();
    println!("request to the model's first byte: median {:?}, worst {:?}", called[5], called[9]);
    println!("from there to the first delta: median {:?}, worst {:?}", took[5], took[9]);
    assert!(called[5] + took[5] < Duration::from_secs(1), "{called:?} {took:?}");
}
