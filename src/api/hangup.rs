//! A connection seen from outside: whether its peer is gone, and how it is ended.
//!
//! Owns a second descriptor of each connection's socket. What is said over the connection is the adapters' business.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::any::Any;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// A connection seen from outside. Ends it: a WebSocket's own close frame waits behind data that a stalled peer does not
/// take. And tells whether the peer is gone, which the HTTP library may notice a moment too late.
#[derive(Clone, Debug)]
pub struct Hangup(Arc<OwnedFd>);

impl Hangup {
    /// Whether the peer has closed or reset the connection, as far as the system knows by now. Data that nobody has
    /// read yet does not hide it.
    pub fn is_gone(&self) -> bool {
        // nix has no name for this one: the peer has closed at least its half.
        let closed = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
        let mut asked = [PollFd::new(self.0.as_fd(), closed)];
        // A reset is reported without being asked for.
        matches!(poll(&mut asked, PollTimeout::ZERO), Ok(count) if count > 0)
    }

    /// Shuts both directions down: what is not sent yet is lost.
    pub fn shutdown(&self) {
        if let Err(error) = socket2::SockRef::from(&self.0).shutdown(Shutdown::Both) {
            tracing::debug!(%error, "a connection was gone before it was shut down");
        }
    }

    /// Shuts down after the peer has, or after this time; what it still sends is read and dropped. Closed with bytes
    /// unread, a socket resets the connection, and what was written last may be lost with it.
    pub async fn after_reading_away(&self, within: Duration) {
        let stream = self.0.try_clone().and_then(|descriptor| tokio::net::TcpStream::from_std(descriptor.into()));
        if let Ok(mut stream) = stream {
            let mut waste = vec![0; 16 << 10];
            let all = async { while matches!(stream.read(&mut waste).await, Ok(1..)) {} };
            let _ = tokio::time::timeout(within, all).await;
        }
        self.shutdown();
    }
}

/// Keeps the descriptor of a new connection with it.
pub fn note(connection: &dyn Any, extensions: &mut actix_web::dev::Extensions) {
    if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() {
        let _ = stream.set_nodelay(true);
        if let Ok(descriptor) = stream.as_fd().try_clone_to_owned() {
            extensions.insert(Hangup(Arc::new(descriptor)));
        }
    }
}
