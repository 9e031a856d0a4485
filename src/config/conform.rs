//! The options of `conform`.
//!
//! Owns what is looked at, a server or a handler, and how.

use super::program::{self, HandlerProgram, Interpreters};
use super::{ConfigError, values};
use crate::outbound::websocket;
use crate::process::Environment;
use crate::redact::Secret;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// The options of `conform`.
#[derive(Debug, Args, Clone)]
pub struct ConformFlags {
    /// The server: http://HOST:PORT, for runtimeuse ws://HOST:PORT
    #[arg(value_name = "URL", required_unless_present = "handler", conflicts_with = "handler", requires = "protocol")]
    url: Option<String>,
    /// The contract: dari, runtimeuse or sessions
    #[arg(long, value_name = "NAME", value_parser = ["dari", "runtimeuse", "sessions"], conflicts_with = "handler")]
    protocol: Option<String>,
    /// Where a server of Dari's contract tells its health
    #[arg(long, default_value = "/health", value_name = "PATH")]
    pub health_path: String,
    /// Where it takes turns
    #[arg(long, default_value = "/runtime/advance", value_name = "PATH")]
    pub advance_path: String,
    /// A handler instead of a server: a module, or a program that speaks the stdio protocol
    #[arg(long, value_name = "PATH")]
    handler: Option<PathBuf>,
    /// The Node.js that runs JavaScript handlers; else the one on PATH
    #[arg(long, env = "TURNHOST_NODE", value_name = "PATH")]
    node: Option<PathBuf>,
    /// The Python that runs Python handlers; else python3 on PATH
    #[arg(long, env = "TURNHOST_PYTHON", value_name = "PATH")]
    python: Option<PathBuf>,
    /// What the agent is asked; some checks ask a dozen times
    #[arg(long, default_value = "Answer with one word.", value_name = "TEXT")]
    pub prompt: String,
    /// The agent that sessions are created with
    #[arg(long, default_value = "claude", value_name = "NAME")]
    pub agent: String,
    /// How long a turn of the agent may take
    #[arg(long, default_value = "60s", value_name = "TIME")]
    turn_within: String,
    /// File with the server's token; else $TURNHOST_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// What is looked at.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A server of Dari's contract.
    Dari(Url),
    /// A server of RuntimeUse's protocol.
    RuntimeUse(Url),
    /// A server of agentruntime's protocol.
    Sessions(Url),
    /// A handler.
    Handler {
        /// How it is started.
        program: HandlerProgram,
        /// As it was named.
        named: PathBuf,
        /// The variables that it sees.
        environment: Environment,
    },
}

impl ConformFlags {
    /// What is looked at.
    ///
    /// # Errors
    /// One sentence that says what cannot be used.
    pub fn subject(&self) -> Result<Subject, ConfigError> {
        if let Some(path) = &self.handler {
            let environment = std::env::vars_os().collect();
            let asked = Interpreters { node: self.node.as_deref(), python: self.python.as_deref() };
            let program = program::handler_program(path, &asked, &environment)?;
            let environment = Environment::inherited(&environment, &[]);
            return Ok(Subject::Handler { program, named: path.clone(), environment });
        }
        let text = self.url.as_deref().unwrap_or_default();
        if self.protocol.as_deref() == Some("runtimeuse") {
            return websocket::parse(text).map(Subject::RuntimeUse).map_err(ConfigError);
        }
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.path() == "/" => {
                Ok(if self.protocol.as_deref() == Some("dari") { Subject::Dari(url) } else { Subject::Sessions(url) })
            }
            _ => Err(ConfigError(format!("{text}: expected http://HOST:PORT"))),
        }
    }

    /// How long a turn may take.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn turn_within(&self) -> Result<Duration, ConfigError> {
        values::duration("--turn-within", &self.turn_within)
    }

    /// What is shown to the server.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn token(&self) -> Result<Option<Secret>, ConfigError> {
        let environment = std::env::vars_os().collect();
        values::token(self.token_file.as_deref(), &environment)
    }
}
