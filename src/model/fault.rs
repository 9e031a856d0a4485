//! What can go wrong with a turn: one table of codes, and two messages per fault.

use super::{Answer, CommandEnd, RawJson};

/// Something that went wrong, told twice: `message` for the caller, `detail` for the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Which row of the table.
    pub code: FaultCode,
    /// One plain sentence for whoever called; holds no paths, stacks or output of programs.
    pub message: String,
    /// What an engineer needs besides, for the log.
    pub detail: Option<String>,
    /// The handler's own error metadata, a JSON object.
    pub metadata: Option<RawJson>,
    /// How the handler's process ended, if that is what went wrong.
    pub process: Option<ProcessEnd>,
    /// How a command around the handler ended, if that is what went wrong.
    pub command: Option<Box<CommandEnd>>,
    /// What the handler had answered before something after it went wrong, with its metadata.
    pub answered: Option<Box<(Answer, Option<RawJson>)>>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

/// Keys of error metadata that have a meaning by contract; the rest are the handler's own.
pub const ERROR_METADATA_KEYS: [&str; 13] = [
    "error_name",
    "error_type",
    "error_details",
    "stack",
    "cause",
    "result",
    "further_errors",
    "error",
    "metadata",
    "data",
    "type",
    "text",
    "structured_output",
];

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessEnd {
    /// Its exit code, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// The last of its standard error, at most 16 KiB.
    pub stderr_tail: String,
}

/// The closed table of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultCode {
    /// The handler reported an error.
    HandlerFailed,
    /// The handler's process ended during the turn.
    HandlerExited,
    /// A handler written in Rust panicked.
    HandlerPanicked,
    /// The handler answered with something that is no answer.
    HandlerProtocol,
    /// The handler could not be started.
    HandlerUnavailable,
    /// A command before or after the handler failed.
    CommandFailed,
    /// A command could not be run at all.
    CommandUnavailable,
    /// A file could not be fetched.
    DownloadFailed,
    /// A directory could not be watched.
    DirectoryUnusable,
    /// Too many turns wait for this session.
    QueueFull,
    /// Too many turns run in this server.
    ServerFull,
    /// The server is stopping.
    Draining,
    /// The server is about to be paused.
    Parked,
    /// The same key came before with a different request.
    KeyConflict,
    /// The store did not take the turn.
    StoreFailed,
    /// A defect of turnhost.
    Internal,
}

impl FaultCode {
    /// Every code, in the order of the table.
    pub const ALL: [Self; 16] = [
        Self::HandlerFailed,
        Self::HandlerExited,
        Self::HandlerPanicked,
        Self::HandlerProtocol,
        Self::HandlerUnavailable,
        Self::CommandFailed,
        Self::CommandUnavailable,
        Self::DownloadFailed,
        Self::DirectoryUnusable,
        Self::QueueFull,
        Self::ServerFull,
        Self::Draining,
        Self::Parked,
        Self::KeyConflict,
        Self::StoreFailed,
        Self::Internal,
    ];

    /// The row of the table: name on the wire, meaning, whether a retry may help.
    #[must_use]
    pub const fn row(self) -> (&'static str, &'static str, bool) {
        match self {
            Self::HandlerFailed => ("handler_failed", "the handler reported an error", false),
            Self::HandlerExited => ("handler_exited", "the handler's process ended during the turn", true),
            Self::HandlerPanicked => ("handler_panicked", "the handler panicked", false),
            Self::HandlerProtocol => ("handler_protocol", "the handler's answer is not valid", false),
            Self::HandlerUnavailable => ("handler_unavailable", "the handler could not be started", true),
            Self::CommandFailed => ("command_failed", "a command before or after the handler failed", false),
            Self::CommandUnavailable => ("command_unavailable", "a command could not be run at all", false),
            Self::DownloadFailed => ("download_failed", "a file could not be fetched", true),
            Self::DirectoryUnusable => ("directory_unusable", "a directory could not be watched", false),
            Self::QueueFull => ("queue_full", "too many turns wait for this session", true),
            Self::ServerFull => ("server_full", "too many turns run in this server", true),
            Self::Draining => ("draining", "the server is stopping", true),
            Self::Parked => ("parked", "the server is about to be paused", true),
            Self::KeyConflict => ("key_conflict", "the key was used before with a different request", false),
            Self::StoreFailed => ("store_failed", "the store did not take the turn", true),
            Self::Internal => ("internal", "a defect of turnhost", false),
        }
    }

    /// The code's name on every wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().0
    }
}

impl Fault {
    /// A fault with the caller's message; the rest is empty and `retryable` is the table's.
    #[must_use]
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: None,
            metadata: None,
            process: None,
            command: None,
            answered: None,
            retryable: code.row().2,
        }
    }

    /// The same fault with a detail for the log.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same fault with the handler's metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Option<RawJson>) -> Self {
        self.metadata = metadata;
        self
    }
}
