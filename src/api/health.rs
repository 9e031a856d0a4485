//! `GET /health`: whether the server takes turns, and how many it has.
//!
//! Owns the one superset body. Does no work that could make it slow: it reads two counters.

use super::Runtime;
use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde_json::json;

/// Answers a health check; `HEAD` gets the same without the body.
pub async fn health(runtime: web::Data<Runtime>) -> HttpResponse {
    let ok = !runtime.engine.is_draining();
    let body = if runtime.is_dari_only() {
        json!({"ok": ok})
    } else {
        let turns = runtime.engine.turns();
        json!({
            "ok": ok,
            "status": if ok { "ok" } else { "draining" },
            "version": env!("CARGO_PKG_VERSION"),
            "agent": runtime.engine.handler_name(),
            "busy": turns > 0,
            "turns": turns,
            "runtime": "local",
            "default_runtime": "local",
            "runtimes": ["local"],
            "sessions": {"loaded": runtime.engine.sessions()},
        })
    };
    let mut answer = if ok { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    answer.insert_header((header::CACHE_CONTROL, "no-store"));
    answer.json(body)
}
