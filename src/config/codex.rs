//! Options of the built-in `codex` agent.
//!
//! Owns their names, environment forms and defaults. The key and the base URL come from the variables that every SDK of
//! OpenAI reads, and never from an argument.

use super::ConfigError;
use super::values::duration;
use crate::handler::codex::CodexOptions;
use crate::process::Environment;
use clap::Args;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// How the program is found and what it may do.
#[derive(Debug, Args, Clone)]
pub struct CodexFlags {
    /// codex: the program; else `codex` on PATH, else the one in the workspace's `node_modules`
    #[arg(long, env = "TURNHOST_CODEX_PROGRAM", value_name = "PATH")]
    codex_program: Option<PathBuf>,
    /// codex: the model of turns that name none [default: the program's own]
    #[arg(long, env = "TURNHOST_CODEX_MODEL", value_name = "NAME")]
    codex_model: Option<String>,
    /// codex: how hard the model thinks, such as low, medium or high [default: the model's own]
    #[arg(long, env = "TURNHOST_CODEX_EFFORT", value_name = "LEVEL")]
    codex_effort: Option<String>,
    /// codex: what commands may touch: read-only, workspace-write or danger-full-access
    #[arg(long, env = "TURNHOST_CODEX_SANDBOX", default_value = "danger-full-access", value_name = "MODE")]
    codex_sandbox: String,
    /// codex: how long the program may take to start, and to open a thread
    #[arg(long, env = "TURNHOST_CODEX_START_TIMEOUT", default_value = "30s", value_name = "TIME")]
    codex_start_timeout: String,
    /// codex: how long one call of the model may be tried again without a word of it
    #[arg(long, env = "TURNHOST_CODEX_RETRY_LIMIT", default_value = "2m", value_name = "TIME")]
    codex_retry_limit: String,
}

impl CodexFlags {
    /// Checks everything.
    pub fn options(
        self,
        own: &BTreeMap<OsString, OsString>,
        environment: Environment,
        workspace: PathBuf,
        stop_grace: Duration,
    ) -> Result<CodexOptions, ConfigError> {
        let variable = |name: &str| own.get(OsStr::new(name)).filter(|value| !value.is_empty());
        let home = variable("CODEX_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".codex")));
        let sandbox = match self.codex_sandbox.as_str() {
            known @ ("read-only" | "workspace-write" | "danger-full-access") => known.to_owned(),
            other => {
                return Err(ConfigError(format!(
                    "--codex-sandbox: unknown mode \"{other}\". Choose one of: read-only, workspace-write, danger-full-access"
                )));
            }
        };
        Ok(CodexOptions {
            program: self.codex_program,
            model: self.codex_model.filter(|model| !model.is_empty()),
            effort: self.codex_effort.filter(|effort| !effort.is_empty()),
            sandbox,
            start_timeout: duration("--codex-start-timeout", &self.codex_start_timeout)?,
            retry_limit: duration("--codex-retry-limit", &self.codex_retry_limit)?,
            stop_grace,
            home,
            environment,
            workspace,
        })
    }
}
