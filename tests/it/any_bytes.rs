//! No sequence of bytes makes the server unreachable: as a body, on the bare port, as messages, as frames.
//!
//! A few hundred cases each, bounded in count and in time, half of them noise and half of them something right with
//! something wrong in it. After every batch the server answers its health check within a second and takes a turn.

use crate::support::raw_ws::{Frame, Heard, RawWs};
use crate::support::{PATIENCE, Server, raw_http};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Cases of one test, in batches of this many.
const CASES: usize = 400;
const BATCH: usize = 50;
/// No more batches are begun after this.
const TIME: Duration = Duration::from_secs(15);

/// Draws the cases. A failure prints its case; the seed is fixed, so it comes again.
fn cases<S: Strategy>(strategy: S) -> impl Iterator<Item = S::Value> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    std::iter::from_fn(move || Some(strategy.new_tree(&mut runner).expect("a case").current()))
}

/// Runs `one` on case after case, and checks the server in between.
async fn survives<S: Strategy>(strategy: S, one: impl AsyncFn(&Server, S::Value)) {
    let mut server = Server::start(&["--agent", "echo", "--body-timeout", "500ms", "--max-message-bytes", "100000"]);
    let client = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().unwrap();
    let began = Instant::now();
    let mut cases = cases(strategy);
    let mut done = 0;
    while done < CASES && began.elapsed() < TIME {
        for case in cases.by_ref().take(BATCH) {
            tokio::time::timeout(PATIENCE, one(&server, case)).await.expect("an end of the case");
            done += 1;
        }
        let health = client.get(server.url("/health")).send().await.expect("health within a second");
        assert_eq!(health.status().as_u16(), 200);
        assert_eq!(server.advance_raw(r#"{"input":"hi"}"#).await.body, r#"{"text":"hi","state":{"v":1,"turn":1}}"#);
        let mut socket = server.connect("/").await;
        socket.query("hi").await;
        assert_eq!(socket.terminal().await["data"]["text"], "hi");
        assert!(server.is_running());
    }
    assert!(done >= BATCH, "only {done} cases in {TIME:?}");
    server.idle().await;
}

/// Noise, or one of these texts with some of its bytes taken out, put in or changed.
fn bytes(right: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let noise = vec(any::<u8>(), 0..2000);
    let bent = (prop::sample::select(right), vec((any::<prop::sample::Index>(), 0..3u8, any::<u8>()), 0..6));
    let bent = bent.prop_map(|(text, changes)| {
        let mut text = text.as_bytes().to_vec();
        for (at, how, byte) in changes {
            let at = at.index(text.len() + 1);
            match how {
                0 => text.insert(at, byte),
                1 if at < text.len() => text[at] = byte,
                _ if at < text.len() => drop(text.remove(at)),
                _ => {}
            }
        }
        text
    });
    // JSON of every shape, none of it meant for anybody.
    let json = vec(
        prop::sample::select(
            &["{", "}", "[", "]", ":", ",", "\"", "\\u", "d83d", "1e999", "-", "null", " ", "\"input\""][..],
        ),
        0..60,
    );
    prop_oneof![noise, bent.boxed(), json.prop_map(|tokens| tokens.concat().into_bytes())]
}

const BODIES: &[&str] = &[
    r#"{"input":"hi","state":{"v":1,"turn":3},"session_id":"s"}"#,
    r#"{"input":{"content":[{"type":"text","text":"hi"},{"type":"file","path":"/etc/passwd"}]},"message_id":"m"}"#,
    r#"{"messages":[{"role":"user","content":"grüße \ud83d\ude00"}],"state":"{\"a\":1}"}"#,
];

const MESSAGES: &[&str] = &[
    r#"{"message_type":"invocation_message","user_prompt":"hi","secrets_to_redact":["s"],"request_id":"q"}"#,
    r#"{"message_type":"invocation_message","user_prompt":"@stream 3","extensions":["events","notices"],"timeout_ms":5}"#,
    r#"{"message_type":"command_execution_message","commands":[{"command":"true","env":{"A":"b"}}]}"#,
    r#"{"message_type":"artifact_upload_response_message","filename":"a","filepath":"/a","presigned_url":"x"}"#,
    r#"{"message_type":"cancel_message","request_id":"q"}"#,
    r#"{"message_type":"end_session_message"}"#,
];

const REQUESTS: &[&str] = &[
    "POST /runtime/advance HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n\r\n{\"input\":\"hi\"}",
    "POST /runtime/advance HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{\"input\":\"hi\"}\r\n0\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    "GET /?session=x HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: \
     13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\u{1}\u{2}\u{3}",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

#[tokio::test]
async fn as_a_body() {
    survives(bytes(BODIES), async |server, body| {
        let answer = server.advance_raw(body.clone()).await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!([200, 400, 422].contains(&answer.status), "{answer:?} for {body:?}");
        let members = answer.json();
        let key = if answer.status == 200 { "text" } else { "detail" };
        assert!(members == serde_json::json!({}) || members[key].is_string(), "{answer:?} for {body:?}");
    })
    .await;
}

#[tokio::test]
async fn on_the_bare_port() {
    // Whether the client then waits, half-closes, or is gone.
    survives((bytes(REQUESTS), 0..3u8), async |server, (bytes, end)| {
        let mut stream = TcpStream::connect(server.address()).await.expect("the port is open");
        stream.write_all(&bytes).await.expect("the port takes bytes");
        if end == 0 {
            return;
        }
        if end == 1 {
            let _ = stream.shutdown().await;
        }
        // What comes is HTTP, if anything comes.
        let mut answer = [0; 64];
        let read = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut answer)).await;
        if let Ok(Ok(read @ 5..)) = read {
            assert!(answer[..read].starts_with(b"HTTP/"), "{:?}", String::from_utf8_lossy(&answer[..read]));
        }
    })
    .await;
}

/// Everything the server says is a frame in order and a text in JSON: `RawWs` checks the one, this the other.
async fn hear_out(mut socket: RawWs) {
    loop {
        match socket.next().await {
            Heard::Text(text) => {
                let frame: serde_json::Value =
                    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
                assert!(frame["message_type"].is_string(), "{text}");
            }
            Heard::Pong(payload) if payload == b"the last" => return,
            Heard::Close(_) | Heard::End => return,
            Heard::Ping(_) | Heard::Pong(_) => {}
        }
    }
}

#[tokio::test]
async fn as_messages() {
    let messages = vec((bytes(MESSAGES), any::<bool>()), 1..8);
    survives(messages, async |server, messages| {
        let mut socket = RawWs::connect(server.address(), "/").await;
        for (payload, as_text) in messages {
            let text = String::from_utf8_lossy(&payload).into_owned();
            let frame = if as_text { Frame::text(text) } else { Frame::new(crate::support::raw_ws::BINARY, payload) };
            // It may have been told to end the session.
            if socket.try_send(&frame.bytes()).await.is_err() {
                return;
            }
        }
        let _ = socket.try_send(&Frame::new(crate::support::raw_ws::PING, "the last").bytes()).await;
        hear_out(socket).await;
    })
    .await;
}

#[tokio::test]
async fn as_frames() {
    let frame = (0..16u8, any::<bool>(), 0..40u8, any::<bool>(), any::<Option<u32>>(), bytes(MESSAGES));
    let frames = vec((frame, 0..10u8), 1..8);
    survives(frames, async |server, frames| {
        let mut socket = RawWs::connect(server.address(), "/").await;
        for ((opcode, is_open, reserved, is_masked, declared, payload), oddity) in frames {
            // Most frames have one thing wrong with them, or none; otherwise nothing would come beyond the first.
            let opcode = if oddity == 0 { opcode } else { [1, 2, 0, 9][usize::from(opcode % 4)] };
            let mut frame = Frame::new(opcode, payload);
            if is_open && opcode < 8 {
                frame = frame.open();
            }
            if oddity == 1 {
                frame = frame.reserved(reserved % 8);
            }
            if oddity == 2 && !is_masked {
                frame = frame.unmasked();
            }
            if let (3, Some(length)) = (oddity, declared) {
                frame = frame.declaring(u64::from(length) << (reserved % 32));
            }
            if socket.try_send(&frame.bytes()).await.is_err() {
                return;
            }
        }
        // A frame that never ends would be waited for: this one ends the connection whatever came before.
        let _ = socket.try_send(&Frame::close(1000, b"").bytes()).await;
        let _ = tokio::time::timeout(Duration::from_millis(50), hear_out(socket)).await;
    })
    .await;
}

#[tokio::test]
async fn as_bytes_behind_an_upgrade() {
    survives(vec(any::<u8>(), 0..500), async |server, bytes| {
        let mut socket = RawWs::connect(server.address(), "/").await;
        let _ = socket.try_send(&bytes).await;
        let _ = tokio::time::timeout(Duration::from_millis(20), hear_out(socket)).await;
    })
    .await;
}

/// A hundred clients at once that each begin something and leave it, and the next one is served.
#[tokio::test]
async fn as_beginnings_without_an_end() {
    let mut server = Server::start(&["--agent", "echo"]);
    let head = "POST /runtime/advance HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{\"input\":";
    let mut open = Vec::new();
    for cut in (0..head.len()).chain(0..head.len()) {
        let mut stream = TcpStream::connect(server.address()).await.expect("the port is open");
        stream.write_all(&head.as_bytes()[..cut]).await.expect("the port takes bytes");
        open.push(stream);
    }
    let began = Instant::now();
    let answer = raw_http::request(server.address(), "GET /health", "", b"").await;
    assert!(answer.status == 200 && began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(server.advance_raw(r#"{"input":"hi"}"#).await.status, 200);
    assert_eq!(server.get("/health").await.json()["turns"], 0);
    assert!(server.is_running());
}
