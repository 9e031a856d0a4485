//! A running program: its handle, and the one task that owns it.
//!
//! Owns the control socket and the shim's process from start to reaping. Callers hold handles; only the task acts, so no
//! lock is ever held while something is waited for.

use super::launch::{Asked, LaunchCause, LaunchError};
use super::reaper::{self, Owned};
use super::talk::{Ask, OnExit, Plan, Report, take_line};
use crate::telemetry::metrics::{Open, metrics};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use std::{fmt, io};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// How long beyond the grace a shim has for killing before it is killed itself, which leaves its work to the kernel and to
/// the reaper. It gives up earlier on processes that cannot be killed, so this is for a shim that hangs.
const OVERTIME: Duration = Duration::from_secs(30);

/// How long a shim that closed its socket may take to end.
const LAST_STEP: Duration = Duration::from_secs(2);

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It never ran.
    NotStarted(LaunchError),
    /// Nobody knows: its shim was killed.
    Lost,
}

impl Exit {
    /// Its code, if it ended by itself.
    #[must_use]
    pub const fn code(&self) -> Option<i32> {
        if let Self::Code(code) = self { Some(*code) } else { None }
    }

    /// The signal that ended it.
    #[must_use]
    pub const fn signal(&self) -> Option<i32> {
        if let Self::Signal(signal) = self { Some(*signal) } else { None }
    }
}

/// In words, behind what the program is called.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::NotStarted(error) => write!(f, "could not be started: {}", error.cause),
            Self::Lost => f.write_str("was lost"),
        }
    }
}

/// What is known about a program; only its owner task writes it.
#[derive(Debug, Default)]
struct State {
    pid: Option<u32>,
    exit: Option<Exit>,
    gone: bool,
}

/// A handle of a started program. Clones are handles of the same program; when the last one is dropped, the program is
/// stopped with its default grace, unless it has ended and its descendants are to be spared.
#[derive(Debug, Clone)]
pub struct Child {
    order: watch::Sender<Option<Ask>>,
    state: watch::Receiver<State>,
    program: String,
}

impl Child {
    /// The program's process id, once it is known to run.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.state.borrow().pid
    }

    /// Waits until the program runs, and returns its process id. Cancel-safe.
    ///
    /// # Errors
    ///
    /// When it could not be started.
    pub async fn started(&self) -> Result<u32, LaunchError> {
        let mut state = self.state.clone();
        let known = state.wait_for(|state| state.pid.is_some() || state.exit.is_some()).await;
        let (pid, exit) = known.map_or((None, None), |state| (state.pid, state.exit.clone()));
        match (pid, exit) {
            (Some(pid), _) => Ok(pid),
            (None, Some(Exit::NotStarted(error))) => Err(error),
            (None, _) => {
                let cause = LaunchCause::Other("its shim was killed".to_owned());
                Err(LaunchError { program: self.program.clone(), cause })
            }
        }
    }

    /// Sends SIGINT to the program's own process group, as a terminal does at Ctrl+C. What it does then is its business:
    /// it may go on. Does not wait; nothing happens when it is being stopped, or has ended.
    pub fn interrupt(&self) {
        self.order.send_if_modified(|order| {
            let is_first = matches!(order, None | Some(Ask::Interrupt));
            if is_first {
                *order = Some(Ask::Interrupt);
            }
            is_first
        });
    }

    /// Asks for the end of the whole tree: SIGTERM now, SIGKILL to what is left after `grace`. Asked again, the grace can
    /// only get shorter. Does not wait; nothing happens when nothing is left.
    pub fn stop(&self, grace: Duration) {
        self.order.send_if_modified(|order| {
            let sooner = match order {
                None | Some(Ask::Interrupt) => true,
                Some(Ask::Stop(earlier)) => grace < *earlier,
                Some(Ask::Kill) => false,
            };
            if sooner {
                *order = Some(Ask::Stop(grace));
            }
            sooner
        });
    }

    /// Kills the whole tree now. Does not wait.
    pub fn kill(&self) {
        self.order.send_if_modified(|order| order.replace(Ask::Kill) != Some(Ask::Kill));
    }

    /// Waits for the end of the program itself, which its descendants and its pipes may outlive. Cancel-safe.
    pub async fn exited(&self) -> Exit {
        self.end().await
    }

    /// The same for somebody who has no handle: waiting does not keep the program. Cancel-safe.
    pub fn end(&self) -> impl Future<Output = Exit> + Send + use<> {
        let mut state = self.state.clone();
        async move {
            let ended = state.wait_for(|state| state.exit.is_some()).await;
            // The owner task ends without a word only when the runtime is shut down.
            ended.ok().and_then(|state| state.exit.clone()).unwrap_or(Exit::Lost)
        }
    }

    /// Whether the program itself has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state.borrow().exit.is_some()
    }

    /// Waits until the program and all its descendants have ended. Cancel-safe.
    pub async fn gone(&self) {
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| state.gone).await;
    }
}

/// Why the owner stopped listening to its shim.
enum Heard {
    /// The program ended, and its descendants are spared.
    Spared,
    /// The shim closed its socket: nothing is left, or it was killed.
    Closed,
}

/// The task that owns a program.
pub(super) struct Owner {
    control: UnixStream,
    shim: Owned,
    /// What the socket has not taken yet: the end of a long plan, then orders.
    unsent: Vec<u8>,
    unread: Vec<u8>,
    orders: watch::Receiver<Option<Ask>>,
    /// Whether a handle is left.
    held: bool,
    state: watch::Sender<State>,
    asked: Asked,
    grace: Duration,
    on_exit: OnExit,
    /// When the shim itself is killed.
    deadline: Option<Instant>,
    /// Counts the program while it runs.
    alive: Option<Open>,
}

impl Owner {
    pub(super) fn new(control: UnixStream, shim: Owned, unsent: Vec<u8>, plan: &Plan, asked: Asked) -> (Self, Child) {
        let (order, orders) = watch::channel(None);
        let (state, seen) = watch::channel(State::default());
        let owner = Self {
            control,
            shim,
            unsent,
            unread: Vec::new(),
            orders,
            held: true,
            state,
            asked,
            grace: plan.grace,
            on_exit: plan.on_exit,
            deadline: None,
            alive: None,
        };
        let program = plan.program.to_string_lossy().into_owned();
        (owner, Child { order, state: seen, program })
    }

    /// From start to reaping.
    pub(super) async fn run(mut self) {
        match self.listen(true).await {
            Heard::Closed => self.finish().await,
            // What is spared belongs to no turn any more: whoever waits for the tracked tasks must not wait for it. It
            // ends when this task is dropped with the runtime, or with the process.
            Heard::Spared => {
                tokio::spawn(async move {
                    self.listen(false).await;
                    self.finish().await;
                });
            }
        }
    }

    async fn listen(&mut self, leave_spared: bool) -> Heard {
        loop {
            let deadline = self.deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                // Reports first: an order that crosses them may be void.
                biased;
                ready = self.control.readable() => {
                    if ready.is_err() || !self.read() {
                        return Heard::Closed;
                    }
                    if leave_spared && self.on_exit == OnExit::SpareRest && self.has_exited() {
                        return Heard::Spared;
                    }
                }
                changed = self.orders.changed(), if self.held => {
                    self.held = changed.is_ok();
                    let order = *self.orders.borrow_and_update();
                    let spared = self.on_exit == OnExit::SpareRest && self.has_exited();
                    match order {
                        Some(ask) if self.held => self.ask(ask),
                        // The last handle was dropped.
                        _ if !self.held && !spared => self.ask(Ask::Stop(self.grace)),
                        _ => {}
                    }
                }
                _ = self.control.writable(), if !self.unsent.is_empty() => self.write(),
                () = sleep_until(deadline), if self.deadline.is_some() => {
                    tracing::warn!(program = ?self.asked.program(), "a shim did not end in time and is killed");
                    self.deadline = None;
                    self.shim.kill();
                }
            }
        }
    }

    fn has_exited(&self) -> bool {
        self.state.borrow().exit.is_some()
    }

    fn ask(&mut self, ask: Ask) {
        self.unsent.extend_from_slice(ask.to_string().as_bytes());
        // Somebody may have stopped it.
        self.shim.resume();
        let grace = match ask {
            Ask::Interrupt => return,
            Ask::Stop(grace) => grace,
            Ask::Kill => Duration::ZERO,
        };
        let deadline = Instant::now() + grace + OVERTIME;
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
    }

    fn write(&mut self) {
        match self.control.try_write(&self.unsent) {
            Ok(length) => drop(self.unsent.drain(..length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It is dead, and what it said last can still be read.
            Err(_) => self.unsent.clear(),
        }
    }

    /// Takes in what the shim said. False when it says nothing more.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 256];
        match self.control.try_read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
            Err(error) => return matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
        while let Some(line) = take_line(&mut self.unread) {
            match Report::parse(&line) {
                Some(Report::Ready) => {}
                Some(Report::Started(pid)) => {
                    metrics().child_processes_started.inc();
                    self.alive = Some(Open::new(metrics().child_processes.clone()));
                    self.state.send_modify(|state| state.pid = u32::try_from(pid).ok());
                }
                Some(Report::Failed(step, errno)) => self.ended(Exit::NotStarted(self.asked.failure(step, errno))),
                Some(Report::Exit(code)) => self.ended(Exit::Code(code)),
                Some(Report::Signal(signal)) => self.ended(Exit::Signal(signal)),
                Some(Report::Left(count)) => {
                    tracing::warn!(program = ?self.asked.program(), count, "processes that could not be killed are left");
                }
                None => tracing::warn!(line, "a shim said something unknown"),
            }
        }
        true
    }

    /// How the program ended; what is known first counts.
    fn ended(&self, exit: Exit) {
        if let Some(alive) = &self.alive {
            alive.close();
        }
        self.state.send_modify(|state| {
            state.exit.get_or_insert(exit);
        });
    }

    /// Reaps the shim, and what it may have left.
    async fn finish(mut self) {
        let main = self.state.borrow().pid.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        if let Some(main) = main
            && !self.has_exited()
        {
            // The shim was killed. Its program got its parent-death signal by now; this is for the program's group, and
            // needs no subreaper.
            let _ = killpg(main, Signal::SIGKILL);
        }
        self.ended(Exit::Lost);
        let status = if let Ok(status) = timeout(LAST_STEP, self.shim.wait()).await {
            status
        } else {
            self.shim.kill();
            self.shim.wait().await
        };
        if status.is_ok_and(|status| status.signal().is_some()) {
            tracing::warn!(program = ?self.asked.program(), "a shim was killed");
            reaper::clear_after(self.shim.pid()).await;
        }
        self.state.send_modify(|state| state.gone = true);
    }
}
