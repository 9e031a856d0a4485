//! One call of the Responses API: sent, tried again where that can help, and its stream turned into events.
//!
//! Owns the HTTP of it. What the answer means for the turn is the handler's business.

use super::chat;
use super::sse::Events;
use super::trouble::Trouble;
use super::{Place, block_of};
use crate::handler::Sink;
use crate::handler::agent_error::Category;
use crate::json;
use crate::model::{BlockId, Event, TraceContext};
use crate::wire::openai::{
    CreateResponse, ErrorBody, EventKind, Item, ItemDone, Part, ReasoningSummary, Response, ResponseEnd, TextDelta,
    Usage,
};
use reqwest::header::RETRY_AFTER;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

/// Further attempts after one that failed in passing.
const RETRIES: u32 = 2;
/// The first pause; each one is twice as long as the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// A service that asks for a longer pause is not waited for.
const LONGEST_ASKED: Duration = Duration::from_mins(2);
/// A stream that is silent for longer is dead.
const SILENCE: Duration = Duration::from_mins(10);
/// The most of an error's body that is read.
const ERROR_BYTES: usize = 64 << 10;

/// A response that is whole.
#[derive(Debug)]
pub struct Answered {
    /// Its id.
    pub id: String,
    /// Its items, as they came.
    pub items: Vec<Box<RawValue>>,
    /// What it took.
    pub usage: Usage,
}

/// Which API is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Responses,
    Chat,
}

/// Makes a call; what the model says goes to the sink as it comes.
pub async fn call(
    place: &Place,
    form: Form,
    body: &CreateResponse<'_>,
    trace: Option<&TraceContext>,
    sink: &Sink,
) -> Result<Answered, Trouble> {
    let body = match form {
        // Only strings, numbers and raw JSON are in there: writing them cannot fail.
        Form::Responses => serde_json::to_vec(body).unwrap_or_default(),
        Form::Chat => chat::body(body),
    };
    let mut tried = 0;
    loop {
        let mut said = BTreeSet::new();
        let trouble = match attempt(place, form, body.clone(), trace, sink, &mut said).await {
            Ok(answered) => return Ok(answered),
            Err(trouble) => trouble,
        };
        if !trouble.is_passing || tried == RETRIES || trouble.after.is_some_and(|after| after > LONGEST_ASKED) {
            return Err(trouble);
        }
        for block in said {
            let _ = sink.say(Event::Discarded { block }).await;
        }
        let pause = trouble.after.unwrap_or_else(|| (FIRST_PAUSE * 2_u32.pow(tried)).min(LONGEST_PAUSE));
        let detail = serde_json::json!({"attempt": tried + 2, "after_ms": pause.as_millis().min(1 << 31), "error": trouble.message});
        let detail = serde_json::value::to_raw_value(&detail).ok();
        let detail = detail.as_deref().map(json::from_raw);
        let _ = sink.say(Event::Progress { kind: "retry".to_owned(), detail }).await;
        tokio::time::sleep(pause).await;
        tried += 1;
    }
}

async fn attempt(
    place: &Place,
    form: Form,
    body: Vec<u8>,
    trace: Option<&TraceContext>,
    sink: &Sink,
    said: &mut BTreeSet<BlockId>,
) -> Result<Answered, Trouble> {
    let path = match form {
        Form::Responses => "responses",
        Form::Chat => "chat/completions",
    };
    let mut request = place
        .http
        .post(format!("{}/{path}", place.base))
        .bearer_auth(place.key.expose())
        .header("content-type", "application/json")
        .body(body);
    for (name, value) in &place.headers {
        request = request.header(*name, value);
    }
    if let Some(trace) = trace {
        request = request.header("traceparent", trace.parent());
    }
    if let Some(state) = trace.and_then(|trace| trace.state()) {
        request = request.header("tracestate", state);
    }
    let sent = tokio::time::timeout(SILENCE, request.send()).await.map_err(|_| silent())?;
    let response = sent.map_err(|error| lost(&error))?;
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    match form {
        Form::Responses => read(response, sink, said).await,
        Form::Chat => chat::read(response, sink, said).await,
    }
}

fn silent() -> Trouble {
    Trouble::new(Category::Timeout, format!("the model API said nothing for {} s", SILENCE.as_secs()))
}

/// The innermost cause says what happened; the outer ones name the URL.
fn lost(error: &reqwest::Error) -> Trouble {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let what =
        if error.is_connect() { "cannot connect to the model API" } else { "the model API's answer was cut off" };
    Trouble::new(Category::UpstreamApiError, format!("{what}: {cause}"))
}

async fn refused(mut response: reqwest::Response) -> Trouble {
    let status = response.status().as_u16();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let may_retry = header("x-should-retry").map(|value| value == "true");
    let after = header(RETRY_AFTER.as_str()).and_then(|value| value.parse::<f64>().ok());
    let after = after.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let mut body = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(Duration::from_secs(5), response.chunk()).await {
        body.extend_from_slice(&chunk);
        if body.len() > ERROR_BYTES {
            break;
        }
    }
    let error = serde_json::from_slice::<ErrorBody>(&body).map(|body| body.error).unwrap_or_default();
    let trouble = Trouble::of_status(status, error, after);
    Trouble { is_passing: may_retry.unwrap_or(trouble.is_passing), ..trouble }
}

/// The data of the next event of an answer; `None` at its end.
pub async fn next_event(events: &mut Events, response: &mut reqwest::Response) -> Result<Option<String>, Trouble> {
    loop {
        if let Some(data) = events.next() {
            return Ok(Some(data));
        }
        let chunk = tokio::time::timeout(SILENCE, response.chunk()).await.map_err(|_| silent())?;
        let Some(chunk) = chunk.map_err(|error| lost(&error))? else { return Ok(None) };
        let text = "an event of the model API is too long";
        let too_long = |_| Trouble { is_passing: false, ..Trouble::new(Category::UpstreamApiError, text) };
        events.push(&chunk).map_err(too_long)?;
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(data: &'a str) -> Result<T, Trouble> {
    serde_json::from_str(data).map_err(|error| {
        let trouble =
            Trouble::new(Category::UpstreamApiError, format!("an event of the model API is not valid: {error}"));
        Trouble { is_passing: false, ..trouble }
    })
}

async fn read(mut response: reqwest::Response, sink: &Sink, said: &mut BTreeSet<BlockId>) -> Result<Answered, Trouble> {
    let mut events = Events::default();
    let mut items = Vec::new();
    while let Some(data) = next_event(&mut events, &mut response).await? {
        let kind = serde_json::from_str::<EventKind>(&data).map(|event| event.r#type).unwrap_or_default();
        match kind.as_str() {
            "response.output_text.delta" => {
                let TextDelta { item_id, content_index, delta } = parse(&data)?;
                let block = block_of(&item_id, content_index);
                said.insert(block.clone());
                let _ = sink.say(Event::TextDelta { block: Some(block), text: delta }).await;
            }
            "response.reasoning_summary_text.done" => {
                let ReasoningSummary { text } = parse(&data)?;
                let _ = sink.say(Event::Thinking { text }).await;
            }
            "response.output_item.done" => {
                let ItemDone { item } = parse(&data)?;
                say_item(&item, sink).await?;
                items.push(item);
            }
            "response.completed" => {
                let ResponseEnd { response: Response { id, usage, .. } } = parse(&data)?;
                return Ok(Answered { id, items, usage: usage.unwrap_or_default() });
            }
            "response.incomplete" => {
                let ResponseEnd { response } = parse(&data)?;
                let reason = response.incomplete_details.and_then(|details| details.reason);
                let reason = reason.as_deref().unwrap_or("unknown").to_owned();
                let trouble = Trouble::new(Category::InvalidRequest, format!("the response is incomplete: {reason}"));
                return Err(Trouble { code: Some(format!("incomplete:{reason}")), ..trouble });
            }
            "response.failed" => {
                let ResponseEnd { response } = parse(&data)?;
                return Err(Trouble::of_response(response.error.unwrap_or_default()));
            }
            "error" => return Err(Trouble::of_response(parse(&data)?)),
            _ => {}
        }
    }
    Err(Trouble::new(Category::UpstreamApiError, "the model API's answer ended in the middle"))
}

/// A message goes out when it is whole: one for each, whatever the number of its parts.
async fn say_item(item: &RawValue, sink: &Sink) -> Result<(), Trouble> {
    let Ok(Item::Message { id, content }) = serde_json::from_str(item.get()) else { return Ok(()) };
    let mut whole = String::new();
    for part in content {
        match part {
            Part::OutputText { text } => whole.push_str(&text),
            Part::Refusal { refusal } => {
                let trouble = Trouble::new(Category::InvalidRequest, format!("the model refused: {refusal}"));
                return Err(Trouble { code: Some("refusal".to_owned()), ..trouble });
            }
            _ => {}
        }
    }
    if !whole.is_empty() {
        let _ = sink.say(Event::Text { block: Some(block_of(&id, 0)), parts: vec![whole] }).await;
    }
    Ok(())
}
