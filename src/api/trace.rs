//! Where a request stands in its caller's trace.
//!
//! Owns reading the two headers of W3C Trace Context, on requests and on upgrades. Their form is `model`'s.

use crate::model::TraceContext;
use actix_web::http::header::HeaderMap;

/// The caller's place in its trace, if it says so once and rightly.
pub fn of(headers: &HeaderMap) -> Option<Box<TraceContext>> {
    let mut parents = headers.get_all("traceparent");
    let parent = parents.next()?.to_str().ok()?;
    // Of several nobody knows which is right.
    if parents.next().is_some() {
        return None;
    }
    let states: Vec<&str> = headers.get_all("tracestate").filter_map(|state| state.to_str().ok()).collect();
    let state = (!states.is_empty()).then(|| states.join(","));
    TraceContext::read(parent, state.as_deref()).map(Box::new)
}
