//! Which ended sessions have a log, and which of them is forgotten first.
//!
//! Owns that order, what the logs take together, and when somebody looks. What is removed with a session is `book`'s.

use crate::api::Runtime;
use actix_web::web;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use uuid::Uuid;

/// Between two looks at what has become too old: as often as the limit, within these.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// How much of the past is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// How long a session is remembered that has ended.
    pub max_age: Option<Duration>,
    /// How many bytes the logs of those may have together.
    pub max_bytes: Option<u64>,
}

impl Limits {
    /// Whether anything is ever forgotten.
    pub const fn are_set(&self) -> bool {
        self.max_age.is_some() || self.max_bytes.is_some()
    }
}

/// The ended sessions. Without limits nobody needs to know them, and nobody puts them here.
#[derive(Debug, Default)]
pub struct Kept {
    /// When each ended, in Unix milliseconds, and the bytes of its log.
    all: HashMap<Uuid, (u64, u64)>,
    /// The same, longest ended first.
    order: BTreeSet<(u64, Uuid)>,
    bytes: u64,
}

impl Kept {
    /// Notes a session that has ended.
    pub fn add(&mut self, uuid: Uuid, ended_at: u64, bytes: u64) {
        self.remove(&uuid);
        self.all.insert(uuid, (ended_at, bytes));
        self.order.insert((ended_at, uuid));
        self.bytes += bytes;
    }

    /// One that goes on under the same id, or is gone.
    pub fn remove(&mut self, uuid: &Uuid) {
        if let Some((ended_at, bytes)) = self.all.remove(uuid) {
            self.order.remove(&(ended_at, *uuid));
            self.bytes -= bytes;
        }
    }

    /// Takes off the longest ended one, if there is more than the limits allow; `now` in Unix milliseconds.
    pub fn next_beyond(&mut self, limits: Limits, now: u64) -> Option<Uuid> {
        let (ended_at, uuid) = *self.order.first()?;
        let oldest = limits.max_age.map(|age| now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        let is_old = oldest.is_some_and(|oldest| ended_at < oldest);
        if !is_old && limits.max_bytes.is_none_or(|most| self.bytes <= most) {
            return None;
        }
        self.remove(&uuid);
        Some(uuid)
    }
}

/// Has what becomes too old forgotten, on a server that has nothing else to do as well. Goes on until the server stops.
pub async fn watch_ages(runtime: web::Data<Runtime>) {
    let Some(age) = runtime.sessions.options.log_max_age else { return };
    let draining = runtime.engine.draining();
    let period = age.clamp(LOOKS.0, LOOKS.1);
    while draining.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
        let runtime = runtime.clone();
        let _ = web::block(move || runtime.sessions.book.prune()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ended_goes_first() {
        let [one, two, three] = [1, 2, 3].map(Uuid::from_u128);
        let mut kept = Kept::default();
        kept.add(two, 20, 100);
        kept.add(one, 10, 100);
        kept.add(three, 30, 100);
        let bytes = |most| Limits { max_age: None, max_bytes: Some(most) };
        assert_eq!(kept.next_beyond(Limits::default(), u64::MAX), None);
        assert_eq!(kept.next_beyond(bytes(300), u64::MAX), None);
        assert_eq!(kept.next_beyond(bytes(299), 0), Some(one));
        assert_eq!(kept.next_beyond(bytes(299), 0), None);
        let age = Limits { max_age: Some(Duration::from_millis(100)), max_bytes: None };
        assert_eq!((kept.next_beyond(age, 120), kept.next_beyond(age, 121)), (None, Some(two)));
        // It ended once more, under the same id.
        kept.add(three, 40, 7);
        assert_eq!((kept.bytes, kept.order.len()), (7, 1));
        assert_eq!((kept.next_beyond(bytes(0), 0), kept.bytes), (Some(three), 0));
        assert_eq!(kept.next_beyond(bytes(0), 0), None);
    }
}
