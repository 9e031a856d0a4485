//! Connections that say nothing, or take nothing.

use super::{Reader, create, log};
use crate::support::raw_ws::{Frame, Heard, PING, RawWs};
use crate::support::{PATIENCE, SOON, Server};
use serde_json::json;
use std::time::{Duration, Instant};

/// A server with a short patience: the limits are those that every WebSocket has, and their defaults the protocol's.
fn impatient(dead_after: &str) -> Server {
    Server::start_with(&["--agent", "echo"], |command| {
        command.env("TURNHOST_PING", "300ms").env("TURNHOST_DEAD_AFTER", dead_after);
    })
}

/// A client that takes nothing is dropped, though it says that it lives; the others have all of it, and it can come back
/// with the last offset that it has.
#[tokio::test]
async fn a_client_that_takes_nothing() {
    // Long enough for the quick one, whose own program may wait for its turn on a busy machine.
    let server = impatient("5s");
    let id = create(&server, &json!({"agent": "echo", "interactive": true})).await;
    for path in [format!("/ws/sessions/{id}?since=0"), "/ws?since=0".to_owned()] {
        let is_bridge = path.contains("sessions");
        let mut stuck = RawWs::connect(server.address(), &path).await;
        let dropped = || server.log().matches("took nothing and was dropped").count();
        let before = dropped();
        let reading = async {
            if is_bridge {
                let mut quick = Reader::open(&server, &id, "").await;
                quick.prompt("@stream 20000 1000").await;
                quick.until_line("result").await;
            } else {
                let mut quick = server.connect("/ws").await;
                quick.send(&json!({"type": "prompt", "data": {"content": "@stream 20000 1000"}})).await;
                while quick.next().await.expect("it goes on")["type"] != "result" {}
            }
        };
        let began = Instant::now();
        let sticking = async {
            while dropped() == before {
                assert!(began.elapsed() < 3 * PATIENCE, "{path}: it was not dropped: {}", server.log());
                // It lives, and takes nothing.
                let _ = stuck.try_send(&Frame::new(PING, "x").bytes()).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            began.elapsed()
        };
        let (took, ()) = tokio::join!(sticking, reading);
        assert!(took > Duration::from_millis(4900), "{took:?}");
        // What was on its way to it still comes, and then an end without a word.
        let (mut offset, mut frames) = (0, 0);
        loop {
            match stuck.next().await {
                Heard::Text(text) => {
                    let frame: serde_json::Value = serde_json::from_str(&text).unwrap();
                    frames += 1;
                    offset = frame["offset"].as_u64().unwrap_or(offset);
                }
                Heard::Ping(_) | Heard::Pong(_) => {}
                Heard::Close(code) => panic!("a close behind what it did not take: {code:?}"),
                Heard::End => break,
            }
        }
        if !is_bridge {
            continue;
        }
        let mut again = Reader::open(&server, &id, &format!("?since={offset}")).await;
        again.until_line("result").await;
        let whole = log(&server, &id).await;
        assert!(frames > 0 && offset < whole.len() as u64, "{frames} frames up to {offset}");
        assert!(whole[usize::try_from(offset).unwrap()..].starts_with(again.text()));
    }
}

/// A client is pinged; one that does not answer is dropped after the limit, one that does stays.
#[tokio::test]
async fn pings() {
    let server = impatient("2s");
    let id = create(&server, &json!({"agent": "echo", "interactive": true})).await;
    for path in [format!("/ws/sessions/{id}"), "/ws".to_owned()] {
        let mut stays = server.connect(&path).await;
        let answering = tokio::spawn(async move {
            let frame =
                tokio::time::timeout(Duration::from_secs(5), async { while stays.next().await.is_some() {} }).await;
            frame.is_err()
        });
        // Not behind the connect: the server counts from its end, which may be told late.
        let (began, mut pings) = (Instant::now(), Vec::new());
        let mut mute = RawWs::connect(server.address(), &path).await;
        loop {
            match mute.next().await {
                Heard::Ping(_) => pings.push(began.elapsed()),
                Heard::Text(_) | Heard::Pong(_) => {}
                Heard::Close(_) | Heard::End => break,
            }
        }
        let took = began.elapsed();
        assert!((Duration::from_millis(1900)..Duration::from_secs(4) + SOON).contains(&took), "{path}: {took:?}");
        assert!(pings.len() >= 3 && pings[0] >= Duration::from_millis(250), "{path}: {pings:?}");
        assert!(answering.await.unwrap(), "{path}: it answered, and was dropped all the same");
    }
}

/// What waits for an agent is bounded, wherever it waits; and it can be interrupted all the same.
#[tokio::test]
async fn more_prompts_than_may_wait() {
    let server = super::echo();
    let id = create(&server, &json!({"agent": "echo", "interactive": true, "prompt": "@sleep 60000"})).await;
    server.busy().await;
    let mut reader = Reader::open(&server, &id, "").await;
    for n in 0..1500 {
        reader.prompt(&format!("@text {n}")).await;
    }
    let error = reader.until("error").await;
    assert_eq!(error, json!({"type": "error", "error": "too many messages wait for the agent"}));
    for _ in 0..3 {
        reader.send(json!({"type": "interrupt"})).await;
    }
    let all = reader.until_line("result").await;
    assert_eq!(super::of(&all, "result")[0]["status"], "interrupted", "{all:?}");
}
