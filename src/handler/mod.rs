//! What runs a turn: the contract of a handler, and the handlers we have.
//!
//! Owns the trait and its implementations. Knows nothing of sessions, protocols or stores: a handler gets one turn,
//! says events, and returns one reply.

mod agent_error;
mod agents;
mod chatter;
pub mod claude;
pub mod codex;
mod cut;
pub mod echo;
pub mod openai;
mod outgoing;
pub mod plain;
mod schema;
mod sink;
pub mod stdio;

pub use agents::Agents;
pub use sink::{Cancel, InputRefused, Inputs, Listener, Room, Sink, TurnOver};

use crate::model::{
    Answer, CutTurn, EnvPolicy, Fault, FaultCode, RawJson, SessionId, StateChange, TurnId, TurnRequest,
};
use crate::process::Environment;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A turn as its handler sees it. Cloning shares everything.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The turn's id.
    pub id: TurnId,
    /// The session's id.
    pub session: SessionId,
    /// 1, or more when an earlier attempt was cut by a crash of the server.
    pub attempt: u32,
    /// The state this turn starts from, as a handler of this session last left it.
    pub state: Option<RawJson>,
    /// What was asked.
    pub request: Arc<TurnRequest>,
    /// What the user says while the turn runs.
    pub inputs: Inputs,
    /// The turn before, if it was cut when the server ended.
    pub cut: Option<Arc<CutTurn>>,
}

impl Turn {
    /// Whether a program of this turn sees the request's environment and little else.
    #[must_use]
    pub fn has_own_environment(&self) -> bool {
        self.request.env_policy == EnvPolicy::AllowList
    }

    /// What a program sees that is started for this turn: of the server's environment what its protocol lets through,
    /// and where that is little, all that the request brings.
    #[must_use]
    pub fn environment(&self, own: &Environment) -> Environment {
        if !self.has_own_environment() {
            return own.clone();
        }
        let given = self.request.env.iter().flatten();
        given.fold(own.only_allowed(), |env, (name, value)| env.with(name, value.expose()))
    }

    /// A variable of the request's environment, else of the server's; an empty one is none.
    #[must_use]
    pub fn variable(&self, name: &str, own: &Environment) -> Option<String> {
        let given = self.request.env.as_ref().and_then(|env| env.get(name)).map(|value| value.expose().to_owned());
        let own = || match self.request.env_policy {
            EnvPolicy::Inherit => Some(own.get(name)?.to_str()?.to_owned()),
            EnvPolicy::AllowList => Some(own.only_allowed().get(name)?.to_str()?.to_owned()),
        };
        given.or_else(own).filter(|value| !value.is_empty())
    }
}

/// Tells a program of this turn alone where that stands in its caller's trace.
pub fn traced(env: Environment, request: &TurnRequest) -> Environment {
    let Some(trace) = &request.trace else { return env };
    let env = env.with("TRACEPARENT", trace.parent());
    match trace.state() {
        Some(state) => env.with("TRACESTATE", state),
        None => env.without("TRACESTATE"),
    }
}

/// What a handler returns for a turn that did not fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// What happens to the session's state.
    pub state: StateChange,
    /// The handler's own metadata, a JSON object.
    pub metadata: Option<RawJson>,
}

impl Reply {
    /// A text answer that leaves the state alone.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { answer: Answer::Text(text.into()), state: StateChange::Keep, metadata: None }
    }

    /// The same reply with another state.
    #[must_use]
    pub fn with_state(mut self, state: StateChange) -> Self {
        self.state = state;
        self
    }
}

/// What a handler returns for a turn that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What went wrong.
    pub fault: Fault,
    /// A failed turn may leave a state too.
    pub state: StateChange,
}

impl Failure {
    /// What a handler returns that heard a cancel: how the turn ends is decided already, and its state stays as it was.
    #[must_use]
    pub fn cancelled() -> Self {
        Fault::new(FaultCode::HandlerFailed, "cancelled").into()
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { fault, state: StateChange::Keep }
    }
}

/// What became of a session's program that was to end by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Closed {
    /// The session has no program of its own.
    #[default]
    Nothing,
    /// It has ended.
    Ended {
        /// Its exit code; 128 and its number for a signal. `None` where nobody knows.
        code: Option<i32>,
        /// The last of what it said on standard error.
        stderr: String,
        /// That of it which no turn has told.
        untold: String,
    },
    /// It is still there, and still the session's.
    Hangs,
}

/// Runs turns.
///
/// What an implementation must guarantee:
/// - `run` is called for several turns at once, also of different sessions; never twice at once for one session.
/// - It returns once the turn is over and nothing of it runs any more. When `cancel` fires it should return within the
///   grace (2 s); after that it is dropped at its next await point, so it must be safe to drop there (cancel-safe).
/// - It does not block its thread; CPU-heavy work goes to `tokio::task::spawn_blocking`.
/// - A panic costs this turn an error and nothing else.
/// - What it says after it returned is dropped.
pub trait Handler: Send + Sync + 'static {
    /// The handler's name, for logs and `/health`.
    fn name(&self) -> &str;

    /// Runs one turn to its end.
    ///
    /// # Errors
    /// A [`Failure`] when the turn failed; its message goes to the caller, its detail to the log.
    fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> impl Future<Output = Result<Reply, Failure>> + Send;

    /// Called once after the server listens. An error ends the server with exit code 1 and this message.
    ///
    /// # Errors
    /// One sentence that says why no turn could ever work.
    fn start(&self) -> impl Future<Output = Result<(), String>> + Send {
        std::future::ready(Ok(()))
    }

    /// Called when a session is gone for good, as with its connection: what is kept for it is of no more use.
    fn session_ended(&self, session: &SessionId) {
        let _ = session;
    }

    /// Starts what the first turn of a session needs, ahead of it: the process id of the session's program. `None` where
    /// there is no such program, or it cannot be started: the turn says why.
    fn prepare(&self, turn: Turn) -> impl Future<Output = Option<u32>> + Send {
        let _ = turn;
        std::future::ready(None)
    }

    /// Lets the program of a session end by itself, now that no turn will come. What has not ended when it has been
    /// silent for `patience`, or when `stop` fires, stays as it is.
    fn close_session(
        &self,
        session: &SessionId,
        patience: Option<Duration>,
        stop: &CancellationToken,
    ) -> impl Future<Output = Closed> + Send {
        let _ = (patience, stop);
        self.session_ended(session);
        std::future::ready(Closed::Nothing)
    }

    /// Comes back once the program that waits for the next turn of a session has ended by itself; never where there is no
    /// such program. How it ended is told by [`Handler::close_session`]. Cancel-safe.
    fn left(&self, session: &SessionId) -> impl Future<Output = ()> + Send {
        let _ = session;
        std::future::pending()
    }

    /// Called when the server is about to be paused and no turn runs: connections that the pause would break are closed
    /// as far as that can be done; what is needed is made again for the next turn.
    fn park(&self) {}

    /// As [`Handler::session_ended`], and returns when nothing is left of what is kept for it; what has not ended by
    /// itself after `grace` is killed.
    fn end_session(&self, session: &SessionId, grace: Duration) -> impl Future<Output = ()> + Send {
        let _ = grace;
        self.session_ended(session);
        std::future::ready(())
    }

    /// Called once when the server stops, after the last turn; ends everything the handler started. What has not ended by
    /// itself after `grace` is killed; once the server's own grace is spent that is next to nothing.
    fn stop(&self, grace: Duration) -> impl Future<Output = ()> + Send {
        let _ = grace;
        std::future::ready(())
    }
}

/// A [`Handler`] behind a pointer, as the engine holds it.
pub trait DynHandler: Send + Sync + 'static {
    /// See [`Handler::name`].
    fn name(&self) -> &str;
    /// The names that a turn may call it by, where it is several behind one.
    fn agents(&self) -> Vec<String> {
        Vec::new()
    }
    /// See [`Handler::run`].
    fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> BoxFuture<'_, Result<Reply, Failure>>;
    /// See [`Handler::start`].
    fn start(&self) -> BoxFuture<'_, Result<(), String>>;
    /// See [`Handler::session_ended`].
    fn session_ended(&self, session: &SessionId);
    /// See [`Handler::park`].
    fn park(&self);
    /// See [`Handler::end_session`].
    fn end_session<'a>(&'a self, session: &'a SessionId, grace: Duration) -> BoxFuture<'a, ()>;
    /// See [`Handler::prepare`].
    fn prepare(&self, turn: Turn) -> BoxFuture<'_, Option<u32>>;
    /// See [`Handler::close_session`].
    fn close_session<'a>(
        &'a self,
        session: &'a SessionId,
        patience: Option<Duration>,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Closed>;
    /// See [`Handler::left`].
    fn left<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, ()>;
    /// See [`Handler::stop`].
    fn stop(&self, grace: Duration) -> BoxFuture<'_, ()>;
}

impl<H: Handler> DynHandler for H {
    fn name(&self) -> &str {
        Handler::name(self)
    }

    fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(Handler::run(self, turn, sink, cancel))
    }

    fn start(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(Handler::start(self))
    }

    fn session_ended(&self, session: &SessionId) {
        Handler::session_ended(self, session);
    }

    fn park(&self) {
        Handler::park(self);
    }

    fn end_session<'a>(&'a self, session: &'a SessionId, grace: Duration) -> BoxFuture<'a, ()> {
        Box::pin(Handler::end_session(self, session, grace))
    }

    fn prepare(&self, turn: Turn) -> BoxFuture<'_, Option<u32>> {
        Box::pin(Handler::prepare(self, turn))
    }

    fn close_session<'a>(
        &'a self,
        session: &'a SessionId,
        patience: Option<Duration>,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Closed> {
        Box::pin(Handler::close_session(self, session, patience, stop))
    }

    fn left<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, ()> {
        Box::pin(Handler::left(self, session))
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, ()> {
        Box::pin(Handler::stop(self, grace))
    }
}
