//! The server: sockets, workers, and the order of starting and stopping.
//!
//! Owns what happens between `bind` and exit. `Server::builder` is the way in for people who embed turnhost.

use super::dari::{Dari, DariOptions};
use super::sessions::{self, Sessions, SessionsOptions};
use super::{Access, ApiLimits, Protocol, Runtime, hangup, routes, unread, v1};
use crate::engine::{Engine, EngineOptions};
use crate::handler::{DynHandler, Handler};
use crate::redact::{Redactor, Secret};
use crate::store::{MemoryStore, Store};
use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Heads of requests must be complete within this time. The HTTP library counts it on a clock that it looks at twice a
/// second: right after a pause that clock is late by the pause, and a shorter time would refuse the first caller.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Idle connections are kept this long.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// After the last outcome, answers get this long to reach their callers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Hosts wait a second beyond the grace before they kill: everything but the turns has to fit into less.
const AFTER_GRACE: Duration = Duration::from_millis(600);
/// What the last answers get of it in any case.
const LAST_ANSWERS_AT_LEAST: Duration = Duration::from_millis(200);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Nobody said who may call.
    #[error(transparent)]
    Access(#[from] super::AccessError),
    /// The port is taken.
    #[error("port {0} is already in use")]
    PortInUse(u16),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The handler cannot work.
    #[error("{0}")]
    Handler(String),
    /// The HTTP server ended by itself.
    #[error("the server ended: {0}")]
    Ended(std::io::Error),
}

/// Builds a [`Server`]. Everything but the handler has a default.
pub struct ServerBuilder {
    handler: Option<Arc<dyn DynHandler>>,
    store: Option<Arc<dyn Store>>,
    hosts: Option<Vec<IpAddr>>,
    port: u16,
    token: Option<Secret>,
    no_auth: bool,
    allowed_origins: Vec<String>,
    allowed_hosts: Vec<String>,
    protocols: BTreeSet<Protocol>,
    engine: EngineOptions,
    limits: ApiLimits,
    dari: DariOptions,
    sessions: SessionsOptions,
    redactor: Redactor,
    grace: Duration,
    workers: usize,
}

/// A server that is not started yet.
pub struct Server(ServerBuilder);

/// A server that accepts connections.
pub struct Listening {
    runtime: web::Data<Runtime>,
    engine: Engine,
    handle: ServerHandle,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
    stopping: CancellationToken,
    tasks: TaskTracker,
    grace: Duration,
    handler: Arc<dyn DynHandler>,
    address: SocketAddr,
}

impl Server {
    /// Starts a description of a server.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            handler: None,
            store: None,
            hosts: None,
            port: 8080,
            token: None,
            no_auth: false,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            protocols: Protocol::ALL.into(),
            engine: EngineOptions::default(),
            limits: ApiLimits::default(),
            dari: DariOptions::default(),
            sessions: SessionsOptions::default(),
            redactor: Redactor::default(),
            grace: Duration::from_secs(10),
            workers: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2)),
        }
    }

    /// Binds and starts to accept. The handler is started in the background; see [`Listening::start_handler`].
    ///
    /// # Errors
    /// [`ServerError`] when nobody said who may call, or when the address cannot be listened on.
    ///
    /// # Panics
    /// Outside a tokio runtime. The one it is called from runs the turns.
    pub fn listen(self) -> Result<Listening, ServerError> {
        let Self(builder) = self;
        let hosts =
            builder.hosts.clone().unwrap_or_else(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        let access = Access::new(&hosts, builder.token, builder.no_auth, builder.allowed_origins)?;
        let access = access.allowing_hosts(builder.allowed_hosts);
        let (listeners, address) = bind(&hosts, builder.port)?;
        let handler = builder.handler.unwrap_or_else(|| Arc::new(crate::handler::echo::Echo));
        let store = builder.store.unwrap_or_else(|| Arc::new(MemoryStore::default()));
        let tasks = TaskTracker::new();
        let engine = Engine::new(builder.engine, handler.clone(), store, builder.redactor, tasks.clone());
        let serves_sessions = builder.protocols.contains(&Protocol::Sessions);
        let sessions =
            if serves_sessions { Sessions::open(builder.sessions) } else { Sessions::closed(builder.sessions) };
        let stopping = CancellationToken::new();
        let runtime = web::Data::new(Runtime {
            engine: engine.clone(),
            access,
            protocols: builder.protocols,
            room: super::websocket::Room::new(builder.limits.max_messages_total),
            limits: builder.limits,
            dari: Dari::new(builder.dari),
            sessions,
            stopping: stopping.clone(),
        });
        drop(engine.spawn(v1::resume(runtime.clone())));
        drop(engine.spawn(sessions::watch_ages(runtime.clone())));
        let shared = runtime.clone();
        let mut server = HttpServer::new(move || {
            let runtime = runtime.clone();
            App::new()
                .app_data(runtime.clone())
                .wrap(from_fn(routes::gate))
                .wrap(from_fn(unread::serve))
                .configure(|config| routes::configure(config, &runtime))
        })
        .workers(builder.workers)
        .disable_signals()
        .shutdown_timeout(LAST_ANSWERS.as_secs())
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_TIMEOUT)
        // What is written is followed by the end of the connection at once: `unread` and the WebSocket's own task see
        // to it that nothing is lost. With a time here, a WebSocket peer that waits for us to hang up first (RFC 6455,
        // 7.1.1) would wait for so long.
        .client_disconnect_timeout(Duration::ZERO)
        // A caller that closes its half is gone: without this a lost caller looks like one that still listens.
        .h1_allow_half_closed(false)
        .on_connect(hangup::note);
        for listener in listeners {
            server = server.listen(listener).map_err(|error| ServerError::Bind { address, error })?;
        }
        let server = server.run();
        let handle = server.handle();
        let serving = tokio::spawn(server);
        Ok(Listening {
            runtime: shared,
            engine,
            handle,
            serving,
            stopping,
            tasks,
            grace: builder.grace,
            handler,
            address,
        })
    }
}

/// Listens on every host at one port. With port 0 the first host's free port is used for all of them.
fn bind(hosts: &[IpAddr], port: u16) -> Result<(Vec<TcpListener>, SocketAddr), ServerError> {
    let mut listeners = Vec::new();
    let mut bound: Option<SocketAddr> = None;
    for host in hosts {
        let address = SocketAddr::new(*host, bound.map_or(port, |first| first.port()));
        match listen_on(address) {
            Ok(listener) => {
                bound = bound.or_else(|| listener.local_addr().ok());
                listeners.push(listener);
            }
            // A machine without IPv6 still has 127.0.0.1; with port 0 the second address may also be taken.
            Err(error) if bound.is_some() => tracing::debug!(%address, %error, "not listening on this address too"),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                return Err(ServerError::PortInUse(address.port()));
            }
            Err(error) => return Err(ServerError::Bind { address, error }),
        }
    }
    let address = bound.unwrap_or_else(|| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    Ok((listeners, address))
}

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Listening {
    /// The first address it listens on, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the handler in the background; the future resolves when it takes turns.
    ///
    /// # Errors
    /// [`ServerError::Handler`] when it never can: the server should end.
    pub fn start_handler(&self) -> impl Future<Output = Result<(), ServerError>> + Send + use<> {
        let handler = self.handler.clone();
        let started = tokio::spawn(async move { handler.start().await });
        async move {
            match started.await {
                Ok(result) => result.map_err(ServerError::Handler),
                Err(error) => Err(ServerError::Handler(format!("the handler could not be started: {error}"))),
            }
        }
    }

    /// Comes back when a server that is a sidecar and nothing else has done its work; any other never does.
    pub fn is_done(&self) -> impl Future<Output = ()> + use<> {
        let runtime = self.runtime.clone();
        async move { runtime.sessions.is_done().await }
    }

    /// Resolves when the HTTP server ends without being asked to.
    pub async fn ended(&mut self) -> ServerError {
        match (&mut self.serving).await {
            Ok(Ok(())) => ServerError::Ended(std::io::Error::other("stopped")),
            Ok(Err(error)) => ServerError::Ended(error),
            Err(error) => ServerError::Ended(std::io::Error::other(error)),
        }
    }

    /// Stops: refuses new turns, lets running ones finish within the grace, answers every caller, closes.
    pub async fn stop(self) {
        let end = Instant::now() + self.grace + AFTER_GRACE;
        self.engine.drain(self.grace).await;
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let left = end.saturating_duration_since(Instant::now()).clamp(LAST_ANSWERS_AT_LEAST, LAST_ANSWERS);
        if tokio::time::timeout(left, self.handle.stop(true)).await.is_err() {
            // A request that never became complete, or a caller that does not read its answer.
            tracing::debug!("connections were cut");
            self.serving.abort();
        }
        let _ = self.serving.await;
        // Behind the last answers: that they were delivered is kept, too.
        self.engine.flush().await;
    }
}

impl ServerBuilder {
    /// The handler that runs the turns. Default: `echo`.
    #[must_use]
    pub fn handler(mut self, handler: impl Handler) -> Self {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// The same for a handler chosen at run time.
    #[must_use]
    pub fn shared_handler(mut self, handler: Arc<dyn DynHandler>) -> Self {
        self.handler = Some(handler);
        self
    }

    /// Where sessions are kept. Default: in memory.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// The addresses to listen on. Default: `127.0.0.1` and `::1`.
    #[must_use]
    pub fn hosts(mut self, hosts: Vec<IpAddr>) -> Self {
        self.hosts = Some(hosts);
        self
    }

    /// The port; 0 takes a free one. Default: 8080.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The token that callers must present.
    #[must_use]
    pub fn token(mut self, token: Option<Secret>) -> Self {
        self.token = token;
        self
    }

    /// Lets everybody call, also on an address that is not a loopback one.
    #[must_use]
    pub fn no_auth(mut self, no_auth: bool) -> Self {
        self.no_auth = no_auth;
        self
    }

    /// Origins of web pages that may call, besides the server's own.
    #[must_use]
    pub fn allowed_origins(mut self, origins: Vec<String>) -> Self {
        self.allowed_origins = origins;
        self
    }

    /// Names in the Host header of callers on this machine, besides the loopback addresses.
    #[must_use]
    pub fn allowed_hosts(mut self, hosts: Vec<String>) -> Self {
        self.allowed_hosts = hosts;
        self
    }

    /// The protocols served. Default: all.
    #[must_use]
    pub fn protocols(mut self, protocols: impl IntoIterator<Item = Protocol>) -> Self {
        self.protocols = protocols.into_iter().collect();
        self
    }

    /// Bounds and limits of the engine.
    #[must_use]
    pub fn engine(mut self, options: EngineOptions) -> Self {
        self.engine = options;
        self
    }

    /// Bounds of the adapters.
    #[must_use]
    pub fn limits(mut self, limits: ApiLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Paths and instructions of the Dari adapter.
    #[must_use]
    pub fn dari(mut self, options: DariOptions) -> Self {
        self.dari = options;
        self
    }

    /// Where the sessions of the agentruntime protocol are kept, and which agents they may name.
    #[must_use]
    pub fn sessions(mut self, options: SessionsOptions) -> Self {
        self.sessions = options;
        self
    }

    /// What is always taken out of everything that leaves the process.
    #[must_use]
    pub fn redactor(mut self, redactor: Redactor) -> Self {
        self.redactor = redactor;
        self
    }

    /// How long running turns may go on once the server stops. Default: 10 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The finished description.
    #[must_use]
    pub fn build(self) -> Server {
        Server(self)
    }
}
