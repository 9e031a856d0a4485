//! `GET /health`: whether the server takes turns, what runs, and whether the machine may be paused.
//!
//! Owns the one superset body. Does no work that could make it slow: it reads counters.

use super::Runtime;
use crate::store::StoreHealth;
use crate::wire::dari;
use crate::wire::health::{HealthReport, ServerStatus, SessionsLoaded, StoreReport};
use actix_web::http::header;
use actix_web::{HttpResponse, HttpResponseBuilder, web};

/// Answers a health check; `HEAD` gets the same without the body.
pub async fn health(runtime: web::Data<Runtime>) -> HttpResponse {
    let ok = runtime.engine.takes_turns().is_ok();
    let mut answer = if ok { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    answer.insert_header((header::CACHE_CONTROL, "no-store"));
    match runtime.sessions.sidecar_health() {
        Some(body) => answer.json(body),
        None if runtime.is_dari_only() => answer.json(dari::Health { ok }),
        None => report(&runtime, None, answer),
    }
}

/// Answers with how the server stands. `safe_to_pause` is known better by whoever has just parked it.
pub fn report(runtime: &Runtime, safe_to_pause: Option<bool>, mut answer: HttpResponseBuilder) -> HttpResponse {
    let standing = runtime.engine.standing();
    let status = match (standing.is_draining, standing.is_parked) {
        (true, _) => ServerStatus::Draining,
        (false, true) => ServerStatus::Parked,
        (false, false) => ServerStatus::Ok,
    };
    let progress = standing.last_progress.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    answer.json(HealthReport {
        ok: status == ServerStatus::Ok,
        status,
        version: env!("CARGO_PKG_VERSION"),
        agent: runtime.engine.handler_name(),
        busy: standing.turns > 0,
        turns: standing.turns as u64,
        running: standing.running as u64,
        last_progress_ms: progress,
        safe_to_pause: safe_to_pause.unwrap_or_else(|| standing.is_safe_to_pause()),
        store: store(&standing.store),
        runtime: "local",
        default_runtime: "local",
        runtimes: &["local"],
        sessions: SessionsLoaded { loaded: runtime.engine.sessions() as u64 },
    })
}

const fn store(health: &StoreHealth) -> StoreReport<'_> {
    match health {
        StoreHealth::Memory => StoreReport { state: "memory", detail: None },
        StoreHealth::Ok => StoreReport { state: "ok", detail: None },
        StoreHealth::Degraded(why) => StoreReport { state: "degraded", detail: Some(why.as_str()) },
    }
}
