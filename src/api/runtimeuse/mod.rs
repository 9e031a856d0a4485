//! The RuntimeUse WebSocket protocol: the adapter between its messages and turns.
//!
//! Owns the upgrade and what a URL may say. Bytes are looked at in `inspect`, messages read in `read` and `fields`, written
//! in `frames` and `results`, and moved in `connection` and `writer`.

mod connection;
mod fields;
mod frames;
mod inspect;
mod read;
mod results;
mod writer;

use super::Runtime;
use crate::engine;
use crate::model::{Lifetime, Seq, SessionId};
use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use connection::Connection;
use inspect::{Inspected, Seen};
use std::sync::Arc;

pub use inspect::Room;

/// Whether a request asks to become a WebSocket.
pub fn is_upgrade(request: &HttpRequest) -> bool {
    let has = |name, word: &str| {
        request
            .headers()
            .get_all(name)
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    };
    has(header::UPGRADE, "websocket") && has(header::CONNECTION, "upgrade")
}

/// What a plain HTTP request to the channel gets.
pub fn upgrade_required() -> HttpResponse {
    HttpResponse::UpgradeRequired()
        .content_type("text/plain")
        .insert_header((header::UPGRADE, "websocket"))
        .force_close()
        .body("Upgrade Required")
}

/// Turns a request into a WebSocket and serves it.
pub fn upgrade(request: &HttpRequest, payload: web::Payload, runtime: &web::Data<Runtime>) -> HttpResponse {
    let (session, lifetime) = match named_session(request) {
        Ok(Some(id)) => (id, Lifetime::Named),
        Ok(None) => (engine::draw_connection_session(), Lifetime::Connection),
        Err(answer) => return answer,
    };
    let agent = match named_agent(request, runtime) {
        Ok(agent) => agent,
        Err(answer) => return answer,
    };
    let goes_on = match goes_on(request, lifetime) {
        Ok(goes_on) => goes_on,
        Err(answer) => return answer,
    };
    if runtime.engine.is_draining() {
        return HttpResponse::ServiceUnavailable()
            .insert_header((header::RETRY_AFTER, "1"))
            .json(serde_json::json!({"error": "shutting down"}));
    }
    let offered = first_subprotocol(request);
    let protocols: Vec<&str> = offered.iter().map(String::as_str).collect();
    let limit = runtime.limits.max_message_bytes;
    let seen = Seen::new();
    let inspected = Inspected::new(payload.into_inner(), limit, runtime.room.clone(), seen.clone());
    let mut inspected: Payload = Payload::Stream { payload: Box::pin(inspected) };
    // The only way from a stream to the type that the library takes; it does nothing else.
    let payload = web::Payload::from_request(request, &mut inspected).into_inner();
    let handled = payload.and_then(|payload| actix_ws::handle_with_protocols(request, payload, &protocols));
    let (response, socket, messages) = match handled {
        Ok(parts) => parts,
        Err(error) => return error.error_response(),
    };
    let messages = messages.max_frame_size(limit).aggregate_continuations().max_continuation_size(limit);
    let hangup = request.conn_data::<super::hangup::Hangup>().cloned();
    let connection = Connection { runtime: runtime.clone(), session, lifetime, agent, seen, hangup, goes_on };
    // The connection lives on this worker; the turns it starts do not.
    actix_web::rt::spawn(connection.serve(socket, messages));
    response
}

/// What the fuzz target of the messages calls.
#[cfg(any(fuzzing, test))]
pub fn fuzz_message(text: &str) {
    if let Err(refusal) = read::read(text, &super::RequestLimits::default()) {
        assert!(!refusal.text.is_empty());
        let frame = frames::refusal(&refusal, refusal.is_request);
        assert!(frame.starts_with(r#"{"message_type":"error_message""#));
        assert!(crate::json::check(frame.as_bytes()).is_ok());
    }
}

/// `?session=ID&after=SEQ`, and with `&extensions=events,notices` what the lost connection had opted in to.
fn goes_on(request: &HttpRequest, lifetime: Lifetime) -> Result<Option<(Seq, read::Extras)>, HttpResponse> {
    let query = web::Query::<std::collections::HashMap<String, String>>::from_query(request.query_string());
    let Ok(query) = query else { return Ok(None) };
    let Some(after) = query.get("after").map(|after| after.parse::<u64>()) else { return Ok(None) };
    let refused = |text: &str| HttpResponse::BadRequest().json(serde_json::json!({"error": text}));
    let after = after.map_err(|_| refused("after: expected the seq of a frame"))?;
    if lifetime == Lifetime::Connection {
        return Err(refused("after: only a session with a name can be gone on with: ?session=ID&after=SEQ"));
    }
    let extensions = query.get("extensions").map(String::as_str).unwrap_or_default();
    let wants = |word: &str| extensions.split(',').any(|one| one == word);
    let extras = read::Extras { notices: wants("notices"), events: wants("events"), ..read::Extras::default() };
    Ok(Some((Seq(after), extras)))
}

/// `?session=ID`
fn named_session(request: &HttpRequest) -> Result<Option<SessionId>, HttpResponse> {
    let query = web::Query::<std::collections::HashMap<String, String>>::from_query(request.query_string());
    let id = query.ok().and_then(|mut query| query.remove("session"));
    id.map(|id| SessionId::new(&id))
        .transpose()
        .map_err(|error| HttpResponse::BadRequest().json(serde_json::json!({"error": format!("session: {error}")})))
}

/// `?agent=NAME`
fn named_agent(request: &HttpRequest, runtime: &Runtime) -> Result<Option<Arc<str>>, HttpResponse> {
    let query = web::Query::<std::collections::HashMap<String, String>>::from_query(request.query_string());
    let Some(name) = query.ok().and_then(|mut query| query.remove("agent")) else { return Ok(None) };
    if runtime.offers(&name) {
        return Ok(Some(name.into()));
    }
    Err(HttpResponse::BadRequest().json(serde_json::json!({"error": format!("unknown agent: {name}")})))
}

/// The peer echoes the first subprotocol it is offered, whatever it is.
fn first_subprotocol(request: &HttpRequest) -> Option<String> {
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    offered.split(',').map(str::trim).find(|word| !word.is_empty()).map(str::to_owned)
}
