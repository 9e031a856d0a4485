//! `GET /metrics`: the numbers of this process, for Prometheus.
//!
//! Owns what is only known when somebody looks. What is counted, and how it is written, is `telemetry`'s.

use super::Runtime;
use crate::store::StoreHealth;
use crate::telemetry::metrics::{Now, metrics};
use actix_web::http::header;
use actix_web::{HttpResponse, web};

/// Answers with the page.
pub async fn page(runtime: web::Data<Runtime>) -> HttpResponse {
    let standing = runtime.engine.standing();
    let (text, kind) = metrics().page(Now {
        running: standing.running,
        waiting: standing.turns.saturating_sub(standing.running),
        sessions: runtime.engine.sessions(),
        without_store: standing.without_store,
        is_degraded: matches!(standing.store, StoreHealth::Degraded(_)),
    });
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).content_type(kind).body(text)
}
