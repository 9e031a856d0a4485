//! The built-in `codex` agent against a program that plays what the real one rarely does.

use crate::support::agents::{Seen, advance, ask, begin, rest};
use crate::support::{Server, eventually, finish, proc, repository, server_command};
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn prepare(command: &mut Command, home: &TempDir) {
    command.env("HOME", home.path()).env("OPENAI_API_KEY", "sk-good-0123456789").current_dir(home.path());
}

fn args<'a>(program: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--agent", "codex", "--codex-program", program], more].concat()
}

fn start(more: &[&str]) -> (Server, TempDir) {
    let home = tempfile::tempdir().unwrap();
    let program = repository("tests/it/scripts/codex_fake.py");
    let server = Server::start_with(&args(program.to_str().unwrap(), more), |command| prepare(command, &home));
    (server, home)
}

async fn seen(prompt: &str) -> Seen {
    let (server, _home) = start(&[]);
    ask(&server, prompt, &json!({})).await
}

#[tokio::test]
async fn what_comes_before_the_reply_counts() {
    let seen = seen("early").await;
    assert_eq!((seen.text(), seen.deltas().as_str()), ("before the reply", "before the reply"));
}

/// Nobody is there to approve, and a question that is not answered would be waited for.
#[tokio::test]
async fn questions_are_answered() {
    assert_eq!(seen("ask").await.text(), r#"["accept", "accept", -32601]"#);
}

#[tokio::test]
async fn noise_ends_nothing() {
    let seen = seen("noise").await;
    assert_eq!(seen.text().len(), 1_000_006);
    assert_eq!(seen.kinds(), ["progress", "text_delta", "text"]);
}

#[tokio::test]
async fn everything_that_began_is_closed_once() {
    let seen = seen("open").await;
    assert_eq!(seen.text(), "done");
    let results: Vec<_> =
        seen.of("tool_result").iter().map(|one| (&one["id"], &one["output"], &one["is_error"])).collect();
    let (ids, outputs) =
        (["c2", "c4", "c1"].map(|id| json!(id)), ["out", "one\ntwo", "not finished"].map(|one| json!(one)));
    let (no, yes) = (json!(false), json!(true));
    assert_eq!(results, [(&ids[0], &outputs[0], &no), (&ids[1], &outputs[1], &no), (&ids[2], &outputs[2], &yes)]);
    let uses: Vec<_> = seen.of("tool_use").iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(uses, ["commandExecution", "commandExecution", "mcp__files__read"]);
    assert_eq!(seen.of("discarded"), [&json!({"type": "discarded", "block": "m0"})]);
    assert_eq!(seen.of("progress")[1]["kind"], "tool_output");
}

#[tokio::test]
async fn a_program_that_does_not_stop_is_killed() {
    let (server, _home) = start(&[]);
    let mut client = server.connect("/").await;
    begin(&mut client, "deaf", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(rest(&mut client).await.error(), "Request cancelled");
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    let fakes = || proc::descendants(server.pid()).into_iter().filter(|one| one.command.contains("codex_fake")).count();
    eventually("it is gone", || (fakes() == 0).then_some(())).await;
    assert_eq!(ask(&server, "hello", &json!({})).await.text(), "you said hello", "there is another one");
}

/// A text that the program did not take any more makes another round.
#[tokio::test]
async fn a_steer_that_comes_too_late() {
    let (server, _home) = start(&[]);
    let mut client = server.connect("/").await;
    begin(&mut client, "late", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "text" {}
    client.send(&json!({"message_type": "input_message", "text": "more"})).await;
    assert_eq!(rest(&mut client).await.text(), "you said more");
}

#[tokio::test]
async fn a_turn_that_the_program_cut() {
    let seen = seen("stop").await;
    assert_eq!((seen.category(), &seen.terminal["metadata"]["by"]), ("cancelled", &json!("agent")));
}

#[tokio::test]
async fn tries_without_end_have_one() {
    let (server, _home) = start(&["--codex-retry-limit", "300ms"]);
    let began = Instant::now();
    let seen = ask(&server, "retry", &json!({})).await;
    assert_eq!(seen.category(), "timeout");
    assert_eq!(seen.error(), "the model was called again and again for 300ms: no network");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(seen.of("progress")[1..].iter().all(|one| one["kind"] == "retry"));
}

#[tokio::test]
async fn a_program_that_ends_in_a_turn() {
    let seen = seen("crash").await;
    let metadata = &seen.terminal["metadata"];
    assert_eq!((seen.category(), seen.error()), ("startup_crash", "codex ended with exit code 7"));
    assert_eq!((&metadata["phase"], &metadata["exit_code"]), (&json!("turn"), &json!(7)));
    assert_eq!((&metadata["retryable"], &metadata["stderr_tail"]), (&json!(true), &json!("the end is near\n")));
}

/// Said once, by the server as it starts.
#[tokio::test]
async fn a_program_that_does_not_start() {
    let home = tempfile::tempdir().unwrap();
    let program = repository("tests/it/scripts/codex_fake.py");
    for (how, timeout, sentence) in [
        ("crash", "20s", "the codex agent could not be started: codex ended with exit code 3: bad configuration"),
        ("silent", "500ms", "the codex agent could not be started: it did not answer within 500ms"),
    ] {
        let more = ["--codex-start-timeout", timeout, "--port", "0"];
        let mut command = server_command(&args(program.to_str().unwrap(), &more));
        prepare(&mut command, &home);
        command.env("FAKE_START", how);
        let ended = finish(command).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(sentence), "{}", ended.stderr);
    }
    // Where the key comes with the request, the request is told.
    let args = args(program.to_str().unwrap(), &[]);
    let server = Server::start_with(&args, |command| {
        prepare(command, &home);
        command.env_remove("OPENAI_API_KEY").env("FAKE_START", "crash");
    });
    let seen = ask(&server, "Hi", &json!({"agent_env": {"OPENAI_API_KEY": "sk-other-0123456789"}})).await;
    assert_eq!((seen.category(), &seen.terminal["metadata"]["phase"]), ("startup_crash", &json!("start")));
    assert_eq!(seen.terminal["metadata"]["stderr_tail"], "bad configuration\n");
}

/// A key has a process of its own; few are kept.
#[tokio::test]
async fn processes_have_a_bound() {
    let (server, _home) = start(&[]);
    for n in 0..8 {
        let key = json!({"agent_env": {"OPENAI_API_KEY": format!("sk-other-{n}-0123456789")}});
        assert_eq!(ask(&server, "hello", &key).await.text(), "you said hello");
    }
    let fakes = || proc::descendants(server.pid()).into_iter().filter(|one| one.command.contains("codex_fake")).count();
    eventually("four are left", || (fakes() == 4).then_some(())).await;
}

/// Both would be told everything, and neither knew whose it is.
#[tokio::test]
async fn a_thread_has_one_turn_at_a_time() {
    let (server, _home) = start(&[]);
    let mut client = server.connect("/").await;
    begin(&mut client, "deaf", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
    let state = json!({"v": 1, "codex_thread_id": "thread-1", "turns": 1});
    let (_, body) = advance(&server, "hello", &state).await;
    assert!(body["text"].as_str().unwrap().contains("another turn runs in the thread of this state"), "{body}");
}
