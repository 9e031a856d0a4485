//! What can go wrong with a call, in the categories that all agents share.
//!
//! Owns which status and which name of an error is which category, and what may be tried again.

use crate::handler::agent_error::{AgentError, Category};
use crate::wire::openai::ApiError;
use std::time::Duration;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub category: Category,
    /// One sentence.
    pub message: String,
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// The service's own name for it.
    pub code: Option<String>,
    /// How long the service wants us to wait.
    pub after: Option<Duration>,
    /// Whether the same call may go well in a moment.
    pub is_passing: bool,
}

impl Trouble {
    /// Without a status.
    pub fn new(category: Category, message: impl Into<String>) -> Self {
        let is_passing = matches!(category, Category::UpstreamApiError | Category::Overloaded | Category::RateLimit);
        Self { category, message: message.into(), status: None, code: None, after: None, is_passing }
    }

    /// An answer with an error status.
    pub fn of_status(status: u16, error: ApiError, after: Option<Duration>) -> Self {
        let category = error.code.as_deref().and_then(of_code).unwrap_or_else(|| Category::of_status(status));
        let text = error.message.or(error.code.clone()).unwrap_or_else(|| "no reason given".to_owned());
        let is_quota = error.code.as_deref() == Some("insufficient_quota");
        let is_passing = matches!(status, 408 | 409 | 429 | 500..) && !is_quota;
        Self {
            status: Some(status),
            code: error.code,
            after,
            is_passing,
            ..Self::new(category, format!("{status} {text}"))
        }
    }

    /// A response that failed, or an error in the stream.
    pub fn of_response(error: ApiError) -> Self {
        let category = error.code.as_deref().and_then(of_code).unwrap_or(Category::UpstreamApiError);
        let text = error.message.or(error.code.clone()).unwrap_or_else(|| "the response failed".to_owned());
        let is_passing = error.code.as_deref() == Some("server_error");
        Self { code: error.code, is_passing, ..Self::new(category, text) }
    }

    /// What the turn fails with. An answer that was cut short of its schema has a category of its own.
    pub fn into_error(self, wants_schema: bool) -> AgentError {
        let is_cut = self.code.as_deref() == Some("incomplete:max_output_tokens");
        let category = if is_cut && wants_schema { Category::StructuredOutputMissing } else { self.category };
        let mut error = AgentError::new(category, self.message);
        error.is_retryable &= self.code.as_deref() != Some("insufficient_quota");
        if let Some(status) = self.status {
            error = error.with("status", status);
        }
        if let Some(code) = self.code {
            error = error.with("code", code);
        }
        error
    }
}

fn of_code(code: &str) -> Option<Category> {
    Some(match code {
        "rate_limit_exceeded" | "insufficient_quota" => Category::RateLimit,
        "model_not_found" => Category::ModelNotFound,
        "server_overloaded" | "overloaded" => Category::Overloaded,
        "server_error" => Category::UpstreamApiError,
        "invalid_api_key" => Category::AuthError,
        "invalid_prompt" | "context_length_exceeded" | "previous_response_not_found" => Category::InvalidRequest,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories() {
        let error =
            |code: &str| ApiError { code: Some(code.to_owned()), message: Some("text".to_owned()), r#type: None };
        for (status, code, category, is_passing, is_retryable) in [
            (401, "invalid_api_key", "auth_error", false, false),
            (403, "x", "permission_denied", false, false),
            (404, "model_not_found", "model_not_found", false, false),
            (400, "x", "invalid_request", false, false),
            (429, "rate_limit_exceeded", "rate_limit", true, true),
            (429, "insufficient_quota", "rate_limit", false, false),
            (503, "x", "overloaded", true, true),
            (500, "x", "upstream_api_error", true, true),
        ] {
            let trouble = Trouble::of_status(status, error(code), None);
            assert_eq!((trouble.category.name(), trouble.is_passing), (category, is_passing), "{status} {code}");
            let error = trouble.into_error(false);
            assert_eq!(error.is_retryable, is_retryable, "{status} {code}");
            assert_eq!(error.message, format!("{status} text"));
        }
    }

    #[test]
    fn an_answer_cut_short_of_its_schema() {
        let code = Some("incomplete:max_output_tokens".to_owned());
        let trouble = Trouble { code, ..Trouble::new(Category::InvalidRequest, "cut") };
        assert_eq!(trouble.clone().into_error(true).category, Category::StructuredOutputMissing);
        assert_eq!(trouble.into_error(false).category, Category::InvalidRequest);
    }
}
