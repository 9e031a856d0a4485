//! The command line of turnhost under the name `agentd`.
//!
//! Owns the options of that program and their defaults, as its users know them. What they come to is a server of ours that
//! speaks that one protocol.

use super::client::{AttachFlags, DAEMON_PORT, DispatchFlags, SessionsListFlags};
use super::values::{secret_of, variable};
use super::{ConfigError, ServeConfig, ServeFlags};
use clap::{Args, Parser, Subcommand};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Runs coding agents as sessions behind one HTTP and WebSocket API.
#[derive(Debug, Parser)]
#[command(name = "agentd", version, args_override_self = true, args_conflicts_with_subcommands = true)]
#[command(
    override_usage = "agentd [options]\n       agentd attach [options] ID\n       agentd sessions [options]\n       agentd dispatch --config FILE [options]"
)]
#[command(
    after_help = "Exit codes: 0 stopped as asked, 1 cannot start or go on, or the session failed (attach, dispatch), \
                        2 wrong usage, 130 stopped by Ctrl+C."
)]
pub struct DaemonLine {
    /// What to do; to serve when nothing is named.
    #[command(subcommand)]
    pub command: Option<DaemonCommand>,
    /// The options of the daemon.
    #[command(flatten)]
    pub flags: DaemonFlags,
}

/// What the daemon's program can be asked to do besides.
#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Show a session of a running daemon as it goes on, and talk to its agent
    Attach(Box<AttachFlags>),
    /// List the sessions of a running daemon
    Sessions(Box<SessionsListFlags>),
    /// Start a session that a file describes, print its log, wait for its end
    Dispatch(Box<DispatchFlags>),
}

/// The options of the daemon.
#[derive(Debug, Args, Clone)]
pub struct DaemonFlags {
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = DAEMON_PORT, value_name = "N")]
    port: u16,
    /// Where agents run: local
    #[arg(long, default_value = "local", value_name = "NAME", value_parser = runtime)]
    runtime: String,
    /// Folder of sessions and logs [default: $AGENTRUNTIME_DATA_DIR, else $XDG_DATA_HOME/agentruntime, else
    /// ~/.local/share/agentruntime]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Sessions that may live at once; 0 = no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_sessions: usize,
    /// Address to listen on; one beyond this machine needs a token [default: 127.0.0.1 and ::1]
    #[arg(long, value_name = "ADDR")]
    host: Option<String>,
    /// File that holds the token callers must present; else $AGENTD_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Origin of web pages that may call; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Name that callers on this machine may reach it by; may be repeated
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// How long an ended session is remembered, with its log; off = for ever
    #[arg(long, default_value = "off", value_name = "TIME")]
    log_max_age: String,
    /// How much the logs of ended sessions may take together, the oldest go first; off = any
    #[arg(long, default_value = "off", value_name = "SIZE")]
    log_max_bytes: String,
    /// Not available yet
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          value_parser = no_sync)]
    credential_sync: bool,
    /// Not available yet
    #[arg(long, default_value = "", value_name = "URL", value_parser = no_docker)]
    docker_host: String,
}

fn runtime(name: &str) -> Result<String, String> {
    match name {
        "local" => Ok(name.to_owned()),
        "docker" | "local-pipe" => Err(format!("the runtime {name} is not available yet; there is: local")),
        _ => Err(format!("unknown runtime {name}; there is: local")),
    }
}

fn no_sync(is_on: &str) -> Result<bool, String> {
    if is_on == "false" { Ok(false) } else { Err("credentials are not synchronised yet".to_owned()) }
}

fn no_docker(url: &str) -> Result<String, String> {
    if url.is_empty() { Ok(String::new()) } else { Err("containers are not available yet".to_owned()) }
}

/// What a server is made of, from words.
#[derive(Debug, Parser)]
struct Served {
    #[command(flatten)]
    flags: ServeFlags,
}

impl DaemonLine {
    /// The same words with two dashes before each option: that program took them with one, too.
    pub fn words(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
        const NAMES: [&str; 19] = [
            "port",
            "runtime",
            "data-dir",
            "max-sessions",
            "host",
            "token-file",
            "allow-origin",
            "allow-host",
            "log-max-age",
            "log-max-bytes",
            "credential-sync",
            "docker-host",
            "version",
            "since",
            "no-replay",
            "config",
            "server",
            "json",
            "help",
        ];
        let double = |word: OsString| {
            let option = word.to_str().and_then(|word| word.strip_prefix('-'));
            let name = option.map(|option| option.split('=').next().unwrap_or_default());
            if name.is_some_and(|name| NAMES.contains(&name)) {
                OsString::from_iter([OsStr::new("-"), &word])
            } else {
                word
            }
        };
        words.map(double).collect()
    }
}

impl DaemonFlags {
    /// The server that these options ask for.
    ///
    /// # Errors
    /// As [`ServeFlags::into_config`].
    pub fn into_config(self) -> Result<ServeConfig, ConfigError> {
        let environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        let mut words: Vec<OsString> = vec!["agentd".into(), "--protocols=sessions".into()];
        let mut option = |name: &str, value: &OsStr| {
            words.push(OsString::from_iter([OsStr::new(&format!("--{name}=")), value]));
        };
        option("port", OsStr::new(&self.port.to_string()));
        option("max-sessions", OsStr::new(&self.max_sessions.to_string()));
        option("log-max-age", OsStr::new(&self.log_max_age));
        option("log-max-bytes", OsStr::new(&self.log_max_bytes));
        for (name, value) in
            [("host", self.host.map(OsString::from)), ("token-file", self.token_file.map(OsString::from))]
        {
            if let Some(value) = value {
                option(name, &value);
            }
        }
        for (name, values) in [("allow-origin", &self.allow_origin), ("allow-host", &self.allow_host)] {
            for value in values {
                option(name, OsStr::new(value));
            }
        }
        if let Some(folder) = self.data_dir.or_else(|| usual_folder(&environment)) {
            option("data-dir", folder.as_os_str());
        }
        // Its sessions name their agent; no other is kept ready.
        if variable(&environment, "TURNHOST_AGENT").is_none() {
            option("agent", OsStr::new("echo"));
        }
        let served = Served::try_parse_from(words).map_err(|error| {
            let text = error.to_string();
            ConfigError(text.trim_start_matches("error: ").lines().next().unwrap_or_default().to_owned())
        })?;
        let mut config = served.flags.into_config()?;
        config.token = config.token.or(secret_of(None, &["AGENTD_TOKEN"], &environment)?);
        Ok(config)
    }
}

fn usual_folder(environment: &BTreeMap<OsString, OsString>) -> Option<PathBuf> {
    let named = variable(environment, "AGENTRUNTIME_DATA_DIR").map(PathBuf::from);
    let shared = || variable(environment, "XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || Some(PathBuf::from(variable(environment, "HOME")?).join(".local/share"));
    named.or_else(|| Some(shared().or_else(home)?.join("agentruntime")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dash_or_two() {
        let words =
            ["agentd", "-port", "1", "-data-dir=/x", "--host", "-x", "-1", "-h", "attach", "-since", "-version"];
        let doubled = DaemonLine::words(words.into_iter().map(OsString::from));
        let expected =
            ["agentd", "--port", "1", "--data-dir=/x", "--host", "-x", "-1", "-h", "attach", "--since", "--version"];
        assert_eq!(doubled, expected.map(OsString::from));
    }
}
