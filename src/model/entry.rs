//! One entry of a session's log: a turn was accepted, said something, or ended.

use super::{Event, Outcome, Seq, TurnId, TurnRequest};
use std::sync::Arc;

/// One numbered entry of a session's log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number; rises by one within a session.
    pub seq: Seq,
    /// The turn it belongs to.
    pub turn: TurnId,
    /// When it was numbered, in milliseconds since 1970.
    pub at_ms: u64,
    /// What happened.
    pub what: What,
}

/// What an entry records.
#[derive(Debug, Clone)]
pub enum What {
    /// The turn was accepted; stored before its handler sees the input.
    Accepted {
        /// 1, or more after a crash.
        attempt: u32,
        /// What was asked. Stored without its `env` and `secrets`.
        request: Arc<TurnRequest>,
    },
    /// The turn said something.
    Said(Event),
    /// The turn ended; the last entry of its turn. `Cancelled(Draining)` records no outcome: a retry runs the turn.
    Ended(Arc<Outcome>),
}

/// It was measured in a log of a million short texts; what an entry itself takes must not outgrow it unseen.
const _: () = assert!(size_of::<Entry>() + 2 * size_of::<usize>() + 2 * size_of::<Arc<Entry>>() <= Entry::OVERHEAD);

impl Entry {
    /// What an entry with one short text takes besides the text, in bytes: itself and its counts, up to two places in
    /// a ring that has grown by doubling, and what the allocator puts around each of its allocations.
    pub const OVERHEAD: usize = 184;

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        match &self.what {
            What::Accepted { request, .. } => 300 + request.prompt.len(),
            What::Said(event) => event.weight(),
            What::Ended(outcome) => 200 + outcome.weight(),
        }
    }
}
