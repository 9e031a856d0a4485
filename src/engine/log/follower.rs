//! A reader's place in the log: what it has taken, and where the next entry comes from.
//!
//! Owns the order in which the three places are looked at: the spill, the ring, the store.

use super::SessionLog;
use crate::model::{Entry, Seq};
use crate::store::{Extent, Page, Spilled};
use std::io;
use std::sync::Arc;
use tokio::task::JoinHandle;

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

/// A reader of one session's log. Dropping it frees what only it still needed.
pub struct Follower {
    log: Arc<SessionLog>,
    slot: usize,
    after: Seq,
    /// The page that is being read back. It outlives a call that is dropped: being called often must not mean reading
    /// the same page again and again.
    pub(super) reading: Option<Reading>,
}

pub(super) struct Reading {
    pub(super) last: Seq,
    pub(super) page: JoinHandle<io::Result<Vec<Arc<Entry>>>>,
}

impl Follower {
    pub(super) fn new(log: Arc<SessionLog>, slot: usize, after: Seq) -> Self {
        Self { log, slot, after, reading: None }
    }

    /// The next entries, in order, about `max_bytes` of them but at least one; what comes from a spill file comes in
    /// the pages that it was written in, of up to 64 KiB. Waits until there is one. Cancel-safe: nothing is taken until
    /// it returns.
    pub async fn next(&mut self, max_bytes: usize) -> Vec<Followed> {
        loop {
            if let Some(reading) = &mut self.reading {
                let page = (&mut reading.page).await.unwrap_or_else(|error| Err(io::Error::other(error)));
                let last = reading.last;
                self.reading = None;
                return self.take_page(page, last);
            }
            let log = self.log.clone();
            let grown = log.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            match self.take(max_bytes) {
                Taken::Some(entries) => return entries,
                Taken::None => grown.await,
                Taken::Spilled(extent) => {
                    let last = extent.last();
                    let page = log.logs.runtime.spawn_blocking(move || extent.read());
                    self.reading = Some(Reading { last, page });
                }
                Taken::Behind { oldest } => return self.read_back(oldest, max_bytes).await,
            }
        }
    }

    /// The number of the last entry it has taken.
    #[must_use]
    pub const fn after(&self) -> Seq {
        self.after
    }

    /// Whether it has taken everything that readers may see now.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.log.end() <= self.after
    }

    /// The next entries if there are any in memory; never waits.
    #[cfg(test)]
    pub fn try_next(&mut self, max_bytes: usize) -> Vec<Followed> {
        match self.take(max_bytes) {
            Taken::Some(entries) => entries,
            Taken::None | Taken::Spilled(_) | Taken::Behind { .. } => Vec::new(),
        }
    }

    fn take(&mut self, max_bytes: usize) -> Taken {
        let inner = self.log.inner();
        if inner.visible <= self.after {
            return Taken::None;
        }
        match inner.spill.find(self.after) {
            Some(Spilled::Written(extent)) => return Taken::Spilled(extent),
            Some(Spilled::Kept(entry)) => {
                self.after = entry.seq;
                self.log.moved(inner, self.slot, self.after);
                return Taken::Some(vec![Followed::Entry(entry)]);
            }
            None => {}
        }
        let in_memory = inner.ring.front().map_or(inner.next, |entry| entry.seq);
        let wanted = self.after.next();
        if in_memory > wanted {
            let spilled = inner.spill.first().filter(|first| *first > wanted);
            return Taken::Behind { oldest: spilled.unwrap_or(in_memory) };
        }
        let skip = usize::try_from(wanted.0 - in_memory.0).unwrap_or(usize::MAX);
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
        self.log.moved(inner, self.slot, self.after);
        Taken::Some(entries)
    }

    /// What was read back from a spill file. A page that cannot be read is a gap.
    fn take_page(&mut self, page: io::Result<Vec<Arc<Entry>>>, last: Seq) -> Vec<Followed> {
        let mut followed = Vec::new();
        match page {
            Ok(entries) => {
                let after = self.after;
                followed.extend(entries.into_iter().filter(|entry| entry.seq > after).map(Followed::Entry));
                self.after = last;
            }
            Err(error) => {
                tracing::error!(session = %self.log.session, %error, "a reader lost entries that were spilled");
                self.skip_to(last.next(), &mut followed);
            }
        }
        self.log.moved(self.log.inner(), self.slot, self.after);
        followed
    }

    /// What has left memory comes from the store; what the store no longer has is a gap.
    async fn read_back(&mut self, oldest: Seq, max_bytes: usize) -> Vec<Followed> {
        let page = match &self.log.store {
            Some(store) => store.events(&self.log.session, self.after, max_bytes).await.unwrap_or_else(|error| {
                tracing::error!(session = %self.log.session, %error, "a reader lost entries");
                Page::default()
            }),
            None => Page::default(),
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
        self.log.moved(self.log.inner(), self.slot, self.after);
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
    Spilled(Extent),
    Behind { oldest: Seq },
}
