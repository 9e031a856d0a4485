//! The plain data every layer speaks: ids, requests, events, outcomes, faults.
//!
//! Owns the words of the house. Does not serialise, wait, or touch the system: what goes over a wire is `wire`'s
//! business, what happens to a turn is `engine`'s.

mod cut;
mod entry;
mod event;
mod fault;
mod ids;
mod json;
mod outcome;
mod trace;
mod turn;
mod work;

pub use cut::CutTurn;
pub use entry::{Entry, What};
pub use event::{BlockId, Event, OutputStream, Usage};
pub use fault::{ERROR_METADATA_KEYS, Fault, FaultCode, ProcessEnd};
pub use ids::{InvalidId, Seq, SessionId, TurnId};
pub use json::RawJson;
pub use outcome::{Answer, CancelReason, Ending, Limit, Outcome, StateChange, ToolCall, ToolResult};
pub use trace::TraceContext;
pub use turn::{Attachment, Conflict, EnvPolicy, Fingerprint, Lifetime, OnDrain, Repeat, StateIn, TurnRequest};
pub use work::{ArtifactFailure, Command, CommandEnd, CutBy, Download, Watch, Work, even_share};
