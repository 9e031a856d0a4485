//! `turnhost serve`: starts the server, and stops it when asked to.
//!
//! Owns the signals and the line that says where it listens.

use super::{INTERRUPTED, OK, agent, memory, sidecar};
use crate::api::{Listening, Server, SessionsOptions};
use crate::config::{ConfigError, DataConfig, ServeConfig};
use crate::process;
use crate::redact::Redactor;
use crate::store::{DiskStore, OpenError};
use crate::telemetry;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;

/// Serves until a signal.
pub fn serve(runtime: &Runtime, config: ServeConfig) -> Result<u8, ConfigError> {
    let own = agent::own_secrets(&config.agent, config.token.as_ref());
    let _log = telemetry::start(&config.agent.log, own.clone()).map_err(ConfigError)?;
    #[cfg(feature = "failpoints")]
    if let Some(point) = crate::config::kill_at() {
        crate::failpoint::arm(&point);
    }
    // The main thread only waits: what serves must be on the runtime's own threads, where children are started.
    let serving = runtime.spawn(until_signal(config, own));
    runtime.block_on(serving).unwrap_or_else(|error| Err(ConfigError(format!("the server ended: {error}"))))
}

/// What keeps the sessions; `None` is the memory. A folder that cannot be used costs a warning and nothing else.
fn store(data: DataConfig) -> Option<DiskStore> {
    if data.is_homeless {
        tracing::warn!("there is no HOME and no --data-dir: sessions live in memory and end with this server");
    }
    let opened = DiskStore::open(&data.folder?, data.keep);
    let warn = |error: &OpenError| {
        tracing::warn!(%error, "--data-dir cannot be used: sessions live in memory and end with this server");
    };
    opened.inspect_err(warn).ok()
}

async fn until_signal(config: ServeConfig, own: Redactor) -> Result<u8, ConfigError> {
    let mut signals = Signals::new().map_err(|error| ConfigError(format!("signals cannot be caught: {error}")))?;
    let orphaned = orphaned(config.stop_with_parent);
    if let Err(error) = process::become_subreaper() {
        tracing::warn!(%error, "orphans of a killed shim would not be found");
    }
    let folder = config.data.folder.clone();
    let store = store(config.data);
    // A folder that another server has is not written to in any way.
    let refused = folder.filter(|_| store.is_none());
    let agentruntime = SessionsOptions {
        data_dir: config.sessions.data_dir.filter(|folder| refused.as_ref().is_none_or(|refused| folder != refused)),
        agents: agent::offered(&config.agent, &config.agents),
        sidecar: sidecar::request(&config.agent, config.sessions.alone.as_ref())?,
        stalls: sidecar::stalls(&config.agent)?,
        ..config.sessions
    };
    let tasks = TaskTracker::new();
    let handler = agent::handlers(&config.agent, &config.agents, &tasks);
    let server = Server::builder()
        .shared_handler(handler)
        .port(config.port)
        .token(config.token)
        .no_auth(config.no_auth)
        .allowed_origins(config.allowed_origins)
        .allowed_hosts(config.allowed_hosts)
        .protocols(config.protocols)
        .engine(config.agent.engine.clone())
        .limits(config.limits)
        .dari(config.dari)
        .sessions(agentruntime)
        .redactor(own)
        .grace(config.grace);
    let server = match store {
        Some(store) => server.store(Arc::new(store)),
        None => server,
    };
    let server = match config.hosts {
        Some(hosts) => server.hosts(hosts),
        None => server,
    };
    let mut listening = server.build().listen().map_err(|error| ConfigError(error.to_string()))?;
    announce(&listening);
    let ended = {
        let started = listening.start_handler();
        let done = listening.is_done();
        let giving_back = memory::give_back_when_quiet();
        tokio::pin!(started, orphaned, done, giving_back);
        let mut loading = true;
        loop {
            tokio::select! {
                result = &mut started, if loading => match result {
                    Ok(()) => loading = false,
                    Err(error) => break Err(error),
                },
                which = signals.next() => break Ok(which),
                () = &mut done => break Ok(Which::Terminate),
                () = &mut orphaned => break Ok(Which::Terminate),
                error = listening.ended() => break Err(error),
                never = &mut giving_back => match never {},
            }
        }
    };
    match ended {
        Ok(which) => {
            tracing::info!("stopping");
            tokio::select! {
                () = listening.stop() => Ok(which.exit_code()),
                // Asked twice: nothing is waited for. The shims see that the server is gone and end their trees.
                again = signals.next() => std::process::exit(i32::from(again.exit_code_at_once())),
            }
        }
        Err(error) => {
            listening.stop().await;
            Err(ConfigError(error.to_string()))
        }
    }
}

/// How often it is looked whether the parent is still there.
const PARENT_CHECK: Duration = Duration::from_millis(200);

/// Comes back once the process that started this one has ended, if that matters. `npx` runs its program under a shell that
/// keeps a signal to itself: the server would go on alone and hold the port.
fn orphaned(matters: bool) -> impl Future<Output = ()> {
    let parent = std::os::unix::process::parent_id();
    async move {
        if !matters {
            std::future::pending::<()>().await;
        }
        while std::os::unix::process::parent_id() == parent {
            tokio::time::sleep(PARENT_CHECK).await;
        }
    }
}

/// Says where the server listens, once it does. Hosts and tests wait for this line.
fn announce(listening: &Listening) {
    let address = listening.address();
    let mut out = std::io::stdout().lock();
    // Nobody reads it: that is no reason not to serve.
    let _ = writeln!(out, "turnhost listening on port {} (http://{address})", address.port());
    let _ = out.flush();
}

#[derive(Clone, Copy)]
enum Which {
    Terminate,
    Interrupt,
}

impl Which {
    const fn exit_code(self) -> u8 {
        match self {
            Self::Terminate => OK,
            Self::Interrupt => INTERRUPTED,
        }
    }

    /// 128 and the signal's number, as of a process that the signal ended.
    const fn exit_code_at_once(self) -> u8 {
        match self {
            Self::Terminate => 143,
            Self::Interrupt => INTERRUPTED,
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Which {
        tokio::select! {
            _ = self.terminate.recv() => Which::Terminate,
            _ = self.interrupt.recv() => Which::Interrupt,
        }
    }
}
