//! The calls of `traces` in a program without the feature `otel`: they do nothing, and the compiler leaves them out.
//!
//! Owns one sentence, for whoever names a collector and wonders.

#![allow(clippy::unused_self, reason = "the same calls as with the feature")]

use super::{Beginning, End, TracesConfig};
use crate::model::{TraceContext, TurnRequest, Usage};
use std::sync::Arc;

/// A turn's span: none.
#[derive(Debug, Clone, Default)]
pub struct TurnTrace;

/// A call's span: none.
#[derive(Debug)]
pub struct ModelCall;

/// What is sent before the program ends: nothing.
#[derive(Debug)]
pub struct Flush;

pub fn start(config: &TracesConfig) -> Flush {
    if *config != TracesConfig::Off {
        tracing::info!(
            "the environment names a collector of OpenTelemetry: this program was built without the feature \"otel\" and sends nothing"
        );
    }
    Flush
}

impl TurnTrace {
    /// None.
    #[must_use]
    #[inline]
    pub const fn begin(_: &Beginning<'_>) -> Self {
        Self
    }

    /// None.
    #[must_use]
    #[inline]
    pub const fn here() -> Self {
        Self
    }

    /// The request as it is.
    #[must_use]
    #[inline]
    pub fn passed_on(&self, request: Arc<TurnRequest>) -> Arc<TurnRequest> {
        request
    }

    /// Nothing.
    #[inline]
    pub const fn model(&self, _provider: &'static str, _model: Option<&str>) {}

    /// Nothing.
    #[inline]
    pub const fn tool_used(&self, _id: &str, _name: &str) {}

    /// Nothing.
    #[inline]
    pub const fn tool_ended(&self, _id: &str, _is_error: bool) {}

    /// None.
    #[must_use]
    #[inline]
    pub const fn model_call(&self, _provider: &'static str, _model: &str) -> ModelCall {
        ModelCall
    }

    /// Nothing.
    #[inline]
    pub const fn end(&self, _end: &End) {}
}

impl ModelCall {
    /// None: the turn's own place is passed on.
    #[must_use]
    #[inline]
    pub const fn context(&self) -> Option<TraceContext> {
        None
    }

    /// Nothing.
    #[inline]
    pub const fn end(self, _usage: Option<Usage>, _error: Option<&'static str>) {}
}
