//! Several handlers behind one: a turn names the one that runs it.
//!
//! Owns the names. The engine sees one handler, as it does where there is only one.

use super::{Cancel, DynHandler, Failure, Reply, Sink, Turn};
use crate::model::{Fault, FaultCode, SessionId};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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
        let handler = match turn.request.agent.as_deref() {
            None => Some(&self.first),
            Some(name) => self.named.get(name),
        };
        let Some(handler) = handler else {
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

    fn stop(&self, grace: Duration) -> BoxFuture<'_, ()> {
        async move {
            let all = self.all();
            join_all(all.iter().map(|handler| handler.stop(grace))).await;
        }
        .boxed()
    }
}
