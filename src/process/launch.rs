//! Starting a program: its pipes, its shim, and what can go wrong.
//!
//! Ends where the program runs: from there on it belongs to its owner task in `child`.

use super::child::{Child, Owner};
use super::environment::Environment;
use super::shim;
use super::spare::{self, Waiting};
use super::talk::{OnExit, Plan, StdinFrom, Step};
use crate::telemetry::carried;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IoSlice, PipeReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio_util::task::TaskTracker;

/// How much a pipe may hold through which much goes, where the system allows it: both its ends are woken less often.
const PIPE_SIZE: i32 = 256 * 1024;

/// A program to be started.
#[derive(Clone)]
pub struct Launch {
    /// A path, or a name that is looked up in the `PATH` of `env`, by the rules of `execvp`: a name without a slash in an
    /// environment without `PATH` is looked for in `/bin` and `/usr/bin`.
    pub program: OsString,
    /// What follows the program's own name.
    pub args: Vec<OsString>,
    /// The working directory; the server's own if absent. A relative path in `program` starts here.
    pub cwd: Option<PathBuf>,
    /// All variables the program gets.
    pub env: Environment,
    /// Where its input comes from.
    pub stdin: StdinFrom,
    /// Whether it gets two more pipes: it reads descriptor 3 and writes descriptor 4.
    pub channel: bool,
    /// What becomes of its descendants once it has ended.
    pub on_exit: OnExit,
    /// How long it may take to end after SIGTERM when nobody says otherwise.
    pub grace: Duration,
}

/// Arguments may hold prompts, so only their number is shown.
impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("program", &self.program)
            .field("args", &self.args.len())
            .field("cwd", &self.cwd)
            .field("env", &self.env)
            .field("stdin", &self.stdin)
            .field("channel", &self.channel)
            .field("on_exit", &self.on_exit)
            .field("grace", &self.grace)
            .finish()
    }
}

/// A started program: our ends of its pipes, and its handle.
#[derive(Debug)]
pub struct Running {
    /// Its standard input, with [`StdinFrom::Pipe`]. Dropping it is its end of file.
    pub stdin: Option<pipe::Sender>,
    /// Its standard output.
    pub stdout: pipe::Receiver,
    /// Its standard error.
    pub stderr: pipe::Receiver,
    /// What it reads on 3 and writes on 4, if it was given a channel.
    pub channel: Option<(pipe::Sender, pipe::Receiver)>,
    /// Its handle.
    pub child: Child,
}

/// Why a program could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot start {program}: {cause}")]
pub struct LaunchError {
    /// The program, as it was asked for.
    pub program: String,
    /// What is wrong.
    pub cause: LaunchCause,
}

/// What is wrong with a program that could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchCause {
    /// No such file, or no such name in `PATH`.
    #[error("program not found")]
    NotFound,
    /// The file exists, what its first line names does not (or the loader of a binary does not).
    #[error("the interpreter it needs was not found")]
    NoInterpreter,
    /// A file without the permission, or a directory.
    #[error("it is not executable")]
    NotExecutable,
    /// A binary of another machine, or no program at all.
    #[error("it is not a program this machine can run")]
    WrongFormat,
    /// The working directory cannot be entered.
    #[error("working directory {}: {reason}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The limit of processes is reached.
    #[error("too many processes are running")]
    TooManyProcesses,
    /// The limit of open files is reached.
    #[error("too many files are open")]
    TooManyFiles,
    /// No memory for one more process.
    #[error("out of memory")]
    OutOfMemory,
    /// More than the system passes on to a program. One argument or variable may have 128 KiB.
    #[error("its arguments and environment are too long")]
    TooLong,
    /// Text that cannot be passed to a program.
    #[error("an argument or variable contains a NUL byte, or a variable's name is empty or contains `=`")]
    BadText,
    /// This program does not call [`super::run_if_asked`].
    #[error("this program does not call `run_if_asked` first thing in `main`")]
    NotWired,
    /// Anything else the system says.
    #[error("{0}")]
    Other(String),
}

impl LaunchError {
    /// The code a shell would end with: 127 for a program that was not found, 126 for one that cannot be run.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        if self.cause == LaunchCause::NotFound { 127 } else { 126 }
    }

    pub(super) fn new(program: &OsStr, cause: LaunchCause) -> Self {
        Self { program: program.to_string_lossy().into_owned(), cause }
    }
}

impl From<io::Error> for LaunchCause {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => Self::NotFound,
            Some(Errno::EACCES) => Self::NotExecutable,
            Some(Errno::ENOEXEC) => Self::WrongFormat,
            Some(Errno::EAGAIN) => Self::TooManyProcesses,
            Some(Errno::EMFILE | Errno::ENFILE) => Self::TooManyFiles,
            Some(Errno::ENOMEM) => Self::OutOfMemory,
            Some(Errno::E2BIG) => Self::TooLong,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// What was asked for, as far as telling a failure needs it.
#[derive(Debug)]
pub(super) struct Asked {
    program: OsString,
    cwd: Option<PathBuf>,
    path: Option<OsString>,
}

impl Asked {
    pub(super) fn program(&self) -> &OsStr {
        &self.program
    }

    /// The failure a shim reported, in words.
    pub(super) fn failure(&self, step: Step, errno: i32) -> LaunchError {
        let error = io::Error::from_raw_os_error(errno);
        let cause = match (step, LaunchCause::from(error)) {
            (Step::Directory, _) => {
                let path = self.cwd.clone().unwrap_or_default();
                LaunchCause::Directory { path, reason: Errno::from_raw(errno).desc().to_owned() }
            }
            (Step::Setup, LaunchCause::NotFound) => LaunchCause::Other("/dev/null is missing".to_owned()),
            (Step::Program, LaunchCause::NotFound) if self.is_path() && self.exists_in(Path::new("")) => {
                LaunchCause::NoInterpreter
            }
            // A directory in PATH that we may not enter gives this answer as well.
            (Step::Program, LaunchCause::NotExecutable) if !self.is_path() && !self.exists_in_path() => {
                LaunchCause::NotFound
            }
            (_, cause) => cause,
        };
        LaunchError::new(&self.program, cause)
    }

    fn is_path(&self) -> bool {
        self.program.as_bytes().contains(&b'/')
    }

    fn exists_in(&self, directory: &Path) -> bool {
        self.cwd.as_deref().unwrap_or(Path::new("")).join(directory).join(&self.program).exists()
    }

    fn exists_in_path(&self) -> bool {
        self.path.as_ref().is_some_and(|path| std::env::split_paths(path).any(|directory| self.exists_in(&directory)))
    }
}

/// Starts a program. Its owner task is spawned on the current runtime through `tasks`.
///
/// This returns when a shim has its orders; whether the program itself could be started is known a moment later, from
/// [`Child::started`] or [`Child::exited`]. Usually a shim is waiting. If not, the calling thread is suspended while
/// the system makes one, a fraction of a millisecond whatever the size of the server: it is not forked.
///
/// To be called from a thread of the main runtime, like everything that spawns tasks: the owner task of a child
/// started on an actix worker would end with that worker.
///
/// # Errors
///
/// When the system has no room for the pipes or the process, or when no program could be given such arguments.
///
/// # Panics
///
/// Outside a tokio runtime with IO and time.
pub fn launch(launch: Launch, tasks: &TaskTracker) -> Result<Running, LaunchError> {
    let path = launch.env.get("PATH").map(OsStr::to_owned);
    let asked = Asked { program: launch.program.clone(), cwd: launch.cwd.clone(), path };
    let failed = |cause| LaunchError::new(&asked.program, cause);
    if !shim::is_wired() {
        return Err(failed(LaunchCause::NotWired));
    }
    let plan = Plan {
        on_exit: launch.on_exit,
        grace: launch.grace,
        stdin: launch.stdin,
        channel: launch.channel,
        cwd: launch.cwd,
        program: launch.program,
        args: launch.args,
        env: launch.env.into_pairs(),
    };
    let message = plan.encode().ok_or_else(|| failed(LaunchCause::BadText))?;
    let (ends, theirs) = Ends::new(plan.stdin, plan.channel).map_err(|error| failed(error.into()))?;
    let (Waiting { control, shim }, sent) = hand_over(&message, &theirs).map_err(|error| failed(own_failure(error)))?;
    drop(theirs);
    spare::replenish();
    let control = tokio::net::UnixStream::from_std(control).map_err(|error| failed(error.into()))?;
    let (owner, child) = Owner::new(control, shim, message[sent..].to_vec(), &plan, asked);
    tasks.spawn(carried(owner.run()));
    let Ends { stdin, stdout, stderr, channel } = ends;
    Ok(Running { stdin, stdout, stderr, channel, child })
}

/// Gives a shim its plan and the program's ends of the pipes. What of the plan the socket does not hold is left to
/// the owner task: the number says how much was sent.
fn hand_over(message: &[u8], theirs: &[OwnedFd]) -> io::Result<(Waiting, usize)> {
    let numbers: Vec<_> = theirs.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let send = |shim: Waiting| -> io::Result<_> {
        let (to, data) = (shim.control.as_raw_fd(), [IoSlice::new(message)]);
        let sent = sendmsg::<UnixAddr>(to, &data, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok((shim, sent))
    };
    // One that waited may have been killed meanwhile.
    if let Some(Ok(sent)) = spare::take().map(send) {
        return Ok(sent);
    }
    send(spare::start()?)
}

/// A failure to start the shim itself: a missing file is then not the program's.
fn own_failure(error: io::Error) -> LaunchCause {
    match LaunchCause::from(error) {
        LaunchCause::NotFound => LaunchCause::Other("the server's own binary cannot be started again".to_owned()),
        cause => cause,
    }
}

/// The server's ends of a program's pipes.
struct Ends {
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    channel: Option<(pipe::Sender, pipe::Receiver)>,
}

impl Ends {
    /// Our ends, and the program's in the order in which the shim takes them: standard output and error, standard input
    /// if it is piped, the channel. Those stay blocking, as programs expect; the ends of a pipe are separate descriptions.
    fn new(stdin: StdinFrom, channel: bool) -> io::Result<(Self, Vec<OwnedFd>)> {
        let (stdout, their_stdout) = io::pipe()?;
        let (stderr, their_stderr) = io::pipe()?;
        let mut theirs = vec![their_stdout.into(), their_stderr.into()];
        // What a user may have in pipes is limited, and beyond that limit every new pipe is tiny: those that carry a log only
        // stay as they are.
        if !channel {
            widen(&stdout);
        }
        let stdout = pipe::Receiver::from_owned_fd(stdout.into())?;
        let stderr = pipe::Receiver::from_owned_fd(stderr.into())?;
        let sender = |theirs: &mut Vec<OwnedFd>| {
            let (reader, writer) = io::pipe()?;
            widen(&reader);
            theirs.push(reader.into());
            pipe::Sender::from_owned_fd(writer.into())
        };
        let stdin = match stdin {
            StdinFrom::Null => None,
            StdinFrom::Pipe => Some(sender(&mut theirs)?),
        };
        let channel = if channel {
            let to = sender(&mut theirs)?;
            let (from, writer) = io::pipe()?;
            theirs.push(writer.into());
            widen(&from);
            Some((to, pipe::Receiver::from_owned_fd(from.into())?))
        } else {
            None
        };
        Ok((Self { stdin, stdout, stderr, channel }, theirs))
    }
}

fn widen(pipe: &PipeReader) {
    // A wish: an unprivileged user's budget may be spent.
    let _ = fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(program: &str, step: Step, errno: Errno) -> String {
        let asked = Asked { program: program.into(), cwd: Some("/nowhere".into()), path: Some("/bin".into()) };
        asked.failure(step, errno as i32).to_string()
    }

    #[test]
    fn failures_are_told_in_a_sentence() {
        assert_eq!(cause("gone", Step::Program, Errno::ENOENT), "cannot start gone: program not found");
        assert_eq!(
            cause("/proc/self/stat", Step::Program, Errno::ENOENT),
            "cannot start /proc/self/stat: the interpreter it needs was not found"
        );
        assert_eq!(
            cause("sh", Step::Directory, Errno::ENOENT),
            "cannot start sh: working directory /nowhere: No such file or directory"
        );
        assert_eq!(cause("sh", Step::Program, Errno::EAGAIN), "cannot start sh: too many processes are running");
        assert_eq!(cause("sh", Step::Program, Errno::EACCES), "cannot start sh: it is not executable");
        assert_eq!(cause("no-sh", Step::Program, Errno::EACCES), "cannot start no-sh: program not found");
        assert!(cause("sh", Step::Program, Errno::ELOOP).starts_with("cannot start sh: "));
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(LaunchError::new("x".as_ref(), LaunchCause::NotFound).exit_code(), 127);
        assert_eq!(LaunchError::new("x".as_ref(), LaunchCause::NotExecutable).exit_code(), 126);
    }

    #[test]
    fn debug_shows_no_arguments() {
        let launch = Launch {
            program: "sh".into(),
            args: vec!["-c".into(), "hidden".into()],
            cwd: None,
            env: Environment::empty().with("A", "hidden"),
            stdin: StdinFrom::Null,
            channel: false,
            on_exit: OnExit::KillRest,
            grace: Duration::ZERO,
        };
        assert!(!format!("{launch:?}").contains("hidden"));
    }
}
