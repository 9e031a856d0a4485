//! One connection to a session of a server.
//!
//! Owns the WebSocket and the frames that come. What is lost can be asked for again from the last byte that came.

use crate::config::AttachConfig;
use crate::wire::session_client::{BridgeFrame, Refused};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// A connection, the upgrade included, takes no longer.
const OPENING: Duration = Duration::from_secs(15);
/// A server that takes nothing for so long is gone.
const SENDING: Duration = Duration::from_secs(30);
/// A server that says nothing for so long is gone: it pings every 30 seconds.
const SILENT: Duration = Duration::from_secs(90);
/// The longest frame: one line of a log, in base64, with room to spare.
const FRAME: usize = 256 << 20;

/// Why there is no connection. The text is a sentence without its end.
#[derive(Debug)]
pub enum LinkError {
    /// It may come about later.
    Lost(String),
    /// It will not.
    Refused(String),
}

/// What came.
#[derive(Debug)]
pub enum Heard {
    /// Bytes of the log.
    Log { bytes: Vec<u8>, end: u64, is_gap: bool },
    /// What comes from here on is live.
    Connected { end: Option<u64>, unanswered: Option<u32> },
    /// Something that we sent was wrong.
    Error(String),
    /// The session has ended.
    Exit { code: i32, reason: Option<String> },
    /// A sign of life, or something that we do not know.
    Nothing,
}

/// One connection.
pub struct Link {
    socket: WebSocketStream<TcpStream>,
}

impl Link {
    /// Connects to the session.
    pub async fn open(config: &AttachConfig, since: Option<u64>) -> Result<Self, LinkError> {
        match tokio::time::timeout(OPENING, Self::connect(config, since)).await {
            Ok(opened) => opened,
            Err(_) => {
                let text = format!("the server at {} did not answer within {} s", config.server.url, OPENING.as_secs());
                Err(LinkError::Lost(text))
            }
        }
    }

    async fn connect(config: &AttachConfig, since: Option<u64>) -> Result<Self, LinkError> {
        let url = &config.server.url;
        let stream = TcpStream::connect((config.host.as_str(), config.port)).await;
        let stream = stream.map_err(|error| LinkError::Lost(super::super::servers::nobody(url, &error.to_string())))?;
        let _ = stream.set_nodelay(true);
        let id = percent_encoding::utf8_percent_encode(&config.id, percent_encoding::NON_ALPHANUMERIC);
        let since = since.map_or_else(String::new, |since| format!("?since={since}"));
        let place = url.replacen("http", "ws", 1);
        let request = format!("{place}/ws/sessions/{id}{since}").into_client_request();
        let mut request = request.map_err(|error| LinkError::Refused(format!("{url}: {error}")))?;
        if let Some(token) = &config.server.token {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            let value =
                value.map_err(|_| LinkError::Refused("the token has characters that no header may have".into()))?;
            request.headers_mut().insert("authorization", value);
        }
        let mut limits = WebSocketConfig::default();
        limits.max_message_size = Some(FRAME);
        limits.max_frame_size = Some(FRAME);
        match tokio_tungstenite::client_async_with_config(request, stream, Some(limits)).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(Error::Http(answer)) => Err(refused(config, &answer)),
            Err(error) => Err(LinkError::Lost(format!("the server at {url} broke off: {error}"))),
        }
    }

    /// The next frame; the error is why there is none. Cancel-safe.
    pub async fn next(&mut self) -> Result<Heard, String> {
        match tokio::time::timeout(SILENT, self.socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => Ok(heard(&text)),
            Ok(Some(Ok(Message::Close(_))) | None) => Err("the connection was closed".to_owned()),
            Ok(Some(Ok(_))) => Ok(Heard::Nothing),
            Ok(Some(Err(error))) => Err(format!("the connection was lost ({error})")),
            Err(_) => Err(format!("the server was silent for {} s", SILENT.as_secs())),
        }
    }

    /// Sends a frame; the error is why it could not be sent.
    pub async fn send(&mut self, frame: String) -> Result<(), String> {
        match tokio::time::timeout(SENDING, self.socket.send(Message::text(frame))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the connection was lost ({error})")),
            Err(_) => Err(format!("the server took nothing for {} s", SENDING.as_secs())),
        }
    }
}

/// What an answer that is no upgrade means.
fn refused(config: &AttachConfig, answer: &Response<Option<Vec<u8>>>) -> LinkError {
    let (url, id) = (&config.server.url, &config.id);
    let body = answer.body().as_deref().unwrap_or_default();
    let said: Refused = serde_json::from_slice(body).unwrap_or_default();
    let text = match (answer.status().as_u16(), said.error.as_str()) {
        (401, _) => super::super::servers::unauthorized(url, config.server.token.is_some()),
        (404, "session not found") => format!("there is no session {id} at {url}"),
        (404, _) => super::super::servers::other(url),
        (status @ 500.., error) => return LinkError::Lost(format!("the server at {url} answered {status} {error}")),
        (status, "") => format!("the server at {url} answered {status}"),
        (_, error) => format!("the server at {url} refused: {error}"),
    };
    LinkError::Refused(text)
}

fn heard(text: &str) -> Heard {
    let Ok(frame) = serde_json::from_str::<BridgeFrame<'_>>(text) else { return Heard::Nothing };
    let data = || frame.data.as_deref().unwrap_or_default();
    match &*frame.r#type {
        "replay" => {
            let bytes = STANDARD.decode(data()).unwrap_or_default();
            Heard::Log { bytes, end: frame.offset.unwrap_or_default(), is_gap: frame.gap == Some(true) }
        }
        "stdout" => {
            Heard::Log { bytes: data().as_bytes().to_vec(), end: frame.offset.unwrap_or_default(), is_gap: false }
        }
        "connected" => Heard::Connected { end: frame.offset, unanswered: frame.unanswered },
        "error" => Heard::Error(frame.error.unwrap_or_default()),
        "exit" => Heard::Exit {
            code: frame.exit_code.unwrap_or_default(),
            reason: frame.error_category.map(|category| match frame.error_detail.as_deref().map(str::trim) {
                Some(detail) if !detail.is_empty() => format!("{category}: {detail}"),
                _ => category,
            }),
        },
        _ => Heard::Nothing,
    }
}
