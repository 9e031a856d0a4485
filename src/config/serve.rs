//! The options of `serve`.
//!
//! Owns what concerns the server as a whole: where it listens, who may call, and its bounds.

use super::agent::{AgentConfig, AgentFlags};
use super::data::{DataConfig, DataFlags};
use super::values::{
    bundle_folders, duration, host, number, optional_duration, port, protocols, size, token, url_path,
};
use super::{ConfigError, agents, sessions, work};
use crate::api::{ApiLimits, DariEvents, DariOptions, Protocol, SessionsOptions};
use crate::redact::Secret;
use clap::Args;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

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
    /// Protocols to serve: dari, runtimeuse, sessions, v1, metrics
    #[arg(
        long,
        env = "TURNHOST_PROTOCOLS",
        value_name = "LIST",
        help = "Protocols to serve: dari, runtimeuse, sessions, v1, metrics [default: all]"
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
    /// Stops once the process that started it has ended, as npx does when it is killed
    #[arg(long, env = "TURNHOST_STOP_WITH_PARENT", value_parser = clap::builder::FalseyValueParser::new())]
    stop_with_parent: bool,
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
    /// The end of the process that started this one is a signal to stop.
    pub stop_with_parent: bool,
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
            stop_with_parent: self.stop_with_parent,
            data,
            sessions,
            agents,
            agent,
        })
    }
}
