//! The RuntimeUse WebSocket protocol: the adapter between its messages and turns.
//!
//! Owns what a URL may say. Messages are read in `read` and `fields`, written in `frames` and `results`, and moved in
//! `connection` and `writer`.

mod connection;
mod fields;
mod frames;
mod read;
mod results;
mod writer;

use super::{Runtime, problem, websocket};
use crate::engine;
use crate::model::{Lifetime, Seq, SessionId};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use connection::Connection;

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
    let goes_on = match goes_on(request, lifetime) {
        Ok(goes_on) => goes_on,
        Err(answer) => return answer,
    };
    if let Err(fault) = runtime.engine.takes_turns() {
        return problem::error(problem::status(fault.code), &fault.message);
    }
    let upgraded = websocket::upgrade(request, payload, runtime, runtime.limits.max_message_bytes);
    let websocket::Upgraded { response, socket, messages } = match upgraded {
        Ok(upgraded) => upgraded,
        Err(answer) => return answer,
    };
    let hangup = request.conn_data::<super::hangup::Hangup>().cloned();
    let connection = Connection { runtime: runtime.clone(), session, lifetime, hangup, goes_on };
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
