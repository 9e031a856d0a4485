//! Shell commands: started, listened to, and ended.
//!
//! Owns one command from its start to its end: the texts it says, in order per stream, and why it ended. What becomes of
//! the texts is the caller's business.

use super::child::{Child, Exit};
use super::environment::Environment;
use super::launch::{Launch, LaunchCause, LaunchError, Running, launch};
use super::talk::{OnExit, StdinFrom};
use super::text::Texts;
use crate::awake;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;

/// How long beyond its grace a stopped command's tree may take until its end is told all the same.
const OVERTIME: Duration = Duration::from_secs(1);

/// What is to be run.
#[derive(Debug, Clone)]
pub struct ShellCommand {
    /// What `/bin/sh -c` is given.
    pub command: String,
    /// The working directory, made if it is missing; the server's own if absent.
    pub cwd: Option<PathBuf>,
    /// All variables it gets.
    pub env: Environment,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// How long its tree may take to end after SIGTERM.
    pub grace: Duration,
    /// How long the pipes that descendants hold open may be silent once the shell has ended. `None` waits for ever.
    pub pipes_quiet: Option<Duration>,
}

/// One of a command's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShellStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Takes what a command says.
pub trait ShellOutput {
    /// The next text of a stream: at most 64 KiB, cut at character borders, with U+FFFD for what is no UTF-8. The command
    /// is read no further until this returns. It is dropped when the command has to be stopped meanwhile, so the text must
    /// be taken at the first poll.
    fn take(&mut self, stream: ShellStream, text: String) -> impl Future<Output = ()> + Send;
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellEnd {
    /// The shell's code; -1 if it did not end by itself.
    pub exit_code: i32,
    /// Why it did not.
    pub cut: Option<ShellCut>,
    /// How long it took.
    pub took: Duration,
    /// How many bytes it wrote to its standard output.
    pub stdout_bytes: u64,
}

/// Why a command did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShellCut {
    /// A signal ended the shell.
    Signal(i32),
    /// It took too long.
    Timeout,
    /// It was stopped.
    Stopped,
}

/// Runs a command to its end. Standard input is empty. When the shell has ended by itself its descendants are spared until
/// the server ends; when it is stopped, or takes too long, its whole tree is ended: SIGTERM, the grace, SIGKILL. `stop`
/// resolves when it is to be stopped, with the grace that it has then.
///
/// To be called in the main runtime's context, see [`launch()`]. Dropped before it returns, the tree is ended too.
///
/// # Errors
///
/// When the working directory cannot be made or entered, or no shell can be started.
pub async fn run_shell<O: ShellOutput>(
    command: ShellCommand,
    tasks: &TaskTracker,
    stop: impl Future<Output = Duration> + Send,
    output: &mut O,
) -> Result<ShellEnd, LaunchError> {
    let began = Instant::now();
    if let Some(cwd) = &command.cwd
        && let Err(error) = tokio::fs::create_dir_all(cwd).await
    {
        let cause = LaunchCause::Directory { path: cwd.clone(), reason: reason(&error) };
        return Err(LaunchError::new("/bin/sh".as_ref(), cause));
    }
    let launch_it = Launch {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), command.command.into()],
        cwd: command.cwd,
        env: command.env,
        stdin: StdinFrom::Null,
        channel: false,
        on_exit: OnExit::SpareRest,
        grace: command.grace,
    };
    let Running { stdout, stderr, child, .. } = launch(launch_it, tasks)?;
    let mut listening = Listening {
        child,
        stdout: Texts::new(stdout),
        stderr: Texts::new(stderr),
        deadline: command.timeout.map(|limit| began + limit),
        pipes_quiet: command.pipes_quiet,
    };
    tokio::pin!(stop);
    let ended = listening.listen(stop, command.grace, output).await;
    let (exit_code, cut) = match ended {
        Ended::ByItself(Exit::Code(code)) => (code, None),
        Ended::ByItself(Exit::Signal(signal)) => (-1, Some(ShellCut::Signal(signal))),
        Ended::ByItself(Exit::NotStarted(error)) => return Err(error),
        Ended::ByItself(Exit::Lost) => (-1, Some(ShellCut::Signal(9))),
        Ended::Cut(cut, grace) => {
            listening.end_tree(grace).await;
            (-1, Some(cut))
        }
    };
    let stdout_bytes = listening.stdout.bytes();
    listening.read_away();
    Ok(ShellEnd { exit_code, cut, took: began.elapsed(), stdout_bytes })
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => "it is not a directory".to_owned(),
        _ => error.to_string(),
    }
}

enum Ended {
    ByItself(Exit),
    Cut(ShellCut, Duration),
}

/// A command that runs.
struct Listening {
    child: Child,
    stdout: Texts<pipe::Receiver>,
    stderr: Texts<pipe::Receiver>,
    deadline: Option<Instant>,
    pipes_quiet: Option<Duration>,
}

impl Listening {
    async fn listen<O, S>(&mut self, mut stop: Pin<&mut S>, grace: Duration, output: &mut O) -> Ended
    where
        O: ShellOutput,
        S: Future<Output = Duration> + Send,
    {
        let mut exit = None;
        let mut last_text = Instant::now();
        let limit = awake::at(self.deadline);
        tokio::pin!(limit);
        loop {
            if let Some(exit) = &exit
                && !self.stdout.is_open()
                && !self.stderr.is_open()
            {
                return Ended::ByItself(Exit::clone(exit));
            }
            let quiet_at = exit.as_ref().and(self.pipes_quiet).map(|quiet| last_text + quiet);
            let (stream, text) = tokio::select! {
                biased;
                grace = &mut stop => return Ended::Cut(ShellCut::Stopped, grace),
                // A shell that has ended can no longer take too long; what it left behind is measured by its silence.
                () = &mut limit, if exit.is_none() => return Ended::Cut(ShellCut::Timeout, grace),
                text = self.stdout.next(), if self.stdout.is_open() => (ShellStream::Stdout, text),
                text = self.stderr.next(), if self.stderr.is_open() => (ShellStream::Stderr, text),
                ended = self.child.exited(), if exit.is_none() => {
                    exit = Some(ended);
                    last_text = Instant::now();
                    continue;
                }
                () = at(quiet_at) => {
                    let exit = exit.unwrap_or(Exit::Lost);
                    return Ended::ByItself(exit);
                }
            };
            let Some(text) = text else { continue };
            last_text = Instant::now();
            tokio::select! {
                biased;
                () = output.take(stream, text) => {}
                grace = &mut stop => return Ended::Cut(ShellCut::Stopped, grace),
                () = &mut limit, if exit.is_none() => return Ended::Cut(ShellCut::Timeout, grace),
            }
        }
    }

    /// Ends the tree, while what it still says is read away: a program that blocks on a full pipe could not end.
    async fn end_tree(&mut self, grace: Duration) {
        self.child.stop(grace);
        let (stdout, stderr) = (&mut self.stdout, &mut self.stderr);
        let away = async {
            tokio::join!(async { while stdout.next().await.is_some() {} }, async {
                while stderr.next().await.is_some() {}
            });
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = timeout(grace + OVERTIME, self.child.gone()) => {
                if ended.is_err() {
                    tracing::warn!("a stopped command has not ended yet");
                }
            }
            () = away => {}
        }
    }

    /// Reads on what descendants still hold open, so that they do not die of a closed pipe.
    fn read_away(self) {
        for texts in [self.stdout, self.stderr] {
            if texts.is_open() {
                // Not among the tracked tasks: nobody waits for what was spared.
                tokio::spawn(async move {
                    let mut reader = texts.into_inner();
                    let mut away = vec![0; 8192];
                    while reader.read(&mut away).await.is_ok_and(|read| read > 0) {}
                });
            }
        }
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
