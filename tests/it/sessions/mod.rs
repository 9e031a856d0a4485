//! The agentruntime 0.8 protocol: sessions over HTTP, and their stream.

mod agents;
mod bad_requests;
mod better;
mod ends;
mod examples;
mod hooks;
mod many;
mod named;
mod past;
mod patience;
mod rest;
mod sidecar;
mod sockets;
mod stream;
mod tables;
mod wishes;

use crate::support::{HttpAnswer, PATIENCE, Server, WsClient, read};
use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub fn echo() -> Server {
    Server::start(&["--agent", "echo"])
}

pub async fn post(server: &Server, body: &Value) -> HttpAnswer {
    read(server.request(Method::POST, "/sessions").body(body.to_string())).await
}

/// Opens a session: its id.
pub async fn create(server: &Server, body: &Value) -> String {
    let answer = post(server, body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["session_id"].as_str().unwrap().to_owned()
}

/// A session of echo that has run its prompt.
pub async fn told(server: &Server, prompt: &str) -> String {
    let id = create(server, &json!({"agent": "echo", "prompt": prompt})).await;
    ended(server, &id).await;
    id
}

/// Waits for a session's end: its snapshot.
pub async fn ended(server: &Server, id: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let snapshot = server.get(&format!("/sessions/{id}")).await.json();
        if snapshot["state"] != "running" {
            return snapshot;
        }
        assert!(Instant::now() < deadline, "not ended within {PATIENCE:?}: {snapshot}\n{}", log(server, id).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn log(server: &Server, id: &str) -> String {
    let answer = server.get(&format!("/sessions/{id}/log")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")), "{answer:?}");
    answer.body
}

/// Lines of a log, each with the position behind it, as it should be.
pub fn parsed(log: &str, start: usize) -> Vec<Value> {
    let mut at = start;
    let lines = log.split_inclusive('\n').map(|line| {
        at += line.len();
        assert!(line.ends_with('\n'), "{line:?}");
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(value["offset"], at, "{line}");
        assert!(value["timestamp"].as_u64().unwrap() > 1_700_000_000_000, "{line}");
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        let known = ["type", "data", "offset", "timestamp", "exit_code"];
        assert!(keys.iter().all(|key| known.contains(&key.as_str())), "{line}");
        assert!(line.starts_with(r#"{"type":""#) && line.contains(r#"","data":{"#), "{line}");
        value
    });
    lines.collect()
}

pub async fn lines(server: &Server, id: &str) -> Vec<Value> {
    let all = parsed(&log(server, id).await, 0).into_iter();
    // They come by the clock.
    all.filter(|line| line["data"]["subtype"] != "heartbeat").collect()
}

pub fn kinds(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["type"].as_str().unwrap()).collect()
}

/// The lines of one type, their data.
pub fn of<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).map(|line| &line["data"]).collect()
}

pub async fn delete(server: &Server, id: &str) -> HttpAnswer {
    read(server.request(Method::DELETE, &format!("/sessions/{id}"))).await
}

/// A reader of a session's stream: puts its bytes together, and checks their order.
pub struct Reader {
    pub client: WsClient,
    pub bytes: Vec<u8>,
    /// Where the bytes begin.
    pub start: usize,
    pub connected: Option<Value>,
    /// Frames of data so far.
    pub frames: usize,
    /// How much of the bytes was looked at by `until_line`.
    read: usize,
}

impl Reader {
    pub async fn open(server: &Server, id: &str, since: &str) -> Self {
        let client = server.connect(&format!("/ws/sessions/{id}{since}")).await;
        let start = since.strip_prefix("?since=").and_then(|since| since.parse().ok()).unwrap_or(0);
        Self { client, bytes: Vec::new(), start, connected: None, frames: 0, read: 0 }
    }

    /// The next frame; its bytes are added.
    pub async fn next(&mut self) -> Option<Value> {
        let frame = self.client.next().await?;
        let data = frame["data"].as_str();
        match frame["type"].as_str().unwrap() {
            "replay" => {
                assert!(self.connected.is_none(), "a replay after the beginning: {frame}");
                let data = base64::engine::general_purpose::STANDARD.decode(data.unwrap()).unwrap();
                self.bytes.extend(data);
            }
            "stdout" => {
                assert!(self.connected.is_some() && data.unwrap().ends_with('\n'), "{frame}");
                self.bytes.extend(data.unwrap().as_bytes());
            }
            "connected" => {
                self.connected = Some(frame.clone());
                if self.bytes.is_empty() {
                    self.start = usize::try_from(frame["offset"].as_u64().unwrap()).unwrap();
                }
                return Some(frame);
            }
            _ => return Some(frame),
        }
        self.frames += 1;
        assert_eq!(frame["offset"], self.start + self.bytes.len(), "{frame}");
        assert!(frame.get("gap").is_none(), "{frame}");
        Some(frame)
    }

    /// The next frame of this type.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("the connection ended before {kind}"));
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Waits until a line of this type came that has not come before; all lines since.
    pub async fn until_line(&mut self, kind: &str) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let from = self.read;
            let text = std::str::from_utf8(&self.bytes[from..]).unwrap();
            let lines = parsed(text, self.start + from);
            self.read = self.bytes.len();
            all.extend(lines.into_iter().filter(|line| line["data"]["subtype"] != "heartbeat"));
            if all.iter().any(|line| line["type"] == kind) {
                return all;
            }
            assert!(self.next().await.is_some(), "the connection ended before {kind}");
        }
    }

    pub async fn send(&mut self, frame: Value) {
        self.client.send(&frame).await;
    }

    pub async fn prompt(&mut self, text: &str) {
        self.send(json!({"type": "stdin", "data": format!("{text}\n")})).await;
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }
}
