//! The options of the commands that talk to a server of sessions: `attach`, `sessions` and `dispatch`.
//!
//! Owns which server they mean, and which token they show it. A value that makes no sense is wrong usage: exit code 2.

use super::ConfigError;
use super::values::{DEFAULT_PORT, secret_of, variable};
use crate::redact::Secret;
use clap::Args;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use url::Url;

/// The port of the program that turnhost is under the name `agentd`.
pub const DAEMON_PORT: u16 = 8090;

/// Which program was started: they differ in the port that is meant when nobody names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedAs {
    /// `turnhost`
    Turnhost,
    /// `agentd`
    Daemon,
}

/// Which token is shown.
#[derive(Debug, Args, Clone)]
struct TokenFlags {
    /// File that holds the server's token; else $TURNHOST_TOKEN or $AGENTD_TOKEN
    #[arg(long, env = "TURNHOST_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Where the server is.
#[derive(Debug, Args, Clone)]
struct PlaceFlags {
    /// Port of the server [default: $PORT, else 8080, as of `serve`; 8090 as agentd]
    #[arg(long, env = "TURNHOST_PORT", value_name = "N", value_parser = clap::value_parser!(u16).range(1..),
          help = "Port of the server [default: $PORT, else 8080, as of serve; 8090 as agentd]")]
    port: Option<u16>,
    /// Name or address of the server's machine
    #[arg(long, env = "TURNHOST_HOST", default_value = "127.0.0.1", value_name = "NAME")]
    host: String,
    #[command(flatten)]
    token: TokenFlags,
}

/// The options of `attach`.
#[derive(Debug, Args, Clone)]
#[command(
    after_help = "While it runs: a line is sent to the agent; /steer TEXT redirects the running turn; /interrupt or Ctrl+C stops it; \
                  Ctrl+C again detaches. At the end of standard input it waits for the answer to the last line that was sent; \
                  where none was sent, for the end of the session.\n\n\
                  Exit codes: 0 detached, or the session ended with 0; 1 it failed, or cannot be reached; 2 wrong usage."
)]
pub struct AttachFlags {
    #[command(flatten)]
    server: PlaceFlags,
    /// Byte of the log to begin at
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with = "no_replay")]
    since: u64,
    /// Shows only what comes from now on
    #[arg(long)]
    no_replay: bool,
    /// The session
    #[arg(value_name = "ID")]
    id: String,
}

/// The options of `sessions`.
#[derive(Debug, Args, Clone)]
pub struct SessionsListFlags {
    #[command(flatten)]
    server: PlaceFlags,
    /// Prints what the server says, as JSON
    #[arg(long)]
    pub json: bool,
}

/// The options of `dispatch`.
#[derive(Debug, Args, Clone)]
#[command(
    after_help = "Prints the session's log; its id and addresses go to standard error. In the file ${NAME} and $NAME are variables \
                  of the environment.\n\n\
                  Exit codes: 0 the session completed; 1 it failed, or cannot be started or followed, or this command was \
                  interrupted (the session goes on); 2 wrong usage."
)]
pub struct DispatchFlags {
    /// YAML file with the fields of a session
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The server [default: http://localhost and the port of `serve`; 8090 as agentd]
    #[arg(long, value_name = "URL", value_parser = server_url,
          help = "The server [default: http://localhost with the port of serve; 8090 as agentd]")]
    server: Option<Url>,
    #[command(flatten)]
    token: TokenFlags,
}

/// A server, and what it is shown.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Scheme, host and port, perhaps a path; nothing secret, and no slash at the end.
    pub url: String,
    /// The token.
    pub token: Option<Secret>,
    /// It is this machine: no proxy is asked.
    pub is_here: bool,
}

/// What `attach` needs.
#[derive(Debug, Clone)]
pub struct AttachConfig {
    /// The server.
    pub server: ServerConfig,
    /// The host to connect to, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The session.
    pub id: String,
    /// From where the log is shown; `None` is from now on.
    pub since: Option<u64>,
}

/// What `dispatch` needs.
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// The server.
    pub server: ServerConfig,
    /// The request.
    pub file: PathBuf,
    /// What variables in it are replaced by.
    pub environment: BTreeMap<OsString, OsString>,
}

type Environment = BTreeMap<OsString, OsString>;

impl StartedAs {
    fn port(self, environment: &Environment) -> u16 {
        match self {
            Self::Daemon => DAEMON_PORT,
            Self::Turnhost => variable(environment, "PORT").and_then(|port| port.parse().ok()).unwrap_or(DEFAULT_PORT),
        }
    }
}

impl TokenFlags {
    fn token(&self, environment: &Environment, started_as: StartedAs) -> Result<Option<Secret>, ConfigError> {
        let names = match started_as {
            StartedAs::Turnhost => ["TURNHOST_TOKEN", "AGENTD_TOKEN"],
            StartedAs::Daemon => ["AGENTD_TOKEN", "TURNHOST_TOKEN"],
        };
        secret_of(self.token_file.as_deref(), &names, environment)
    }
}

impl PlaceFlags {
    fn host_and_port(&self, environment: &Environment, started_as: StartedAs) -> (String, u16) {
        let host = match self.host.trim_matches(['[', ']']) {
            // A server that listens everywhere is reached here.
            "" | "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            host => host,
        };
        (host.to_owned(), self.port.unwrap_or_else(|| started_as.port(environment)))
    }

    fn server(&self, environment: &Environment, started_as: StartedAs) -> Result<ServerConfig, ConfigError> {
        let (host, port) = self.host_and_port(environment, started_as);
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let url = format!("http://{shown}:{port}");
        let parsed = Url::parse(&url).ok().filter(|url| url.host_str().is_some() && url.path() == "/");
        let parsed = parsed.ok_or_else(|| ConfigError(format!("--host \"{host}\" is no name of a machine")))?;
        Ok(ServerConfig { url, token: self.token.token(environment, started_as)?, is_here: is_here(&parsed) })
    }
}

fn own_environment() -> Environment {
    std::env::vars_os().collect()
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn server_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}: expected a URL such as http://localhost:8090"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("expected a URL such as http://localhost:8090".to_owned());
    }
    Ok(url)
}

impl AttachFlags {
    /// Finds out which server is meant.
    ///
    /// # Errors
    /// [`ConfigError`] with one sentence that names the option.
    pub fn into_config(self, started_as: StartedAs) -> Result<AttachConfig, ConfigError> {
        let environment = own_environment();
        let server = self.server.server(&environment, started_as)?;
        let (host, port) = self.server.host_and_port(&environment, started_as);
        Ok(AttachConfig { server, host, port, id: self.id, since: (!self.no_replay).then_some(self.since) })
    }
}

impl SessionsListFlags {
    /// As [`AttachFlags::into_config`].
    pub fn server(&self, started_as: StartedAs) -> Result<ServerConfig, ConfigError> {
        self.server.server(&own_environment(), started_as)
    }
}

impl DispatchFlags {
    /// As [`AttachFlags::into_config`].
    pub fn into_config(self, started_as: StartedAs) -> Result<DispatchConfig, ConfigError> {
        let environment = own_environment();
        let mut token = self.token.token(&environment, started_as)?;
        let server = match self.server {
            None => {
                let url = format!("http://localhost:{}", started_as.port(&environment));
                ServerConfig { url, token, is_here: true }
            }
            Some(mut url) => {
                // A password in the address is the token; it is not to be seen in any message.
                if let Some(password) = url.password() {
                    let password = percent_encoding::percent_decode_str(password).decode_utf8_lossy().into_owned();
                    token = token.or(Some(Secret::new(password)));
                }
                let _ = (url.set_username(""), url.set_password(None));
                url.set_query(None);
                url.set_fragment(None);
                let is_here = is_here(&url);
                ServerConfig { url: url.as_str().trim_end_matches('/').to_owned(), token, is_here }
            }
        };
        Ok(DispatchConfig { server, file: self.config, environment })
    }
}
