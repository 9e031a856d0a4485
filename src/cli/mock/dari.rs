//! A platform with a custom runtime server, as `dari-runtime-v1` tells of it.
//!
//! Owns the requests, the retries with the same message id, and the state that the platform keeps.

use super::chaos::Fate;
use super::{Rules, START, Seen};
use crate::config::ConfigError;
use crate::outbound;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};
use url::Url;

/// Between two looks whether the server is there.
const POLL: Duration = Duration::from_millis(100);
/// Before a turn is asked again that was refused for now.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The server may ask for more, up to this.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);

pub struct Platform {
    client: reqwest::Client,
    url: Url,
    session: String,
    rules: Rules,
    state: Option<Box<RawValue>>,
}

/// An answer to a turn. A state that is null is not one that is absent.
#[derive(Deserialize)]
struct Answer<'a> {
    text: Option<String>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    state: Option<&'a RawValue>,
    #[serde(borrow, default)]
    events: Option<&'a RawValue>,
}

fn even_null<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Why a request has no answer.
enum Unanswered {
    /// The same may have one later.
    ForNow(String, Duration),
    /// It never will.
    ForGood(String),
}

impl Platform {
    pub async fn new(url: Url, session: String, rules: Rules) -> Result<Self, ConfigError> {
        // A connection per request, as a sandbox's proxy makes them.
        let builder = outbound::builder().map_err(|error| ConfigError(error.to_string()))?;
        let builder = builder.no_proxy().pool_max_idle_per_host(0).timeout(rules.limit);
        let client = builder.build().map_err(|error| ConfigError(format!("cannot make an HTTP client: {error}")))?;
        let platform = Self { client, url, session, rules, state: None };
        platform.is_there().await?;
        Ok(platform)
    }

    /// Any answer will do: what a health check has to say is for `check` and `conform`.
    async fn is_there(&self) -> Result<(), ConfigError> {
        let mut url = self.url.clone();
        url.set_path("/health");
        let began = Instant::now();
        loop {
            match self.client.get(url.clone()).send().await {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > START => {
                    let mut cause: &dyn std::error::Error = &error;
                    while let Some(deeper) = cause.source() {
                        cause = deeper;
                    }
                    return Err(ConfigError(format!("no server answers at {url}: {cause}")));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    pub async fn turn(&self, n: u64, prompt: &str, fate: &Fate) -> Seen {
        let state = self.state.as_deref();
        let body = json!({
            "input": {"text": prompt}, "session_id": self.session, "message_id": format!("msg_{n}"), "state": state,
        });
        let body = body.to_string();
        let mut seen = Seen::default();
        for cut in &fate.drops {
            // What has come by then is read by nobody; it counts as an answer all the same.
            seen.dropped += 1;
            seen.retries += 1;
            match tokio::time::timeout(*cut, self.ask(&body, None)).await {
                Ok(Ok(answer)) => seen.answers.push(answer),
                Ok(Err(Unanswered::ForNow(problem, _) | Unanswered::ForGood(problem))) => seen.problem = problem,
                Err(_) => self.rules.wire.sent("(dropped)"),
            }
        }
        for tried in 1..=self.rules.tries {
            let asked = self.ask(&body, fate.slow);
            let answered = if fate.twin {
                seen.copies += 1;
                let (one, other) = tokio::join!(asked, self.ask(&body, None));
                seen.answers.extend(other.ok());
                one
            } else {
                asked.await
            };
            match answered {
                Ok(answer) => {
                    seen.answers.push(answer);
                    break;
                }
                Err(Unanswered::ForGood(problem)) => {
                    seen.problem = problem;
                    return seen;
                }
                Err(Unanswered::ForNow(problem, wait)) => {
                    seen.problem = problem;
                    if tried < self.rules.tries {
                        seen.retries += 1;
                        tokio::time::sleep(wait).await;
                    }
                }
            }
        }
        if fate.again && !seen.answers.is_empty() {
            seen.copies += 1;
            match self.ask(&body, None).await {
                Ok(answer) => seen.answers.push(answer),
                Err(Unanswered::ForNow(problem, _) | Unanswered::ForGood(problem)) => {
                    seen.answers.push(format!("none ({problem})"));
                }
            }
        }
        seen
    }

    async fn ask(&self, body: &str, late: Option<Duration>) -> Result<String, Unanswered> {
        let for_now = |problem: String| Unanswered::ForNow(problem, BACK_OFF);
        self.rules.wire.sent(body);
        let request = self.client.post(self.url.clone()).header("content-type", "application/json");
        let request = match &self.rules.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        };
        let answer = request.body(body.to_owned()).send().await.map_err(|error| for_now(in_words(&error)))?;
        if let Some(late) = late {
            tokio::time::sleep(late).await;
        }
        let status = answer.status().as_u16();
        let wait = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let text = answer.text().await.map_err(|error| for_now(in_words(&error)))?;
        self.rules.wire.got(&if status == 200 { text.clone() } else { format!("{status} {text}") });
        match status {
            200 => Ok(text),
            408 | 409 | 429 | 502..=504 => {
                let wait = wait.map_or(BACK_OFF, Duration::from_secs).min(LONGEST_BACK_OFF);
                Err(Unanswered::ForNow(format!("the answer was {status} {}", super::short(&text)), wait))
            }
            _ => Err(Unanswered::ForGood(format!("the answer was {status} {}", super::short(&text)))),
        }
    }

    /// Keeps the state as the answer says; gives its text.
    pub fn take(&mut self, answer: &str) -> Result<String, String> {
        let read: Answer<'_> = serde_json::from_str(answer)
            .map_err(|error| format!("the answer is not one of the contract: {error}: {}", super::short(answer)))?;
        match read.state {
            None => {}
            Some(state) if state.get() == "null" => self.state = None,
            Some(state) => self.state = Some(state.to_owned()),
        }
        match (read.text, read.events) {
            (Some(text), None) if !text.is_empty() => Ok(text),
            (None, Some(events)) => Ok(events.get().to_owned()),
            _ => Err(format!("the answer has no text: {}", super::short(answer))),
        }
    }

    pub fn state(&self) -> Option<&str> {
        self.state.as_deref().map(RawValue::get)
    }
}

fn in_words(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
