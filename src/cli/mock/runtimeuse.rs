//! A RuntimeUse client that asks each turn under a key, so that it may ask again.
//!
//! Owns its frames and its connections: one per turn and try. A server that knows no keys runs a turn that is asked again.

use super::chaos::Fate;
use super::{Rules, START, Seen, short};
use crate::config::ConfigError;
use crate::outbound::websocket::{Socket, SocketError};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use url::Url;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// Before a turn is asked again whose connection was lost.
const BACK_OFF: Duration = Duration::from_millis(200);
/// Between two looks whether the server is there.
const POLL: Duration = Duration::from_millis(100);

pub struct Client {
    url: Url,
    session: String,
    rules: Rules,
}

impl Client {
    pub async fn new(url: Url, session: String, rules: Rules) -> Result<Self, ConfigError> {
        let client = Self { url, session, rules };
        let began = Instant::now();
        loop {
            match Socket::connect(&client.url, client.rules.token.as_ref(), CONNECT).await {
                Ok(socket) => {
                    socket.close().await;
                    return Ok(client);
                }
                Err(SocketError::Unreachable(_)) if began.elapsed() < START => tokio::time::sleep(POLL).await,
                Err(error) => return Err(ConfigError(error.to_string())),
            }
        }
    }

    pub async fn turn(&self, n: u64, prompt: &str, fate: &Fate) -> Seen {
        let key = format!("turn-{n}");
        let message = json!({
            "message_type": "invocation_message", "source_id": key, "system_prompt": "", "user_prompt": prompt,
            "model": "", "secrets_to_redact": [],
        });
        let message = message.to_string();
        let mut seen = Seen::default();
        for cut in &fate.drops {
            seen.dropped += 1;
            seen.retries += 1;
            match tokio::time::timeout(*cut, self.ask(&key, &message, None)).await {
                Ok(Ok(answer)) => seen.answers.push(answer),
                Ok(Err(problem)) => seen.problem = problem,
                Err(_) => self.rules.wire.sent("(dropped)"),
            }
        }
        for tried in 1..=self.rules.tries {
            let asked = self.ask(&key, &message, fate.slow);
            let answered = if fate.twin {
                seen.copies += 1;
                let (one, other) = tokio::join!(asked, self.ask(&key, &message, None));
                seen.answers.extend(other.ok());
                one
            } else {
                asked.await
            };
            match answered {
                Ok(answer) => {
                    seen.answers.push(answer);
                    break;
                }
                Err(problem) => {
                    seen.problem = problem;
                    if tried < self.rules.tries {
                        seen.retries += 1;
                        tokio::time::sleep(BACK_OFF).await;
                    }
                }
            }
        }
        if fate.again && !seen.answers.is_empty() {
            seen.copies += 1;
            let again = self.ask(&key, &message, None).await;
            seen.answers.push(again.unwrap_or_else(|problem| format!("none ({problem})")));
        }
        seen
    }

    /// The turn's one terminal, as it came.
    async fn ask(&self, key: &str, message: &str, late: Option<Duration>) -> Result<String, String> {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("session", &self.session).append_pair("turn", key);
        let in_words = |error: SocketError| error.to_string();
        let token = self.rules.token.as_ref();
        let mut socket = Socket::connect(&url, token, CONNECT).await.map_err(in_words)?;
        self.rules.wire.sent(message);
        socket.send(message).await.map_err(in_words)?;
        if let Some(late) = late {
            tokio::time::sleep(late).await;
        }
        let deadline = Instant::now() + self.rules.limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let text = socket.next_within(left).await.map_err(in_words)?;
            self.rules.wire.got(&text);
            let Ok(frame) = serde_json::from_str::<Value>(&text) else {
                return Err(format!("a frame that is no JSON: {}", short(&text)));
            };
            match frame["message_type"].as_str() {
                Some("result_message" | "error_message") if frame["terminal"] != false => {
                    socket.close().await;
                    return Ok(text);
                }
                _ => {}
            }
        }
    }
}

/// What a terminal says.
pub fn text_of(terminal: &str) -> Result<String, String> {
    let frame: Value = serde_json::from_str(terminal).unwrap_or_default();
    let data = &frame["data"];
    match (frame["message_type"].as_str(), data["type"].as_str()) {
        (Some("result_message"), Some("text")) if data["text"].is_string() => {
            Ok(data["text"].as_str().unwrap_or_default().to_owned())
        }
        (Some("result_message"), Some("structured_output")) if data["structured_output"].is_object() => {
            Ok(data["structured_output"].to_string())
        }
        (Some("error_message"), _) if frame["error"].is_string() => {
            Ok(format!("error: {}", frame["error"].as_str().unwrap_or_default()))
        }
        _ => Err(format!("the terminal is not one of the contract: {}", short(terminal))),
    }
}
