//! The options of commands that speak to an agent or a server as a host does: `chat`, `mock`, `conform`.
//!
//! Owns what a URL and a token of theirs may be.

use super::agent::{AgentConfig, AgentFlags};
use super::{ConfigError, values};
use crate::outbound::websocket;
use crate::redact::Secret;
use clap::Args;
use std::path::PathBuf;
use url::Url;

/// The options of `chat`.
#[derive(Debug, Args, Clone)]
pub struct ChatFlags {
    #[command(flatten)]
    agent: AgentFlags,
    /// The model to use
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Prints every event as one line of JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Talks to a running server instead, as a RuntimeUse client: ws://HOST:PORT, with ?session=NAME to go on with a session
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// File with the server's token; else $TURNHOST_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl ChatFlags {
    /// Checks the agent's options.
    ///
    /// # Errors
    /// As [`super::ServeFlags::into_config`].
    pub fn agent_config(&self) -> Result<AgentConfig, ConfigError> {
        self.agent.clone().into_config()
    }

    /// The server to talk to, if any.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn server(&self, config: &AgentConfig) -> Result<Option<(Url, Option<Secret>)>, ConfigError> {
        let Some(url) = &self.url else { return Ok(None) };
        let url = websocket::parse(url).map_err(|problem| ConfigError(format!("--url {problem}")))?;
        Ok(Some((url, values::token(self.token_file.as_deref(), &config.environment)?)))
    }
}
