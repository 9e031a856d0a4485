//! A program that knows no protocol of ours: what it is told are lines on its standard input, what it says are lines.
//!
//! Owns the one turn that such a program has: its whole life, from its start to its exit code. A prompt is all that it is
//! told, and its input ends behind it; without one its input stays open for what the user says meanwhile.

use super::{Cancel, Failure, Handler, Reply, Sink, Turn};
use crate::model::{Event, Fault, FaultCode, OutputStream, ProcessEnd, SessionId};
use crate::process::{
    Child, Environment, Exit, Launch, LaunchError, Limits, Line, LineReader, OnExit, Running, StdinFrom, Tail, launch,
};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio_util::task::TaskTracker;

/// Said to a turn while it runs, it is no line for the program but the signal that a terminal makes of this character.
pub const INTERRUPT: &str = "\u{3}";

/// Whole lines up to the longest that any agent may say.
const LIMITS: Limits = Limits { json: 72 << 20, log: 72 << 20 };
/// Lines that wait for a program which does not read, in bytes; what comes then waits with the turn.
const UNREAD: usize = 1 << 20;
/// How long it may take to end after SIGTERM, at most: its turn ends with the engine's patience.
const GRACE: Duration = Duration::from_secs(1);
/// How long an output is read that nothing of the program holds any more.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is started.
#[derive(Debug, Clone)]
pub struct PlainProgram {
    /// What it is called.
    pub name: String,
    /// A path, or a name that is looked for in `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where it runs, unless its turn says otherwise.
    pub cwd: PathBuf,
    /// The server's own environment.
    pub environment: Environment,
}

/// Runs turns with such a program, each with a process of its own.
pub struct Plain {
    program: PlainProgram,
    /// How its events call it.
    command: Arc<str>,
    tasks: TaskTracker,
    /// Those that were started ahead of their turn.
    ahead: Mutex<HashMap<SessionId, Running>>,
}

impl Plain {
    /// An agent whose processes are owned by tasks of `tasks`.
    #[must_use]
    pub fn new(program: PlainProgram, tasks: TaskTracker) -> Self {
        let command = program.name.as_str().into();
        Self { program, command, tasks, ahead: Mutex::default() }
    }

    fn launch(&self, turn: &Turn) -> Result<Running, LaunchError> {
        let own = &self.program;
        let asked = Launch {
            program: own.program.clone(),
            args: own.args.clone(),
            cwd: Some(turn.request.cwd.clone().unwrap_or_else(|| own.cwd.clone())),
            env: turn.environment(&own.environment),
            stdin: StdinFrom::Pipe,
            channel: false,
            on_exit: OnExit::KillRest,
            grace: GRACE,
        };
        launch(asked, &self.tasks)
    }

    fn ahead(&self) -> MutexGuard<'_, HashMap<SessionId, Running>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what it says until nothing more comes: how it ended, and the last of its standard error.
    async fn listen(&self, turn: &Turn, running: Running, sink: &Sink, cancel: &Cancel) -> (Exit, String) {
        let Running { stdin, stdout, stderr, child, .. } = running;
        let (mut stdout, mut stderr) = (Some(LineReader::new(stdout, LIMITS)), Some(LineReader::new(stderr, LIMITS)));
        let mut tail = Tail::new(Tail::USUAL);
        let telling = tell(turn, stdin, &child);
        tokio::pin!(telling);
        // Nothing of it is left to hold a pipe open then; somebody else may.
        let forsaken = async {
            child.gone().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::pin!(forsaken);
        let mut is_stopped = false;
        // It may close both and go on.
        let exit = loop {
            let is_silent = stdout.is_none() && stderr.is_none();
            let (stream, line) = tokio::select! {
                biased;
                () = cancel.fired(), if !is_stopped => {
                    // What it still says is heard.
                    child.stop(GRACE);
                    is_stopped = true;
                    continue;
                }
                line = next(&mut stdout) => (OutputStream::Stdout, line),
                line = next(&mut stderr) => (OutputStream::Stderr, line),
                () = &mut telling => continue,
                exit = child.exited(), if is_silent => break exit,
                () = &mut forsaken => break child.exited().await,
            };
            let event = match line {
                Some(Line::Json(text) | Line::Log { text, cut: false }) => {
                    if stream == OutputStream::Stderr {
                        tail.push(&text);
                        tail.push(b"\n");
                    }
                    let text = String::from_utf8_lossy(&text).into_owned();
                    Event::CommandOutput { stream, text, command: self.command.clone() }
                }
                Some(Line::Log { cut: true, .. } | Line::TooLong) => {
                    let text = "a line of the agent was too long and is left out".to_owned();
                    Event::Warning { text, field: None }
                }
                None => {
                    let ended = if stream == OutputStream::Stdout { &mut stdout } else { &mut stderr };
                    *ended = None;
                    continue;
                }
            };
            let _ = sink.say(event).await;
        };
        child.gone().await;
        (exit, tail.text())
    }
}

impl Handler for Plain {
    fn name(&self) -> &str {
        &self.program.name
    }

    async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        let started = self.ahead().remove(&turn.session);
        let running = match started {
            Some(running) => running,
            None => self.launch(&turn).map_err(|error| unavailable(&error))?,
        };
        running.child.started().await.map_err(|error| unavailable(&error))?;
        let _ = sink.say(Event::Progress { kind: "started".to_owned(), detail: None }).await;
        let (exit, stderr_tail) = self.listen(&turn, running, &sink, &cancel).await;
        if cancel.has_fired() {
            return Err(Failure::cancelled());
        }
        match &exit {
            Exit::Code(0) => return Ok(Reply::text("")),
            Exit::NotStarted(error) => return Err(unavailable(error)),
            _ => {}
        }
        let mut fault = Fault::new(FaultCode::HandlerExited, format!("{} {exit}", self.program.name));
        fault.process = Some(ProcessEnd { exit_code: exit.code(), signal: exit.signal(), stderr_tail });
        Err(fault.into())
    }

    async fn prepare(&self, turn: Turn) -> Option<u32> {
        let running = self.launch(&turn).ok()?;
        let pid = running.child.started().await.ok()?;
        self.ahead().insert(turn.session.clone(), running);
        Some(pid)
    }

    fn session_ended(&self, session: &SessionId) {
        // Dropped, it is stopped.
        self.ahead().remove(session);
    }

    async fn end_session(&self, session: &SessionId, grace: Duration) {
        let started = self.ahead().remove(session);
        if let Some(running) = started {
            running.child.stop(grace);
            running.child.gone().await;
        }
    }

    async fn stop(&self, grace: Duration) {
        let all = std::mem::take(&mut *self.ahead());
        let ends = all.into_values().map(|running| async move {
            running.child.stop(grace);
            running.child.gone().await;
        });
        futures_util::future::join_all(ends).await;
    }
}

fn unavailable(error: &LaunchError) -> Failure {
    Fault::new(FaultCode::HandlerUnavailable, error.to_string()).into()
}

async fn next(lines: &mut Option<LineReader<pipe::Receiver>>) -> Option<Line> {
    match lines {
        Some(lines) => lines.next().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Tells the program what its user says. Does not come back: a program that has closed its input is told nothing more, and
/// can be interrupted all the same.
async fn tell(turn: &Turn, mut stdin: Option<pipe::Sender>, child: &Child) {
    let mut unread: VecDeque<u8> = VecDeque::new();
    let prompt = &turn.request.prompt;
    let is_all = !prompt.is_empty();
    if is_all {
        unread.extend(prompt.bytes());
        unread.push_back(b'\n');
    }
    turn.inputs.listen();
    loop {
        if unread.is_empty() && is_all {
            stdin = None;
        }
        let (bytes, _) = unread.as_slices();
        let written = async {
            match &mut stdin {
                Some(stdin) if !bytes.is_empty() => stdin.write(bytes).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            text = turn.inputs.next(), if unread.len() < UNREAD => match text.as_str() {
                INTERRUPT => child.interrupt(),
                text if stdin.is_some() && !is_all => {
                    unread.extend(text.bytes());
                    unread.push_back(b'\n');
                }
                _ => {}
            },
            written = written => match written {
                Ok(length) if length > 0 => drop(unread.drain(..length)),
                _ => {
                    stdin = None;
                    unread.clear();
                }
            },
        }
    }
}
