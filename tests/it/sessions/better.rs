//! Where other servers of this protocol lose lines, processes or patience.

use super::{Reader, create, delete, echo, ended, kinds, lines, log, of, parsed, post, told};
use crate::support::{PATIENCE, Server, eventually, eventually_within, proc, read, repository};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// A server whose Claude is the script `fake-claude`.
fn faked(args: &[&str]) -> Server {
    let fake = repository("tests/it/scripts/fake-claude");
    let own = ["--agent", "echo", "--claude-program", fake.to_str().unwrap()];
    Server::start(&[&own, args].concat())
}

#[tokio::test]
async fn long_lines() {
    let server = echo();
    for size in [5_000_000, 16_000_000] {
        let id = create(&server, &json!({"agent": "echo", "prompt": format!("@stream 1 {size}")})).await;
        let mut reader = Reader::open(&server, &id, "?since=0").await;
        assert_eq!(reader.until("exit").await["exit_code"], 0);
        let all = parsed(reader.text(), 0);
        assert!(all.iter().any(|line| line["data"]["text"].as_str().is_some_and(|text| text.len() == size)), "{size}");
        assert!(log(&server, &id).await == reader.text());
    }
}

#[tokio::test]
async fn ordinary_text_ends_nothing() {
    let server = echo();
    for text in ["The author field has an error.", "model not found", "401 unauthorized: authentication_error"] {
        let id = told(&server, &format!("@text {text}")).await;
        let snapshot = ended(&server, &id).await;
        assert_eq!((&snapshot["state"], snapshot.get("error_category")), (&json!("completed"), None));
    }
}

/// It hears neither the interrupt nor SIGTERM, and has a child in a session of its own.
#[tokio::test]
async fn a_deaf_agent() {
    let server = faked(&[]);
    let mark = format!("turnhost-sessions-deaf-{}", std::process::id());
    let id = create(&server, &json!({"agent": "claude", "prompt": "deaf", "env": {"MARK": mark}})).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    reader.until_line("agent_message").await;
    let began = Instant::now();
    assert_eq!(delete(&server, &id).await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    eventually_within(Duration::from_secs(1), "nothing is left", || {
        let left = proc::descendants(server.pid());
        let left = left.iter().any(|one| one.command.contains("fake-claude") || one.command.contains(&mark));
        (!left).then_some(())
    })
    .await;
    assert_eq!(reader.until("exit").await["exit_code"], -1);
}

/// A server that is killed takes its agents with it, and what those have started.
#[tokio::test]
async fn a_killed_server() {
    let server = faked(&[]);
    let mark = format!("turnhost-sessions-killed-{}", std::process::id());
    let id = create(&server, &json!({"agent": "claude", "prompt": "deaf", "env": {"MARK": mark}})).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    reader.until_line("agent_message").await;
    let marked = || proc::all().iter().filter(|one| one.command.contains(&mark)).count();
    eventually("its child", || (marked() > 0).then_some(())).await;
    let agents = proc::descendants(server.pid()).iter().filter(|one| one.command.contains("fake-claude -p")).count();
    assert_eq!(agents, 1, "one session, one process");
    server.signal(nix::sys::signal::Signal::SIGKILL);
    eventually_within(Duration::from_secs(5), "nothing is left", || (marked() == 0).then_some(())).await;
}

/// An agent that ends with its last words: all of them are there. Nothing of it stays.
#[tokio::test]
async fn quick_ends() {
    let server = faked(&[]);
    let sessions = (0..30).map(|_| async {
        let id = create(&server, &json!({"agent": "claude", "prompt": "last words"})).await;
        assert_eq!(ended(&server, &id).await["exit_code"], 0);
        let all = lines(&server, &id).await;
        assert_eq!(of(&all, "result")[0]["text"], "last");
        assert_eq!(all.last().unwrap()["data"], json!({"code": 0}));
    });
    join_all(sessions).await;
    eventually("no zombie, and no process", || {
        let left = proc::descendants(server.pid());
        let left = left.iter().any(|one| one.state == 'Z' || one.command.contains("fake-claude"));
        (!left).then_some(())
    })
    .await;
}

/// What an agent says on standard error is in the log, also the reason of its end.
#[tokio::test]
async fn standard_error() {
    let server = faked(&[]);
    let id = create(&server, &json!({"agent": "claude", "prompt": "die"})).await;
    let snapshot = ended(&server, &id).await;
    assert_eq!((&snapshot["exit_code"], &snapshot["error_category"]), (&json!(7), &Value::Null));
    let all = lines(&server, &id).await;
    let stderr: Vec<_> = of(&all, "system").into_iter().filter(|data| data["subtype"] == "stderr").collect();
    assert_eq!(stderr, [&json!({"subtype": "stderr", "text": "the reason"})], "{all:?}");
}

/// A program that says nothing does not hold up its caller, nor anybody else.
#[tokio::test]
async fn a_program_without_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mute = folder.path().join("codex");
    std::fs::write(&mute, "#!/bin/sh\nexec sleep 300\n").unwrap();
    std::fs::set_permissions(&mute, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = mute.to_str().unwrap();
    let server = Server::start(&["--agent", "echo", "--codex-program", program, "--codex-start-timeout", "5s"]);
    let began = Instant::now();
    let id =
        create(&server, &json!({"agent": "codex", "prompt": "x", "env": {"OPENAI_API_KEY": "sk-0123456789"}})).await;
    assert!(began.elapsed() < Duration::from_secs(3), "the answer comes at once");
    told(&server, "meanwhile").await;
    assert_eq!(ended(&server, &id).await["state"], "failed");
    assert!(began.elapsed() < Duration::from_secs(20));
    let all = lines(&server, &id).await;
    assert!(of(&all, "error")[0]["message"].as_str().unwrap().contains("did not answer within 5s"), "{all:?}");
}

/// Silence counts while a turn runs, and not between turns.
#[tokio::test]
async fn silence() {
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.env("AGENT_CONFIG", r#"{"stall_warning_timeout":0.3,"stall_kill_timeout":1}"#);
    });
    let id = create(&server, &json!({"agent": "echo", "interactive": true, "prompt": "@sleep 600"})).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    let warned = reader.until_line("result").await;
    assert_eq!(warned.iter().filter(|line| line["data"]["subtype"] == "stall_warning").count(), 1, "{warned:?}");
    // Longer than both limits; this pause is what is tested.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    reader.prompt("still there").await;
    assert_eq!(kinds(&reader.until_line("result").await), ["agent_message", "result"]);
    reader.prompt("@sleep 60000").await;
    let exit = reader.until("exit").await;
    assert_eq!(
        (&exit["exit_code"], &exit["error_category"], &exit["retryable"]),
        (&json!(-1), &json!("stall"), &json!(true))
    );
    let all = lines(&server, &id).await;
    assert!(of(&all, "system").iter().any(|data| data["subtype"] == "stall_kill" && data["reason"] == "stall_timeout"));
}

/// The same id at once: one gets it.
#[tokio::test]
async fn one_of_many() {
    let server = Server::start(&["--agent", "echo", "--max-sessions", "3"]);
    let id = "7c4f3c3e-8a63-4fe2-baf3-d72b0b7d6458";
    let body = json!({"agent": "echo", "interactive": true, "session_id": id});
    let statuses: Vec<u16> =
        join_all((0..20).map(|_| post(&server, &body))).await.iter().map(|one| one.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
    let body = json!({"agent": "echo", "interactive": true});
    let statuses: Vec<u16> =
        join_all((0..20).map(|_| post(&server, &body))).await.iter().map(|one| one.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 2, "{statuses:?}");
    assert!(statuses.iter().all(|status| [201, 503].contains(status)), "{statuses:?}");
}

/// A browser can give its token nowhere else.
#[tokio::test]
async fn a_token_as_a_subprotocol() {
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.env("TURNHOST_TOKEN", "sesame-open-now");
    });
    let id = {
        let request = server.request(Method::POST, "/sessions").bearer_auth("sesame-open-now");
        let made = read(request.body(r#"{"agent":"echo","prompt":"x"}"#)).await;
        made.json()["session_id"].as_str().unwrap().to_owned()
    };
    let upgrade = |word: &str| {
        let request = server.request(Method::GET, &format!("/ws/sessions/{id}")).header("connection", "upgrade");
        let request = request.header("upgrade", "websocket").header("sec-websocket-version", "13");
        request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").header("sec-websocket-protocol", word).send()
    };
    let status = async |word: &str| {
        let answer = tokio::time::timeout(PATIENCE, upgrade(word)).await.expect("an answer in time").unwrap();
        let echoed = answer.headers().get("sec-websocket-protocol").map(|word| word.to_str().unwrap().to_owned());
        (answer.status().as_u16(), echoed)
    };
    assert_eq!(status("agentd.auth.sesame-open-now").await, (101, Some("agentd.auth.sesame-open-now".to_owned())));
    assert_eq!(status("agentd.auth.wrong").await.0, 401);
}
