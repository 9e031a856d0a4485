//! Which HTTP status a fault has, and the two forms of an error body.
//!
//! Owns the only table from faults to statuses. Adapters with an error form of their own use the table and write it
//! themselves.

use crate::model::FaultCode;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header;
use serde_json::json;

/// The status of a fault that no turn came of.
pub const fn status(code: FaultCode) -> StatusCode {
    match code {
        FaultCode::QueueFull
        | FaultCode::ServerFull
        | FaultCode::Draining
        | FaultCode::Parked
        | FaultCode::HandlerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        FaultCode::KeyConflict => StatusCode::CONFLICT,
        FaultCode::HandlerFailed
        | FaultCode::HandlerExited
        | FaultCode::HandlerPanicked
        | FaultCode::HandlerProtocol
        | FaultCode::CommandFailed
        | FaultCode::DownloadFailed => StatusCode::BAD_GATEWAY,
        FaultCode::CommandUnavailable | FaultCode::DirectoryUnusable => StatusCode::UNPROCESSABLE_ENTITY,
        FaultCode::StoreFailed | FaultCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// `{"detail": …}`, the only error form that Dari knows.
pub fn detail(status: StatusCode, detail: &str) -> HttpResponse {
    let mut answer = HttpResponse::build(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.insert_header((header::RETRY_AFTER, "1"));
    }
    answer.json(json!({"detail": detail}))
}

/// `{"error": …}`, the form of everything else.
pub fn error(status: StatusCode, text: &str) -> HttpResponse {
    let mut answer = HttpResponse::build(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.insert_header((header::RETRY_AFTER, "1"));
    }
    answer.json(json!({"error": text}))
}
