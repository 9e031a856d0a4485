//! What a turn's failure means.
//!
//! Owns the way from the program's own names to categories: a name that says more than a status comes first.

use crate::handler::agent_error::{AgentError, Category};
use crate::wire::codex::TurnError;
use serde_json::Value;

/// The error of a turn that failed; `is_structured` when an answer in a certain form was asked for.
pub fn error(error: &TurnError, is_structured: bool) -> AgentError {
    let (name, status) = named(error);
    let text = plain(&error.message);
    let category = match name {
        "unauthorized" => Category::AuthError,
        "rateLimitExceeded" | "usageLimitExceeded" => Category::RateLimit,
        "modelNotFound" => Category::ModelNotFound,
        "serverOverloaded" | "flexUnavailable" | "policyCapacityUnavailable" => Category::Overloaded,
        "internalServerError" => Category::UpstreamApiError,
        "sessionBudgetExceeded" => Category::MaxTurns,
        "contextWindowExceeded" | "badRequest" => Category::InvalidRequest,
        _ => match status {
            // The one thing that is looked for by its name in the path is the model.
            Some(404) => Category::ModelNotFound,
            Some(status) => Category::of_status(status),
            None if name.starts_with("response") || name.starts_with("http") => Category::UpstreamApiError,
            None if text.starts_with("Missing environment variable") => Category::AuthError,
            None if text.contains("stream disconnected") => Category::UpstreamApiError,
            None if is_structured && text.starts_with("Incomplete response") => Category::StructuredOutputMissing,
            None => Category::InvalidRequest,
        },
    };
    let text = match &error.additional_details {
        Some(details) if text.is_empty() || text.starts_with("Reconnecting") => plain(details),
        _ => text,
    };
    let failed = AgentError::new(category, if text.is_empty() { "the turn failed".to_owned() } else { text });
    let failed = if name.is_empty() { failed } else { failed.with("codex_error", name) };
    let failed = if let Some(status) = status { failed.with("status", status) } else { failed };
    // What was bought is spent: the same turn fails again.
    AgentError { is_retryable: failed.is_retryable && name != "usageLimitExceeded", ..failed }
}

/// The program's name for an error, and the service's status if it tells one.
pub fn named(error: &TurnError) -> (&str, Option<u16>) {
    match &error.codex_error_info {
        Some(Value::String(name)) => (name, None),
        Some(Value::Object(members)) => {
            let Some((name, more)) = members.iter().next() else { return ("", None) };
            (name, more["httpStatusCode"].as_u64().and_then(|status| u16::try_from(status).ok()))
        }
        _ => ("", None),
    }
}

/// The message without what is none of the caller's business (where the service is), and out of the JSON that some
/// services wrap it in.
pub fn plain(message: &str) -> String {
    if let Ok(value) = serde_json::from_str::<Value>(message)
        && let Some(inner) = value["error"]["message"].as_str().or_else(|| value["message"].as_str())
    {
        return inner.to_owned();
    }
    let end = message.find(", url: ").unwrap_or(message.len());
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(info: Value, message: &str) -> (&'static str, bool, String) {
        let error = TurnError { message: message.into(), codex_error_info: Some(info), additional_details: None };
        let error = super::error(&error, false);
        (error.category.name(), error.is_retryable, error.message)
    }

    #[test]
    fn names_and_statuses_are_categories() {
        let http = |status: u16| json!({"httpConnectionFailed": {"httpStatusCode": status}});
        for (info, category, retryable) in [
            (http(401), "auth_error", false),
            (http(403), "permission_denied", false),
            (http(404), "model_not_found", false),
            (http(529), "overloaded", true),
            (json!({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}), "rate_limit", true),
            (json!({"responseStreamDisconnected": {"httpStatusCode": null}}), "upstream_api_error", true),
            (json!("usageLimitExceeded"), "rate_limit", false),
            (json!("internalServerError"), "upstream_api_error", true),
            (json!("contextWindowExceeded"), "invalid_request", false),
            (json!("somethingNew"), "invalid_request", false),
            (json!({"somethingNew": 3}), "invalid_request", false),
            (json!({}), "invalid_request", false),
        ] {
            let (name, is_retryable, _) = of(info.clone(), "x");
            assert_eq!((name, is_retryable), (category, retryable), "{info}");
        }
    }

    #[test]
    fn messages_are_for_people() {
        let text = "unexpected status 401 Unauthorized: no, url: http://10.0.0.1/v1/responses, request id: 1";
        assert_eq!(of(json!("other"), text).2, "unexpected status 401 Unauthorized: no");
        assert_eq!(of(json!("other"), r#"{"error":{"message":"Too long."}}"#).2, "Too long.");
        let broken = "stream disconnected before completion: gone";
        assert_eq!(of(json!("other"), broken), ("upstream_api_error", true, broken.to_owned()));
    }
}
