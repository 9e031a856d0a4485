//! The stream of a session: replay, live, input, and who sees what.

use super::{Reader, create, delete, echo, kinds, log, of, parsed, told};
use crate::support::Server;
use serde_json::{Value, json};
use std::time::Duration;

fn talk() -> Value {
    json!({"agent": "echo", "interactive": true})
}

/// A handler that waits for what is said to it meanwhile.
pub fn listener(folder: &std::path::Path) -> Server {
    let module = folder.join("listen.mjs");
    let source = "export default { async run(invocation, sender) {
        if (invocation.userPrompt !== 'listen') return invocation.prompt;
        sender.sendAssistantMessage(['listening']);
        const heard = await Promise.race([
            new Promise((done) => invocation.onInput(done)),
            new Promise((done) => invocation.signal.addEventListener('abort', () => done('nothing'))),
        ]);
        return `heard ${heard}`;
    } };";
    std::fs::write(&module, source).unwrap();
    Server::start(&["--handler", module.to_str().unwrap()])
}

#[tokio::test]
async fn of_a_session_that_has_ended() {
    let server = echo();
    let id = told(&server, "@delta 3 10").await;
    let whole = log(&server, &id).await;
    for (since, start) in [
        ("?since=0", 0),
        ("?since=200", 200),
        ("", whole.len()),
        ("?since=-1", whole.len()),
        ("?since=x", whole.len()),
        ("?since=99999999", whole.len()),
    ] {
        let mut reader = Reader::open(&server, &id, since).await;
        let mut seen = Vec::new();
        while let Some(frame) = reader.client.next().await {
            seen.push(frame);
        }
        let kinds: Vec<&str> = seen.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
        let expected: &[&str] =
            if start < whole.len() { &["replay", "connected", "exit"] } else { &["connected", "exit"] };
        assert_eq!(kinds, expected, "{since}");
        let connected = &seen[seen.len() - 2];
        assert_eq!(
            connected,
            &json!({"type": "connected", "session_id": id, "mode": "pipe", "status": "completed", "offset": whole.len(), "unanswered": 0})
        );
        assert_eq!(seen.last().unwrap(), &json!({"type": "exit", "exit_code": 0}));
        let mut reader = Reader::open(&server, &id, since).await;
        reader.until("exit").await;
        assert_eq!(reader.text(), &whole[start..], "{since}");
        assert_eq!(reader.client.close_code().await, Some(1000));
    }
}

#[tokio::test]
async fn a_talk() {
    let server = echo();
    let id = create(&server, &talk()).await;
    let mut reader = Reader::open(&server, &id, "").await;
    assert_eq!(reader.until("connected").await["status"], "running");
    for (frame, answer) in [
        (json!({"type": "stdin", "data": "one\n"}), "one"),
        (json!({"type": "prompt", "data": " two "}), "two"),
        (json!({"type": "steer", "data": "three"}), "three"),
    ] {
        reader.send(frame).await;
        let lines = reader.until_line("result").await;
        assert_eq!(kinds(&lines), ["agent_message", "result"]);
        assert_eq!(of(&lines, "agent_message")[0], &json!({"text": answer, "delta": false}));
    }
    // What is said while a turn runs comes in order.
    for n in 0..30 {
        reader.prompt(&format!("@text {n}")).await;
    }
    let mut said = Vec::new();
    while said.len() < 30 {
        let lines = reader.until_line("result").await;
        said.extend(of(&lines, "agent_message").iter().map(|data| data["text"].as_str().unwrap().to_owned()));
    }
    assert_eq!(said, (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
    // Something to know goes in front of the next message, in order.
    for frame in [
        json!({"type": "context", "context": {"text": "func f()", "file_path": "/a.go"}}),
        json!({"type": "context", "data": {"text": "let x", "filePath": "/b.rs"}}),
        json!({"type": "mention", "mention": {"file_path": "/c.go", "line_start": 1, "line_end": 4}}),
        json!({"type": "mention", "data": {"filePath": "/d.go", "lineStart": 7}}),
    ] {
        reader.send(frame).await;
    }
    reader.prompt("look").await;
    let lines = reader.until_line("result").await;
    let expected = "Context from /a.go:\nfunc f()\n\nContext from /b.rs:\nlet x\n\nThe user refers to /c.go, lines 1 to 4.\n\n\
                    The user refers to /d.go, line 7.\n\nlook";
    assert_eq!(of(&lines, "agent_message")[0]["text"], expected);
    // An interrupt ends the turn and not the session.
    reader.prompt("@sleep 60000").await;
    server.busy().await;
    reader.send(json!({"type": "interrupt"})).await;
    assert_eq!(of(&reader.until_line("result").await, "result")[0]["status"], "interrupted");
    reader.send(json!({"type": "interrupt"})).await;
    reader.prompt("still there").await;
    let lines = reader.until_line("result").await;
    assert_eq!(of(&lines, "agent_message")[0]["text"], "still there");
    // A turn that fails does not end it either.
    reader.prompt("@fail no").await;
    let lines = reader.until_line("error").await;
    assert_eq!(of(&lines, "error")[0], &json!({"message": "no", "fatal": false}));
    assert_eq!(delete(&server, &id).await.status, 200);
    assert_eq!(reader.until("exit").await["exit_code"], -1);
    assert_eq!(reader.text(), log(&server, &id).await);
}

#[tokio::test]
async fn frames_that_are_wrong() {
    let server = echo();
    let id = create(&server, &talk()).await;
    let mut reader = Reader::open(&server, &id, "").await;
    let mut other = Reader::open(&server, &id, "").await;
    reader.until("connected").await;
    other.until("connected").await;
    let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(100_000));
    let too_long = format!("unknown frame type: {}…", "x".repeat(280));
    for (frame, error) in [
        (r#"{"type":"bogus"}"#, "unknown frame type: bogus"),
        (&long, &too_long),
        ("{}", "unknown frame type: "),
        ("{", "invalid frame json: "),
        ("[]", "invalid frame json: "),
        ("nonsense", "invalid frame json: "),
        (r#"{"type":"stdin","data":"  \n"}"#, "prompt content is required"),
        (r#"{"type":"prompt"}"#, "prompt content is required"),
        (r#"{"type":"prompt","data":7}"#, "prompt content is required"),
        (r#"{"type":"steer","data":""}"#, "steer content is required"),
    ] {
        reader.client.send_text(frame).await;
        let answer = reader.until("error").await;
        let said = answer["error"].as_str().unwrap();
        assert!(said.starts_with(error) && (error.ends_with(": ") || said == error), "{frame}: {said}");
    }
    for frame in [json!({"type": "resize", "cols": 120, "rows": 40}), json!({"type": "ping"})] {
        reader.send(frame).await;
    }
    assert_eq!(reader.until("pong").await, json!({"type": "pong"}));
    reader.prompt("fine").await;
    reader.until_line("result").await;
    // Nothing of it went to others, or into the log.
    other.until_line("result").await;
    assert_eq!(kinds(&parsed(other.text(), 0)), ["agent_message", "result"]);
    // One prompt is one prompt.
    let id = create(&server, &json!({"agent": "echo", "prompt": "@sleep 60000"})).await;
    let mut reader = Reader::open(&server, &id, "").await;
    for frame in [json!({"type": "stdin", "data": "x"}), json!({"type": "context", "context": {"text": "x"}})] {
        reader.send(frame).await;
        assert_eq!(reader.until("error").await["error"], "session does not accept input");
    }
    reader.send(json!({"type": "interrupt"})).await;
    assert_ne!(reader.until("exit").await["exit_code"], 0);
}

/// A handler that listens gets what is said while it works; one that does not gets it next.
#[tokio::test]
async fn steering() {
    let folder = tempfile::tempdir().unwrap();
    let server = listener(folder.path());
    let id = create(&server, &json!({"agent": "listen.mjs", "interactive": true, "prompt": "listen"})).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    reader.until_line("agent_message").await;
    reader.send(json!({"type": "mention", "mention": {"filePath": "/a.go"}})).await;
    reader.send(json!({"type": "steer", "data": "left"})).await;
    let lines = reader.until_line("result").await;
    assert_eq!(of(&lines, "result")[0]["text"], "heard The user refers to /a.go.\n\nleft");
    let id = create(&server, &json!({"agent": "echo", "interactive": true, "prompt": "@sleep 300"})).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    reader.send(json!({"type": "steer", "data": "later"})).await;
    let mut texts = Vec::new();
    while texts.len() < 2 {
        let lines = reader.until_line("result").await;
        texts.extend(of(&lines, "agent_message").iter().map(|data| data["text"].clone()));
    }
    assert_eq!(texts, ["slept 300 ms", "later"]);
}

/// Whoever leaves, however, is nobody else's business.
#[tokio::test]
async fn leaving() {
    let server = echo();
    let id = create(&server, &talk()).await;
    for round in 0..20 {
        let mut one = Reader::open(&server, &id, "").await;
        let mut two = Reader::open(&server, &id, "").await;
        one.until("connected").await;
        two.until("connected").await;
        if round % 2 == 0 {
            one.client.socket.close(None).await.unwrap();
        }
        drop(one);
        two.prompt(&format!("round {round}")).await;
        let lines = two.until_line("result").await;
        assert_eq!(of(&lines, "agent_message")[0]["text"], format!("round {round}"));
        let mut three = Reader::open(&server, &id, "?since=0").await;
        three.until("connected").await;
        assert!(log(&server, &id).await.starts_with(three.text()) && three.bytes.len() > 100);
        three.send(json!({"type": "ping"})).await;
        assert_eq!(three.until("pong").await["type"], "pong");
    }
}

/// The exit code, for those who were there and for those who come later.
#[tokio::test]
async fn exits() {
    let server = echo();
    let id = create(&server, &json!({"agent": "echo", "prompt": "@sleep 300"})).await;
    let mut early = [Reader::open(&server, &id, "").await, Reader::open(&server, &id, "?since=0").await];
    for reader in &mut early {
        assert_eq!(reader.until("exit").await, json!({"type": "exit", "exit_code": 0}));
        assert_eq!(reader.client.close_code().await, Some(1000));
    }
    let id = told(&server, "@fail no").await;
    let exit = Reader::open(&server, &id, "").await.until("exit").await;
    assert_eq!(exit, json!({"type": "exit", "exit_code": 1, "error_detail": "no"}));
}

/// A slow reader loses nothing, and holds nobody up.
#[tokio::test]
async fn a_reader_that_stops() {
    let server = echo();
    let id = create(&server, &talk()).await;
    let mut slow = Reader::open(&server, &id, "").await;
    slow.until("connected").await;
    let mut quick = Reader::open(&server, &id, "").await;
    quick.until("connected").await;
    quick.prompt("@stream 20000 300").await;
    quick.until_line("result").await;
    // What it has not taken waits in the log. This pause is what is tested.
    tokio::time::sleep(Duration::from_secs(3)).await;
    slow.until_line("result").await;
    let whole = log(&server, &id).await;
    assert!(whole.starts_with(slow.text()) && whole.starts_with(quick.text()));
    let lines = parsed(slow.text(), 0);
    assert_eq!(of(&lines, "agent_message").len(), 20_001, "and the answer");
    assert!(quick.frames < 15_000, "lines are put together: {} frames", quick.frames);
}
