//! Handlers that are programs: they speak the stdio protocol, one JSON object per line.
//!
//! Owns what a program is started with. Which process runs which turn is `pool`'s, whether one answers `pulse`'s, one
//! process `worker`'s; a line's meaning is in `lines`.

mod bridge;
mod exit;
mod lines;
mod pool;
mod pulse;
mod routes;
mod worker;

pub use bridge::Bridge;

use super::schema::Schema;
use super::{Cancel, Failure, Handler, Reply, Sink, Turn};
use crate::model::{Answer, Fault, FaultCode, SessionId};
use crate::process::Environment;
use pool::Pool;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// How a handler's program is started.
#[derive(Debug, Clone)]
pub struct Program {
    /// The name in logs and in `/health`.
    pub name: String,
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Text given to its standard input, after which that ends; the protocol then has descriptors 3 and 4 to itself.
    /// Without it the protocol uses the standard streams.
    pub bridge: Option<Bridge>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// What it sees of the environment.
    pub env: Environment,
}

/// Bounds of a handler's processes.
#[derive(Debug, Clone, Copy)]
pub struct StdioOptions {
    /// Who shares a process.
    pub isolation: Isolation,
    /// Processes that sessions share.
    pub processes: usize,
    /// Processes, where every session has its own; beyond it the one that was quiet longest is ended.
    pub sessions: usize,
    /// How long it may take from the start to `ready`.
    pub start_timeout: Duration,
    /// How long a process may take to end after SIGTERM.
    pub stop_grace: Duration,
    /// Whether answers have to fit the caller's schema, if there is one.
    pub validate_output: bool,
}

/// Who shares a process of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All sessions.
    #[default]
    Shared,
    /// Nobody: every session has its own.
    Session,
}

/// A handler that is a program.
pub struct StdioHandler {
    pool: Arc<Pool>,
    validate_output: bool,
}

impl StdioHandler {
    /// A handler whose processes are owned by tasks of `tasks`.
    #[must_use]
    pub fn new(program: Program, options: StdioOptions, tasks: TaskTracker) -> Self {
        Self { pool: Arc::new(Pool::new(program, options, tasks)), validate_output: options.validate_output }
    }
}

impl Handler for StdioHandler {
    fn name(&self) -> &str {
        &self.pool.program().name
    }

    async fn start(&self) -> Result<(), String> {
        match self.pool.is_concurrent().await {
            Ok(_) => Ok(()),
            Err(fault) => {
                let stderr = fault.process.map(|process| process.stderr_tail).unwrap_or_default();
                let message = fault.detail.unwrap_or(fault.message);
                // Most handlers say on standard error what their error says, and some nothing else.
                let says_more = !stderr.trim().is_empty() && stderr.trim() != message;
                Err(if says_more { format!("{message}\n{}", stderr.trim_end()) } else { message })
            }
        }
    }

    async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        let format = turn.request.output_format.as_ref().filter(|_| self.validate_output);
        // Before the handler: it need not work for a schema that nothing can fit.
        let schema = Schema::of(format).map_err(|error| error.into_fault())?;
        let reply = self.pool.run(&turn, &sink, &cancel).await?;
        if let Some(schema) = schema {
            let wrong = match &reply.answer {
                Answer::Structured(value) => schema.check(value.as_str()).err(),
                _ => Some("it is a text".to_owned()),
            };
            if let Some(wrong) = wrong {
                let text = format!("the handler's answer does not fit the schema: {wrong}");
                return Err(Failure { fault: Fault::new(FaultCode::HandlerProtocol, text), state: reply.state });
            }
        }
        Ok(reply)
    }

    fn session_ended(&self, session: &SessionId) {
        self.pool.session_ended(session);
    }

    async fn stop(&self, grace: Duration) {
        self.pool.stop(grace).await;
    }
}
