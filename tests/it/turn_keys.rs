//! A request that is asked again under the same key: it runs once, whoever asks and however often.

use crate::support::{HttpAnswer, Server, read};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

fn echo(args: &[&str]) -> Server {
    Server::start(&[&["--agent", "echo"], args].concat())
}

/// How many turns a session has had.
async fn turns(server: &Server, session: &str) -> usize {
    let page = server.get(&format!("/v1/sessions/{session}/events")).await.json();
    page["events"].as_array().unwrap().iter().filter(|event| event["type"] == "accepted").count()
}

fn is_conflict(frame: &Value) -> bool {
    frame["error"] == "the key was used before with a different request" && frame["metadata"]["code"] == "key_conflict"
}

#[tokio::test]
async fn a_query_runs_once() {
    let server = echo(&[]);
    let path = "/?session=s&turn=one";
    let mut first = server.connect(path).await;
    first.query_with("@stream 3", json!({"request_id": "a"})).await;
    let told = first.until_terminal().await;
    assert_eq!(told.len(), 4);
    // On the same socket, and on another: everything again but the name of the request.
    first.query_with("@stream 3", json!({"request_id": "a"})).await;
    assert_eq!(first.until_terminal().await, told);
    let mut second = server.connect(path).await;
    second.query("@stream 3").await;
    let again = second.until_terminal().await;
    let texts = |frames: &[Value]| frames.iter().map(|frame| frame["text_blocks"].clone()).collect::<Vec<_>>();
    assert_eq!(texts(&again), texts(&told));
    assert_eq!(again[3]["data"]["text"], "streamed 3");
    for more in [json!({"model": "other"}), json!({"secrets_to_redact": ["hunter2"]})] {
        second.query_with("@stream 3", more).await;
        let refused = second.terminal().await;
        assert!(is_conflict(&refused), "{refused}");
    }
    assert_eq!(turns(&server, "s").await, 1);
    // Another key is another request of the same session.
    let mut other = server.connect("/?session=s&turn=two").await;
    other.query("@show").await;
    assert_eq!(other.terminal().await["data"]["structured_output"]["state"]["turn"], 1);
}

/// Whoever lost its socket asks again and is attached to the turn that runs, with what it has said so far.
#[tokio::test]
async fn a_query_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("gate.mjs");
    let source = "import { existsSync } from 'node:fs';
    export default { async run(invocation, sender) {
        sender.sendAssistantMessage(['begun']);
        while (!existsSync(invocation.env?.GATE ?? process.env.GATE)) await new Promise((done) => setTimeout(done, 5));
        return 'opened';
    } };";
    std::fs::write(&module, source).unwrap();
    let gate = folder.path().join("gate");
    let server = Server::start_with(&["--handler", module.to_str().unwrap()], |command| {
        command.env("GATE", &gate);
    });
    for (path, session) in [("/?session=s&turn=k", "s"), ("/?turn=alone", "turn:alone")] {
        let mut lost = server.connect(path).await;
        lost.query("go").await;
        assert_eq!(lost.next().await.unwrap()["text_blocks"], json!(["begun"]));
        drop(lost);
        let mut retry = server.connect(path).await;
        retry.query("go").await;
        assert_eq!(retry.next().await.unwrap()["text_blocks"], json!(["begun"]));
        // It is attached already; a repeat is no second request.
        retry.query("go").await;
        let mut other = server.connect(path).await;
        other.query("something else").await;
        assert!(is_conflict(&other.terminal().await));
        // One that goes on behind what it has seen, and asks again to be sure.
        let mut on = server.connect(&format!("{path}&after=2")).await;
        on.query("go").await;
        std::fs::write(&gate, "").unwrap();
        for client in [&mut retry, &mut on] {
            let frames = client.until_terminal().await;
            assert_eq!((frames.len(), &frames[0]["data"]["text"]), (1, &json!("opened")), "{frames:?}");
        }
        assert_eq!(turns(&server, session).await, 1);
        std::fs::remove_file(&gate).unwrap();
    }
}

#[tokio::test]
async fn an_answer_is_remembered_through_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--data-dir", folder.path().to_str().unwrap()];
    let mut server = echo(&args);
    let mut client = server.connect("/?turn=k").await;
    client.query("@stream 2").await;
    assert_eq!(client.until_terminal().await.len(), 3);
    let body = json!({"prompt": "@delta 2"});
    let first = keyed(&server, "k", &body, "?wait=20").await;
    server.signal(Signal::SIGKILL);
    server.exited().await;

    let server = echo(&args);
    let mut client = server.connect("/?turn=k").await;
    client.query("@stream 2").await;
    let frames = client.until_terminal().await;
    assert_eq!(frames.last().unwrap()["data"]["text"], "streamed 2", "{frames:?}");
    client.query("other").await;
    assert!(is_conflict(&client.terminal().await));
    let again = keyed(&server, "k", &body, "?wait=20").await;
    assert_eq!((again.status, &again.body, again.header("idempotent-replayed")), (200, &first.body, Some("true")));
    assert_eq!(keyed(&server, "k", &json!({"prompt": "x"}), "?wait=20").await.status, 409);
    assert_eq!((turns(&server, "turn:k").await, turns(&server, "s").await), (1, 1));
}

async fn keyed(server: &Server, key: &str, body: &Value, wait: &str) -> HttpAnswer {
    let request = server.request(Method::POST, &format!("/v1/sessions/s/turns{wait}")).header("idempotency-key", key);
    read(request.body(body.to_string())).await
}

/// Long answers are not all in memory: they are read again when somebody asks again.
#[tokio::test]
async fn long_answers_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let server = echo(&["--data-dir", folder.path().to_str().unwrap()]);
    let body = |n: usize| json!({"prompt": format!("{n}{}", "x".repeat(100_000))});
    let mut first = Vec::new();
    for n in 0..40 {
        first.push(keyed(&server, &format!("k{n}"), &body(n), "?wait=20").await);
        assert_eq!((first[n].status, first[n].header("idempotent-replayed")), (200, None));
    }
    for (n, by_id_first) in [(0, false), (20, true), (39, false), (1, true)] {
        let turn = first[n].json()["turn"].as_str().unwrap().to_owned();
        if by_id_first {
            assert_eq!(server.get(&format!("/v1/turns/{turn}")).await.status, 200, "{n}");
        }
        let again = keyed(&server, &format!("k{n}"), &body(n), "?wait=20").await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{n}");
        assert!(again.body == first[n].body, "{n}");
        assert_eq!(server.get(&format!("/v1/turns/{turn}")).await.json()["turn"], json!(turn), "{n}");
        assert_eq!(keyed(&server, &format!("k{n}"), &json!({"prompt": "x"}), "?wait=20").await.status, 409);
        // The next turn has the session let go of what it read again.
        assert_eq!(
            keyed(&server, &format!("after{n}"), &body(n), "?wait=20").await.header("idempotent-replayed"),
            None
        );
    }
    let shown = keyed(&server, "last", &json!({"prompt": "@show"}), "?wait=20").await.json();
    assert_eq!(shown["structured_output"]["state"]["turn"], 44, "{shown}");
}

/// The same by HTTP, while the turn runs.
#[tokio::test]
async fn a_request_that_runs() {
    let server = echo(&[]);
    let body = json!({"prompt": "@sleep 700"});
    let begun = keyed(&server, "k", &body, "").await;
    assert_eq!((begun.status, begun.header("idempotent-replayed")), (202, None));
    let changed = json!({"prompt": "@sleep 701"});
    let (one, two, other) = tokio::join!(
        keyed(&server, "k", &body, "?wait=20"),
        keyed(&server, "k", &body, "?wait=20"),
        keyed(&server, "k", &changed, "?wait=20"),
    );
    assert_eq!((one.status, &one.body), (200, &two.body));
    assert_eq!((&one.json()["turn"], one.header("idempotent-replayed")), (&begun.json()["turn"], Some("true")));
    assert_eq!((other.status, other.header("idempotent-replayed")), (409, None));
    assert_eq!(turns(&server, "s").await, 1);
}

#[tokio::test]
async fn keys_that_are_none() {
    let server = echo(&[]);
    let long = format!("/?turn={}", "x".repeat(257));
    for path in ["/?turn=", "/?session=s&turn=%00", &long] {
        let Err(refused) = crate::support::raw_ws::RawWs::connect_with(server.address(), path, "").await else {
            panic!("{path}")
        };
        assert!(refused.contains("turn: expected 1 to 256 characters"), "{refused}");
    }
}
