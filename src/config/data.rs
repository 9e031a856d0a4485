//! The options of what outlives the server.
//!
//! Owns where it is kept by default, and for how long.

use super::ConfigError;
use super::values::{number, optional_duration, size, variable};
use crate::store::Keep;
use clap::Args;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Where sessions are kept, and how much of them.
#[derive(Debug, Clone, Args)]
pub(super) struct DataFlags {
    /// The folder of what outlives the server: sessions, answers, events; "memory" keeps them in memory. Without it
    /// $XDG_DATA_HOME/turnhost or ~/.local/share/turnhost
    #[arg(long, env = "TURNHOST_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Events and answers are kept so long; a session that was silent for so long is forgotten; off = for ever
    #[arg(long, env = "TURNHOST_KEEP_FOR", default_value = "30d", value_name = "TIME")]
    keep_for: String,
    /// And no more of them than this, oldest first
    #[arg(long, env = "TURNHOST_KEEP_BYTES", default_value = "1GiB", value_name = "SIZE")]
    keep_bytes: String,
    /// And no more than so many events
    #[arg(long, env = "TURNHOST_KEEP_EVENTS", default_value = "10000000", value_name = "N")]
    keep_events: String,
}

/// Where sessions are kept, and how much of them.
#[derive(Debug, Clone)]
pub struct DataConfig {
    /// `None`: nowhere but in memory.
    pub folder: Option<PathBuf>,
    /// Somebody named it, or the memory.
    pub is_asked: bool,
    /// There is no folder though nobody said so.
    pub is_homeless: bool,
    /// How much.
    pub keep: Keep,
}

impl DataFlags {
    pub(super) fn into_config(self, environment: &BTreeMap<OsString, OsString>) -> Result<DataConfig, ConfigError> {
        let keep = Keep {
            age: optional_duration("--keep-for", &self.keep_for)?.unwrap_or(Duration::MAX),
            bytes: size("--keep-bytes", &self.keep_bytes)?,
            events: number("--keep-events", &self.keep_events)?,
            ..Keep::default()
        };
        if keep.bytes < 1 << 20 {
            return Err(ConfigError(
                "--keep-bytes: less than 1MiB keeps nothing; --data-dir memory does so".to_owned(),
            ));
        }
        let home = || Some(PathBuf::from(variable(environment, "HOME")?).join(".local/share"));
        let usual = || {
            let data_home = variable(environment, "XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
            Some(data_home.or_else(home)?.join("turnhost"))
        };
        let asked = self.data_dir.filter(|folder| !folder.as_os_str().is_empty());
        let is_asked = asked.is_some();
        let folder = asked.or_else(usual);
        let is_homeless = !is_asked && folder.is_none();
        let folder = folder.filter(|folder| folder.as_os_str() != "memory");
        Ok(DataConfig { folder, is_asked, is_homeless, keep })
    }
}
