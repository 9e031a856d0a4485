//! How a turn ended, from the line that ends it.
//!
//! Owns what counts as an error, whatever the line calls itself, its category, and what the turn took: the program counts
//! over all its turns.

use super::saying::Saying;
use crate::handler::agent_error::{AgentError, Category};
use crate::model::Usage;
use crate::wire::claude::{ApiUsage, ResultLine};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The key that is asked for where there is none.
pub const KEY: &str = "ANTHROPIC_API_KEY";

/// What the turn took, where the process had cost `before` until then.
pub fn usage(result: &ResultLine, before: f64) -> Usage {
    let api: ApiUsage =
        result.usage.as_deref().and_then(|usage| serde_json::from_str(usage.get()).ok()).unwrap_or_default();
    let counted = |input: u64, read: u64, created: u64, output: u64, thinking: u64| Usage {
        input_tokens: input + read + created,
        output_tokens: output,
        cached_tokens: read,
        reasoning_tokens: thinking,
        cost_usd: None,
    };
    let models = result.model_usage_since_last_result.as_ref().filter(|models| !models.is_empty());
    let Some(models) = models else {
        let cost = result.total_cost_usd.map(|total| (total - before).max(0.0));
        let (read, created) = (api.cache_read_input_tokens, api.cache_creation_input_tokens);
        let thinking = api.output_tokens_details.thinking_tokens;
        return Usage { cost_usd: cost, ..counted(api.input_tokens, read, created, api.output_tokens, thinking) };
    };
    // With the subagents, which `usage` leaves out.
    let mut sum = Usage { cost_usd: Some(0.0), ..Usage::default() };
    for model in models.values() {
        let (read, created) = (model.cache_read_input_tokens, model.cache_creation_input_tokens);
        let one = counted(model.input_tokens, read, created, model.output_tokens, model.thinking_tokens);
        sum.input_tokens += one.input_tokens;
        sum.output_tokens += one.output_tokens;
        sum.cached_tokens += one.cached_tokens;
        sum.reasoning_tokens += one.reasoning_tokens;
        sum.cost_usd = sum.cost_usd.map(|cost| cost + model.cost_usd);
    }
    sum
}

/// What callers of Claude are used to be told besides the answer. The cost is the turn's own.
pub fn metadata(result: &ResultLine, session: Option<&str>, usage: &Usage) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    };
    let parsed = |raw: &Option<Box<RawValue>>| raw.as_deref().and_then(|raw| serde_json::from_str(raw.get()).ok());
    put("duration_ms", parsed(&result.duration_ms));
    put("duration_api_ms", parsed(&result.duration_api_ms));
    put("num_turns", parsed(&result.num_turns));
    put("total_cost_usd", usage.cost_usd.map(Value::from));
    put("usage", parsed(&result.usage));
    put("session_id", session.map(Value::from));
    all
}

/// What went wrong, if something did.
pub fn error(result: &ResultLine, saying: &Saying) -> Option<AgentError> {
    let aborted = result.terminal_reason.as_deref().is_some_and(|reason| reason.starts_with("aborted"));
    if !result.is_error && result.subtype == "success" && !aborted {
        return None;
    }
    let text = result.result.clone().or_else(|| saying.error_text.clone()).filter(|text| !text.is_empty());
    let first = result.errors.first();
    let category = category(result, saying, text.as_deref(), aborted);
    let message = match (&text, result.subtype.as_str()) {
        (Some(text), _) if text.contains("Not logged in") => AgentError::no_key(KEY).message,
        (Some(text), "success") => text.clone(),
        (None, "success") => "the agent was cut off".to_owned(),
        (_, subtype) => match first {
            Some(first) => format!("Agent ended with {subtype}: {first}"),
            None => format!("Agent ended with {subtype}"),
        },
    };
    let mut error = AgentError::new(category, message).with("subtype", result.subtype.clone());
    if saying.api_error.as_deref() == Some("billing_error") {
        error.is_retryable = false;
    }
    if let Some(status) = result.api_error_status {
        error = error.with("status", status);
    }
    if !result.errors.is_empty() {
        error = error.with("errors", result.errors.clone());
    }
    if category == Category::Cancelled {
        error = error.with("by", "agent");
    }
    if result.subtype == "error_max_budget_usd" {
        error = error.with("limit", "budget");
    }
    Some(error)
}

/// A specific name before the status, the status before a general name, the text last.
fn category(result: &ResultLine, saying: &Saying, text: Option<&str>, aborted: bool) -> Category {
    let by_subtype = match result.subtype.as_str() {
        "error_max_turns" | "error_max_budget_usd" => Some(Category::MaxTurns),
        "error_max_structured_output_retries" => Some(Category::StructuredOutputMissing),
        _ => None,
    };
    let name = saying.api_error.as_deref();
    let by_status = || match result.api_error_status? {
        404 => Some(Category::ModelNotFound),
        status => Some(Category::of_status(status)),
    };
    let by_name = || {
        Some(match name? {
            "authentication_failed"
            | "oauth_org_not_allowed"
            | "account_on_hold"
            | "verification_required"
            | "cloud_credential_error" => Category::AuthError,
            "billing_error" | "rate_limit" => Category::RateLimit,
            "overloaded" => Category::Overloaded,
            "model_not_found" => Category::ModelNotFound,
            "server_error" => Category::UpstreamApiError,
            "invalid_request" | "max_output_tokens" => Category::InvalidRequest,
            _ => return None,
        })
    };
    let by_reason = || {
        let refused = result.stop_reason.as_deref() == Some("refusal");
        let is_limit = matches!(result.terminal_reason.as_deref(), Some("blocking_limit" | "prompt_too_long"));
        let is_broken = result.errors.iter().any(|error| error.contains("[ede_diagnostic]"));
        match () {
            () if result.startup_failure_reason.is_some() => Some(Category::StartupCrash),
            () if refused || is_limit => Some(Category::InvalidRequest),
            () if result.api_error.as_deref() == Some("connection_failed") || is_broken => {
                Some(Category::UpstreamApiError)
            }
            () if text.is_some_and(|text| text.contains("Not logged in")) => Some(Category::AuthError),
            () if aborted => Some(Category::Cancelled),
            () => None,
        }
    };
    by_subtype.or_else(by_status).or_else(by_name).or_else(by_reason).unwrap_or(Category::UpstreamApiError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn category_of(result: &Value, name: Option<&str>) -> (&'static str, bool, String) {
        let result: ResultLine = serde_json::from_str(&result.to_string()).unwrap();
        let mut saying = Saying::default();
        saying.api_error = name.map(str::to_owned);
        let error = error(&result, &saying).expect("an error");
        (error.category.name(), error.is_retryable, error.message)
    }

    #[test]
    fn success_is_no_success() {
        let api = |status: u16, kind: &str| {
            json!({"subtype": "success", "is_error": true, "result": "API Error",
                                                   "api_error_status": status, "api_error_type": kind})
        };
        for (result, name, category, retryable) in [
            (api(401, "authentication_error"), Some("authentication_failed"), "auth_error", false),
            (api(403, "permission_error"), Some("authentication_failed"), "permission_denied", false),
            (api(404, "not_found_error"), Some("model_not_found"), "model_not_found", false),
            (api(429, "rate_limit_error"), Some("rate_limit"), "rate_limit", true),
            (api(529, "overloaded_error"), Some("server_error"), "overloaded", true),
            (api(500, "api_error"), Some("server_error"), "upstream_api_error", true),
            (api(400, "invalid_request_error"), Some("unknown"), "invalid_request", false),
            (
                json!({"subtype": "success", "is_error": true, "result": "x"}),
                Some("billing_error"),
                "rate_limit",
                false,
            ),
            (
                json!({"subtype": "success", "is_error": true, "result": "x", "api_error": "connection_failed"}),
                Some("server_error"),
                "upstream_api_error",
                true,
            ),
            (
                json!({"subtype": "success", "is_error": true, "result": "x", "stop_reason": "refusal"}),
                None,
                "invalid_request",
                false,
            ),
            (
                json!({"subtype": "success", "is_error": false, "terminal_reason": "aborted_streaming"}),
                None,
                "cancelled",
                false,
            ),
            (
                json!({"subtype": "error_max_turns", "is_error": true, "errors": ["Reached maximum number of turns (3)"]}),
                None,
                "max_turns",
                false,
            ),
            (
                json!({"subtype": "error_during_execution", "is_error": true, "startup_failure_reason": "bypass_root"}),
                None,
                "startup_crash",
                false,
            ),
            (
                json!({"subtype": "error_during_execution", "is_error": true, "errors": ["[ede_diagnostic] x"]}),
                None,
                "upstream_api_error",
                true,
            ),
        ] {
            let (found, is_retryable, _) = category_of(&result, name);
            assert_eq!((found, is_retryable), (category, retryable), "{result}");
        }
        let (category, _, message) = category_of(
            &json!({"subtype": "success", "is_error": true, "result": "Not logged in · Please run /login"}),
            None,
        );
        assert_eq!(category, "auth_error");
        assert!(message.contains("ANTHROPIC_API_KEY is not set"), "{message}");
        let fine: ResultLine = serde_json::from_str(r#"{"subtype":"success","result":"x"}"#).unwrap();
        assert!(error(&fine, &Saying::default()).is_none());
    }

    #[test]
    fn a_turn_is_told_its_own_cost() {
        let read = |json: Value| serde_json::from_str::<ResultLine>(&json.to_string()).unwrap();
        let usage_of = json!({"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 3,
                              "output_tokens_details": {"thinking_tokens": 1}});
        let old = usage(&read(json!({"total_cost_usd": 0.5, "usage": usage_of})), 0.25);
        assert_eq!((old.cost_usd, old.input_tokens, old.cached_tokens, old.reasoning_tokens), (Some(0.25), 15, 5, 1));
        let models = json!({"a": {"inputTokens": 1, "outputTokens": 2, "cacheReadInputTokens": 3, "costUSD": 0.125},
                            "b": {"inputTokens": 1, "costUSD": 0.125}});
        let new = usage(&read(json!({"total_cost_usd": 9.0, "model_usage_since_last_result": models})), 0.0);
        assert_eq!((new.cost_usd, new.input_tokens, new.output_tokens), (Some(0.25), 5, 2));
    }
}
