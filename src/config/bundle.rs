//! The options of the commands about bundles: `init` and `check`.

use super::ConfigError;
use super::values::duration;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The options of `init`.
#[derive(Debug, Args, Clone)]
pub struct InitFlags {
    /// The language of the handler
    #[arg(value_enum, default_value_t = BundleLanguage::Python, value_name = "LANGUAGE")]
    pub language: BundleLanguage,
    /// Where the bundle is written; made if it is missing
    #[arg(default_value = ".", value_name = "DIR")]
    pub folder: PathBuf,
    /// The agent's name [default: that of the folder]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Overwrites files that are there
    #[arg(long)]
    pub force: bool,
}

/// A language that `init` writes a handler in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BundleLanguage {
    /// A module, run by our bridge.
    Python,
    /// A module, run by our bridge.
    Javascript,
    /// A program that speaks the stdio protocol.
    Rust,
    /// A bash script that speaks the stdio protocol.
    Shell,
}

/// The options of `check`.
#[derive(Debug, Args, Clone)]
pub struct CheckFlags {
    /// The bundle's folder, or its dari.yml
    #[arg(default_value = ".", value_name = "DIR")]
    path: PathBuf,
    /// Prints the report as JSON; `turnhost schema` has its schema
    #[arg(long)]
    json: bool,
    /// Reads dari.yml only, and starts nothing
    #[arg(long)]
    no_start: bool,
    /// How long the command may take until it listens and is healthy
    #[arg(long, default_value = "20s", value_name = "TIME")]
    start_within: String,
    /// How long a turn may take
    #[arg(long, default_value = "60s", value_name = "TIME")]
    turn_within: String,
    /// Tells what a check is about and what to do, and checks nothing
    #[arg(long, value_name = "CHECK")]
    explain: Option<String>,
}

/// What `check` is to do.
#[derive(Debug)]
pub struct CheckConfig {
    /// The file itself.
    pub manifest: PathBuf,
    /// The report as JSON.
    pub json: bool,
    /// Whether the command is started.
    pub start: bool,
    /// How long until it listens.
    pub start_within: Duration,
    /// How long a turn may take.
    pub turn_within: Duration,
    /// Only tell about this check.
    pub explain: Option<String>,
    /// Our own `PATH`.
    pub own_path: OsString,
    /// This very program.
    pub own_program: PathBuf,
}

impl CheckConfig {
    /// The values that the secrets of these names have here.
    #[must_use]
    pub fn secrets(names: &[String]) -> Vec<(String, OsString)> {
        let value = |name: &String| {
            let (_, value) = std::env::vars_os().find(|(found, _)| found.to_str() == Some(name))?;
            Some((name.clone(), value))
        };
        names.iter().filter_map(value).collect()
    }
}

impl CheckFlags {
    /// Checks the values.
    ///
    /// # Errors
    /// A time that is none.
    pub fn into_config(self) -> Result<CheckConfig, ConfigError> {
        let manifest = if self.path.is_dir() { self.path.join("dari.yml") } else { self.path };
        let own_path = std::env::vars_os().find(|(name, _)| name == "PATH").map(|(_, value)| value);
        let own_program = std::env::current_exe()
            .map_err(|error| ConfigError(format!("this program's own file cannot be found: {error}")))?;
        Ok(CheckConfig {
            manifest,
            json: self.json,
            start: !self.no_start,
            start_within: duration("--start-within", &self.start_within)?,
            turn_within: duration("--turn-within", &self.turn_within)?,
            explain: self.explain,
            own_path: own_path.unwrap_or_default(),
            own_program,
        })
    }
}
