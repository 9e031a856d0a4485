//! Sessions and turns: admission, repeats, one turn at a time per session, the event log, cancellation, drain.
//!
//! Owns everything between an adapter's request and a turn's one outcome. Knows no HTTP, no WebSocket and no JSON.
//!
//! Every turn belongs to the main runtime, under one tracker: an adapter's own task may be dropped when its client goes
//! away, the turn is not. Only its first step may be taken on the thread that admits it, see `Engine::start_runner`.

mod commands;
mod cut;
mod drain;
mod funnel;
mod hook;
mod log;
mod messages;
mod promise;
mod registry;
mod remembered;
mod run;
mod session;
mod signs;
mod standing;
mod turn;
mod work;

#[cfg(test)]
mod redaction_tests;
#[cfg(test)]
mod tests;

pub use hook::Hook;
#[cfg(feature = "inside")]
pub use log::SessionLog;
pub use log::{Followed, Follower, LogLimits};
pub use promise::Found;
pub use turn::TurnRecord;

use crate::artifact::download::DownloadLimits;
use crate::artifact::handout::{Handout, HandoutLimits};
use crate::failpoint;
use crate::handler::DynHandler;
use crate::model::{CancelReason, Fault, FaultCode, OnDrain, Seq, SessionId, TurnId, TurnRequest};
use crate::outbound;
use crate::process::Environment;
use crate::redact::Redactor;
use crate::store::{Store, with_time};
use crate::telemetry::metrics::{Meters, metrics};
use crate::telemetry::{Whose, carried};
use registry::Registry;
use session::Admitted;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bounds and limits of an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Ends a turn after this much silence. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Ends a turn after this long in all. `None`: never.
    pub turn_timeout: Option<Duration>,
    /// How long a stopped handler may take before it is dropped.
    pub stop_grace: Duration,
    /// Turns that wait for one session, besides the one that runs.
    pub queue_limit: usize,
    /// Turns that run at once in the whole server; more wait.
    pub max_running: usize,
    /// Turns that run or wait in the whole server; more are refused.
    pub max_turns: usize,
    /// Sessions kept in memory though nothing runs in them.
    pub max_quiet_sessions: usize,
    /// Bounds of each session's log.
    pub log: LogLimits,
    /// What turns do besides their handler.
    pub work: WorkOptions,
}

/// Bounds and limits of what turns do besides their handler.
#[derive(Debug, Clone)]
pub struct WorkOptions {
    /// The variables of commands, less those that they bring themselves.
    pub environment: Environment,
    /// How long the pipes that a command's descendants hold open may be silent once its shell has ended. `None` waits for
    /// ever.
    pub pipes_quiet: Option<Duration>,
    /// Bounds of downloads.
    pub downloads: DownloadLimits,
    /// Bounds of files that are handed out.
    pub handout: HandoutLimits,
}

impl Default for WorkOptions {
    fn default() -> Self {
        Self {
            environment: Environment::empty(),
            pipes_quiet: Some(Duration::from_secs(5)),
            downloads: DownloadLimits::default(),
            handout: HandoutLimits::default(),
        }
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_mins(30)),
            turn_timeout: None,
            stop_grace: Duration::from_secs(2),
            queue_limit: 16,
            max_running: 1024,
            max_turns: 8192,
            max_quiet_sessions: 1000,
            log: LogLimits::default(),
            work: WorkOptions::default(),
        }
    }
}

/// A turn with a longer prompt is begun on the main runtime: its handler may have much to copy.
const FIRST_STEP_PROMPT: usize = 64 << 10;

/// How long the turns and then the handler may take to stop, together, once the server's own grace is spent.
const STOP_GRACE_AT_EXIT: Duration = Duration::from_millis(500);

/// Runs turns. Cloning gives another handle to the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    options: EngineOptions,
    handler: Arc<dyn DynHandler>,
    redactor: Redactor,
    registry: Registry,
    places: Semaphore,
    /// Turns that run or wait.
    turns: AtomicUsize,
    turn_left: Notify,
    draining: AtomicBool,
    /// Fires when a drain begins. Asked at every request it would be a lock that all share, so there is the flag above.
    drain_begun: CancellationToken,
    /// See [`Engine::park`].
    parked: AtomicBool,
    /// The grace of the drain is spent: what still runs gets little time to stop.
    hurrying: AtomicBool,
    runtime: Handle,
    tasks: TaskTracker,
    http: outbound::OnDemand,
    /// As `http`, for uploads.
    uploads: outbound::OnDemand,
    store: Arc<dyn Store>,
    meters: Meters,
}

/// An admitted request: the turn that answers it.
#[derive(Debug)]
pub struct Ticket {
    /// The turn.
    pub turn: Arc<TurnRecord>,
    /// Whether the request repeats an earlier one: the turn is that one's.
    pub is_repeat: bool,
}

impl Inner {
    fn turn_left(&self) {
        self.turns.fetch_sub(1, Ordering::AcqRel);
        self.turn_left.notify_waiters();
    }

    fn http(&self) -> Result<reqwest::Client, Fault> {
        self.http.get().map_err(no_client)
    }

    fn uploads(&self) -> Result<reqwest::Client, Fault> {
        self.uploads.get().map_err(no_client)
    }

    fn stop_grace(&self, reason: CancelReason) -> Duration {
        if reason == CancelReason::Draining && self.hurrying.load(Ordering::Acquire) {
            STOP_GRACE_AT_EXIT
        } else {
            self.options.stop_grace
        }
    }
}

fn no_client(error: outbound::OutboundError) -> Fault {
    Fault::new(FaultCode::Internal, "internal error").with_detail(error.to_string())
}

impl Engine {
    /// An engine whose turns run on the current tokio runtime, which must be the main one.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(
        options: EngineOptions,
        handler: Arc<dyn DynHandler>,
        store: Arc<dyn Store>,
        redactor: Redactor,
        tasks: TaskTracker,
    ) -> Self {
        let registry = Registry::new(store.clone(), options.log.clone(), options.max_quiet_sessions);
        let meters = Meters::new(handler.name(), handler.agents());
        let places = Semaphore::new(options.max_running.min(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner {
            options,
            handler,
            redactor,
            registry,
            places,
            turns: AtomicUsize::new(0),
            turn_left: Notify::new(),
            draining: AtomicBool::new(false),
            drain_begun: CancellationToken::new(),
            parked: AtomicBool::new(false),
            hurrying: AtomicBool::new(false),
            runtime: Handle::current(),
            tasks,
            http: outbound::OnDemand::new(outbound::client),
            uploads: outbound::OnDemand::new(outbound::client_without_redirects),
            store,
            meters,
        }))
    }

    /// Admits a request: a new turn, or the turn it repeats. Cancel-safe: dropped before it returns, no turn was begun.
    ///
    /// # Errors
    /// A fault of code `Draining`, `QueueFull`, `ServerFull` or `KeyConflict`: nothing was begun.
    pub async fn submit(&self, request: TurnRequest) -> Result<Ticket, Fault> {
        self.admit(request, false).await.map(|(ticket, _)| ticket)
    }

    /// Admits a request and follows its session's log from before the turn's first entry; a turn that ended in an earlier
    /// process has none there, and its outcome is all. The entries of other turns come too; the reader picks its own.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub async fn submit_and_follow(&self, request: TurnRequest) -> Result<(Ticket, Follower), Fault> {
        let (ticket, follower) = self.admit(request, true).await?;
        let follower = follower.ok_or_else(|| Fault::new(FaultCode::Internal, "internal error"))?;
        Ok((ticket, follower))
    }

    /// As [`Engine::submit`] for a session that is in memory, without a wait; otherwise the request comes back. For
    /// callers whose own future may be dropped: a request that is in has to be admitted.
    ///
    /// # Errors
    /// The request, when its session's past has to be read first.
    pub fn submit_to_loaded(&self, request: Box<TurnRequest>) -> Result<Result<Ticket, Fault>, Box<TurnRequest>> {
        let Some(session) = self.0.registry.get(&request.session) else { return Err(request) };
        if session.has_let_go_of(&request.repeat) {
            self.0.registry.went_quiet(&session);
            return Err(request);
        }
        Ok(self.admit_to(session, Arc::new(*request), false).map(|(ticket, _)| ticket))
    }

    async fn admit(&self, request: TurnRequest, follow: bool) -> Result<(Ticket, Option<Follower>), Fault> {
        if self.is_draining() {
            self.takes_turns().inspect_err(refused)?;
        }
        let request = Arc::new(request);
        let registry = &self.0.registry;
        let session = registry.session(&request.session, request.lifetime).await;
        let session = registry.recalled(session, |session| session.has_let_go_of(&request.repeat)).await;
        self.admit_to(session, request, follow)
    }

    fn admit_to(
        &self,
        session: Arc<session::Session>,
        request: Arc<TurnRequest>,
        follow: bool,
    ) -> Result<(Ticket, Option<Follower>), Fault> {
        let admitted = self.take_in(session, request, follow);
        match &admitted {
            Err(fault) => refused(fault),
            Ok((ticket, _)) if ticket.is_repeat => metrics().turn_repeats.inc(),
            Ok(_) => {}
        }
        admitted
    }

    fn take_in(
        &self,
        session: Arc<session::Session>,
        request: Arc<TurnRequest>,
        follow: bool,
    ) -> Result<(Ticket, Option<Follower>), Fault> {
        let engine = &self.0;
        if let Err(fault) = self.takes_turns() {
            // A parked engine begins nothing; what it has begun, or done, it still tells.
            let earlier = if self.is_draining() { Ok(None) } else { session.repeated_by(&request) };
            engine.registry.went_quiet(&session);
            let turn = earlier?.ok_or(fault)?;
            let follower = follow.then(|| follow_from_its_beginning(&session, &turn));
            return Ok((Ticket { turn, is_repeat: true }, follower));
        }
        let follower = follow.then(|| session.log.follow(session.log.end()));
        let admitted = session.admit(&request, engine.options.queue_limit, || {
            let id = request.id.clone().unwrap_or_else(draw_turn_id);
            TurnRecord::new(id, session.id.clone(), request.repeat.clone(), false, session.store())
        });
        match admitted {
            Err(fault) => {
                engine.registry.went_quiet(&session);
                Err(fault)
            }
            Ok(Admitted::Repeat(turn)) => {
                engine.registry.went_quiet(&session);
                let follower = follow.then(|| follow_from_its_beginning(&session, &turn));
                Ok((Ticket { turn, is_repeat: true }, follower))
            }
            Ok(Admitted::New { record, start_runner }) => {
                failpoint::reach("turn-admitted");
                let turns = engine.turns.fetch_add(1, Ordering::AcqRel) + 1;
                // Whoever set `draining` or `parked` after the check above does not know this turn yet, so look again.
                if turns > engine.options.max_turns || self.takes_turns().is_err() {
                    record.stop.pull(CancelReason::Draining);
                }
                if start_runner {
                    self.start_runner(session, request.prompt.len() <= FIRST_STEP_PROMPT);
                }
                if turns > engine.options.max_turns {
                    return Err(Fault::new(FaultCode::ServerFull, "too many turns"));
                }
                Ok((Ticket { turn: record, is_repeat: false }, follower))
            }
        }
    }

    /// Starts the runner of a session that has a turn again. Its first step, until it waits for something, is taken right
    /// here, inside the main runtime's context: handing each turn to another thread and back costs more than most turns.
    /// What it spawns and the timers it sets belong to the main runtime all the same.
    fn start_runner(&self, session: Arc<session::Session>, first_step_here: bool) {
        let engine = &self.0;
        let whose = Whose::session(&session.id);
        let mut runner = Box::pin(whose.does(run::run_session(engine.clone(), session)));
        if first_step_here {
            // The main runtime's own thread waits for no write: others depend on it.
            let has_time = Handle::try_current().is_ok_and(|here| here.id() != engine.runtime.id());
            let _main = engine.runtime.enter();
            // Nobody is woken: `spawn_on` polls it again.
            let nobody = &mut Context::from_waker(Waker::noop());
            let mut step = || runner.as_mut().poll(nobody).is_ready();
            let is_over = if has_time { with_time(step) } else { step() };
            if is_over {
                return;
            }
        }
        engine.tasks.spawn_on(runner, &engine.runtime);
    }

    /// A turn of a session that is in memory: one that runs, waits, or has ended and is remembered.
    #[must_use]
    pub fn turn(&self, id: &TurnId) -> Option<Arc<TurnRecord>> {
        self.0.registry.all().into_iter().find_map(|session| session.turn(id))
    }

    /// Follows the log of a named session from behind `after`; `None` if nothing is known of it.
    pub async fn follow(&self, id: &SessionId, after: Seq) -> Option<Follower> {
        let session = self.0.registry.known(id).await?;
        let follower = session.log.follow(after);
        self.0.registry.went_quiet(&session);
        Some(follower)
    }

    /// The running or last turn of a named session, for a reader who lost its connection behind `after`. `None` where
    /// nothing of it came after that.
    pub async fn go_on(&self, id: &SessionId, after: Seq) -> Option<(Arc<TurnRecord>, Follower)> {
        let session = self.0.registry.known(id).await?;
        let follower = session.log.follow(after);
        let turn = session.last().filter(|turn| turn.ended().is_none() || !follower.is_at_end());
        self.0.registry.went_quiet(&session);
        Some((turn?, follower))
    }

    /// Runs a piece of an adapter's work that must go on when the request's own future is dropped. The server does not
    /// end before it.
    pub fn spawn<W>(&self, work: W) -> JoinHandle<W::Output>
    where
        W: Future<Output: Send + 'static> + Send + 'static,
    {
        self.0.tasks.spawn_on(carried(work), &self.0.runtime)
    }

    /// Stops a turn. One that still waits is settled at once; one that runs when its handler has stopped, or at the
    /// end of the grace. One that has ended stays as it is.
    pub fn cancel(&self, turn: &Arc<TurnRecord>, reason: CancelReason) {
        turn.stop.pull(reason);
        if let Some(session) = self.0.registry.get(&turn.session) {
            if let Some(waiting) = session.withdraw(turn) {
                run::settle_unbegun(&self.0, &session, &waiting);
            }
            self.0.registry.went_quiet(&session);
        }
    }

    /// The watched directories of a session that is loaded, if it has any.
    #[must_use]
    pub fn handout(&self, id: &SessionId) -> Option<Arc<Handout>> {
        let session = self.0.registry.get(id)?;
        self.0.registry.went_quiet(&session);
        session.handout()
    }

    /// As [`Engine::handout`]; it may have none yet.
    #[must_use]
    pub fn open_handout(&self, id: &SessionId) -> Option<Arc<Handout>> {
        let session = self.0.registry.get(id)?;
        self.0.registry.went_quiet(&session);
        // The turn that wants it says what is wrong.
        session.open_handout(&self.0).ok()
    }

    /// Forgets a session that lived as long as its connection.
    pub fn close_connection_session(&self, id: &SessionId) {
        self.0.registry.forget(id);
        self.0.handler.session_ended(id);
    }

    /// Turns that run or wait.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.0.turns.load(Ordering::Acquire)
    }

    /// Sessions in memory.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.0.registry.len()
    }

    /// The handler's name.
    #[must_use]
    pub fn handler_name(&self) -> &str {
        self.0.handler.name()
    }
}

fn refused(fault: &Fault) {
    metrics().refused(fault.code.name());
}

/// What a turn said is said again to whoever repeats it, as far as it is kept.
fn follow_from_its_beginning(session: &session::Session, turn: &TurnRecord) -> Follower {
    let begun = turn.accepted.get().map(|seq| Seq(seq.0 - 1));
    session.log.follow(begun.unwrap_or_else(|| session.log.end()))
}

/// A fresh session id for a connection that named none. Drawn from the system at each use, so that two copies of one
/// memory snapshot do not draw the same.
#[must_use]
pub fn draw_connection_session() -> SessionId {
    SessionId::scoped("connection", uuid::Uuid::new_v4().simple().encode_lower(&mut uuid::Uuid::encode_buffer()))
}

fn draw_turn_id() -> TurnId {
    TurnId::from_drawn(format!("turn_{}", uuid::Uuid::new_v4().simple()))
}
