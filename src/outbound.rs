//! HTTP requests that we make to others.
//!
//! Owns the one way to a client: bundled TLS roots, the system's proxy variables, our name, a limit on connecting. What
//! is asked, retried and redacted is the caller's business.

pub mod websocket;

use rustls::{ClientConfig, RootCertStore};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// More redirects than this are a loop.
const REDIRECTS: usize = 10;

/// The client could not be made; the text says why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot make an HTTP client: {0}")]
pub struct OutboundError(String);

/// A client for requests to others. Cloning shares its connections. It has no limit on the whole request: downloads may
/// be long, and each caller sets its own.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client() -> Result<reqwest::Client, OutboundError> {
    builder()?.build().map_err(|error| OutboundError(error.to_string()))
}

/// As [`client`], for uploads: a redirect is an answer like any other, since a body that is a stream cannot be sent
/// twice, and a signed URL is good for one place.
///
/// # Errors
/// When TLS cannot be set up.
pub fn client_without_redirects() -> Result<reqwest::Client, OutboundError> {
    let builder = builder()?.redirect(reqwest::redirect::Policy::none());
    builder.build().map_err(|error| OutboundError(error.to_string()))
}

/// A client that is made when it is first needed, since it holds the roots of TLS, and whose idle connections can be let
/// go.
pub struct OnDemand {
    make: fn() -> Result<reqwest::Client, OutboundError>,
    made: Mutex<Option<Result<reqwest::Client, OutboundError>>>,
}

impl OnDemand {
    /// Made by this function.
    #[must_use]
    pub const fn new(make: fn() -> Result<reqwest::Client, OutboundError>) -> Self {
        Self { make, made: Mutex::new(None) }
    }

    /// The client.
    ///
    /// # Errors
    /// As of the function that makes it.
    pub fn get(&self) -> Result<reqwest::Client, OutboundError> {
        self.made().get_or_insert_with(self.make).clone()
    }

    /// Closes the connections that nobody uses now: the pool ends with its last client, and a new one begins empty.
    pub fn let_go(&self) {
        *self.made() = None;
    }

    fn made(&self) -> MutexGuard<'_, Option<Result<reqwest::Client, OutboundError>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client is made with, for callers that want another limit or no proxy.
///
/// # Errors
/// When TLS cannot be set up.
pub fn builder() -> Result<reqwest::ClientBuilder, OutboundError> {
    let roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OutboundError(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes a client")]
    let builder = reqwest::Client::builder();
    Ok(builder
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
        .user_agent(concat!("turnhost/", env!("CARGO_PKG_VERSION"))))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_client_can_be_made() {
        super::client().unwrap();
        super::client_without_redirects().unwrap();
    }

    /// What is let go closes what is idle; the next client makes connections of its own.
    #[tokio::test]
    async fn idle_connections_are_closed() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let clients = super::OnDemand::new(|| {
            super::builder()?.no_proxy().build().map_err(|error| super::OutboundError(error.to_string()))
        });
        let serve = async || {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            assert!(socket.read(&mut head).await.unwrap() > 0);
            socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            socket
        };
        for _ in 0..2 {
            let asked = clients.get().unwrap().get(&url).send();
            let (answer, mut socket) = tokio::join!(asked, serve());
            assert_eq!(answer.unwrap().status(), 204);
            clients.let_go();
            let end = tokio::time::timeout(std::time::Duration::from_secs(20), socket.read(&mut [0; 1])).await;
            assert_eq!(end.expect("an end in time").unwrap(), 0);
        }
    }
}
