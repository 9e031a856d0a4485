//! The protocol's own list of what a session can fail with.
//!
//! Owns that list, its order, and what each is known by: structured fields of an agent's errors first, then the text of an
//! error and standard error. What an agent says otherwise is never searched.

use super::ending::{Exit, Metadata};
use crate::model::{Event, Fault, FaultCode};
use serde_json::Value;

/// An agent that has said less than this before it died has not come far.
const LITTLE: usize = 2048;
/// A session that fails like this so often in a row, without anything in between, is ended.
const HOPELESS: u32 = 3;

/// A category, and whether the same may go well later.
pub type Category = (&'static str, bool);

const MODEL_NOT_FOUND: Category = ("model_not_found", false);
const AUTH_ERROR: Category = ("auth_error", false);
const PERMISSION_DENIED: Category = ("permission_denied", false);
const RATE_LIMIT: Category = ("rate_limit", true);
const DUPLICATE_SESSION: Category = ("duplicate_session", true);
const UPSTREAM_API_ERROR: Category = ("upstream_api_error", true);
const STARTUP_CRASH: Category = ("startup_crash", false);

/// In what order they are looked for in a text, and by which words, in lower case.
const WORDS: [(Category, &[&str]); 6] = [
    (
        MODEL_NOT_FOUND,
        &["model_not_found", "model not found", "unknown model", "not_found_error", "api error: 404", "status 404"],
    ),
    (
        AUTH_ERROR,
        &[
            "authentication_error",
            "authentication_failed",
            "not logged in",
            "please run /login",
            "invalid api key",
            "incorrect api key",
            "api error: 401",
            "status 401",
            "401 unauthorized",
            "failed to refresh token",
            "token refresh failed",
        ],
    ),
    (PERMISSION_DENIED, &["permission_error", "api error: 403", "status 403", "403 forbidden"]),
    (
        RATE_LIMIT,
        &["rate_limit", "rate limit", "usage limit reached", "too many requests", "api error: 429", "status 429"],
    ),
    (DUPLICATE_SESSION, &["is already in use", "session already in use"]),
    (
        UPSTREAM_API_ERROR,
        &[
            "overloaded",
            "api error: 5",
            "status 5",
            "connection refused",
            "connection reset",
            "connection error",
            "econnrefused",
            "econnreset",
            "stream disconnected",
        ],
    ),
];

/// The category of a failed turn. `has_begun`: whether a turn of the agent began; `said`: how many bytes it has said.
pub fn of(fault: &Fault, metadata: &Metadata, has_begun: bool, said: usize) -> Option<Category> {
    let by_name = match metadata.category.as_deref() {
        Some("model_not_found") => Some(MODEL_NOT_FOUND),
        Some("auth_error") => Some(AUTH_ERROR),
        Some("permission_denied") => Some(PERMISSION_DENIED),
        Some("rate_limit") => Some(RATE_LIMIT),
        Some("upstream_api_error" | "overloaded") => Some(UPSTREAM_API_ERROR),
        Some("timeout") => Some(("timeout", metadata.retryable.unwrap_or(false))),
        _ if metadata.status.is_some_and(|status| status >= 500) => Some(UPSTREAM_API_ERROR),
        // It has a name, and none of the list's.
        Some(name) if name != "startup_crash" => return None,
        _ => None,
    };
    let is_agents = matches!(fault.code, FaultCode::HandlerFailed | FaultCode::HandlerExited);
    let stderr = fault.process.as_ref().map(|end| end.stderr_tail.as_str()).or(metadata.stderr_tail.as_deref());
    let by_text = || [stderr.unwrap_or_default(), &fault.message].into_iter().find_map(of_text).filter(|_| is_agents);
    let is_crash = metadata.category.as_deref() == Some("startup_crash") || fault.code == FaultCode::HandlerExited;
    let by_crash = || match fault.code {
        FaultCode::HandlerUnavailable => Some(STARTUP_CRASH),
        _ if !is_crash => None,
        _ if metadata.phase.as_deref() == Some("start") || (!has_begun && said < LITTLE) => Some(STARTUP_CRASH),
        _ => None,
    };
    by_name.or_else(by_text).or_else(by_crash)
}

/// What the text of an error, or standard error, tells.
fn of_text(text: &str) -> Option<Category> {
    let text = text.to_lowercase();
    WORDS.iter().find(|(_, words)| words.iter().any(|word| text.contains(word))).map(|(category, _)| *category)
}

/// Failures in a row of which none will be the last.
#[derive(Debug, Default)]
pub struct Hopeless {
    category: Option<&'static str>,
    turns: u32,
    calls: u32,
}

impl Hopeless {
    /// A turn went well.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// A turn failed: whether that was once too often.
    pub fn turn_failed(&mut self, category: Option<&'static str>) -> bool {
        self.turns = if self.category == category { self.turns + 1 } else { 1 };
        self.category = category;
        self.calls = 0;
        self.turns >= HOPELESS && matches!(category, Some("auth_error" | "rate_limit" | "model_not_found"))
    }

    /// A turn says something: what the session exits with if the agent's calls have failed once too often.
    pub fn said(&mut self, event: &Event) -> Option<Exit> {
        match event {
            Event::Progress { kind, detail } if kind == "retry" => {
                let detail: Value = detail.as_ref().and_then(|one| serde_json::from_str(one.as_str()).ok())?;
                let (category, retryable) = of_retry(&detail)?;
                self.calls += 1;
                let text = format!("the model's service was called {} times, and each time: {category}", self.calls);
                let exit =
                    Exit { code: 1, category: Some(category), retryable: Some(retryable), ..Exit::killed(&text) };
                return (self.calls >= HOPELESS).then_some(exit);
            }
            Event::TextDelta { .. } | Event::Text { .. } | Event::ToolUse { .. } | Event::Thinking { .. } => {
                self.calls = 0;
            }
            _ => {}
        }
        None
    }
}

/// What a call that is tried again has failed with, if trying is of little use.
fn of_retry(detail: &Value) -> Option<Category> {
    let by_status = match detail["status"].as_u64() {
        Some(401) => Some(AUTH_ERROR),
        Some(404) => Some(MODEL_NOT_FOUND),
        Some(429) => Some(RATE_LIMIT),
        _ => None,
    };
    by_status.or_else(|| match detail["error"].as_str()? {
        "authentication_failed" => Some(AUTH_ERROR),
        "model_not_found" => Some(MODEL_NOT_FOUND),
        "rate_limit" => Some(RATE_LIMIT),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RawJson;

    #[test]
    fn texts_of_errors() {
        for (text, category) in [
            ("API Error: 404 {\"type\":\"not_found_error\"} API Error: 401", Some("model_not_found")),
            ("Error: Invalid API key · Please run /login", Some("auth_error")),
            ("HTTP status 403 Forbidden", Some("permission_denied")),
            ("Usage limit reached, try again at 5", Some("rate_limit")),
            ("Error: Session ID 5e55 is already in use.", Some("duplicate_session")),
            ("API Error: 529 Overloaded", Some("upstream_api_error")),
            ("connect ECONNREFUSED 127.0.0.1:1", Some("upstream_api_error")),
            ("The author field has an error.", None),
            ("line 401 of the file", None),
            ("", None),
        ] {
            assert_eq!(of_text(text).map(|(name, _)| name), category, "{text}");
        }
    }

    #[test]
    fn three_in_a_row() {
        let mut hopeless = Hopeless::default();
        let turns = ["auth_error", "auth_error", "rate_limit", "rate_limit", "rate_limit"];
        assert_eq!(turns.map(|name| hopeless.turn_failed(Some(name))), [false, false, false, false, true]);
        let others = [Some("upstream_api_error"), None].map(|name| (0..5).any(|_| hopeless.turn_failed(name)));
        assert_eq!(others, [false, false]);
        let retry = |detail: &str| Event::Progress {
            kind: "retry".to_owned(),
            detail: Some(RawJson::from_valid(detail.to_owned())),
        };
        let (limit, broken) = (retry(r#"{"status":429}"#), retry(r#"{"status":500}"#));
        let mut said = |event: &Event| hopeless.said(event).is_some();
        assert_eq!([said(&limit), said(&limit), said(&broken), said(&limit)], [false, false, false, true]);
        let text = Event::TextDelta { block: None, text: "x".to_owned() };
        assert_eq!([said(&text), said(&limit), said(&limit), said(&limit)], [false, false, false, true]);
    }
}
