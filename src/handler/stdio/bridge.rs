//! The programs that load a user's module: one for Python, one for JavaScript, both part of this binary.
//!
//! Owns how they are started. They come to the interpreter by its standard input, so nothing is written to a disk and a
//! module finds its own standard input at its end.

use std::ffi::OsString;
use std::path::Path;

/// The source of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge(&'static str);

impl Bridge {
    /// Loads JavaScript modules; Node.js 18 or later.
    pub const JAVASCRIPT: Self = Self(include_str!("../../../handlers/bridge.mjs"));
    /// Loads Python modules; CPython 3.9 or later.
    pub const PYTHON: Self = Self(include_str!("../../../handlers/bridge.py"));

    /// Its source.
    #[must_use]
    pub const fn source(self) -> &'static str {
        self.0
    }

    /// What the interpreter is started with to run it for a module.
    #[must_use]
    pub fn args(self, module: &Path) -> Vec<OsString> {
        let fixed: &[&str] = if self == Self::JAVASCRIPT { &["--input-type=module", "-"] } else { &["-u", "-"] };
        fixed.iter().map(OsString::from).chain([module.as_os_str().to_owned()]).collect()
    }
}
