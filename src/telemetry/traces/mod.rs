//! Spans of turns for OpenTelemetry: a turn, the tools it uses, the calls it makes of a model.
//!
//! Owns what a span is called and what it tells, by the conventions for generative AI: names, ids, numbers, and never a
//! word of what was asked or answered. With the feature `otel` (`otel`: the spans, `export`: the way to a collector);
//! without it the same calls do nothing and cost nothing (`off`).

#[cfg(feature = "otel")]
mod export;
#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod otel;

#[cfg(feature = "otel")]
pub(super) use export::{Flush, start};
#[cfg(not(feature = "otel"))]
pub use off::TurnTrace;
#[cfg(not(feature = "otel"))]
pub(super) use off::{Flush, start};
#[cfg(feature = "otel")]
pub use otel::TurnTrace;

use crate::model::{SessionId, TraceContext, TurnId, Usage};
use std::time::Duration;

/// What the environment says of traces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TracesConfig {
    /// It names no collector.
    #[default]
    Off,
    /// Spans are sent to the collector that it names.
    On {
        /// In JSON instead of protobuf.
        json: bool,
        /// How long a collector may take to answer.
        timeout: Duration,
    },
    /// It asks for something that we do not have: this sentence is logged once, and nothing is sent.
    Refused(String),
}

/// A turn that begins.
#[derive(Debug)]
#[cfg_attr(not(feature = "otel"), allow(dead_code, reason = "only spans tell it"))]
pub struct Beginning<'a> {
    /// The agent's name.
    pub agent: &'a str,
    /// Its session.
    pub session: &'a SessionId,
    /// Itself.
    pub turn: &'a TurnId,
    /// 1, or more when earlier attempts were cut.
    pub attempt: u32,
    /// The protocol it came by.
    pub protocol: &'static str,
    /// The model that its caller named.
    pub model: Option<&'a str>,
    /// The caller's place in its trace.
    pub parent: Option<&'a TraceContext>,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "otel"), allow(dead_code, reason = "only spans tell it"))]
pub struct End {
    /// The word for it.
    pub outcome: &'static str,
    /// What went wrong, a word of ours; `None` for an answer, and for a turn that its caller gave up.
    pub error: Option<&'static str>,
    /// What it used, where its agent tells.
    pub usage: Option<Usage>,
}
