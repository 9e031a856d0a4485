//! Starting shims, one ahead of need.
//!
//! Owns the shim that waits for its plan. Starting a process of our size costs more than all else a command needs, and
//! a shim learns only from the socket what to run: so the next one is started while the last one's program runs.

use super::reaper::Owned;
use super::shim::MARK;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::process::Command;
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

/// This very binary, also when its file has been replaced or deleted since it started.
const OURSELVES: &str = "/proc/self/exe";

/// How long a shim is kept waiting. A server without work keeps none.
const KEPT: Duration = Duration::from_secs(10);

/// A shim without a plan, and our end of its control socket.
#[derive(Debug)]
pub(super) struct Waiting {
    pub control: UnixStream,
    pub shim: Owned,
}

/// A shim in stock.
struct Spare {
    waiting: Waiting,
    /// The runtime that watches its process.
    runtime: Id,
    /// Dropped when it is taken.
    _taken: oneshot::Sender<()>,
}

static STOCK: Mutex<Option<Spare>> = Mutex::new(None);

/// Whether a shim for the stock is being started.
static STARTING: AtomicBool = AtomicBool::new(false);

fn stock() -> MutexGuard<'static, Option<Spare>> {
    STOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a shim. It gets nothing but its control socket, as standard input: a process that inherits nothing else needs
/// no code between fork and exec, and then the standard library does not copy the server to start it.
pub(super) fn start() -> io::Result<Waiting> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts a shim")]
    let mut command = Command::new(OURSELVES);
    // No environment: what is meant for the program, an `LD_PRELOAD` say, must not act in the shim.
    command.arg0("shim").arg(MARK).env_clear();
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null());
    let shim = Owned::spawn(&mut command)?;
    Ok(Waiting { control: ours, shim })
}

/// The shim in stock, if it is ready. On a busy machine a new one, which runs at once in place of the thread that starts
/// it, is faster than one that still waits for its turn.
pub(super) fn take() -> Option<Waiting> {
    let mut stock = stock();
    let spare = stock.as_ref()?;
    // Another runtime could not wait for its end.
    let ours = spare.runtime == Handle::current().id();
    // A look, no more: the word is left for the owner task.
    let mut word = [0];
    match recv(spare.waiting.control.as_raw_fd(), &mut word, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Err(Errno::EAGAIN) if ours => None,
        Ok(1) if ours => stock.take().map(|spare| spare.waiting),
        // It was killed, or is not ours: without its socket it ends.
        _ => {
            *stock = None;
            None
        }
    }
}

/// Puts a shim in stock, if there is none, without waiting for it.
pub(super) fn replenish() {
    if stock().is_some() || STARTING.swap(true, Ordering::AcqRel) {
        return;
    }
    let started = Started;
    tokio::spawn(async move {
        // The calling thread is suspended while a process is made, and the runtime has few.
        let Ok(Ok(waiting)) = tokio::task::spawn_blocking(start).await else { return };
        let (taken, was_taken) = oneshot::channel();
        let pid = waiting.shim.pid();
        *stock() = Some(Spare { waiting, runtime: Handle::current().id(), _taken: taken });
        drop(started);
        if tokio::time::timeout(KEPT, was_taken).await.is_err() {
            let unused = stock().take_if(|spare| spare.waiting.shim.pid() == pid);
            if let Some(Spare { waiting: Waiting { control, mut shim }, .. }) = unused {
                drop(control);
                let _ = shim.wait().await;
            }
        }
    });
}

/// Allows the next start when dropped, also by a runtime that ends.
struct Started;

impl Drop for Started {
    fn drop(&mut self) {
        STARTING.store(false, Ordering::Release);
    }
}
