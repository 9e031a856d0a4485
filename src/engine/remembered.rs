//! The settled turns of one session, for those who ask again.
//!
//! Owns how many are remembered, and which answers are in memory: where a store keeps them, only the newest are, and a session
//! with long answers stays in memory with the little it needs for its next turn. What makes a request a repeat is `session`'s.

use super::turn::TurnRecord;
use crate::model::{Outcome, Repeat, Seq, SessionId, TurnId};
use crate::store::{Store, StoreHealth, StoredTurn};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Turns a session remembers; `dari-runtime-v1` 4.1 asks for 100.
pub(super) const TURNS: usize = 100;
/// Their answers in memory, in bytes; the newest is remembered whatever its size.
const BYTES: usize = 64 << 20;
/// The same where a store has them all. In tests so few that the model's steps come this way.
const BYTES_BESIDE_STORE: usize = if cfg!(test) { 512 } else { 256 << 10 };
/// What a turn takes besides its answer: its ids, its key, and what tells its end.
const TURN_BYTES: usize = 600;

/// The settled turns.
#[derive(Default)]
pub(super) struct Remembered {
    /// Those in memory, oldest first.
    turns: VecDeque<Arc<TurnRecord>>,
    bytes: usize,
    /// How many of them have a key of this hash: most requests are new, and need not look at a hundred others.
    keys: HashMap<u64, u32>,
    /// Older ones, whose answers only the store has.
    let_go: VecDeque<LetGo>,
    hasher: RandomState,
}

/// What is known of such a turn.
struct LetGo {
    /// The hash of its key. Should another key have the same, the store is asked once too often.
    key: u64,
    /// The hash of its id.
    turn: u64,
    /// Where its entries begin in the log.
    from: Option<Seq>,
}

impl Remembered {
    /// What the store tells of, oldest first.
    pub(super) fn of(stored: Vec<StoredTurn>, session: &SessionId, store: Option<&Arc<dyn Store>>) -> Self {
        let mut settled = Self::default();
        let older = stored.len().saturating_sub(1);
        for (at, turn) in stored.into_iter().enumerate() {
            let outcome = turn.outcome.clone();
            let record = past(turn, session, store);
            if at < older {
                has_been_followed(&record);
            }
            settled.add(record, &outcome);
            settled.let_go_of_old(store);
        }
        settled
    }

    /// The turn that was settled last.
    pub(super) fn newest(&self) -> Option<&Arc<TurnRecord>> {
        self.turns.back()
    }

    pub(super) fn find(&self, id: &TurnId) -> Option<&Arc<TurnRecord>> {
        self.turns.iter().rev().find(|record| record.id == *id)
    }

    /// Turns that may have the same key, newest first.
    pub(super) fn with_key(&self, repeat: &Repeat) -> impl Iterator<Item = &Arc<TurnRecord>> {
        let known = self.keys.contains_key(&self.key(repeat));
        self.turns.iter().rev().take(if known { usize::MAX } else { 0 })
    }

    /// About how many bytes of memory they take.
    pub(super) fn weight(&self) -> usize {
        self.bytes + self.turns.len() * TURN_BYTES
    }

    /// Adds the newest, and forgets the oldest beyond the bounds.
    pub(super) fn add(&mut self, record: Arc<TurnRecord>, outcome: &Outcome) {
        self.count(&record, outcome);
        self.turns.push_back(record);
        self.forget_beyond();
    }

    /// Leaves the answers of older turns to the store, as far as it has them.
    pub(super) fn let_go_of_old(&mut self, store: Option<&Arc<dyn Store>>) {
        while self.bytes > BYTES_BESIDE_STORE
            && self.turns.len() > 1
            && self.turns.front().is_some_and(|oldest| oldest.is_stored.get().is_some())
            && store.is_some_and(|store| store.health() == StoreHealth::Ok)
        {
            if let Some((old, key)) = self.take_oldest() {
                let (turn, from) = (self.hasher.hash_one(&old.id), old.accepted.get().copied());
                self.let_go.push_back(LetGo { key, turn, from });
            }
        }
    }

    /// Whether a request may repeat a turn whose answer only the store has. One without an id repeats the newest, if any.
    pub(super) fn has_let_go_of(&self, repeat: &Repeat) -> bool {
        if self.let_go.is_empty() || !matches!(repeat, Repeat::ById { .. }) {
            return false;
        }
        let key = self.key(repeat);
        self.let_go.iter().any(|one| one.key == key)
    }

    /// Whether this may be such a turn.
    pub(super) fn has_let_go_of_turn(&self, id: &TurnId) -> bool {
        let turn = self.hasher.hash_one(id);
        self.let_go.iter().any(|one| one.turn == turn)
    }

    /// Takes back the answers that only the store had: it tells them oldest first. They stay until the next turn is settled.
    pub(super) fn recall(&mut self, stored: Vec<StoredTurn>, session: &SessionId, store: Option<&Arc<dyn Store>>) {
        let let_go = std::mem::take(&mut self.let_go);
        for turn in stored.into_iter().rev() {
            if self.find(&turn.id).is_none() {
                let outcome = turn.outcome.clone();
                let record = past(turn, session, store);
                has_been_followed(&record);
                let id = self.hasher.hash_one(&record.id);
                if let Some(from) = let_go.iter().find(|one| one.turn == id).and_then(|one| one.from) {
                    let _ = record.accepted.set(from);
                }
                self.count(&record, &outcome);
                self.turns.push_front(record);
            }
        }
        self.forget_beyond();
    }

    fn count(&mut self, record: &TurnRecord, outcome: &Outcome) {
        *self.keys.entry(self.key(&record.repeat)).or_default() += 1;
        self.bytes += outcome.weight();
    }

    fn forget_beyond(&mut self) {
        while self.turns.len() + self.let_go.len() > TURNS || (self.bytes > BYTES && self.turns.len() > 1) {
            if self.let_go.pop_front().is_none() {
                self.take_oldest();
            }
        }
    }

    /// Takes the oldest of those in memory off; with the hash of its key.
    fn take_oldest(&mut self) -> Option<(Arc<TurnRecord>, u64)> {
        let old = self.turns.pop_front()?;
        self.bytes -= old.ended().map_or(0, |outcome| outcome.weight());
        let key = self.key(&old.repeat);
        if let Entry::Occupied(mut count) = self.keys.entry(key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some((old, key))
    }

    fn key(&self, repeat: &Repeat) -> u64 {
        match repeat {
            Repeat::Never => 0,
            Repeat::ById { id, .. } => self.hasher.hash_one(id),
            Repeat::ByBody { body } => self.hasher.hash_one(body),
        }
    }
}

/// A turn that the store tells of.
fn past(turn: StoredTurn, session: &SessionId, store: Option<&Arc<dyn Store>>) -> Arc<TurnRecord> {
    let record = TurnRecord::new(turn.id, session.clone(), turn.repeat, turn.is_delivered, store.cloned());
    record.settle(turn.outcome);
    let _ = record.is_stored.set(());
    record
}

/// Another turn has begun since: it is nobody's retry that has no id.
fn has_been_followed(record: &TurnRecord) {
    let _ = record.begun_at_end.set(u64::MAX);
}
