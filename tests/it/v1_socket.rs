//! The events of a session over a WebSocket: the same as in pages and streams, and nothing but reading.

use crate::support::raw_ws::{Frame, Heard, PING, RawWs};
use crate::support::{HttpAnswer, Server, WsClient, eventually, read};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn echo(args: &[&str]) -> Server {
    Server::start(&[&["--agent", "echo"], args].concat())
}

async fn turn(server: &Server, prompt: &str) -> HttpAnswer {
    let body = json!({"prompt": prompt}).to_string();
    read(server.request(Method::POST, "/v1/sessions/s/turns?wait=20").body(body)).await
}

async fn take(socket: &mut WsClient, count: usize) -> Vec<Value> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(socket.next().await.unwrap_or_else(|| panic!("the end after {seen:?}")));
    }
    seen
}

#[tokio::test]
async fn the_same_events() {
    let server = echo(&[]);
    turn(&server, "@delta 3 7000").await;
    let page = server.get("/v1/sessions/s/events").await.json();
    let page = page["events"].as_array().unwrap();
    assert_eq!(page.len(), 6);
    let mut whole = server.connect("/v1/sessions/s/events").await;
    let mut rest = server.connect("/v1/sessions/s/events?after=4").await;
    assert_eq!(take(&mut whole, 6).await, *page);
    assert_eq!(take(&mut rest, 2).await, page[4..]);
    // Both are still there for what comes.
    turn(&server, "more").await;
    let (one, two) = tokio::join!(take(&mut whole, 2), take(&mut rest, 2));
    assert_eq!(one, two);
    assert_eq!((&one[0]["seq"], &one[1]["text"]), (&json!(7), &json!("more")));
    // What is no longer kept is a gap, as everywhere: no reader is there who would need it.
    whole.socket.close(None).await.unwrap();
    rest.socket.close(None).await.unwrap();
    assert_eq!((whole.close_code().await, rest.close_code().await), (Some(1005), Some(1005)));
    turn(&server, "@stream 40 1000000").await;
    let mut late = server.connect("/v1/sessions/s/events").await;
    let gap = take(&mut late, 1).await.remove(0);
    assert_eq!((&gap["type"], &gap["from"]), (&json!("gap"), &json!(1)));
    let next = take(&mut late, 1).await.remove(0);
    assert_eq!(next["seq"].as_u64(), gap["to"].as_u64().map(|to| to + 1));
}

/// One text per event, whatever its size; what comes together goes out together.
#[tokio::test]
async fn frames() {
    let server = echo(&[]);
    turn(&server, "@stream 200 20").await;
    turn(&server, &format!("@text {}", "x".repeat(70_000))).await;
    let mut socket = RawWs::connect(server.address(), "/v1/sessions/s/events").await;
    for seq in 1..=205 {
        let event: Value = serde_json::from_str(&socket.text().await).unwrap();
        assert_eq!((&event["seq"], socket.fragments), (&json!(seq), 1));
    }
    socket.send(&Frame::new(PING, "still there?")).await;
    assert_eq!(socket.next().await, Heard::Pong(b"still there?".to_vec()));
    socket.send(&Frame::close(1000, b"")).await;
    assert_eq!(socket.next().await, Heard::Close(Some(1000)));
    assert_eq!(socket.next().await, Heard::End);
}

#[tokio::test]
async fn who_may_read() {
    let server = Server::start_with(&["--agent", "echo", "--allow-origin", "https://app.example"], |command| {
        command.env("TURNHOST_TOKEN", "open-sesame");
    });
    let token = "Authorization: Bearer open-sesame\r\n";
    let begin = server.request(Method::POST, "/v1/sessions/s/turns?wait=20").bearer_auth("open-sesame");
    assert_eq!(read(begin.body(r#"{"prompt":"x"}"#)).await.status, 200);
    let path = "/v1/sessions/s/events";
    for (path, lines, status) in [
        (path, String::new(), 401),
        (path, "Authorization: Bearer wrong\r\n".to_owned(), 401),
        (path, format!("{token}Origin: https://evil.example\r\n"), 403),
        (path, format!("{token}Host: evil.example\r\n"), 403),
        ("/v1/sessions/none/events", token.to_owned(), 404),
        ("/v1/sessions/s/events?after=x", token.to_owned(), 400),
    ] {
        let Err(refused) = RawWs::connect_with(server.address(), path, &lines).await else { panic!("{path} {lines}") };
        assert!(refused.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {lines}: {refused}");
    }
    for (path, lines) in [
        (path, format!("{token}Origin: https://app.example\r\n")),
        ("/v1/sessions/s/events?token=open-sesame&after=1", String::new()),
    ] {
        let mut socket = RawWs::connect_with(server.address(), path, &lines).await.unwrap();
        socket.text().await;
    }
}

#[tokio::test]
async fn what_is_wrong_is_closed() {
    let server = echo(&[]);
    turn(&server, "x").await;
    for (frame, code) in [
        (Frame::text("{}"), 1008),
        (Frame::text("x".repeat(70_000)), 1009),
        (Frame::text("x").unmasked(), 1002),
        (Frame::text("x").reserved(4), 1002),
        (Frame::new(1, [0xff, 0xfe]), 1007),
    ] {
        let mut socket = RawWs::connect(server.address(), "/v1/sessions/s/events?after=2").await;
        socket.send(&frame).await;
        assert_eq!(socket.closed().await, Heard::Close(Some(code)), "{frame:?}");
        assert_eq!(socket.next().await, Heard::End, "{frame:?}");
    }
    assert_eq!(turn(&server, "works").await.json()["text"], "works");
}

/// A reader that is gone without a word is let go; one that answers pings stays.
#[tokio::test]
async fn signs_of_life() {
    let server = echo(&["--ping", "100ms", "--dead-after", "2s"]);
    turn(&server, "x").await;
    // Its silence begins with its connection, not with our knowledge of that.
    let began = Instant::now();
    let mut dead = RawWs::connect(server.address(), "/v1/sessions/s/events?after=2").await;
    let mut pings = 0;
    loop {
        match dead.next().await {
            Heard::Ping(_) => pings += 1,
            Heard::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(pings >= 2 && began.elapsed() >= Duration::from_secs(2), "{pings} pings, {:?}", began.elapsed());
    // This client answers them while it reads.
    let mut alive = server.connect("/v1/sessions/s/events?after=2").await;
    let idle = tokio::time::timeout(Duration::from_secs(5), alive.next()).await;
    assert!(idle.is_err(), "{idle:?}");
    turn(&server, "y").await;
    assert_eq!(take(&mut alive, 2).await[1]["text"], "y");
}

#[tokio::test]
async fn the_server_stops() {
    let mut server = echo(&[]);
    turn(&server, "x").await;
    let mut socket = server.connect("/v1/sessions/s/events").await;
    take(&mut socket, 2).await;
    server.signal(Signal::SIGTERM);
    assert_eq!(socket.close_code().await, Some(1001));
    drop(socket);
    assert_eq!(server.exited().await.code(), Some(0));
}

/// A reader that takes nothing keeps nobody waiting, and its end is seen.
#[tokio::test]
async fn a_reader_that_is_gone() {
    let server = echo(&[]);
    turn(&server, "x").await;
    // Sockets, and spill files for what they leave untaken.
    let open = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    server.idle().await;
    let before = open();
    for reset in [false, true] {
        let socket = RawWs::connect(server.address(), "/v1/sessions/s/events").await;
        assert_eq!(turn(&server, "@stream 20000 500").await.json()["outcome"], "answered");
        if reset {
            socket.reset();
        }
    }
    eventually("descriptors that are closed", || (open() <= before).then_some(())).await;
}
