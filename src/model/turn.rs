//! What an adapter asks of the engine: one turn.

use super::{RawJson, SessionId, TraceContext, TurnId, Work};
use crate::redact::Secret;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One turn, as its protocol's adapter understood it.
#[derive(Debug, Clone)]
pub struct TurnRequest {
    /// The turn's id, where its caller knows it already; else the engine draws one.
    pub id: Option<TurnId>,
    /// The session it belongs to.
    pub session: SessionId,
    /// How long that session lives.
    pub lifetime: Lifetime,
    /// The protocol it came by, such as `dari`.
    pub protocol: &'static str,
    /// When a request counts as the repeat of an earlier one.
    pub repeat: Repeat,
    /// The caller's own name for the request; prefixes log lines.
    pub source_id: Option<String>,
    /// The agent that is to run it, by name. `None` leaves it to the server.
    pub agent: Option<Arc<str>>,
    /// Where the agent works. `None`: where the server says.
    pub cwd: Option<PathBuf>,
    /// The user's text.
    pub prompt: String,
    /// Files and images that came with the text.
    pub attachments: Vec<Attachment>,
    /// Instructions to the agent. `None` where the caller gave none.
    pub system_prompt: Option<String>,
    /// The model to use. `None` leaves it to the handler.
    pub model: Option<String>,
    /// The caller's output format, for example `{"type":"json_schema","schema":{…}}`.
    pub output_format: Option<RawJson>,
    /// Where the turn's opaque state comes from.
    pub state: StateIn,
    /// Whether the caller sent an environment at all, and which.
    pub env: Option<BTreeMap<String, Secret>>,
    /// What a child process of this turn sees of the server's environment.
    pub env_policy: EnvPolicy,
    /// Values that must not leave the process.
    pub secrets: Vec<Secret>,
    /// The caller's own metadata, a JSON object.
    pub metadata: Option<RawJson>,
    /// Where it stands in the caller's trace.
    pub trace: Option<Box<TraceContext>>,
    /// A limit of the caller's on the whole turn.
    pub timeout: Option<Duration>,
    /// What SIGTERM does to it.
    pub on_drain: OnDrain,
    /// Whether its outcome tells which tools were used.
    pub tells_tools: bool,
    /// What it does besides its handler. Boxed: most turns have none of it.
    pub work: Option<Box<Work>>,
}

impl TurnRequest {
    /// A request with a prompt and nothing else, in a session that outlives it.
    #[must_use]
    pub fn new(session: SessionId, protocol: &'static str, prompt: impl Into<String>) -> Self {
        Self {
            id: None,
            session,
            lifetime: Lifetime::Named,
            protocol,
            repeat: Repeat::Never,
            source_id: None,
            agent: None,
            cwd: None,
            prompt: prompt.into(),
            attachments: Vec::new(),
            system_prompt: None,
            model: None,
            output_format: None,
            state: StateIn::Stored,
            env: None,
            env_policy: EnvPolicy::Inherit,
            secrets: Vec::new(),
            metadata: None,
            trace: None,
            timeout: None,
            on_drain: OnDrain::Grace,
            tells_tools: false,
            work: None,
        }
    }
}

/// How long a session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until retention removes it: others may come back to it by name.
    Named,
    /// As long as its one connection: nothing of it is kept.
    Connection,
}

/// A digest of everything that makes two requests equal. The adapter decides what goes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

/// When a request counts as the repeat of an earlier one of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repeat {
    /// Never: every request is a new turn.
    Never,
    /// The caller named it: the same id with the same body is always a repeat.
    ById {
        /// The caller's key.
        id: String,
        /// What was asked under it.
        body: Fingerprint,
        /// What the same id with another body means.
        conflict: Conflict,
    },
    /// It has no name: an equal body is a repeat only while the earlier turn waits or runs, or when its answer was
    /// never delivered and no other turn has begun since.
    ByBody {
        /// What was asked.
        body: Fingerprint,
    },
}

/// What the same key with a different request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// It is refused.
    Refuse,
    /// It is a new turn; a warning is logged.
    NewTurn,
}

/// Where the state that a turn starts from comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum StateIn {
    /// The session's stored one.
    Stored,
    /// The one in the request, which wins over the stored one; `None` starts without.
    Given(Option<RawJson>),
}

/// What a child process sees of the server's own environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvPolicy {
    /// All of it, less the server's token.
    Inherit,
    /// Only the variables on the list of `process`.
    AllowList,
}

/// What SIGTERM does to a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrain {
    /// Let it run for `--grace`, then cancel it.
    Grace,
    /// Cancel it at once.
    Cancel,
}

impl Attachment {
    /// The media type and the base64 of an image that came with its bytes. Of anything else the prompt tells.
    #[must_use]
    pub fn image(&self) -> Option<(&str, &str)> {
        let data = self.data.as_deref().filter(|_| self.kind == "image")?;
        Some((self.mime_type.as_deref().unwrap_or("image/png"), data))
    }

    /// The same as the URL that holds it.
    #[must_use]
    pub fn image_url(&self) -> Option<String> {
        self.image().map(|(kind, data)| format!("data:{kind};base64,{data}"))
    }
}

/// A file or image that came with a prompt. Every field is the caller's own text, unchecked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attachment {
    /// `file`, `image` or `other`.
    pub kind: &'static str,
    /// The platform's id of the file.
    pub file_id: Option<String>,
    /// A path in the sandbox.
    pub path: Option<String>,
    /// The file's name.
    pub filename: Option<String>,
    /// Its media type.
    pub mime_type: Option<String>,
    /// Where it can be fetched.
    pub url: Option<String>,
    /// Its content in base64.
    pub data: Option<String>,
}
