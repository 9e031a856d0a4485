//! Reads what a RuntimeUse client sends, field by field, so that every mistake is answered with the field's name.
//!
//! Owns the client's half of the protocol as a parser: pure, no connection, nothing runs before it is through.

use super::fields::{Fields, Wrong, at_most, kind, wrong};
use crate::api::RequestLimits;
use crate::json;
use crate::model::{Command, Download, Fingerprint, RawJson, Watch, Work};
use crate::redact::Secret;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the client takes in one message, less a margin (O2).
const MAX_FRAME_BYTES: usize = 1_000_000;
/// The bounds of what a request may ask for instead.
const FRAME_BYTES: std::ops::RangeInclusive<usize> = 65_536..=104_857_600;

/// A message from the client, understood.
#[derive(Debug)]
pub enum Incoming {
    /// Run the handler, or commands.
    Request(Box<Request>),
    /// Cancel the request in flight, or only the one named.
    Cancel { request_id: Option<String> },
    /// Another message of the user into the request in flight.
    Input { request_id: Option<String>, text: String },
    /// End the session after a drain.
    EndSession,
    /// Where an announced file is to be uploaded.
    ArtifactAnswer { filepath: String, url: Secret, content_type: String },
}

/// One `invocation_message`, or one `command_execution_message`: then the handler is not called.
#[derive(Debug, Default)]
pub struct Request {
    pub source_id: Option<String>,
    pub system_prompt: Option<String>,
    pub user_prompt: String,
    pub model: Option<String>,
    pub secrets: Vec<Secret>,
    pub env: Option<BTreeMap<String, Secret>>,
    pub output_format: Option<RawJson>,
    /// The caller's own; handlers see it.
    pub metadata: Option<RawJson>,
    pub work: Work,
    pub extras: Extras,
}

/// Our additive fields of a request.
#[derive(Debug, Clone)]
pub struct Extras {
    pub request_id: Option<String>,
    pub notices: bool,
    pub events: bool,
    pub timeout: Option<Duration>,
    /// How long a message may be.
    pub max_frame_bytes: usize,
}

impl Default for Extras {
    fn default() -> Self {
        Self { request_id: None, notices: false, events: false, timeout: None, max_frame_bytes: MAX_FRAME_BYTES }
    }
}

/// Why a message is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The sentence for the client.
    pub text: String,
    /// The field it is about; none for a frame that is no message at all.
    pub field: Option<String>,
    /// The request's id, as far as it could be read.
    pub request_id: Option<String>,
    /// Whether it was meant as a request: then it is answered even while another runs.
    pub is_request: bool,
}

/// Reads one message.
pub fn read(text: &str, limits: &RequestLimits) -> Result<Incoming, Refusal> {
    let plain = |text: String| Refusal { text, field: None, request_id: None, is_request: false };
    let checked =
        json::check_within(text.as_bytes(), limits.nesting).map_err(|error| plain(format!("Invalid JSON: {error}")))?;
    let fields = match json::value(checked) {
        Value::Object(fields) => fields,
        other => {
            return Err(plain(format!("expected a JSON object with message_type, got {}", kind(&other))));
        }
    };
    let word = match fields.get("message_type") {
        Some(Value::String(word)) => word.clone(),
        None | Some(Value::Null) => return Err(named(None, "message_type", "required string is missing")),
        Some(other) => return Err(named(None, "message_type", &format!("expected a string, got {}", kind(other)))),
    };
    let fields = Fields::new(&fields);
    let refusal = |wrong: Wrong, is_request| Refusal {
        request_id: fields.request_id().ok().flatten(),
        is_request,
        ..named(Some(&word), &wrong.field, &wrong.problem)
    };
    let request = |request: Result<Request, Wrong>| match request {
        Ok(request) => Ok(Incoming::Request(Box::new(request))),
        Err(wrong) => Err(refusal(wrong, true)),
    };
    match word.as_str() {
        "invocation_message" => request(invocation(&fields, limits)),
        "command_execution_message" => request(command_execution(&fields, limits)),
        "cancel_message" => {
            let request_id = fields.request_id().map_err(|wrong| refusal(wrong, false))?;
            Ok(Incoming::Cancel { request_id })
        }
        "input_message" => input(&fields).map_err(|wrong| refusal(wrong, false)),
        "end_session_message" => Ok(Incoming::EndSession),
        "artifact_upload_response_message" => artifact_answer(&fields).map_err(|wrong| refusal(wrong, false)),
        _ => Err(named(None, "message_type", "unknown message type")),
    }
}

/// What makes a request the same as another: everything in it but the name that it has on its connection.
pub fn fingerprint(text: &str) -> Fingerprint {
    let mut message = json::value(text);
    if let Value::Object(fields) = &mut message {
        fields.remove("request_id");
    }
    json::FingerprintBuilder::new().json(&message.to_string()).finish()
}

fn input(fields: &Fields<'_>) -> Result<Incoming, Wrong> {
    Ok(Incoming::Input { request_id: fields.request_id()?, text: fields.required_string("text")? })
}

fn named(message: Option<&str>, field: &str, problem: &str) -> Refusal {
    // `commands[1].command` says enough by itself; `artifacts_dirs` needs its message's name.
    let place = match message {
        Some(message) if !field.contains('[') => format!("{message}.{field}"),
        _ => field.to_owned(),
    };
    Refusal { text: format!("{place}: {problem}"), field: Some(field.to_owned()), request_id: None, is_request: false }
}

fn invocation(fields: &Fields<'_>, limits: &RequestLimits) -> Result<Request, Wrong> {
    let mut request = Request {
        source_id: fields.source_id()?,
        system_prompt: fields.string("system_prompt")?,
        user_prompt: fields.required_string("user_prompt")?,
        model: fields.string("model")?,
        secrets: secrets(fields, limits)?,
        env: fields.env("agent_env")?,
        output_format: fields.output_format()?,
        metadata: fields.metadata()?,
        extras: extras(fields)?,
        ..Request::default()
    };
    request.work = Work {
        watch: watch(fields, limits)?,
        before: commands(fields, "pre_agent_invocation_commands", limits)?,
        after: commands(fields, "post_agent_invocation_commands", limits)?,
        downloads: downloads(fields, "pre_agent_downloadables", limits)?,
        instead: None,
        stdout_room: 0,
    };
    Ok(request)
}

fn command_execution(fields: &Fields<'_>, limits: &RequestLimits) -> Result<Request, Wrong> {
    let mut request = Request {
        source_id: fields.source_id()?,
        secrets: secrets(fields, limits)?,
        extras: extras(fields)?,
        ..Request::default()
    };
    if fields.get("commands").is_none() {
        return wrong("commands", "required array is missing");
    }
    request.work = Work {
        instead: Some(commands(fields, "commands", limits)?),
        watch: watch(fields, limits)?,
        downloads: downloads(fields, "pre_execution_downloadables", limits)?,
        stdout_room: request.extras.max_frame_bytes,
        ..Work::default()
    };
    Ok(request)
}

fn artifact_answer(fields: &Fields<'_>) -> Result<Incoming, Wrong> {
    fields.required_string("filename")?;
    Ok(Incoming::ArtifactAnswer {
        filepath: fields.required_string("filepath")?,
        url: Secret::new(fields.required_string("presigned_url")?),
        content_type: fields.required_string("content_type")?,
    })
}

fn secrets(fields: &Fields<'_>, limits: &RequestLimits) -> Result<Vec<Secret>, Wrong> {
    const NAME: &str = "secrets_to_redact";
    let secrets = fields.strings(NAME, true)?;
    at_most(NAME, secrets.len(), limits.secrets)?;
    Ok(secrets.into_iter().map(Secret::new).collect())
}

fn extras(fields: &Fields<'_>) -> Result<Extras, Wrong> {
    let wanted = fields.strings("extensions", false)?;
    let wants = |word: &str| wanted.iter().any(|wanted| wanted == word);
    let frame = fields.positive("max_frame_bytes")?.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    Ok(Extras {
        request_id: fields.request_id()?,
        notices: wants("notices"),
        events: wants("events"),
        timeout: fields.milliseconds("timeout_ms")?,
        max_frame_bytes: frame.map_or(MAX_FRAME_BYTES, |bytes| bytes.clamp(*FRAME_BYTES.start(), *FRAME_BYTES.end())),
    })
}

fn commands(fields: &Fields<'_>, name: &str, limits: &RequestLimits) -> Result<Vec<Command>, Wrong> {
    fields.objects(name, limits.commands, |fields| {
        let command = match fields.string("command")? {
            Some(command) if command.contains('\0') => return wrong("command", "must not contain a NUL character"),
            Some(command) if !command.is_empty() => command,
            _ => return wrong("command", "required string is missing"),
        };
        Ok(Command {
            command: command.into(),
            cwd: path(fields, "cwd")?.filter(|cwd| !cwd.is_empty()).map(Into::into),
            env: fields.env("env")?.unwrap_or_default(),
            timeout: fields.milliseconds("timeout_ms")?,
            silent: fields.flag("silent")?.unwrap_or(false),
        })
    })
}

fn downloads(fields: &Fields<'_>, name: &str, limits: &RequestLimits) -> Result<Vec<Download>, Wrong> {
    fields.objects(name, limits.downloads, |fields| {
        let url = Secret::new(fields.required_string("download_url")?);
        let Some(directory) = path(fields, "working_dir")? else {
            return wrong("working_dir", "required string is missing");
        };
        Ok(Download {
            url,
            directory: directory.into(),
            sha256: sha256(fields)?,
            max_bytes: fields.positive("max_bytes")?,
            timeout: fields.milliseconds("timeout_ms")?,
            extract: fields.flag("extract")?,
        })
    })
}

fn sha256(fields: &Fields<'_>) -> Result<Option<[u8; 32]>, Wrong> {
    const NAME: &str = "sha256";
    let Some(text) = fields.string(NAME)? else { return Ok(None) };
    let mut digest = [0; 32];
    let pairs = text.as_bytes().chunks(2);
    if text.len() != 64 || !text.is_ascii() {
        return wrong(NAME, "expected 64 hexadecimal digits");
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let value = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match value {
            Some(value) if !pair.contains(&b'+') => *byte = value,
            _ => return wrong(NAME, "expected 64 hexadecimal digits"),
        }
    }
    Ok(Some(digest))
}

/// The deprecated single directory comes first; the same one twice is one.
fn watch(fields: &Fields<'_>, limits: &RequestLimits) -> Result<Option<Watch>, Wrong> {
    const NAMES: [&str; 2] = ["artifacts_dir", "artifacts_dirs"];
    let ignore = fields.string("artifacts_ignore_content")?;
    let several = fields.strings(NAMES[1], false)?;
    let one = fields.string(NAMES[0])?;
    if one.is_some() {
        tracing::info!("artifacts_dir is deprecated; clients should send artifacts_dirs");
    }
    let mut directories: Vec<String> = Vec::new();
    for (name, directory) in
        one.map(|one| (NAMES[0], one)).into_iter().chain(several.into_iter().map(|d| (NAMES[1], d)))
    {
        if directory.is_empty() || directory.contains('\0') {
            return wrong(name, "a directory must not be empty or contain a NUL character");
        }
        if !directories.contains(&directory) {
            directories.push(directory);
        }
        at_most(name, directories.len(), limits.directories)?;
    }
    Ok((!directories.is_empty() || ignore.is_some()).then_some(Watch { directories, ignore }))
}

fn path(fields: &Fields<'_>, name: &str) -> Result<Option<String>, Wrong> {
    match fields.string(name)? {
        Some(path) if path.contains('\0') => wrong(name, "must not contain a NUL character"),
        path => Ok(path),
    }
}
