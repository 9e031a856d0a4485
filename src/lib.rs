//! turnhost runs an agent's turns inside a sandbox.
//!
//! Platforms outside hand it a *turn* over their own protocol; it runs the turn with a *handler* and returns text,
//! structured output and opaque state. The binary serves built-in agents and programs in any language; this library is
//! for people who host a handler written in Rust:
//!
//! ```
//! use turnhost::{Cancel, Failure, Handler, Reply, Server, Sink, Turn};
//!
//! struct Shout;
//!
//! impl Handler for Shout {
//!     fn name(&self) -> &str {
//!         "shout"
//!     }
//!
//!     async fn run(&self, turn: Turn, sink: Sink, _cancel: Cancel) -> Result<Reply, Failure> {
//!         let _ = sink.text("thinking…").await;
//!         Ok(Reply::text(turn.request.prompt.to_uppercase()))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), turnhost::ServerError> {
//! let server = Server::builder().handler(Shout).port(0).build().listen()?;
//! println!("listening on {}", server.address());
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

mod api;
mod artifact;
mod awake;
pub mod cli;
mod config;
mod conformance;
mod engine;
mod failpoint;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod handler;
#[cfg(feature = "inside")]
pub mod inside;
mod json;
mod model;
mod outbound;
mod process;
mod redact;
mod store;
mod telemetry;
pub mod wire;

pub use api::{
    Access, AccessError, AgentKind, ApiLimits, DariOptions, Listening, Protocol, RequestLimits, Server, ServerBuilder,
    ServerError, SessionsOptions, SidecarOnly, Stalls, Variables,
};
pub use artifact::download::DownloadLimits;
pub use artifact::handout::HandoutLimits;
pub use engine::{EngineOptions, LogLimits, WorkOptions};
pub use handler::echo::{DIRECTIVES, Echo};
pub use handler::{Cancel, Closed, DynHandler, Failure, Handler, Listener, Reply, Room, Sink, Turn, TurnOver};
pub use model::{
    Answer, ArtifactFailure, Attachment, BlockId, CancelReason, Command, CommandEnd, Conflict, CutBy, CutTurn,
    Download, Ending, Entry, EnvPolicy, Event, Fault, FaultCode, Fingerprint, InvalidId, Lifetime, Limit, OnDrain,
    Outcome, OutputStream, ProcessEnd, RawJson, Repeat, Seq, SessionId, StateChange, StateIn, TraceContext, TurnId,
    TurnRequest, Usage, Watch, What, Work,
};
pub use process::{Environment, run_if_asked as run_shim_if_asked};
pub use redact::{Redactor, Secret};
pub use store::{
    Acknowledge, Batch, DiskStore, Done, Entries, Interrupted, Keep, MemoryStore, NewestTurn, OpenError, Page,
    Promised, Store, StoreError, StoreHealth, StoredSession, StoredTurn,
};
