//! What is sent to a server and what comes back.
//!
//! Owns the limits of requests and the form that an answer has to have.

use super::Target;
use crate::outbound;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often a platform may ask whether the server is ready.
const POLL: Duration = Duration::from_millis(100);
/// What a health check may take.
const FAST: Duration = Duration::from_millis(100);
/// How long an answer to a health check is waited for.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);
/// How much of a body is shown.
const SHOWN: usize = 200;
/// An answer may be so long.
const LONGEST: usize = 64 << 20;

/// The platform.
pub(super) struct Host<'a> {
    pub(super) target: &'a Target,
    client: reqwest::Client,
    /// Names of this run, so that a server that was checked before takes none of it for a repeat.
    pub(super) run: String,
}

/// An answer, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) kind: String,
    pub(super) body: Vec<u8>,
}

/// The answer to a turn.
#[derive(Debug, Clone)]
pub(super) struct Spoken {
    pub(super) answer: Answer,
    /// As it came; `None` without the key.
    pub(super) state: Option<String>,
    /// What is wrong with its form.
    pub(super) wrong: Vec<String>,
}

impl<'a> Host<'a> {
    pub(super) fn new(target: &'a Target) -> Result<Self, String> {
        // A server on this machine is known to no proxy.
        let builder = outbound::builder().map_err(|error| error.to_string())?;
        let builder = if target.base.contains("://127.") || target.base.contains("://localhost") {
            builder.no_proxy()
        } else {
            builder
        };
        let client = builder.build().map_err(|error| error.to_string())?;
        url::Url::parse(&target.base).map_err(|error| format!("{}: {error}", target.base))?;
        let run = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        Ok(Self { target, client, run })
    }

    pub(super) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.target.base.trim_end_matches('/')));
        match &self.target.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    pub(super) async fn send(&self, request: reqwest::RequestBuilder, within: Duration) -> Result<Answer, String> {
        let told = |error: reqwest::Error| {
            if error.is_timeout() {
                format!("no whole answer within {within:?}")
            } else if error.is_connect() {
                "nothing listens any more".to_owned()
            } else {
                format!("the connection ended before the answer was whole ({})", innermost(&error))
            }
        };
        let mut answer = request.timeout(within).send().await.map_err(told)?;
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.to_owned();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(told)? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST {
                return Err(format!("the answer is longer than {LONGEST} bytes"));
            }
        }
        Ok(Answer { status, kind, body })
    }

    pub(super) async fn post(&self, body: impl Into<reqwest::Body>) -> Result<Answer, String> {
        let request = self.request(reqwest::Method::POST, &self.target.advance_path);
        let request = request.header("Content-Type", "application/json").body(body);
        self.send(request, self.target.turn_within).await
    }

    /// A turn that has to be answered with 200.
    pub(super) async fn turn(&self, body: String) -> Result<Spoken, String> {
        Spoken::of(self.post(body).await?)
    }

    /// The body of a turn as a platform writes it.
    pub(super) fn body(&self, session: &str, message: &str, text: &str, state: Option<&str>) -> String {
        let text = serde_json::Value::from(text);
        let (run, state) = (&self.run, state.unwrap_or("null"));
        format!(
            r#"{{"input":{{"text":{text}}},"session_id":"check-{run}-{session}","message_id":"{run}-{session}-{message}","state":{state}}}"#
        )
    }

    pub(super) async fn health(&self) -> Result<(Answer, Duration), String> {
        let began = Instant::now();
        let request = self.request(reqwest::Method::GET, &self.target.health_path);
        let answer = self.send(request, HEALTH_WITHIN).await?;
        Ok((answer, began.elapsed()))
    }

    pub(super) async fn until_healthy(&self) -> Result<String, String> {
        let began = Instant::now();
        loop {
            let seen = match self.health().await {
                Ok((answer, _)) if answer.status == 200 => {
                    return Ok(format!("after {} ms", began.elapsed().as_millis()));
                }
                Ok((answer, _)) => answer.shown(),
                Err(seen) => seen,
            };
            if let Some(end) = (self.target.ended)() {
                return Err(format!("the server ended {end}"));
            }
            if began.elapsed() > self.target.ready_within {
                let path = &self.target.health_path;
                let hint = if seen.starts_with("404") { "; does the server know the health path?" } else { "" };
                return Err(format!("GET {path} still gives {seen} after {:?}{hint}", self.target.ready_within));
            }
            sleep(POLL).await;
        }
    }

    /// The best of several, since a busy machine makes every server slow now and then.
    pub(super) async fn health_is_fast(&self) -> Result<String, String> {
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let (answer, took) = self.health().await?;
            if answer.status != 200 {
                return Err(answer.shown());
            }
            best = best.min(took);
            if best <= FAST {
                return Ok(format!("{} ms", best.as_millis()));
            }
        }
        Err(format!("{} ms at best, of 5; answer without asking a model, a network or a disk", best.as_millis()))
    }
}

impl Answer {
    pub(super) fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let cut = &text[..text.floor_char_boundary(SHOWN)];
        let more = if cut.len() < text.len() { "…" } else { "" };
        if text.is_empty() {
            format!("{} without a body", self.status)
        } else {
            format!("{}: {cut}{more}", self.status)
        }
    }
}

impl Spoken {
    fn of(answer: Answer) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Fields<'a>(#[serde(borrow)] BTreeMap<String, &'a RawValue>);
        if answer.status != 200 {
            return Err(answer.shown());
        }
        let fields: Fields<'_> = serde_json::from_slice(&answer.body).map_err(|error| {
            let what = if error.to_string().starts_with("trailing characters") {
                "there is more than one value in the body".to_owned()
            } else {
                error.to_string()
            };
            format!("the body is not one JSON object: {what}\n{}", answer.shown())
        })?;
        let mut wrong = Vec::new();
        if !answer.kind.starts_with("application/json") {
            wrong.push(format!("Content-Type is `{}`, not application/json", answer.kind));
        }
        let has_events = fields.0.contains_key("events");
        for name in fields.0.keys().filter(|name| !matches!(name.as_str(), "text" | "state")) {
            if !(has_events && matches!(name.as_str(), "events" | "action")) {
                wrong.push(format!("the key `{name}` has no place in an answer"));
            }
        }
        let text = fields.0.get("text").map(|text| serde_json::from_str::<String>(text.get()));
        match text {
            None if has_events => {}
            None => wrong.push("there is no `text`".to_owned()),
            Some(Ok(_)) if has_events => {
                wrong.push("`text` and `events` are both there, which tells the user twice".to_owned());
            }
            Some(Ok(text)) if text.is_empty() => {
                wrong.push("`text` is empty; say at least that there is nothing to say".to_owned());
            }
            Some(Ok(_)) => {}
            Some(Err(_)) => wrong.push(format!("`text` is no string: {}", fields.0["text"].get())),
        }
        let state = fields.0.get("state").map(|state| state.get().to_owned());
        Ok(Self { answer, state, wrong })
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
