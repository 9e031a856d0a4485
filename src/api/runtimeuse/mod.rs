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

use super::{Protocol, Runtime, problem, websocket};
use crate::engine;
use crate::model::{Lifetime, Seq, SessionId};
use crate::telemetry::Whose;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use connection::Connection;
use std::collections::HashMap;
use std::sync::Arc;

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
    let url = match Url::read(request) {
        Ok(url) => url,
        Err(text) => return problem::error(StatusCode::BAD_REQUEST, &text),
    };
    let agent = match named_agent(request, runtime) {
        Ok(agent) => agent,
        Err(answer) => return answer,
    };
    // Who comes back to a turn that runs is let in as long as it runs.
    let comes_back = url.goes_on.is_some() && !runtime.engine.is_draining();
    if let Err(fault) = runtime.engine.takes_turns()
        && !comes_back
    {
        return problem::error(problem::status(fault.code), &fault.message);
    }
    let limit = runtime.limits.max_message_bytes;
    let upgraded = websocket::upgrade(request, payload, runtime, Protocol::RuntimeUse, limit);
    let websocket::Upgraded { response, socket, messages } = match upgraded {
        Ok(upgraded) => upgraded,
        Err(answer) => return answer,
    };
    let hangup = request.conn_data::<super::hangup::Hangup>().cloned();
    let Url { session, key, goes_on } = url;
    let is_going_on = session.is_some();
    let (session, lifetime) = match (session, &key) {
        (Some(session), _) => (session, Lifetime::Named),
        // A request that can be asked again is found again: its session has the name of its key.
        (None, Some(key)) => (SessionId::scoped("turn", key), Lifetime::Named),
        (None, None) => (engine::draw_connection_session(), Lifetime::Connection),
    };
    let runtime = runtime.clone();
    let trace = super::trace::of(request.headers());
    let connection = Connection { runtime, session, lifetime, is_going_on, key, agent, trace, hangup, goes_on };
    // The connection lives on this worker; the turns it starts do not.
    let whose = Whose::session(&connection.session);
    actix_web::rt::spawn(whose.does(connection.serve(socket, messages)));
    response
}

/// Whether a message is one.
#[cfg(feature = "inside")]
pub fn reads_message(text: &str) -> bool {
    read::read(text, &super::RequestLimits::default()).is_ok()
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

/// What a URL says.
struct Url {
    /// `?session=ID`
    session: Option<SessionId>,
    /// `?turn=KEY`: the key of the connection's request.
    key: Option<String>,
    /// `?after=SEQ`, and with `&extensions=events,notices` what the lost connection had opted in to.
    goes_on: Option<(Seq, read::Extras)>,
}

impl Url {
    fn read(request: &HttpRequest) -> Result<Self, String> {
        let query = web::Query::<HashMap<String, String>>::from_query(request.query_string());
        let query = query.map(web::Query::into_inner).unwrap_or_default();
        let session = query.get("session").map(|id| SessionId::new(id)).transpose();
        let session = session.map_err(|error| format!("session: {error}"))?;
        let key = query.get("turn").cloned();
        if let Some(key) = &key {
            // The rules of ids are those of keys.
            SessionId::new(key)
                .map_err(|_| "turn: expected 1 to 256 characters without control characters".to_owned())?;
        }
        let goes_on = match query.get("after").map(|after| after.parse::<u64>()) {
            None => None,
            Some(Err(_)) => return Err("after: expected the seq of a frame".to_owned()),
            Some(Ok(_)) if session.is_none() && key.is_none() => {
                return Err("after: only a session with a name can be gone on with: ?session=ID&after=SEQ".to_owned());
            }
            Some(Ok(after)) => {
                let extensions = query.get("extensions").map(String::as_str).unwrap_or_default();
                let wants = |word: &str| extensions.split(',').any(|one| one == word);
                let (notices, events) = (wants("notices"), wants("events"));
                Some((Seq(after), read::Extras { notices, events, ..read::Extras::default() }))
            }
        };
        Ok(Self { session, key, goes_on })
    }
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
