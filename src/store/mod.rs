//! What outlives a turn: the contract of a store, the one that survives the process, the one in memory, and the spill file.
//!
//! Owns how entries are kept and read back. Knows nothing of queues, handlers or protocols; numbering is the engine's.

mod lines;
mod memory;
mod spill;
mod sqlite;

pub use lines::{LineLog, LogEnd};
pub use memory::MemoryStore;
pub use spill::{Extent, Spill, SpillError, SpillLimits, Spilled};
pub use sqlite::{OpenError, SqliteStore};

use crate::model::{Entry, Outcome, RawJson, Repeat, Seq, SessionId, TurnId};
use futures_util::future::BoxFuture;
use smallvec::SmallVec;
use std::sync::Arc;

/// The store could not do what it was asked to. The text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store: {0}")]
pub struct StoreError(pub String);

/// Entries in the order of their numbers. One or two stand in the batch itself: most batches are no larger.
pub type Entries = SmallVec<[Arc<Entry>; 2]>;

/// Entries of one session.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The session.
    pub session: SessionId,
    /// Its entries; never empty.
    pub entries: Entries,
}

/// Who gave a batch, and is told what became of it.
pub trait Acknowledge: Send + Sync {
    /// The batch whose last entry is `last` is kept, or cannot be.
    fn acknowledged(self: Arc<Self>, last: Seq, bytes: usize, result: Result<(), StoreError>);
}

/// To be told exactly once when a batch is kept, or cannot be: before [`Store::append`] returns or later, on any thread.
pub struct Done {
    to: Arc<dyn Acknowledge>,
    last: Seq,
    bytes: usize,
}

impl Done {
    /// For the batch that ends with `last` and weighs `bytes`.
    #[must_use]
    pub fn new(to: Arc<dyn Acknowledge>, last: Seq, bytes: usize) -> Self {
        Self { to, last, bytes }
    }

    /// Tells.
    pub fn tell(self, result: Result<(), StoreError>) {
        self.to.acknowledged(self.last, self.bytes, result);
    }
}

/// What a store knows of a session besides its events.
#[derive(Debug, Clone, Default)]
pub struct StoredSession {
    /// The last number given out.
    pub last: Seq,
    /// The opaque state.
    pub state: Option<RawJson>,
    /// The last settled turns, oldest first; at least the last 100.
    pub settled: Vec<StoredTurn>,
    /// Turns that were begun and have no outcome: the server died, or its stop cut them. Newest first.
    pub interrupted: Vec<Interrupted>,
}

/// A turn that was begun and did not end.
#[derive(Debug, Clone)]
pub struct Interrupted {
    /// What makes another request its retry.
    pub repeat: Repeat,
    /// Which attempt it was.
    pub attempt: u32,
}

/// A settled turn.
#[derive(Debug, Clone)]
pub struct StoredTurn {
    /// Its id.
    pub id: TurnId,
    /// What makes another request its repeat.
    pub repeat: Repeat,
    /// How it ended.
    pub outcome: Arc<Outcome>,
    /// Whether a caller has the whole answer.
    pub is_delivered: bool,
}

/// Entries after a cursor. A first number above `after + 1` means that what lies between is no longer kept.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The entries, in order, without holes.
    pub entries: Vec<Arc<Entry>>,
}

/// Keeps sessions.
///
/// A store takes batches without blocking its caller and acknowledges each when it is kept. The engine gives it at most
/// one unacknowledged batch per session and bounds what it holds back meanwhile; a store that groups the batches of
/// many sessions into one commit is what makes it fast.
pub trait Store: Send + Sync + 'static {
    /// Takes a batch. Must not block; `done` is told exactly once.
    fn append(&self, batch: Batch, done: Done);

    /// Notes that a caller has the whole answer of a turn. Must not block; may be forgotten in a crash, as what it says
    /// may be repeated then.
    fn delivered(&self, session: &SessionId, turn: &TurnId) {
        let _ = (session, turn);
    }

    /// What is known of a session; `None` when nothing is.
    fn session(&self, id: &SessionId) -> BoxFuture<'_, Result<Option<StoredSession>, StoreError>>;

    /// Entries of a session after `after`, at most `max_bytes` of them (but at least one).
    fn events(&self, id: &SessionId, after: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Page, StoreError>>;

    /// Resolves when everything taken so far is kept.
    fn flush(&self) -> BoxFuture<'_, ()>;
}
