//! JSON that we carry but do not look into.

use std::fmt;
use std::sync::Arc;

/// The text of one JSON value, exactly as it came.
///
/// Whoever makes one vouches that the text is valid JSON; `crate::json` has the checks. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RawJson(Arc<str>);

impl RawJson {
    /// Wraps text that is known to be one valid JSON value.
    #[must_use]
    pub fn from_valid(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the value is JSON `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0.trim_ascii() == "null"
    }
}

impl fmt::Debug for RawJson {
    // States and schemas may be large and may be private: a debug line shows only how much there is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawJson({} bytes)", self.0.len())
    }
}
