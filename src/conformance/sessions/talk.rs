//! HTTP with a server of sessions, and the frames of a session's stream.

use super::Target;
use crate::outbound;
use crate::outbound::websocket::Socket;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long anything may take in which no agent has a part.
pub const SOON: Duration = Duration::from_secs(15);

pub struct Host<'a> {
    pub target: &'a Target,
    client: reqwest::Client,
}

/// An HTTP answer, read whole.
pub struct Answer {
    pub status: u16,
    pub cursor: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body, if the status is this one.
    pub fn expect(&self, status: u16) -> Result<Value, String> {
        if self.status == status { Ok(self.json()) } else { Err(self.in_words()) }
    }

    pub fn in_words(&self) -> String {
        format!("the answer was {} {}", self.status, cut(&self.text()))
    }

    /// That it is this status with this body.
    pub fn is(&self, status: u16, body: &Value) -> Result<(), String> {
        if self.status == status && self.json() == *body {
            Ok(())
        } else {
            Err(format!("{}, not {status} {body}", self.in_words()))
        }
    }
}

impl<'a> Host<'a> {
    pub fn new(target: &'a Target) -> Result<Self, String> {
        let builder = outbound::builder().map_err(|error| error.to_string())?.no_proxy().timeout(SOON);
        let client = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { target, client })
    }

    pub async fn ask(&self, method: &str, path: &str, body: Option<String>) -> Result<Answer, String> {
        let url = self.target.base.join(path).map_err(|error| format!("{path}: {error}"))?;
        let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
        let mut request = self.client.request(method, url);
        if let Some(token) = &self.target.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.send().await.map_err(|error| format!("{path}: {error}"))?;
        let status = answer.status().as_u16();
        let cursor = answer.headers().get("agentruntime-log-cursor");
        let cursor = cursor.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = answer.bytes().await.map_err(|error| format!("{path}: {error}"))?.to_vec();
        Ok(Answer { status, cursor, body })
    }

    pub async fn get(&self, path: &str) -> Result<Answer, String> {
        self.ask("GET", path, None).await
    }

    /// `POST /sessions`
    pub async fn post(&self, body: &Value) -> Result<Answer, String> {
        self.ask("POST", "/sessions", Some(body.to_string())).await
    }

    /// A session with one prompt.
    pub fn one_prompt(&self) -> Value {
        json!({"agent": self.target.agent, "prompt": self.target.prompt})
    }

    /// The id of a new session that stays.
    pub async fn interactive(&self) -> Result<String, String> {
        let created = self.post(&json!({"agent": self.target.agent, "interactive": true})).await?.expect(201)?;
        created["session_id"].as_str().map(str::to_owned).ok_or_else(|| format!("no session_id in {created}"))
    }

    /// Its end; a check has said what it has to say by then.
    pub async fn delete(&self, id: &str) {
        let _ = self.ask("DELETE", &format!("/sessions/{id}"), None).await;
    }

    /// The stream of a session.
    pub async fn stream(&self, id: &str, since: Option<u64>) -> Result<Stream, String> {
        let mut url = self.target.base.join(&format!("/ws/sessions/{id}")).map_err(|error| error.to_string())?;
        if let Some(since) = since {
            url.set_query(Some(&format!("since={since}")));
        }
        url.set_scheme("ws").map_err(|()| "no WebSocket can be asked for there".to_owned())?;
        let socket = Socket::connect(&url, self.target.token.as_ref(), SOON).await;
        let socket = socket.map_err(|error| error.to_string())?;
        Ok(Stream { socket, bytes: Vec::new(), offset: since.unwrap_or_default() })
    }
}

/// One client of a session's stream.
pub struct Stream {
    socket: Socket,
    /// Of the log, as far as they came.
    pub bytes: Vec<u8>,
    /// Behind the last of them.
    pub offset: u64,
}

impl Stream {
    pub async fn send(&mut self, frame: &Value) -> Result<(), String> {
        self.send_text(frame.to_string()).await
    }

    pub async fn send_text(&mut self, text: String) -> Result<(), String> {
        self.socket.send(text).await.map_err(|error| error.to_string())
    }

    /// The next frame. What it brings of the log is kept.
    pub async fn next(&mut self, within: Duration) -> Result<Value, String> {
        let text = self.socket.next_within(within).await.map_err(|error| error.to_string())?;
        let frame: Value = serde_json::from_str(&text).map_err(|error| format!("a frame is no JSON: {error}"))?;
        let data = frame["data"].as_str().unwrap_or_default();
        let bytes = match (frame["type"].as_str(), frame["encoding"].as_str()) {
            (Some("replay"), _) | (Some("stdout"), Some("base64")) => {
                STANDARD.decode(data).map_err(|error| format!("a replay is no base64: {error}"))?
            }
            (Some("stdout"), _) => data.as_bytes().to_vec(),
            _ => return Ok(frame),
        };
        let expected = self.offset + u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes.extend(bytes);
        match frame["offset"].as_u64() {
            // Without `since` the first offset tells where it began.
            Some(offset) if self.offset == 0 || offset == expected => self.offset = offset,
            offset => return Err(format!("the offset {offset:?} came where {expected} is the next")),
        }
        Ok(frame)
    }

    /// Reads up to a frame of this type, and gives it.
    pub async fn until(&mut self, kind: &str, within: Duration) -> Result<Value, String> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self.next(left).await.map_err(|problem| format!("waiting for `{kind}`: {problem}"))?;
            if frame["type"] == kind {
                return Ok(frame);
            }
        }
    }

    /// Reads until a line of this type is in what came since the `n`th byte.
    pub async fn until_line(&mut self, kind: &str, from: usize, within: Duration) -> Result<Value, String> {
        let deadline = Instant::now() + within;
        loop {
            let lines = self.bytes.get(from..).unwrap_or_default().split(|byte| *byte == b'\n');
            let mut lines = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
            if let Some(line) = lines.find(|line| line["type"] == kind) {
                return Ok(line);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self.next(left).await.map_err(|problem| format!("waiting for a `{kind}` line: {problem}"))?;
            if frame["type"] == "exit" {
                return Err(format!("the session ended before a `{kind}` line came"));
            }
        }
    }

    pub async fn until_closed(&mut self) -> Result<(), String> {
        match self.socket.next_within(SOON).await {
            Err(crate::outbound::websocket::SocketError::Ended(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(text) => Err(format!("another frame came: {}", cut(&text))),
        }
    }

    pub async fn close(self) {
        self.socket.close().await;
    }
}

pub fn cut(text: &str) -> String {
    const LONGEST: usize = 160;
    if text.len() <= LONGEST { text.to_owned() } else { format!("{}…", &text[..text.floor_char_boundary(LONGEST)]) }
}
