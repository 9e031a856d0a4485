//! Secrets as a type, and what takes them out of text.
//!
//! Owns: what a secret is, in which forms it is looked for, and how text looks without it. Does not own: where secrets
//! come from (requests and the environment are read elsewhere), which text must pass here, and which fields of a
//! message are never touched; callers hand over only what may be changed.

mod across;
mod automaton;
mod forms;
mod matcher;
mod regions;
mod stream;
#[cfg(test)]
mod tests;

use crate::json;
use crate::model::RawJson;
use automaton::State;
use matcher::Matcher;
use regions::Regions;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use stream::Stream;

/// What stands in the place of a secret.
pub const MARK: &str = "[REDACTED]";

/// A value that must not leave the process. Its `Debug` form is masked and it has no `Display`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a value at the moment it is parsed.
    #[must_use]
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The value itself. Every call is a place to look at when a secret leaks.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Replaces a fixed set of secrets by [`MARK`].
///
/// A secret is found as it is and as JSON strings, URLs and base64 hold it. All matches are found first; those that
/// overlap or touch become one mark, so neither the order nor the number of the secrets changes the result. Clones
/// share everything.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<Inner>>);

struct Inner {
    secrets: BTreeSet<Secret>,
    matcher: Matcher,
}

impl Redactor {
    /// A redactor of these secrets. Empty ones are skipped.
    #[must_use]
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s Secret>) -> Self {
        let secrets = secrets.into_iter().filter(|secret| !secret.0.is_empty()).cloned().collect();
        Self::of_set(secrets)
    }

    /// A redactor of those variables of an environment, as pairs of name and value, whose names say that they are secret:
    /// `*KEY`, `*TOKEN`, `*SECRET` and `*PASSWORD` in any case. Values of fewer than 8 characters are too likely to be
    /// ordinary words.
    #[must_use]
    pub fn of_environment<N: AsRef<str>, V: AsRef<str>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let secret = |(name, value): (N, V)| {
            let name = name.as_ref().to_ascii_uppercase();
            let named = ["KEY", "TOKEN", "SECRET", "PASSWORD"].iter().any(|end| name.ends_with(end));
            let value = value.as_ref();
            (named && value.chars().nth(7).is_some()).then(|| Secret::new(value))
        };
        Self::of_set(variables.into_iter().filter_map(secret).collect())
    }

    /// A redactor of these secrets and more.
    #[must_use]
    pub fn combined(&self, more: &[Secret]) -> Self {
        let known = self.0.as_ref().map(|inner| &inner.secrets);
        let is_new = |secret: &&Secret| !secret.0.is_empty() && known.is_none_or(|known| !known.contains(*secret));
        let mut more = more.iter().filter(is_new).cloned().peekable();
        if more.peek().is_none() {
            return self.clone();
        }
        Self::of_set(known.into_iter().flatten().cloned().chain(more).collect())
    }

    fn of_set(secrets: BTreeSet<Secret>) -> Self {
        let mut patterns = Vec::new();
        for secret in &secrets {
            forms::add_forms(secret.expose(), &mut patterns);
        }
        patterns.sort_unstable();
        patterns.dedup();
        Self(Matcher::new(&patterns).map(|matcher| Arc::new(Inner { secrets, matcher })))
    }

    /// Whether there is nothing to redact, so that every text comes back as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The text without the secrets. Borrowed where it holds none.
    #[must_use]
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(matcher) = self.matcher().filter(|matcher| matcher.shortest() <= text.len()) else {
            return Cow::Borrowed(text);
        };
        let mut found = Regions::default();
        matcher.scan(State::ROOT, text.as_bytes(), 0, &mut found);
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len());
        let mut from = 0;
        for (start, end) in found.iter() {
            out.push_str(&text[from..start]);
            out.push_str(MARK);
            from = end;
        }
        out.push_str(&text[from..]);
        Cow::Owned(out)
    }

    /// The JSON value with all its strings redacted, object keys among them. Everything else stays byte for byte;
    /// numbers are not searched.
    #[must_use]
    pub fn json(&self, raw: &RawJson) -> RawJson {
        self.json_except(raw, &[])
    }

    /// As [`Redactor::json`], but keys of these names, at any depth, are left alone: a protocol defines them, and
    /// without them the value would lose its form. The members' values are redacted all the same.
    #[must_use]
    pub fn json_except(&self, raw: &RawJson, defined_keys: &[&str]) -> RawJson {
        if self.is_empty() {
            return raw.clone();
        }
        let redacted = json::map_strings(raw.as_str(), |text, role| {
            if role == json::StringRole::Key && defined_keys.contains(&text) {
                return None;
            }
            match self.text(text) {
                Cow::Borrowed(_) => None,
                Cow::Owned(redacted) => Some(redacted),
            }
        });
        match redacted {
            Cow::Borrowed(_) => raw.clone(),
            Cow::Owned(redacted) => RawJson::from_valid(redacted),
        }
    }

    /// Redaction of a text that comes in pieces.
    #[must_use]
    pub fn stream(&self) -> Stream {
        Stream::new(self.clone())
    }

    fn matcher(&self) -> Option<&Matcher> {
        self.0.as_ref().map(|inner| &inner.matcher)
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.0.as_ref().map_or(0, |inner| inner.secrets.len()))
    }
}
