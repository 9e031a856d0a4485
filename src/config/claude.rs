//! Options of the built-in `claude` agent.
//!
//! Owns their names, environment forms and defaults. The key and the base URL come from the variables that Claude Code
//! itself reads, and never from an argument.

use super::ConfigError;
use super::values::{duration, number};
use crate::handler::claude::ClaudeOptions;
use crate::process::Environment;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// How Claude Code is run, and what it may do.
#[derive(Debug, Args, Clone)]
pub struct ClaudeFlags {
    /// claude: the Claude CLI, if it is not on PATH or in a package of npm or PyPI
    #[arg(long, env = "TURNHOST_CLAUDE_PROGRAM", value_name = "PATH")]
    claude_program: Option<PathBuf>,
    /// claude: the model of turns that name none
    #[arg(long, env = "TURNHOST_CLAUDE_MODEL", value_name = "NAME")]
    claude_model: Option<String>,
    /// claude: what a turn's system prompt does to Claude Code's own: replace or append
    #[arg(long, env = "TURNHOST_CLAUDE_SYSTEM_PROMPT", default_value = "replace", value_name = "MODE")]
    claude_system_prompt: String,
    /// claude: what may be done without asking; nobody is there to be asked
    #[arg(long, env = "TURNHOST_CLAUDE_PERMISSION_MODE", default_value = "bypassPermissions", value_name = "MODE")]
    claude_permission_mode: String,
    /// claude: its built-in tools, such as Bash,Read,Edit [default: all]
    #[arg(long, env = "TURNHOST_CLAUDE_TOOLS", value_name = "NAMES")]
    claude_tools: Option<String>,
    /// claude: rounds of a turn [default: no limit]
    #[arg(long, env = "TURNHOST_CLAUDE_MAX_TURNS", value_name = "N")]
    claude_max_turns: Option<String>,
    /// claude: a JSON file with MCP servers, {"mcpServers":{...}}
    #[arg(long, env = "TURNHOST_CLAUDE_MCP_CONFIG", value_name = "FILE")]
    claude_mcp_config: Option<PathBuf>,
    /// claude: which settings files are read: any of user,project,local [default: none]
    #[arg(
        long,
        env = "TURNHOST_CLAUDE_SETTINGS",
        default_value = "",
        hide_default_value = true,
        value_name = "SOURCES"
    )]
    claude_settings: String,
    /// claude: how often a failed call of the model is tried again
    #[arg(long, env = "TURNHOST_CLAUDE_RETRIES", default_value = "3", value_name = "N")]
    claude_retries: String,
    /// claude: processes that may live at once, 200 MB each
    #[arg(long, env = "TURNHOST_CLAUDE_PROCESSES", default_value = "16", value_name = "N")]
    claude_processes: String,
    /// claude: how long a process is kept for the next turn of its session
    #[arg(long, env = "TURNHOST_CLAUDE_KEEP", default_value = "10m", value_name = "TIME")]
    claude_keep: String,
    /// claude: no process is started ahead of need
    #[arg(long, env = "TURNHOST_CLAUDE_NO_SPARE", value_parser = clap::builder::FalseyValueParser::new())]
    claude_no_spare: bool,
}

impl ClaudeFlags {
    /// Checks everything.
    pub fn options(
        self,
        environment: Environment,
        workspace: PathBuf,
        stop_grace: Duration,
    ) -> Result<ClaudeOptions, ConfigError> {
        let turns = self.claude_max_turns.filter(|turns| !turns.is_empty());
        let at_least_one = |flag: &str, value: usize| {
            if value > 0 { Ok(value) } else { Err(ConfigError(format!("{flag}: at least 1 is needed"))) }
        };
        Ok(ClaudeOptions {
            // As the program sees it, which starts in the workspace.
            program: self.claude_program.map(|program| std::path::absolute(&program).unwrap_or(program)),
            args: Vec::new(),
            model: self.claude_model.filter(|model| !model.is_empty()),
            append_system_prompt: match self.claude_system_prompt.as_str() {
                "replace" => false,
                "append" => true,
                other => {
                    let text =
                        format!("--claude-system-prompt: unknown mode \"{other}\". Choose one of: replace, append");
                    return Err(ConfigError(text));
                }
            },
            permission_mode: self.claude_permission_mode,
            tools: self.claude_tools,
            max_turns: turns.map(|turns| number("--claude-max-turns", &turns)).transpose()?,
            mcp_config: self.claude_mcp_config.map(|file| std::path::absolute(&file).unwrap_or(file)),
            settings: self.claude_settings,
            retries: number("--claude-retries", &self.claude_retries)?,
            processes: at_least_one("--claude-processes", number("--claude-processes", &self.claude_processes)?)?,
            keep: duration("--claude-keep", &self.claude_keep)?,
            spare: !self.claude_no_spare,
            stop_grace,
            environment,
            workspace,
        })
    }
}
