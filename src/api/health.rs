//! `GET /health`: whether the server takes turns, what runs, and whether the machine may be paused.
//!
//! Owns the one superset body. Does no work that could make it slow: it reads counters.

use super::Runtime;
use crate::store::StoreHealth;
use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

/// Answers a health check; `HEAD` gets the same without the body.
pub async fn health(runtime: web::Data<Runtime>) -> HttpResponse {
    let ok = runtime.engine.takes_turns().is_ok();
    let body = match runtime.sessions.sidecar_health() {
        Some(body) => body,
        None if runtime.is_dari_only() => json!({"ok": ok}),
        None => report(&runtime),
    };
    let mut answer = if ok { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    answer.insert_header((header::CACHE_CONTROL, "no-store"));
    answer.json(body)
}

/// How the server stands.
pub fn report(runtime: &Runtime) -> Value {
    let standing = runtime.engine.standing();
    let status = match (standing.is_draining, standing.is_parked) {
        (true, _) => "draining",
        (false, true) => "parked",
        (false, false) => "ok",
    };
    let progress = standing.last_progress.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    json!({
        "ok": status == "ok",
        "status": status,
        "version": env!("CARGO_PKG_VERSION"),
        "agent": runtime.engine.handler_name(),
        "busy": standing.turns > 0,
        "turns": standing.turns,
        "running": standing.running,
        "last_progress_ms": progress,
        "safe_to_pause": standing.is_safe_to_pause(),
        "store": store(&standing.store),
        "runtime": "local",
        "default_runtime": "local",
        "runtimes": ["local"],
        "sessions": {"loaded": runtime.engine.sessions()},
    })
}

fn store(health: &StoreHealth) -> Value {
    match health {
        StoreHealth::Memory => json!({"state": "memory"}),
        StoreHealth::Ok => json!({"state": "ok"}),
        StoreHealth::Degraded(why) => json!({"state": "degraded", "detail": why}),
    }
}
