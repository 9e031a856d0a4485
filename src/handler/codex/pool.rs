//! Which process runs which turn: one per key and environment, since those are a process's own.
//!
//! Owns how many there are. A process that has ended is replaced with the next turn that needs it.

use super::server::Server;
use super::{CodexOptions, program};
use crate::handler::agent_error::{AgentError, Category};
use crate::model::SessionId;
use crate::process::Environment;
use crate::redact::Secret;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

/// Processes that are kept. One more is started where all of them run turns, up to the second number.
const KEPT: usize = 4;
const MOST: usize = 64;

pub struct Pool {
    options: CodexOptions,
    tasks: TaskTracker,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    stopped: bool,
}

/// What a process is begun with, and cannot change any more.
#[derive(Clone, PartialEq, Eq)]
pub struct Origin {
    /// None where somebody has logged in.
    pub key: Option<Secret>,
    pub env: Environment,
    /// Where the program keeps its threads.
    pub home: Option<PathBuf>,
    /// How long it may take to take requests.
    pub start_timeout: Duration,
}

struct Slot {
    origin: Origin,
    process: Arc<OnceCell<Arc<Server>>>,
    used: Instant,
}

/// A process in use. While it is held, the process is not ended for want of turns.
pub struct Lease {
    pub server: Arc<Server>,
    _process: Arc<OnceCell<Arc<Server>>>,
}

impl Slot {
    fn is_unused(&self) -> bool {
        Arc::strong_count(&self.process) == 1
    }

    fn is_lost(&self) -> bool {
        self.process.get().is_some_and(|server| !server.takes_turns())
    }
}

impl Pool {
    pub fn new(options: CodexOptions, tasks: TaskTracker) -> Self {
        Self { options, tasks, slots: Mutex::default() }
    }

    /// The process of this origin, started if there is none.
    pub async fn server(&self, origin: &Origin) -> Result<Lease, AgentError> {
        let process = self.slot(origin)?;
        let start = || async {
            let program = program::find(&self.options).map_err(|text| AgentError::new(Category::StartupCrash, text))?;
            Server::start(&program, &self.options, origin, &self.tasks).await
        };
        let server = process.get_or_try_init(start).await?.clone();
        Ok(Lease { server, _process: process })
    }

    fn slot(&self, origin: &Origin) -> Result<Arc<OnceCell<Arc<Server>>>, AgentError> {
        let mut slots = self.slots();
        if slots.stopped {
            return Err(AgentError::new(Category::StartupCrash, "the server is stopping"));
        }
        slots.slots.retain(|slot| !slot.is_lost());
        if let Some(slot) = slots.slots.iter_mut().find(|slot| slot.origin == *origin) {
            slot.used = Instant::now();
            return Ok(slot.process.clone());
        }
        if slots.slots.len() >= KEPT {
            let quietest = slots.slots.iter().enumerate().filter(|(_, slot)| slot.is_unused());
            match quietest.min_by_key(|(_, slot)| slot.used).map(|(at, _)| at) {
                Some(at) => {
                    if let Some(server) = slots.slots.swap_remove(at).process.get() {
                        server.stop(self.options.stop_grace);
                    }
                }
                None if slots.slots.len() >= MOST => {
                    let text = format!("turns with {MOST} different keys or environments run already");
                    return Err(AgentError::new(Category::Overloaded, text));
                }
                None => {}
            }
        }
        let process = Arc::new(OnceCell::new());
        slots.slots.push(Slot { origin: origin.clone(), process: process.clone(), used: Instant::now() });
        Ok(process)
    }

    /// Every process forgets what it holds of a session.
    pub fn session_ended(&self, session: &SessionId) {
        for server in self.servers() {
            server.session_ended(session);
        }
    }

    pub async fn stop(&self, grace: Duration) {
        self.slots().stopped = true;
        let servers = self.servers();
        for server in &servers {
            server.stop(grace);
        }
        for server in servers {
            server.gone().await;
        }
    }

    fn servers(&self) -> Vec<Arc<Server>> {
        self.slots().slots.iter().filter_map(|slot| slot.process.get().cloned()).collect()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
