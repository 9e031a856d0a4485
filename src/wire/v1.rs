//! Our own view of every session: what callers send and get under `/v1`, and how an entry of a log looks.
//!
//! Owns the shapes. A wire form may say how it is made from plain data; the bytes of opaque JSON are those of its owner.

use crate::json;
use crate::model::{Answer, Ending, Entry, Outcome, Seq, StateChange, What};
use crate::wire::record::EventRecord;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write as _;

/// `POST /v1/sessions/:id/turns`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTurn<'a> {
    /// The user's text.
    pub prompt: String,
    /// Instructions to the agent.
    #[serde(default)]
    pub system_prompt: Option<String>,
    /// The model.
    #[serde(default)]
    pub model: Option<String>,
    /// `{"type":"json_schema","schema":{…}}`
    #[serde(borrow, default)]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub output_format: Option<&'a RawValue>,
    /// Absent: the session's own. `null`: none.
    #[serde(borrow, default, deserialize_with = "even_null")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub state: Option<&'a RawValue>,
    /// What the agent sees in its environment.
    #[serde(default)]
    pub env: Option<BTreeMap<String, String>>,
    /// Values that must not leave the process.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// The caller's own, an object.
    #[serde(borrow, default)]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub metadata: Option<&'a RawValue>,
    /// A limit on the whole turn.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// A turn that was promised, as it is kept until it begins.
#[derive(Debug, Serialize, Deserialize)]
pub struct PromisedTurn<'a> {
    /// The caller's key.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
    /// What was asked, as it came.
    #[serde(borrow)]
    pub body: &'a RawValue,
}

/// `POST /v1/turns/:id/input`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInput {
    /// The user's text.
    pub text: String,
}

/// A value that is there is there, also when it is `null`.
fn even_null<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Writes an entry of a session's log as a JSON object behind what is there.
#[allow(clippy::expect_used, clippy::missing_panics_doc, reason = "writing to memory cannot fail")]
pub fn write_entry(out: &mut Vec<u8>, entry: &Entry) {
    let memory = "writing to memory cannot fail";
    write!(out, r#"{{"seq":{},"turn":"#, entry.seq.0).expect(memory);
    serde_json::to_writer(&mut *out, entry.turn.as_str()).expect(memory);
    write!(out, r#","at_ms":{}"#, entry.at_ms).expect(memory);
    match &entry.what {
        What::Accepted { attempt, request } => {
            let (protocol, prompt) = (json::string(request.protocol), json::string(&request.prompt));
            write!(out, r#","type":"accepted","attempt":{attempt},"protocol":{protocol},"prompt":{prompt}}}"#)
                .expect(memory);
        }
        What::Said(event) => {
            out.extend_from_slice(br#","type":"event","event":"#);
            serde_json::to_writer(&mut *out, &EventRecord::from(event)).expect(memory);
            out.push(b'}');
        }
        What::Ended(outcome) => {
            out.extend_from_slice(br#","type":"ended","#);
            out.extend_from_slice(outcome_members(outcome).as_bytes());
            out.push(b'}');
        }
    }
}

/// Writes what is no longer kept as a JSON object behind what is there.
pub fn write_gap(out: &mut Vec<u8>, from: Seq, to: Seq) {
    out.extend_from_slice(format!(r#"{{"seq":{},"type":"gap","from":{},"to":{}}}"#, to.0, from.0, to.0).as_bytes());
}

/// An outcome as the members of a JSON object: `outcome` and what goes with it.
#[must_use]
pub fn outcome_members(outcome: &Outcome) -> String {
    let (word, rest) = match &outcome.ending {
        Ending::Answered(Answer::Text(text)) => ("answered", format!(r#","text":{}"#, json::string(text))),
        Ending::Answered(Answer::Structured(value)) => {
            ("answered", format!(r#","structured_output":{}"#, json::compact(value.as_str())))
        }
        Ending::Answered(answer @ Answer::Commands(_)) => {
            ("answered", format!(r#","text":{}"#, json::string(&answer.plain())))
        }
        Ending::Failed(fault) => {
            let code = json::string(fault.code.name());
            ("failed", format!(r#","code":{code},"error":{}"#, json::string(&fault.message)))
        }
        Ending::Cancelled(_) => ("cancelled", String::new()),
        Ending::TimedOut { after, .. } => ("timed_out", format!(r#","after_ms":{}"#, after.as_millis())),
        Ending::Interrupted => ("interrupted", String::new()),
    };
    let state = match &outcome.state {
        StateChange::Keep => String::new(),
        StateChange::Clear => r#","state":null"#.to_owned(),
        StateChange::Set(state) => format!(r#","state":{}"#, json::one_line(state.as_str())),
    };
    // A failure has its metadata with it.
    let metadata = match &outcome.ending {
        Ending::Failed(fault) => fault.metadata.as_ref(),
        _ => outcome.metadata.as_ref(),
    };
    let metadata = metadata.map_or_else(String::new, |raw| format!(r#","metadata":{}"#, json::one_line(raw.as_str())));
    format!(r#""outcome":"{word}"{rest}{state}{metadata}"#)
}
