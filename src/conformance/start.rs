//! The command of a bundle, started as a platform would: a variable with the port, few others, any folder.
//!
//! Owns the process from its start to its end, and the checks about both. What is said to the server in between is in
//! `dari`.

use super::manifest::Manifest;
use super::{Check, Report};
use crate::process::{Child, Environment, Exit, Launch, OnExit, Running, StdinFrom, Tail, launch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// Without it nothing can be looked at.
pub const PROGRAM: Check = Check { name: "start-program", expected: "the command starts and goes on running" };
const PORT: Check = Check { name: "start-port", expected: "it listens on the port that the variable PORT names" };
const FOLDER: Check = Check { name: "start-folder", expected: "it starts in any folder" };
const ADDRESS: Check = Check { name: "start-address", expected: "it listens on all addresses" };

/// The checks of a start, in the order in which they are made.
pub const CHECKS: &[Check] = &[PROGRAM, PORT, FOLDER, ADDRESS];

const STOP: Check = Check { name: "stop-sigterm", expected: "it ends within 11 s of SIGTERM" };

/// What is checked at the very end.
pub const AT_END: &[Check] = &[STOP];

/// How long a server may take to end: the grace of its turns and a second.
const ENDS_WITHIN: Duration = Duration::from_secs(11);

/// What a login shell of a sandbox has in its `PATH`.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The port of a server that was told of none.
const DEFAULT_PORT: u16 = 8080;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How much of a program's last words is shown.
const LAST_WORDS: usize = 600;

/// How a command is to be started.
#[derive(Debug, Clone)]
pub struct Start {
    /// What is started.
    pub manifest: Manifest,
    /// The program that stands in for a `turnhost` that is not on this machine: our own.
    pub own_program: PathBuf,
    /// Our own `PATH`, which stands in for the runtimes of the sandbox.
    pub own_path: OsString,
    /// Values of the bundle's secrets, as far as they are known here.
    pub secrets: Vec<(String, OsString)>,
    /// How long it may take until it listens.
    pub within: Duration,
}

/// A command that runs and listens.
pub struct Started {
    child: Child,
    words: Arc<Mutex<Tail>>,
    ended: Arc<Mutex<Option<Exit>>>,
    /// The folder it was started in, if it is one that was made for it.
    folder: Option<TempDir>,
    /// Where it listens.
    pub port: u16,
}

impl Started {
    /// How it ended and what it said last, if it did end.
    #[must_use]
    pub fn end(&self) -> Option<String> {
        let exit = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(format!("{}{}", told(&exit), self.last_words()))
    }

    fn last_words(&self) -> String {
        let text = self.words.lock().unwrap_or_else(PoisonError::into_inner).text();
        let text = text.trim();
        if text.is_empty() {
            return ", and had said nothing".to_owned();
        }
        let from = text.ceil_char_boundary(text.len().saturating_sub(LAST_WORDS));
        let cut = if from > 0 { "…" } else { "" };
        format!("; its last words:\n{cut}{}", &text[from..])
    }

    /// Asks it to end, and checks that it does. Whatever is left is killed.
    pub async fn stop(&self, report: &mut Report) {
        let work = async {
            if let Some(end) = self.end() {
                return Err(format!("it had ended before, {end}"));
            }
            let began = Instant::now();
            let pid = self.child.pid().and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid {
                // It may have ended this moment.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            match timeout(ENDS_WITHIN, self.child.exited()).await {
                Err(_) => Err(format!("it still runs after {ENDS_WITHIN:?}; end it when SIGTERM comes")),
                Ok(Exit::Code(0)) => Ok(format!("code 0 after {} ms", began.elapsed().as_millis())),
                Ok(Exit::Signal(15)) => Ok(format!("by the signal after {} ms", began.elapsed().as_millis())),
                Ok(Exit::Code(143)) => Ok(format!("code 143 after {} ms", began.elapsed().as_millis())),
                Ok(exit) => Err(format!("it ended {}{}", told(&exit), self.last_words())),
            }
        };
        report.check(&STOP, work).await;
        self.end_tree().await;
    }

    /// Ends it, and everything that it started.
    pub async fn end_tree(&self) {
        self.child.kill();
        let _ = timeout(ENDS_WITHIN, self.child.gone()).await;
        tracing::debug!(folder = ?self.folder, "the command has ended with its tree");
    }
}

fn told(exit: &Exit) -> String {
    match exit {
        Exit::Code(code) => format!("with exit code {code}"),
        Exit::Signal(signal) => format!("by signal {signal}"),
        Exit::NotStarted(error) => error.to_string(),
        Exit::Lost => "in a way that nobody saw".to_owned(),
    }
}

/// Why nothing listens.
enum Silent {
    CannotStart(String),
    Ended(Started, String),
    Late(Started),
}

/// Starts the command and makes the checks of a start. `None`: nothing listens, and the report says why.
pub async fn start(report: &mut Report, start: &Start, tasks: &TaskTracker) -> Option<Started> {
    let others: Vec<u16> = {
        let mut others = vec![start.manifest.port, DEFAULT_PORT];
        others.dedup();
        let mut free = Vec::new();
        for port in others {
            if !is_open(port, Ipv4Addr::LOCALHOST).await {
                free.push(port);
            }
        }
        free
    };
    let elsewhere = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            report.check(&PROGRAM, async { Err(format!("no folder to start it in: {error}")) }).await;
            report.skip_rest(CHECKS, "nothing was started");
            return None;
        }
    };
    let began = Instant::now();
    let first = run(start, elsewhere.path(), tasks).await;
    let (silent, at_home) = match first {
        Ok(mut started) => {
            // A folder that is gone is no place for the programs that it starts.
            started.folder = Some(elsewhere);
            return Some(fine(report, start, started, began.elapsed()).await);
        }
        // A program that is not there is not there from any folder, unless its path begins at one.
        Err(Silent::CannotStart(why)) if !start.manifest.command[0].contains('/') => (Silent::CannotStart(why), None),
        Err(silent) => {
            let port = elsewhere_port(&silent, &others).await;
            if port.is_some() {
                return wrong_port(report, silent, port).await;
            }
            end(&silent).await;
            (silent, Some(run(start, &start.manifest.bundle, tasks).await))
        }
    };
    if let Some(Ok(started)) = at_home {
        let why = match silent {
            Silent::CannotStart(why) => why,
            Silent::Ended(_, why) => format!("it ended {why}"),
            Silent::Late(started) => format!("nothing listened within {:?}{}", start.within, started.last_words()),
        };
        let seen = format!(
            "only in the bundle's folder; elsewhere {why}\nfind files from the program's own place or from \
             $DARI_SOURCE_BUNDLE_ROOT, not from the working directory"
        );
        report.check(&PROGRAM, async { Ok(stood_in(start)) }).await;
        report.check(&PORT, async { Ok(String::new()) }).await;
        report.check(&FOLDER, async { Err(seen) }).await;
        address(report, started.port).await;
        return Some(started);
    }
    if let Some(Err(silent)) = &at_home {
        end(silent).await;
    }
    match silent {
        Silent::CannotStart(why) => {
            report
                .check(&PROGRAM, async { Err(format!("{why}; is it installed by setup.sh or the Dockerfile?")) })
                .await;
        }
        Silent::Ended(_, why) => {
            report.check(&PROGRAM, async { Err(format!("it ended {why}")) }).await;
        }
        Silent::Late(started) => {
            report.check(&PROGRAM, async { Ok(stood_in(start)) }).await;
            let seen = format!(
                "nothing listens on port {} ($PORT) after {:?}; a server has to listen first and load later{}",
                started.port,
                start.within,
                started.last_words()
            );
            report.check(&PORT, async { Err(seen) }).await;
        }
    }
    report.skip_rest(CHECKS, "nothing listens");
    None
}

async fn fine(report: &mut Report, start: &Start, started: Started, took: Duration) -> Started {
    report.check(&PROGRAM, async { Ok(stood_in(start)) }).await;
    report.check(&PORT, async { Ok(format!("after {} ms", took.as_millis())) }).await;
    report.check(&FOLDER, async { Ok(String::new()) }).await;
    address(report, started.port).await;
    started
}

async fn wrong_port(report: &mut Report, silent: Silent, port: Option<u16>) -> Option<Started> {
    let Silent::Late(started) = silent else { return None };
    report.check(&PROGRAM, async { Ok(String::new()) }).await;
    let seen = format!(
        "it listens on {} instead of {}; read the port from the variable PORT",
        port.unwrap_or_default(),
        started.port
    );
    report.check(&PORT, async { Err(seen) }).await;
    report.skip_rest(CHECKS, "nothing listens on $PORT");
    started.end_tree().await;
    None
}

/// A port that was free before and is open now.
async fn elsewhere_port(silent: &Silent, others: &[u16]) -> Option<u16> {
    let Silent::Late(_) = silent else { return None };
    for port in others {
        if is_open(*port, Ipv4Addr::LOCALHOST).await {
            return Some(*port);
        }
    }
    None
}

async fn end(silent: &Silent) {
    if let Silent::Ended(started, _) | Silent::Late(started) = silent {
        started.end_tree().await;
    }
}

/// Whether our own program took the place of one that a sandbox would have.
fn stood_in(start: &Start) -> String {
    let asked = &start.manifest.command[0];
    if program(start).as_os_str() == asked.as_str() {
        String::new()
    } else {
        format!("{asked} is not on this machine: this turnhost stood in for it")
    }
}

fn program(start: &Start) -> PathBuf {
    let asked = Path::new(&start.manifest.command[0]);
    let is_ours = asked.is_absolute() && asked.file_name().is_some_and(|name| name == "turnhost");
    if is_ours && !asked.exists() { start.own_program.clone() } else { asked.to_owned() }
}

fn environment(start: &Start, port: u16) -> Environment {
    let mut path = OsString::from(USUAL_PATH);
    if !start.own_path.is_empty() {
        path.push(":");
        path.push(&start.own_path);
    }
    let mut environment = Environment::empty()
        .with("PATH", path)
        .with("DARI_SOURCE_BUNDLE_ROOT", &start.manifest.bundle)
        .with("PORT", port.to_string());
    for (name, value) in &start.manifest.env {
        environment = environment.with(name, value);
    }
    for (name, value) in &start.secrets {
        environment = environment.with(name, value);
    }
    environment
}

async fn run(start: &Start, cwd: &Path, tasks: &TaskTracker) -> Result<Started, Silent> {
    let port = free_port(start.manifest.port).map_err(|error| Silent::CannotStart(format!("no free port: {error}")))?;
    let plan = Launch {
        program: program(start).into(),
        args: start.manifest.command[1..].iter().map(OsString::from).collect(),
        cwd: Some(cwd.to_owned()),
        env: environment(start, port),
        stdin: StdinFrom::Null,
        channel: false,
        on_exit: OnExit::KillRest,
        grace: ENDS_WITHIN,
    };
    let Running { stdout, stderr, child, .. } =
        launch(plan, tasks).map_err(|error| Silent::CannotStart(error.to_string()))?;
    let words = Arc::new(Mutex::new(Tail::default()));
    tasks.spawn(listen(stdout, words.clone()));
    tasks.spawn(listen(stderr, words.clone()));
    let ended = Arc::new(Mutex::new(None));
    let (seen, watched) = (ended.clone(), child.clone());
    tasks.spawn(async move {
        let exit = watched.exited().await;
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
    });
    child.started().await.map_err(|error| Silent::CannotStart(error.to_string()))?;
    let started = Started { child, words, ended, folder: None, port };
    let deadline = Instant::now() + start.within;
    loop {
        if is_open(port, Ipv4Addr::LOCALHOST).await {
            return Ok(started);
        }
        if started.end().is_some() {
            // What it wrote last may still be on its way.
            let _ = timeout(ENDS_WITHIN, started.child.gone()).await;
            sleep(LOOK_AGAIN).await;
            let end = started.end().unwrap_or_default();
            return Err(Silent::Ended(started, end));
        }
        if Instant::now() > deadline {
            return Err(Silent::Late(started));
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn listen(mut pipe: impl AsyncRead + Unpin, words: Arc<Mutex<Tail>>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = pipe.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        words.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..length]);
    }
}

/// A port that nothing listens on, and that nobody could have taken for the one of the manifest.
fn free_port(manifest: u16) -> std::io::Result<u16> {
    loop {
        let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
        if port != manifest && port != DEFAULT_PORT {
            return Ok(port);
        }
    }
}

async fn is_open(port: u16, address: Ipv4Addr) -> bool {
    let connected = timeout(Duration::from_secs(2), TcpStream::connect(SocketAddr::from((address, port)))).await;
    connected.is_ok_and(|connected| connected.is_ok())
}

/// A listener on 127.0.0.1 alone does not answer at 127.0.0.2, and one on all addresses does.
async fn address(report: &mut Report, port: u16) {
    let work = async {
        if is_open(port, Ipv4Addr::new(127, 0, 0, 2)).await {
            return Ok(String::new());
        }
        Err("it listens on 127.0.0.1 only, where nothing outside the sandbox reaches it; listen on 0.0.0.0".to_owned())
    };
    report.check(&ADDRESS, work).await;
}
