//! Our own view of every session: events, turns, and what can be done to a turn whichever protocol it came by.

use crate::support::{HttpAnswer, PATIENCE, Server, read};
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

fn echo() -> Server {
    Server::start(&["--agent", "echo"])
}

async fn post(server: &Server, path: &str, body: &Value) -> HttpAnswer {
    read(server.request(Method::POST, path).body(body.to_string())).await
}

/// All events of a session, page by page.
async fn events(server: &Server, session: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page = server.get(&format!("/v1/sessions/{session}/events?after={after}")).await.json();
        all.extend(page["events"].as_array().unwrap().iter().cloned());
        after = all.last().map_or(0, |event: &Value| event["seq"].as_u64().unwrap());
        if page["more"] == false {
            return all;
        }
    }
}

#[tokio::test]
async fn a_turn_and_its_outcome() {
    let server = echo();
    let answer = post(&server, "/v1/sessions/s/turns?wait=20", &json!({"prompt": "@delta 2 5"})).await;
    let told = answer.json();
    assert_eq!((answer.status, &told["status"], &told["outcome"]), (200, &json!("ended"), &json!("answered")));
    assert_eq!((&told["session"], &told["state"]), (&json!("s"), &json!({"v": 1, "turn": 1})));
    let seen = events(&server, "s").await;
    let kinds: Vec<&str> = seen.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["accepted", "event", "event", "event", "ended"]);
    assert_eq!(
        (&seen[0]["prompt"], &seen[0]["protocol"], &seen[0]["attempt"]),
        (&json!("@delta 2 5"), &json!("v1"), &json!(1))
    );
    assert_eq!((&seen[4]["outcome"], &seen[4]["text"]), (&json!("answered"), &told["text"]));
    assert!(seen.iter().all(|event| event["turn"] == told["turn"]), "{seen:?}");
    let numbers: Vec<u64> = seen.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);

    let again = server.get(&format!("/v1/turns/{}", told["turn"].as_str().unwrap())).await;
    assert_eq!(again.json(), told, "a turn is remembered by its id");
    // The state of the session goes on; null begins anew.
    let second = post(&server, "/v1/sessions/s/turns?wait=20", &json!({"prompt": "two"})).await.json();
    assert_eq!(second["state"]["turn"], 2);
    let third = post(&server, "/v1/sessions/s/turns?wait=20", &json!({"prompt": "three", "state": null})).await.json();
    assert_eq!(third["state"]["turn"], 1);
}

#[tokio::test]
async fn keys() {
    let server = echo();
    let with_key = async |key: &str, body: &Value| {
        let request = server.request(Method::POST, "/v1/sessions/s/turns?wait=20").header("idempotency-key", key);
        read(request.body(body.to_string())).await
    };
    let first = with_key("k1", &json!({"prompt": "one"})).await;
    assert_eq!(with_key("k1", &json!({ "prompt" : "one" })).await.body, first.body);
    let refused = with_key("k1", &json!({"prompt": "other"})).await;
    assert_eq!(refused.status, 409);
    assert_eq!(refused.json()["error"], "the key was used before with a different request");
    let turn = first.json()["turn"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&format!("/v1/turns/{turn}")).await.json(), first.json());
    assert_eq!(events(&server, "s").await.len(), 2, "it ran once");
}

/// Reads a stream of events until `enough` says so.
async fn watch(server: &Server, path: &str, last: Option<u64>, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut request = server.request(Method::GET, path).header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last.to_string());
    }
    let answer = request.send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()),
        (200, "text/event-stream")
    );
    let mut chunks = answer.bytes_stream();
    let (mut text, mut seen) = (String::new(), Vec::new());
    while !enough(&seen) {
        let chunk = tokio::time::timeout(PATIENCE, chunks.next()).await.expect("an event in time");
        text.push_str(std::str::from_utf8(&chunk.expect("more").unwrap()).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let id = event.lines().find_map(|line| line.strip_prefix("id: "));
            if let (Some(data), Some(id)) = (data, id) {
                let data: Value = serde_json::from_str(data).unwrap();
                assert_eq!(data["seq"].to_string(), id);
                seen.push(data);
            }
            text = rest.to_owned();
        }
    }
    seen
}

fn has_ended(seen: &[Value]) -> bool {
    seen.last().is_some_and(|event| event["type"] == "ended")
}

/// A turn that a Dari host began is watched by two, steered, and cancelled here; its caller gets the one outcome.
#[tokio::test]
async fn a_turn_of_another_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("listen.mjs");
    let source = "export default { async run(invocation, sender) {
        sender.sendAssistantMessage(['listening']);
        const heard = await new Promise((done) => invocation.onInput(done));
        sender.sendAssistantMessage([`heard ${heard}`]);
        await new Promise((done) => invocation.signal.addEventListener('abort', done));
        return 'too late';
    } };";
    std::fs::write(&module, source).unwrap();
    let server = Server::start(&["--handler", module.to_str().unwrap()]);
    let body = json!({"input": "go", "session_id": "d", "state": null});
    let caller = server.advance(&body);
    let watcher = async {
        server.busy().await;
        let path = "/v1/sessions/dari:d/events";
        let first = watch(&server, path, None, |seen| seen.iter().any(|event| event["event"]["type"] == "text")).await;
        let turn = first[0]["turn"].as_str().unwrap().to_owned();
        let steered = post(&server, &format!("/v1/turns/{turn}/input"), &json!({"text": "more"})).await;
        assert_eq!((steered.status, &steered.json()["status"]), (202, &json!("running")));
        let last = first.last().unwrap()["seq"].as_u64();
        let heard = watch(&server, path, last, |seen| !seen.is_empty()).await;
        assert_eq!(heard[0]["event"]["parts"], json!(["heard more"]));
        let both = async { tokio::join!(watch(&server, path, None, has_ended), watch(&server, path, last, has_ended)) };
        let cancel = async { read(server.request(Method::DELETE, &format!("/v1/turns/{turn}"))).await };
        let ((whole, rest), cancelled) = tokio::join!(both, cancel);
        assert_eq!(cancelled.status, 202);
        assert_eq!(whole.last(), rest.last());
        assert_eq!(whole.last().unwrap()["outcome"], "cancelled");
        assert_eq!(whole.len(), 4, "{whole:?}");
        let late = post(&server, &format!("/v1/turns/{turn}/input"), &json!({"text": "late"})).await;
        assert!([404, 409].contains(&late.status), "{late:?}");
    };
    let (answer, ()) = tokio::join!(caller, watcher);
    assert_eq!(answer.json()["text"], "The turn was cancelled.");
}

/// What has happened before a restart is there after it.
#[tokio::test]
async fn events_survive() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--agent", "echo", "--data-dir", folder.path().to_str().unwrap()];
    let mut server = Server::start(&args);
    post(&server, "/v1/sessions/s/turns?wait=20", &json!({"prompt": "@delta 300 1000"})).await;
    let before = events(&server, "s").await;
    assert_eq!(before.len(), 303);
    server.signal(nix::sys::signal::Signal::SIGKILL);
    server.exited().await;
    let server = Server::start(&args);
    assert_eq!(events(&server, "s").await, before);
    let rest = watch(&server, "/v1/sessions/s/events", Some(300), has_ended).await;
    assert_eq!(rest, before[300..]);
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let server = echo();
    for (method, path, body, status, text) in [
        (Method::GET, "/v1/sessions/none/events", "", 404, "no such session"),
        (Method::GET, "/v1/sessions/none/events?after=x", "", 400, "after: expected the number of an event"),
        (Method::POST, "/v1/sessions/s/turns", "{", 400, "the body is not valid JSON"),
        (Method::POST, "/v1/sessions/s/turns", "{}", 400, "missing field `prompt`"),
        (Method::POST, "/v1/sessions/s/turns", r#"{"prompt":"x","promt":1}"#, 400, "unknown field `promt`"),
        (Method::POST, "/v1/sessions/s/turns", r#"{"prompt":"x","metadata":1}"#, 400, "metadata: expected an object"),
        (Method::POST, "/v1/sessions/s/turns?wait=long", r#"{"prompt":"x"}"#, 400, "wait: expected a number"),
        (Method::PUT, "/v1/sessions/s/turns", "", 405, "method not allowed"),
        (Method::GET, "/v1/turns/none", "", 404, "no such turn"),
        (Method::DELETE, "/v1/turns/none", "", 404, "no such turn"),
        (Method::POST, "/v1/turns/none/input", r#"{"text":"x"}"#, 404, "no such turn"),
        (Method::GET, "/v1/else", "", 404, "not found"),
    ] {
        let answer = read(server.request(method.clone(), path).body(body)).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().starts_with(text), "{method} {path}: {}", answer.body);
    }
    // Not offered: the path is free.
    let other = Server::start(&["--agent", "echo", "--protocols", "dari,runtimeuse"]);
    assert_eq!(other.get("/v1/sessions/s/events").await.status, 404);
}

/// A cancel of a turn that waits, and one of a turn that runs, before their callers know how they ended.
#[tokio::test]
async fn accepted_at_once() {
    let server = echo();
    let one = post(&server, "/v1/sessions/s/turns", &json!({"prompt": "@sleep 60000"})).await;
    let two = post(&server, "/v1/sessions/s/turns", &json!({"prompt": "@sleep 60000"})).await;
    assert_eq!((one.status, two.status), (202, 202));
    for turn in [two, one] {
        let path = format!("/v1/turns/{}", turn.json()["turn"].as_str().unwrap());
        assert_eq!(read(server.request(Method::DELETE, &path)).await.status, 202);
    }
    server.idle().await;
    let ended: Vec<Value> = events(&server, "s").await.into_iter().filter(|event| event["type"] == "ended").collect();
    assert_eq!(ended.len(), 2);
    assert!(ended.iter().all(|event| event["outcome"] == "cancelled"), "{ended:?}");
    let began = std::time::Instant::now();
    let wait = post(&server, "/v1/sessions/t/turns?wait=0.2", &json!({"prompt": "@sleep 60000"})).await;
    assert_eq!((wait.status, began.elapsed() < Duration::from_secs(5)), (202, true));
}
