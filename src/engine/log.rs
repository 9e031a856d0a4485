//! A session's log: gives each entry its number, hands it to the store, and lets readers follow.
//!
//! Owns numbering, the order "stored, then seen", and the bounds on what waits in memory. It knows nothing of what the
//! entries mean, except that only the open turn may speak.
//!
//! The log is the queue: a reader has a cursor, not a queue of its own, so an entry is held once however many read it.
//! What a present reader leaves untaken beyond a bound waits in a spill file, whether the session has a store or not: a
//! store may forget, and a reader that is there loses nothing.

mod follower;
mod spilling;

#[cfg(test)]
mod tests;

pub use follower::{Followed, Follower};

use crate::awake;
use crate::model::{Entry, Event, Seq, SessionId, TurnId, What};
use crate::store::{Acknowledge, Batch, Done, Entries, Spill, SpillLimits, Store, StoreError, StoreHealth};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Bounds of one session's log.
#[derive(Debug, Clone)]
pub struct LogLimits {
    /// Entries kept in memory for readers that come later, in bytes.
    pub ring: usize,
    /// Entries in memory that a present reader has not taken yet, in bytes; beyond it they go to a spill file. So much
    /// may wait for the store, too. The turn is held back when there is neither room nor a file for `ring` bytes more.
    pub hold: usize,
    /// How long a turn waits for the store before the log goes on without it.
    pub patience: Duration,
    /// The most that waits in spill files for one session's readers, in bytes. 0: no file, the turn is held back.
    pub spill_max: u64,
    /// The folder of spill files; `None` is the system's temporary one.
    pub spill_folder: Option<PathBuf>,
}

impl Default for LogLimits {
    fn default() -> Self {
        let patience = Duration::from_secs(5);
        Self { ring: 1 << 20, hold: 4 << 20, patience, spill_max: 1 << 30, spill_folder: None }
    }
}

/// What all logs of an engine share.
pub(super) struct Logs {
    limits: LogLimits,
    spill: SpillLimits,
    /// Where what blocks is done.
    runtime: Handle,
    /// It was said that spilling does not work.
    spill_warned: AtomicBool,
    /// Logs in memory that have given the store up.
    without_store: AtomicUsize,
}

impl Logs {
    /// Logs that write and read their spill files on the current runtime, which must be the main one.
    pub(super) fn new(limits: LogLimits) -> Arc<Self> {
        let spill = SpillLimits { folder: limits.spill_folder.clone(), most: limits.spill_max };
        Arc::new(Self {
            limits,
            spill,
            runtime: Handle::current(),
            spill_warned: AtomicBool::new(false),
            without_store: AtomicUsize::new(0),
        })
    }

    /// How many sessions in memory go on without their store.
    pub(super) fn without_store(&self) -> usize {
        self.without_store.load(Ordering::Relaxed)
    }
}

/// The log of one session.
pub struct SessionLog {
    session: SessionId,
    store: Option<Arc<dyn Store>>,
    logs: Arc<Logs>,
    inner: Mutex<Inner>,
    /// The visible end moved.
    grown: Notify,
    /// Bytes were let go, or a turn closed.
    freed: Notify,
}

struct Inner {
    next: Seq,
    /// Readers see entries up to here: those the store has, or all once it was given up.
    visible: Seq,
    open: Option<TurnId>,
    ring: VecDeque<Arc<Entry>>,
    ring_bytes: usize,
    pending: Entries,
    pending_bytes: usize,
    in_flight: bool,
    /// Set when the store failed: what follows lives in memory only.
    degraded: Option<StoreError>,
    cursors: Vec<Option<Seq>>,
    /// What comes before the ring and a present reader has not taken.
    spill: Spill,
    /// A write is going on.
    spilling: bool,
    /// The last write failed or found no room, and nothing has changed since.
    unspillable: bool,
}

impl SessionLog {
    /// A log that goes on after `last`. Without a store its entries live in memory only.
    pub(super) fn new(session: SessionId, last: Seq, store: Option<Arc<dyn Store>>, logs: Arc<Logs>) -> Arc<Self> {
        Arc::new(Self {
            session,
            store,
            logs,
            inner: Mutex::new(Inner {
                next: last.next(),
                visible: last,
                open: None,
                ring: VecDeque::new(),
                ring_bytes: 0,
                pending: Entries::new(),
                pending_bytes: 0,
                in_flight: false,
                degraded: None,
                cursors: Vec::new(),
                spill: Spill::default(),
                spilling: false,
                unspillable: false,
            }),
            grown: Notify::new(),
            freed: Notify::new(),
        })
    }

    /// A log that nobody else knows, within a runtime.
    #[cfg(feature = "inside")]
    pub fn alone() -> Arc<Self> {
        Self::new(SessionId::kept("alone"), Seq(0), None, Logs::new(LogLimits::default()))
    }

    /// Appends an entry. `None` when it is an event of a turn that is not open: it is dropped. `Accepted` opens its turn
    /// and `Ended` closes it, under the same lock, so nothing can be said after the end.
    pub fn append(self: &Arc<Self>, turn: &TurnId, what: What) -> Option<Seq> {
        let mut inner = self.inner();
        match &what {
            What::Accepted { .. } => {
                inner.open = Some(turn.clone());
                // Between turns, so that what is missing in the store is one gap.
                if inner.degraded.is_some()
                    && self.store.as_ref().is_some_and(|store| store.health() == StoreHealth::Ok)
                {
                    tracing::info!(session = %self.session, "the store works again and keeps this session");
                    inner.degraded = None;
                    self.logs.without_store.fetch_sub(1, Ordering::Relaxed);
                }
            }
            What::Said(_) if inner.open.as_ref() != Some(turn) => return None,
            What::Said(_) => {}
            What::Ended(_) => {
                if inner.open.as_ref() == Some(turn) {
                    inner.open = None;
                    self.freed.notify_waiters();
                }
            }
        }
        let seq = inner.next;
        inner.next = seq.next();
        let entry = Arc::new(Entry { seq, turn: turn.clone(), at_ms: now_ms(), what });
        let weight = entry.weight();
        inner.ring_bytes += weight;
        inner.ring.push_back(entry.clone());
        if self.store.is_some() && inner.degraded.is_none() {
            inner.pending_bytes += weight;
            inner.pending.push(entry);
            self.pump(inner);
        } else {
            inner.visible = seq;
            self.let_go(&mut inner);
            drop(inner);
            self.grown.notify_waiters();
        }
        Some(seq)
    }

    /// Whether the open turn should wait before it says more.
    pub fn is_full(&self) -> bool {
        let inner = self.inner();
        inner.is_full(&self.logs.limits)
    }

    /// Resolves when `turn` may say more or is over. Gives the store up when it takes longer than its patience.
    pub async fn room(self: &Arc<Self>, turn: &TurnId) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let waits_for_store = {
                let inner = self.inner();
                if !inner.is_full(&self.logs.limits) || inner.open.as_ref() != Some(turn) {
                    return;
                }
                inner.pending_bytes > self.logs.limits.hold
            };
            if !waits_for_store {
                freed.await;
            } else if awake::timeout(self.logs.limits.patience, freed).await.is_none() {
                self.give_up_store(StoreError(format!("no acknowledgement within {:?}", self.logs.limits.patience)));
            }
        }
    }

    /// Resolves when the entry `seq` is stored, or the store was given up. Cancel-safe.
    pub async fn stored(self: &Arc<Self>, seq: Seq) {
        if self.inner().visible >= seq {
            return;
        }
        let reached = async {
            loop {
                let grown = self.grown.notified();
                tokio::pin!(grown);
                grown.as_mut().enable();
                if self.inner().visible >= seq {
                    return;
                }
                grown.await;
            }
        };
        if awake::timeout(self.logs.limits.patience, reached).await.is_none() {
            self.give_up_store(StoreError(format!("no acknowledgement within {:?}", self.logs.limits.patience)));
        }
    }

    /// The number of the last entry that readers may see.
    pub fn end(&self) -> Seq {
        self.inner().visible
    }

    /// Lets go of what no present reader needs, down to `most` bytes: for a session that has gone quiet.
    pub fn shrink(self: &Arc<Self>, most: usize) {
        let mut inner = self.inner();
        self.let_go_down_to(&mut inner, most);
        // Room for a few entries stays: most quiet sessions get another turn soon.
        if inner.ring.capacity() > 4 * inner.ring.len().max(16) {
            inner.ring.shrink_to_fit();
        }
    }

    /// Follows the log from behind `after`.
    pub fn follow(self: &Arc<Self>, after: Seq) -> Follower {
        let mut inner = self.inner();
        let slot = inner.cursors.iter().position(Option::is_none).unwrap_or_else(|| {
            inner.cursors.push(None);
            inner.cursors.len() - 1
        });
        inner.cursors[slot] = Some(after);
        drop(inner);
        Follower::new(self.clone(), slot, after)
    }

    /// Hands what waits to the store, one batch at a time; what comes meanwhile becomes the next batch.
    fn pump(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        if inner.in_flight || inner.pending.is_empty() {
            return;
        }
        let Some(store) = &self.store else { return };
        inner.in_flight = true;
        let entries = std::mem::take(&mut inner.pending);
        let bytes = std::mem::take(&mut inner.pending_bytes);
        drop(inner);
        let Some(last) = entries.last().map(|entry| entry.seq) else { return };
        let done = Done::new(self.clone(), last, bytes);
        store.append(Batch { session: self.session.clone(), entries }, done);
    }

    /// From here on the log lives in memory: turns go on, what is said is seen, nothing of it survives the process. When the
    /// store works again, the next turn is kept.
    fn give_up_store(self: &Arc<Self>, error: StoreError) {
        let mut inner = self.inner();
        if inner.degraded.is_some() {
            return;
        }
        tracing::error!(session = %self.session, %error, "the store failed; this session goes on in memory");
        inner.degraded = Some(error);
        self.logs.without_store.fetch_add(1, Ordering::Relaxed);
        inner.in_flight = false;
        inner.pending.clear();
        inner.pending_bytes = 0;
        inner.visible = Seq(inner.next.0 - 1);
        self.let_go(&mut inner);
        let open = inner.open.clone();
        drop(inner);
        if let Some(turn) = open {
            let text = "the store failed: what is said from here on is kept in memory only".to_owned();
            self.append(&turn, What::Said(Event::Warning { text, field: None }));
        }
        self.grown.notify_waiters();
        self.freed.notify_waiters();
    }

    /// What it holds in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.inner().ring_bytes
    }

    /// Whether somebody reads it now.
    pub(super) fn has_readers(&self) -> bool {
        self.inner().cursors.iter().any(Option::is_some)
    }

    /// Whether the store lacks entries that were seen.
    pub(super) fn outran_store(&self) -> bool {
        self.inner().degraded.is_some()
    }

    fn let_go(self: &Arc<Self>, inner: &mut Inner) {
        self.let_go_down_to(inner, self.logs.limits.ring);
    }

    fn let_go_down_to(self: &Arc<Self>, inner: &mut Inner, most: usize) {
        let taken = inner.taken();
        self.forget_spilled(inner, taken);
        inner.shrink_to(most, taken);
        if inner.ring_bytes <= self.logs.limits.ring {
            inner.unspillable = false;
        }
        self.spill_if_due(inner);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SessionLog {
    fn drop(&mut self) {
        if self.inner().degraded.is_some() {
            self.logs.without_store.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Acknowledge for SessionLog {
    fn acknowledged(self: Arc<Self>, last: Seq, bytes: usize, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.give_up_store(error);
            return;
        }
        let mut inner = self.inner();
        inner.in_flight = false;
        let was_full = inner.is_full(&self.logs.limits);
        inner.visible = inner.visible.max(last);
        self.let_go(&mut inner);
        let is_full = inner.is_full(&self.logs.limits);
        self.pump(inner);
        self.grown.notify_waiters();
        if (was_full || bytes > self.logs.limits.hold) && !is_full {
            self.freed.notify_waiters();
        }
    }
}

impl Inner {
    fn is_full(&self, limits: &LogLimits) -> bool {
        self.ring_bytes + self.spill.kept() > limits.hold + limits.ring || self.pending_bytes > limits.hold
    }

    /// Up to here every entry is stored and every present reader has taken it.
    fn taken(&self) -> Seq {
        self.cursors.iter().flatten().min().copied().unwrap_or(self.visible).min(self.visible)
    }

    /// Drops the oldest entries up to `taken`.
    fn shrink_to(&mut self, most: usize, taken: Seq) {
        while self.ring_bytes > most {
            match self.ring.front() {
                Some(oldest) if oldest.seq <= taken => {
                    self.ring_bytes -= oldest.weight();
                    self.ring.pop_front();
                }
                _ => break,
            }
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
