//! Options of what turns do besides their handler: commands, files in, files out.
//!
//! Owns their names, environment forms and defaults.

use super::ConfigError;
use super::values::{number, optional_duration};
use crate::api::RequestLimits;
use crate::engine::WorkOptions;
use clap::Args;

/// Bounds of commands and files.
#[derive(Debug, Args, Clone)]
pub struct WorkFlags {
    /// How long pipes that a finished command's children hold open may be silent; off = waits for ever
    #[arg(long, env = "TURNHOST_COMMAND_QUIET", default_value = "5s", value_name = "TIME")]
    command_quiet: String,
    /// Commands that one list of a RuntimeUse request may have
    #[arg(long, env = "TURNHOST_MAX_COMMANDS", default_value = "1000", value_name = "N")]
    max_commands: String,
    /// Files that one RuntimeUse request may have fetched
    #[arg(long, env = "TURNHOST_MAX_DOWNLOADS", default_value = "1000", value_name = "N")]
    max_downloads: String,
    /// Directories that one RuntimeUse request may have watched
    #[arg(long, env = "TURNHOST_MAX_DIRECTORIES", default_value = "100", value_name = "N")]
    max_directories: String,
    /// Secrets that one RuntimeUse request may have redacted
    #[arg(long, env = "TURNHOST_MAX_SECRETS", default_value = "1000", value_name = "N")]
    max_secrets: String,
}

impl WorkFlags {
    /// How many things one request may name.
    pub fn request_limits(&self) -> Result<RequestLimits, ConfigError> {
        Ok(RequestLimits {
            commands: number("--max-commands", &self.max_commands)?,
            downloads: number("--max-downloads", &self.max_downloads)?,
            directories: number("--max-directories", &self.max_directories)?,
            secrets: number("--max-secrets", &self.max_secrets)?,
        })
    }

    /// The engine's part.
    pub fn options(&self, base: WorkOptions) -> Result<WorkOptions, ConfigError> {
        Ok(WorkOptions { pipes_quiet: optional_duration("--command-quiet", &self.command_quiet)?, ..base })
    }
}
