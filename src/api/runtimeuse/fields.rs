//! Single fields of what a client sends: present, of the right type, within bounds.
//!
//! Owns the sentence that a wrong field gets. Which message has which fields is `read`'s business.

use crate::json;
use crate::model::RawJson;
use crate::redact::Secret;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest `request_id`, in characters.
const MAX_REQUEST_ID: usize = 128;

/// A field and what is wrong with it.
pub struct Wrong {
    pub field: String,
    pub problem: String,
}

pub fn wrong<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { field: field.into(), problem: problem.into() })
}

/// The fields of one object of a message. `null` and absent mean the same everywhere.
pub struct Fields<'a> {
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(fields: &'a Map<String, Value>) -> Self {
        Self { fields }
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    pub fn string(&self, name: &str) -> Result<Option<String>, Wrong> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => wrong(name, format!("expected a string, got {}", kind(other))),
        }
    }

    pub fn required_string(&self, name: &str) -> Result<String, Wrong> {
        match self.string(name)? {
            Some(text) => Ok(text),
            None => wrong(name, "required string is missing"),
        }
    }

    /// `source_id` is only a name for logs: the peer takes numbers too.
    pub fn source_id(&self) -> Result<Option<String>, Wrong> {
        match self.get("source_id") {
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            _ => self.string("source_id"),
        }
    }

    pub fn strings(&self, name: &str, numbers_too: bool) -> Result<Vec<String>, Wrong> {
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

    pub fn env(&self, name: &str) -> Result<Option<BTreeMap<String, Secret>>, Wrong> {
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

    pub fn output_format(&self) -> Result<Option<RawJson>, Wrong> {
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

    pub fn metadata(&self) -> Result<Option<RawJson>, Wrong> {
        match self.get("metadata") {
            None => Ok(None),
            Some(value @ Value::Object(_)) => Ok(Some(RawJson::from_valid(value.to_string()))),
            Some(other) => wrong("metadata", format!("expected an object, got {}", kind(other))),
        }
    }

    pub fn request_id(&self) -> Result<Option<String>, Wrong> {
        match self.string("request_id")? {
            Some(id) if id.is_empty() || id.chars().count() > MAX_REQUEST_ID => {
                wrong("request_id", format!("expected 1 to {MAX_REQUEST_ID} characters"))
            }
            id => Ok(id),
        }
    }

    pub fn positive(&self, name: &str) -> Result<Option<u64>, Wrong> {
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

    pub fn flag(&self, name: &str) -> Result<Option<bool>, Wrong> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => wrong(name, format!("expected true or false, got {}", kind(other))),
        }
    }

    pub fn milliseconds(&self, name: &str) -> Result<Option<Duration>, Wrong> {
        Ok(self.positive(name)?.map(Duration::from_millis))
    }

    /// Reads an array of at most `most` objects, each by `read`.
    pub fn objects<T>(
        &self,
        name: &str,
        most: usize,
        read: impl Fn(&Fields<'_>) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let Value::Array(items) = value else {
            return wrong(name, format!("expected an array of objects, got {}", kind(value)));
        };
        at_most(name, items.len(), most)?;
        let mut all = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let Value::Object(fields) = item else {
                return wrong(format!("{name}[{index}]"), format!("expected an object, got {}", kind(item)));
            };
            let one = read(&Fields::new(fields))
                .map_err(|inner| Wrong { field: format!("{name}[{index}].{}", inner.field), ..inner })?;
            all.push(one);
        }
        Ok(all)
    }
}

/// Refuses a list that is too long.
pub fn at_most(name: &str, length: usize, most: usize) -> Result<(), Wrong> {
    if length > most { wrong(name, format!("{length} are too many, at most {most} are taken")) } else { Ok(()) }
}

/// The type of a value, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
