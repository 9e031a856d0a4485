//! Handlers that are programs: they speak the stdio protocol, one JSON object per line.
//!
//! Owns which process runs which turn: one shared process for a handler that takes several turns at once, a few for one
//! that does not. Starting programs is `process`'s; a line's meaning is in `lines`.

mod bridge;
mod lines;
mod outgoing;
mod worker;

pub use bridge::Bridge;

use super::{Cancel, Failure, Handler, Reply, Sink, Turn};
use crate::model::{Fault, FaultCode};
use crate::process::Environment;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio_util::task::TaskTracker;
use worker::Worker;

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
    /// Processes of a handler that runs one turn at a time.
    pub processes: usize,
    /// How long it may take from the start to `ready`.
    pub start_timeout: Duration,
    /// How long a process may take to end after SIGTERM.
    pub stop_grace: Duration,
}

/// A handler that is a program.
pub struct StdioHandler {
    program: Program,
    options: StdioOptions,
    /// Whether it takes several turns at once; known when its first process was ready.
    concurrent: OnceCell<bool>,
    /// One process is started at a time: whoever waits for the same start finds it done.
    starting: tokio::sync::Mutex<()>,
    places: Semaphore,
    ready: Mutex<Ready>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Ready {
    /// The process that all turns share.
    shared: Option<Arc<Worker>>,
    /// Processes that run one turn at a time and have none now.
    free: Vec<Arc<Worker>>,
    /// Every process that may still live, to be ended with the server.
    all: Vec<Arc<Worker>>,
    stopped: bool,
}

impl StdioHandler {
    /// A handler whose processes are owned by tasks of `tasks`.
    #[must_use]
    pub fn new(program: Program, options: StdioOptions, tasks: TaskTracker) -> Self {
        Self {
            program,
            places: Semaphore::new(options.processes.max(1)),
            options,
            concurrent: OnceCell::new(),
            starting: tokio::sync::Mutex::new(()),
            ready: Mutex::default(),
            tasks,
        }
    }

    fn ready(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the handler takes several turns at once. Starts its first process if none was ever ready.
    async fn is_concurrent(&self) -> Result<bool, Fault> {
        let first = async {
            let worker = self.launch().await?;
            let concurrent = worker.is_concurrent();
            let mut ready = self.ready();
            if concurrent {
                ready.shared = Some(worker);
            } else {
                ready.free.push(worker);
            }
            Ok(concurrent)
        };
        self.concurrent.get_or_try_init(|| first).await.copied()
    }

    async fn launch(&self) -> Result<Arc<Worker>, Fault> {
        let worker = Worker::start(&self.program, &self.options, &self.tasks).await?;
        let mut ready = self.ready();
        ready.all.retain(|worker| worker.is_alive());
        if ready.stopped {
            worker.kill();
            return Err(Fault::new(FaultCode::Draining, "shutting down"));
        }
        ready.all.push(worker.clone());
        Ok(worker)
    }

    /// The process that all turns share, started anew if the last one is gone.
    async fn shared(&self) -> Result<Arc<Worker>, Fault> {
        if let Some(worker) = self.ready().shared.clone().filter(|worker| worker.takes_turns()) {
            return Ok(worker);
        }
        // Held while a process starts, which is bounded by the start timeout; a turn that is cancelled stops waiting.
        let _one_at_a_time = self.starting.lock().await;
        if let Some(worker) = self.ready().shared.clone().filter(|worker| worker.takes_turns()) {
            return Ok(worker);
        }
        let worker = self.launch().await?;
        self.ready().shared = Some(worker.clone());
        Ok(worker)
    }

    /// A process with no turn, and the place it takes.
    async fn exclusive(&self) -> Result<Lease<'_>, Fault> {
        let place = self.places.acquire().await.map_err(|_| Fault::new(FaultCode::Draining, "shutting down"))?;
        let free = {
            let mut ready = self.ready();
            ready.free.retain(|worker| worker.takes_turns());
            ready.free.pop()
        };
        let worker = match free {
            Some(worker) => worker,
            None => self.launch().await?,
        };
        Ok(Lease { handler: self, worker, _place: place })
    }
}

/// A process that one turn has to itself. Given back when dropped, if it still takes turns.
struct Lease<'a> {
    handler: &'a StdioHandler,
    worker: Arc<Worker>,
    _place: SemaphorePermit<'a>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.worker.takes_turns() {
            self.handler.ready().free.push(self.worker.clone());
        }
    }
}

impl Handler for StdioHandler {
    fn name(&self) -> &str {
        &self.program.name
    }

    async fn start(&self) -> Result<(), String> {
        match self.is_concurrent().await {
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
        let cancelled = || Failure::from(Fault::new(FaultCode::HandlerFailed, "cancelled before it began"));
        let concurrent = tokio::select! {
            concurrent = self.is_concurrent() => concurrent?,
            () = cancel.fired() => return Err(cancelled()),
        };
        if concurrent {
            let worker = tokio::select! {
                worker = self.shared() => worker?,
                () = cancel.fired() => return Err(cancelled()),
            };
            return worker.run(&turn, sink, &cancel).await;
        }
        let lease = tokio::select! {
            lease = self.exclusive() => lease?,
            () = cancel.fired() => return Err(cancelled()),
        };
        lease.worker.run(&turn, sink, &cancel).await
    }

    async fn stop(&self, grace: Duration) {
        let all = {
            let mut ready = self.ready();
            ready.stopped = true;
            ready.shared = None;
            ready.free.clear();
            std::mem::take(&mut ready.all)
        };
        for worker in &all {
            worker.stop(grace);
        }
        for worker in &all {
            worker.gone().await;
        }
    }
}
