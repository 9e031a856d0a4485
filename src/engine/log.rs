//! A session's log: gives each entry its number, hands it to the store, and lets readers follow.
//!
//! Owns numbering, the order "stored, then seen", and the bounds on what waits in memory. It knows nothing of what the
//! entries mean, except that only the open turn may speak.
//!
//! The log is the queue: a reader has a cursor, not a queue of its own, so an entry is held once however many read it.

use crate::model::{Entry, Seq, SessionId, TurnId, What};
use crate::store::{Acknowledge, Batch, Done, Entries, Store, StoreError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// Bounds of one session's log.
#[derive(Debug, Clone, Copy)]
pub struct LogLimits {
    /// Entries kept in memory for readers that come later, in bytes.
    pub ring: usize,
    /// Entries that a present reader or the store has not taken yet, in bytes; beyond it the turn is held back.
    pub hold: usize,
    /// How long a turn waits for the store before the log goes on without it.
    pub patience: Duration,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { ring: 1 << 20, hold: 4 << 20, patience: Duration::from_secs(5) }
    }
}

/// The log of one session.
pub struct SessionLog {
    session: SessionId,
    store: Option<Arc<dyn Store>>,
    limits: LogLimits,
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
}

/// What a reader gets.
#[derive(Debug, Clone)]
pub enum Followed {
    /// The next entry.
    Entry(Arc<Entry>),
    /// The entries `from..=to` are no longer kept anywhere.
    Gap {
        /// First number that is missing.
        from: Seq,
        /// Last number that is missing.
        to: Seq,
    },
}

impl SessionLog {
    /// A log that goes on after `last`. Without a store its entries live in memory only.
    pub fn new(session: SessionId, last: Seq, store: Option<Arc<dyn Store>>, limits: LogLimits) -> Arc<Self> {
        Arc::new(Self {
            session,
            store,
            limits,
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
            }),
            grown: Notify::new(),
            freed: Notify::new(),
        })
    }

    /// Appends an entry. `None` when it is an event of a turn that is not open: it is dropped. `Accepted` opens its turn
    /// and `Ended` closes it, under the same lock, so nothing can be said after the end.
    pub fn append(self: &Arc<Self>, turn: &TurnId, what: What) -> Option<Seq> {
        let mut inner = self.inner();
        match &what {
            What::Accepted { .. } => inner.open = Some(turn.clone()),
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
        inner.is_full(&self.limits)
    }

    /// Resolves when `turn` may say more or is over. Gives the store up when it takes longer than its patience.
    pub async fn room(self: &Arc<Self>, turn: &TurnId) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let waits_for_store = {
                let inner = self.inner();
                if !inner.is_full(&self.limits) || inner.open.as_ref() != Some(turn) {
                    return;
                }
                inner.pending_bytes > self.limits.hold
            };
            if !waits_for_store {
                freed.await;
            } else if tokio::time::timeout(self.limits.patience, freed).await.is_err() {
                self.give_up_store(StoreError(format!("no acknowledgement within {:?}", self.limits.patience)));
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
        if tokio::time::timeout(self.limits.patience, reached).await.is_err() {
            self.give_up_store(StoreError(format!("no acknowledgement within {:?}", self.limits.patience)));
        }
    }

    /// The number of the last entry that readers may see.
    pub fn end(&self) -> Seq {
        self.inner().visible
    }

    /// Lets go of what no present reader needs, down to `most` bytes: for a session that has gone quiet.
    pub fn shrink(&self, most: usize) {
        let mut inner = self.inner();
        inner.shrink_to(most);
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
        Follower { log: self.clone(), slot, after }
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

    /// From here on the log lives in memory: turns go on, what is said is seen, nothing of it survives the process.
    fn give_up_store(&self, error: StoreError) {
        let mut inner = self.inner();
        if inner.degraded.is_some() {
            return;
        }
        tracing::error!(session = %self.session, %error, "the store failed; this session goes on in memory");
        inner.degraded = Some(error);
        inner.in_flight = false;
        inner.pending.clear();
        inner.pending_bytes = 0;
        inner.visible = Seq(inner.next.0 - 1);
        self.let_go(&mut inner);
        drop(inner);
        self.grown.notify_waiters();
        self.freed.notify_waiters();
    }

    fn let_go(&self, inner: &mut Inner) {
        inner.shrink_to(self.limits.ring);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
        let was_full = inner.is_full(&self.limits);
        inner.visible = inner.visible.max(last);
        self.let_go(&mut inner);
        let is_full = inner.is_full(&self.limits);
        self.pump(inner);
        self.grown.notify_waiters();
        if (was_full || bytes > self.limits.hold) && !is_full {
            self.freed.notify_waiters();
        }
    }
}

impl Inner {
    fn is_full(&self, limits: &LogLimits) -> bool {
        self.ring_bytes > limits.hold + limits.ring || self.pending_bytes > limits.hold
    }

    /// Drops the oldest entries that are stored and that every present reader has taken.
    fn shrink_to(&mut self, most: usize) {
        let needed = self.cursors.iter().flatten().min().copied().unwrap_or(self.visible).min(self.visible);
        while self.ring_bytes > most {
            match self.ring.front() {
                Some(oldest) if oldest.seq <= needed => {
                    self.ring_bytes -= oldest.weight();
                    self.ring.pop_front();
                }
                _ => break,
            }
        }
    }
}

/// A reader of one session's log. Dropping it frees what only it still needed.
pub struct Follower {
    log: Arc<SessionLog>,
    slot: usize,
    after: Seq,
}

impl Follower {
    /// The next entries, in order, about `max_bytes` of them but at least one. Waits until there is one. Cancel-safe:
    /// nothing is taken until it returns.
    pub async fn next(&mut self, max_bytes: usize) -> Vec<Followed> {
        loop {
            let log = self.log.clone();
            let grown = log.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            match self.take(max_bytes) {
                Taken::Some(entries) => return entries,
                Taken::None => grown.await,
                Taken::Behind { oldest } => return self.read_back(oldest, max_bytes).await,
            }
        }
    }

    /// The next entries if there are any in memory; never waits.
    #[cfg(test)]
    pub fn try_next(&mut self, max_bytes: usize) -> Vec<Followed> {
        match self.take(max_bytes) {
            Taken::Some(entries) => entries,
            Taken::None | Taken::Behind { .. } => Vec::new(),
        }
    }

    fn take(&mut self, max_bytes: usize) -> Taken {
        let mut inner = self.log.inner();
        if inner.visible <= self.after {
            return Taken::None;
        }
        let Some(first) = inner.ring.front().map(|entry| entry.seq) else {
            return Taken::Behind { oldest: inner.next };
        };
        let wanted = self.after.next();
        if first > wanted {
            return Taken::Behind { oldest: first };
        }
        let skip = usize::try_from(wanted.0 - first.0).unwrap_or(usize::MAX);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in inner.ring.iter().skip(skip) {
            if entry.seq > inner.visible || (bytes > 0 && bytes + entry.weight() > max_bytes) {
                break;
            }
            bytes += entry.weight();
            self.after = entry.seq;
            entries.push(Followed::Entry(entry.clone()));
        }
        let was_full = inner.is_full(&self.log.limits);
        inner.cursors[self.slot] = Some(self.after);
        self.log.let_go(&mut inner);
        if was_full && !inner.is_full(&self.log.limits) {
            drop(inner);
            self.log.freed.notify_waiters();
        }
        Taken::Some(entries)
    }

    /// What has left memory comes from the store; what the store no longer has is a gap.
    async fn read_back(&mut self, oldest: Seq, max_bytes: usize) -> Vec<Followed> {
        let page = match &self.log.store {
            Some(store) => store.events(&self.log.session, self.after, max_bytes).await.unwrap_or_else(|error| {
                tracing::error!(session = %self.log.session, %error, "a reader lost entries");
                crate::store::Page::default()
            }),
            None => crate::store::Page::default(),
        };
        let mut followed = Vec::new();
        for entry in page.entries.into_iter().take_while(|entry| entry.seq < oldest) {
            self.skip_to(entry.seq, &mut followed);
            self.after = entry.seq;
            followed.push(Followed::Entry(entry));
        }
        if followed.is_empty() {
            self.skip_to(oldest, &mut followed);
        }
        self.log.inner().cursors[self.slot] = Some(self.after);
        followed
    }

    fn skip_to(&mut self, seq: Seq, followed: &mut Vec<Followed>) {
        let from = self.after.next();
        if from < seq {
            self.after = Seq(seq.0 - 1);
            followed.push(Followed::Gap { from, to: self.after });
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut inner = self.log.inner();
        inner.cursors[self.slot] = None;
        self.log.let_go(&mut inner);
        drop(inner);
        self.log.freed.notify_waiters();
    }
}

enum Taken {
    Some(Vec<Followed>),
    None,
    Behind { oldest: Seq },
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
