//! The built-in `codex` agent: turns by the Codex CLI, through its `app-server`.
//!
//! Owns its options. Where the program is says `program`, which process runs which turn `pool`, one process is `server`'s;
//! a turn's thread is opened in `thread`, its loop is `turn`, what it says is put into events in `items`, and what a
//! failure means is in `ending`.

mod ending;
mod items;
mod pool;
mod program;
mod server;
mod thread;
mod turn;
mod wishes;

use super::agent_error::AgentError;
use super::{Cancel, Failure, Handler, Reply, Sink, Turn};
use crate::model::SessionId;
use crate::process::Environment;
use crate::redact::Secret;
use pool::{Origin, Pool};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Where calls go when nobody says otherwise.
const BASE: &str = "https://api.openai.com/v1";

/// The variable with the key. The program gets it, commands do not.
const KEY: &str = "OPENAI_API_KEY";

/// How long a program may take to start whose turn has an environment of its own.
const SOON: Duration = Duration::from_secs(12);

/// Options of the agent.
#[derive(Debug, Clone)]
pub struct CodexOptions {
    /// The program; looked for if absent.
    pub program: Option<PathBuf>,
    /// The model of turns that name none; the program's own default if absent.
    pub model: Option<String>,
    /// How hard the model thinks; its own default if absent.
    pub effort: Option<String>,
    /// What commands may touch, in the program's words.
    pub sandbox: String,
    /// How long the program may take to start, and to open a thread.
    pub start_timeout: Duration,
    /// How long a call may be tried again without a word of the model: the program itself would try for ever.
    pub retry_limit: Duration,
    /// How long the program may take to end after SIGTERM.
    pub stop_grace: Duration,
    /// The folder where the program keeps its threads; it does not make it itself.
    pub home: Option<PathBuf>,
    /// The server's own environment: for the key and the base URL, and what the program and commands see of it.
    pub environment: Environment,
    /// Where commands run.
    pub workspace: PathBuf,
}

/// Runs turns with the Codex CLI.
pub struct Codex {
    options: CodexOptions,
    pool: Pool,
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    // Only strings, numbers and raw JSON are in there: writing them cannot fail.
    to_raw_value(value).unwrap_or_default()
}

impl Codex {
    /// An agent whose processes are owned by tasks of `tasks`.
    #[must_use]
    pub fn new(options: CodexOptions, tasks: TaskTracker) -> Self {
        Self { pool: Pool::new(options.clone(), tasks), options }
    }

    fn own_variable(&self, name: &str) -> Option<String> {
        let value = self.options.environment.get(name)?.to_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// The process that a turn needs.
    fn origin(&self, turn: &Turn) -> Result<Origin, AgentError> {
        let is_own = turn.has_own_environment();
        let variable = |name: &str| turn.variable(name, &self.options.environment);
        let key = variable(KEY).or_else(|| variable("CODEX_API_KEY").filter(|_| is_own)).map(Secret::new);
        if key.is_none() && !is_own {
            return Err(AgentError::no_key(KEY));
        }
        let given = |name: &str| Some(PathBuf::from(turn.request.env.as_ref()?.get(name)?.expose()));
        let home = given("CODEX_HOME").or_else(|| Some(given("HOME")?.join(".codex"))).filter(|_| is_own);
        let home = home.or_else(|| self.options.home.clone());
        if key.is_none() && !home.as_ref().is_some_and(|home| home.join("auth.json").exists()) {
            return Err(AgentError::no_key(KEY));
        }
        let limit = self.options.start_timeout;
        Ok(Origin {
            key,
            env: turn.environment(&self.options.environment),
            home,
            // A caller of sessions is told within 15 s that nothing comes.
            start_timeout: if is_own { limit.min(SOON) } else { limit },
        })
    }

    fn base(&self, turn: &Turn) -> String {
        let base = turn.variable("OPENAI_BASE_URL", &self.options.environment).unwrap_or_else(|| BASE.to_owned());
        base.trim_end_matches('/').to_owned()
    }
}

impl Handler for Codex {
    fn name(&self) -> &'static str {
        "codex"
    }

    async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        turn::run(self, &turn, &sink, &cancel).await
    }

    /// Finds the program, and starts it where the key is known already: the first turn need not wait for it.
    async fn start(&self) -> Result<(), String> {
        program::find(&self.options)?;
        let Some(key) = self.own_variable(KEY) else { return Ok(()) };
        let origin = Origin {
            key: Some(Secret::new(key)),
            env: self.options.environment.clone(),
            home: self.options.home.clone(),
            start_timeout: self.options.start_timeout,
        };
        match self.pool.server(&origin).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let stderr = error.metadata.get("stderr_tail").and_then(|tail| tail.as_str()).unwrap_or_default();
                let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {line}"));
                Err(format!("{}{}", error.message, last.unwrap_or_default()))
            }
        }
    }

    fn session_ended(&self, session: &SessionId) {
        self.pool.session_ended(session);
    }

    async fn prepare(&self, turn: Turn) -> Option<u32> {
        let origin = self.origin(&turn).ok()?;
        self.pool.server(&origin).await.ok()?.server.pid()
    }

    async fn stop(&self, grace: Duration) {
        self.pool.stop(grace).await;
    }
}
