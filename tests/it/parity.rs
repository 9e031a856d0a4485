//! The same turn through every way in: Dari's HTTP, a named RuntimeUse session, `turnhost run --json`.
//!
//! What a handler says is seen whole on two of them, and must be the same there; how the turn ended is seen on all
//! three, and each says it in its own words.

use crate::support::programs::{Finished, Program};
use crate::support::{PATIENCE, Server, WsClient, eventually, repository, server_command};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HANDLER: &str = "tests/it/scripts/turns";

fn handler() -> String {
    repository(HANDLER).display().to_string()
}

fn server(more: &[&str]) -> Server {
    let handler = handler();
    Server::start(&[&["--handler", &handler], more].concat())
}

/// A query that asks for everything there is to see.
async fn query(client: &mut WsClient, prompt: &str) {
    client.query_with(prompt, json!({"extensions": ["events", "notices"]})).await;
}

/// A turn as a RuntimeUse client saw it.
struct Seen {
    events: Vec<Value>,
    /// The peer's own messages, which stand beside the events.
    messages: Vec<Value>,
    terminal: Value,
}

impl Seen {
    fn of(mut frames: Vec<Value>) -> Self {
        let mut terminal = frames.pop().expect("a terminal");
        terminal.as_object_mut().unwrap().remove("seq");
        let (events, messages): (Vec<Value>, Vec<Value>) =
            frames.into_iter().partition(|frame| frame["message_type"] == "event_message");
        Self { events: events.into_iter().map(|frame| frame["event"].clone()).collect(), messages, terminal }
    }
}

async fn runtimeuse(server: &Server, prompt: &str) -> Seen {
    let mut client = server.connect("/?session=parity").await;
    query(&mut client, prompt).await;
    Seen::of(client.until_terminal().await)
}

fn start_run(prompt: &str, more: &[&str]) -> Program {
    let handler = handler();
    Program::start(server_command(&[&["run", "--json", "--handler", &handler, prompt], more].concat()))
}

/// The events and the end that `turnhost run --json` printed.
fn printed(finished: &Finished) -> (Vec<Value>, Value) {
    let lines = finished.stdout.lines();
    let mut lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let ended = lines.pop().unwrap_or_else(|| panic!("nothing was printed: {finished}"));
    assert_eq!(ended["type"], "ended", "{finished}");
    (lines, ended)
}

async fn run(prompt: &str, more: &[&str]) -> (Vec<Value>, Value, Option<i32>) {
    let finished = start_run(prompt, more).end(PATIENCE).await;
    let (events, ended) = printed(&finished);
    (events, ended, finished.code)
}

/// The state that the session has after a turn, as its next turn is given it.
async fn state_after(server: &Server) -> Value {
    let seen = runtimeuse(server, "state").await;
    serde_json::from_str(seen.terminal["data"]["text"].as_str().expect("an answer")).unwrap()
}

#[tokio::test]
async fn a_turn_that_says_everything() {
    let server = server(&[]);
    let expected = json!([
        {"type": "text", "parts": ["Let me look."]},
        {"type": "thinking", "text": "There may be a file."},
        {"type": "tool_use", "id": "call-1", "name": "shell", "input": {"command": "ls", "timeout": null}},
        {"type": "tool_result", "id": "call-1", "output": "report.txt\n", "is_error": false, "exit_code": 0},
        {"type": "tool_use", "id": "call-2", "name": "nothing", "input": {}},
        {"type": "tool_result", "id": "call-2", "output": "no such tool", "is_error": true},
        {"type": "progress", "kind": "retry", "detail": {"attempt": 2}},
        {"type": "progress", "kind": "progress"},
        {"type": "text_delta", "block": "b1", "text": "Ther"},
        {"type": "discarded", "block": "b1"},
        {"type": "text_delta", "block": "b1", "text": "There is "},
        {"type": "text_delta", "block": "b1", "text": "a report. 📄"},
        {"type": "text", "block": "b1", "parts": ["There is ", "a report. 📄"]},
        {"type": "usage", "input_tokens": 10, "output_tokens": 5, "cached_tokens": 3, "reasoning_tokens": 1,
         "cost_usd": 0.25},
        {"type": "warning", "text": "the model was slow", "field": "model"},
    ]);

    let seen = runtimeuse(&server, "everything").await;
    assert_eq!(json!(seen.events), expected);
    let result = json!({"message_type": "result_message", "metadata": {"steps": 2},
                        "data": {"type": "text", "text": "A report."}});
    assert_eq!(seen.terminal, result);
    // Beside the events, what the peer has a message for, in the same order.
    let messages: Vec<(&str, &Value)> = seen.messages.iter().map(message).collect();
    let two = json!(["There is ", "a report. 📄"]);
    assert_eq!(
        messages,
        [
            ("assistant_message", &json!(["Let me look."])),
            ("assistant_message", &two),
            ("notice_message", &json!("the model was slow"))
        ]
    );

    let (events, ended, code) = run("everything", &[]).await;
    assert_eq!(json!(events), expected);
    assert_eq!((&ended["outcome"], &ended["text"], code), (&json!("answered"), &json!("A report."), Some(0)));
    assert_eq!(ended["metadata"], json!({"steps": 2}));

    // On Dari only the end is seen: no metadata, and the state to the byte.
    let answer = server.advance(&json!({"input": "everything", "state": null})).await;
    let state = r#"{"z":1.0e3,"a":[12345678901234567890123,"\u00e4"]}"#;
    assert_eq!((answer.status, answer.body), (200, format!(r#"{{"text":"A report.","state":{state}}}"#)));
    assert_eq!(ended["state"], serde_json::from_str::<Value>(state).unwrap());
    assert_eq!(state_after(&server).await, ended["state"]);
}

fn message(frame: &Value) -> (&str, &Value) {
    let kind = frame["message_type"].as_str().unwrap();
    (kind, frame.get("text_blocks").or_else(|| frame.get("text")).unwrap_or(&Value::Null))
}

/// To the byte too where JSON is passed on and not read: numbers beyond 64 bits, exponents, order.
#[tokio::test]
async fn a_state_is_printed_as_it_was_given() {
    let finished = start_run("everything", &[]).end(PATIENCE).await;
    let state = r#""state":{"z":1.0e3,"a":[12345678901234567890123,"\u00e4"]}"#;
    assert!(finished.stdout.trim_end().lines().last().unwrap().contains(state), "{finished}");
}

#[tokio::test]
async fn a_structured_turn() {
    let server = server(&[]);
    let output = json!({"count": 3, "names": ["ä", null]});

    let seen = runtimeuse(&server, "structured").await;
    let data = json!({"type": "structured_output", "structured_output": output});
    assert_eq!(seen.terminal, json!({"message_type": "result_message", "metadata": {}, "data": data}));

    let (events, ended, code) = run("structured", &[]).await;
    assert_eq!(events, seen.events);
    assert_eq!(ended, json!({"type": "ended", "outcome": "answered", "structured_output": output, "state": null}));
    assert_eq!(code, Some(0));

    let answer = server.advance(&json!({"input": "structured", "state": {"old": 1}})).await.json();
    let text: Value = serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
    assert_eq!((text, answer.get("state")), (output, Some(&Value::Null)));
    assert_eq!(state_after(&server).await, Value::Null);
}

#[tokio::test]
async fn a_turn_that_fails() {
    let server = server(&[]);
    let (error, state) = ("the quota is spent", json!({"tried": true}));

    let seen = runtimeuse(&server, "fail").await;
    let metadata = json!({"error_name": "QuotaError", "limit": 5});
    assert_eq!(seen.terminal, json!({"message_type": "error_message", "error": error, "metadata": &metadata}));

    let (events, ended, code) = run("fail", &[]).await;
    assert_eq!(events, seen.events);
    assert_eq!((&ended["outcome"], &ended["error"], &ended["state"]), (&json!("failed"), &json!(error), &state));
    assert_eq!((&ended["metadata"], code), (&metadata, Some(3)));

    let answer = server.advance(&json!({"input": "fail", "state": null})).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"text": error, "state": state})));
    assert_eq!(state_after(&server).await, state);
}

#[tokio::test]
async fn a_turn_that_takes_too_long() {
    // Within it a process must be started and speak, on a busy machine too.
    let limit = ["--turn-timeout", "5s"];
    let server = server(&limit);
    let body = json!({"input": "slow", "state": null});
    let ways = async { tokio::join!(runtimeuse(&server, "slow"), run("slow", &limit), server.advance(&body)) };
    let (seen, (events, ended, code), answer) = ways.await;

    assert_eq!(seen.terminal["error"], "Request timed out after 5000 ms");
    let said = json!([{"type": "text", "parts": ["One moment."]},
                      {"type": "text_delta", "block": "b1", "text": "Half an"}]);
    assert_eq!((json!(events), json!(seen.events)), (said.clone(), said));
    assert_eq!(ended, json!({"type": "ended", "outcome": "timed_out", "after_ms": 5000}));
    assert_eq!(code, Some(3));
    // Nobody sees Dari's turns while they run: what was said stands in the answer.
    let text = "One moment.\nHalf an\n\nThe turn was cut: it took longer than 5 s.";
    assert_eq!((answer.status, answer.json()), (200, json!({"text": text})));

    // The handlers were stopped; the next turn has another.
    let answer = server.advance(&json!({"input": "structured", "state": null})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Dari's callers cannot cancel: there are two ways only.
#[tokio::test]
async fn a_turn_that_is_cancelled() {
    let server = server(&[]);
    let mut client = server.connect("/?session=parity").await;
    query(&mut client, "slow").await;
    let mut frames = Vec::new();
    while !frames.iter().any(|frame: &Value| frame["event"]["type"] == "text_delta") {
        frames.push(client.next().await.expect("the turn says something"));
    }
    client.send(&json!({"message_type": "cancel_message"})).await;
    frames.extend(client.until_terminal().await);
    let seen = Seen::of(frames);
    assert_eq!(seen.terminal, json!({"message_type": "error_message", "error": "Request cancelled", "metadata": {}}));

    let running = start_run("slow", &[]);
    eventually("the turn's first words", || running.said().contains("Half an").then_some(())).await;
    running.signal(Signal::SIGINT);
    let finished = running.end(PATIENCE).await;
    let (events, ended) = printed(&finished);
    assert_eq!(events, seen.events);
    assert_eq!(ended, json!({"type": "ended", "outcome": "cancelled"}));
    assert_eq!(finished.code, Some(130));

    // Neither the client's connection nor its session suffered.
    query(&mut client, "state").await;
    assert_eq!(client.terminal().await["data"]["text"], "null");
}
