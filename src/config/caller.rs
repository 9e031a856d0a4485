//! The options of commands that speak to an agent or a server as a host does: `chat`, `mock`.
//!
//! Owns what a URL and a token of theirs may be.

use super::agent::{AgentConfig, AgentFlags};
use super::{ConfigError, values};
use crate::outbound::websocket;
use crate::redact::Secret;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
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

/// The options of `mock`.
#[derive(Debug, Args, Clone)]
pub struct MockFlags {
    /// The host to play: dari or runtimeuse
    #[arg(value_name = "PROTOCOL", value_parser = ["dari", "runtimeuse"])]
    protocol: String,
    /// The server: http://HOST:PORT for dari (a path is that of its turns), ws://HOST:PORT for runtimeuse
    #[arg(long, value_name = "URL")]
    url: String,
    /// The session to play in [default: a new one]
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    /// Faults: drop=P, dup=P and slow=P as chances per turn from 0 to 1, and seed=N
    #[arg(long, value_name = "LIST")]
    chaos: Option<String>,
    /// Shows what goes over the wire
    #[arg(long)]
    pub wire: bool,
    /// The agent tells each prompt back: checks that, and that the count in its state grows by one each turn
    #[arg(long)]
    pub expect_echo: bool,
    /// How often a turn is asked again before it counts as lost
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub tries: u32,
    /// How long one answer may take
    #[arg(long, default_value = "10m", value_name = "TIME")]
    limit: String,
    /// File with the server's token; else $TURNHOST_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Which host `mock` plays, and where.
#[derive(Debug, Clone)]
pub enum Host {
    /// A platform with a custom runtime server.
    Dari(Url),
    /// A RuntimeUse client.
    RuntimeUse(Url),
}

/// Faults that a host makes: chances per turn.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Chaos {
    /// That the connection is dropped before the answer is read.
    pub drop: f64,
    /// That the turn is asked more than once.
    pub dup: f64,
    /// That the answer is read late.
    pub slow: f64,
    /// Decides which turns.
    pub seed: u64,
}

impl MockFlags {
    /// The host to play.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn host(&self) -> Result<Host, ConfigError> {
        if self.protocol == "runtimeuse" {
            return websocket::parse(&self.url)
                .map(Host::RuntimeUse)
                .map_err(|problem| ConfigError(format!("--url {problem}")));
        }
        let bad = || ConfigError(format!("--url {}: expected http://HOST:PORT", self.url));
        let mut url = Url::parse(&self.url).map_err(|_| bad())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad());
        }
        if url.path() == "/" {
            url.set_path("/runtime/advance");
        }
        Ok(Host::Dari(url))
    }

    /// The faults.
    ///
    /// # Errors
    /// One sentence that names what cannot be read.
    pub fn chaos(&self) -> Result<Chaos, ConfigError> {
        let mut chaos = Chaos::default();
        for part in self.chaos.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let chance = || {
                let number: f64 = values::number(&format!("--chaos {name}"), value)?;
                if (0.0..=1.0).contains(&number) {
                    Ok(number)
                } else {
                    Err(ConfigError(format!("--chaos {name}: expected a chance from 0 to 1, got \"{value}\"")))
                }
            };
            match name {
                "drop" => chaos.drop = chance()?,
                "dup" => chaos.dup = chance()?,
                "slow" => chaos.slow = chance()?,
                "seed" => chaos.seed = values::number("--chaos seed", value)?,
                _ => return Err(ConfigError(format!("--chaos {part}: choose from drop=P, dup=P, slow=P, seed=N"))),
            }
        }
        Ok(chaos)
    }

    /// The session to play in.
    #[must_use]
    pub fn session(&self) -> String {
        self.session.clone().unwrap_or_else(|| format!("mock-{}", uuid::Uuid::new_v4().simple()))
    }

    /// How long one answer may take.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn limit(&self) -> Result<Duration, ConfigError> {
        values::duration("--limit", &self.limit)
    }

    /// What is shown to the server.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn token(&self) -> Result<Option<Secret>, ConfigError> {
        let environment = std::env::vars_os().collect();
        values::token(self.token_file.as_deref(), &environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mock(chaos: &str) -> MockFlags {
        MockFlags {
            protocol: "dari".into(),
            url: "http://h:1".into(),
            session: None,
            chaos: Some(chaos.into()),
            wire: false,
            expect_echo: false,
            tries: 3,
            limit: "1s".into(),
            token_file: None,
        }
    }

    #[test]
    fn faults_are_read() {
        let all = Chaos { drop: 0.1, dup: 1.0, slow: 0.25, seed: 7 };
        assert_eq!(mock("drop=0.1,dup=1, slow=0.25,seed=7").chaos().unwrap(), all);
        assert_eq!(mock("").chaos().unwrap(), Chaos::default());
        for (list, named) in
            [("drop=2", "--chaos drop"), ("dup", "--chaos dup"), ("seed=x", "--chaos seed"), ("fire=1", "fire=1")]
        {
            let ConfigError(text) = mock(list).chaos().unwrap_err();
            assert!(text.contains(named), "{text}");
        }
    }

    #[test]
    fn a_path_is_that_of_the_turns() {
        let Host::Dari(url) = mock("").host().unwrap() else { panic!() };
        assert_eq!(url.as_str(), "http://h:1/runtime/advance");
        let Host::Dari(url) = MockFlags { url: "http://h:1/turns".into(), ..mock("") }.host().unwrap() else {
            panic!()
        };
        assert_eq!(url.path(), "/turns");
        assert!(MockFlags { url: "ws://h".into(), ..mock("") }.host().is_err());
    }
}
