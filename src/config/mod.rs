//! Flags and environment become one validated value, before anything binds.
//!
//! Owns every option's name, environment form and default. The only reader of the environment.

mod agents;
mod claude;
mod codex;
mod data;
mod openai;
mod program;
mod sessions;
mod values;
mod work;

pub use data::DataConfig;
pub use program::{HandlerProgram, Language};

use crate::api::{ApiLimits, DariEvents, DariOptions, Protocol, SessionsOptions};
use crate::engine::{EngineOptions, LogLimits, WorkOptions};
use crate::handler::claude::ClaudeOptions;
use crate::handler::codex::CodexOptions;
use crate::handler::openai::OpenAiOptions;
use crate::handler::stdio::Isolation;
use crate::process::Environment;
use crate::redact::Secret;
use crate::telemetry::LogConfig;
use clap::{Args, Parser, Subcommand};
use data::DataFlags;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use values::{bundle_folders, duration, host, number, optional_duration, port, protocols, size, token, url_path};

/// The built-in agents, in the order they are offered.
pub const AGENTS: [&str; 4] = ["echo", "openai", "claude", "codex"];

/// Runs an agent's turns inside a sandbox: one binary, several host protocols, handlers in any language.
#[derive(Debug, Parser)]
#[command(name = "turnhost", version, args_override_self = true, args_conflicts_with_subcommands = true)]
#[command(
    override_usage = "turnhost [serve] [options]\n       turnhost run [options] \"PROMPT\"\n       turnhost demo\n       turnhost schema"
)]
#[command(
    after_help = "Exit codes: 0 stopped as asked, 1 cannot start or go on, 2 wrong usage, 3 the turn failed (run), \
                        4 something differed from the contract (demo), 130 stopped by Ctrl+C."
)]
pub struct CommandLine {
    /// What to do; `serve` when nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of `serve`.
    #[command(flatten)]
    pub serve: ServeFlags,
}

/// What turnhost can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve turns to hosts (the default)
    Serve(Box<ServeFlags>),
    /// Run one turn in this terminal
    Run(Box<RunFlags>),
    /// Start a server, play the hosts against it, show what each saw; needs no key and no network
    Demo,
    /// Print the JSON Schema of every wire
    Schema,
}

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

/// The options of `serve`.
#[derive(Debug, Args, Clone)]
pub struct ServeFlags {
    #[command(flatten)]
    agent: AgentFlags,
    #[command(flatten)]
    agents: agents::AgentsFlags,
    /// Port to listen on; 0 takes a free one [default: $PORT, else 8080]
    #[arg(long, env = "TURNHOST_PORT", value_name = "N")]
    port: Option<String>,
    /// Address to listen on; one beyond this machine needs a token [default: 127.0.0.1 and ::1]
    #[arg(long, env = "TURNHOST_HOST", value_name = "ADDR")]
    host: Option<String>,
    /// File that holds the token callers must present; else $TURNHOST_TOKEN
    #[arg(long, env = "TURNHOST_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Lets everybody call
    #[arg(long, env = "TURNHOST_NO_AUTH", value_parser = clap::builder::FalseyValueParser::new())]
    no_auth: bool,
    /// Origin of web pages that may call, besides the server's own; may be repeated
    #[arg(long, env = "TURNHOST_ALLOW_ORIGIN", value_delimiter = ',', action = clap::ArgAction::Append, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Name that callers on this machine may reach it by, besides the loopback addresses; may be repeated
    #[arg(long, env = "TURNHOST_ALLOW_HOST", value_delimiter = ',', action = clap::ArgAction::Append, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Protocols to serve: dari, runtimeuse, sessions, v1
    #[arg(
        long,
        env = "TURNHOST_PROTOCOLS",
        value_name = "LIST",
        help = "Protocols to serve: dari, runtimeuse, sessions, v1 [default: all]"
    )]
    protocols: Option<String>,
    /// Path of Dari's health check
    #[arg(long, env = "TURNHOST_DARI_HEALTH_PATH", default_value = "/health", value_name = "PATH")]
    dari_health_path: String,
    /// Path of Dari's turns
    #[arg(long, env = "TURNHOST_DARI_ADVANCE_PATH", default_value = "/runtime/advance", value_name = "PATH")]
    dari_advance_path: String,
    /// Events in Dari's answers instead of a text: off, completed, or all (calls of tools when they are asked for, too)
    #[arg(long, env = "TURNHOST_DARI_EVENTS", default_value = "off", value_name = "WHICH")]
    dari_events: String,
    /// Sends blanks before a Dari answer at this interval, for proxies that cut silent connections; 0 = off
    #[arg(long, env = "TURNHOST_KEEPALIVE_SECONDS", default_value = "0", value_name = "N")]
    keepalive_seconds: String,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    sessions: sessions::SessionsFlags,
    /// How long running turns may go on once the server is asked to stop
    #[arg(long, env = "TURNHOST_GRACE", default_value = "10s", value_name = "TIME")]
    grace: String,
    /// Turns that may wait for one session
    #[arg(long, env = "TURNHOST_QUEUE_LIMIT", default_value = "16", value_name = "N")]
    queue_limit: String,
    /// Turns that run at once; more wait
    #[arg(long, env = "TURNHOST_MAX_RUNNING", default_value = "1024", value_name = "N")]
    max_running: String,
    /// The most that waits on disk ($TMPDIR) for clients that read slowly, per connection or session; beyond it a turn is
    /// held back; 0 = nothing waits there
    #[arg(long, env = "TURNHOST_SPILL_MAX", default_value = "1GiB", value_name = "SIZE")]
    spill_max: String,
    /// Largest WebSocket message taken
    #[arg(long, env = "TURNHOST_MAX_MESSAGE_BYTES", default_value = "104857600", value_name = "N")]
    max_message_bytes: String,
    /// Most bytes of unfinished WebSocket messages of all connections together
    #[arg(long, env = "TURNHOST_MAX_MESSAGES_TOTAL", default_value = "1GiB", value_name = "SIZE")]
    max_messages_total: String,
    /// Time between two heartbeats of a running RuntimeUse request
    #[arg(long, env = "TURNHOST_HEARTBEAT", default_value = "15s", value_name = "TIME")]
    heartbeat: String,
    /// Time between two pings of an open WebSocket; off = never
    #[arg(long, env = "TURNHOST_PING", default_value = "30s", value_name = "TIME")]
    ping: String,
    /// A WebSocket peer that is silent for this long is gone; off = never
    #[arg(long, env = "TURNHOST_DEAD_AFTER", default_value = "60s", value_name = "TIME")]
    dead_after: String,
    /// How long the body of a request may take to arrive
    #[arg(long, env = "TURNHOST_BODY_TIMEOUT", default_value = "60s", value_name = "TIME")]
    body_timeout: String,
    #[command(flatten)]
    work: work::WorkFlags,
}

/// The options of `run`.
#[derive(Debug, Args, Clone)]
pub struct RunFlags {
    #[command(flatten)]
    agent: AgentFlags,
    /// What to ask; `-` reads it from standard input
    #[arg(value_name = "PROMPT")]
    pub prompt: String,
    /// The model to use
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Prints every event as one line of JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// A value that cannot be used. One sentence; the program ends with exit code 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

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
    /// What is logged.
    pub log: LogConfig,
}

/// Everything `serve` needs.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// The agent.
    pub agent: AgentConfig,
    /// Further agents by name.
    pub agents: Vec<(String, AgentConfig)>,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// The addresses; `None` is both loopback ones.
    pub hosts: Option<Vec<IpAddr>>,
    /// The token.
    pub token: Option<Secret>,
    /// Everybody may call.
    pub no_auth: bool,
    /// Further origins.
    pub allowed_origins: Vec<String>,
    /// Further names of this machine.
    pub allowed_hosts: Vec<String>,
    /// The protocols.
    pub protocols: BTreeSet<Protocol>,
    /// What outlives the server.
    pub data: DataConfig,
    /// Paths and instructions of Dari.
    pub dari: DariOptions,
    /// Where sessions of the agentruntime protocol are kept, and how many there may be.
    pub sessions: SessionsOptions,
    /// Bounds of the adapters.
    pub limits: ApiLimits,
    /// How long running turns may go on.
    pub grace: Duration,
}

impl ServeFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// [`ConfigError`] with one sentence that names the option.
    pub fn into_config(self) -> Result<ServeConfig, ConfigError> {
        let mut agent = self.agent.into_config()?;
        agent.engine.queue_limit = number("--queue-limit", &self.queue_limit)?;
        agent.engine.max_running = number("--max-running", &self.max_running)?;
        agent.engine.work = self.work.options(agent.engine.work)?;
        agent.engine.log.spill_max = size("--spill-max", &self.spill_max)?;
        let port = port(self.port.as_deref(), &agent.environment)?;
        let hosts = self.host.as_deref().map(host).transpose()?;
        let token = token(self.token_file.as_deref(), &agent.environment)?;
        let protocols = protocols(self.protocols.as_deref())?;
        let limits = ApiLimits {
            max_message_bytes: number("--max-message-bytes", &self.max_message_bytes)?,
            max_messages_total: size("--max-messages-total", &self.max_messages_total)?,
            heartbeat: duration("--heartbeat", &self.heartbeat)?,
            ping: optional_duration("--ping", &self.ping)?,
            dead_after: optional_duration("--dead-after", &self.dead_after)?,
            body_timeout: duration("--body-timeout", &self.body_timeout)?,
            requests: self.work.request_limits()?,
        };
        let keepalive: u64 = number("--keepalive-seconds", &self.keepalive_seconds)?;
        let dari = DariOptions {
            health_path: url_path("--dari-health-path", self.dari_health_path)?,
            advance_path: url_path("--dari-advance-path", self.dari_advance_path)?,
            system_prompt_file: agent.system_prompt.clone(),
            bundle_folders: bundle_folders(&agent.environment),
            workspace: PathBuf::from("/workspace"),
            events: match self.dari_events.as_str() {
                "off" => DariEvents::Off,
                "completed" => DariEvents::Completed,
                "all" => DariEvents::All,
                other => {
                    let text = format!("--dari-events: unknown value \"{other}\". Choose one of: off, completed, all");
                    return Err(ConfigError(text));
                }
            },
            keepalive: (keepalive > 0).then(|| Duration::from_secs(keepalive)),
        };
        if dari.health_path == dari.advance_path {
            return Err(ConfigError("--dari-health-path and --dari-advance-path must differ".to_owned()));
        }
        let data = self.data.into_config(&agent.environment)?;
        let agents = self.agents.defined(&agent.workspace)?;
        let sessions = sessions::options(&data, &self.sessions, &agent.environment)?;
        Ok(ServeConfig {
            port,
            hosts,
            token,
            no_auth: self.no_auth,
            allowed_origins: self.allow_origin,
            allowed_hosts: self.allow_host,
            protocols,
            dari,
            limits,
            grace: duration("--grace", &self.grace)?,
            data,
            sessions,
            agents,
            agent,
        })
    }
}

impl RunFlags {
    /// Checks the agent's options.
    ///
    /// # Errors
    /// As [`ServeFlags::into_config`].
    pub fn agent_config(&self) -> Result<AgentConfig, ConfigError> {
        self.agent.clone().into_config()
    }
}

/// Where a test wants this process to be killed.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn kill_at() -> Option<String> {
    let (_, value) = std::env::vars_os().find(|(name, _)| name == "TURNHOST_KILL_AT")?;
    value.into_string().ok()
}

impl AgentFlags {
    fn into_config(self) -> Result<AgentConfig, ConfigError> {
        let environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let handler_processes = match &self.handler_processes {
            Some(text) => number("--handler-processes", text)?,
            None => cores.max(2),
        };
        let agent = match &self.handler {
            Some(path) => Agent::Program(program::handler_program(path, &self, &environment)?),
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
            environment,
            log: LogConfig { filter: self.log_level.unwrap_or_else(|| "info".to_owned()), json },
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
