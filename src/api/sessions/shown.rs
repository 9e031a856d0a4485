//! The bodies that tell of sessions.
//!
//! Owns which keys each has. Keys without a value are left out.

use super::history::Past;
use super::session::Session;
use super::times::{now, rfc3339, uptime};
use crate::wire::sessions::SessionRecord;
use actix_web::HttpRequest;
use actix_web::http::header;
use serde_json::{Map, Value, json};

/// An object that leaves out what is empty, zero or unknown.
#[derive(Default)]
struct Body(Map<String, Value>);

impl Body {
    fn put(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    fn some(&mut self, key: &str, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(value) = value {
            self.put(key, value);
        }
        self
    }

    fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.some(key, Some(value).filter(|value| !value.is_empty()))
    }

    fn take(&mut self) -> Value {
        Value::Object(std::mem::take(&mut self.0))
    }

    fn counted(&mut self, record: &SessionRecord) -> &mut Self {
        let above_zero = |count: u64| Some(count).filter(|count| *count > 0);
        self.some("last_activity", record.last_activity.map(rfc3339))
            .some("input_tokens", above_zero(record.input_tokens))
            .some("output_tokens", above_zero(record.output_tokens))
            .some("cost_usd", Some(record.cost_usd).filter(|cost| *cost > 0.0))
            .some("tool_call_count", above_zero(record.tool_call_count))
    }

    fn failed(&mut self, record: &SessionRecord) -> &mut Self {
        self.some("error_category", record.error_category.as_deref())
            .some("retryable", record.retryable)
            .some("error_detail", record.error_detail.as_deref())
            .some("agent_session_id", record.agent_session_id.as_deref())
            .text("name", &record.name)
    }

    fn tags(&mut self, record: &SessionRecord) -> &mut Self {
        self.some("tags", Some(&record.tags).filter(|tags| !tags.is_empty()).map(|tags| json!(tags)))
    }
}

/// One of `GET /sessions`.
pub fn summary(record: &SessionRecord) -> Value {
    let team = record.team.as_ref();
    Body::default()
        .put("session_id", record.id.as_str())
        .text("task_id", &record.task_id)
        .put("agent", record.agent.as_str())
        .put("runtime", "local")
        .put("status", record.state.as_str())
        .put("created_at", rfc3339(record.created_at))
        .tags(record)
        .some("team_name", team.map(|team| team.name.as_str()))
        .some("team_agent", team.map(|team| team.agent_name.as_str()))
        .some("agent_session_id", record.agent_session_id.as_deref())
        .text("name", &record.name)
        .take()
}

/// `GET /sessions/:id`
pub fn snapshot(session: &Session) -> Value {
    let record = &session.record();
    Body::default()
        .put("id", record.id.as_str())
        .text("task_id", &record.task_id)
        .put("agent_name", record.agent.as_str())
        .put("runtime_name", "local")
        .put("session_dir", session.folder.to_string_lossy())
        .tags(record)
        .put("state", record.state.as_str())
        .some("exit_code", record.exit_code)
        .put("created_at", rfc3339(record.created_at))
        .some("ended_at", record.ended_at.map(rfc3339))
        .counted(record)
        .failed(record)
        .take()
}

/// `GET /sessions/:id/info`
pub fn info(session: &Session, request: &HttpRequest) -> Value {
    let record = &session.record();
    let (ws_url, log_url) = urls(request, &record.id);
    Body::default()
        .put("session_id", record.id.as_str())
        .text("task_id", &record.task_id)
        .put("agent", record.agent.as_str())
        .put("runtime", "local")
        .put("status", record.state.as_str())
        .put("created_at", rfc3339(record.created_at))
        .some("ended_at", record.ended_at.map(rfc3339))
        .some("exit_code", record.exit_code)
        .put("session_dir", session.folder.to_string_lossy())
        .put("log_file", session.log.path().to_string_lossy())
        .put("ws_url", ws_url)
        .put("log_url", log_url)
        .put("uptime", uptime(record.ended_at.unwrap_or_else(now).saturating_sub(record.created_at)))
        .counted(record)
        .some("team", record.team.as_ref().map(|team| json!(team)))
        .tags(record)
        .failed(record)
        .take()
}

/// One of `GET /sessions/history`.
pub fn history(past: &Past) -> Value {
    let record = &past.record;
    Body::default()
        .put("session_id", record.id.as_str())
        .text("agent", &record.agent)
        .text("status", &record.state)
        .some("exit_code", record.exit_code)
        .put("created_at", rfc3339(record.created_at))
        .some("ended_at", record.ended_at.map(rfc3339))
        .put("log_file", past.log.to_string_lossy())
        .put("input_tokens", record.input_tokens)
        .put("output_tokens", record.output_tokens)
        .put("cost_usd", record.cost_usd)
        .put("tool_calls", record.tool_call_count)
        .put("file_size", past.bytes)
        .take()
}

/// Where a session's stream and log are, as the caller reaches this server.
pub fn urls(request: &HttpRequest, id: &str) -> (String, String) {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    (format!("ws://{host}/ws/sessions/{id}"), format!("http://{host}/sessions/{id}/logs"))
}
