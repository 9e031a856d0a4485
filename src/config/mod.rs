//! Flags and environment become one validated value, before anything binds.
//!
//! Owns every option's name, environment form and default. The only reader of the environment.

mod agent;
mod agents;
mod bundle;
mod caller;
mod claude;
mod client;
mod codex;
mod command;
mod conform;
mod daemon;
mod data;
mod openai;
mod program;
mod serve;
mod sessions;
mod sidecar;
mod traces;
mod values;
mod work;

pub use agent::{Agent, AgentConfig, AgentFlags};
#[cfg(any(fuzzing, test))]
pub use agents::fuzz_agents;
pub use bundle::{BundleLanguage, CheckConfig, CheckFlags, InitFlags};
pub use caller::{Chaos, ChatFlags, Host, MockFlags};
pub use client::{
    AttachConfig, AttachFlags, DispatchConfig, DispatchFlags, ServerConfig, SessionsListFlags, StartedAs,
};
pub use command::{Command, CommandLine, RunFlags};
pub use conform::{ConformFlags, Subject};
pub use daemon::{DaemonCommand, DaemonLine};
pub use data::DataConfig;
pub use program::{HandlerProgram, Language};
pub use serve::{ServeConfig, ServeFlags};
pub use sidecar::{Driver, SidecarLine, agent_command, sidecar};

/// The built-in agents, in the order they are offered.
pub const AGENTS: [&str; 4] = ["echo", "openai", "claude", "codex"];

/// A value that cannot be used. One sentence; the program ends with exit code 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Where a test wants this process to be killed.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn kill_at() -> Option<String> {
    let (_, value) = std::env::vars_os().find(|(name, _)| name == "TURNHOST_KILL_AT")?;
    value.into_string().ok()
}
