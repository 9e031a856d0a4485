//! `turnhost chat`: a talk with an agent, typed and piped in, here and at a server.

mod terminal;

use crate::support::{Finished, PATIENCE, Server, repository, server_command};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;

/// Runs `turnhost ARGS` with this input.
pub async fn fed(args: &[&str], input: &str) -> Finished {
    let mut command = tokio::process::Command::from(server_command(args));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    tokio::spawn(async move {
        // A program that has seen enough does not read the rest.
        let _ = stdin.write_all(input.as_bytes()).await;
    });
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("an end in time").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[tokio::test]
async fn lines_that_are_piped_in_are_turns() {
    let lines =
        "one\n\n/state\r\ntwo\n/state\n/reset\n/state\n/help\n/nonsense x\n//quit\n@state {\"mine\":[1]}\n/state\nlast";
    let end = fed(&["chat", "--agent", "echo"], lines).await;
    assert_eq!((end.code, &*end.stdout), (Some(0), "one\ntwo\n/quit\nstate set\nlast\n"), "{}", end.stderr);
    let stderr: String = end.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    let in_order = [
        r#"{ "turn": 1, "v": 1 }"#,
        r#"{ "turn": 2, "v": 1 }"#,
        "forgotten: the next turn is a first one",
        "no state",
        "/reset forget it",
        "no such command: /nonsense; /help lists them",
        r#"{ "mine": [ 1 ] }"#,
    ];
    let mut rest = &*stderr;
    for part in in_order {
        let at = rest.find(part).unwrap_or_else(|| panic!("no {part} in {rest}"));
        rest = &rest[at + part.len()..];
    }
    assert!(!stderr.contains("> ") && !stderr.contains('\x1b'), "no prompt and no colour for a pipe: {stderr}");
}

#[tokio::test]
async fn a_turn_that_fails_is_told_by_the_exit_code_and_the_others_run() {
    let end = fed(&["chat", "--agent", "echo"], "one\n@fail no luck\ntwo\n").await;
    assert_eq!((end.code, &*end.stdout, &*end.stderr), (Some(3), "one\ntwo\n", "Failed: no luck\n"));
    let end = fed(&["chat", "--agent", "echo"], "one\n/quit\ntwo\n").await;
    assert_eq!((end.code, &*end.stdout), (Some(0), "one\n"), "{}", end.stderr);
}

#[tokio::test]
async fn a_handler_of_ones_own_keeps_its_state() {
    for file in ["handlers/echo.sh", "handlers/echo.py", "handlers/echo.mjs"] {
        let handler = repository(file);
        let end = fed(&["chat", "--handler", handler.to_str().unwrap()], "a\nb\n/state\n").await;
        assert_eq!((end.code, &*end.stdout), (Some(0), "You said: a\na\nYou said: b\nb\n"), "{file}: {}", end.stderr);
        assert!(end.stderr.contains("\"turns\": 2"), "{file}: {}", end.stderr);
    }
}

#[tokio::test]
async fn events_as_json() {
    let end = fed(&["chat", "--agent", "echo", "--json"], "@delta 2\n").await;
    let lines: Vec<serde_json::Value> =
        end.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let kinds: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["text_delta", "text_delta", "text", "ended"], "{}", end.stderr);
}

#[tokio::test]
async fn what_cannot_start_is_said_in_a_sentence() {
    for (args, sentence) in [
        (&["chat", "--handler", "/no/such.py"][..], "handler not found: /no/such.py"),
        (&["chat", "--url", "http://127.0.0.1:1"], "--url http://127.0.0.1:1: expected ws://HOST:PORT"),
        (
            &["chat", "--url", "wss://h"],
            "--url wss://h: TLS is not spoken here: give the ws:// address behind the proxy",
        ),
    ] {
        let end = fed(args, "x\n").await;
        assert_eq!((end.code, end.stderr, &*end.stdout), (Some(1), format!("Error: {sentence}\n"), ""), "{args:?}");
    }
    let end = fed(&["chat", "--agent", "echo", "--url", "ws://127.0.0.1:1"], "x\n").await;
    assert_eq!(end.code, Some(1));
    assert!(end.stderr.starts_with("Error: ws://127.0.0.1:1/: "), "{}", end.stderr);
}

#[tokio::test]
async fn a_server_is_talked_to_as_a_client_of_its_own() {
    let server = Server::start(&["--agent", "echo"]);
    let url = format!("ws://127.0.0.1:{}/?session=s7", server.port);
    let end =
        fed(&["chat", "--url", &url], "one\n@stream 2\n@delta 2\n@json {\"a\":1}\n@fail no\n@warn odd then fine\n")
            .await;
    let said = "one\nmessage 1\nmessage 2\nstreamed 2\ndelta 1delta 2\n{\"a\":1}\nfine\n";
    assert_eq!((end.code, &*end.stdout), (Some(3), said), "every text once: {}", end.stderr);
    assert!(end.stderr.contains("Failed: no\n") && end.stderr.contains("warning: odd"), "{}", end.stderr);
    // The state is the server's, by the session's name.
    let end = fed(&["chat", "--url", &url], "@show\n/state\n/reset\n@show\n").await;
    let shown: Vec<serde_json::Value> =
        end.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(shown[0]["session_id"], "s7");
    assert!(shown[0]["state"]["turn"].as_u64().unwrap() >= 4, "{shown:?}");
    assert_ne!(shown[1]["session_id"], "s7");
    assert_eq!(shown[1]["state"], serde_json::Value::Null);
    assert!(end.stderr.contains("the server keeps the state of session s7"), "{}", end.stderr);
}

#[tokio::test]
async fn a_server_may_want_a_token() {
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.env("TURNHOST_TOKEN", "right-one");
    });
    let url = format!("ws://127.0.0.1:{}", server.port);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "right-one\n").unwrap();
    let end = fed(&["chat", "--url", &url, "--token-file", file.to_str().unwrap()], "hello\n").await;
    assert_eq!((end.code, &*end.stdout), (Some(0), "hello\n"), "{}", end.stderr);
    let end = fed(&["chat", "--url", &url], "hello\n").await;
    let sentence = "Error: the server answered 401 to the WebSocket upgrade\n";
    assert_eq!((end.code, &*end.stderr, &*end.stdout), (Some(1), sentence, ""));
}
