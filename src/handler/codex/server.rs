//! One `codex app-server`: requests and their replies, and whose turn hears what.
//!
//! Owns the process's pipes and the threads it has loaded. Knows no turn: what comes for a thread goes to whoever claimed
//! that thread. The process itself is owned by its task in `process`; the task here reads what it says.

use super::pool::Origin;
use super::{CodexOptions, KEY, raw};
use crate::handler::agent_error::{AgentError, Category};
use crate::handler::chatter::{Serving, log_lines};
use crate::handler::outgoing::Outgoing;
use crate::model::SessionId;
use crate::process::{
    Child, Exit, Launch, Limits, Line, LineReader, OnExit, Running, StdinFrom, Tail, kill_marked, launch,
};
use crate::redact::Redactor;
use crate::telemetry::Whose;
use crate::wire::codex as wire;
use futures_util::FutureExt;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// What a process that has ended may still have in its pipes is read for this long.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// What may wait for one turn. Beyond it the process waits, and with it its other turns.
const INBOX: usize = 1024;

/// Threads that a process keeps loaded: each takes memory, and a moment to load again.
const LOADED: usize = 32;

/// Every command of a thread has the thread's id in this variable.
const THREAD_VARIABLE: &str = "CODEX_THREAD_ID";

/// What a turn hears.
pub enum Heard {
    /// The reply to one of its requests.
    Reply { id: u64, result: Result<Box<RawValue>, wire::ErrorBody> },
    /// Something about its thread.
    Notice { method: String, params: Box<RawValue> },
    /// Something that the process said on standard error while the turn ran. It may be about another one.
    Stderr(String),
}

/// Where a turn hears it.
pub struct Inbox {
    pub to: mpsc::Sender<Heard>,
    pub from: mpsc::Receiver<Heard>,
}

impl Inbox {
    pub fn new() -> Self {
        let (to, from) = mpsc::channel(INBOX);
        Self { to, from }
    }
}

/// A thread that the process has loaded: with which settings, after how many turns, and for whom.
pub struct Loaded {
    pub thread: String,
    pub settings: u64,
    pub turns: u64,
    pub session: SessionId,
}

pub struct Server {
    child: Child,
    out: Outgoing,
    next: AtomicU64,
    shared: Mutex<Shared>,
    stderr: Mutex<Tail>,
    retired: AtomicBool,
    ended: watch::Sender<Option<Exit>>,
    redactor: Redactor,
}

#[derive(Default)]
struct Shared {
    asked: HashMap<u64, mpsc::Sender<Heard>>,
    threads: HashMap<String, mpsc::Sender<Heard>>,
    loaded: Vec<Loaded>,
}

impl Server {
    /// Starts a process and waits until it takes requests.
    pub async fn start(
        program: &Path,
        options: &CodexOptions,
        origin: &Origin,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, AgentError> {
        let failed = |text: String| {
            let text = format!("the codex agent could not be started: {text}");
            AgentError::new(Category::StartupCrash, text).with("phase", "start")
        };
        let mut env = origin.env.clone();
        if let Some(key) = &origin.key {
            env = env.with(KEY, key.expose());
        }
        if let Some(home) = &origin.home {
            // It refuses to start without, and it keeps talks there.
            let made = tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(home).await;
            made.map_err(|error| failed(format!("{}: {error}", home.display())))?;
            env = env.with("CODEX_HOME", home);
        }
        if env.get("RUST_LOG").is_none() {
            env = env.with("RUST_LOG", "error");
        }
        let args = ["-c", "check_for_update_on_startup=false", "-c", "analytics.enabled=false", "app-server"];
        let plan = Launch {
            program: program.into(),
            args: args.map(Into::into).to_vec(),
            cwd: Some(options.workspace.clone()),
            env,
            stdin: StdinFrom::Pipe,
            channel: false,
            on_exit: OnExit::KillRest,
            grace: options.stop_grace,
        };
        let Running { stdin, stdout, stderr, child, .. } =
            Whose::default().calls(|| launch(plan, tasks)).map_err(|error| failed(error.to_string()))?;
        let stdin = stdin.ok_or_else(|| failed("it has no input".to_owned()))?;
        let server = Arc::new(Self {
            child,
            out: Outgoing::new(stdin),
            next: AtomicU64::new(1),
            shared: Mutex::default(),
            stderr: Mutex::new(Tail::new(Tail::USUAL)),
            retired: AtomicBool::new(false),
            ended: watch::Sender::new(None),
            redactor: Redactor::new(&origin.key),
        });
        tasks.spawn(server.clone().own(stdout, stderr));
        let mut starting = Starting { server: &server, is_ready: false };
        let ready = tokio::time::timeout(origin.start_timeout, server.greet()).await;
        match ready {
            Ok(Ok(())) => starting.is_ready = true,
            Ok(Err(text)) => return Err(server.with_stderr(failed(text))),
            Err(_) => {
                let text = format!("it did not answer within {:?}", origin.start_timeout);
                return Err(server.with_stderr(failed(text)));
            }
        }
        drop(starting);
        Ok(server)
    }

    async fn greet(&self) -> Result<(), String> {
        let mut inbox = Inbox::new();
        let version = env!("CARGO_PKG_VERSION");
        let hello = wire::Initialize {
            client_info: wire::ClientInfo { name: "turnhost", title: "turnhost", version },
            capabilities: wire::Capabilities { experimental_api: true },
        };
        self.ask("initialize", &hello, &inbox.to);
        tokio::select! {
            biased;
            heard = inbox.from.recv() => match heard {
                Some(Heard::Reply { result: Err(error), .. }) => Err(error.message),
                _ => {
                    self.send(&wire::Notification { method: "initialized" });
                    Ok(())
                }
            },
            exit = self.ended() => Err(format!("codex {exit}")),
        }
    }

    /// Asks something; the reply comes to `to`. A process that has ended is noticed by waiting for [`Self::ended`].
    pub fn ask(&self, method: &str, params: &impl Serialize, to: &mpsc::Sender<Heard>) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.shared().asked.insert(id, to.clone());
        self.send(&wire::Request { id, method, params });
        id
    }

    /// Asks something whose reply nobody needs.
    pub fn tell(&self, method: &str, params: &impl Serialize) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.send(&wire::Request { id, method, params });
    }

    fn send(&self, message: &impl Serialize) {
        let mut line = raw(message).get().as_bytes().to_vec();
        line.push(b'\n');
        // One that has closed its input is about to end; one that does not read is no use to anybody.
        if let Err(crate::handler::outgoing::NotSent::Full) = self.out.send(line) {
            tracing::error!(target: "handler", "codex does not read its input; it is stopped");
            self.kill();
        }
    }

    /// Takes a thread for a turn: what it says goes to `to`. `false` when another turn has it.
    pub fn claim(&self, thread: &str, to: &mpsc::Sender<Heard>) -> bool {
        let mut shared = self.shared();
        let is_free = !shared.threads.contains_key(thread);
        if is_free {
            shared.threads.insert(thread.to_owned(), to.clone());
        }
        is_free
    }

    pub fn release(&self, thread: &str) {
        let mut shared = self.shared();
        // Requests of a turn that is over: their replies are of no use.
        if let Some(to) = shared.threads.remove(thread) {
            shared.asked.retain(|_, asked| !asked.same_channel(&to));
        }
    }

    /// Takes a thread's entry out of the list of loaded ones.
    pub fn take_loaded(&self, thread: &str) -> Option<Loaded> {
        let mut shared = self.shared();
        let at = shared.loaded.iter().position(|one| one.thread == thread)?;
        Some(shared.loaded.remove(at))
    }

    /// Notes a thread as loaded, and unloads those used longest ago beyond the bound.
    pub fn put_loaded(&self, loaded: Loaded) {
        let unload: Vec<String> = {
            let mut shared = self.shared();
            shared.loaded.push(loaded);
            let over = shared.loaded.len().saturating_sub(LOADED);
            let Shared { loaded, threads, .. } = &mut *shared;
            let old = loaded.extract_if(.., |one| !threads.contains_key(&one.thread)).take(over);
            old.map(|one| one.thread).collect()
        };
        for thread in unload {
            self.unload(&thread);
        }
    }

    /// Ends what still runs for a thread, and drops it from the process's memory.
    pub fn unload(&self, thread: &str) {
        self.tell("thread/backgroundTerminals/clean", &wire::OfThread { thread_id: thread });
        self.tell("thread/unsubscribe", &wire::OfThread { thread_id: thread });
    }

    pub fn session_ended(&self, session: &SessionId) {
        let ended: Vec<Loaded> = self.shared().loaded.extract_if(.., |one| one.session == *session).collect();
        for one in ended {
            self.unload(&one.thread);
        }
    }

    /// Ends every process that commands of this thread have left.
    pub async fn end_commands(&self, thread: &str) {
        if self.ended.borrow().is_none() {
            self.tell("thread/backgroundTerminals/clean", &wire::OfThread { thread_id: thread });
            kill_marked(&self.child, THREAD_VARIABLE, thread).await;
        }
    }

    pub fn takes_turns(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && self.ended.borrow().is_none()
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    pub fn kill(&self) {
        self.retired.store(true, Ordering::Release);
        self.child.kill();
    }

    pub fn stop(&self, grace: Duration) {
        self.retired.store(true, Ordering::Release);
        self.child.stop(grace);
    }

    pub async fn gone(&self) {
        self.child.gone().await;
    }

    /// Resolves when the process has ended and all that it said was passed on. Cancel-safe.
    pub async fn ended(&self) -> Exit {
        let mut ended = self.ended.subscribe();
        let exit = ended.wait_for(Option::is_some).await;
        exit.ok().and_then(|exit| exit.clone()).unwrap_or(Exit::Lost)
    }

    /// What a turn ends with whose process has ended.
    pub fn crashed(&self, exit: &Exit) -> AgentError {
        let mut error = AgentError::new(Category::StartupCrash, format!("codex {exit}")).with("phase", "turn");
        if let Some(code) = exit.code() {
            error = error.with("exit_code", code);
        }
        if let Some(signal) = exit.signal() {
            error = error.with("signal", signal);
        }
        // A process cannot be started twice: the next turn gets another one.
        AgentError { is_retryable: true, ..self.with_stderr(error) }
    }

    fn with_stderr(&self, error: AgentError) -> AgentError {
        let tail = self.stderr.lock().unwrap_or_else(PoisonError::into_inner).text();
        if tail.is_empty() { error } else { error.with("stderr_tail", self.redactor.text(&tail).into_owned()) }
    }

    /// The task of this process: reads what it says until it ends, then tells.
    async fn own(self: Arc<Self>, said: pipe::Receiver, stderr: pipe::Receiver) {
        let note = |bytes: &[u8]| {
            self.stderr.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
            self.overhear(&String::from_utf8_lossy(bytes));
        };
        // Many turns share it.
        let nobodys = Serving::default();
        let everything = async { tokio::join!(self.read(said), log_lines(stderr, "stderr", &nobodys, note)) }.fuse();
        tokio::pin!(everything);
        let exit = tokio::select! {
            _ = &mut everything => {
                // All its pipes are closed: it can neither hear nor say anything any more.
                self.child.stop(LAST_WORDS);
                self.child.exited().await
            }
            // Ends only when its input is closed; it is here so that what waits is sent.
            () = self.out.drain() => {
                let _ = tokio::time::timeout(LAST_WORDS, &mut everything).await;
                self.child.stop(LAST_WORDS);
                self.child.exited().await
            }
            exit = self.child.exited() => {
                let _ = tokio::time::timeout(LAST_WORDS, &mut everything).await;
                exit
            }
        };
        self.ended.send_replace(Some(exit));
        self.shared().asked.clear();
        // Its descendants may still hold the pipes until they are killed, and must not stop at full ones.
        tokio::select! {
            () = self.child.gone() => {}
            _ = &mut everything => self.child.gone().await,
        }
    }

    /// Tells every turn what was said on standard error; what one has no room for is in the log.
    fn overhear(&self, text: &str) {
        let turns: Vec<_> = self.shared().threads.values().cloned().collect();
        for turn in turns {
            let _ = turn.try_send(Heard::Stderr(self.redactor.text(text).into_owned()));
        }
    }

    async fn read(&self, said: pipe::Receiver) {
        let mut reader = LineReader::new(said, Limits::default());
        loop {
            match reader.next().await {
                Ok(Some(Line::Json(line))) => self.take(&line).await,
                Ok(Some(Line::Log { text, .. })) => {
                    tracing::debug!(target: "handler", "codex: {}", String::from_utf8_lossy(&text));
                }
                Ok(Some(Line::TooLong)) => tracing::warn!(target: "handler", "codex: a line over 72 MiB was dropped"),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(target: "handler", %error, "codex: its output cannot be read");
                    return;
                }
            }
        }
    }

    async fn take(&self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<wire::Line<'_>>(line) else {
            tracing::warn!(target: "handler", "codex: a line was not understood");
            return;
        };
        match (line.id, line.method) {
            (Some(id), Some(method)) => self.answer(id, &method),
            (Some(id), None) => {
                let Ok(id) = id.get().parse() else { return };
                let Some(to) = self.shared().asked.remove(&id) else { return };
                let result = match (line.result, line.error) {
                    (Some(result), _) => Ok(result.to_owned()),
                    (None, Some(error)) => Err(serde_json::from_str(error.get()).unwrap_or_default()),
                    (None, None) => Ok(RawValue::NULL.to_owned()),
                };
                let _ = to.send(Heard::Reply { id, result }).await;
            }
            (None, Some(method)) => {
                let Some(params) = line.params else { return };
                let whose =
                    serde_json::from_str::<wire::Whose<'_>>(params.get()).ok().and_then(|whose| whose.thread_id);
                let to = whose.and_then(|thread| self.shared().threads.get(&*thread).cloned());
                match to {
                    // The lock is gone by now: only this process waits while the turn's inbox is full.
                    Some(to) => drop(to.send(Heard::Notice { method: method.into(), params: params.to_owned() }).await),
                    None => tracing::trace!(target: "handler", %method, "codex: told to nobody"),
                }
            }
            (None, None) => {}
        }
    }

    /// Their requests: nobody is there to be asked, so what may be allowed is, and all else is refused at once. Without
    /// an answer the turn would wait for ever.
    fn answer(&self, id: &RawValue, method: &str) {
        let result = match method {
            "item/commandExecution/requestApproval" | "item/fileChange/requestApproval" => {
                Some(json!({"decision": "accept"}))
            }
            "execCommandApproval" | "applyPatchApproval" => Some(json!({"decision": "approved"})),
            _ => None,
        };
        let error = result.is_none().then(|| {
            tracing::warn!(target: "handler", method, "codex: a request was refused");
            wire::ErrorBody { code: -32601, message: format!("turnhost does not answer {method}") }
        });
        self.send(&wire::Answer { id, result, error });
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that is not ready when this is dropped is killed: nobody else knows of it.
struct Starting<'a> {
    server: &'a Server,
    is_ready: bool,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if !self.is_ready {
            self.server.kill();
        }
    }
}
