//! A past of more sessions than are kept in memory.

use super::{Reader, create, delete, echo, log, told};
use crate::support::{PATIENCE, Server};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};
use std::time::Instant;

/// Sessions that a server keeps in memory behind their end.
const RECENT: usize = 256;

#[tokio::test]
async fn those_that_are_not_in_memory_are_found() {
    let server = echo();
    let first = told(&server, "the first").await;
    let whole = log(&server, &first).await;
    let id = |n: usize| json!(format!("00000000-0000-4000-8000-{n:012}"));
    let bodies = (0..RECENT + 50).map(|n| json!({"agent": "echo", "prompt": "x", "session_id": id(n)}));
    stream::iter(bodies).for_each_concurrent(8, async |body| drop(create(&server, &body).await)).await;
    all_ended(&server).await;

    let listed = server.get("/sessions").await.json();
    let listed = listed.as_array().unwrap();
    assert_eq!((listed.len(), &listed[0]["session_id"]), (RECENT + 51, &json!(first)));
    assert!(listed.windows(2).all(|pair| pair[0]["created_at"].as_str() <= pair[1]["created_at"].as_str()));
    let snapshot = server.get(&format!("/sessions/{first}")).await.json();
    assert_eq!((&snapshot["state"], &snapshot["exit_code"]), (&json!("completed"), &json!(0)), "{snapshot}");
    assert_eq!(server.get(&format!("/sessions/{first}/info")).await.json()["status"], "completed");
    assert_eq!(server.get(&format!("/sessions/{first}/logs")).await.body, whole);
    assert_eq!(server.get("/sessions/history?limit=1000").await.json().as_array().unwrap().len(), RECENT + 51);
    let mut reader = Reader::open(&server, &first, "?since=0").await;
    assert_eq!(reader.until("exit").await["exit_code"], 0);
    assert_eq!(reader.text(), whole);

    let again = super::post(&server, &json!({"agent": "echo", "prompt": "x", "session_id": id(0)})).await;
    assert_eq!((again.status, &again.json()["error"]), (409, &json!("session_id already exists")));
    let old = id(1).as_str().unwrap().to_owned();
    let deleted = delete(&server, &old).await;
    assert_eq!((deleted.status, &deleted.json()["state"]), (200, &json!("completed")));
    assert_eq!((delete(&server, &old).await.status, server.get(&format!("/sessions/{old}")).await.status), (404, 404));
    let again = create(&server, &json!({"agent": "echo", "prompt": "x", "session_id": old})).await;
    assert_eq!(again, old, "a deleted one's id is free");
}

/// Waits until no session runs.
async fn all_ended(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listed = server.get("/sessions").await.json();
        let running = |session: &Value| session["status"] == "running";
        if !listed.as_array().unwrap().iter().any(running) {
            break;
        }
        assert!(Instant::now() < deadline, "not all ended: {listed}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
