//! What clients say on a WebSocket: frames of the bridge, commands of the sidecar.
//!
//! Owns how they are read, and the sentences for those that are wrong. What is done by them is their connection's business.

use super::session::Input;
use crate::json;
use crate::wire::sessions::{ClientFrame, Command, Content, Pointed};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// The longest answer to what is wrong.
const LONGEST: usize = 300;

/// What a frame asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// To be told to the session.
    Input(Input),
    /// To be answered.
    Ping,
    Nothing,
}

/// A frame of a client of the bridge.
///
/// # Errors
/// What is wrong with it.
pub fn frame(text: &str) -> Result<Heard, String> {
    let frame: ClientFrame<'_> = match serde_json::from_str(text) {
        Ok(_) if !json::is_object(text) => return Err("invalid frame json: expected an object".to_owned()),
        Ok(frame) => frame,
        Err(problem) => return Err(short(format!("invalid frame json: {problem}"))),
    };
    let input = match frame.r#type.as_str() {
        "ping" => return Ok(Heard::Ping),
        "resize" => return Ok(Heard::Nothing),
        "stdin" | "prompt" => Input::Prompt(text_of(frame.data).ok_or("prompt content is required")?),
        "steer" => Input::Steer(text_of(frame.data).ok_or("steer content is required")?),
        "interrupt" => Input::Interrupt,
        "context" => Input::Context(context(&members(frame.context.or(frame.data)))),
        "mention" => Input::Context(mention(&members(frame.mention.or(frame.data)))),
        other => return Err(short(format!("unknown frame type: {other}"))),
    };
    Ok(Heard::Input(input))
}

/// A command of a client of the sidecar, by its name.
///
/// # Errors
/// What is wrong with it.
pub fn command(text: &str) -> Result<(String, Input), String> {
    let command: Command<'_> = match serde_json::from_str(text) {
        Ok(_) if !json::is_object(text) => return Err("invalid command json: expected an object".to_owned()),
        Ok(command) => command,
        Err(problem) => return Err(short(format!("invalid command json: {problem}"))),
    };
    let content = || trimmed(&members::<Content>(command.data).content);
    let input = match command.r#type.as_str() {
        "prompt" => Input::Prompt(content().ok_or("prompt content is required")?),
        "steer" => Input::Steer(content().ok_or("steer content is required")?),
        "interrupt" => Input::Interrupt,
        "context" => Input::Context(context(&members(command.data))),
        "mention" => Input::Context(mention(&members(command.data))),
        other => return Err(short(format!("unknown command type: {other}"))),
    };
    Ok((command.r#type, input))
}

/// What was sent may be in there, and may be long.
fn short(mut problem: String) -> String {
    if problem.len() > LONGEST {
        problem.truncate(problem.floor_char_boundary(LONGEST));
        problem.push('…');
    }
    problem
}

fn trimmed(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn text_of(data: Option<&RawValue>) -> Option<String> {
    trimmed(&serde_json::from_str::<String>(data?.get()).ok()?)
}

fn members<T: DeserializeOwned + Default>(data: Option<&RawValue>) -> T {
    data.and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default()
}

/// What the agent is to know, as a text that it reads before the next message.
fn context(pointed: &Pointed) -> String {
    let place = if pointed.file_path.is_empty() { String::new() } else { format!(" from {}", pointed.file_path) };
    format!("Context{place}{}:\n{}", lines(pointed), pointed.text)
}

/// A place in a file that the user means.
fn mention(pointed: &Pointed) -> String {
    let text = if pointed.text.is_empty() { String::new() } else { format!("\n{}", pointed.text) };
    format!("The user refers to {}{}.{text}", pointed.file_path, lines(pointed))
}

fn lines(pointed: &Pointed) -> String {
    match (pointed.line_start, pointed.line_end) {
        (0, 0) => String::new(),
        (from, 0) => format!(", line {from}"),
        (from, to) => format!(", lines {from} to {to}"),
    }
}
