//! The only code that knows HTTP and WebSockets: one adapter per protocol, and the server they live in.
//!
//! Owns which path belongs to whom. What a turn is and does is `engine`'s.

mod auth;
mod body;
mod dari;
mod hangup;
mod health;
mod metrics;
pub mod openapi;
mod problem;
mod routes;
mod runtimeuse;
pub mod server;
mod sessions;
mod trace;
mod traffic;
mod unread;
mod v1;
mod websocket;

pub use auth::{Access, AccessError};
#[cfg(feature = "inside")]
pub use dari::reads_advance;
pub use dari::{DariOptions, Events as DariEvents};
#[cfg(any(fuzzing, test))]
pub use runtimeuse::fuzz_message;
#[cfg(feature = "inside")]
pub use runtimeuse::reads_message;
pub use server::{Listening, Server, ServerBuilder, ServerError};
pub use sessions::{AgentKind, SessionsOptions, SidecarOnly, Stalls, Variables};
#[cfg(any(fuzzing, test))]
pub use sessions::{fuzz_frame, fuzz_request};

use crate::engine::Engine;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A host protocol, or a part of the surface that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `GET /health` and `POST /runtime/advance`.
    Dari,
    /// The WebSocket channel.
    RuntimeUse,
    /// Sessions of agents with a log, over HTTP and WebSocket: agentruntime 0.8.
    Sessions,
    /// Our own view of every session, under `/v1`.
    V1,
    /// `/metrics`, for Prometheus.
    Metrics,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Dari, Self::RuntimeUse, Self::Sessions, Self::V1, Self::Metrics];

    /// The protocol's name in `--protocols`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dari => "dari",
            Self::RuntimeUse => "runtimeuse",
            Self::Sessions => "sessions",
            Self::V1 => "v1",
            Self::Metrics => "metrics",
        }
    }
}

/// Bounds of the adapters.
#[derive(Debug, Clone)]
pub struct ApiLimits {
    /// Largest WebSocket message taken, in bytes.
    pub max_message_bytes: usize,
    /// Most bytes of unfinished WebSocket messages, of all connections together.
    pub max_messages_total: u64,
    /// Time between two heartbeats of a running request.
    pub heartbeat: Duration,
    /// Time between two pings of an open WebSocket. `None`: never.
    pub ping: Option<Duration>,
    /// A WebSocket peer that is silent for this long is gone. `None`: never.
    pub dead_after: Option<Duration>,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How many things one RuntimeUse request may name.
    pub requests: RequestLimits,
}

/// How many things one RuntimeUse request may name; one with more is refused.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// Levels of objects and arrays in each other; at most 128.
    pub nesting: usize,
    /// Commands in one list.
    pub commands: usize,
    /// Files to download.
    pub downloads: usize,
    /// Directories to watch.
    pub directories: usize,
    /// Secrets to redact.
    pub secrets: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { nesting: 128, commands: 1000, downloads: 1000, directories: 100, secrets: 1000 }
    }
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            max_message_bytes: 104_857_600,
            max_messages_total: 1 << 30,
            heartbeat: Duration::from_secs(15),
            ping: Some(Duration::from_secs(30)),
            dead_after: Some(Duration::from_mins(1)),
            body_timeout: Duration::from_mins(1),
            requests: RequestLimits::default(),
        }
    }
}

/// What every adapter works with.
pub struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) access: Access,
    pub(crate) protocols: BTreeSet<Protocol>,
    pub(crate) limits: ApiLimits,
    pub(crate) dari: dari::Dari,
    pub(crate) sessions: sessions::Sessions,
    /// Fires when the last turn has its outcome and the connections are to close.
    pub(crate) stopping: CancellationToken,
    /// For WebSocket messages that are on their way.
    pub(crate) room: websocket::Room,
}

impl Runtime {
    pub(crate) fn serves(&self, protocol: Protocol) -> bool {
        self.protocols.contains(&protocol)
    }

    /// Whether turns may name this agent.
    pub(crate) fn offers(&self, agent: &str) -> bool {
        self.sessions.offers(agent)
    }

    /// Whether nothing but Dari's two contract routes may answer.
    pub(crate) fn is_dari_only(&self) -> bool {
        self.protocols.iter().eq([&Protocol::Dari])
    }
}
