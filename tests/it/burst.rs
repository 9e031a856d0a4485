//! Many events at once, and three who read them: one at once, one that stalls, one that loses its connection again and
//! again. Each gets all of them, once and in order, and the server stays small.

use crate::support::raw_ws::RawWs;
use crate::support::{PATIENCE, Server, proc, read};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::Method;
use serde_json::Value;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Events of the turn besides its beginning and its end.
const EVENTS: u64 = 20_000;
/// The most the server may grow: 16 MiB.
const GROWTH_KIB: u64 = 16 << 10;
/// What happened before: the beginning and the end of one turn.
const BEFORE: u64 = 2;

#[derive(Debug, Clone, Copy)]
enum Way {
    Sse,
    WebSocket,
}

/// A connection that reads on behind `after`.
enum Reader {
    Sse { chunks: BoxStream<'static, Vec<u8>>, text: Vec<u8> },
    WebSocket(Box<RawWs>),
}

impl Reader {
    async fn open(server: &Server, way: Way, after: u64) -> Self {
        let path = format!("/v1/sessions/s/events?after={after}");
        match way {
            Way::WebSocket => Self::WebSocket(Box::new(RawWs::connect(server.address(), &path).await)),
            Way::Sse => {
                // A connection of its own: an abandoned stream ends it.
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                let asked = client.get(server.url(&path)).header("accept", "text/event-stream").send();
                let chunks = asked.await.unwrap().bytes_stream().map(|chunk| chunk.unwrap().to_vec());
                Self::Sse { chunks: chunks.boxed(), text: Vec::new() }
            }
        }
    }

    /// The next event.
    async fn next(&mut self) -> Value {
        match self {
            Self::WebSocket(socket) => serde_json::from_str(&socket.text().await).unwrap(),
            Self::Sse { chunks, text } => loop {
                if let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                    let event: Vec<u8> = text.drain(..end + 2).collect();
                    let event = String::from_utf8(event).unwrap();
                    let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
                    return serde_json::from_str(data).unwrap();
                }
                let chunk = tokio::time::timeout(PATIENCE, chunks.next()).await.expect("an event in time");
                text.extend(chunk.expect("a stream that goes on"));
            },
        }
    }

    /// Reads the events `after + 1` to `last`, and nothing else.
    async fn read(&mut self, after: u64, last: u64) {
        for seq in after + 1..=last {
            let event = self.next().await;
            assert_eq!(event["seq"], seq, "{event}");
            match seq - BEFORE {
                1 => assert_eq!(event["type"], "accepted"),
                n if n == EVENTS + 2 => {
                    assert_eq!((&event["type"], &event["outcome"]), (&"ended".into(), &"answered".into()));
                }
                n => {
                    let said = event["event"]["parts"][0].as_str().unwrap_or_else(|| panic!("no text: {event}"));
                    assert_eq!(said.trim_end_matches('.'), format!("message {}", n - 1));
                }
            }
        }
    }
}

async fn burst(way: Way, args: &[&str]) {
    let server = Server::start(&[&["--agent", "echo"], args].concat());
    let ask = |prompt: String, wait: &str| {
        let body = serde_json::json!({"prompt": prompt}).to_string();
        read(server.request(Method::POST, &format!("/v1/sessions/s/turns{wait}")).body(body))
    };
    assert_eq!(ask("warm".to_owned(), "?wait=20").await.status, 200);
    let end = BEFORE + EVENTS + 2;
    let mut readers = [
        Reader::open(&server, way, BEFORE).await,
        Reader::open(&server, way, BEFORE).await,
        Reader::open(&server, way, BEFORE).await,
    ];
    let idle = proc::private_kib(server.pid());
    let watch = proc::Watch::start(server.pid());
    let began = Instant::now();
    assert_eq!(ask(format!("@stream {EVENTS} 100"), "").await.status, 202);
    let [live, stalled, lost] = &mut readers;
    let live = async {
        live.read(BEFORE, end).await;
        began.elapsed()
    };
    let stalled = async {
        stalled.read(BEFORE, BEFORE + 1).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        stalled.read(BEFORE + 1, end).await;
    };
    let lost = async {
        let drawn = RandomState::new();
        let mut points: Vec<u64> = (0..5).map(|n| BEFORE + 1 + drawn.hash_one(n) % EVENTS).collect();
        points.sort_unstable();
        println!("the connection is lost behind {points:?}");
        let mut after = BEFORE;
        for point in points {
            lost.read(after, point).await;
            after = point;
            *lost = Reader::open(&server, way, after).await;
        }
        lost.read(after, end).await;
    };
    let (took, (), ()) = tokio::join!(live, stalled, lost);
    let grown = watch.most_kib().saturating_sub(idle);
    println!("{way:?} {args:?}: the live reader had all after {took:?}; {grown} KiB over {idle} KiB");
    assert!(grown <= GROWTH_KIB, "{grown} KiB over {idle} KiB");
}

#[tokio::test]
async fn over_sse_in_memory() {
    burst(Way::Sse, &[]).await;
}

#[tokio::test]
async fn over_a_websocket_in_memory() {
    burst(Way::WebSocket, &[]).await;
}

#[tokio::test]
async fn over_sse_with_a_store() {
    let folder = tempfile::tempdir().unwrap();
    burst(Way::Sse, &["--data-dir", folder.path().to_str().unwrap()]).await;
}

#[tokio::test]
async fn over_a_websocket_with_a_store() {
    let folder = tempfile::tempdir().unwrap();
    burst(Way::WebSocket, &["--data-dir", folder.path().to_str().unwrap()]).await;
}
