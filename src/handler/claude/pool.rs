//! Which process runs which turn.
//!
//! Owns the processes that wait: one for each session that had a turn lately, and one ahead of need. A process that runs a
//! turn belongs to that turn.

use super::find::{self, MISSING};
use super::live::Live;
use super::{Begin, ClaudeOptions, arguments, environment};
use crate::handler::Closed;
use crate::handler::agent_error::{AgentError, Category};
use crate::model::SessionId;
use crate::process::{Launch, OnExit, StdinFrom, is_program};
use crate::telemetry::Whose;
use crate::wire::claude::RequestOptions;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub struct Pool {
    pub options: ClaudeOptions,
    pub tasks: TaskTracker,
    program: OnceLock<Option<PathBuf>>,
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// Something waits for less long than it did.
    sooner: Notify,
    /// One more process waits for a turn.
    parked: Notify,
    stopping: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    sessions: HashMap<SessionId, Parked>,
    spare: Option<Live>,
    /// A task ends what waits for too long.
    is_swept: bool,
}

/// How long a process whose place another took may take to end.
const LEAVING: Duration = Duration::from_secs(10);

struct Parked {
    live: Live,
    since: Instant,
    /// When it is ended, whatever it still does.
    until: Instant,
}

impl Pool {
    pub fn new(options: ClaudeOptions, tasks: TaskTracker) -> Self {
        Self {
            places: Arc::new(Semaphore::new(options.processes)),
            options,
            tasks,
            program: OnceLock::new(),
            waiting: Mutex::default(),
            sooner: Notify::new(),
            parked: Notify::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// The program, looked for once.
    pub fn program(&self) -> Result<&Path, String> {
        let found = self.program.get_or_init(|| match &self.options.program {
            Some(named) => Some(named.clone()).filter(|file| is_program(file)),
            None => find::find(&self.options.environment, &self.options.workspace),
        });
        match (found, &self.options.program) {
            (Some(program), _) => Ok(program),
            (None, Some(named)) => Err(format!("--claude-program: {} is not a program", named.display())),
            (None, None) => Err(MISSING.to_owned()),
        }
    }

    /// The process that a session has, if it can go on with what is asked.
    pub fn kept(&self, session: &SessionId, fits: impl FnOnce(&Live) -> bool) -> Option<Live> {
        let mut live = self.waiting().sessions.remove(session)?.live;
        if live.is_quiet() && !live.is_hung_up() && fits(&live) {
            return Some(live);
        }
        self.finish(live);
        None
    }

    /// A process for a session that has none: the spare, or a new one. Waits for a place. Cancel-safe.
    pub async fn fresh(&self, begin: Begin) -> Result<Live, AgentError> {
        let place = self.place().await;
        let spare = if begin.is_plain() { self.waiting().spare.take() } else { None };
        let mut live = match spare.and_then(|mut live| live.is_quiet().then_some(live)) {
            Some(mut live) => {
                live.begin = begin;
                live
            }
            None => self.start(begin)?,
        };
        live.place = Some(place);
        Ok(live)
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            let parked = std::pin::pin!(self.parked.notified());
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return place;
            }
            if let Some(place) = self.oldest_place() {
                return place;
            }
            tokio::select! {
                Ok(place) = self.places.clone().acquire_owned() => return place,
                // A process whose turn is over keeps its place, until somebody needs it.
                () = parked => {}
            }
        }
    }

    /// The place of the process that waits for longest, which ends by itself meanwhile. It is its session's still: a
    /// session that is about to end wants to know how its agent did.
    fn oldest_place(&self) -> Option<OwnedSemaphorePermit> {
        let mut waiting = self.waiting();
        let placed = waiting.sessions.values_mut().filter(|parked| parked.live.place.is_some());
        let oldest = placed.min_by_key(|parked| parked.since)?;
        oldest.live.hang_up();
        oldest.until = Instant::now() + LEAVING;
        self.sooner.notify_one();
        oldest.live.place.take()
    }

    fn start(&self, begin: Begin) -> Result<Live, AgentError> {
        let crash = |text: String| AgentError::new(Category::StartupCrash, text).with("phase", "start");
        let program = self.program().map_err(crash)?;
        let (args, file) = arguments(&self.options, &begin)?;
        let launch = Launch {
            program: program.into(),
            args,
            cwd: Some(begin.cwd.clone().unwrap_or_else(|| self.options.workspace.clone())),
            env: environment(&self.options, &begin),
            stdin: StdinFrom::Pipe,
            channel: false,
            on_exit: OnExit::KillRest,
            grace: self.options.stop_grace,
        };
        let mut live = Live::start(begin, launch, &self.tasks).map_err(|error| crash(error.to_string()))?;
        live.file = file;
        Ok(live)
    }

    /// Keeps a process for the next turn of its session.
    pub fn keep(self: &Arc<Self>, session: &SessionId, live: Live) {
        if self.stopping.is_cancelled() {
            return;
        }
        let mut waiting = self.waiting();
        let since = Instant::now();
        let until = since + self.options.keep;
        let earlier = waiting.sessions.insert(session.clone(), Parked { live, since, until });
        let is_swept = std::mem::replace(&mut waiting.is_swept, true);
        drop(waiting);
        self.parked.notify_waiters();
        if let Some(earlier) = earlier {
            self.finish(earlier.live);
        }
        if !is_swept {
            self.tasks.spawn(self.clone().sweep());
        }
    }

    /// Ends processes that have waited for too long, for as long as there are some.
    async fn sweep(self: Arc<Self>) {
        loop {
            let (old, next) = {
                let mut waiting = self.waiting();
                let now = Instant::now();
                // One that has ended takes nothing, and its session may still come to ask how it did: on a busy machine
                // that can be much later.
                let ended = |parked: &&mut Parked| parked.until <= now && parked.live.has_ended();
                for parked in waiting.sessions.values_mut().filter(ended) {
                    parked.until = parked.since + self.options.keep;
                }
                let old: Vec<_> = waiting.sessions.extract_if(|_, parked| parked.until <= now).collect();
                let next = waiting.sessions.values().map(|parked| parked.until).min();
                waiting.is_swept = next.is_some();
                (old, next)
            };
            for (_, Parked { live, .. }) in old {
                if live.is_hung_up() {
                    // It had its time.
                    drop(live);
                } else {
                    self.finish(live);
                }
            }
            let Some(next) = next else { return };
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.sooner.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Lets a process end by itself, so that what it has of its conversation is written.
    pub fn finish(&self, live: Live) {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = live.finish() => {}
            }
        });
    }

    /// Starts the spare, if there is to be one and there is none.
    pub fn replenish(&self) {
        if !self.options.spare || self.stopping.is_cancelled() {
            return;
        }
        let mut waiting = self.waiting();
        if waiting.spare.as_mut().is_some_and(Live::is_quiet) {
            return;
        }
        let begin = Begin {
            resume: None,
            system_prompt: None,
            schema: None,
            options: RequestOptions::default(),
            environment: Vec::new(),
            is_own_environment: false,
            cwd: None,
        };
        // Nobody's yet.
        match Whose::default().calls(|| self.start(begin)) {
            Ok(live) => waiting.spare = Some(live),
            Err(error) => tracing::warn!(error = error.message, "no Claude CLI could be started ahead"),
        }
    }

    pub fn session_ended(&self, session: &SessionId) {
        let parked = self.waiting().sessions.remove(session);
        if let Some(parked) = parked {
            self.finish(parked.live);
        }
    }

    /// Ends the process of a session, and waits until nothing is left of it.
    pub async fn end_session(&self, session: &SessionId, grace: Duration) {
        let parked = self.waiting().sessions.remove(session);
        if let Some(parked) = parked {
            parked.live.stop(grace).await;
        }
    }

    /// Comes back once the process that waits for a session's next turn has ended though nobody has told it to. It is the
    /// session's still.
    pub async fn left(&self, session: &SessionId) {
        let end = self.waiting().sessions.get(session).map(|parked| parked.live.end());
        if let Some(end) = end {
            end.await;
        }
        let has_left = self.waiting().sessions.get(session).is_some_and(|parked| parked.live.has_left());
        if !has_left {
            std::future::pending::<()>().await;
        }
    }

    /// Lets the process of a session end by itself. One that has been silent for too long is the session's still.
    pub async fn close_session(
        self: &Arc<Self>,
        session: &SessionId,
        patience: Option<Duration>,
        stop: &CancellationToken,
    ) -> Closed {
        let parked = self.waiting().sessions.remove(session);
        let Some(Parked { mut live, .. }) = parked else { return Closed::Nothing };
        let closed = tokio::select! {
            closed = live.close(patience) => closed,
            () = stop.cancelled() => None,
        };
        closed.unwrap_or_else(|| {
            self.keep(session, live);
            Closed::Hangs
        })
    }

    pub async fn stop(&self, grace: Duration) {
        self.stopping.cancel();
        let Waiting { sessions, spare, .. } = std::mem::take(&mut *self.waiting());
        let all = sessions.into_values().map(|parked| parked.live).chain(spare);
        futures_util::future::join_all(all.map(|live| live.stop(grace))).await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
