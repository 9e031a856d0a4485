//! Names of sessions and turns, and the number of an event in its session's log.

use std::fmt;
use std::sync::Arc;

/// Longest id we accept, in characters. Ids of callers are untrusted: hash them before they become a file name.
pub const MAX_ID_CHARS: usize = 256;

/// An id that is empty, longer than 256 characters, or holds a control character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to {MAX_ID_CHARS} characters without control characters")]
pub struct InvalidId;

/// Names a session: the ordered series of turns that share one state and one event log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// Takes a caller's text as a session id.
    ///
    /// # Errors
    /// [`InvalidId`] when the text is empty, over 256 characters, or holds control characters.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let fits = !text.is_empty()
            && text.len() <= 4 * MAX_ID_CHARS
            && text.chars().count() <= MAX_ID_CHARS
            && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.into())) } else { Err(InvalidId) }
    }

    /// The same id within a protocol's own part of the namespace, such as `dari:main`.
    #[must_use]
    pub fn scoped(protocol: &str, text: &str) -> Self {
        Self(format!("{protocol}:{text}").into())
    }

    /// An id that was one before, as it was kept.
    #[must_use]
    pub fn kept(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one turn; drawn at random by the engine when the turn is admitted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TurnId(Arc<str>);

impl TurnId {
    /// Wraps an id that the engine drew.
    #[must_use]
    pub fn from_drawn(text: String) -> Self {
        Self(text.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of an entry in its session's log. The first entry is 1; 0 means "before the first".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
