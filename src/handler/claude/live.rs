//! One process of Claude Code.
//!
//! Owns its pipes: lines to it, lines from it, the last of what it says on standard error. What lines mean is the turn's
//! business, and whose process it is the pool's. Dropped, it is stopped with everything it started.

use super::Begin;
use crate::handler::Closed;
use crate::handler::agent_error::{AgentError, Category};
use crate::handler::chatter::{Serving, log_lines};
use crate::model::{Fault, ProcessEnd};
use crate::process::{Child, Exit, Launch, LaunchCause, LaunchError, Limits, Line, LineReader, Running, Tail, launch};
use crate::telemetry::Whose;
use bytes::Bytes;
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Lines that wait for a turn which waits for its readers. Beyond it the program waits.
const LINES: usize = 32;

/// A program that does not read its input for so long is dead.
const UNREAD: Duration = Duration::from_secs(30);

/// How long a program may take to end by itself once its input has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long the last of its standard error is waited for.
const LAST_LINES: Duration = Duration::from_millis(100);

/// A running program.
pub struct Live {
    child: Child,
    /// Until it is told that nothing more comes.
    stdin: Option<pipe::Sender>,
    lines: mpsc::Receiver<Line>,
    stderr: Arc<Mutex<Tail>>,
    /// The same, for a turn that passes it on. What nobody takes is lost; the log has it.
    asides: mpsc::Receiver<String>,
    listening: JoinHandle<()>,
    /// Whose turn it works on.
    pub serving: Serving,
    /// What it was started with.
    pub begin: Begin,
    /// The conversation, once it has told.
    pub session: Option<String>,
    /// Its version, once it has told.
    pub version: Option<String>,
    /// Whether it was told what holds for all its turns.
    pub is_initialized: bool,
    /// Names of variables that turns gave it. They cannot be taken back.
    pub variables: Vec<String>,
    /// The model that it was told.
    pub model: Option<String>,
    /// What it has cost so far.
    pub cost: f64,
    /// What it reads while it starts.
    pub file: Option<tempfile::TempPath>,
    /// One of the places that processes have.
    pub place: Option<OwnedSemaphorePermit>,
}

/// What a program says.
pub enum Heard {
    /// A line on standard output; `None` once there is none any more.
    Line(Option<Line>),
    /// Something on standard error.
    Stderr(String),
}

/// It has ended, or does not hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Live {
    /// Starts one.
    pub fn start(begin: Begin, asked: Launch, tasks: &TaskTracker) -> Result<Self, LaunchError> {
        let program = asked.program.to_string_lossy().into_owned();
        let Running { stdin, stdout, stderr, child, .. } =
            // It may outlive the turn that it is started for.
            Whose::here().beyond_the_turn().calls(|| launch(asked, tasks))?;
        let serving = Serving::default();
        let cause = || LaunchCause::Other("it has no input".to_owned());
        let stdin = stdin.ok_or_else(|| LaunchError { program, cause: cause() })?;
        let (to, lines) = mpsc::channel(LINES);
        tasks.spawn(read(stdout, to, serving.clone()));
        let tail = Arc::new(Mutex::new(Tail::new(Tail::USUAL)));
        let kept = tail.clone();
        let (aside, asides) = mpsc::channel(LINES);
        let note = move |bytes: &[u8]| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
            let _ = aside.try_send(String::from_utf8_lossy(bytes).into_owned());
        };
        let heard = serving.clone();
        let listening = tasks.spawn(async move { log_lines(stderr, "stderr", &heard, note).await });
        Ok(Self {
            child,
            stdin: Some(stdin),
            lines,
            stderr: tail,
            asides,
            listening,
            serving,
            begin,
            session: None,
            version: None,
            is_initialized: false,
            variables: Vec::new(),
            model: None,
            cost: 0.0,
            file: None,
            place: None,
        })
    }

    /// Sends a line.
    pub async fn send(&mut self, line: &impl Serialize) -> Result<(), Gone> {
        // Only strings, booleans and raw JSON are in there: writing them cannot fail.
        let mut line = serde_json::to_vec(line).unwrap_or_default();
        line.push(b'\n');
        let stdin = self.stdin.as_mut().ok_or(Gone)?;
        let sent = tokio::time::timeout(UNREAD, stdin.write_all(&line)).await;
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(Gone) }
    }

    /// The next line of stream-json; `None` once there is none any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Line::Json(line) = self.lines.recv().await? {
                return Some(line);
            }
        }
    }

    /// Its process id, once it runs. Cancel-safe.
    pub async fn pid(&self) -> Option<u32> {
        self.child.started().await.ok()
    }

    /// Comes back once it has ended, whoever has it by then. Cancel-safe.
    pub fn end(&self) -> impl Future<Output = Exit> + Send + use<> {
        self.child.end()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.child.has_ended()
    }

    /// Whether it has ended though nobody has told it to.
    pub fn has_left(&self) -> bool {
        self.has_ended() && !self.is_hung_up()
    }

    /// Tells it that nothing more comes.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    pub const fn is_hung_up(&self) -> bool {
        self.stdin.is_none()
    }

    /// Tells it that nothing more comes, and waits for its end, until it has been silent for `patience`. `None`: it is
    /// still there. Cancel-safe.
    pub async fn close(&mut self, patience: Option<Duration>) -> Option<Closed> {
        self.hang_up();
        let exit = loop {
            let silent = async {
                match patience {
                    Some(patience) => tokio::time::sleep(patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(_) = self.lines.recv() => {}
                exit = self.child.exited() => break exit,
                () = silent => return None,
            }
        };
        // What it started may hold its standard error open.
        let _ = tokio::time::timeout(LAST_LINES, &mut self.listening).await;
        let code = match exit {
            Exit::Code(code) => Some(code),
            Exit::Signal(signal) => Some(128 + signal),
            Exit::NotStarted(_) | Exit::Lost => None,
        };
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).text();
        Some(Closed::Ended { code, stderr, untold: self.last_asides().concat() })
    }

    /// The next line, or what it says on standard error meanwhile. Cancel-safe.
    pub async fn heard(&mut self) -> Heard {
        tokio::select! {
            biased;
            line = self.lines.recv() => Heard::Line(line),
            Some(text) = self.asides.recv() => Heard::Stderr(text),
        }
    }

    /// What it has said on standard error and nobody has taken.
    pub fn last_asides(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.asides.try_recv().ok()).collect()
    }

    /// Throws away what it said since its last turn. False when it has ended.
    pub fn is_quiet(&mut self) -> bool {
        loop {
            match self.lines.try_recv() {
                Ok(_) => {}
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Stops it and everything it started, and waits until nothing is left.
    pub async fn stop(self, grace: Duration) {
        self.child.stop(grace);
        self.child.gone().await;
    }

    /// Lets it end by itself: what it has to write is written then.
    pub async fn finish(self) {
        let Self { child, stdin, mut lines, .. } = self;
        drop(stdin);
        let drained = async { while lines.recv().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, async { tokio::join!(drained, child.exited()) }).await;
    }

    /// What a turn fails with whose program ended.
    pub async fn crash(&mut self, phase: &str) -> Fault {
        let exit = tokio::time::timeout(LAST_WORDS, self.child.exited()).await.unwrap_or(Exit::Lost);
        // Why is said on standard error, which somebody it started may hold open.
        let _ = tokio::time::timeout(LAST_LINES, &mut self.listening).await;
        let stderr_tail = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).text();
        let error = AgentError::new(Category::StartupCrash, format!("the Claude CLI {exit}"));
        let mut error = error.with("phase", phase).with("stderr_tail", stderr_tail.clone());
        // One that ran before may run again; one that did not start will not.
        error.is_retryable = phase == "turn";
        let mut fault = error.into_fault();
        fault.process = Some(ProcessEnd { exit_code: exit.code(), signal: exit.signal(), stderr_tail });
        fault
    }

    /// Whether it said on standard error that it does not know the conversation.
    pub fn says_unknown(&self) -> bool {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).text().contains("No conversation found")
    }
}

async fn read(stdout: pipe::Receiver, to: mpsc::Sender<Line>, serving: Serving) {
    let mut lines = LineReader::new(stdout, Limits::default());
    while let Ok(Some(line)) = lines.next().await {
        match &line {
            Line::Json(_) => {}
            Line::Log { text, .. } => serving.now().calls(|| {
                tracing::debug!(target: "claude", text = %String::from_utf8_lossy(text), "a line that is no JSON");
            }),
            Line::TooLong => serving.now().calls(|| {
                tracing::warn!(target: "claude", "a line was too long and was dropped");
            }),
        }
        if to.send(line).await.is_err() {
            return;
        }
    }
}
