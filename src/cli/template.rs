//! The file that `dispatch` reads: YAML, with variables of the environment in its texts.
//!
//! Owns what a dollar sign means. What the fields mean is the server's business.

use crate::wire::dispatch::DispatchFile;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Larger files are none that somebody wrote. The server takes no larger request either.
const LARGEST: u64 = 32 << 20;
/// Means something to the server where no variable has this name.
const OF_THE_SERVER: &str = "HOST_GATEWAY";

/// A request, and the names in it that are no variables.
#[derive(Debug, PartialEq, Eq)]
pub struct Filled {
    pub request: Map<String, Value>,
    pub unset: BTreeSet<String>,
}

/// Reads the file.
///
/// # Errors
/// One sentence that names the file and, where it is no YAML for us, the line.
pub fn read(file: &Path, environment: &BTreeMap<OsString, OsString>) -> Result<Filled, String> {
    let shown = file.display();
    let size = std::fs::metadata(file).map_err(|error| format!("--config {shown}: {error}"))?.len();
    if size > LARGEST {
        return Err(format!("--config {shown}: the file is larger than {} MiB", LARGEST >> 20));
    }
    let text = std::fs::read_to_string(file).map_err(|error| format!("--config {shown}: {error}"))?;
    parse(&text, environment).map_err(|error| format!("--config {shown}: {error}"))
}

fn parse(text: &str, environment: &BTreeMap<OsString, OsString>) -> Result<Filled, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    let file = serde_saphyr::from_str_with_options::<DispatchFile>(text, options);
    let DispatchFile(mut request) = file.map_err(|error| {
        let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
        let reason = error.without_snippet().to_string();
        // It names the place in its own way.
        let reason = reason.split(" at line ").next().unwrap_or_default();
        format!("{}{}", place.unwrap_or_default(), reason.replace('\n', " "))
    })?;
    let mut unset = BTreeSet::new();
    for value in request.values_mut() {
        fill_value(value, environment, &mut unset);
    }
    Ok(Filled { request, unset })
}

fn fill_value(value: &mut Value, environment: &BTreeMap<OsString, OsString>, unset: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.contains('$') => *text = fill(text, environment, unset),
        Value::Array(values) => values.iter_mut().for_each(|value| fill_value(value, environment, unset)),
        Value::Object(members) => members.values_mut().for_each(|value| fill_value(value, environment, unset)),
        _ => {}
    }
}

/// `${NAME}` and `$NAME` become the variable; any other dollar sign stays.
fn fill(text: &str, environment: &BTreeMap<OsString, OsString>, unset: &mut BTreeSet<String>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let behind = &rest[1..];
        let (name, length) = match behind.strip_prefix('{') {
            Some(braced) => {
                let name = name_of(braced);
                if braced[name.len()..].starts_with('}') { (name, name.len() + 3) } else { ("", 0) }
            }
            None => (name_of(behind), name_of(behind).len() + 1),
        };
        if name.is_empty() {
            filled.push('$');
            rest = behind;
            continue;
        }
        match environment.get(OsStr::new(name)) {
            Some(value) => filled.push_str(&value.to_string_lossy()),
            None if name == OF_THE_SERVER && behind.starts_with('{') => filled.push_str(&rest[..length]),
            None => {
                unset.insert(name.to_owned());
            }
        }
        rest = &rest[length..];
    }
    filled.push_str(rest);
    filled
}

fn name_of(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) { "" } else { &text[..end] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn environment(more: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        let all = [("A", "1"), ("_b2", "two"), ("EMPTY", ""), ("DOLLAR", "$A")];
        all.iter().chain(more).map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn dollar_signs() {
        for (text, expected, missing) in [
            ("plain", "plain", ""),
            ("${A} and $A", "1 and 1", ""),
            ("$_b2-$A.", "two-1.", ""),
            ("$AB ${AB}", " ", "AB"),
            ("[$EMPTY]", "[]", ""),
            ("$DOLLAR", "$A", ""),
            ("$1 ${1} ${} $ ${A", "$1 ${1} ${} $ ${A", ""),
            ("$$A $", "$1 $", ""),
            ("${A-x} ${ A}", "${A-x} ${ A}", ""),
            ("é$Aé", "é1é", ""),
            ("${HOST_GATEWAY}:80", "${HOST_GATEWAY}:80", ""),
            ("$HOST_GATEWAY:80", ":80", "HOST_GATEWAY"),
        ] {
            let mut unset = BTreeSet::new();
            assert_eq!(fill(text, &environment(&[]), &mut unset), expected, "{text}");
            assert_eq!(unset.into_iter().collect::<Vec<_>>().join(" "), missing, "{text}");
        }
        let set = environment(&[("HOST_GATEWAY", "gate")]);
        assert_eq!(fill("${HOST_GATEWAY} $HOST_GATEWAY", &set, &mut BTreeSet::new()), "gate gate");
    }

    #[test]
    fn a_file() {
        let text = "agent: codex # a comment\ninteractive: true\nprompt: |\n  one $A\n  two\ntask_id: 007\nenv: {PORT: 8080, ON: true, NONE: , KEY: \"${A}$NO\"}\n\
                    codex: {config_toml: {n: 3, deep: [\"$A\", 1.5, null]}}\nnew_field: yes\n";
        let filled = parse(text, &environment(&[])).unwrap();
        assert_eq!(
            Value::Object(filled.request),
            json!({"agent": "codex", "interactive": true, "prompt": "one 1\ntwo\n", "task_id": "007",
                   "env": {"PORT": "8080", "ON": "true", "NONE": "", "KEY": "1"},
                   "codex": {"config_toml": {"n": 3, "deep": ["1", 1.5, null]}}, "new_field": true})
        );
        assert_eq!(filled.unset.into_iter().collect::<Vec<_>>(), ["NO"]);
    }

    #[test]
    fn files_that_are_none() {
        for (text, expected) in [
            ("agent: claude\nprompt: \"open\n", "line 3"),
            ("agent: claude\n  bad: indent\n", "line 2"),
            ("agent: claude\nprompt: {a: b}\n", "line 2, column 9: "),
            ("agent: claude\nenv: [a]\n", "line 2, column 6: "),
            ("agent: a\nagent: b\n", "line 2"),
            ("- agent: claude\n", "line 1"),
            ("just words", "line 1"),
            ("a: *nowhere\n", "line 1"),
        ] {
            let error = parse(text, &environment(&[])).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
            assert!(!error.contains('\n') && error.len() < 200, "{error}");
        }
    }
}
