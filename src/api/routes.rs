//! Which path belongs to whom.
//!
//! Owns DESIGN section 4's table of paths, and the gate every request but `/health` passes.

use super::auth::Denied;
use super::{Protocol, Runtime, dari, health, metrics, openapi, problem, runtimeuse, sessions, v1, websocket};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, HttpResponse, web};

/// Paths kept for hosts that come later: they answer 404 now, upgrades too.
const KEPT_FREE: &[&str] = &[
    "/api",
    "/socket.io",
    "/sessions",
    "/ws",
    "/v1",
    "/agent-profiles",
    "/invocations",
    "/ping",
    "/readiness",
    "/responses",
    "/acp",
    "/agui",
    "/metrics",
    "/openapi.json",
    "/ui",
];

/// Puts every route in its place.
pub fn configure(config: &mut web::ServiceConfig, runtime: &Runtime) {
    let mut health_paths = vec![if runtime.is_dari_only() { runtime.dari.health_path() } else { "/health" }];
    if runtime.serves(Protocol::Dari) && health_paths[0] != runtime.dari.health_path() {
        health_paths.push(runtime.dari.health_path());
    }
    for path in health_paths.into_iter().flat_map(with_slash) {
        config.service(
            web::resource(path)
                .route(web::method(Method::GET).to(health::health))
                .route(web::method(Method::HEAD).to(health::health))
                .default_service(web::to(|| std::future::ready(not_allowed("GET, HEAD")))),
        );
    }
    if runtime.serves(Protocol::Dari) {
        for path in with_slash(runtime.dari.advance_path()) {
            config.service(
                web::resource(path)
                    .route(web::post().to(dari::advance))
                    .default_service(web::to(|| std::future::ready(not_allowed("POST")))),
            );
        }
    }
    if runtime.serves(Protocol::Sessions) {
        sessions::configure(config, runtime.sessions.is_sidecar_only());
    }
    if runtime.serves(Protocol::V1) {
        config.service(
            web::resource("/v1/sessions/{session}/events")
                .route(web::get().to(v1::events))
                .default_service(web::to(|| std::future::ready(v1::not_allowed("GET")))),
        );
        config.service(
            web::resource("/v1/sessions/{session}/turns")
                .route(web::post().to(v1::begin))
                .default_service(web::to(|| std::future::ready(v1::not_allowed("POST")))),
        );
        config.service(
            web::resource("/v1/quiesce")
                .route(web::post().to(v1::quiesce))
                .default_service(web::to(|| std::future::ready(v1::not_allowed("POST")))),
        );
        config.service(
            web::resource("/v1/wake")
                .route(web::post().to(v1::wake))
                .default_service(web::to(|| std::future::ready(v1::not_allowed("POST")))),
        );
        config.service(
            web::resource("/v1/turns/{turn}")
                .route(web::get().to(v1::show))
                .route(web::delete().to(v1::cancel))
                .default_service(web::to(|| std::future::ready(v1::not_allowed("GET, DELETE")))),
        );
        config.service(
            web::resource("/v1/turns/{turn}/input")
                .route(web::post().to(v1::input))
                .default_service(web::to(|| std::future::ready(v1::not_allowed("POST")))),
        );
    }
    if runtime.serves(Protocol::V1) {
        config.service(
            web::resource("/openapi.json")
                .route(web::get().to(openapi::page))
                .default_service(web::to(|| std::future::ready(v1::not_allowed("GET")))),
        );
    }
    if runtime.serves(Protocol::Metrics) {
        config.service(
            web::resource("/metrics")
                .route(web::get().to(metrics::page))
                .default_service(web::to(|| std::future::ready(v1::not_allowed("GET")))),
        );
    }
    config.default_service(web::to(everything_else));
}

/// A path with and without one trailing slash. Two plain resources: one for both would make the router search it with a
/// regular expression at every request.
fn with_slash(path: &str) -> [String; 2] {
    let path = path.trim_end_matches('/');
    [path.to_owned(), format!("{path}/")]
}

fn not_allowed(allow: &'static str) -> HttpResponse {
    let mut answer = problem::detail(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
    answer
}

async fn everything_else(request: HttpRequest, payload: web::Payload, runtime: web::Data<Runtime>) -> HttpResponse {
    let path = request.path();
    let kept = KEPT_FREE
        .iter()
        .any(|kept| path.strip_prefix(kept).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if runtime.serves(Protocol::RuntimeUse) && !kept {
        if websocket::is_upgrade(&request) {
            return runtimeuse::upgrade(&request, payload, &runtime);
        }
        if path == "/" {
            return runtimeuse::upgrade_required();
        }
    }
    if runtime.sessions.is_sidecar_only() {
        HttpResponse::NotFound().content_type("text/plain; charset=utf-8").body("404 page not found\n")
    } else if runtime.is_dari_only() {
        problem::detail(StatusCode::NOT_FOUND, "not found")
    } else {
        problem::error(StatusCode::NOT_FOUND, "not found")
    }
}

/// The gate: who may not call is told so before anything else of the request is looked at.
pub async fn gate(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(runtime) = request.app_data::<web::Data<Runtime>>() else {
        return Ok(request.into_response(HttpResponse::InternalServerError()));
    };
    // One trailing slash and no more, as in `with_slash`: what passes here as a health check must reach no other owner.
    let path = request.path().strip_suffix('/').unwrap_or(request.path());
    let is_dari = runtime.serves(Protocol::Dari) && path == runtime.dari.advance_path();
    let is_health = if runtime.is_dari_only() {
        path == runtime.dari.health_path()
    } else {
        path == "/health" || (runtime.serves(Protocol::Dari) && path == runtime.dari.health_path())
    };
    if !is_health && let Err(denied) = runtime.access.check(request.headers(), request.query_string()) {
        let status = if denied == Denied::Token { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
        let mut answer = if is_dari || runtime.is_dari_only() {
            problem::detail(status, denied.text())
        } else {
            problem::error(status, denied.text())
        };
        if denied == Denied::Token {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        tracing::info!(reason = denied.text(), "a request was refused");
        return Ok(request.into_response(answer));
    }
    next.call(request).await.map(ServiceResponse::map_into_boxed_body)
}
