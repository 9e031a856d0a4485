//! Options of the built-in `openai` agent.
//!
//! Owns their names, environment forms and defaults. The key and the base URL come from the variables that every SDK of
//! OpenAI reads, and never from an argument.

use super::ConfigError;
use super::values::{duration, number, size};
use crate::handler::openai::{Api, OpenAiOptions, ShellTool};
use crate::process::Environment;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// How the model is called, and what it may do.
#[derive(Debug, Args, Clone)]
pub struct OpenAiFlags {
    /// openai: the model of turns that name none
    #[arg(long, env = "TURNHOST_OPENAI_MODEL", value_name = "NAME")]
    openai_model: Option<String>,
    /// openai: where the talk is kept: stored (at the service) or stateless (in the turn's state)
    #[arg(long, env = "TURNHOST_OPENAI_STATE", default_value = "stored", value_name = "MODE")]
    openai_state: String,
    /// openai: which API is called: responses, chat (completions), or auto: chat where there are no responses
    #[arg(long, env = "TURNHOST_OPENAI_API", default_value = "auto", value_name = "API")]
    openai_api: String,
    /// openai: how the shell is offered: native, function, off, or auto: a function where native is not known
    #[arg(long, env = "TURNHOST_OPENAI_SHELL", default_value = "auto", value_name = "MODE")]
    openai_shell: String,
    /// openai: the model gets no web search
    #[arg(long, env = "TURNHOST_OPENAI_NO_WEB_SEARCH", value_parser = clap::builder::FalseyValueParser::new())]
    openai_no_web_search: bool,
    /// openai: model calls of one turn
    #[arg(long, env = "TURNHOST_OPENAI_MAX_CALLS", default_value = "200", value_name = "N")]
    openai_max_calls: String,
    /// openai: how long a command may take where the model does not say
    #[arg(long, env = "TURNHOST_OPENAI_SHELL_TIMEOUT", default_value = "2m", value_name = "TIME")]
    openai_shell_timeout: String,
    /// openai: how long a command may take whatever the model says
    #[arg(long, env = "TURNHOST_OPENAI_SHELL_TIMEOUT_MOST", default_value = "30m", value_name = "TIME")]
    openai_shell_timeout_most: String,
    /// openai: how much of each output stream of a command the model is shown
    #[arg(long, env = "TURNHOST_OPENAI_OUTPUT_CAP", default_value = "64KiB", value_name = "SIZE")]
    openai_output_cap: String,
}

impl OpenAiFlags {
    /// Checks everything.
    pub fn options(
        self,
        environment: Environment,
        workspace: PathBuf,
        stop_grace: Duration,
    ) -> Result<OpenAiOptions, ConfigError> {
        let one_of = |flag: &str, text: &str, known: &str| {
            ConfigError(format!("{flag}: unknown mode \"{text}\". Choose one of: {known}"))
        };
        Ok(OpenAiOptions {
            model: self.openai_model.filter(|model| !model.is_empty()),
            api: match self.openai_api.as_str() {
                "auto" => Api::Auto,
                "responses" => Api::Responses,
                "chat" => Api::Chat,
                other => return Err(one_of("--openai-api", other, "auto, responses, chat")),
            },
            stored: match self.openai_state.as_str() {
                "stored" => true,
                "stateless" => false,
                other => return Err(one_of("--openai-state", other, "stored, stateless")),
            },
            shell: match self.openai_shell.as_str() {
                "auto" => ShellTool::Auto,
                "native" => ShellTool::Native,
                "function" => ShellTool::Function,
                "off" => ShellTool::Off,
                other => return Err(one_of("--openai-shell", other, "auto, native, function, off")),
            },
            web_search: !self.openai_no_web_search,
            max_calls: number("--openai-max-calls", &self.openai_max_calls)?,
            shell_timeout: duration("--openai-shell-timeout", &self.openai_shell_timeout)?,
            shell_timeout_most: duration("--openai-shell-timeout-most", &self.openai_shell_timeout_most)?,
            output_cap: usize::try_from(size("--openai-output-cap", &self.openai_output_cap)?).unwrap_or(usize::MAX),
            stop_grace,
            environment,
            workspace,
        })
    }
}
