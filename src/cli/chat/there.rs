//! A talk with a running server, as a RuntimeUse client has it.
//!
//! Owns the session's name and the frames. The server keeps the state.

use super::Step;
use crate::config::ConfigError;
use crate::model::{Answer, CancelReason, Ending, Event, Fault, FaultCode, Outcome, RawJson};
use crate::outbound::websocket::{self, Socket, SocketError};
use crate::redact::Secret;
use crate::wire::record::SeriesReader;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

pub struct There {
    /// Without the session, if that is ours.
    url: Url,
    token: Option<Secret>,
    system_prompt: Option<String>,
    model: Option<String>,
    session: String,
    socket: Option<Socket>,
    /// Whether the server tells every event; not known before the first message.
    tells_events: Option<bool>,
    /// A message that an event with the same text may follow.
    held: Option<Vec<String>>,
    /// The next step, where a frame made two.
    next: Option<Step>,
}

/// What matters of a frame.
#[derive(Deserialize)]
struct Frame<'a> {
    message_type: String,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(default)]
    text_blocks: Vec<String>,
    #[serde(default)]
    text: String,
    #[serde(default)]
    error: String,
    terminal: Option<bool>,
    #[serde(borrow, default)]
    data: Option<Data<'a>>,
    #[serde(default)]
    filepath: String,
}

#[derive(Deserialize)]
struct Data<'a> {
    text: Option<String>,
    #[serde(borrow)]
    structured_output: Option<&'a RawValue>,
}

impl There {
    pub async fn connect(
        url: Url,
        token: Option<Secret>,
        system_prompt: Option<String>,
        model: Option<String>,
    ) -> Result<Self, ConfigError> {
        let given = url.query_pairs().find(|(name, _)| name == "session").map(|(_, name)| name.into_owned());
        let session = given.unwrap_or_else(draw_name);
        let (socket, tells_events, held, next) = (None, None, None, None);
        let mut there = Self { url, token, system_prompt, model, session, socket, tells_events, held, next };
        there.open().await.map_err(ConfigError)?;
        Ok(there)
    }

    async fn open(&mut self) -> Result<(), String> {
        let mut url = self.url.clone();
        let others = url.query_pairs().filter(|(name, _)| name != "session");
        let others: Vec<(String, String)> = others.map(|(name, value)| (name.into(), value.into())).collect();
        url.query_pairs_mut().clear().extend_pairs(others).append_pair("session", &self.session);
        let socket = Socket::connect(&url, self.token.as_ref(), CONNECT).await;
        self.socket = Some(socket.map_err(|error| error.to_string())?);
        Ok(())
    }

    pub fn name(&self) -> String {
        format!("{}, session {}", websocket::shown(&self.url), self.session)
    }

    pub async fn begin(&mut self, prompt: &str) -> Result<(), String> {
        let message = json!({
            "message_type": "invocation_message",
            "system_prompt": self.system_prompt.as_deref().unwrap_or_default(),
            "user_prompt": prompt,
            "model": self.model.as_deref().unwrap_or_default(),
            "secrets_to_redact": [],
            "extensions": ["events", "notices"],
        });
        // What came after the end of the turn before, such as the end of the connection.
        if self.send(message.to_string()).await.is_ok() {
            return Ok(());
        }
        self.open().await?;
        self.send(message.to_string()).await.map_err(|error| error.to_string())
    }

    async fn send(&mut self, text: String) -> Result<(), SocketError> {
        match &mut self.socket {
            Some(socket) => socket.send(text).await,
            None => Err(SocketError::Ended(None)),
        }
    }

    /// Cancel-safe.
    pub async fn next(&mut self) -> Step {
        if let Some(step) = self.next.take() {
            return step;
        }
        loop {
            let Some(socket) = &mut self.socket else { return lost("there is no connection") };
            let text = match socket.next().await {
                Ok(text) => text,
                Err(error) => {
                    self.socket = None;
                    return lost(&format!("{error}; the next turn connects again"));
                }
            };
            let Some(step) = self.step(&text) else { continue };
            // Nothing but an event with the same text tells that the message will come twice.
            if !matches!(step, Step::Aside(_))
                && let Some(parts) = self.held.take()
            {
                self.tells_events = Some(false);
                self.next = Some(step);
                return Step::Said(Event::Text { block: None, parts });
            }
            return step;
        }
    }

    /// What a frame is worth telling.
    fn step(&mut self, text: &str) -> Option<Step> {
        let Ok(frame) = serde_json::from_str::<Frame<'_>>(text) else {
            return Some(Step::Aside("[a frame that is no message]".to_owned()));
        };
        match frame.message_type.as_str() {
            "event_message" => {
                self.tells_events = Some(true);
                self.held = None;
                let event = SeriesReader::default().read(frame.event?.get().as_bytes()).ok()?;
                Some(Step::Said(event))
            }
            "assistant_message" => match self.tells_events {
                Some(true) => None,
                Some(false) => Some(Step::Said(Event::Text { block: None, parts: frame.text_blocks })),
                None => {
                    let before = self.held.replace(frame.text_blocks)?;
                    self.tells_events = Some(false);
                    let parts = self.held.take()?;
                    self.next = Some(Step::Said(Event::Text { block: None, parts }));
                    Some(Step::Said(Event::Text { block: None, parts: before }))
                }
            },
            "command_output_message" if self.tells_events != Some(true) => Some(Step::Aside(frame.text)),
            "notice_message" if self.tells_events != Some(true) || frame.text.starts_with("input_message") => {
                Some(Step::Aside(format!("[{}]", frame.text)))
            }
            "artifact_upload_request_message" => Some(Step::Aside(format!("[file] {}", frame.filepath))),
            "result_message" => {
                let data = frame.data?;
                let answer = match (data.text, data.structured_output) {
                    (Some(text), _) => Answer::Text(text),
                    (None, Some(json)) => Answer::Structured(RawJson::from_valid(json.get())),
                    (None, None) => Answer::Text(String::new()),
                };
                Some(Step::Ended(Arc::new(Outcome::new(Ending::Answered(answer)))))
            }
            "error_message" if frame.terminal == Some(false) => Some(Step::Aside(format!("[{}]", frame.error))),
            "error_message" if frame.error == "Request cancelled" => {
                Some(Step::Ended(Arc::new(Outcome::new(Ending::Cancelled(CancelReason::Caller)))))
            }
            "error_message" => Some(lost(&frame.error)),
            _ => None,
        }
    }

    /// A server that cannot pass it on says so in a notice.
    pub async fn steer(&mut self, text: &str) -> bool {
        let message = json!({"message_type": "input_message", "text": text});
        self.send(message.to_string()).await.is_ok()
    }

    pub async fn cancel(&mut self) {
        // A connection that is lost ends the turn as well.
        let _ = self.send(json!({"message_type": "cancel_message"}).to_string()).await;
    }

    pub fn state(&self) -> String {
        format!("the server keeps the state of session {}", self.session)
    }

    pub async fn reset(&mut self) -> Result<(), String> {
        self.session = draw_name();
        if let Some(socket) = self.socket.take() {
            socket.close().await;
        }
        self.open().await
    }

    pub async fn stop(self) {
        if let Some(socket) = self.socket {
            socket.close().await;
        }
    }
}

fn draw_name() -> String {
    format!("chat-{}", uuid::Uuid::new_v4().simple())
}

fn lost(why: &str) -> Step {
    Step::Ended(Arc::new(Outcome::new(Ending::Failed(Fault::new(FaultCode::HandlerFailed, why)))))
}
