//! Before a pause of the machine, and after it.
//!
//! Owns `POST /v1/quiesce` and `POST /v1/wake`; what parking means is the engine's.

use super::{parameter, seconds};
use crate::api::{Runtime, health, problem};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use std::time::Duration;

/// How long turns may go on where the caller does not say.
const WAIT: Duration = Duration::from_secs(30);

/// `POST /v1/quiesce?wait=SECONDS&interrupt=true`: new turns are refused; those that run end by themselves within the
/// time, or are then cut. 200 once the machine may be paused, 202 if turns still run. Either way the server is parked.
pub async fn quiesce(request: HttpRequest, runtime: web::Data<Runtime>) -> HttpResponse {
    let bad = |text: &str| problem::error(StatusCode::BAD_REQUEST, text);
    let Ok(wait) = seconds(&request, "wait") else { return bad("wait: expected a number of seconds") };
    let interrupt = match parameter(&request, "interrupt") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return bad("interrupt: expected true or false"),
    };
    let wait = wait.unwrap_or(if interrupt { Duration::ZERO } else { WAIT });
    let parking = runtime.clone();
    // Goes on when the caller goes: it would be parked by half.
    let parked = runtime.engine.spawn(async move { parking.engine.park(wait, interrupt).await }).await;
    answer(&runtime, parked.unwrap_or(false))
}

fn answer(runtime: &Runtime, is_safe: bool) -> HttpResponse {
    health::report(runtime, Some(is_safe), if is_safe { HttpResponse::Ok() } else { HttpResponse::Accepted() })
}

/// `POST /v1/wake`: turns are taken again.
pub async fn wake(runtime: web::Data<Runtime>) -> HttpResponse {
    runtime.engine.wake();
    health::report(&runtime, None, HttpResponse::Ok())
}
