//! What an agent's turn can fail with, in the words that all agents share.
//!
//! Owns the categories, which of them are worth another try, and how such an error becomes a fault. Which status or name
//! of a service is which category is the business of that agent.

use crate::model::{Fault, FaultCode, RawJson};
use serde_json::{Map, Value};

/// What kind of error it is. A caller can decide by it, whichever agent it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// No key, or one that the service does not take.
    AuthError,
    /// The key is good, and not for this.
    PermissionDenied,
    /// Too many requests, or too much was spent.
    RateLimit,
    /// No such model.
    ModelNotFound,
    /// The service has too much to do.
    Overloaded,
    /// The service failed, or cannot be reached.
    UpstreamApiError,
    /// The request itself, or the model refuses it.
    InvalidRequest,
    /// The agent's program could not be started, or ended on its own.
    StartupCrash,
    /// More rounds than a turn may have.
    MaxTurns,
    /// A schema was given, and the answer does not fit it.
    StructuredOutputMissing,
    /// The agent cut the turn, nobody asked it to.
    Cancelled,
    /// It took too long.
    Timeout,
}

impl Category {
    /// The name on every wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::AuthError => "auth_error",
            Self::PermissionDenied => "permission_denied",
            Self::RateLimit => "rate_limit",
            Self::ModelNotFound => "model_not_found",
            Self::Overloaded => "overloaded",
            Self::UpstreamApiError => "upstream_api_error",
            Self::InvalidRequest => "invalid_request",
            Self::StartupCrash => "startup_crash",
            Self::MaxTurns => "max_turns",
            Self::StructuredOutputMissing => "structured_output_missing",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
        }
    }

    /// Whether the same turn may go well later, without a change by the caller.
    pub fn is_retryable(self) -> bool {
        use Category::{Overloaded, RateLimit, StructuredOutputMissing, Timeout, UpstreamApiError};
        matches!(self, RateLimit | Overloaded | UpstreamApiError | StructuredOutputMissing | Timeout)
    }

    /// The category that a status alone means, where the service gave no name that says more.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 => Self::AuthError,
            403 => Self::PermissionDenied,
            429 => Self::RateLimit,
            503 | 529 => Self::Overloaded,
            408 | 409 | 500.. => Self::UpstreamApiError,
            _ => Self::InvalidRequest,
        }
    }
}

/// Why an agent's turn failed.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentError {
    /// What kind of error it is.
    pub category: Category,
    /// One sentence for whoever called.
    pub message: String,
    /// Whether the same turn may go well later.
    pub is_retryable: bool,
    /// What else is known about it.
    pub metadata: Map<String, Value>,
}

impl AgentError {
    /// An error as retryable as its category.
    pub fn new(category: Category, message: impl Into<String>) -> Self {
        Self { category, message: message.into(), is_retryable: category.is_retryable(), metadata: Map::new() }
    }

    /// There is no key to call the model with.
    pub fn no_key(variable: &str) -> Self {
        let how = "give the key to the server's environment, or in the request's agent_env";
        Self::new(Category::AuthError, format!("{variable} is not set: {how}"))
    }

    /// The same error, and one more thing that is known about it.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.to_owned(), value.into());
        self
    }

    /// The same error with all of these.
    #[must_use]
    pub fn with_all(mut self, more: Map<String, Value>) -> Self {
        self.metadata.extend(more);
        self
    }

    /// The fault that the turn ends with.
    pub fn into_fault(self) -> Fault {
        let mut metadata = Map::new();
        metadata.insert("error_name".to_owned(), "AgentError".into());
        metadata.insert("category".to_owned(), self.category.name().into());
        metadata.insert("retryable".to_owned(), self.is_retryable.into());
        metadata.extend(self.metadata);
        let metadata = RawJson::from_valid(Value::Object(metadata).to_string());
        let fault = Fault::new(FaultCode::HandlerFailed, self.message).with_metadata(Some(metadata));
        Fault { retryable: self.is_retryable, ..fault }
    }
}
