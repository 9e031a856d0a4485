//! What outlives a turn: the contract of a store, the one that survives the process, the one in memory, and the spill file.
//!
//! Owns how entries are kept and read back. Knows nothing of queues, handlers or protocols; numbering is the engine's.

mod disk;
mod lines;
mod memory;
mod spill;

pub use disk::{DiskStore, OpenError};
pub use lines::{LineLog, LogEnd};
pub use memory::MemoryStore;
pub use spill::{Extent, Spill, SpillError, SpillLimits, Spilled};

use crate::model::{Entry, Outcome, RawJson, Repeat, Seq, SessionId, TurnId};
use futures_util::future::BoxFuture;
use smallvec::SmallVec;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

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

thread_local! {
    static HAS_TIME: Cell<bool> = const { Cell::new(false) };
}

/// Does something on a thread that may wait for a write, on which no timer and no other turn depends: within it,
/// [`Store::append`] may keep a batch before it returns, which spares two changes of threads.
pub fn with_time<T>(work: impl FnOnce() -> T) -> T {
    let before = HAS_TIME.replace(true);
    let result = work();
    HAS_TIME.set(before);
    result
}

/// Whether this thread may wait for a write.
fn has_time() -> bool {
    HAS_TIME.get()
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
    /// The turn that was begun last.
    pub newest: Option<NewestTurn>,
    /// Turns that were begun and have no outcome: the server died, or its stop cut them. Newest first.
    pub interrupted: Vec<Interrupted>,
}

/// The turn of a session that was begun last.
#[derive(Debug, Clone)]
pub struct NewestTurn {
    /// Its id.
    pub id: TurnId,
    /// Its entries begin at this number, or behind it.
    pub from: Seq,
    /// What makes another request its retry.
    pub repeat: Repeat,
    /// How it ended, if it did.
    pub outcome: Option<Arc<Outcome>>,
}

/// A turn that was begun and did not end.
#[derive(Debug, Clone)]
pub struct Interrupted {
    /// Its id.
    pub id: TurnId,
    /// What makes another request its retry.
    pub repeat: Repeat,
    /// Which attempt it was.
    pub attempt: u32,
}

/// A turn that was promised to a caller who comes back for its outcome: if it has not begun, it runs after a restart, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promised {
    /// Its id.
    pub turn: TurnId,
    /// Its session.
    pub session: SessionId,
    /// What was asked, in the words of the adapter that promised it.
    pub request: Vec<u8>,
}

/// How long, how much and how many are kept.
#[derive(Debug, Clone)]
pub struct Keep {
    /// Events are kept for so long.
    pub age: Duration,
    /// And no more of them than fit into so many bytes of disk.
    pub bytes: u64,
    /// And no more than so many.
    pub events: u64,
    /// How often it is looked.
    pub every: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { age: Duration::from_hours(30 * 24), bytes: 1 << 30, events: 10_000_000, every: Duration::from_secs(10) }
    }
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

/// How a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// It forgets when the process ends.
    Memory,
    /// What it was given outlives the process.
    Ok,
    /// It does not: why, in one sentence without secrets.
    Degraded(String),
}

/// Keeps sessions.
///
/// A store takes batches without blocking its caller and acknowledges each when it is kept. The engine gives it at most
/// one unacknowledged batch per session and bounds what it holds back meanwhile; a store that groups the batches of
/// many sessions into one commit is what makes it fast.
pub trait Store: Send + Sync + 'static {
    /// Takes a batch; `done` is told exactly once. Must not block, except within [`with_time`], for a write.
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

    /// Keeps a turn that waits, until the log has its beginning or its end, and that it is this session's for longer.
    fn promise(&self, promised: Promised) -> BoxFuture<'_, Result<(), StoreError>> {
        let _ = promised;
        Box::pin(async { Ok(()) })
    }

    /// Takes a promise back: the turn is another one, or was refused.
    fn withdraw(&self, turn: &TurnId) {
        let _ = turn;
    }

    /// Whose a promised turn is.
    fn session_of(&self, turn: &TurnId) -> BoxFuture<'_, Result<Option<SessionId>, StoreError>> {
        let _ = turn;
        Box::pin(async { Ok(None) })
    }

    /// The turns that were promised and had not begun when the store was opened.
    fn promised(&self) -> BoxFuture<'_, Result<Vec<Promised>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// How it is. Must not block: health checks ask.
    fn health(&self) -> StoreHealth {
        StoreHealth::Memory
    }

    /// Resolves when everything taken so far is kept.
    fn flush(&self) -> BoxFuture<'_, ()>;
}
