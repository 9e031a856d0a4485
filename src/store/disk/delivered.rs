//! Turns whose answer a caller has, and that are not written yet.
//!
//! Owns how many of them there may be. They are written with what their sessions say next, or when there is nothing else to
//! do: nobody is woken for one of them.

use crate::model::{SessionId, TurnId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many are written at once, however much else there is to do.
pub(super) const MANY: usize = 1024;
/// What comes beyond, while the disk takes nothing, is forgotten: such an answer is given again to whoever asks again.
const MOST: usize = 65_536;

/// Cloning gives another way to the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Delivered(Arc<Mutex<Turns>>);

#[derive(Debug, Default)]
struct Turns {
    of: HashMap<SessionId, Vec<TurnId>>,
    count: usize,
}

impl Delivered {
    /// Whether it is time to write them.
    #[must_use]
    pub(super) fn add(&self, session: &SessionId, turn: &TurnId) -> bool {
        let mut turns = self.lock();
        if turns.count >= MOST {
            return false;
        }
        turns.of.entry(session.clone()).or_default().push(turn.clone());
        turns.count += 1;
        turns.count.is_multiple_of(MANY)
    }

    /// Those of one session, which are written with what it says.
    pub(super) fn take(&self, session: &SessionId) -> Vec<TurnId> {
        let mut turns = self.lock();
        let taken = turns.of.remove(session).unwrap_or_default();
        turns.count -= taken.len();
        taken
    }

    pub(super) fn take_all(&self) -> HashMap<SessionId, Vec<TurnId>> {
        let mut turns = self.lock();
        turns.count = 0;
        std::mem::take(&mut turns.of)
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_at_most() {
        let delivered = Delivered::default();
        let session = |n: usize| SessionId::new(&format!("s{}", n % 5000)).unwrap();
        let turn = |n: usize| TurnId::from_drawn(format!("t{n}"));
        let due = (0..MOST + 3000).filter(|n| delivered.add(&session(*n), &turn(*n))).count();
        assert_eq!(due, MOST / MANY);
        let one = delivered.take(&session(7));
        assert_eq!((one.len(), one.first()), (MOST.div_ceil(5000), Some(&turn(7))));
        assert!(delivered.take(&session(7)).is_empty());
        // There is room again.
        let _ = delivered.add(&session(7), &turn(1));
        let all = delivered.take_all();
        assert_eq!(all.values().map(Vec::len).sum::<usize>(), MOST - one.len() + 1);
        assert!((1..MANY).all(|n| !delivered.add(&session(n), &turn(n))));
        assert!(delivered.add(&session(0), &turn(0)));
    }
}
