//! A machine that is paused between turns: what `/health` says of the server, and how it is made ready and woken.

use crate::support::{HttpAnswer, PATIENCE, Server, eventually, raw_ws::RawWs, read};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn echo(args: &[&str]) -> Server {
    Server::start(&[&["--agent", "echo"], args].concat())
}

async fn post(server: &Server, path: &str, body: &str) -> HttpAnswer {
    read(server.request(Method::POST, path).body(body.to_owned())).await
}

async fn health(server: &Server) -> Value {
    server.get("/health").await.json()
}

#[tokio::test]
async fn health_tells_the_truth() {
    let server = echo(&[]);
    let idle = health(&server).await;
    assert_eq!(
        (&idle["ok"], &idle["status"], &idle["busy"], &idle["running"], &idle["safe_to_pause"]),
        (&json!(true), &json!("ok"), &json!(false), &json!(0), &json!(true))
    );
    assert_eq!((&idle["last_progress_ms"], &idle["store"]), (&Value::Null, &json!({"state": "memory"})));
    for prompt in ["@sleep 60000", "waits for it"] {
        let body = json!({"prompt": prompt}).to_string();
        assert_eq!(post(&server, "/v1/sessions/s/turns", &body).await.status, 202);
    }
    server.busy().await;
    let began = Instant::now();
    // Its age rises while the turn says nothing.
    let busy = loop {
        let busy = health(&server).await;
        assert_eq!((&busy["turns"], &busy["safe_to_pause"]), (&json!(2), &json!(false)));
        assert!(began.elapsed() < Duration::from_secs(20), "{busy}");
        if busy["last_progress_ms"].as_u64().is_some_and(|age| age > 300) {
            break busy;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(busy["running"], 1, "{busy}");
    // A turn that speaks is young.
    let body = json!({"prompt": "@stream 10000000 10"}).to_string();
    assert_eq!(post(&server, "/v1/sessions/t/turns", &body).await.status, 202);
    let speaking = health(&server).await;
    assert!(speaking["last_progress_ms"].as_u64().unwrap() < 250, "{speaking}");
    assert_eq!(speaking["running"], 2);
}

#[tokio::test]
async fn parked_and_woken() {
    let server = echo(&[]);
    let parked = post(&server, "/v1/quiesce", "").await;
    assert_eq!((parked.status, &parked.json()["safe_to_pause"]), (200, &json!(true)));
    let health = server.get("/health").await;
    assert_eq!((health.status, &health.json()["ok"], &health.json()["status"]), (503, &json!(false), &json!("parked")));
    // Everybody is told, in the words of his protocol.
    let refused = post(&server, "/v1/sessions/s/turns", r#"{"prompt":"x"}"#).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.json()["error"], "the server is parked for a pause");
    let dari = server.advance(&json!({"input": "x"})).await;
    assert_eq!(
        (dari.status, dari.json(), dari.header("retry-after")),
        (503, json!({"detail": "not ready"}), Some("1"))
    );
    let Err(upgrade) = RawWs::connect_with(server.address(), "/", "").await else { panic!("an upgrade") };
    assert!(upgrade.starts_with("HTTP/1.1 503 ") && upgrade.contains("retry-after: 1"), "{upgrade}");
    let again = post(&server, "/v1/quiesce", "").await;
    assert_eq!(again.status, 200, "asked twice");
    let woken = post(&server, "/v1/wake", "").await;
    assert_eq!((woken.status, &woken.json()["ok"]), (200, &json!(true)));
    assert_eq!(post(&server, "/v1/sessions/s/turns?wait=20", r#"{"prompt":"x"}"#).await.json()["text"], "x");
}

/// A socket that is open asks in vain, and is served once the server is awake.
#[tokio::test]
async fn an_open_socket() {
    let server = echo(&[]);
    let mut client = server.connect("/").await;
    assert_eq!(post(&server, "/v1/quiesce", "").await.status, 200);
    client.query("x").await;
    let refused = client.terminal().await;
    assert_eq!(refused["error"], "the server is parked for a pause");
    assert_eq!((&refused["metadata"]["code"], &refused["metadata"]["retryable"]), (&json!("parked"), &json!(true)));
    post(&server, "/v1/wake", "").await;
    client.query("x").await;
    assert_eq!(client.terminal().await["data"]["text"], "x");
}

#[tokio::test]
async fn what_runs_is_waited_for_or_cut() {
    let folder = tempfile::tempdir().unwrap();
    let server = echo(&["--data-dir", folder.path().to_str().unwrap()]);
    let keyed = |prompt: &str| {
        let request = server.request(Method::POST, "/v1/sessions/s/turns?wait=20").header("idempotency-key", "k");
        read(request.body(json!({"prompt": prompt}).to_string()))
    };
    // In vain: it goes on, and the server is parked all the same. Retries are no new turns.
    let prompt = "@sleep 1000";
    let (answer, ()) = tokio::join!(keyed(prompt), async {
        server.busy().await;
        let early = post(&server, "/v1/quiesce?wait=0.05", "").await;
        assert_eq!((early.status, &early.json()["safe_to_pause"]), (202, &json!(false)), "{early:?}");
        assert_eq!((&early.json()["turns"], &early.json()["status"]), (&json!(1), &json!("parked")));
        let mut back = server.connect("/?session=s&after=0").await;
        assert_eq!(back.terminal().await["data"]["text"], "slept 1000 ms");
        // Long enough.
        let safe = post(&server, "/v1/quiesce?wait=20", "").await;
        assert_eq!((safe.status, &safe.json()["safe_to_pause"]), (200, &json!(true)), "{safe:?}");
    });
    assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("answered")));
    let retried = keyed(prompt).await;
    assert_eq!((&retried.body, retried.header("idempotent-replayed")), (&answer.body, Some("true")));
    assert_eq!(keyed("other").await.status, 409);
    post(&server, "/v1/wake", "").await;

    // Cut: no outcome is recorded, and a retry runs it again.
    let body = json!({"input": "@sleep 60000", "session_id": "d", "message_id": "m", "state": null});
    let (answer, ()) = tokio::join!(server.advance(&body), async {
        server.busy().await;
        let began = Instant::now();
        let cut = post(&server, "/v1/quiesce?interrupt=true", "").await;
        assert_eq!((cut.status, &cut.json()["turns"]), (200, &json!(0)), "{cut:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    });
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    post(&server, "/v1/wake", "").await;
    let events = server.get("/v1/sessions/dari:d/events").await.json();
    assert_eq!(events["events"][0]["attempt"], 1);
    let retried = server.advance(&body);
    let watched = async {
        server.busy().await;
        // It is admitted, and seen once it is stored.
        let began = Instant::now();
        let events = loop {
            let events = server.get("/v1/sessions/dari:d/events?after=2").await.json();
            if events["events"] != json!([]) {
                break events;
            }
            assert!(began.elapsed() < PATIENCE);
            tokio::task::yield_now().await;
        };
        assert_eq!((&events["events"][0]["type"], &events["events"][0]["attempt"]), (&json!("accepted"), &json!(2)));
        post(&server, "/v1/quiesce?interrupt=true", "").await;
    };
    tokio::join!(retried, watched);
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let server = echo(&[]);
    for (path, text) in [
        ("/v1/quiesce?wait=long", "wait: expected a number of seconds"),
        ("/v1/quiesce?interrupt=maybe", "interrupt: expected true or false"),
    ] {
        let answer = post(&server, path, "").await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!(text)));
    }
    assert_eq!(health(&server).await["ok"], true, "nothing was done");
    for path in ["/v1/quiesce", "/v1/wake"] {
        assert_eq!(server.get(path).await.status, 405);
    }
    let dari = echo(&["--protocols", "dari"]);
    assert_eq!(post(&dari, "/v1/quiesce", "").await.status, 404);
    assert_eq!(dari.get("/health").await.body, r#"{"ok":true}"#);
}

/// A server that is parked stops as any other.
#[tokio::test]
async fn parked_and_stopped() {
    let mut server = echo(&[]);
    post(&server, "/v1/quiesce", "").await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.exited().await.code(), Some(0));
    eventually("its end", || (!server.is_running()).then_some(())).await;
}
