//! Options of the agentruntime protocol.
//!
//! Owns where its sessions are kept when nobody says otherwise.

use super::values::{number, optional_duration, size, variable};
use super::{ConfigError, DataConfig};
use crate::api::{SessionsOptions, Stalls, Variables};
use clap::Args;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// Bounds of sessions.
#[derive(Debug, Args, Clone)]
pub struct SessionsFlags {
    /// Sessions of the agentruntime protocol that may live at once; 0 = no limit
    #[arg(long, env = "TURNHOST_MAX_SESSIONS", default_value = "0", value_name = "N")]
    max_sessions: String,
    /// How long an ended session of agentruntime is remembered, with its log; off = for ever
    #[arg(long, env = "TURNHOST_LOG_MAX_AGE", default_value = "off", value_name = "TIME")]
    log_max_age: String,
    /// How much the logs of ended sessions may take together, the oldest go first; off = any
    #[arg(long, env = "TURNHOST_LOG_MAX_BYTES", default_value = "off", value_name = "SIZE")]
    log_max_bytes: String,
}

/// The folder is the server's own for everything that outlives it, else the one that the protocol's own variable names.
pub fn options(
    data: &DataConfig,
    flags: &SessionsFlags,
    environment: &BTreeMap<OsString, OsString>,
) -> Result<SessionsOptions, ConfigError> {
    let named = || variable(environment, "AGENTRUNTIME_DATA_DIR").map(PathBuf::from);
    let asked = data.folder.clone().filter(|_| data.is_asked);
    let data_dir = asked.or_else(named).or_else(|| data.folder.clone());
    let data_dir = data_dir.map(|folder| std::path::absolute(&folder).unwrap_or(folder));
    Ok(SessionsOptions {
        data_dir,
        home: variable(environment, "HOME").map(PathBuf::from),
        variables: Variables(Arc::new(environment.clone())),
        agents: Vec::new(),
        sidecar: String::new(),
        stalls: Stalls::default(),
        alone: None,
        max_sessions: number("--max-sessions", &flags.max_sessions)?,
        log_max_age: optional_duration("--log-max-age", &flags.log_max_age)?,
        log_max_bytes: Some(size("--log-max-bytes", &flags.log_max_bytes)?).filter(|most| *most > 0),
    })
}
