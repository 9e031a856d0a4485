//! Options of what turns do besides their handler: commands, files in, files out.
//!
//! Owns their names, environment forms and defaults.

use super::ConfigError;
use super::values::{duration, number, optional_duration, size};
use crate::api::RequestLimits;
use crate::artifact::download::DownloadLimits;
use crate::artifact::handout::HandoutLimits;
use crate::engine::WorkOptions;
use clap::Args;

/// Bounds of commands and files.
#[derive(Debug, Args, Clone)]
pub struct WorkFlags {
    /// How long pipes that a finished command's children hold open may be silent; off = waits for ever
    #[arg(long, env = "TURNHOST_COMMAND_QUIET", default_value = "5s", value_name = "TIME")]
    command_quiet: String,
    /// Largest file that is downloaded
    #[arg(long, env = "TURNHOST_DOWNLOAD_MAX_BYTES", default_value = "10GiB", value_name = "SIZE")]
    download_max_bytes: String,
    /// Most bytes that one archive may unpack to
    #[arg(long, env = "TURNHOST_DOWNLOAD_MAX_EXTRACTED", default_value = "20GiB", value_name = "SIZE")]
    download_max_extracted: String,
    /// Most members that one archive may have
    #[arg(long, env = "TURNHOST_DOWNLOAD_MAX_ENTRIES", default_value = "1000000", value_name = "N")]
    download_max_entries: String,
    /// Ends a download after this long without a byte
    #[arg(long, env = "TURNHOST_DOWNLOAD_IDLE_TIMEOUT", default_value = "60s", value_name = "TIME")]
    download_idle_timeout: String,
    /// Ends a download after this long in all
    #[arg(long, env = "TURNHOST_DOWNLOAD_TIMEOUT", default_value = "30m", value_name = "TIME")]
    download_timeout: String,
    /// A watched file is complete after this long without a change
    #[arg(long, env = "TURNHOST_ARTIFACT_QUIET", default_value = "2s", value_name = "TIME")]
    artifact_quiet: String,
    /// How long the end of a request waits without any answer to an upload request
    #[arg(long, env = "TURNHOST_ARTIFACT_ANSWER_TIMEOUT", default_value = "10s", value_name = "TIME")]
    artifact_answer_timeout: String,
    /// How long one upload may take
    #[arg(long, env = "TURNHOST_ARTIFACT_PUT_TIMEOUT", default_value = "30s", value_name = "TIME")]
    artifact_put_timeout: String,
    /// How long the end of a request waits for its files in all
    #[arg(long, env = "TURNHOST_ARTIFACT_TIMEOUT", default_value = "60s", value_name = "TIME")]
    artifact_timeout: String,
    /// Levels that objects and arrays of a RuntimeUse message may have, at most 128
    #[arg(long, env = "TURNHOST_MAX_NESTING", default_value = "128", value_name = "N")]
    max_nesting: String,
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
            nesting: number("--max-nesting", &self.max_nesting)?,
            commands: number("--max-commands", &self.max_commands)?,
            downloads: number("--max-downloads", &self.max_downloads)?,
            directories: number("--max-directories", &self.max_directories)?,
            secrets: number("--max-secrets", &self.max_secrets)?,
        })
    }

    /// The engine's part.
    pub fn options(&self, base: WorkOptions) -> Result<WorkOptions, ConfigError> {
        Ok(WorkOptions {
            pipes_quiet: optional_duration("--command-quiet", &self.command_quiet)?,
            downloads: DownloadLimits {
                max_bytes: size("--download-max-bytes", &self.download_max_bytes)?,
                max_extracted: size("--download-max-extracted", &self.download_max_extracted)?,
                max_entries: number("--download-max-entries", &self.download_max_entries)?,
                silence: duration("--download-idle-timeout", &self.download_idle_timeout)?,
                whole: duration("--download-timeout", &self.download_timeout)?,
                ..base.downloads
            },
            handout: HandoutLimits {
                quiet: duration("--artifact-quiet", &self.artifact_quiet)?,
                answer: duration("--artifact-answer-timeout", &self.artifact_answer_timeout)?,
                put: duration("--artifact-put-timeout", &self.artifact_put_timeout)?,
                whole: duration("--artifact-timeout", &self.artifact_timeout)?,
                ..base.handout
            },
            ..base
        })
    }
}
