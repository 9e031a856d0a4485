//! Many sessions, many readers, and all of them at once.

use super::{Reader, create, delete, echo, ended, log, of, parsed};
use crate::support::Server;
use futures_util::future::join_all;
use serde_json::json;
use std::time::{Duration, Instant};

/// A hundred at once, each with its whole log and the right exit code.
#[tokio::test]
async fn a_hundred_at_once() {
    let server = echo();
    let sessions = (0..100).map(|n| {
        let server = &server;
        async move {
            let fails = n % 10 == 9;
            let prompt = if fails { "@fail no".to_owned() } else { "@delta 200 20".to_owned() };
            let id = create(server, &json!({"agent": "echo", "prompt": prompt})).await;
            let mut reader = Reader::open(server, &id, "?since=0").await;
            let exit = reader.until("exit").await;
            assert_eq!(exit["exit_code"], i32::from(fails), "{exit}");
            assert_eq!(ended(server, &id).await["exit_code"], i32::from(fails));
            let whole = log(server, &id).await;
            assert_eq!(reader.text(), whole);
            let lines = parsed(&whole, 0);
            let deltas = of(&lines, "agent_message").iter().filter(|data| data["delta"] == true).count();
            assert_eq!(deltas, if fails { 0 } else { 200 });
            assert_eq!(lines.last().unwrap()["type"], "exit");
        }
    });
    join_all(sessions).await;
    assert_eq!(server.get("/sessions").await.json().as_array().unwrap().len(), 100);
}

/// Live, with a pause, and with a new connection at every kind of byte: the same bytes as the log.
#[tokio::test]
async fn three_readers() {
    // One who has everything waits for the others and does not read, and so answers no ping, for as long as they take.
    let server = Server::start(&["--agent", "echo", "--dead-after", "10m"]);
    let id = create(&server, &json!({"agent": "echo", "interactive": true})).await;
    let mut live = Reader::open(&server, &id, "?since=0").await;
    let mut paused = Reader::open(&server, &id, "?since=0").await;
    live.until("connected").await;
    paused.until("connected").await;
    for _ in 0..5 {
        live.prompt("@delta 4000 60").await;
    }
    live.prompt("@fail done").await;
    let reading = async { live.until_line("error").await };
    let pausing = async {
        paused.until_line("agent_message").await;
        // The pause is what is tested.
        tokio::time::sleep(Duration::from_secs(3)).await;
        paused.until_line("error").await;
    };
    let ((), rounds, _) = tokio::join!(pausing, come_back(&server, &id), reading);
    let (bytes, rounds) = rounds;
    assert_eq!(delete(&server, &id).await.status, 200);
    live.until("exit").await;
    paused.until("exit").await;
    let whole = log(&server, &id).await;
    assert!(live.text() == whole && paused.text() == whole);
    // How many heartbeats came behind the turn that fails is the clock's business.
    assert!(whole.as_bytes().starts_with(&bytes) && has_failed(&bytes), "{rounds} rounds");
    assert!(rounds > 20, "{rounds} rounds");
}

/// Whether the turn that fails is among the last lines.
fn has_failed(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).contains(r#"{"type":"error""#)
}

/// Reads a session with ever new connections, each behind a byte that the one before has seen; until its turn that fails.
async fn come_back(server: &Server, id: &str) -> (Vec<u8>, u32) {
    let deadline = Instant::now() + Duration::from_mins(2);
    let (mut bytes, mut step, mut rounds) = (Vec::new(), 1_usize, 0_u32);
    loop {
        assert!(Instant::now() < deadline, "{rounds} rounds, {} bytes", bytes.len());
        // Also within a line: a client may throw away what it is not sure of.
        step = step * 7919 % 65_537;
        bytes.truncate(bytes.len().saturating_sub(step % 3000));
        let mut reader = Reader::open(server, id, &format!("?since={}", bytes.len())).await;
        for _ in 0..=(step % 5) {
            if has_failed(&reader.bytes) {
                break;
            }
            reader.next().await;
        }
        bytes.extend(&reader.bytes);
        rounds += 1;
        if has_failed(&bytes) && rounds > 20 {
            return (bytes, rounds);
        }
    }
}

/// Created, read, interrupted and deleted while they talk: nothing hangs, nothing panics.
#[tokio::test]
async fn races() {
    let server = echo();
    let rounds = (0..500_u64).map(|n| {
        let server = &server;
        async move {
            let body = json!({"agent": "echo", "interactive": n % 2 == 0, "prompt": "@delta 2000 50"});
            let id = create(server, &body).await;
            let mut reader = Reader::open(server, &id, "?since=0").await;
            if n % 5 != 0 {
                reader.next().await;
            }
            reader.send(json!({"type": "interrupt"})).await;
            if n % 3 == 0 {
                reader.next().await;
            }
            drop(reader);
            let answer = delete(server, &id).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let lines = parsed(&log(server, &id).await, 0);
            assert_eq!(lines.last().unwrap()["type"], "exit");
        }
    });
    let mut rounds: Vec<_> = rounds.collect();
    while !rounds.is_empty() {
        let some: Vec<_> = rounds.drain(..rounds.len().min(50)).collect();
        join_all(some).await;
    }
    server.idle().await;
    assert_eq!(server.get("/sessions").await.body, "[]");
    assert!(!server.log().contains("panic"), "{}", server.log());
}
