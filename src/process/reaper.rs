//! The server's own orphans, as a backstop.
//!
//! Owns the list of shims the server has started, and what becomes of processes that fall to the server because a shim
//! was killed, or because the server is process 1 of a container. Trees that end in good order never come here: their
//! shims take care of them.

use super::tree::Tree;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid, getsid};
use std::collections::{HashMap, HashSet};
use std::io;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// How long ended strays may wait to be reaped: looking for them reads the process table.
const REAP_PAUSE: Duration = Duration::from_secs(1);

/// How often, and after which pauses, strays of a killed shim are looked for, until none are left.
const ROUNDS: usize = 100;
const ROUND_PAUSE: Duration = Duration::from_millis(5);

/// The running shims, by process id. The number tells two shims apart that had the same id one after the other.
static OWNED: Mutex<Option<HashMap<Pid, u64>>> = Mutex::new(None);

/// The children this process had when it became a subreaper: they are somebody's, not ours to kill.
static EARLIER: OnceLock<HashSet<Pid>> = OnceLock::new();

fn owned() -> MutexGuard<'static, Option<HashMap<Pid, u64>>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A shim that the server has started, until it is reaped.
#[derive(Debug)]
pub(super) struct Owned {
    child: Child,
    pid: Pid,
    number: u64,
}

impl Owned {
    /// Starts a shim and writes it down as one step: between the two it would look like a stray.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut owned = owned();
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        let pid = Pid::from_raw(pid);
        owned.get_or_insert_default().insert(pid, number);
        Ok(Self { child, pid, number })
    }

    /// The shim's process id.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for its end. Cancel-safe.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Lets it run on if it was stopped. Its number is its own until `wait` has returned.
    pub(super) fn resume(&self) {
        if self.child.id().is_some() {
            let _ = kill(self.pid, Signal::SIGCONT);
        }
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&mut self) {
        let _ = self.child.start_kill();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(owned) = owned().as_mut()
            && owned.get(&self.pid) == Some(&self.number)
        {
            owned.remove(&self.pid);
        }
    }
}

/// Makes this process inherit the orphans of its descendants, and spawns the task that reaps them. The task is not
/// tracked: it runs as long as the runtime.
///
/// Only for a process in which nothing but this module starts children: it takes the exit codes of all others.
///
/// # Errors
///
/// When the system refuses.
///
/// # Panics
///
/// Outside a tokio runtime with IO and time.
pub fn become_subreaper() -> io::Result<()> {
    prctl::set_child_subreaper(true)?;
    let mut ended = signal(SignalKind::child())?;
    EARLIER.get_or_init(|| Tree::new().children(getpid()).into_iter().collect());
    tokio::spawn(async move {
        while ended.recv().await.is_some() {
            // Most of these are shims, which tokio reaps meanwhile.
            tokio::time::sleep(REAP_PAUSE).await;
            if any_ended() {
                reap(&Tree::new());
            }
        }
    });
    Ok(())
}

/// Whether any child has ended and is not reaped yet. Takes nothing away from whoever waits for it.
fn any_ended() -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::All, flags) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => false,
        // Errors include signals that the wrapper has no name for.
        Ok(_) | Err(_) => true,
    }
}

/// Reaps ended children that are not shims, and returns those that live.
fn reap(tree: &Tree) -> Vec<Pid> {
    // Held throughout: a shim started now must not be taken for a stray.
    let owned = owned();
    let mut strays = tree.children(getpid());
    strays.retain(|pid| !owned.as_ref().is_some_and(|owned| owned.contains_key(pid)));
    strays.retain(|pid| matches!(waitpid(*pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)));
    strays
}

/// Kills what a killed shim has left to us, down to the last descendant.
pub(super) async fn clear_after(shim: Pid) {
    let Some(earlier) = EARLIER.get() else { return };
    let own_session = getsid(None).ok();
    let first_process = getpid().as_raw() == 1;
    let tree = Tree::new();
    for _ in 0..ROUNDS {
        let mut found = false;
        for stray in reap(&tree) {
            // A shim's tree is in the session of the shim or in one made below it. What has our own session was not in
            // a shim. As process 1 we inherit the container's other orphans as well, with sessions of their own.
            let session = getsid(Some(stray)).ok();
            let from_a_shim = session == Some(shim) || (!first_process && session != own_session);
            if from_a_shim && !earlier.contains(&stray) {
                found = true;
                let _ = kill(stray, Signal::SIGKILL);
            }
        }
        if !found {
            return;
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    tracing::warn!(shim = shim.as_raw(), "processes of a killed shim could not be ended");
}
