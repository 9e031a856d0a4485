//! The variables that a sidecar is started with.
//!
//! Owns those of its server: where it listens, who may call, when it ends. What the agent is asked is in `cli/sidecar`.

use super::values::{optional_duration, secret_of, variable};
use super::{Agent, ConfigError, ServeConfig, ServeFlags};
use crate::api::SidecarOnly;
use crate::process::on_path;
use clap::Parser;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_PORT: u16 = 9090;
const CLEANUP: Duration = Duration::from_mins(1);

/// The command line of turnhost under the name `agentruntime-sidecar`: its variables say everything.
#[derive(Debug, Parser)]
#[command(name = "agentruntime-sidecar", version)]
#[command(
    about = "Drives one agent, and serves /ws and /health",
    after_help = "Variables: AGENT_CMD (a JSON array; required), AGENT_PROMPT, AGENT_CONFIG, SIDECAR_PORT (9090), SIDECAR_HOST (127.0.0.1), \
                  SIDECAR_TOKEN, SIDECAR_CLEANUP_TIMEOUT (60s), SESSION_ID, TASK_ID, WORK_DIR (/workspace).\n\n\
                  Exit codes: 0 the agent ended, or stopped as asked; 1 cannot start or go on; 2 wrong usage."
)]
pub struct SidecarLine {}

/// What a server is made of, from words.
#[derive(Debug, Parser)]
struct Served {
    #[command(flatten)]
    flags: ServeFlags,
}

/// `AGENT_CMD`, as it was given.
///
/// # Errors
/// When it was not.
pub fn agent_command() -> Result<String, ConfigError> {
    let given = variable(&environment(), "AGENT_CMD").map(str::to_owned);
    given.ok_or_else(|| {
        ConfigError("AGENT_CMD is not set: give a JSON array of strings, such as [\"claude\"]".to_owned())
    })
}

fn environment() -> BTreeMap<OsString, OsString> {
    std::env::vars_os().collect()
}

/// Who drives the program of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The agent `claude`.
    Claude,
    /// The agent `codex`.
    Codex,
    /// Nobody: it reads lines and writes lines.
    Plain,
}

/// The server of a sidecar that runs this program with these arguments.
///
/// # Errors
/// One sentence that names the variable.
pub fn sidecar(driver: Driver, program: &str, args: &[String]) -> Result<ServeConfig, ConfigError> {
    let environment = environment();
    let port = match variable(&environment, "SIDECAR_PORT") {
        None => DEFAULT_PORT,
        Some(text) => {
            text.parse().map_err(|_| ConfigError(format!("SIDECAR_PORT: expected a port, got \"{text}\"")))?
        }
    };
    let cleanup = match variable(&environment, "SIDECAR_CLEANUP_TIMEOUT") {
        None => CLEANUP,
        Some(text) => optional_duration("SIDECAR_CLEANUP_TIMEOUT", text)?.unwrap_or_default(),
    };
    // A name is looked for where a shell would; one that is not found fails when the agent starts.
    let found = || on_path(program, environment.get(OsStr::new("PATH"))?);
    let path = if program.contains('/') { None } else { found() }.unwrap_or_else(|| PathBuf::from(program));
    let mut words: Vec<OsString> = [
        "agentruntime-sidecar",
        "--protocols=sessions",
        "--agent=echo",
        "--data-dir=memory",
        "--claude-no-spare",
        "--grace=2s",
        // What silence leads to is said in AGENT_CONFIG.
        "--idle-timeout=off",
    ]
    .map(OsString::from)
    .into();
    words.push(format!("--port={port}").into());
    match driver {
        Driver::Claude => words.push(OsString::from_iter([OsStr::new("--claude-program="), path.as_os_str()])),
        Driver::Codex => words.push(OsString::from_iter([OsStr::new("--codex-program="), path.as_os_str()])),
        Driver::Plain => {}
    }
    let host = variable(&environment, "SIDECAR_HOST").unwrap_or("127.0.0.1");
    words.push(format!("--host={host}").into());
    let served = Served::try_parse_from(words).map_err(|error| {
        let text = error.to_string();
        ConfigError(text.trim_start_matches("error: ").lines().next().unwrap_or_default().to_owned())
    })?;
    let mut config = served.flags.into_config()?;
    config.token = secret_of(None, &["SIDECAR_TOKEN"], &environment)?;
    let agent = match driver {
        Driver::Claude => {
            config.agent.claude.args = args.iter().map(OsString::from).collect();
            "claude".to_owned()
        }
        Driver::Codex => "codex".to_owned(),
        Driver::Plain => {
            let name = program.rsplit('/').next().unwrap_or_default().to_owned();
            let (program, args) = (program.to_owned(), args.to_vec());
            config.agent.agent = Agent::Plain { name: name.clone(), program, args };
            name
        }
    };
    let work_dir = variable(&environment, "WORK_DIR").unwrap_or("/workspace").into();
    let session_id = variable(&environment, "SESSION_ID").unwrap_or_default().to_owned();
    config.sessions.alone = Some(SidecarOnly { agent, cleanup, work_dir, session_id });
    Ok(config)
}
