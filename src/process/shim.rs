//! What runs in the re-executed binary: one process that starts one program and outlives all its descendants.
//!
//! Owns the program's tree. Single-threaded, without a runtime, and it has to start fast: every command pays for it.
//! It knows its server only as a socket, which is its standard input.

use super::raw;
use super::talk::{Ask, LENGTH_BYTES, OnExit, Plan, Report, StdinFrom, Step, take_line};
use super::tree::{self, Killer, Tree};
use command_fds::{CommandFdExt, FdMapping};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recv, recvmsg, send};
use nix::unistd::{Pid, close, dup2_stderr, dup2_stdin, dup2_stdout, getpid, setsid};
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The hidden first argument that makes this binary a shim.
pub(super) const MARK: &str = "__shim";

/// The descriptors on which a program finds its channel: it reads the first and writes the second.
const CHANNEL: [RawFd; 2] = [3, 4];

/// Standard output and error, standard input, and the two of the channel.
const MOST_FDS: usize = 5;

/// How long a tree may take to end once its server has died.
const ORPHAN_GRACE: Duration = Duration::from_millis(500);

/// How often a tree that is being killed is looked at again: after this time first, then less and less often.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How long SIGKILL may go without ending anything before we give up: a process of another user, or one that hangs in
/// the kernel.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How long ended processes are reaped before the living ones are looked at again: a tree that keeps forking must keep us
/// neither here nor, by filling the process table with its dead, from finding the living.
const REAP_TIME: Duration = Duration::from_millis(50);

static ASKED: AtomicBool = AtomicBool::new(false);

/// Runs this process as a shim if it was started as one, and returns its exit code. To be called first thing in `main`.
#[must_use = "a process that was asked to be a shim must end with this code"]
pub fn run_if_asked() -> Option<i32> {
    ASKED.store(true, Ordering::Relaxed);
    (std::env::args_os().nth(1)? == MARK).then(run)
}

/// Whether this program calls [`run_if_asked`], so that a copy of it works as a shim.
pub(super) fn is_wired() -> bool {
    ASKED.load(Ordering::Relaxed)
}

fn run() -> i32 {
    close_inherited();
    raw::default_signals();
    // Not our own name: a `pkill -9` or `killall -9` for the server would get the shims as well, and the trees would
    // outlive both.
    let _ = prctl::set_name(c"shim");
    let control = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(fd) => UnixStream::from(fd),
        Err(error) => return refuse(&error),
    };
    // Before anything is read: a SIGTERM from now on is asked for, not suffered.
    let signals = match prepare() {
        Ok(signals) => signals,
        Err(error) => return refuse(&error),
    };
    report(&control, Report::Ready);
    let (plan, fds) = match receive(&control) {
        Ok(received) => received,
        Err(error) => return refuse(&error),
    };
    // A shim may have waited long for its plan: what it was sent meanwhile was not about this program.
    while let Ok(Some(_)) = signals.read_signal() {}
    match start(&plan, fds) {
        Ok(main) => {
            report(&control, Report::Started(main.as_raw()));
            let keeper = Keeper {
                control: Some(control),
                signals,
                me: getpid(),
                main,
                main_lives: true,
                on_exit: plan.on_exit,
                grace: plan.grace,
                phase: Phase::Keeping,
                code: 0,
                input: Vec::new(),
            };
            keeper.keep()
        }
        Err((step, error)) => {
            let errno = error.raw_os_error().unwrap_or(0);
            report(&control, Report::Failed(step, errno));
            if errno == Errno::ENOENT as i32 { 127 } else { 126 }
        }
    }
}

/// Somebody called the hidden command by hand, or the server died before it said what to run.
#[expect(clippy::print_stderr, reason = "a shim has no log")]
fn refuse(error: &io::Error) -> i32 {
    eprintln!("{MARK} is for the server's own use: {error}");
    2
}

/// The server may have inherited descriptors from whoever started it. A program must not get them, and neither must we
/// hold them: an open pipe end keeps its reader waiting.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // The descriptor that listed the directory is among them and already closed; that error is as good as success.
        let _ = close(fd);
    }
}

/// Reads the plan and the descriptors that go with it.
fn receive(control: &UnixStream) -> io::Result<(Plan, Vec<OwnedFd>)> {
    let mut length = [0; LENGTH_BYTES];
    let mut space = cmsg_space!([RawFd; MOST_FDS]);
    let mut buffers = [IoSliceMut::new(&mut length)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    let message = recvmsg::<UnixAddr>(control.as_raw_fd(), &mut buffers, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            fds.extend(raw::own(numbers));
        }
    }
    if message.bytes != LENGTH_BYTES {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    (&*control).read_exact(&mut body)?;
    let plan = Plan::decode(&body).ok_or(io::ErrorKind::InvalidData)?;
    Ok((plan, fds))
}

/// Makes this process the keeper of what it will start.
fn prepare() -> io::Result<SignalFd> {
    // A session of our own: a terminal's Ctrl-C reaches the server only, and no process group in it is anybody else's.
    setsid()?;
    prctl::set_child_subreaper(true)?;
    // All of them, so that no stray signal ends the keeper; those we act on are read from a descriptor.
    SigSet::all().thread_block()?;
    let mut acted_on = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        acted_on.add(signal);
    }
    Ok(SignalFd::with_flags(&acted_on, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Starts the program and lets go of everything that is its own.
fn start(plan: &Plan, fds: Vec<OwnedFd>) -> Result<Pid, (Step, io::Error)> {
    let setup = |error| (Step::Setup, error);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(setup)?;
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| setup(io::ErrorKind::InvalidData.into()));
    let errno = |error: Errno| setup(error.into());
    dup2_stdout(next()?).map_err(errno)?;
    dup2_stderr(next()?).map_err(errno)?;
    match plan.stdin {
        StdinFrom::Null => dup2_stdin(&null),
        StdinFrom::Pipe => dup2_stdin(next()?),
    }
    .map_err(errno)?;

    #[expect(clippy::disallowed_methods, reason = "this is the shim")]
    let mut command = Command::new(&plan.program);
    command.args(&plan.args).process_group(0);
    // The program is looked up in the PATH of this environment, not of ours.
    command.env_clear().envs(plan.env.iter().map(|(name, value)| (name, value)));
    raw::bind_to_parent(&mut command, getpid());
    if plan.channel {
        let mut mappings = Vec::new();
        for child_fd in CHANNEL {
            mappings.push(FdMapping { parent_fd: next()?, child_fd });
        }
        command.fd_mappings(mappings).map_err(|error| setup(io::Error::other(error)))?;
    }
    // Entered here and not by `Command`, whose error could not tell a missing directory from a missing program.
    if let Some(cwd) = &plan.cwd {
        std::env::set_current_dir(cwd).map_err(|error| (Step::Directory, error))?;
    }
    let child = command.spawn().map_err(|error| (Step::Program, error))?;

    // Pipes end when the program and its descendants have closed them; we must not be one more holder. Nor should we
    // keep a directory busy.
    let _ = dup2_stdin(&null);
    let _ = dup2_stdout(&null);
    let _ = dup2_stderr(&null);
    let _ = std::env::set_current_dir("/");
    i32::try_from(child.id()).map(Pid::from_raw).map_err(|error| setup(io::Error::other(error)))
}

/// Tells the server something. It may be dead; then there is nobody to tell.
fn report(control: &UnixStream, report: Report) {
    // The dispositions are at their defaults: without the flag a dead server would kill us by SIGPIPE.
    let _ = send(control.as_raw_fd(), report.to_string().as_bytes(), MsgFlags::MSG_NOSIGNAL);
}

/// Where the life of a tree is.
enum Phase {
    /// The main child runs, or it ended and its descendants are spared.
    Keeping,
    /// Everything was asked to end, and has until then.
    Ending { until: Instant, asked: HashSet<Pid> },
    /// Everything is being killed.
    Killing { pause: Duration, progress: Instant },
}

/// Keeps a started tree until nothing of it is left.
struct Keeper {
    control: Option<UnixStream>,
    signals: SignalFd,
    me: Pid,
    main: Pid,
    main_lives: bool,
    on_exit: OnExit,
    grace: Duration,
    phase: Phase,
    code: i32,
    input: Vec<u8>,
}

impl Keeper {
    fn keep(mut self) -> i32 {
        loop {
            if self.reap() {
                return self.code;
            }
            let pause = match self.phase {
                Phase::Keeping => None,
                Phase::Ending { until, .. } => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        self.kill();
                        continue;
                    }
                    Some(left)
                }
                Phase::Killing { pause, progress } => {
                    let mut killer = Killer::new(self.me);
                    let left = Tree::new().descendants(self.me, |child| killer.kill(child));
                    if progress.elapsed() > GIVE_UP {
                        self.report(Report::Left(left.len()));
                        return self.code;
                    }
                    for pid in left {
                        killer.kill(pid);
                    }
                    self.phase = Phase::Killing { pause: (pause * 2).min(LONGEST_PAUSE), progress };
                    Some(pause)
                }
            };
            self.wait(pause);
        }
    }

    /// Takes leave of the children that have ended. True when there are no others.
    fn reap(&mut self) -> bool {
        let begun = Instant::now();
        let mut any = false;
        while begun.elapsed() < REAP_TIME {
            let (pid, status) = match raw::reap_any() {
                Ok(Some(ended)) => ended,
                Ok(None) => break,
                Err(error) => return error == Errno::ECHILD,
            };
            any = true;
            if let Phase::Killing { pause, progress } = &mut self.phase {
                (*pause, *progress) = (SHORTEST_PAUSE, Instant::now());
            }
            if pid == self.main {
                let signal = status.signal();
                self.code = status.code().unwrap_or(128 + signal.unwrap_or(0));
                // First of all: whoever waits for the command should not wait for its descendants' end.
                self.report(signal.map_or(Report::Exit(self.code), Report::Signal));
                if self.on_exit == OnExit::KillRest && matches!(self.phase, Phase::Keeping) {
                    self.kill();
                }
                self.main_lives = false;
            }
        }
        if any {
            self.stop_orphans();
        }
        false
    }

    /// Waits until a child ended, somebody asked something, or the time is over.
    fn wait(&mut self, at_most: Option<Duration>) {
        let timeout = at_most.map_or(PollTimeout::NONE, |time| {
            // Rounded up: a poll of 0 ms for the last fraction of one would spin.
            PollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
        });
        let control = self.control.as_ref().map(AsFd::as_fd);
        let watched = [Some(self.signals.as_fd()), control].into_iter().flatten();
        let mut watched: Vec<PollFd<'_>> =
            watched.map(|fd: BorrowedFd<'_>| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = poll(&mut watched, timeout);
        let asked = watched.get(1).is_some_and(|control| control.any().unwrap_or(true));
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // SIGCHLD only wakes us; the others ask for an end.
            if i32::try_from(signal.ssi_signo) != Ok(Signal::SIGCHLD as i32) {
                self.stop(self.grace);
            }
        }
        if asked {
            self.listen();
        }
    }

    /// Does what the server asks. Its end of file means that it died.
    fn listen(&mut self) {
        let Some(control) = &self.control else { return };
        let mut buffer = [0; 256];
        match recv(control.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Ok(0) | Err(_) => {
                self.control = None;
                self.stop(ORPHAN_GRACE);
                return;
            }
            Ok(length) => self.input.extend_from_slice(&buffer[..length]),
        }
        while let Some(line) = take_line(&mut self.input) {
            match Ask::parse(&line, self.grace) {
                Some(Ask::Stop(grace)) => self.stop(grace),
                Some(Ask::Kill) => self.kill(),
                Some(Ask::Interrupt) if self.main_lives => tree::interrupt_group(self.main),
                Some(Ask::Interrupt) | None => {}
            }
        }
    }

    /// The ladder: everything is asked to end now, and killed after the grace. Asked again, only the time gets shorter.
    fn stop(&mut self, grace: Duration) {
        let no_later = Instant::now() + grace;
        match &mut self.phase {
            _ if grace.is_zero() => self.kill(),
            Phase::Keeping => {
                let all = Tree::new().descendants(self.me, drop);
                tree::terminate(self.main_lives.then_some(self.main), &all);
                self.phase = Phase::Ending { until: no_later, asked: all.into_iter().collect() };
            }
            Phase::Ending { until, .. } => *until = no_later.min(*until),
            Phase::Killing { .. } => {}
        }
    }

    /// Asks those to end whose parent was asked and has ended: they were forked while the tree was listed. What a parent
    /// that still runs has started since is left to it, it may be its way of cleaning up.
    fn stop_orphans(&mut self) {
        if let Phase::Ending { asked, .. } = &mut self.phase {
            let mut orphans = Tree::new().children(self.me);
            orphans.retain(|pid| asked.insert(*pid));
            tree::terminate(None, &orphans);
        }
    }

    /// Everything is killed from now on. The main child's group goes first and unseen: most of what forks faster than it
    /// can be listed is in there.
    fn kill(&mut self) {
        if !matches!(self.phase, Phase::Killing { .. }) {
            // A dead child's number is free for others some time after it was reaped; at that very moment it is not.
            if self.main_lives {
                tree::kill_group(self.main);
            }
            raw::hurry();
            self.phase = Phase::Killing { pause: SHORTEST_PAUSE, progress: Instant::now() };
        }
    }

    fn report(&self, said: Report) {
        if let Some(control) = &self.control {
            report(control, said);
        }
    }
}
