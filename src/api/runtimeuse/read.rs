//! Reads what a RuntimeUse client sends, field by field, so that every mistake is answered with the field's name.
//!
//! Owns the client's half of the protocol as a parser: pure, no connection, nothing runs before it is through.

use crate::json;
use crate::model::RawJson;
use crate::redact::Secret;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest `request_id`, in characters.
const MAX_REQUEST_ID: usize = 128;

/// A message from the client, understood.
#[derive(Debug)]
pub enum Incoming {
    /// Run the handler.
    Invocation(Box<Invocation>),
    /// Cancel the request in flight, or only the one named.
    Cancel { request_id: Option<String> },
    /// End the session after a drain.
    EndSession,
    /// The answer to an upload request; nothing is watched yet, so there is none.
    ArtifactAnswer,
}

/// One `invocation_message`.
#[derive(Debug)]
pub struct Invocation {
    pub source_id: Option<String>,
    pub system_prompt: Option<String>,
    pub user_prompt: String,
    pub model: Option<String>,
    pub secrets: Vec<Secret>,
    pub env: Option<BTreeMap<String, Secret>>,
    pub output_format: Option<RawJson>,
    pub extras: Extras,
}

/// Our additive fields of a request.
#[derive(Debug, Default, Clone)]
pub struct Extras {
    pub request_id: Option<String>,
    pub notices: bool,
    pub events: bool,
    pub timeout: Option<Duration>,
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
pub fn read(text: &str) -> Result<Incoming, Refusal> {
    let plain = |text: String| Refusal { text, field: None, request_id: None, is_request: false };
    let checked = json::check(text.as_bytes()).map_err(|error| plain(format!("Invalid JSON: {error}")))?;
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
    let reader = Reader { message: &word, fields: &fields };
    match word.as_str() {
        "invocation_message" => reader.invocation().map_err(|e| reader.refusal(e, true)),
        "command_execution_message" => reader.command_execution().map_err(|e| reader.refusal(e, true)),
        "cancel_message" => {
            let request_id = reader.request_id().map_err(|e| reader.refusal(e, false))?;
            Ok(Incoming::Cancel { request_id })
        }
        "end_session_message" => Ok(Incoming::EndSession),
        "artifact_upload_response_message" => {
            for name in ["filename", "filepath", "presigned_url", "content_type"] {
                reader.required_string(name).map_err(|e| reader.refusal(e, false))?;
            }
            Ok(Incoming::ArtifactAnswer)
        }
        _ => Err(named(None, "message_type", "unknown message type")),
    }
}

fn named(message: Option<&str>, field: &str, problem: &str) -> Refusal {
    // `commands[1].command` says enough by itself; `artifacts_dirs` needs its message's name.
    let place = match message {
        Some(message) if !field.contains('[') => format!("{message}.{field}"),
        _ => field.to_owned(),
    };
    Refusal { text: format!("{place}: {problem}"), field: Some(field.to_owned()), request_id: None, is_request: false }
}

/// A field and what is wrong with it.
struct Wrong {
    field: String,
    problem: String,
}

fn wrong<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { field: field.into(), problem: problem.into() })
}

/// Fields of requests that are understood but not served yet: asking for them is refused, saying so.
fn not_served(name: &str, asked: bool) -> Result<(), Wrong> {
    if asked { wrong(name, "not supported by this version of turnhost") } else { Ok(()) }
}

struct Reader<'a> {
    message: &'a str,
    fields: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn refusal(&self, wrong: Wrong, is_request: bool) -> Refusal {
        let request_id = self.request_id().ok().flatten();
        Refusal { request_id, is_request, ..named(Some(self.message), &wrong.field, &wrong.problem) }
    }

    /// `null` and absent mean the same everywhere.
    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn string(&self, name: &str) -> Result<Option<String>, Wrong> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => wrong(name, format!("expected a string, got {}", kind(other))),
        }
    }

    fn required_string(&self, name: &str) -> Result<String, Wrong> {
        match self.string(name)? {
            Some(text) => Ok(text),
            None => wrong(name, "required string is missing"),
        }
    }

    /// `source_id` is only a name for logs: the peer takes numbers too.
    fn source_id(&self) -> Result<Option<String>, Wrong> {
        match self.get("source_id") {
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            _ => self.string("source_id"),
        }
    }

    fn strings(&self, name: &str, numbers_too: bool) -> Result<Vec<String>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let Value::Array(items) = value else {
            return wrong(name, format!("expected an array of strings, got {}", kind(value)));
        };
        let mut strings = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item {
                Value::String(text) => strings.push(text.clone()),
                Value::Number(number) if numbers_too => strings.push(number.to_string()),
                other => return wrong(format!("{name}[{index}]"), format!("expected a string, got {}", kind(other))),
            }
        }
        Ok(strings)
    }

    fn secrets(&self) -> Result<Vec<Secret>, Wrong> {
        Ok(self.strings("secrets_to_redact", true)?.into_iter().map(Secret::new).collect())
    }

    fn env(&self, name: &str) -> Result<Option<BTreeMap<String, Secret>>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let Value::Object(items) = value else {
            return wrong(name, format!("expected an object of strings, got {}", kind(value)));
        };
        let mut env = BTreeMap::new();
        for (key, item) in items {
            let text = match item {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                other => return wrong(format!("{name}.{key}"), format!("expected a string, got {}", kind(other))),
            };
            if key.is_empty() || key.contains(['=', '\0']) || text.contains('\0') {
                return wrong(format!("{name}.{key}"), "not a valid environment variable");
            }
            env.insert(key.clone(), Secret::new(text));
        }
        Ok(Some(env))
    }

    fn output_format(&self) -> Result<Option<RawJson>, Wrong> {
        const NAME: &str = "output_format_json_schema_str";
        match self.string(NAME)? {
            None => Ok(None),
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => match json::check(text.as_bytes()) {
                Ok(_) => Ok(Some(RawJson::from_valid(text))),
                Err(error) => wrong(NAME, format!("expected a string that holds JSON: {error}")),
            },
        }
    }

    fn request_id(&self) -> Result<Option<String>, Wrong> {
        match self.string("request_id")? {
            Some(id) if id.is_empty() || id.chars().count() > MAX_REQUEST_ID => {
                wrong("request_id", format!("expected 1 to {MAX_REQUEST_ID} characters"))
            }
            id => Ok(id),
        }
    }

    fn positive(&self, name: &str) -> Result<Option<u64>, Wrong> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match (value.as_u64(), value) {
                (Some(number @ 1..), _) => Ok(Some(number)),
                (_, Value::Number(number)) if number.as_f64().is_some_and(|number| number.abs() < 1e15) => {
                    wrong(name, format!("expected a positive integer, got {number}"))
                }
                (_, Value::Number(_)) => wrong(name, "expected a positive integer, got a number out of range"),
                _ => wrong(name, format!("expected a positive integer, got {}", kind(value))),
            },
        }
    }

    fn extras(&self) -> Result<Extras, Wrong> {
        let wanted = self.strings("extensions", false)?;
        let wants = |word: &str| wanted.iter().any(|wanted| wanted == word);
        self.positive("max_frame_bytes")?;
        Ok(Extras {
            request_id: self.request_id()?,
            notices: wants("notices"),
            events: wants("events"),
            timeout: self.positive("timeout_ms")?.map(Duration::from_millis),
        })
    }

    fn commands(&self, name: &str) -> Result<usize, Wrong> {
        self.objects(name, |reader| {
            match reader.string("command")? {
                Some(command) if !command.is_empty() => {}
                _ => return wrong("command", "required string is missing"),
            }
            reader.string("cwd")?;
            reader.env("env").map(|_| ())
        })
    }

    fn downloadables(&self, name: &str) -> Result<usize, Wrong> {
        self.objects(name, |reader| {
            reader.required_string("download_url")?;
            reader.required_string("working_dir").map(|_| ())
        })
    }

    /// Checks an array of objects; tells how many there are.
    fn objects(&self, name: &str, check: impl Fn(&Reader<'_>) -> Result<(), Wrong>) -> Result<usize, Wrong> {
        let Some(value) = self.get(name) else { return Ok(0) };
        let Value::Array(items) = value else {
            return wrong(name, format!("expected an array of objects, got {}", kind(value)));
        };
        for (index, item) in items.iter().enumerate() {
            let Value::Object(fields) = item else {
                return wrong(format!("{name}[{index}]"), format!("expected an object, got {}", kind(item)));
            };
            check(&Reader { message: self.message, fields })
                .map_err(|inner| Wrong { field: format!("{name}[{index}].{}", inner.field), ..inner })?;
        }
        Ok(items.len())
    }

    fn invocation(&self) -> Result<Incoming, Wrong> {
        let invocation = Invocation {
            source_id: self.source_id()?,
            system_prompt: self.string("system_prompt")?,
            user_prompt: self.required_string("user_prompt")?,
            model: self.string("model")?,
            secrets: self.secrets()?,
            env: self.env("agent_env")?,
            output_format: self.output_format()?,
            extras: self.extras()?,
        };
        self.artifacts()?;
        for name in ["pre_agent_invocation_commands", "post_agent_invocation_commands"] {
            not_served(name, self.commands(name)? > 0)?;
        }
        let downloads = "pre_agent_downloadables";
        not_served(downloads, self.downloadables(downloads)? > 0)?;
        Ok(Incoming::Invocation(Box::new(invocation)))
    }

    fn artifacts(&self) -> Result<(), Wrong> {
        self.string("artifacts_ignore_content")?;
        not_served("artifacts_dirs", !self.strings("artifacts_dirs", false)?.is_empty())?;
        not_served("artifacts_dir", self.string("artifacts_dir")?.is_some())
    }

    fn command_execution(&self) -> Result<Incoming, Wrong> {
        self.source_id()?;
        self.secrets()?;
        self.extras()?;
        if self.get("commands").is_none() {
            return wrong("commands", "required array is missing");
        }
        self.commands("commands")?;
        self.artifacts()?;
        self.downloadables("pre_execution_downloadables")?;
        wrong("commands", "not supported by this version of turnhost")
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
