//! What `benches/parts.rs` measures by itself: parts that a turn goes through, without the turn.
//!
//! Owns how such a part is called from outside. Behind the feature `inside`, and not part of the library anybody uses.

use crate::api::{reads_advance, reads_message};
use crate::engine::{Followed, Follower, SessionLog};
use crate::model::{Event, TurnId, TurnRequest, What};
use crate::process::{Limits, LineReader};
use futures_util::FutureExt;
use std::sync::Arc;

/// The body of a Dari request is read as far as the turn that it asks for. False: it asks for none.
#[must_use]
pub fn advance(body: &str) -> bool {
    reads_advance(body)
}

/// A message of a RuntimeUse client is read. False: it is refused.
#[must_use]
pub fn message(text: &str) -> bool {
    reads_message(text)
}

/// How many lines a program has said.
pub async fn lines(said: &[u8]) -> usize {
    let mut reader = LineReader::new(said, Limits::default());
    let mut count = 0;
    while let Ok(Some(_)) = reader.next().await {
        count += 1;
    }
    count
}

/// A session's log in memory, and one who reads it.
pub struct Log {
    log: Arc<SessionLog>,
    reader: Follower,
    turn: TurnId,
}

impl Log {
    /// A log with an open turn. Within a runtime.
    #[must_use]
    pub fn begin() -> Self {
        let log = SessionLog::alone();
        let turn = TurnId::from_drawn("t".to_owned());
        let request = TurnRequest::new(crate::SessionId::kept("s"), "inside", "");
        log.append(&turn, What::Accepted { attempt: 1, request: Arc::new(request) });
        Self { reader: log.follow(log.end()), log, turn }
    }

    /// Appends so many deltas; their reader takes them all. How many it got.
    pub fn say(&mut self, count: usize) -> usize {
        for _ in 0..count {
            let said = Event::TextDelta { block: None, text: "some words of an agent".to_owned() };
            self.log.append(&self.turn, What::Said(said));
        }
        let Some(taken) = self.reader.next(usize::MAX).now_or_never() else { return 0 };
        taken.iter().filter(|one| matches!(one, Followed::Entry(_))).count()
    }
}
