//! Several handlers behind one: a turn names the one that runs it.
//!
//! Owns the names. The engine sees one handler, as it does where there is only one.

use super::{Cancel, Closed, DynHandler, Failure, Reply, Sink, Turn};
use crate::model::{Fault, FaultCode, SessionId};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, select_all};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Handlers by name. A turn that names none is run by the first.
pub struct Agents {
    first: Arc<dyn DynHandler>,
    named: BTreeMap<String, Arc<dyn DynHandler>>,
}

impl Agents {
    /// Handlers by name, and the one for turns that name none.
    #[must_use]
    pub fn new(first: Arc<dyn DynHandler>, named: BTreeMap<String, Arc<dyn DynHandler>>) -> Self {
        Self { first, named }
    }

    /// The one that a turn names.
    fn of(&self, turn: &Turn) -> Option<&Arc<dyn DynHandler>> {
        match turn.request.agent.as_deref() {
            None => Some(&self.first),
            Some(name) => self.named.get(name),
        }
    }

    /// Every handler once.
    fn all(&self) -> Vec<Arc<dyn DynHandler>> {
        let mut all = vec![self.first.clone()];
        for handler in self.named.values() {
            if !all.iter().any(|known| Arc::ptr_eq(known, handler)) {
                all.push(handler.clone());
            }
        }
        all
    }
}

impl DynHandler for Agents {
    fn name(&self) -> &str {
        self.first.name()
    }

    fn agents(&self) -> Vec<String> {
        self.named.keys().cloned().collect()
    }

    fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> BoxFuture<'_, Result<Reply, Failure>> {
        let Some(handler) = self.of(&turn) else {
            let name = turn.request.agent.as_deref().unwrap_or_default();
            let fault = Fault::new(FaultCode::HandlerUnavailable, format!("unknown agent: {name}"));
            return std::future::ready(Err(fault.into())).boxed();
        };
        handler.run(turn, sink, cancel)
    }

    /// Only the first: that another cannot work is told to the turns that name it.
    fn start(&self) -> BoxFuture<'_, Result<(), String>> {
        self.first.start()
    }

    fn session_ended(&self, session: &SessionId) {
        for handler in self.all() {
            handler.session_ended(session);
        }
    }

    fn park(&self) {
        for handler in self.all() {
            handler.park();
        }
    }

    fn end_session<'a>(&'a self, session: &'a SessionId, grace: Duration) -> BoxFuture<'a, ()> {
        async move {
            let all = self.all();
            join_all(all.iter().map(|handler| handler.end_session(session, grace))).await;
        }
        .boxed()
    }

    fn prepare(&self, turn: Turn) -> BoxFuture<'_, Option<u32>> {
        match self.of(&turn) {
            Some(handler) => handler.prepare(turn),
            None => std::future::ready(None).boxed(),
        }
    }

    /// One of them has the session's program, if there is one.
    fn close_session<'a>(
        &'a self,
        session: &'a SessionId,
        patience: Option<Duration>,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Closed> {
        async move {
            let all = self.all();
            let closed = join_all(all.iter().map(|handler| handler.close_session(session, patience, stop))).await;
            closed.into_iter().find(|closed| *closed != Closed::Nothing).unwrap_or_default()
        }
        .boxed()
    }

    fn left<'a>(&'a self, session: &'a SessionId) -> BoxFuture<'a, ()> {
        async move {
            let all = self.all();
            select_all(all.iter().map(|handler| handler.left(session))).await;
        }
        .boxed()
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, ()> {
        async move {
            let all = self.all();
            join_all(all.iter().map(|handler| handler.stop(grace))).await;
        }
        .boxed()
    }
}
