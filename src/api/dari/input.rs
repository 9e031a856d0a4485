//! From the body of an advance request to the user's turn in it: sections 2.2 to 2.8 of the contract.
//!
//! Owns which key of the many possible ones counts. `fold` finds the user's blocks, `attached` makes the prompt
//! of them, `workspace` looks files up, `raw` reads JSON without taking it apart. Knows no HTTP, no engine and no
//! clock; the only way to the disk is the resolver it is given.

mod attached;
mod fold;
mod raw;
#[cfg(test)]
#[path = "input_tests.rs"]
mod tests;
mod workspace;

pub use workspace::Workspace;

use crate::model::Attachment;
use fold::{Folded, PathIds, STEP_KEYS};
use raw::{Members, integer_text, is_null, is_object, members, nesting, repaired, text};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::path::PathBuf;

/// The keys that may hold the state, in the order they are looked at.
const STATE_KEYS: [&str; 4] = ["state", "previous_state", "state_json", "runtime_state"];

/// Keys that may change from one delivery of the same request to the next.
const DELIVERY_KEYS: [&str; 3] = ["attempt", "turn_id", "run_id"];

/// Top-level keys that are read, or ignored by name in the contract. The rest are worth a line in the log.
const OTHER_KEYS: [&str; 21] = [
    "session_id",
    "sessionId",
    "session",
    "context",
    "message_id",
    "messageId",
    "instructions",
    "system",
    "system_prompt",
    "tools",
    "skills",
    "files",
    "model",
    "secrets",
    "role",
    "type",
    "id",
    "metadata",
    "file_id",
    "path",
    "url",
];

/// How many names of unknown keys are reported: a line of the log needs no more.
const UNKNOWN_KEYS: usize = 16;

/// Longest id in characters.
const LONGEST_ID: usize = 256;

/// Nesting up to which a state that came as a string is decoded, the same limit as for a body.
const DEEPEST_STATE: usize = 128;

/// What an advance request asks for.
#[derive(Debug)]
pub enum Input<'a> {
    /// The user said something.
    Turn(UserTurn<'a>),
    /// Nobody said anything: a fixed answer, no turn.
    NotATurn(Canned),
}

/// The answer to a request that is no user turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canned {
    /// `{}`
    Empty,
    /// A text saying that no tool or model result was requested.
    ResultNotRequested,
}

/// Why a request cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The body is a JSON value, but not an object (M2).
    #[error("request body must be a JSON object")]
    NotAnObject,
    /// The body has keys that should hold the user's input, and there is none in them (M3).
    #[error("no user input found")]
    NoUserInput,
}

/// A user turn, as far as the request tells it.
#[derive(Debug)]
pub struct UserTurn<'a> {
    /// The user's text and the mentions of attachments. Empty if all there is are attachments that need no mention.
    pub prompt: String,
    /// What came with the text, in order.
    pub attachments: Vec<Attachment>,
    /// The platform's session id, if the request has one.
    pub session: Option<String>,
    /// The platform's message id, if the request has one. Without it the `Idempotency-Key` header comes next.
    pub message_id: Option<String>,
    /// Instructions in the request; their meaning is `instructions::find`'s business.
    pub instructions: Option<String>,
    /// The state as it came; a string that holds an object, decoded. `None` for absent and for `null`.
    pub state: Option<Cow<'a, RawValue>>,
    /// What the input is compared by.
    pub input: InputText<'a>,
    /// Names of top-level keys that nothing is known about: at most 16, each cut to 64 characters.
    pub unknown_keys: Vec<String>,
}

/// The JSON that makes two inputs equal or different.
#[derive(Debug)]
pub enum InputText<'a> {
    /// The value of `input`.
    Input(&'a RawValue),
    /// There is no `input`: the body's members except the state, `attempt`, `turn_id` and `run_id`.
    Members(Members<'a>),
}

/// Reads a body, which the caller has found to be valid JSON of limited nesting, without byte order mark.
///
/// `resolver` says where an attachment with a `path` or `filename` lies in the workspace; it is asked once for each
/// such attachment of the user's message and may go to the disk.
///
/// # Errors
/// [`Malformed`], if there is no telling what the user said.
pub fn read<'a>(body: &'a str, resolver: &dyn Fn(&Attachment) -> Option<PathBuf>) -> Result<Input<'a>, Malformed> {
    let top = members(body).ok_or(Malformed::NotAnObject)?;
    if !STEP_KEYS.iter().any(|&key| present(&top, key).is_some_and(|value| key != "data" || is_object(value))) {
        return Ok(Input::NotATurn(Canned::Empty));
    }
    let given = present(&top, "input");
    let start = given.map_or(body, RawValue::get);
    let mended;
    // The JSON grammar allows what Rust's strings and floats cannot hold, and JavaScript does send it: half an emoji
    // at the end of a text that was cut. Such a body is mended once and read again rather than refused.
    let folded = if let Ok(folded) = fold::fold(start) {
        folded
    } else {
        mended = repaired(start);
        fold::fold(&mended).map_err(|_| Malformed::NoUserInput)?
    };
    let found = match folded {
        Folded::Canned(canned) => return Ok(Input::NotATurn(canned)),
        Folded::Found(found) if found.blocks.is_empty() => return Err(Malformed::NoUserInput),
        Folded::Found(found) => found,
    };
    let (session, message_id) = ids(&top, found.ids, given.is_none());
    let (prompt, attachments) = found.blocks.finish(resolver);
    Ok(Input::Turn(UserTurn {
        prompt,
        attachments,
        session,
        message_id,
        instructions: instructions(&top),
        state: state(&top),
        unknown_keys: unknown_keys(&top),
        input: match given {
            Some(input) => InputText::Input(input),
            None => InputText::Members(identifying(top)),
        },
    }))
}

/// The session and the message id, each from the first place that has a usable one (section 2.5).
///
/// `whole` says that the blocks were looked for in the body itself. Then the id in `message` is known from that walk,
/// and a message of many megabytes is not walked again for it.
fn ids(top: &Members<'_>, path: PathIds, whole: bool) -> (Option<String>, Option<String>) {
    let direct = |key: &str| present(top, key).and_then(id);
    let inner = |key: &str, name: &str| {
        let inside = members(present(top, key)?.get())?;
        present(&inside, name).and_then(id)
    };
    let session = direct("session_id")
        .or_else(|| direct("sessionId"))
        .or_else(|| inner("session", "id"))
        .or_else(|| inner("context", "session_id"))
        .or(path.session);
    let message = direct("message_id")
        .or_else(|| direct("messageId"))
        .or_else(|| if whole { path.in_message } else { inner("message", "id") })
        .or(path.message)
        .or(path.holder);
    (session, message)
}

/// The member, unless it is absent or null.
fn present<'a>(of: &Members<'a>, key: &str) -> Option<&'a RawValue> {
    of.get(key).copied().filter(|value| !is_null(value))
}

/// An id as text. Anything but a string of 1 to 256 characters or an integer is none.
fn id(value: &RawValue) -> Option<String> {
    // Twelve bytes is the longest way to write one character: nothing longer needs to be decoded to be refused.
    if value.get().len() > LONGEST_ID * 12 + 2 {
        return None;
    }
    let found = text(value).or_else(|| integer_text(value).map(Cow::Borrowed))?;
    (1..=LONGEST_ID).contains(&found.chars().count()).then(|| found.into_owned())
}

/// The first of the state keys that is there, also if it is null: an explicit null is the platform's "no state".
fn state<'a>(top: &Members<'a>) -> Option<Cow<'a, RawValue>> {
    let value = *STATE_KEYS.iter().find_map(|key| top.get(*key))?;
    if is_null(value) {
        return None;
    }
    Some(decoded_object(value).map_or(Cow::Borrowed(value), Cow::Owned))
}

/// What is in a JSON string, if that is one JSON object. It must not be nested deeper than a body may be, which only
/// the string's outside was checked for.
fn decoded_object(value: &RawValue) -> Option<Box<RawValue>> {
    if !value.get().starts_with('"') {
        return None;
    }
    let inside: String = serde_json::from_str(value.get()).ok()?;
    let trimmed = inside.trim_matches([' ', '\t', '\r', '\n']);
    if !trimmed.starts_with('{') || nesting(trimmed) > DEEPEST_STATE {
        return None;
    }
    let exact = if trimmed.len() == inside.len() { inside } else { trimmed.to_owned() };
    RawValue::from_string(exact).ok()
}

/// Instructions in the request: the first of the possible keys that holds a text.
fn instructions(top: &Members<'_>) -> Option<String> {
    let said = |value: &RawValue| text(value).filter(|text| !text.trim().is_empty()).map(Cow::into_owned);
    let either = |value: &RawValue| said(value).or_else(|| members(value.get())?.get("system").copied().and_then(said));
    let direct = |key: &str| present(top, key).and_then(said);
    present(top, "instructions").and_then(either).or_else(|| direct("system")).or_else(|| direct("system_prompt"))
}

/// The members that identify the input if there is no `input` among them. `"input":null` is as good as absent.
fn identifying(mut top: Members<'_>) -> Members<'_> {
    top.retain(|key, _| {
        let key = &**key;
        key != "input" && !STATE_KEYS.contains(&key) && !DELIVERY_KEYS.contains(&key)
    });
    top
}

fn unknown_keys(top: &Members<'_>) -> Vec<String> {
    let known =
        |key: &str| [&STATE_KEYS[..], &DELIVERY_KEYS, &OTHER_KEYS, &STEP_KEYS].iter().any(|keys| keys.contains(&key));
    let unknown = top.keys().filter(|key| !known(key)).take(UNKNOWN_KEYS);
    unknown.map(|key| key.chars().take(64).collect()).collect()
}
