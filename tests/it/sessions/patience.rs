//! What takes long by its nature: readers that stop for long, downloads that are slow, a long past.

use super::{Reader, create, echo, ended, log, of, parsed, told};
use crate::support::{Server, proc};
use futures_util::future::join_all;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

/// A reader that stops for 3 s, and again for 20 s, while 20,000 events come: all of them, in order, and no gap.
#[tokio::test]
async fn a_reader_that_stops_for_long() {
    let server = echo();
    let id = create(&server, &json!({"agent": "echo", "interactive": true})).await;
    let mut slow = Reader::open(&server, &id, "").await;
    slow.until("connected").await;
    let mut quick = Reader::open(&server, &id, "").await;
    quick.until("connected").await;
    for seconds in [3, 20] {
        quick.prompt("@stream 10000 300").await;
        slow.until_line("agent_message").await;
        // The pause is what is tested.
        tokio::join!(tokio::time::sleep(Duration::from_secs(seconds)), quick.until_line("result"));
        slow.until_line("result").await;
    }
    let whole = log(&server, &id).await;
    assert!(whole.len() > 5_000_000 && whole.starts_with(slow.text()) && whole.starts_with(quick.text()));
    let said = of(&parsed(slow.text(), 0), "agent_message").len();
    assert_eq!(said, 20_002, "and two answers");
    let from_start = server.get(&format!("/sessions/{id}/logs?cursor=0")).await;
    // Heartbeats may have been added since.
    assert!(from_start.body.starts_with(&whole));
}

/// A download that takes 40 s is whole.
#[tokio::test]
async fn a_slow_download() {
    let server = echo();
    let id = told(&server, "@stream 60 100000").await;
    let whole = log(&server, &id).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut stream = socket.connect(server.address()).await.unwrap();
    let head = format!("GET /sessions/{id}/log HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address());
    stream.write_all(head.as_bytes()).await.unwrap();
    let (began, mut got) = (Instant::now(), Vec::new());
    let step = whole.len() / 40;
    let mut part = vec![0; step];
    for _ in 0..39 {
        stream.read_exact(&mut part).await.expect("it goes on");
        got.extend_from_slice(&part);
        // The slowness is what is tested.
        tokio::time::sleep(Duration::from_millis(1050)).await;
    }
    stream.read_to_end(&mut got).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(40), "{:?}", began.elapsed());
    let body = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(got[body..] == *whole.as_bytes(), "{} of {} bytes", got.len() - body, whole.len());
}

/// The limits of the protocol's own example: ten seconds without a turn are no silence, and three within one are one warning.
#[tokio::test]
async fn silence_at_the_limits_of_the_example() {
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.env("AGENT_CONFIG", r#"{"stall_warning_timeout":2,"stall_kill_timeout":4}"#);
    });
    let mut client = server.connect("/ws?since=0").await;
    let mut silences = Vec::new();
    for prompt in ["first", "@sleep 3000", "last"] {
        client.send(&json!({"type": "prompt", "data": {"content": prompt}})).await;
        loop {
            let event = client.next().await.expect("it goes on");
            if event["data"]["subtype"].as_str().is_some_and(|subtype| subtype.starts_with("stall")) {
                silences.push((prompt, event["data"].clone()));
            }
            if event["type"] == "result" {
                break;
            }
        }
        // The pause is what is tested.
        tokio::time::sleep(Duration::from_secs(if prompt == "first" { 10 } else { 0 })).await;
    }
    let message = "the agent has said nothing for 2 seconds";
    let warning = json!({"subtype": "stall_warning", "message": message, "silence": 2, "threshold": 2});
    assert_eq!(silences, [("@sleep 3000", warning)]);
}

/// Two hundred sessions with 2 MB each that have ended take no memory worth the name.
#[tokio::test]
async fn a_long_past() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&["--agent", "echo", "--data-dir", folder.path().to_str().unwrap()]);
    for _ in 0..5 {
        told(&server, "@stream 20 100000").await;
    }
    let before = proc::private_kib(server.pid());
    for _ in 0..50 {
        join_all((0..4).map(|_| told(&server, "@stream 20 100000"))).await;
    }
    let grown = proc::private_kib(server.pid()).saturating_sub(before);
    println!("200 sessions of 2 MB: {grown} KiB");
    assert!(grown < 20 << 10, "{grown} KiB");
    assert_eq!(server.get("/sessions").await.json().as_array().unwrap().len(), 205);
}

/// How long a session takes to be made. The bound is for a busy machine; the number is for whoever measures.
#[tokio::test]
async fn the_time_of_a_create() {
    let server = super::ends::scripted(|_| {});
    let mut times = Vec::new();
    for n in 0..60 {
        let body = if n % 2 == 0 {
            json!({"agent": "echo", "prompt": "x"})
        } else {
            super::ends::asked(&json!([["result"], ["exit", 0]]))
        };
        let began = Instant::now();
        let id = create(&server, &body).await;
        times.push(began.elapsed());
        ended(&server, &id).await;
    }
    times.sort_unstable();
    println!("a session is made in {:?} (median of {}), {:?} at most", times[30], times.len(), times[59]);
    assert!(times[30] < Duration::from_millis(100), "{times:?}");
}

/// A hundred agents at once, each with 200 pieces: all logs are whole, all codes are right, on both ways; who leaves
/// disturbs nobody.
#[tokio::test]
async fn a_hundred_agents() {
    let server = super::ends::scripted(|_| {});
    let sessions = (0..100_usize).map(|n| {
        let server = &server;
        async move {
            let code = [0, 0, 7][n % 3];
            let script = json!([["deltas", 100], ["sleep", 0.05], ["deltas", 100], ["result"], ["exit", code]]);
            let id = create(server, &super::ends::asked(&script)).await;
            let mut reader = Reader::open(server, &id, "?since=0").await;
            let mut leaving = Reader::open(server, &id, "?since=0").await;
            leaving.until("connected").await;
            if n % 2 == 0 {
                leaving.next().await;
            }
            drop(leaving);
            assert_eq!(reader.until("exit").await["exit_code"], code);
            let snapshot = ended(server, &id).await;
            assert_eq!(snapshot["exit_code"], code);
            let whole = log(server, &id).await;
            assert_eq!(reader.text(), whole);
            let all = parsed(&whole, 0);
            let deltas: Vec<_> = of(&all, "agent_message").into_iter().filter(|data| data["delta"] == true).collect();
            assert_eq!(deltas.len(), 200);
            assert_eq!(
                (&all.last().unwrap()["type"], &all.last().unwrap()["exit_code"]),
                (&json!("exit"), &json!(code))
            );
        }
    });
    join_all(sessions).await;
}

/// Agents that have done their one turn make room for others, and what they exit with is known all the same.
#[tokio::test]
async fn more_agents_than_places() {
    let server = super::ends::scripted(|command| _ = command.env("TURNHOST_CLAUDE_PROCESSES", "2"));
    let sessions = (0..24).map(|n| {
        let server = &server;
        async move {
            let code = [7, 3][n % 2];
            let id = create(server, &super::ends::asked(&json!([["result"], ["sleep", 0.1], ["exit", code]]))).await;
            assert_eq!(ended(server, &id).await["exit_code"], code, "the {n}th");
        }
    });
    join_all(sessions).await;
}

/// Conversations that go on keep their process only until another needs its place.
#[tokio::test]
async fn more_talks_than_places() {
    let server = super::ends::scripted(|command| _ = command.env("TURNHOST_CLAUDE_PROCESSES", "1"));
    let mut talks = Vec::new();
    for _ in 0..3 {
        let body = json!({"agent": "claude", "interactive": true, "prompt": json!([["result"]]).to_string()});
        talks.push(create(&server, &body).await);
    }
    for id in talks {
        let mut reader = Reader::open(&server, &id, "?since=0").await;
        reader.until_line("result").await;
    }
}

/// After a restart the past is there: listed, told of, read, and streamed.
#[tokio::test]
async fn a_past_behind_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--agent", "echo", "--data-dir", folder.path().to_str().unwrap(), "--max-sessions", "2"];
    let mut server = Server::start(&args);
    let ids = [told(&server, "@delta 20 100").await, told(&server, "@fail no").await, told(&server, "x").await];
    let mut before = Vec::new();
    for id in &ids {
        before.push((log(&server, id).await, server.get(&format!("/sessions/{id}")).await.json()));
    }
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.exited().await;
    let server = Server::start(&args);
    assert_eq!(server.get("/sessions").await.json().as_array().unwrap().len(), 3);
    for (id, (whole, snapshot)) in ids.iter().zip(&before) {
        assert_eq!(server.get(&format!("/sessions/{id}")).await.json(), *snapshot);
        assert_eq!(server.get(&format!("/sessions/{id}/info")).await.json()["exit_code"], snapshot["exit_code"]);
        assert_eq!(server.get(&format!("/sessions/{id}/logs")).await.body, *whole);
        let mut reader = Reader::open(&server, id, "?since=0").await;
        assert_eq!(reader.until("exit").await["exit_code"], snapshot["exit_code"]);
        assert_eq!(reader.text(), whole);
    }
}
