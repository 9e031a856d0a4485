//! The built-in `openai` agent: turns by the Responses API, with a shell of its own.
//!
//! Owns its options, and where its calls go. The loop of a turn is in `turn`, what is kept between turns in `talk`, the
//! model's tools in `tools` and `shell`, one call in `call` (or in `chat`, for services that know no responses), what can
//! go wrong in `trouble`.

mod call;
mod chat;
mod shell;
mod sse;
mod talk;
mod tools;
mod trouble;
mod turn;

use super::agent_error::AgentError;
use super::{Cancel, Failure, Handler, Reply, Sink, Turn};
use crate::model::{BlockId, Fault, FaultCode};
use crate::outbound;
use crate::process::Environment;
use crate::redact::Secret;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Where calls go when nobody says otherwise.
const BASE: &str = "https://api.openai.com/v1";

/// How the model is offered a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShellTool {
    /// As the service's own `shell` tool, and as a function once the service says that it does not know that.
    Auto,
    /// As the service's own `shell` tool.
    Native,
    /// As a function, for models that do not know that tool.
    Function,
    /// Not at all.
    Off,
}

/// Which API the service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Responses, and chat completions once the service says that it has no responses.
    Auto,
    /// `POST /responses`.
    Responses,
    /// `POST /chat/completions`.
    Chat,
}

/// Options of the agent.
#[derive(Debug, Clone)]
pub struct OpenAiOptions {
    /// The model of turns that name none.
    pub model: Option<String>,
    /// Which API is called.
    pub api: Api,
    /// Whether the service keeps responses; otherwise the state holds all items of the talk.
    pub stored: bool,
    /// The shell.
    pub shell: ShellTool,
    /// Whether the model may search the web.
    pub web_search: bool,
    /// Calls of one turn.
    pub max_calls: usize,
    /// How long a command may take where the model does not say.
    pub shell_timeout: Duration,
    /// How long it may take whatever the model says.
    pub shell_timeout_most: Duration,
    /// How much of each output stream of a command the model is shown, in bytes.
    pub output_cap: usize,
    /// How long a command's tree may take to end after SIGTERM.
    pub stop_grace: Duration,
    /// The server's own environment: for the key and the base URL, and what commands see of it.
    pub environment: Environment,
    /// Where commands run.
    pub workspace: PathBuf,
}

/// Runs turns with a model of OpenAI's, or of a service that speaks the same.
pub struct OpenAi {
    options: OpenAiOptions,
    http: outbound::OnDemand,
    tasks: TaskTracker,
    /// What the service turned out not to know.
    lacks: Lacks,
}

/// What a service turned out not to know; asked once, remembered.
#[derive(Debug, Default)]
struct Lacks {
    responses: AtomicBool,
    shell: AtomicBool,
}

/// Where the calls of one turn go, and as whom.
struct Place {
    http: reqwest::Client,
    base: String,
    key: Secret,
    headers: Vec<(&'static str, String)>,
}

fn block_of(item: &str, part: u64) -> BlockId {
    Arc::from(format!("{item}/{part}"))
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    // Only strings, numbers and raw JSON are in there: writing them cannot fail.
    to_raw_value(value).unwrap_or_default()
}

impl OpenAi {
    /// An agent whose commands are owned by tasks of `tasks`.
    #[must_use]
    pub fn new(options: OpenAiOptions, tasks: TaskTracker) -> Self {
        Self { options, http: outbound::OnDemand::new(outbound::client), tasks, lacks: Lacks::default() }
    }

    /// The first of these variables that is set.
    fn variable(&self, turn: &Turn, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| turn.variable(name, &self.options.environment))
    }

    fn place(&self, turn: &Turn) -> Result<Place, Failure> {
        let Some(key) = self.variable(turn, &["OPENAI_API_KEY"]) else {
            return Err(AgentError::no_key("OPENAI_API_KEY").into_fault().into());
        };
        let http = self.http.get();
        let http =
            http.map_err(|error| Fault::new(FaultCode::Internal, "internal error").with_detail(error.to_string()))?;
        let base = self.variable(turn, &["OPENAI_BASE_URL"]).unwrap_or_else(|| BASE.to_owned());
        let headers = [
            ("openai-organization", self.variable(turn, &["OPENAI_ORG_ID", "OPENAI_ORGANIZATION"])),
            ("openai-project", self.variable(turn, &["OPENAI_PROJECT_ID", "OPENAI_PROJECT"])),
        ];
        let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Ok(Place { http, base: base.trim_end_matches('/').to_owned(), key: Secret::new(key), headers })
    }
}

impl Handler for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        turn::run(self, &turn, &sink, &cancel).await
    }

    fn park(&self) {
        self.http.let_go();
    }
}
