//! The file of `dispatch`: a request for a session, written as YAML.
//!
//! Owns which of its values are texts however they are written: `PORT: 8080` is as good as `PORT: "8080"`. What the fields
//! mean is the server's business, so fields that we do not know pass, too.

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Fields that hold a text.
const TEXTS: [&str; 10] =
    ["agent", "prompt", "session_id", "task_id", "name", "runtime", "model", "timeout", "resume_session", "work_dir"];
/// Fields that hold texts by name.
const MAPS: [&str; 2] = ["env", "tags"];

/// The request, field by field.
#[derive(Debug)]
pub struct DispatchFile(pub Map<String, Value>);

impl<'de> Deserialize<'de> for DispatchFile {
    fn deserialize<D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        file.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = DispatchFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fields of a session, such as `agent: claude`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<DispatchFile, A::Error> {
        let mut request = Map::new();
        while let Some(field) = fields.next_key::<String>()? {
            let value = if TEXTS.contains(&field.as_str()) {
                fields.next_value::<Option<String>>()?.map_or(Value::Null, Value::String)
            } else if MAPS.contains(&field.as_str()) {
                let texts = fields.next_value::<Option<BTreeMap<String, Option<String>>>>()?.unwrap_or_default();
                let texts = texts.into_iter().map(|(name, text)| (name, text.unwrap_or_default().into()));
                Value::Object(texts.collect())
            } else {
                fields.next_value::<Value>()?
            };
            if request.contains_key(&field) {
                return Err(A::Error::custom(format_args!("the field `{field}` is there twice")));
            }
            request.insert(field, value);
        }
        Ok(DispatchFile(request))
    }
}
