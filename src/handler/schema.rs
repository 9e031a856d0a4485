//! The caller's JSON Schema, and whether an answer fits it.
//!
//! Owns what "fits" means and how a misfit is told. The validation itself is `boon`'s: all drafts from 4 to 2020-12, regular
//! expressions in linear time, 0.4 MB. Nothing is ever loaded for a schema, neither from the network nor from a file.

use super::agent_error::{AgentError, Category};
use crate::json;
use crate::model::RawJson;
use boon::{Compiler, SchemaIndex, Schemas, UrlLoader, ValidationError};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;

/// What is told of an answer that does not fit: this many places, each of at most so many bytes.
const PLACES: usize = 3;
const PLACE_BYTES: usize = 300;

/// The name under which the compiler knows the schema.
const NAME: &str = "urn:output";

/// A schema that is sound.
pub struct Schema {
    raw: Box<RawValue>,
    value: Value,
    schemas: Schemas,
    index: SchemaIndex,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.raw).finish()
    }
}

/// Refuses whatever a schema wants to load.
struct NoLoader;

impl UrlLoader for NoLoader {
    fn load(&self, url: &str) -> Result<Value, Box<dyn std::error::Error>> {
        Err(format!("{url} is not part of the schema, and nothing is loaded from elsewhere").into())
    }
}

impl Schema {
    /// The schema of an output format, if there is one.
    ///
    /// # Errors
    /// An `invalid_request` that says what is wrong with it.
    pub fn of(format: Option<&RawJson>) -> Result<Option<Self>, AgentError> {
        #[derive(serde::Deserialize)]
        struct Format {
            schema: Box<RawValue>,
        }
        let Some(format) = format else { return Ok(None) };
        let invalid = |text: String| AgentError::new(Category::InvalidRequest, text);
        let Format { schema: raw } = serde_json::from_str(format.as_str())
            .map_err(|_| invalid("output format: required member \"schema\" is missing".to_owned()))?;
        let value: Value = serde_json::from_str(raw.get()).map_err(|error| invalid(error.to_string()))?;
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.use_loader(Box::new(NoLoader));
        let added = compiler.add_resource(NAME, value.clone());
        let index = added.and_then(|()| compiler.compile(NAME, &mut schemas));
        let index = index.map_err(|error| {
            let text = format!("{error:#}");
            invalid(format!("output format: not a valid JSON Schema: {}", cut(&text.replace('\n', " "))))
        })?;
        Ok(Some(Self { raw, value, schemas, index }))
    }

    /// The schema as the caller gave it.
    pub fn raw(&self) -> &RawValue {
        &self.raw
    }

    /// Whether the rules of services that hold a model to a schema are met: each object closed, all its properties
    /// required.
    pub fn is_strict(&self) -> bool {
        is_strict(&self.value)
    }

    /// What a model is told whose answer does not fit.
    pub fn again(wrong: &str) -> String {
        format!(
            "Your answer does not fit the schema: {wrong}. Answer again, with one JSON object that fits, and nothing else."
        )
    }

    /// What a turn fails with whose repaired answer does not fit either.
    pub fn misfit(wrong: &str, text: String) -> AgentError {
        let message = format!("the agent's answer does not fit the schema: {wrong}");
        AgentError::new(Category::StructuredOutputMissing, message).with("text", text)
    }

    /// The answer, if it is one JSON object that fits; otherwise the first of what is wrong.
    pub fn check(&self, answer: &str) -> Result<RawJson, String> {
        let text = json::check(answer.trim().as_bytes()).map_err(|error| format!("it is not JSON: {error}"))?;
        if !json::is_object(text) {
            return Err("it is not a JSON object".to_owned());
        }
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        match self.schemas.validate(&value, self.index) {
            Ok(()) => Ok(RawJson::from_valid(text)),
            Err(error) => {
                let mut places = Vec::new();
                leaves(&error, &mut places);
                Err(places.join("; "))
            }
        }
    }
}

/// The innermost errors: what encloses them only says that there are some.
fn leaves(error: &ValidationError<'_, '_>, places: &mut Vec<String>) {
    if places.len() == PLACES {
        return;
    }
    if error.causes.is_empty() {
        let place = error.instance_location.to_string();
        let place = if place.is_empty() { "/".to_owned() } else { place };
        places.push(cut(&format!("{place}: {}", error.kind)));
    }
    for cause in &error.causes {
        leaves(cause, places);
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(PLACE_BYTES);
    if end == text.len() { text.to_owned() } else { format!("{}…", &text[..end]) }
}

fn is_strict(schema: &Value) -> bool {
    let Value::Object(members) = schema else {
        return schema.as_array().is_none_or(|all| all.iter().all(is_strict));
    };
    let is_object = members.get("type").is_some_and(|kind| kind == "object");
    let properties = members.get("properties").and_then(Value::as_object);
    if is_object || properties.is_some() {
        let required = members.get("required").and_then(Value::as_array);
        let is_required = |name: &String| required.is_some_and(|all| all.iter().any(|one| one == name.as_str()));
        let all_are = properties.is_none_or(|properties| properties.keys().all(is_required));
        if members.get("additionalProperties") != Some(&Value::Bool(false)) || !all_are {
            return false;
        }
    }
    // The names of properties and definitions are not keywords, and values that are data are no schemas.
    members.iter().all(|(name, value)| match name.as_str() {
        "properties" | "$defs" | "definitions" => {
            value.as_object().is_none_or(|schemas| schemas.values().all(is_strict))
        }
        "enum" | "const" | "default" | "examples" | "required" => true,
        _ => is_strict(value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(schema: &str) -> Result<Option<Schema>, AgentError> {
        Schema::of(Some(&RawJson::from_valid(format!(r#"{{"type":"json_schema","schema":{schema}}}"#))))
    }

    fn check(text: &str, answer: &str) -> Result<String, String> {
        schema(text).unwrap().unwrap().check(answer).map(|json| json.as_str().to_owned())
    }

    const PERSON: &str = r#"{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},
        "required":["name"]}"#;

    #[test]
    fn answers_fit_or_the_places_are_named() {
        assert_eq!(check(PERSON, " {\"name\":\"Ann\",\"age\":1e0}\n").as_deref(), Ok(r#"{"name":"Ann","age":1e0}"#));
        let wrong = check(PERSON, r#"{"age":"old"}"#).unwrap_err();
        assert!(wrong.contains("name") && wrong.contains("/age") && wrong.contains("integer"), "{wrong}");
        assert_eq!(check(PERSON, "[]").unwrap_err(), "it is not a JSON object");
        assert!(check(PERSON, "Sure: {}").unwrap_err().starts_with("it is not JSON"));
    }

    #[test]
    fn what_is_told_is_short() {
        let long = format!(r#"{{"type":"object","additionalProperties":{{"enum":["{}"]}}}}"#, "ä".repeat(5000));
        let answer = format!("{{{}}}", (0..50).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(","));
        let wrong = check(&long, &answer).unwrap_err();
        assert!(wrong.len() <= PLACES * (PLACE_BYTES + 8), "{}", wrong.len());
    }

    #[test]
    fn a_schema_that_is_none_is_told() {
        for bad in [r#"{"type":"nonsense"}"#, r##"{"$ref":"#/$defs/gone"}"##, r#"{"pattern":"("}"#, "3"] {
            let error = schema(bad).unwrap_err();
            assert_eq!(error.category, Category::InvalidRequest);
            assert!(error.message.starts_with("output format: not a valid JSON Schema: "), "{}", error.message);
        }
        let missing = Schema::of(Some(&RawJson::from_valid(r#"{"type":"json_schema"}"#))).unwrap_err();
        assert_eq!(missing.message, "output format: required member \"schema\" is missing");
    }

    #[test]
    fn nothing_is_loaded_for_a_schema() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other.json");
        std::fs::write(&file, r#"{"type":"object"}"#).unwrap();
        for elsewhere in [format!("file://{}", file.display()), "http://127.0.0.1:1/x".to_owned()] {
            let error = schema(&format!(r#"{{"$ref":"{elsewhere}"}}"#)).unwrap_err();
            assert!(error.message.contains("not a valid JSON Schema"), "{}", error.message);
        }
    }

    #[test]
    fn strict_means_closed_and_required() {
        let strict = |text: &str| schema(text).unwrap().unwrap().is_strict();
        let closed =
            r#"{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}"#;
        assert!(strict(closed));
        assert!(!strict(PERSON));
        assert!(!strict(&format!(r#"{{"anyOf":[{closed},{PERSON}]}}"#)));
        assert!(strict(&format!(r#"{{"$defs":{{"properties":{closed}}},"anyOf":[{closed}]}}"#)));
        assert!(!strict(r#"{"type":"object"}"#));
    }
}
