//! turnhost under the name `agentruntime-sidecar`: one agent, `/ws` and `/health`, and an end of its own.

use super::run;
use crate::support::agents::codex_program;
use crate::support::model::{Model, text};
use crate::support::{PATIENCE, SOON, Server, WsClient, eventually, proc, repository};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program, driving the script `fake-claude` on a free port.
fn sidecar(folder: &TempDir) -> Command {
    let link = folder.path().join("agentruntime-sidecar");
    if !link.exists() {
        std::os::unix::fs::symlink(crate::support::binary(), &link).unwrap();
    }
    let mut command = Command::new(link);
    command.env_clear().env("HOME", folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
    let fake = repository("tests/it/scripts/fake-claude");
    command.env("AGENT_CMD", json!([fake]).to_string()).env("SIDECAR_PORT", "0").current_dir(folder.path());
    command
}

async fn until(client: &mut WsClient, kind: &str) -> Value {
    until_all(client, kind).await.pop().unwrap()
}

/// All events up to the first of this type, but those that come by the clock.
async fn until_all(client: &mut WsClient, kind: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let event = client.next().await.unwrap_or_else(|| panic!("the connection ended before {kind}: {all:?}"));
        let is_it = event["type"] == kind;
        if event["data"]["subtype"] != "heartbeat" {
            all.push(event);
        }
        if is_it {
            return all;
        }
    }
}

/// A sidecar of a program of lines.
fn plain(folder: &TempDir, words: &[&str]) -> Command {
    let mut command = sidecar(folder);
    command.env("AGENT_CMD", json!(words).to_string());
    command
}

/// The types of events and their texts.
fn said(events: &[Value]) -> Vec<String> {
    let told =
        |event: &Value| format!("{} {}", event["type"].as_str().unwrap(), event["data"]["text"].as_str().unwrap_or(""));
    events.iter().map(told).collect()
}

/// One prompt: the agent starts with the first connection, and the process ends some time after it, from the last one on.
#[tokio::test]
async fn one_prompt() {
    let folder = TempDir::new().unwrap();
    let mut command = sidecar(&folder);
    command.env("AGENT_PROMPT", "two hundred").env("SIDECAR_CLEANUP_TIMEOUT", "2");
    let mut server = Server::spawn(command);
    let health = json!({"status": "ok", "agent_running": false, "agent_type": "claude"});
    assert_eq!(server.get("/health").await.json(), health);
    assert!(proc::descendants(server.pid()).is_empty(), "nothing begins before somebody is there");
    let mut client = server.connect("/ws?since=0").await;
    let exit = until(&mut client, "exit").await;
    assert_eq!((&exit["data"], &exit["exit_code"]), (&json!({"code": 0}), &json!(0)));
    for path in ["/", "/sessions", "/ws/sessions/x", "/v1/sessions/x/events", "/metrics"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{path}");
    }
    // Counted anew: half way through there is another connection.
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    let again = Instant::now();
    let mut client = server.connect("/ws?since=0").await;
    until(&mut client, "exit").await;
    assert!(server.exited().await.success());
    assert!(again.elapsed().as_millis() >= 1990, "{:?}", again.elapsed());
}

/// A talk, its own id in `/health`, and SIGTERM: nothing is left.
#[tokio::test]
async fn a_talk() {
    let folder = TempDir::new().unwrap();
    let mut command = sidecar(&folder);
    command.env("SIDECAR_TOKEN", "t0ken-of-this-test");
    let mut server = Server::spawn(command);
    assert_eq!(server.get("/ws").await.status, 401);
    let mut client = server.connect("/ws?token=t0ken-of-this-test").await;
    client.send(&json!({"type": "prompt", "data": {"content": "hello"}})).await;
    until(&mut client, "result").await;
    let health = server.get("/health").await.json();
    assert_eq!((&health["agent_running"], &health["agent_type"]), (&json!(true), &json!("claude")));
    assert_eq!(health["session_id"], "5e551014-0000-4000-8000-000000000001");
    let agents = proc::descendants(server.pid());
    assert!(!agents.is_empty());
    let began = Instant::now();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(until(&mut client, "exit").await["exit_code"], -1);
    assert!(server.exited().await.success());
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    let left = || proc::all().iter().any(|one| agents.iter().any(|agent| agent.pid == one.pid && one.state != 'Z'));
    eventually("nothing is left", || (!left()).then_some(())).await;
    assert!(began.elapsed() < PATIENCE + SOON);
}

#[tokio::test]
async fn what_cannot_be() {
    let folder = TempDir::new().unwrap();
    for (name, value, said) in [
        ("SIDECAR_PORT", "http", "Error: SIDECAR_PORT: expected a port, got \"http\"\n"),
        ("SIDECAR_CLEANUP_TIMEOUT", "-5", "Error: SIDECAR_CLEANUP_TIMEOUT: expected a time"),
        ("AGENT_CMD", "", "Error: AGENT_CMD is not set: give a JSON array of strings, such as [\"claude\"]\n"),
        ("AGENT_CMD", "claude", "Error: AGENT_CMD: expected a JSON array of strings: "),
        ("AGENT_CMD", "[]", "Error: AGENT_CMD: the array names no program\n"),
        ("AGENT_CONFIG", "{", "Error: AGENT_CONFIG: "),
        ("SIDECAR_HOST", "0.0.0.0", "Error: listening beyond this machine needs a token"),
    ] {
        let mut command = sidecar(&folder);
        command.env(name, value);
        let ended = run(command).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{name}={value}: {ended}");
        assert!(ended.stderr.starts_with(said), "{name}={value}: {ended}");
    }
    let mut command = sidecar(&folder);
    command.arg("--port");
    assert_eq!(run(command).await.code, Some(2));
    // A program that is not there: an event, not the end of the sidecar.
    let mut command = sidecar(&folder);
    command.env("AGENT_CMD", "[\"/no/such/claude\"]").env("AGENT_PROMPT", "x");
    let server = Server::spawn(command);
    let mut client = server.connect("/ws?since=0").await;
    until(&mut client, "error").await;
    assert_eq!(until(&mut client, "exit").await["exit_code"], 1);
    // The last line is there before the state is; then all of it is told at once.
    let ended = async {
        loop {
            let health = server.get("/health").await.json();
            assert_eq!(health["status"] == "error", health["agent_running"] == false, "{health}");
            if health["status"] == "error" {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let health = tokio::time::timeout(PATIENCE, ended).await.expect("the end in its health");
    assert_eq!(client.close_code().await, Some(1000));
    assert!(health["error_detail"].as_str().unwrap().contains("/no/such/claude"), "{health}");
}

async fn command(client: &mut WsClient, kind: &str, content: &str) {
    client.send(&json!({"type": kind, "data": {"content": content}})).await;
}

/// Any other program: its lines are events, its arguments and variables are its own, and its exit code is the session's.
#[tokio::test]
async fn a_program_of_lines_with_one_prompt() {
    let folder = TempDir::new().unwrap();
    let script = r#"echo "args: $*"; echo "own $OWN, key $SOME_API_KEY, cmd ${AGENT_CMD-none}${SIDECAR_PORT-none}"; pwd
        cat; echo aside >&2; printf 'no end'; exit 3"#;
    let mut command = plain(&folder, &["sh", "-c", script, "sh", "one", "two words"]);
    command.env("AGENT_PROMPT", "Fix it.").env("OWN", "mine").env("SIDECAR_CLEANUP_TIMEOUT", "1");
    let mut server = Server::spawn(command);
    let health = json!({"status": "ok", "agent_running": false, "agent_type": "sh"});
    assert_eq!(server.get("/health").await.json(), health);
    let mut client = server.connect("/ws?since=0").await;
    let all = until_all(&mut client, "exit").await;
    let here = folder.path().canonicalize().unwrap();
    let stdout: Vec<String> = said(&all).into_iter().filter(|line| line.starts_with("stdout")).collect();
    let expected = [
        "stdout args: one two words",
        "stdout own mine, key , cmd nonenone",
        &format!("stdout {}", here.display()),
        "stdout Fix it.",
        "stdout no end",
    ];
    assert_eq!(stdout, expected, "{all:?}");
    assert!(all.iter().any(|event| event["type"] == "stderr" && event["data"] == json!({"text": "aside"})), "{all:?}");
    let (error, exit) = (&all[all.len() - 2], &all[all.len() - 1]);
    assert_eq!(error["data"], json!({"subtype": "agent_error", "code": 3, "error_detail": "aside"}));
    assert_eq!((&exit["data"], &exit["exit_code"]), (&json!({"code": 3, "error_detail": "aside"}), &json!(3)));
    assert_eq!(all.len(), 8, "nothing else: {all:?}");
    let mut offset = 0;
    for event in &all {
        offset += event.to_string().len() as u64 + 1;
        assert_eq!(event["offset"], offset, "{event}");
    }
    assert_eq!(client.close_code().await, Some(1000));
    let health = json!({"status": "error", "agent_running": false, "agent_type": "sh", "error_detail": "aside"});
    assert_eq!(server.get("/health").await.json(), health);
    assert!(server.exited().await.success());
    // One that ends well.
    let server = Server::spawn({
        let mut command = plain(&folder, &["/bin/echo", "well"]);
        command.env("AGENT_PROMPT", "unread");
        command
    });
    let all = until_all(&mut server.connect("/ws?since=0").await, "exit").await;
    assert_eq!(said(&all), ["stdout well", "exit "]);
    assert_eq!(all[1]["data"], json!({"code": 0}));
}

/// What clients say are lines on its standard input, and an interrupt is what Ctrl+C is in a terminal.
#[tokio::test]
async fn a_talk_with_a_program_of_lines() {
    let folder = TempDir::new().unwrap();
    let script = r#"trap 'echo interrupted' INT; sleep 333 & echo "child $!"
        while :; do if IFS= read -r line; then echo "> $line"; [ "$line" = bye ] && exit 0; fi; done"#;
    let server = Server::spawn(plain(&folder, &["bash", "-c", script]));
    let mut client = server.connect("/ws").await;
    let mut other = server.connect("/ws?since=0").await;
    let child: u32 = until(&mut other, "stdout").await["data"]["text"].as_str().unwrap()[6..].parse().unwrap();
    command(&mut client, "prompt", "first").await;
    assert_eq!(said(&until_all(&mut other, "stdout").await), ["stdout > first"]);
    client.send(&json!({"type": "context", "data": {"text": "func f()", "filePath": "/a.go"}})).await;
    command(&mut client, "steer", "second").await;
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "stdout > second") {
        lines.extend(said(&until_all(&mut other, "stdout").await));
    }
    assert_eq!(lines, ["stdout > Context from /a.go:", "stdout > func f()", "stdout > ", "stdout > second"]);
    client.send(&json!({"type": "interrupt"})).await;
    assert_eq!(said(&until_all(&mut other, "stdout").await), ["stdout interrupted"]);
    assert_eq!(server.get("/health").await.json()["agent_running"], true, "it went on");
    let is_there = || proc::all().iter().any(|one| one.pid == child && one.state != 'Z');
    assert!(is_there());
    command(&mut client, "prompt", "bye").await;
    let all = until_all(&mut other, "exit").await;
    assert_eq!(said(&all), ["stdout > bye", "exit "]);
    assert_eq!((&all[1]["data"], other.close_code().await), (&json!({"code": 0}), Some(1000)));
    eventually("its child ends with it", || (!is_there()).then_some(())).await;
    let health = json!({"status": "ok", "agent_running": false, "agent_type": "bash"});
    assert_eq!(server.get("/health").await.json(), health);
    // Later clients are told the same, and nobody is heard any more.
    let mut late = server.connect("/ws?since=0").await;
    assert_eq!(until(&mut late, "exit").await, all[1]);
    let mut late = server.connect("/ws").await;
    command(&mut late, "prompt", "too late").await;
    until(&mut late, "exit").await;
}

/// A signal ends it, whether ours or its own; a program that nobody interrupts in vain is killed with all it has started.
#[tokio::test]
async fn ends_of_a_program_of_lines() {
    let folder = TempDir::new().unwrap();
    let server = Server::spawn(plain(&folder, &["cat"]));
    let mut client = server.connect("/ws?since=0").await;
    command(&mut client, "prompt", "there?").await;
    assert_eq!(until(&mut client, "stdout").await["data"], json!({"text": "there?"}));
    client.send(&json!({"type": "interrupt"})).await;
    let exit = until(&mut client, "exit").await;
    assert_eq!(exit["data"], json!({"code": 130, "error_detail": "cat was ended by signal 2"}));
    // One that is deaf, with a child of another session.
    let script = "trap '' TERM INT; setsid sleep 334 & echo ready; sleep 334; sleep 334";
    let mut server = Server::spawn(plain(&folder, &["sh", "-c", script]));
    let mut client = server.connect("/ws?since=0").await;
    until(&mut client, "stdout").await;
    let tree = || proc::all().iter().any(|one| one.command.starts_with("sleep 334") && one.state != 'Z');
    eventually("its child", || tree().then_some(())).await;
    let began = Instant::now();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(until(&mut client, "exit").await["exit_code"], -1);
    assert!(server.exited().await.success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    eventually("nothing is left", || (!tree()).then_some(())).await;
    // One that is not there.
    let server = Server::spawn(plain(&folder, &["/no/such/program"]));
    let mut client = server.connect("/ws?since=0").await;
    let all = until_all(&mut client, "exit").await;
    let message = "cannot start /no/such/program: program not found";
    assert_eq!(all[0]["data"]["message"], message, "{all:?}");
    assert_eq!(all.last().unwrap()["data"]["error_category"], "startup_crash");
    assert_eq!(all.last().unwrap()["exit_code"], 1);
}

/// It says much and reads nothing, or reads nothing and is told much: neither waits for the other.
#[tokio::test]
async fn much_of_a_program_of_lines() {
    let folder = TempDir::new().unwrap();
    let script = "yes 'a line of thirty-two characters.' | head -n 20000; echo '{\"long\":1}'; head -c 3000000 /dev/zero | tr '\\0' x; exec sleep 1";
    let server = Server::spawn(plain(&folder, &["sh", "-c", script]));
    let mut client = server.connect("/ws?since=0").await;
    for _ in 0..20 {
        command(&mut client, "prompt", &"p".repeat(50_000)).await;
    }
    let all = until_all(&mut client, "exit").await;
    assert_eq!(all.last().unwrap()["data"], json!({"code": 0}), "{:?}", all.last());
    assert_eq!(all.len(), 20_003);
    assert_eq!(all[20_000]["data"]["text"], "{\"long\":1}");
    assert_eq!(all[20_001]["data"]["text"].as_str().unwrap().len(), 3_000_000);
}

/// Hooks work where `WORK_DIR` says, and are told which process the agent is.
#[tokio::test]
async fn hooks_of_a_program_of_lines() {
    let folder = TempDir::new().unwrap();
    let (work, hook) = (folder.path().join("work"), folder.path().join("hook"));
    std::fs::create_dir(&work).unwrap();
    std::fs::write(&hook, "#!/bin/sh\necho \"$PWD $WORK_DIR $SESSION_ID $TASK_ID $AGENT ${AGENT_PID-none}\"\n")
        .unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = plain(&folder, &["sh", "-c", "echo pid $$; pwd"]);
    let config = json!({"lifecycle": {"pre_init": hook, "post_init": hook, "post_run": hook}});
    command.env("AGENT_CONFIG", config.to_string()).env("AGENT_PROMPT", "x");
    command.env("WORK_DIR", &work).env("SESSION_ID", "no uuid").env("TASK_ID", "t3");
    let server = Server::spawn(command);
    let all = until_all(&mut server.connect("/ws?since=0").await, "exit").await;
    let stdout: Vec<String> = said(&all).into_iter().filter(|line| line.starts_with("stdout")).collect();
    let pid = stdout[0].strip_prefix("stdout pid ").unwrap();
    let (here, work) = (folder.path().canonicalize().unwrap(), work.display());
    assert_eq!(stdout[1], format!("stdout {}", here.display()), "the agent works where the sidecar does");
    let of = |name: &str| {
        let source = format!("hook:{name}");
        let line = all.iter().find(|one| one["data"]["source"] == source && one["data"].get("subtype").is_none());
        line.unwrap_or_else(|| panic!("{name}: {all:?}"))["data"]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(of("pre_init"), format!("{work} {work} no uuid t3 sh none"));
    for name in ["post_init", "post_run"] {
        assert_eq!(of(name), format!("{work} {work} no uuid t3 sh {pid}"));
    }
}

/// What silence leads to: for one prompt it is counted, and of a program that waits for its user nobody knows.
#[tokio::test]
async fn silence_of_a_program_of_lines() {
    let folder = TempDir::new().unwrap();
    let config = json!({"stall_warning_timeout": 0.3, "stall_kill_timeout": 1}).to_string();
    let mut command_line = plain(&folder, &["sleep", "60"]);
    command_line.env("AGENT_CONFIG", &config).env("AGENT_PROMPT", "x");
    let server = Server::spawn(command_line);
    let all = until_all(&mut server.connect("/ws?since=0").await, "exit").await;
    let subtypes: Vec<&str> = all.iter().filter_map(|event| event["data"]["subtype"].as_str()).collect();
    assert_eq!(subtypes, ["stall_warning", "stall_kill", "agent_error"], "{all:?}");
    assert_eq!(all.last().unwrap()["data"]["error_category"], "stall");
    let mut command_line = plain(&folder, &["cat"]);
    command_line.env("AGENT_CONFIG", &config);
    let server = Server::spawn(command_line);
    let mut client = server.connect("/ws?since=0").await;
    // The silence is what is tested.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    command(&mut client, "prompt", "still there?").await;
    assert_eq!(said(&until_all(&mut client, "stdout").await), ["stdout still there?"]);
}

/// Real Codex, its model faked: a prompt, and a talk.
#[tokio::test]
async fn codex() {
    let folder = TempDir::new().unwrap();
    let model = Model::start(vec![text("one"), text("two"), text("three")]).await;
    let with = |prompt: &str| {
        let mut command = sidecar(&folder);
        command.env("AGENT_CMD", json!([codex_program(), "exec"]).to_string()).env("AGENT_PROMPT", prompt);
        command.env("OPENAI_API_KEY", "sk-good-0123456789").env("OPENAI_BASE_URL", model.base());
        command.env("AGENT_CONFIG", json!({"model": "test-model", "effort": "low"}).to_string());
        command
    };
    let server = Server::spawn(with("Say one."));
    let mut client = server.connect("/ws?since=0").await;
    let all = until_all(&mut client, "exit").await;
    let result = all.iter().find(|event| event["type"] == "result").unwrap();
    assert_eq!((&result["data"]["status"], &result["data"]["text"]), (&json!("success"), &json!("one")), "{all:?}");
    assert_eq!(all.last().unwrap()["data"], json!({"code": 0}));
    assert_eq!(client.close_code().await, Some(1000));
    let health = server.get("/health").await.json();
    assert_eq!((&health["agent_type"], &health["agent_running"]), (&json!("codex"), &json!(false)));
    assert!(health["session_id"].is_string(), "{health}");
    let call = model.last();
    assert!(call.to_string().contains("Say one.") && call["reasoning"]["effort"] == "low", "{call}");
    assert!(server.log().contains("note: AGENT_CMD: what stands behind codex is not used"), "{}", server.log());
    let mut server = Server::spawn(with(""));
    let mut client = server.connect("/ws?since=0").await;
    for said in ["two", "three"] {
        command(&mut client, "prompt", &format!("Say {said}.")).await;
        assert_eq!(until(&mut client, "result").await["data"]["text"], said);
    }
    assert!(model.last().to_string().contains("Say two."), "one conversation");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(until(&mut client, "exit").await["exit_code"], -1);
    assert!(server.exited().await.success());
}

/// What stands behind Claude's program are its own first arguments.
#[tokio::test]
async fn arguments_of_claude() {
    let folder = TempDir::new().unwrap();
    let (program, noted) = (folder.path().join("my-claude"), folder.path().join("noted"));
    let fake = repository("tests/it/scripts/fake-claude");
    let script = format!("#!/bin/sh\necho \"$*\" >> {}\nshift 2\nexec {} \"$@\"\n", noted.display(), fake.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = sidecar(&folder);
    command.env("AGENT_CMD", json!([program, "--add-dir", "/tmp"]).to_string()).env("AGENT_PROMPT", "two hundred");
    let server = Server::spawn(command);
    let exit = until(&mut server.connect("/ws?since=0").await, "exit").await;
    assert_eq!(exit["exit_code"], 0);
    let noted = std::fs::read_to_string(noted).unwrap();
    assert!(noted.starts_with("--add-dir /tmp -p --output-format stream-json "), "{noted}");
}
