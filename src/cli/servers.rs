//! What the commands that talk to a server have to say when it does not answer as hoped, and the HTTP they ask it with.
//!
//! Owns those sentences, so that `attach`, `sessions` and `dispatch` say the same.

use crate::config::{ConfigError, ServerConfig};
use crate::outbound;
use crate::wire::session_client::Refused;
use reqwest::{Method, RequestBuilder, Response};

/// Nobody listens there.
pub fn nobody(url: &str, reason: &str) -> String {
    format!("no server answers at {url}: {reason}. `turnhost serve` starts one; --port and --host name another")
}

/// The token is missing or wrong.
pub fn unauthorized(url: &str, was_shown: bool) -> String {
    if was_shown {
        format!("the server at {url} does not know this token: see --token-file, $TURNHOST_TOKEN and $AGENTD_TOKEN")
    } else {
        format!("the server at {url} wants a token: give --token-file, $TURNHOST_TOKEN or $AGENTD_TOKEN")
    }
}

/// A server of another kind.
pub fn other(url: &str) -> String {
    format!("the server at {url} knows no sessions of agentruntime: is it turnhost, with --protocols sessions?")
}

/// A server that is asked over HTTP.
pub struct Asked {
    client: reqwest::Client,
    server: ServerConfig,
}

impl Asked {
    pub fn new(server: ServerConfig) -> Result<Self, ConfigError> {
        let builder = outbound::builder().map_err(|error| ConfigError(error.to_string()))?;
        let builder = if server.is_here { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(|error| ConfigError(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { client, server })
    }

    pub fn url(&self) -> &str {
        &self.server.url
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.server.url));
        match &self.server.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// Why there was no answer.
    pub fn unanswered(&self, error: &reqwest::Error) -> String {
        // The causes say more than the outermost error, which repeats the address.
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        if error.is_connect() {
            nobody(&self.server.url, &cause.to_string())
        } else {
            format!("the server at {} did not answer: {cause}", self.server.url)
        }
    }

    /// What an answer that is no success means.
    pub async fn refusal(&self, answer: Response) -> String {
        let (url, status) = (&self.server.url, answer.status().as_u16());
        let is_html =
            answer.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
        let said: Refused = answer.json().await.unwrap_or_default();
        match (status, said.error.as_str()) {
            (401, _) => unauthorized(url, self.server.token.is_some()),
            (404, "not found" | "") => other(url),
            (_, "") if is_html => other(url),
            (status, "") => format!("the server at {url} answered {status}"),
            (_, error) if !said.message.is_empty() => format!("the server refused: {error}: {}", said.message),
            (_, error) => format!("the server refused: {error}"),
        }
    }
}
