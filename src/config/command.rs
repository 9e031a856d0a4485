//! The command line as a whole: what turnhost can be asked to do.
//!
//! Owns the list of commands and the options of the small ones.

use super::agent::{AgentConfig, AgentFlags};
use super::caller::{ChatFlags, MockFlags};
use super::conform::ConformFlags;
use super::{AttachFlags, CheckFlags, ConfigError, DispatchFlags, InitFlags, ServeFlags, SessionsListFlags};
use clap::{Args, Parser, Subcommand};

/// Runs an agent's turns inside a sandbox: one binary, several host protocols, handlers in any language.
#[derive(Debug, Parser)]
#[command(name = "turnhost", version, args_override_self = true, args_conflicts_with_subcommands = true)]
#[command(
    override_usage = "turnhost [serve] [options]\n       turnhost run [options] \"PROMPT\"\n       turnhost chat [options]\n       turnhost attach [options] ID\n       turnhost sessions [options]\n       turnhost dispatch --config FILE [options]\n       turnhost mock dari|runtimeuse --url URL [options]\n       turnhost conform URL --protocol NAME | --handler PATH [options]\n       turnhost init [LANGUAGE] [DIR]\n       turnhost check [DIR]\n       turnhost demo\n       turnhost schema"
)]
#[command(
    after_help = "Exit codes: 0 stopped as asked, 1 cannot start or go on, or the session failed (attach, dispatch), \
                        2 wrong usage, 3 the turn failed (run, chat), 4 something differed from the contract (demo, mock, check, conform), 130 stopped by Ctrl+C."
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
    /// Talk to an agent in this terminal, turn after turn
    Chat(Box<ChatFlags>),
    /// Play a host against a running server, line by line, with faults if asked to
    Mock(Box<MockFlags>),
    /// Check whether a server or a handler keeps its contract
    Conform(Box<ConformFlags>),
    /// Show a session of a running server as it goes on, and talk to its agent
    Attach(Box<AttachFlags>),
    /// List the sessions of a running server
    Sessions(Box<SessionsListFlags>),
    /// Start a session that a file describes, print its log, wait for its end
    Dispatch(Box<DispatchFlags>),
    /// Start a server, play the hosts against it, show what each saw; needs no key and no network
    Demo,
    /// Write a new bundle: dari.yml, setup.sh, prompts and a handler
    Init(InitFlags),
    /// Read a bundle's dari.yml, start its command as a platform would, and try the contract
    Check(CheckFlags),
    /// Print the JSON Schema of every wire, and our HTTP as OpenAPI
    Schema {
        /// Writes a file for each wire into this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<std::path::PathBuf>,
        /// Writes the page of all options to this file instead
        #[arg(long, value_name = "FILE", conflicts_with = "dir")]
        options: Option<std::path::PathBuf>,
    },
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

impl RunFlags {
    /// Checks the agent's options.
    ///
    /// # Errors
    /// As [`ServeFlags::into_config`].
    pub fn agent_config(&self) -> Result<AgentConfig, ConfigError> {
        self.agent.clone().into_config()
    }
}
