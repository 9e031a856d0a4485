//! Options of the agentruntime protocol.
//!
//! Owns where its sessions are kept when nobody says otherwise.

use super::ConfigError;
use super::values::{number, variable};
use crate::api::{SessionsOptions, Stalls};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The folder is the server's own for everything that outlives it, else the one that the protocol's own variable names.
pub fn options(
    data_dir: Option<PathBuf>,
    max_sessions: &str,
    environment: &BTreeMap<OsString, OsString>,
) -> Result<SessionsOptions, ConfigError> {
    let named = || variable(environment, "AGENTRUNTIME_DATA_DIR").map(PathBuf::from);
    let data_dir = data_dir.or_else(named).map(|folder| std::path::absolute(&folder).unwrap_or(folder));
    Ok(SessionsOptions {
        data_dir,
        home: variable(environment, "HOME").map(PathBuf::from),
        agents: Vec::new(),
        sidecar: String::new(),
        stalls: Stalls::default(),
        max_sessions: number("--max-sessions", max_sessions)?,
    })
}
