//! The built-in `claude` agent against a program that misbehaves: the script `fake-claude` does what the prompt says.

use crate::support::agents::{Seen, advance, ask, begin, rest, turn};
use crate::support::{Server, eventually, proc, repository};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn server_with(env: &[(&str, &str)], args: &[&str]) -> Server {
    let program = repository("tests/it/scripts/fake-claude");
    let own = ["--agent", "claude", "--claude-program", program.to_str().unwrap()];
    Server::start_with(&[&own, args].concat(), |command| {
        command.envs(env.iter().copied()).env("ANTHROPIC_API_KEY", "sk-ant-good-0123456789");
    })
}

fn server() -> Server {
    server_with(&[], &[])
}

async fn said(server: &Server, prompt: &str) -> Seen {
    ask(server, prompt, &json!({})).await
}

#[tokio::test]
async fn whatever_it_prints() {
    let server = server();
    let seen = said(&server, "split").await;
    assert_eq!(seen.text(), "split");
    assert_eq!(seen.messages[0][0].as_str().unwrap().len(), "grüße ".len() * 300_000);
    assert_eq!(said(&server, "garbage").await.text(), "fine");
    assert_eq!(said(&server, "flood").await.text(), "flooded");
    assert_eq!(said(&server, "last words").await.text(), "last", "a last line without its end is a line");
    assert_eq!(said(&server, "plain").await.text(), "plain");
}

#[tokio::test]
async fn one_end_however_many_it_tells() {
    let server = server();
    let mut client = server.connect("/?session=s").await;
    assert_eq!(turn(&mut client, "twice", &json!({})).await.text(), "first");
    assert_eq!(turn(&mut client, "plain", &json!({})).await.text(), "plain", "the second end is nobody's");
    let seen = turn(&mut client, "background", &json!({})).await;
    assert_eq!(seen.text(), "yours");
    assert!(seen.of("progress").iter().any(|event| event["kind"] == "background"), "{:?}", seen.events);
    let seen = turn(&mut client, "open tool", &json!({})).await;
    assert_eq!((seen.text(), &seen.of("tool_result")[0]["output"]), ("done", &json!("not finished")));
}

#[tokio::test]
async fn it_dies() {
    let server = server();
    let seen = said(&server, "die").await;
    let metadata = &seen.terminal["metadata"];
    assert_eq!((seen.error(), seen.category()), ("the Claude CLI ended with exit code 7", "startup_crash"));
    assert_eq!((&metadata["phase"], &metadata["retryable"]), (&json!("turn"), &json!(true)));
    assert!(metadata["stderr_tail"].as_str().unwrap().contains("the reason"), "{metadata}");
    assert_eq!(said(&server, "plain").await.text(), "plain");

    let server = server_with(&[("FAKE_CLAUDE_DIES", "1")], &[]);
    let began = Instant::now();
    let seen = said(&server, "plain").await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!((seen.category(), &seen.terminal["metadata"]["phase"]), ("startup_crash", &json!("start")));
    assert_eq!(seen.terminal["metadata"]["retryable"], false);
}

/// It hears neither the interrupt nor SIGTERM, and has a child in a session of its own.
#[tokio::test]
async fn it_does_not_stop() {
    let mark = format!("turnhost-deaf-{}", std::process::id());
    let server = server_with(&[("MARK", &mark)], &["--claude-no-spare"]);
    for prompt in ["deaf", "mute"] {
        let mut client = server.connect("/").await;
        begin(&mut client, prompt, &json!({})).await;
        while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
        let began = Instant::now();
        client.send(&json!({"message_type": "cancel_message"})).await;
        assert_eq!(rest(&mut client).await.error(), "Request cancelled");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        eventually("nothing is left", || {
            let below = proc::descendants(server.pid());
            let left =
                below.iter().any(|process| process.command.contains("fake-claude") || process.command.contains(&mark));
            (!left).then_some(())
        })
        .await;
        assert_eq!(turn(&mut client, "plain", &json!({})).await.text(), "plain");
    }
}

#[tokio::test]
async fn it_asks_what_nobody_can_answer() {
    let seen = said(&server(), "ask").await;
    assert_eq!(seen.text(), "r-can_use_tool error r-news error");
}

#[tokio::test]
async fn it_takes_back_what_it_said() {
    let seen = said(&server(), "restart").await;
    assert_eq!(seen.text(), "Whole.");
    let discarded: Vec<_> = seen.of("discarded").iter().map(|event| event["block"].clone()).collect();
    assert_eq!(discarded, ["m1/0", "m2/0"]);
    assert_eq!(seen.of("text"), [&json!({"type": "text", "parts": ["Whole."]})]);
}

#[tokio::test]
async fn ends_that_look_good() {
    let server = server();
    let seen = said(&server, "cut").await;
    assert_eq!((seen.category(), &seen.terminal["metadata"]["by"]), ("cancelled", &json!("agent")));
    let began = Instant::now();
    assert_eq!(said(&server, "bad key").await.category(), "auth_error");
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(said(&server, "long").await.text(), "One, two.", "an answer in two pieces");
    let schema = json!({"output_format_json_schema_str": r#"{"type":"json_schema","schema":{"type":"object"}}"#});
    let seen = ask(&server, "plain", &schema).await;
    assert_eq!(seen.category(), "structured_output_missing");
}

/// A version that names no messages in its results, and counts its cost over all turns.
#[tokio::test]
async fn an_older_version() {
    let server = server_with(&[("FAKE_CLAUDE_OLD", "1")], &[]);
    let (_, first) = advance(&server, "one", &Value::Null).await;
    assert_eq!((&first["text"], &first["state"]["cli"]), (&json!("one"), &json!("2.1.197")));
    let mut client = server.connect("/?session=old").await;
    for prompt in ["one", "two", "three"] {
        let seen = turn(&mut client, prompt, &json!({})).await;
        assert_eq!((seen.text(), &seen.terminal["metadata"]["total_cost_usd"]), (prompt, &json!(0.25)));
    }
}

/// As many processes as were allowed; the one that was idle longest gives its place.
#[tokio::test]
async fn places() {
    let server = server_with(&[], &["--claude-processes", "2", "--claude-no-spare"]);
    let processes = || {
        let below = proc::descendants(server.pid());
        below.iter().filter(|process| process.command.contains("fake-claude -p")).count()
    };
    for session in ["a", "b", "c", "d", "a"] {
        let mut client = server.connect(&format!("/?session={session}")).await;
        assert_eq!(turn(&mut client, "plain", &json!({})).await.text(), "plain");
    }
    eventually("two are kept", || (processes() == 2).then_some(())).await;
    let mut busy = Vec::new();
    for session in ["x", "y"] {
        let mut client = server.connect(&format!("/?session={session}")).await;
        begin(&mut client, "mute", &json!({})).await;
        while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
        busy.push(client);
    }
    // A third one waits until one of them has ended.
    let mut third = server.connect("/?session=z").await;
    begin(&mut third, "plain", &json!({})).await;
    busy[0].send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(rest(&mut busy[0]).await.error(), "Request cancelled");
    assert_eq!(rest(&mut third).await.text(), "plain");
    busy[1].send(&json!({"message_type": "cancel_message"})).await;
    rest(&mut busy[1]).await;
}
