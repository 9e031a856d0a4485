//! What variables a program sees.
//!
//! Owns the policies, not the variables: the server's own environment is read once, by `config.rs`, and handed in.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// The variable that holds the server's own token. No program ever sees it.
pub const TOKEN_VARIABLE: &str = "TURNHOST_TOKEN";

/// Its names under the server's other names.
const OTHER_TOKENS: [&str; 2] = ["AGENTD_TOKEN", "SIDECAR_TOKEN"];

/// What [`Environment::allow_listed`] lets through; the proxy variables in both cases, since programs differ in which
/// they read.
const ALLOWED: [&str; 21] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TERM",
    "SHELL",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "NODE_PATH",
    "NODE_OPTIONS",
    "NVM_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// The full set of variables a program gets. Its `Debug` form shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// No variables at all.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// All of the server's own variables, less its token and the ones named here.
    #[must_use]
    pub fn inherited(own: &BTreeMap<OsString, OsString>, strip: &[&str]) -> Self {
        Self::filtered(own, |name| !strip.iter().any(|stripped| name == *stripped))
    }

    /// The few of the server's own variables that programs commonly need to work at all.
    #[must_use]
    pub fn allow_listed(own: &BTreeMap<OsString, OsString>) -> Self {
        Self::filtered(own, |name| ALLOWED.iter().any(|allowed| name == *allowed))
    }

    /// Of these variables the few that programs commonly need to work at all.
    #[must_use]
    pub fn only_allowed(&self) -> Self {
        Self::allow_listed(&self.variables)
    }

    fn filtered(own: &BTreeMap<OsString, OsString>, wanted: impl Fn(&OsStr) -> bool) -> Self {
        let variables = own
            .iter()
            .filter(|(name, _)| *name != TOKEN_VARIABLE && !OTHER_TOKENS.iter().any(|token| *name == *token))
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Self { variables }
    }

    /// One more variable, or another value for one. The value comes from the turn and not from the server, so a
    /// variable of any name is taken.
    #[must_use]
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// One variable less.
    #[must_use]
    pub fn without(mut self, name: impl AsRef<OsStr>) -> Self {
        self.variables.remove(name.as_ref());
        self
    }

    /// The value of one variable.
    #[must_use]
    pub fn get(&self, name: impl AsRef<OsStr>) -> Option<&OsStr> {
        self.variables.get(name.as_ref()).map(OsString::as_os_str)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.variables.keys().map(OsString::as_os_str)
    }

    pub(super) fn into_pairs(self) -> Vec<(OsString, OsString)> {
        self.variables.into_iter().collect()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment ")?;
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> BTreeMap<OsString, OsString> {
        [
            ("PATH", "/bin"),
            ("http_proxy", "http://p"),
            ("HTTPS_PROXY", "http://q"),
            ("TURNHOST_TOKEN", "sesame"),
            ("OPENAI_API_KEY", "sk-1"),
            ("Path", "other"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into()
    }

    fn names(environment: &Environment) -> Vec<&str> {
        environment.names().map(|name| name.to_str().unwrap()).collect()
    }

    #[test]
    fn the_token_is_never_inherited() {
        let all = Environment::inherited(&own(), &[]);
        assert_eq!(names(&all), ["HTTPS_PROXY", "OPENAI_API_KEY", "PATH", "Path", "http_proxy"]);
        let less = Environment::inherited(&own(), &["OPENAI_API_KEY"]);
        assert_eq!(names(&less), ["HTTPS_PROXY", "PATH", "Path", "http_proxy"]);
        assert_eq!(names(&Environment::allow_listed(&own())), ["HTTPS_PROXY", "PATH", "http_proxy"]);
        assert_eq!(all.only_allowed(), Environment::allow_listed(&own()));
    }

    #[test]
    fn variables_are_added_and_replaced() {
        let environment = Environment::allow_listed(&own()).with("PATH", "/x").with("MORE", "").without("http_proxy");
        assert_eq!(environment.get("PATH"), Some(OsStr::new("/x")));
        assert_eq!(environment.get("MORE"), Some(OsStr::new("")));
        assert_eq!(environment.get("http_proxy"), None);
    }

    #[test]
    fn debug_shows_no_values() {
        let text = format!("{:?}", Environment::inherited(&own(), &[]));
        assert!(text.contains("OPENAI_API_KEY") && !text.contains("sk-1"), "{text}");
    }
}
