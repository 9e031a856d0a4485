//! The built-in handler that needs no key: tells the prompt back, or does what a directive says.
//!
//! For trying turnhost out, for testing clients, and for measuring everything but an agent. The table of directives is
//! in `README.md`; [`DIRECTIVES`] is what the docs are checked against.

use super::{Cancel, Failure, Handler, Reply, Sink, Turn};
use crate::json;
use crate::model::{Answer, Event, Fault, FaultCode, OutputStream, RawJson, StateChange};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Every directive, with what it does.
pub const DIRECTIVES: &[(&str, &str)] = &[
    ("@text T", "says T as a message and answers with it"),
    ("@json {…}", "answers with this structured output"),
    ("@stream N [BYTES]", "says N messages of BYTES bytes, then answers"),
    ("@delta N [BYTES]", "says N text deltas of BYTES bytes, the whole text, then answers with it"),
    ("@sleep MS", "waits, and stops waiting when cancelled"),
    ("@deaf MS", "waits, and ignores a cancel"),
    ("@fail MESSAGE", "fails with this message"),
    ("@warn MESSAGE then TEXT", "warns, then answers TEXT"),
    ("@panic", "panics"),
    ("@state JSON", "sets the state to this value"),
    ("@clear", "clears the state"),
    ("@show", "answers with the state, model, system prompt, environment and schema it was given"),
    ("@write PATH CONTENT", "writes a file"),
    ("@read PATH", "answers with the text of a file"),
];

/// Tells the prompt back.
#[derive(Debug, Default, Clone, Copy)]
pub struct Echo;

impl Handler for Echo {
    #[expect(clippy::unnecessary_literal_bound, reason = "the trait's signature lends from self")]
    fn name(&self) -> &str {
        "echo"
    }

    async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        let prompt = turn.request.prompt.as_str();
        let counted = StateChange::Set(count_turn(turn.state.as_ref()));
        if !prompt.starts_with('@') {
            return Ok(Reply::text(prompt).with_state(counted));
        }
        let (word, rest) = prompt.split_once([' ', '\n']).unwrap_or((prompt, ""));
        let reply = match word {
            "@text" => {
                let _ = sink.text(rest).await;
                Reply::text(rest)
            }
            "@json" => Reply { answer: Answer::Structured(raw(rest)?), state: StateChange::Keep, metadata: None },
            "@stream" => stream(&sink, rest).await?,
            "@delta" => delta(&sink, rest).await?,
            "@sleep" => {
                let wait = Duration::from_millis(number(rest)?);
                tokio::select! {
                    () = tokio::time::sleep(wait) => Reply::text(format!("slept {} ms", wait.as_millis())),
                    () = cancel.fired() => return Err(fail("cancelled while asleep")),
                }
            }
            "@deaf" => {
                let wait = Duration::from_millis(number(rest)?);
                tokio::time::sleep(wait).await;
                Reply::text(format!("heard nothing for {} ms", wait.as_millis()))
            }
            "@fail" => return Err(fail(rest)),
            "@warn" => {
                let (text, answer) = rest.split_once(" then ").unwrap_or((rest, ""));
                let _ = sink.say(Event::Warning { text: text.to_owned(), field: None }).await;
                Reply::text(answer)
            }
            "@panic" => panic!("asked to panic"),
            "@state" => return Ok(Reply::text("state set").with_state(state(rest)?)),
            "@clear" => return Ok(Reply::text("state cleared").with_state(StateChange::Clear)),
            "@show" => Reply { answer: Answer::Structured(show(&turn)), state: StateChange::Keep, metadata: None },
            "@write" => write(&sink, rest).await?,
            "@read" => Reply::text(
                tokio::fs::read_to_string(rest.trim()).await.map_err(|error| fail(&format!("{rest}: {error}")))?,
            ),
            _ => Reply::text(prompt),
        };
        Ok(reply.with_state(counted))
    }
}

fn fail(message: &str) -> Failure {
    Fault::new(FaultCode::HandlerFailed, message).into()
}

fn number(text: &str) -> Result<u64, Failure> {
    text.trim().parse().map_err(|_| fail(&format!("expected a number, got {text:?}")))
}

fn raw(text: &str) -> Result<RawJson, Failure> {
    let text = text.trim();
    json::check(text.as_bytes()).map_err(|error| fail(&format!("expected JSON: {error}")))?;
    Ok(RawJson::from_valid(text))
}

fn state(text: &str) -> Result<StateChange, Failure> {
    let raw = raw(text)?;
    Ok(if raw.is_null() { StateChange::Clear } else { StateChange::Set(raw) })
}

/// The state of the next turn: an object of ours counts on, anything else starts over.
fn count_turn(state: Option<&RawJson>) -> RawJson {
    let before = state.and_then(|raw| serde_json::from_str::<Map<String, Value>>(raw.as_str()).ok());
    let turn = before.filter(|state| state.get("v") == Some(&json!(1)));
    let turn = turn.and_then(|state| state.get("turn").and_then(Value::as_u64)).unwrap_or(0) + 1;
    RawJson::from_valid(format!(r#"{{"v":1,"turn":{turn}}}"#))
}

/// `N [BYTES]`
fn count_and_size(rest: &str) -> Result<(u64, usize), Failure> {
    let mut words = rest.split_whitespace();
    let count = number(words.next().unwrap_or_default())?;
    let size = words.next().map_or(Ok(0), number)?;
    if count > 10_000_000 || size > 16 << 20 {
        return Err(fail("at most 10,000,000 messages of 16 MiB"));
    }
    Ok((count, usize::try_from(size).unwrap_or(usize::MAX)))
}

/// `message 7`, filled up with dots to the size asked for.
fn piece(word: &str, n: u64, size: usize) -> String {
    let mut text = format!("{word} {n}");
    if size > 0 {
        text.extend(std::iter::repeat_n('.', size.saturating_sub(text.len())));
        text.truncate(size);
    }
    text
}

async fn stream(sink: &Sink, rest: &str) -> Result<Reply, Failure> {
    let (count, size) = count_and_size(rest)?;
    for n in 1..=count {
        if sink.text(piece("message", n, size)).await.is_err() {
            break;
        }
        give_way(n).await;
    }
    Ok(Reply::text(format!("streamed {count}")))
}

async fn delta(sink: &Sink, rest: &str) -> Result<Reply, Failure> {
    let (count, size) = count_and_size(rest)?;
    let block: crate::model::BlockId = "block-1".into();
    let mut whole = String::new();
    for n in 1..=count {
        let text = piece("delta", n, size);
        whole.push_str(&text);
        if sink.say(Event::TextDelta { block: Some(block.clone()), text }).await.is_err() {
            break;
        }
        give_way(n).await;
    }
    let _ = sink.say(Event::Text { block: Some(block), parts: vec![whole.clone()] }).await;
    Ok(Reply::text(whole))
}

/// A loop that never waits would keep a cancel, and every other turn, from being seen.
async fn give_way(n: u64) {
    if n.is_multiple_of(256) {
        tokio::task::yield_now().await;
    }
}

async fn write(sink: &Sink, rest: &str) -> Result<Reply, Failure> {
    let (path, content) = rest.split_once(' ').unwrap_or((rest, ""));
    tokio::fs::write(path, content).await.map_err(|error| fail(&format!("{path}: {error}")))?;
    let text = format!("wrote {} bytes to {path}", content.len());
    let output =
        Event::CommandOutput { stream: OutputStream::Stdout, text: format!("{text}\n"), command: "@write".into() };
    let _ = sink.say(output).await;
    Ok(Reply::text(text))
}

fn show(turn: &Turn) -> RawJson {
    let request = &turn.request;
    let opaque = |raw: Option<&RawJson>| raw.and_then(|raw| serde_json::from_str::<Value>(raw.as_str()).ok());
    let env: Option<Map<String, Value>> =
        request.env.as_ref().map(|env| env.iter().map(|(name, value)| (name.clone(), value.expose().into())).collect());
    let shown = json!({
        "state": opaque(turn.state.as_ref()),
        "model": request.model,
        "system_prompt": request.system_prompt,
        "env": env,
        "output_format": opaque(request.output_format.as_ref()),
        "attachments": request.attachments.len(),
        "attempt": turn.attempt,
        "session_id": turn.session.as_str(),
    });
    RawJson::from_valid(shown.to_string())
}
