//! A RuntimeUse client that looks at every frame.

use super::Target;
use crate::outbound::websocket::{Socket, SocketError};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long anything may take in which no agent has a part.
pub const SOON: Duration = Duration::from_secs(15);
/// What a Python client takes in one message.
const CLIENT_TAKES: usize = 1 << 20;

pub struct Client {
    socket: Socket,
}

/// What came of one request.
pub struct Answered {
    /// Every frame, the terminal last.
    pub frames: Vec<Value>,
    /// Of the longest frame, in bytes.
    pub longest: usize,
}

impl Answered {
    pub fn terminal(&self) -> &Value {
        self.frames.last().unwrap_or(&Value::Null)
    }

    pub fn kind(&self) -> &str {
        self.terminal()["message_type"].as_str().unwrap_or_default()
    }

    /// The terminal, if it is of this kind.
    pub fn expect(&self, kind: &str) -> Result<&Value, String> {
        if self.kind() == kind {
            Ok(self.terminal())
        } else {
            Err(format!("the answer was {}", short(self.terminal())))
        }
    }

    /// The output of commands on one stream, in one piece.
    pub fn output(&self, stream: &str) -> String {
        let frames = self.frames.iter();
        let output = frames.filter(|frame| frame["message_type"] == "command_output_message");
        output.filter(|frame| frame["stream"] == stream).filter_map(|frame| frame["text"].as_str()).collect()
    }

    pub fn fits_a_client(&self) -> Result<(), String> {
        if self.longest <= CLIENT_TAKES {
            Ok(())
        } else {
            Err(format!("a frame of {} bytes, and clients take {CLIENT_TAKES}", self.longest))
        }
    }
}

impl Client {
    pub async fn connect(target: &Target) -> Result<Self, String> {
        let socket = Socket::connect(&target.url, target.token.as_ref(), CONNECT).await;
        Ok(Self { socket: socket.map_err(|error| error.to_string())? })
    }

    pub async fn send(&mut self, message: &Value) -> Result<(), String> {
        self.send_text(message.to_string()).await
    }

    pub async fn send_text(&mut self, text: String) -> Result<(), String> {
        self.socket.send(text).await.map_err(|error| error.to_string())
    }

    /// The next frame that is not a heartbeat.
    pub async fn next(&mut self, within: Duration) -> Result<(Value, usize), String> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let text = self.socket.next_within(left).await.map_err(|error| match error {
                SocketError::Silent(_) => format!("nothing came within {within:?}"),
                other => other.to_string(),
            })?;
            let frame: Value =
                serde_json::from_str(&text).map_err(|error| format!("a frame is no JSON: {error}: {}", cut(&text)))?;
            if frame["message_type"] != "heartbeat_message" {
                return Ok((frame, text.len()));
            }
        }
    }

    /// Everything up to the terminal of a request, that included.
    pub async fn answer(&mut self, within: Duration) -> Result<Answered, String> {
        let mut answered = Answered { frames: Vec::new(), longest: 0 };
        loop {
            let (frame, length) = self.next(within).await?;
            answered.longest = answered.longest.max(length);
            let ends = is_terminal(&frame);
            answered.frames.push(frame);
            if ends {
                return Ok(answered);
            }
        }
    }

    /// A request of commands, and its answer.
    pub async fn commands(&mut self, commands: &[&str], more: Value) -> Result<Answered, String> {
        self.send(&commands_message(commands, more)).await?;
        self.answer(SOON).await
    }

    /// That nothing more comes: the next frame is that of a command of ours.
    pub async fn is_in_step(&mut self) -> Result<(), String> {
        let answered = self.commands(&["printf in-step"], json!({})).await?;
        if answered.output("stdout") != "in-step" {
            return Err(format!("the next request was answered with {}", short(answered.terminal())));
        }
        let strange = answered.frames.iter().find(|frame| {
            let kind = frame["message_type"].as_str();
            !matches!(kind, Some("command_output_message" | "command_execution_result_message"))
        });
        strange.map_or(Ok(()), |frame| Err(format!("something else came first: {}", short(frame))))
    }

    /// The end of the connection.
    pub async fn until_closed(&mut self, within: Duration) -> Result<(), String> {
        match self.socket.next_within(within).await {
            Err(SocketError::Ended(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(text) => Err(format!("another frame came: {}", cut(&text))),
        }
    }

    pub async fn close(self) {
        self.socket.close().await;
    }
}

pub fn query_message(prompt: &str, more: Value) -> Value {
    let message = json!({
        "message_type": "invocation_message", "source_id": "conform", "system_prompt": "", "user_prompt": prompt,
        "model": "", "secrets_to_redact": [],
    });
    with(message, more)
}

pub fn commands_message(commands: &[&str], more: Value) -> Value {
    let commands: Vec<Value> = commands.iter().map(|command| json!({"command": command})).collect();
    let message = json!({"message_type": "command_execution_message", "secrets_to_redact": [], "commands": commands});
    with(message, more)
}

fn with(mut message: Value, more: Value) -> Value {
    if let (Value::Object(message), Value::Object(more)) = (&mut message, more) {
        message.extend(more);
    }
    message
}

pub fn is_terminal(frame: &Value) -> bool {
    let kind = frame["message_type"].as_str();
    matches!(kind, Some("result_message" | "error_message" | "command_execution_result_message"))
        && frame["terminal"] != false
}

/// What is wrong with the form of a frame.
pub fn wrong_form(frame: &Value) -> Option<String> {
    let kind = frame["message_type"].as_str().unwrap_or_default();
    let strings = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let all = |names: &[&str]| names.iter().all(|name| frame[*name].is_string());
    let fits = match kind {
        "assistant_message" => strings(&frame["text_blocks"]),
        "command_output_message" => {
            all(&["text", "command"]) && matches!(frame["stream"].as_str(), Some("stdout" | "stderr"))
        }
        "artifact_upload_request_message" => all(&["filename", "filepath"]),
        "error_message" => all(&["error"]) && frame["metadata"].is_object(),
        "result_message" => {
            let data = &frame["data"];
            frame["metadata"].is_object()
                && match data["type"].as_str() {
                    Some("text") => data["text"].is_string() && data.as_object().is_some_and(|data| data.len() == 2),
                    Some("structured_output") => {
                        data["structured_output"].is_object() && data.as_object().is_some_and(|data| data.len() == 2)
                    }
                    _ => false,
                }
        }
        "command_execution_result_message" => frame["results"].as_array().is_some_and(|results| {
            let fits = |one: &Value| {
                one["command"].is_string()
                    && one["exit_code"].is_i64()
                    && (one.get("stdout").is_none() || one["stdout"].is_string())
            };
            results.iter().all(fits)
        }),
        "heartbeat_message" | "end_session_confirm_message" => true,
        _ => return Some(format!("a type that no client has asked for: {}", short(frame))),
    };
    (!fits).then(|| format!("not the form of its type: {}", short(frame)))
}

pub fn short(frame: &Value) -> String {
    cut(&frame.to_string())
}

fn cut(text: &str) -> String {
    const LONGEST: usize = 160;
    if text.len() <= LONGEST { text.to_owned() } else { format!("{}…", &text[..text.floor_char_boundary(LONGEST)]) }
}
