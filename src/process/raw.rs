//! The `unsafe` of this folder, and nothing else.
//!
//! What no safe wrapper offers: resetting signal dispositions, taking ownership of a descriptor that arrived by number,
//! reaping a child that ended by a real-time signal, a priority, and code that runs between `fork` and `exec`.

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

/// One past the highest signal number on Linux.
const SIGNALS: i32 = 65;

/// Sets every signal to its default disposition. Ignored signals are inherited across `exec`: a server started by
/// `nohup` would hand its deafness to every program, and an ignored SIGCHLD would take the exit codes away.
pub(super) fn default_signals() {
    // The kernel's own structure, larger than it is on any 64-bit machine: handler SIG_DFL, no flags, an empty mask.
    let default = [0_u64; 8];
    let mask_size = size_of::<u64>();
    for signal in 1..SIGNALS {
        // Not by the C library, which refuses its own two signals (32, 33) after `posix_spawn` has set them to ignored.
        //
        // SAFETY: the kernel reads `default` during the call and writes nothing. SIG_DFL installs no code of ours, and
        // what the standard library has installed (SIGPIPE, a message on stack overflow) the shim can do without.
        // SIGKILL and SIGSTOP fail without effect.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), mask_size);
        }
    }
}

/// Takes ownership of descriptors that arrived in a control message.
pub(super) fn own(numbers: Vec<RawFd>) -> Vec<OwnedFd> {
    let own = |fd| {
        // SAFETY: the kernel made these descriptors for the receiver of the message; nobody else knows their numbers.
        unsafe { OwnedFd::from_raw_fd(fd) }
    };
    numbers.into_iter().map(own).collect()
}

/// Makes the program that `command` starts die with SIGKILL when its parent, the process `parent`, dies, and receive all
/// signals: it would inherit our mask.
pub(super) fn bind_to_parent(command: &mut Command, parent: Pid) {
    let nothing = SigSet::empty();
    let prepare = move || {
        nothing.thread_set_mask()?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // A parent that died before the line above sends no signal any more.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    };
    // SAFETY: between `fork` and `exec` only async-signal-safe calls are allowed: the closure makes three plain
    // system calls, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Reaps one child that has ended, whichever. `None` when all that are left still run, ECHILD when none are left.
///
/// The wrapper in `nix` answers EINVAL for a child that ended by a signal it has no name for, after reaping it.
pub(super) fn reap_any() -> Result<Option<(Pid, ExitStatus)>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for one int, and the call keeps no reference to it.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    let pid = Errno::result(pid)?;
    Ok((pid > 0).then(|| (Pid::from_raw(pid), ExitStatus::from_raw(status))))
}

/// Takes precedence over other processes, if the system lets us.
pub(super) fn hurry() {
    // SAFETY: three numbers and no memory. It fails without effect for a user who may not.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, -20);
    }
}
