//! Which agent runs the turns, and with what options.
//!
//! Owns the options that `serve` and `run` share. Those of one agent are in a file of its own.

use super::program::{self, HandlerProgram, Interpreters};
use super::values::{duration, number, optional_duration};
use super::{AGENTS, ConfigError, claude, codex, openai, traces};
use crate::engine::{EngineOptions, LogLimits, WorkOptions};
use crate::handler::claude::ClaudeOptions;
use crate::handler::codex::CodexOptions;
use crate::handler::openai::OpenAiOptions;
use crate::handler::stdio::Isolation;
use crate::process::Environment;
use crate::redact::Secret;
use crate::telemetry::LogConfig;
use clap::Args;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Which agent runs the turns.
#[derive(Debug, Args, Clone)]
pub struct AgentFlags {
    /// Built-in agent: echo, openai, claude or codex
    #[arg(long, env = "TURNHOST_AGENT", default_value = "openai", value_name = "NAME")]
    agent: String,
    /// Your own handler: a .py or .js/.mjs/.cjs module, or any program that speaks the stdio protocol; wins over --agent
    #[arg(long, env = "TURNHOST_HANDLER", value_name = "PATH")]
    handler: Option<PathBuf>,
    /// The Node.js that runs JavaScript handlers; else the one on PATH
    #[arg(long, env = "TURNHOST_NODE", value_name = "PATH")]
    node: Option<PathBuf>,
    /// The Python that runs Python handlers; else python3 on PATH
    #[arg(long, env = "TURNHOST_PYTHON", value_name = "PATH")]
    python: Option<PathBuf>,
    /// Processes of a handler that runs one turn at a time, or that is blocked
    #[arg(
        long,
        env = "TURNHOST_HANDLER_PROCESSES",
        value_name = "N",
        help = "Processes of a handler that runs one turn at a time, or that is blocked [default: cores, at least 2]"
    )]
    handler_processes: Option<String>,
    /// Who shares a handler's process: shared (all sessions) or session (every session has its own)
    #[arg(long, env = "TURNHOST_HANDLER_ISOLATION", default_value = "shared", value_name = "MODE")]
    handler_isolation: String,
    /// Processes with --handler-isolation session; beyond it the one that was quiet longest is ended
    #[arg(long, env = "TURNHOST_HANDLER_SESSIONS", default_value = "64", value_name = "N")]
    handler_sessions: String,
    /// How long a handler may take to load
    #[arg(long, env = "TURNHOST_HANDLER_START_TIMEOUT", default_value = "30s", value_name = "TIME")]
    handler_start_timeout: String,
    /// Ends a turn after this much silence; off = never
    #[arg(long, env = "TURNHOST_IDLE_TIMEOUT", default_value = "30m", value_name = "TIME")]
    idle_timeout: String,
    /// Ends a turn after this long in all; off = never
    #[arg(long, env = "TURNHOST_TURN_TIMEOUT", default_value = "off", value_name = "TIME")]
    turn_timeout: String,
    /// How long a cancelled handler may take before it is killed
    #[arg(long, env = "TURNHOST_STOP_GRACE", default_value = "2s", value_name = "TIME")]
    stop_grace: String,
    /// Gives handlers and commands only PATH, HOME, LANG and the like of the server's environment
    #[arg(long, env = "TURNHOST_CLEAN_ENV", value_parser = clap::builder::FalseyValueParser::new())]
    clean_env: bool,
    /// File with the system prompt of requests that bring none [default: prompts/system.md of the bundle]
    #[arg(long, env = "TURNHOST_SYSTEM_PROMPT", value_name = "FILE")]
    system_prompt: Option<PathBuf>,
    /// Directory that turns work in [default: the current one]
    #[arg(long, env = "TURNHOST_WORKSPACE", value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, or per module as in turnhost::engine=debug
    #[arg(
        long,
        env = "TURNHOST_LOG",
        value_name = "LEVEL",
        help = "What is logged: error, warn, info, debug, or per module as in turnhost::engine=debug [default: info]"
    )]
    log_level: Option<String>,
    /// text or json
    #[arg(long, env = "TURNHOST_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: String,
    /// A handler's structured answer has to fit the caller's schema; those of the built-in agents always have to
    #[arg(long, env = "TURNHOST_VALIDATE_OUTPUT", value_parser = clap::builder::FalseyValueParser::new())]
    validate_output: bool,
    #[command(flatten)]
    openai: openai::OpenAiFlags,
    #[command(flatten)]
    claude: claude::ClaudeFlags,
    #[command(flatten)]
    codex: codex::CodexFlags,
}

/// Who runs the turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// The built-in echo.
    Echo,
    /// The built-in agent of OpenAI's models.
    OpenAi,
    /// Claude Code.
    Claude,
    /// The built-in agent that drives Codex.
    Codex,
    /// The user's own program, with the arguments that start it.
    Program(HandlerProgram),
    /// A program that speaks no protocol of ours: lines in, lines out.
    Plain {
        /// What it is called.
        name: String,
        /// A path, or a name that is looked for in `PATH`.
        program: String,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// What the agent part of the options comes to.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Who runs the turns.
    pub agent: Agent,
    /// Who shares a handler's process.
    pub handler_isolation: Isolation,
    /// Processes of a handler that sessions share.
    pub handler_processes: usize,
    /// Processes where every session has its own.
    pub handler_sessions: usize,
    /// How long a handler may take to load.
    pub handler_start_timeout: Duration,
    /// Whether answers of the user's handler have to fit the caller's schema.
    pub validate_output: bool,
    /// Options of the built-in `openai` agent.
    pub openai: OpenAiOptions,
    /// Options of the built-in `claude` agent.
    pub claude: ClaudeOptions,
    /// Options of the built-in `codex` agent.
    pub codex: CodexOptions,
    /// Limits of turns.
    pub engine: EngineOptions,
    /// The file named by `--system-prompt`.
    pub system_prompt: Option<PathBuf>,
    /// Where turns work.
    pub workspace: PathBuf,
    /// The server's environment, for children and for what is always redacted.
    pub environment: BTreeMap<OsString, OsString>,
    /// What is logged, and where traces go.
    pub log: LogConfig,
    /// What a collector of traces is sent to let us in.
    pub trace_secrets: Vec<Secret>,
}

impl AgentFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// [`ConfigError`] with one sentence that names the option.
    pub fn into_config(self) -> Result<AgentConfig, ConfigError> {
        let environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let handler_processes = match &self.handler_processes {
            Some(text) => number("--handler-processes", text)?,
            None => cores.max(2),
        };
        let agent = match &self.handler {
            Some(path) => {
                let asked = Interpreters { node: self.node.as_deref(), python: self.python.as_deref() };
                Agent::Program(program::handler_program(path, &asked, &environment)?)
            }
            None => built_in(&self.agent)?,
        };
        let children_see = if self.clean_env {
            Environment::allow_listed(&environment)
        } else {
            Environment::inherited(&environment, &[])
        };
        let engine = EngineOptions {
            idle_timeout: optional_duration("--idle-timeout", &self.idle_timeout)?,
            turn_timeout: optional_duration("--turn-timeout", &self.turn_timeout)?,
            stop_grace: duration("--stop-grace", &self.stop_grace)?,
            log: LogLimits::default(),
            work: WorkOptions { environment: children_see, ..WorkOptions::default() },
            ..EngineOptions::default()
        };
        let workspace = match self.workspace {
            Some(folder) if folder.is_dir() => folder,
            Some(folder) => {
                return Err(ConfigError(format!("--workspace {}: not a directory", folder.display())));
            }
            None => std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        };
        let handler_isolation = match self.handler_isolation.as_str() {
            "shared" => Isolation::Shared,
            "session" => Isolation::Session,
            other => {
                return Err(ConfigError(format!(
                    "invalid handler isolation \"{other}\". Choose one of: shared, session"
                )));
            }
        };
        let json = match self.log_format.as_str() {
            "text" => false,
            "json" => true,
            other => return Err(ConfigError(format!("invalid log format \"{other}\". Choose one of: text, json"))),
        };
        let openai = self.openai.options(engine.work.environment.clone(), workspace.clone(), engine.stop_grace)?;
        let claude = self.claude.options(engine.work.environment.clone(), workspace.clone(), engine.stop_grace)?;
        let seen = engine.work.environment.clone();
        let codex = self.codex.options(&environment, seen, workspace.clone(), engine.stop_grace)?;
        Ok(AgentConfig {
            agent,
            validate_output: self.validate_output,
            openai,
            claude,
            codex,
            handler_isolation,
            handler_processes,
            handler_sessions: number("--handler-sessions", &self.handler_sessions)?,
            handler_start_timeout: duration("--handler-start-timeout", &self.handler_start_timeout)?,
            engine,
            system_prompt: self.system_prompt,
            workspace,
            log: LogConfig {
                filter: self.log_level.unwrap_or_else(|| "info".to_owned()),
                json,
                traces: traces::traces(&environment),
            },
            trace_secrets: traces::secrets(&environment),
            environment,
        })
    }
}

fn built_in(name: &str) -> Result<Agent, ConfigError> {
    match name {
        "echo" => Ok(Agent::Echo),
        "openai" => Ok(Agent::OpenAi),
        "claude" => Ok(Agent::Claude),
        "codex" => Ok(Agent::Codex),
        unknown => Err(ConfigError(format!("unknown agent \"{unknown}\". Choose one of: {}", AGENTS.join(", ")))),
    }
}
