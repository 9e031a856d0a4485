//! One process of a handler: the turns it runs, and what becomes of them when it ends.
//!
//! Owns "a handler that dies fails only its own turns". The process itself is owned by its task in `process`; the task
//! here reads what it says.

use super::lines::{self, Capabilities, Said};
use super::pulse::Pulse;
use super::routes::{Added, Route, Routes};
use super::{Program, StdioOptions, exit};
use crate::handler::chatter::{Serving, log_line, log_lines, log_text};
use crate::handler::outgoing::{NotSent, Outgoing};
use crate::handler::{Cancel, Failure, Reply, Sink, Turn};
use crate::model::{Fault, FaultCode};
use crate::process::{Child, Exit, Launch, Limits, Line, LineReader, OnExit, Running, StdinFrom, Tail, launch};
use crate::telemetry::Whose;
use crate::wire::handler::{PROTOCOL_VERSION, ToHandler};
use futures_util::FutureExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// What a process that has ended may still have in its pipes is read for this long; a crash is told within 100 ms.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// A process that runs turns.
pub struct Worker {
    child: Child,
    out: Outgoing,
    capabilities: OnceLock<Capabilities>,
    /// No new turns: it failed to stop one, or it is ending.
    retired: AtomicBool,
    routes: Mutex<Routes>,
    stderr: Mutex<Tail>,
    /// Whose turn it runs, if it runs one at a time.
    serving: Serving,
    /// What it said before it was ready, if that was an error.
    broken: OnceLock<String>,
    ready: watch::Sender<bool>,
    pulse: Pulse,
    /// Told when it may have become able to take a turn, or has ended.
    changed: Arc<Notify>,
}

/// The process is being ended for want of turns: another has to take this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotTaken;

impl Worker {
    /// Starts a process and waits until it takes turns. Dropped before it does, the process is killed.
    pub async fn start(
        program: &Program,
        options: &StdioOptions,
        changed: Arc<Notify>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, Fault> {
        let unavailable = |detail: String| {
            Fault::new(FaultCode::HandlerUnavailable, "the handler could not be started").with_detail(detail)
        };
        let running = launch(
            Launch {
                program: program.program.clone(),
                args: program.args.clone(),
                cwd: Some(program.cwd.clone()),
                env: program.env.clone(),
                stdin: StdinFrom::Pipe,
                channel: program.bridge.is_some(),
                on_exit: OnExit::KillRest,
                grace: options.stop_grace,
            },
            tasks,
        )
        .map_err(|error| unavailable(error.to_string()))?;
        let worker = Self::connect(program, running, changed, tasks).map_err(|error| unavailable(error.to_owned()))?;
        let server = concat!("turnhost ", env!("CARGO_PKG_VERSION"));
        let hello = lines::write(&ToHandler::Hello { protocol: PROTOCOL_VERSION, server });
        // A process that has closed its input is about to be noticed below.
        let _ = worker.out.send(hello);
        let mut unready = Unready(Some(&worker));
        let mut ready = worker.ready.subscribe();
        let became_ready = async { ready.wait_for(|ready| *ready).await.is_ok() };
        let failed = tokio::select! {
            biased;
            _ = became_ready => {
                unready.0 = None;
                return Ok(worker.clone());
            }
            exit = worker.ended() => worker.start_fault(&exit),
            () = tokio::time::sleep(options.start_timeout) => {
                unavailable(format!("the handler did not say ready within {:?}", options.start_timeout))
            }
        };
        Err(failed)
    }

    fn connect(
        program: &Program,
        running: Running,
        changed: Arc<Notify>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, &'static str> {
        let Running { stdin, stdout, stderr, channel, child } = running;
        let stdin = stdin.ok_or("the handler has no input")?;
        let (out, said, log) = match (program.bridge, channel) {
            (Some(bridge), Some((out, said))) => {
                tasks.spawn(feed(stdin, bridge.source()));
                (out, said, Some(stdout))
            }
            _ => (stdin, stdout, None),
        };
        let worker = Arc::new(Self {
            child,
            out: Outgoing::new(out),
            capabilities: OnceLock::new(),
            retired: AtomicBool::new(false),
            routes: Mutex::new(Routes { quiet_since: Some(Instant::now()), ..Routes::default() }),
            stderr: Mutex::new(Tail::new(Tail::USUAL)),
            serving: Serving::default(),
            broken: OnceLock::new(),
            ready: watch::Sender::new(false),
            pulse: Pulse::new(),
            changed,
        });
        tasks.spawn(worker.clone().own(said, log, stderr));
        Ok(worker)
    }

    pub fn is_concurrent(&self) -> bool {
        self.capabilities.get().is_some_and(|capabilities| capabilities.concurrent)
    }

    pub fn is_alive(&self) -> bool {
        self.routes().ended.is_none()
    }

    pub fn takes_turns(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && self.is_alive()
    }

    /// Whether it can take one more turn now. One that has turns, or was asked before and did not answer, is
    /// asked, unless it has just answered.
    pub async fn answers(&self) -> bool {
        if self.pulse.is_felt() || self.pulse.is_calm() && self.routes().turns.is_empty() {
            return true;
        }
        let ping = self.pulse.ask();
        if ping.is_new && self.out.send(lines::write(&ToHandler::Ping { n: ping.n })).is_err() {
            return false;
        }
        self.pulse.is_answered(ping).await
    }

    /// Takes it for one turn alone, if it has none.
    pub fn reserve(&self) -> bool {
        let mut routes = self.routes();
        let is_free = routes.turns.is_empty() && !routes.reserved && routes.ended.is_none() && !routes.closed;
        routes.reserved |= is_free;
        is_free
    }

    /// How long it has had no turns; `None` while it has some.
    pub fn quiet_for(&self) -> Option<Duration> {
        let routes = self.routes();
        if routes.reserved { None } else { routes.quiet_since.map(|since| since.elapsed()) }
    }

    /// Ends it if it has no turns; `false` if it has.
    pub fn end_if_quiet(&self, grace: Duration) -> bool {
        let mut routes = self.routes();
        if routes.reserved || !routes.turns.is_empty() {
            return false;
        }
        routes.closed = true;
        drop(routes);
        self.stop(grace);
        true
    }

    /// Gives it no more turns; it ends now, or with its last one.
    pub fn retire(&self, grace: Duration) {
        if !self.end_if_quiet(grace) {
            self.retired.store(true, Ordering::Release);
            self.end_if_unused();
        }
    }

    pub fn kill(&self) {
        self.retired.store(true, Ordering::Release);
        self.child.kill();
    }

    pub fn stop(&self, grace: Duration) {
        self.retired.store(true, Ordering::Release);
        self.child.stop(grace);
    }

    pub async fn gone(&self) {
        self.child.gone().await;
    }

    /// Runs one turn. Dropped before it returns, the turn is abandoned: the process gets no new turns and ends as soon
    /// as it has no other.
    ///
    /// # Errors
    /// [`NotTaken`] when it is being ended, and the turn was not begun.
    pub async fn run(
        self: &Arc<Self>,
        turn: &Turn,
        sink: Sink,
        cancel: &Cancel,
    ) -> Result<Result<Reply, Failure>, NotTaken> {
        let id = turn.id.as_str().to_owned();
        let (end, ended) = oneshot::channel();
        let whose = Whose::turn(&turn.session, &turn.id);
        match self.add_route(id.clone(), Route { sink, whose: whose.clone(), end }) {
            Added::Yes => {}
            Added::Closed => return Err(NotTaken),
            Added::Ended(exit) => return Ok(Err(self.exit_fault(&exit).into())),
        }
        if !self.is_concurrent() {
            self.serving.set(whose);
        }
        let mut held = Held { worker: self, id, over: false };
        if let Err(problem) = self.out.send(lines::turn(turn)) {
            held.over = problem == NotSent::Full;
            if problem == NotSent::Full {
                self.routes().remove(&held.id);
                let text = "the handler does not read its input";
                return Ok(Err(Fault::new(FaultCode::HandlerUnavailable, text).into()));
            }
            // A process that closed its input is ending; how it ends is the better answer.
        }
        tokio::pin!(ended);
        let steers = self.capabilities.get().is_some_and(|capabilities| capabilities.steer);
        if steers {
            turn.inputs.listen();
        }
        let end = loop {
            tokio::select! {
                biased;
                end = &mut ended => break end,
                () = cancel.fired() => {
                    self.ask_to_stop(&held.id);
                    break ended.await;
                }
                text = turn.inputs.next(), if steers => {
                    let _ = self.out.send(lines::write(&ToHandler::Input { id: &held.id, text: &text }));
                }
            }
        };
        held.over = true;
        Ok(end.unwrap_or_else(|_| Err(Fault::new(FaultCode::Internal, "internal error").into())))
    }

    /// A process that cannot cancel a turn is ended instead; its exit ends the turn.
    fn ask_to_stop(&self, id: &str) {
        if self.capabilities.get().is_some_and(|capabilities| capabilities.cancel) {
            let _ = self.out.send(lines::write(&ToHandler::Cancel { id }));
        } else {
            self.retired.store(true, Ordering::Release);
            self.child.stop(Duration::from_millis(500));
        }
    }

    fn add_route(&self, id: String, route: Route) -> Added {
        let mut routes = self.routes();
        routes.reserved = false;
        if let Some(exit) = &routes.ended {
            return Added::Ended(exit.clone());
        }
        if routes.closed {
            return Added::Closed;
        }
        routes.turns.insert(id, route);
        routes.quiet_since = None;
        Added::Yes
    }

    /// The task of this process: reads what it says until it ends, then ends its turns.
    async fn own(self: Arc<Self>, said: pipe::Receiver, log: Option<pipe::Receiver>, stderr: pipe::Receiver) {
        let reading = self.read(said);
        let logging = async {
            let stdout = async {
                if let Some(log) = log {
                    log_lines(log, "stdout", &self.serving, |_| {}).await;
                }
            };
            let note = |bytes: &[u8]| self.stderr.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
            tokio::join!(stdout, log_lines(stderr, "stderr", &self.serving, note));
        };
        // The log first: what is said before a turn's end is read before its next turn can begin.
        let everything = async { tokio::join!(biased; logging, reading) }.fuse();
        tokio::pin!(everything);
        let exit = tokio::select! {
            _ = &mut everything => {
                // All its pipes are closed: it can neither hear nor say anything any more.
                match tokio::time::timeout(LAST_WORDS, self.child.exited()).await {
                    Ok(exit) => exit,
                    Err(_) => {
                        self.child.kill();
                        self.child.exited().await
                    }
                }
            }
            // Never ends by itself; it is here so that what waits is sent.
            () = self.out.drain() => {
                let _ = tokio::time::timeout(LAST_WORDS, &mut everything).await;
                self.child.stop(LAST_WORDS);
                self.child.exited().await
            }
            exit = self.child.exited() => {
                let _ = tokio::time::timeout(LAST_WORDS, &mut everything).await;
                exit
            }
        };
        self.end_turns(exit);
        // Its descendants may still hold the pipes; what they say is log, and must not stop them.
        tokio::select! {
            () = self.child.gone() => {}
            _ = &mut everything => self.child.gone().await,
        }
    }

    async fn read(&self, said: pipe::Receiver) {
        let mut reader = LineReader::new(said, Limits::default());
        loop {
            match reader.next().await {
                Ok(Some(Line::Json(line))) => match lines::read(&line) {
                    Some(said) => self.take(said).await,
                    None => self.note(|| {
                        tracing::info!(target: "handler", "{}", String::from_utf8_lossy(&line[..line.len().min(8192)]));
                    }),
                },
                Ok(Some(Line::Log { text, cut })) => self.note(|| log_line("stdout", &text, cut)),
                Ok(Some(Line::TooLong)) => {
                    self.note(|| {
                        tracing::error!(target: "handler", "a line of the handler was longer than 72 MiB; it is stopped");
                    });
                    self.kill();
                }
                Ok(None) => return,
                Err(error) => {
                    self.note(|| tracing::error!(target: "handler", %error, "the handler's output cannot be read"));
                    return;
                }
            }
        }
    }

    /// Logs something as part of the turn that the process works on, if that is one.
    fn note(&self, log: impl FnOnce()) {
        self.serving.now().calls(log);
    }

    async fn take(&self, said: Said) {
        match said {
            Said::Ready { name, capabilities } => {
                tracing::info!(target: "handler", name = name.as_deref().unwrap_or("?"), ?capabilities, "handler ready");
                let _ = self.capabilities.set(Capabilities::of(&capabilities));
                self.ready.send_replace(true);
            }
            Said::Pong { n } => {
                self.pulse.answer(n);
                self.changed.notify_waiters();
            }
            Said::Event { turn, event } => {
                let sink = self.routes().turns.get(&turn).map(|route| route.sink.clone());
                match sink {
                    // The lock is gone by now: only this process waits while the turn's bounds are full.
                    Some(sink) => drop(sink.say(event).await),
                    None => self.note(|| {
                        tracing::debug!(target: "handler", turn, "a line came for a turn that is over");
                    }),
                }
            }
            Said::Ended { turn, end } => {
                self.pulse.beat();
                let route = self.routes().remove(&turn);
                match route {
                    Some(route) => drop(route.end.send(end)),
                    None => self.note(|| {
                        tracing::warn!(target: "handler", turn, "a second end came for a turn and was dropped");
                    }),
                }
                self.end_if_unused();
            }
            Said::Log { turn, level, text } => {
                let of_turn = |turn| self.routes().turns.get(turn).map(|route: &Route| route.whose.clone());
                let whose = turn.as_deref().and_then(of_turn).unwrap_or_else(|| self.serving.now());
                whose.calls(|| log_text(level, &text));
            }
            Said::Broken { message } => {
                self.note(|| tracing::error!(target: "handler", message, "the handler cannot go on"));
                let _ = self.broken.set(message);
            }
            Said::Unknown { reason } => {
                self.note(|| tracing::warn!(target: "handler", reason, "a line was not understood"));
            }
        }
    }

    /// A retired process ends with its last turn.
    fn end_if_unused(&self) {
        if self.retired.load(Ordering::Acquire) && self.routes().turns.is_empty() {
            self.child.kill();
        }
    }

    fn end_turns(&self, exit: Exit) {
        let turns = {
            let mut routes = self.routes();
            routes.ended = Some(exit.clone());
            std::mem::take(&mut routes.turns)
        };
        self.changed.notify_waiters();
        // Nobody gets `ready` any more: whoever waits for it looks at how the process ended.
        self.ready.send_modify(|_| {});
        for route in turns.into_values() {
            let _ = route.end.send(Err(self.exit_fault(&exit).into()));
        }
    }

    /// Resolves when the process has ended and its turns were told.
    async fn ended(&self) -> Exit {
        let mut changed = self.ready.subscribe();
        loop {
            if let Some(exit) = self.routes().ended.clone() {
                return exit;
            }
            if changed.changed().await.is_err() {
                return Exit::Lost;
            }
        }
    }

    fn exit_fault(&self, exit: &Exit) -> Fault {
        exit::fault(exit, self.stderr.lock().unwrap_or_else(PoisonError::into_inner).text())
    }

    fn start_fault(&self, exit: &Exit) -> Fault {
        exit::before_ready(self.exit_fault(exit), exit, self.broken.get().cloned())
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn that a process has; see [`Worker::run`].
struct Held<'a> {
    worker: &'a Worker,
    id: String,
    over: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.worker.routes().remove(&self.id);
            self.worker.retired.store(true, Ordering::Release);
            self.worker.end_if_unused();
        }
    }
}

/// A process that is started, while somebody waits for it.
struct Unready<'a>(Option<&'a Arc<Worker>>);

impl Drop for Unready<'_> {
    fn drop(&mut self) {
        if let Some(worker) = self.0 {
            worker.kill();
        }
    }
}

/// Gives a bridge to its interpreter.
async fn feed(mut stdin: pipe::Sender, source: &str) {
    if let Err(error) = stdin.write_all(source.as_bytes()).await {
        tracing::debug!(target: "handler", %error, "the interpreter did not read its bridge");
    }
}
