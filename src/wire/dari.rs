//! The `dari-runtime-v1` protocol: what the platform posts, and what goes back.
//!
//! Owns the shapes. The request's shape is only described here: which of its many forms means what is decided in
//! `api::dari::input`, because the platform publishes no schema for it and a derived reader would refuse too much.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The body of `POST /runtime/advance`. Every key is optional and unknown keys are ignored; there is a user turn in
/// it if some text or attachment is found in `input` or, without `input`, in the body itself.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct AdvanceRequest<'a> {
    /// The latest input: a string, an object with `text`, `content`, `parts`, `message`, `messages` or `data`, a
    /// list of content blocks, or a list of messages of which the last one of the user counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub input: Option<&'a RawValue>,
    /// The state that the previous turn returned. Absent and `null` both mean that there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub state: Option<&'a RawValue>,
    /// Another name for `state`, read if `state` is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub previous_state: Option<&'a RawValue>,
    /// Another name for `state`, read if the ones before it are absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub state_json: Option<&'a RawValue>,
    /// Another name for `state`, read if the ones before it are absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub runtime_state: Option<&'a RawValue>,
    /// The session; also read as `sessionId`, `session.id`, `context.session_id` and from within the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Id<'a>>,
    /// The message, which makes a repeat of this request recognisable; also read as `messageId`, `message.id` and
    /// from within the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<Id<'a>>,
    /// Instructions to the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<RequestInstructions<'a>>,
    /// Another name for `instructions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Cow<'a, str>>,
    /// Another name for `instructions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<Cow<'a, str>>,
    /// The platform's count of tries. Ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The platform's id of the turn. Ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<Id<'a>>,
    /// The platform's id of the run. Ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<Id<'a>>,
}

/// An id: a string of 1 to 256 characters, or an integer, which counts as its decimal text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Id<'a> {
    /// A string.
    Text(#[schemars(length(min = 1, max = 256))] Cow<'a, str>),
    /// An integer.
    Number(i64),
}

/// Instructions as the request may carry them. A single line that ends in `.md` names a file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RequestInstructions<'a> {
    /// The text itself.
    Text(Cow<'a, str>),
    /// As in `dari.yml`.
    Object {
        /// The text itself.
        system: Cow<'a, str>,
    },
}

/// The answer to a user turn.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdvanceResponse<'a> {
    /// The assistant's message; it ends the turn.
    #[serde(borrow)]
    #[schemars(length(min = 1))]
    pub text: Cow<'a, str>,
    /// Absent (`None`): the platform keeps the saved state. `null` deletes it, any other value replaces it.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub state: Option<&'a RawValue>,
}

/// The body of every error except that of health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorBody<'a> {
    /// One sentence.
    #[serde(borrow)]
    pub detail: Cow<'a, str>,
}

/// The body of `GET /health`: `true` with status 200, `false` with status 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Whether a turn can be accepted.
    pub ok: bool,
}

/// Keeps an explicit `null` apart from an absent key: serde's own `Option` cannot.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_answers_schema_is_that_of_the_contract() {
        let schema = schemars::schema_for!(AdvanceResponse<'_>).to_value();
        assert_eq!(schema["type"], "object");
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["required"], json!(["text"]));
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties.len(), 2);
        assert_eq!((&properties["text"]["type"], &properties["text"]["minLength"]), (&json!("string"), &json!(1)));
        // Anything goes: nothing but words about it.
        assert!(properties["state"].as_object().unwrap().keys().all(|key| key == "description" || key == "default"));
    }

    #[test]
    fn a_state_keeps_its_bytes_and_its_three_meanings() {
        let text = r#"{"text":"x","state":{ "b":1.0e3 , "a" : 12345678901234567890123}}"#;
        let set: AdvanceResponse<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), text);
        for text in [r#"{"text":"x"}"#, r#"{"text":"x","state":null}"#] {
            let read: AdvanceResponse<'_> = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn the_fixed_bodies() {
        assert_eq!(
            serde_json::to_string(&ErrorBody { detail: "not found".into() }).unwrap(),
            r#"{"detail":"not found"}"#
        );
        assert_eq!(serde_json::to_string(&Health { ok: false }).unwrap(), r#"{"ok":false}"#);
        assert_eq!(serde_json::to_string(&AdvanceRequest::default()).unwrap(), "{}");
    }
}
