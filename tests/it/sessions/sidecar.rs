//! `/ws`, where one agent is driven: events one by one, commands, and what is wrong with them.

use super::parsed;
use crate::support::{Server, WsClient, read};
use reqwest::Method;
use serde_json::{Value, json};

async fn until(client: &mut WsClient, kind: &str) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let event = client.next().await.unwrap_or_else(|| panic!("the connection ended before {kind}: {seen:?}"));
        let is_it = event["type"] == kind;
        if event["data"]["subtype"] != "heartbeat" {
            seen.push(event);
        }
        if is_it {
            return seen;
        }
    }
}

async fn say(client: &mut WsClient, text: &str) {
    client.send(&json!({"type": "prompt", "data": {"content": text}})).await;
}

#[tokio::test]
async fn a_talk() {
    let server = Server::start(&["--agent", "echo"]);
    assert_eq!(server.get("/sessions").await.body, "[]", "nothing begins before somebody is there");
    let mut one = server.connect("/ws").await;
    let mut two = server.connect("/ws?since=0").await;
    say(&mut one, " first ").await;
    let seen = until(&mut one, "result").await;
    assert_eq!(
        (&seen[0]["type"], &seen[0]["data"]),
        (&json!("agent_message"), &json!({"text": "first", "delta": false}))
    );
    assert!(seen[0]["offset"].is_u64() && seen[0]["timestamp"].is_u64());
    assert_eq!(until(&mut two, "result").await, seen, "every client gets every event");
    for command in [
        json!({"type": "context", "data": {"text": "func f()", "filePath": "/a.go"}}),
        json!({"type": "mention", "data": {"file_path": "/b.md", "line_start": 1, "line_end": 40}}),
        json!({"type": "steer", "data": {"content": "second"}}),
    ] {
        two.send(&command).await;
    }
    let seen = until(&mut one, "result").await;
    let expected = "Context from /a.go:\nfunc f()\n\nThe user refers to /b.md, lines 1 to 40.\n\nsecond";
    assert_eq!(seen[0]["data"]["text"], expected);
    say(&mut two, "@sleep 60000").await;
    server.busy().await;
    two.send(&json!({"type": "interrupt"})).await;
    assert_eq!(until(&mut one, "result").await[0]["data"]["status"], "interrupted");
    for _ in 0..2 {
        until(&mut two, "result").await;
    }
    // What is wrong is told to its sender alone.
    for (text, message) in [
        (r#"{"type":"x"}"#, "unknown command type: x"),
        ("{", "invalid command json: "),
        ("[1]", "invalid command json: "),
        (r#"{"type":"prompt"}"#, "prompt content is required"),
        (r#"{"type":"prompt","data":{"content":"  "}}"#, "prompt content is required"),
        (r#"{"type":"steer","data":"text"}"#, "steer content is required"),
    ] {
        one.send_text(text).await;
        let error = &until(&mut one, "error").await[0];
        assert!(error["data"]["message"].as_str().unwrap().starts_with(message), "{text}: {error}");
        assert_eq!(
            (&error["data"]["code"], &error["offset"], &error["timestamp"]),
            (&json!(400), &json!(0), &json!(0))
        );
    }
    say(&mut one, "last").await;
    let seen = until(&mut two, "result").await;
    assert_eq!(seen[0]["data"]["text"], "last");
    // From the start, from within a line, and live alone.
    let whole = {
        let mut again = server.connect("/ws?since=0").await;
        let mut all = Vec::new();
        while all.iter().filter(|event: &&Value| event["type"] == "result").count() < 4 {
            all.extend(until(&mut again, "result").await);
        }
        all
    };
    assert!(whole.len() >= 7, "{whole:?}");
    let mut within = server.connect("/ws?since=5").await;
    assert_eq!(until(&mut within, "result").await[0], whole[1]);
    let border = whole[0]["offset"].as_u64().unwrap();
    let mut behind = server.connect(&format!("/ws?since={border}")).await;
    assert_eq!(until(&mut behind, "result").await[0], whole[1]);
    let id = server.get("/sessions").await.json()[0]["session_id"].as_str().unwrap().to_owned();
    parsed(&super::log(&server, &id).await, 0);
    for since in ["-1", "x", "1.5"] {
        let answer = read(server.request(Method::GET, &format!("/ws?since={since}"))).await;
        assert_eq!((answer.status, answer.body.as_str()), (400, "invalid since"));
    }
}

#[tokio::test]
async fn one_prompt() {
    let with = |prompt: &'static str, config: &'static str| {
        Server::start_with(&["--agent", "echo"], move |command| {
            command.env("AGENT_PROMPT", prompt).env("AGENT_CONFIG", config).env("TASK_ID", "t9");
        })
    };
    // "@text hello" in base64, and a text that is none.
    for (prompt, text) in [("QHRleHQgaGVsbG8=", "hello"), ("plain words!", "plain words!")] {
        let server = with(prompt, r#"{"model":"m","unknown":1}"#);
        let mut client = server.connect("/ws?since=0").await;
        let seen = until(&mut client, "exit").await;
        assert_eq!(seen[0]["data"]["text"], text);
        assert_eq!(
            (&seen.last().unwrap()["data"], &seen.last().unwrap()["exit_code"]),
            (&json!({"code": 0}), &json!(0))
        );
        assert_eq!(client.close_code().await, Some(1000));
        // Later clients are told the same.
        let mut later = server.connect("/ws").await;
        assert_eq!(until(&mut later, "exit").await, seen);
        assert_eq!(server.get("/sessions").await.json()[0]["task_id"], "t9");
    }
    let server = with("@sleep 60000", "");
    let mut client = server.connect("/ws").await;
    client.send(&json!({"type": "context", "data": {"text": "x"}})).await;
    assert_eq!(until(&mut client, "error").await[0]["data"]["message"], "context needs an interactive session");
    // One that cannot start: an error and an end.
    let server = with("x", r#"{"resume_session":"","lifecycle":{"pre_init":"/bin/false"}}"#);
    for _ in 0..2 {
        let mut client = server.connect("/ws?since=0").await;
        let seen = until(&mut client, "exit").await;
        assert!(seen.iter().any(|event| event["type"] == "error"), "{seen:?}");
        assert_eq!(seen.last().unwrap()["exit_code"], 1);
    }
    let ended = crate::support::finish({
        let mut command = crate::support::server_command(&["--agent", "echo", "--port", "0"]);
        command.env("AGENT_CONFIG", "{");
        command
    })
    .await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.starts_with("Error: AGENT_CONFIG: "), "{}", ended.stderr);
}
