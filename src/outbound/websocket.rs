//! WebSockets that we open to others.
//!
//! Owns the connection and what to tell of one that does not come about. What is said on it is the caller's business.

use crate::redact::Secret;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use url::Url;

/// No message is longer than this.
const MESSAGE: usize = 100 << 20;

/// Why there is no connection, or no longer one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// Nobody answers there, or not as a server would.
    #[error("{0}")]
    Unreachable(String),
    /// The server answered the upgrade with this status instead.
    #[error("the server answered {0} to the WebSocket upgrade")]
    Refused(u16),
    /// The connection has ended.
    #[error("the connection ended{}", .0.map_or_else(String::new, |code| format!(" with close code {code}")))]
    Ended(Option<u16>),
    /// Nothing came in time.
    #[error("nothing came within {0:?}")]
    Silent(Duration),
}

/// An open WebSocket to a server.
#[derive(Debug)]
pub struct Socket(WebSocketStream<TcpStream>);

/// Checks that a URL is one that can be connected to.
///
/// # Errors
/// One sentence that says what is wrong.
pub fn parse(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{text}: {error}"))?;
    match url.scheme() {
        "ws" if url.host_str().is_some() => Ok(url),
        "wss" => Err(format!("{text}: TLS is not spoken here: give the ws:// address behind the proxy")),
        _ => Err(format!("{text}: expected ws://HOST:PORT")),
    }
}

impl Socket {
    /// Connects within `limit`. The token goes as a bearer.
    ///
    /// # Errors
    /// [`SocketError::Unreachable`] or [`SocketError::Refused`].
    pub async fn connect(url: &Url, token: Option<&Secret>, limit: Duration) -> Result<Self, SocketError> {
        tokio::time::timeout(limit, open(url, token)).await.unwrap_or(Err(SocketError::Silent(limit)))
    }

    /// Sends a text.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(&mut self, text: impl Into<String>) -> Result<(), SocketError> {
        self.0.send(Message::text(text.into())).await.map_err(|_| SocketError::Ended(None))
    }

    /// The next text. Cancel-safe.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn next(&mut self) -> Result<String, SocketError> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => {
                    return Err(SocketError::Ended(Some(frame.map_or(1005, |frame| frame.code.into()))));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(SocketError::Ended(None)),
            }
        }
    }

    /// The next text, if it comes within `limit`.
    ///
    /// # Errors
    /// The connection has ended, or nothing came.
    pub async fn next_within(&mut self, limit: Duration) -> Result<String, SocketError> {
        tokio::time::timeout(limit, self.next()).await.unwrap_or(Err(SocketError::Silent(limit)))
    }

    /// Says goodbye, as far as that is still possible.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.0.close(None)).await;
    }
}

async fn open(url: &Url, token: Option<&Secret>) -> Result<Socket, SocketError> {
    let lost = |error: &dyn std::fmt::Display| SocketError::Unreachable(format!("{}: {error}", shown(url)));
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(80);
    let tcp = TcpStream::connect((host, port)).await.map_err(|error| lost(&error))?;
    // Two small messages in a row would otherwise wait for an acknowledgement in between.
    tcp.set_nodelay(true).map_err(|error| lost(&error))?;
    let mut request = url.as_str().into_client_request().map_err(|error| lost(&error))?;
    if let Some(token) = token {
        let bearer = format!("Bearer {}", token.expose());
        let bearer = bearer.parse().map_err(|_| lost(&"the token cannot be sent in a header"))?;
        request.headers_mut().insert("authorization", bearer);
    }
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE));
    match tokio_tungstenite::client_async_with_config(request, tcp, Some(config)).await {
        Ok((socket, _)) => Ok(Socket(socket)),
        Err(tungstenite::Error::Http(answer)) => Err(SocketError::Refused(answer.status().as_u16())),
        Err(error) => Err(lost(&error)),
    }
}

/// A URL without what may be a secret in it.
#[must_use]
pub fn shown(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}
