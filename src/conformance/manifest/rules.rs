//! What every rule about a field is made of: types, names, paths, and the sentence that a wrong one gets.
//!
//! Owns how mistakes are collected; which fields there are is in `fields`.

use super::super::Place;
use super::tree::{At, Node, Value};
use std::fmt::Display;
use std::path::{Component, Path};

/// A name may be wrong in one of so many letters to be taken for a slip.
const LETTERS_PER_SLIP: usize = 3;

/// The mistakes found so far in one file.
pub(super) struct Rules<'a> {
    pub(super) file: &'a str,
    pub(super) bundle: &'a Path,
    /// Mistakes in the file itself.
    pub(super) fields: Vec<Place>,
    /// Files that it names and that are not as they should be.
    pub(super) files: Vec<Place>,
    /// What is not wrong, and good to know.
    pub(super) notes: Vec<String>,
}

/// A mapping and the path to it.
#[derive(Clone)]
pub(super) struct Fields<'n> {
    pub(super) at: At,
    path: String,
    node: &'n Node,
}

impl<'n> Fields<'n> {
    /// The full name of a field of it.
    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (At, &'n str, &'n Node)> + use<'n> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(key, node)| (key.at, key.name.as_str(), node))
    }

    /// The place of a field's name, and its value.
    pub(super) fn find(&self, key: &str) -> Option<(At, &'n Node)> {
        self.entries().find(|(_, name, _)| *name == key).map(|(at, _, node)| (at, node))
    }

    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        self.find(key).map(|(_, node)| node)
    }
}

impl Rules<'_> {
    pub(super) fn wrong(&mut self, at: At, field: &str, message: impl Display) {
        let place = self.place(at, field, message);
        self.fields.push(place);
    }

    pub(super) fn wrong_file(&mut self, at: At, field: &str, message: impl Display) {
        let place = self.place(at, field, message);
        self.files.push(place);
    }

    fn place(&self, at: At, field: &str, message: impl Display) -> Place {
        Place {
            file: self.file.to_owned(),
            line: Some(at.line),
            column: Some(at.column),
            field: field.to_owned(),
            message: message.to_string(),
        }
    }

    fn wrong_kind(&mut self, node: &Node, field: &str, expected: &str, hint: &str) {
        self.wrong(node.at, field, format!("has to be {expected}, but is {}{hint}", node.value.kind()));
    }

    /// The fields of a mapping; those that are not known are mistakes.
    pub(super) fn map<'n>(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Option<Fields<'n>> {
        let fields = self.open_map(node, path)?;
        for (at, name, _) in fields.entries() {
            if !known.contains(&name) {
                self.wrong(at, &fields.path(name), format!("unknown field; {}", meant(name, known)));
            }
        }
        Some(fields)
    }

    /// The fields of a mapping whose names are the user's own.
    pub(super) fn open_map<'n>(&mut self, node: &'n Node, path: &str) -> Option<Fields<'n>> {
        if !matches!(node.value, Value::Map(_)) {
            self.wrong_kind(node, path, "a mapping of fields", "");
            return None;
        }
        Some(Fields { at: node.at, path: path.to_owned(), node })
    }

    /// A field that has to be there.
    pub(super) fn required<'n>(&mut self, fields: &Fields<'n>, key: &str, example: &str) -> Option<&'n Node> {
        let found = fields.get(key);
        if found.is_none() {
            self.wrong(fields.at, &fields.path(key), format!("is missing; add it, for example `{key}: {example}`"));
        }
        found
    }

    /// A string with something in it.
    pub(super) fn text<'n>(&mut self, node: &'n Node, field: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) if text.trim().is_empty() => {
                self.wrong(node.at, field, "is empty; give a text");
                None
            }
            Value::Text(text) => Some(text),
            Value::Whole(_) | Value::Fraction | Value::Bool(_) => {
                self.wrong_kind(node, field, "a string", "; put it in quotes");
                None
            }
            _ => {
                self.wrong_kind(node, field, "a string", "");
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<'n>(&mut self, node: &'n Node, field: &str, words: &[&str]) -> Option<&'n str> {
        let text = self.text(node, field)?;
        if words.contains(&text) {
            return Some(text);
        }
        let only = match words {
            [only] => format!("has to be `{only}`"),
            _ => format!("is `{text}`; {}", meant(text, words)),
        };
        self.wrong(node.at, field, only);
        None
    }

    pub(super) fn boolean(&mut self, node: &Node, field: &str) -> Option<bool> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text) if ["yes", "no", "on", "off", "true", "false"].contains(&&*text.to_lowercase()) => {
                self.wrong(
                    node.at,
                    field,
                    format!("has to be `true` or `false` without quotes, but is the string `{text}`"),
                );
                None
            }
            _ => {
                self.wrong_kind(node, field, "`true` or `false`", "");
                None
            }
        }
    }

    pub(super) fn whole(&mut self, node: &Node, field: &str, range: std::ops::RangeInclusive<i128>) -> Option<i128> {
        let (low, high) = (range.start(), range.end());
        match &node.value {
            Value::Whole(value) if range.contains(value) => Some(*value),
            Value::Whole(value) => {
                self.wrong(node.at, field, format!("is {value}; it has to be a number from {low} to {high}"));
                None
            }
            Value::Text(text) if text.parse::<i128>().is_ok() => {
                self.wrong(
                    node.at,
                    field,
                    format!("has to be a number, but is the string `{text}`; remove the quotes"),
                );
                None
            }
            _ => {
                self.wrong_kind(node, field, &format!("a whole number from {low} to {high}"), "");
                None
            }
        }
    }

    pub(super) fn list<'n>(&mut self, node: &'n Node, field: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            _ => {
                self.wrong_kind(node, field, "a list", "");
                None
            }
        }
    }

    /// A list of strings without repetition, each with its number.
    pub(super) fn texts<'n>(&mut self, node: &'n Node, field: &str) -> Vec<(usize, At, &'n str)> {
        let mut texts: Vec<(usize, At, &str)> = Vec::new();
        for (n, item) in self.list(node, field).unwrap_or_default().iter().enumerate() {
            let field = format!("{field}[{n}]");
            let Some(text) = self.text(item, &field) else { continue };
            if texts.iter().any(|(.., earlier)| *earlier == text) {
                self.wrong(item.at, &field, format!("`{text}` is there twice; remove one"));
            } else {
                texts.push((n, item.at, text));
            }
        }
        texts
    }

    /// A name as environment variables have it.
    pub(super) fn variable(&mut self, at: At, field: &str, name: &str) {
        let is_first = |c: char| c.is_ascii_uppercase() || c == '_';
        let fits = name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit());
        if !fits {
            let message =
                "the name of a variable is made of capitals, digits and underscores, and does not begin with a digit";
            self.wrong(at, field, format!("`{name}` is no name for a variable: {message}"));
        }
    }

    /// A path inside the bundle that is not absolute and has no `.` or `..`. Says nothing about whether it is there.
    pub(super) fn path<'n>(&mut self, node: &'n Node, field: &str) -> Option<&'n str> {
        let text = self.text(node, field)?;
        let plain = Path::new(text).components().all(|part| matches!(part, Component::Normal(_)));
        let dotted = text.split('/').any(|part| part == "." || part == "..");
        if plain && !dotted {
            return Some(text);
        }
        let message = "has to be a path inside the bundle: not absolute, without `.` and `..`";
        self.wrong(node.at, field, format!("`{text}` {message}"));
        None
    }

    /// The same, of a file that is there.
    pub(super) fn existing<'n>(&mut self, node: &'n Node, field: &str) -> Option<&'n str> {
        let text = self.path(node, field)?;
        let file = self.bundle.join(text);
        if file.is_file() {
            return Some(text);
        }
        let what = if file.exists() { "is not a file" } else { "is not in the bundle" };
        self.wrong_file(node.at, field, format!("`{text}` {what}; add the file, or name another"));
        None
    }
}

/// What somebody may have meant, else what there is.
fn meant(name: &str, known: &[&str]) -> String {
    let slips = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &other.to_lowercase());
    let nearest = known.iter().map(|other| (slips(other), other)).min();
    match nearest {
        Some((slips, other)) if slips <= (other.len() / LETTERS_PER_SLIP).max(1) => format!("did you mean `{other}`?"),
        _ => format!("known here: {}", known.join(", ")),
    }
}
