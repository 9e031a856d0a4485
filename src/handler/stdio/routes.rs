//! The turns that a process has, and where what it says of each goes.
//!
//! Owns the book of them. Who may add a turn, and when the process ends, is `worker`'s business.

use crate::handler::{Failure, Reply, Sink};
use crate::process::Exit;
use crate::telemetry::Whose;
use std::collections::HashMap;
use tokio::sync::oneshot;
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Routes {
    pub turns: HashMap<String, Route>,
    /// Somebody is about to give it a turn, and wants it for that turn alone.
    pub reserved: bool,
    /// Nothing is added any more: it is being ended.
    pub closed: bool,
    /// Since when it has no turns.
    pub quiet_since: Option<Instant>,
    /// Set once the process has ended; nothing is added after it.
    pub ended: Option<Exit>,
}

pub(super) struct Route {
    pub sink: Sink,
    pub whose: Whose,
    pub end: oneshot::Sender<Result<Reply, Failure>>,
}

pub(super) enum Added {
    Yes,
    /// It is being ended.
    Closed,
    Ended(Exit),
}

impl Routes {
    pub fn remove(&mut self, turn: &str) -> Option<Route> {
        let route = self.turns.remove(turn);
        if route.is_some() && self.turns.is_empty() {
            self.quiet_since = Some(Instant::now());
        }
        route
    }
}
