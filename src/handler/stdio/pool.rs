//! Which process runs which turn.
//!
//! Owns the processes of a handler and the rules: one that takes several turns at once is shared, and another is started
//! for those that it is too blocked to take; one that does not gets one turn at a time; or every session has its own.

use super::worker::Worker;
use super::{Isolation, Program, StdioOptions};
use crate::handler::{Cancel, Failure, Reply, Sink, Turn};
use crate::model::{Fault, FaultCode, SessionId};
use crate::telemetry::metrics::metrics;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OnceCell, OwnedMutexGuard, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A process beyond the first that had nothing to do for this long is ended.
const SURPLUS_QUIET: Duration = Duration::from_mins(1);

/// The processes of one handler.
pub struct Pool {
    program: Program,
    options: StdioOptions,
    /// Whether the handler takes several turns at once; known when its first process was ready.
    concurrent: OnceCell<bool>,
    /// One process is started at a time: whoever waits for the same start finds it done.
    starting: Arc<tokio::sync::Mutex<()>>,
    processes: Arc<Mutex<Processes>>,
    /// A process may have become able to take a turn, or has ended.
    changed: Arc<Notify>,
    /// No process is waited for any more.
    stopping: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Processes {
    /// In the order of their start; the first that can take a turn gets it.
    shared: Vec<Arc<Worker>>,
    by_session: HashMap<SessionId, Arc<Worker>>,
    /// Every process that may still live, to be ended with the server.
    all: Vec<Arc<Worker>>,
    stopped: bool,
}

impl Pool {
    pub fn new(program: Program, options: StdioOptions, tasks: TaskTracker) -> Self {
        Self {
            program,
            options,
            concurrent: OnceCell::new(),
            starting: Arc::default(),
            processes: Arc::default(),
            changed: Arc::default(),
            stopping: CancellationToken::new(),
            tasks,
        }
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Starts the first process if none was ever ready: it tells whether the handler takes several turns at once.
    pub async fn is_concurrent(self: &Arc<Self>) -> Result<bool, Fault> {
        let first = async {
            let starting = self.starting.clone().lock_owned().await;
            // One that was started for somebody who did not wait for it.
            let there = self.processes().shared.iter().find(|worker| worker.takes_turns()).cloned();
            if let Some(worker) = there {
                return Ok(worker.is_concurrent());
            }
            let (worker, _starting) = self.launch(starting).await?;
            let concurrent = worker.is_concurrent();
            self.processes().shared.push(worker);
            Ok(concurrent)
        };
        self.concurrent.get_or_try_init(|| first).await.copied()
    }

    /// Runs a turn in a process that can take it.
    pub async fn run(self: &Arc<Self>, turn: &Turn, sink: &Sink, cancel: &Cancel) -> Result<Reply, Failure> {
        loop {
            let worker = tokio::select! {
                worker = self.worker_for(turn) => worker?,
                () = cancel.fired() => {
                    return Err(Fault::new(FaultCode::HandlerFailed, "cancelled before it began").into());
                }
            };
            let result = worker.run(turn, sink.clone(), cancel).await;
            self.changed.notify_waiters();
            // One that was ended between being chosen and being asked takes nothing: another has to.
            if let Ok(reply) = result {
                return reply;
            }
        }
    }

    async fn worker_for(self: &Arc<Self>, turn: &Turn) -> Result<Arc<Worker>, Fault> {
        let concurrent = self.is_concurrent().await?;
        match self.options.isolation {
            Isolation::Session => self.of_session(&turn.session).await,
            Isolation::Shared => self.any(concurrent).await,
        }
    }

    /// A process that can take a turn now; a new one if none can and there is room; else the first that can again.
    async fn any(self: &Arc<Self>, concurrent: bool) -> Result<Arc<Worker>, Fault> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let workers = {
                let mut processes = self.processes();
                processes.shared.retain(|worker| worker.takes_turns());
                processes.shared.clone()
            };
            for worker in &workers {
                let takes = if concurrent { worker.answers().await } else { worker.reserve() };
                if takes {
                    return Ok(worker.clone());
                }
            }
            // Held while a process starts, which is bounded by the start timeout; a cancelled turn stops waiting.
            let starting = self.starting.clone().lock_owned().await;
            let is_new = |worker: &Arc<Worker>| !workers.iter().any(|known| Arc::ptr_eq(known, worker));
            if self.processes().shared.iter().any(is_new) {
                // Somebody else has started one meanwhile.
                continue;
            }
            if workers.len() < self.options.processes.max(1) {
                let (worker, _starting) = self.launch(starting).await?;
                if !concurrent {
                    worker.reserve();
                }
                self.processes().shared.push(worker.clone());
                if concurrent && !workers.is_empty() {
                    tracing::info!(target: "handler", "the handler is blocked; another process takes new turns");
                    self.watch_surplus(worker.clone());
                }
                return Ok(worker);
            }
            drop(starting);
            changed.await;
        }
    }

    /// The session's own process.
    async fn of_session(self: &Arc<Self>, session: &SessionId) -> Result<Arc<Worker>, Fault> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let starting = self.starting.clone().lock_owned().await;
            let (own, spare, live) = {
                let mut processes = self.processes();
                processes.by_session.retain(|_, worker| worker.takes_turns());
                let own = processes.by_session.get(session).cloned();
                // The one that was started ahead belongs to nobody yet.
                let spare = if own.is_none() { processes.shared.pop() } else { None };
                (own, spare, processes.by_session.len())
            };
            if let Some(worker) = own {
                return Ok(worker);
            }
            let (worker, _starting) = match spare.filter(|worker| worker.takes_turns()) {
                Some(worker) => (worker, starting),
                None if live < self.options.sessions.max(1) || self.end_quietest() => self.launch(starting).await?,
                None => {
                    drop(starting);
                    changed.await;
                    continue;
                }
            };
            self.processes().by_session.insert(session.clone(), worker.clone());
            return Ok(worker);
        }
    }

    /// Ends the process whose session has been quiet for longest; `false` if none is.
    fn end_quietest(&self) -> bool {
        let mut processes = self.processes();
        let quiet = processes.by_session.iter().filter_map(|(id, worker)| Some((worker.quiet_for()?, id.clone())));
        let Some((_, id)) = quiet.max_by_key(|(quiet, _)| *quiet) else { return false };
        let worker = processes.by_session.remove(&id);
        drop(processes);
        worker.is_some_and(|worker| worker.end_if_quiet(self.options.stop_grace))
    }

    /// The session is gone for good: its process is of no more use.
    pub fn session_ended(&self, session: &SessionId) {
        let worker = self.processes().by_session.remove(session);
        if let Some(worker) = worker {
            worker.retire(self.options.stop_grace);
            self.changed.notify_waiters();
        }
    }

    /// Ends a process once it has had nothing to do for a while and others are there.
    fn watch_surplus(&self, worker: Arc<Worker>) {
        let (processes, grace) = (self.processes.clone(), self.options.stop_grace);
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = worker.gone() => return,
                    () = tokio::time::sleep(SURPLUS_QUIET / 2) => {}
                }
                if worker.quiet_for().is_some_and(|quiet| quiet >= SURPLUS_QUIET) {
                    let mut processes = processes.lock().unwrap_or_else(PoisonError::into_inner);
                    if processes.shared.len() > 1 && worker.end_if_quiet(grace) {
                        processes.shared.retain(|other| !Arc::ptr_eq(other, &worker));
                        return;
                    }
                }
            }
        });
    }

    /// Starts a process in a task of its own: whoever asked may be gone before it is ready, and then it is there for the
    /// next one. `starting` is held until it has its place.
    async fn launch(self: &Arc<Self>, starting: OwnedMutexGuard<()>) -> Result<Started, Fault> {
        let (tell, told) = oneshot::channel();
        let pool = self.clone();
        self.tasks.spawn(async move {
            let started = tokio::select! {
                started = pool.start() => started,
                () = pool.stopping.cancelled() => Err(draining()),
            };
            let unclaimed = |worker| Unclaimed { started: Some((worker, starting)), pool: pool.clone() };
            drop(tell.send(started.map(unclaimed)));
        });
        told.await.unwrap_or_else(|_| Err(Fault::new(FaultCode::Internal, "internal error")))?.claim()
    }

    async fn start(&self) -> Result<Arc<Worker>, Fault> {
        let worker = Worker::start(&self.program, &self.options, self.changed.clone(), &self.tasks).await?;
        let mut processes = self.processes();
        let before = processes.all.len();
        processes.all.retain(|worker| worker.is_alive());
        if processes.all.len() < before {
            metrics().handler_restarts.inc();
        }
        if processes.stopped {
            worker.kill();
            return Err(draining());
        }
        processes.all.push(worker.clone());
        Ok(worker)
    }

    /// Ends every process, and waits for their trees.
    pub async fn stop(&self, grace: Duration) {
        let all = {
            let mut processes = self.processes();
            processes.stopped = true;
            self.stopping.cancel();
            processes.shared.clear();
            processes.by_session.clear();
            std::mem::take(&mut processes.all)
        };
        for worker in &all {
            worker.stop(grace);
        }
        for worker in &all {
            worker.gone().await;
        }
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that takes turns, and the right to start others.
type Started = (Arc<Worker>, OwnedMutexGuard<()>);

/// A process that was started and that nobody has taken yet.
struct Unclaimed {
    started: Option<Started>,
    pool: Arc<Pool>,
}

impl Unclaimed {
    fn claim(mut self) -> Result<Started, Fault> {
        self.started.take().ok_or_else(|| Fault::new(FaultCode::Internal, "internal error"))
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some((worker, _starting)) = self.started.take() {
            self.pool.processes().shared.push(worker.clone());
            self.pool.watch_surplus(worker);
            self.pool.changed.notify_waiters();
        }
    }
}

fn draining() -> Fault {
    Fault::new(FaultCode::Draining, "shutting down")
}
