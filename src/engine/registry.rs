//! Which sessions are in memory.
//!
//! Owns loading a session at its first turn and forgetting the ones that were quiet longest; the store keeps what
//! must be kept.

use super::log::{LogLimits, Logs};
use super::session::Session;
use crate::model::{Lifetime, Seq, SessionId};
use crate::store::Store;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The loaded sessions.
pub(super) struct Registry {
    store: Arc<dyn Store>,
    logs: Arc<Logs>,
    most_quiet: usize,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    sessions: HashMap<SessionId, Slot>,
    /// Quiet sessions, longest first, by the count at which they went quiet.
    quiet: BTreeMap<u64, SessionId>,
    /// What they take, by the measure of [`Session::weight`].
    quiet_bytes: usize,
    count: u64,
    /// The last numbers of forgotten sessions that had gone on without their store: they are not given again.
    outran: HashMap<SessionId, Seq>,
}

/// So many of those are known.
const OUTRAN: usize = 65_536;

/// What quiet sessions may take in memory: beyond it the longest quiet ones are read from the store when they go on.
const QUIET_BYTES: usize = 16 << 20;

struct Slot {
    session: Arc<Session>,
    quiet: Option<Quiet>,
}

/// Since when, and what it took then.
#[derive(Clone, Copy)]
struct Quiet {
    since: u64,
    bytes: usize,
}

impl Loaded {
    fn has_woken(&mut self, quiet: Quiet) {
        if self.quiet.remove(&quiet.since).is_some() {
            self.quiet_bytes -= quiet.bytes;
        }
    }
}

impl Registry {
    pub(super) fn new(store: Arc<dyn Store>, limits: LogLimits, most_quiet: usize) -> Self {
        Self { store, logs: Logs::new(limits), most_quiet, loaded: Mutex::default() }
    }

    /// The session of this name, loaded from the store or new. A store that fails gives a new session: its turns run,
    /// and the log tells that they are not kept.
    pub(super) async fn session(&self, id: &SessionId, lifetime: Lifetime) -> Arc<Session> {
        if let Some(session) = self.get(id) {
            return session;
        }
        let (mut stored, store) = match lifetime {
            Lifetime::Connection => (None, None),
            Lifetime::Named => match self.store.session(id).await {
                Ok(stored) => (stored, Some(&self.store)),
                Err(error) => {
                    // Its numbers would begin anew, so nothing of it may get into the store.
                    tracing::error!(session = %id, %error, "the session's past could not be read: it is one of its own");
                    (None, None)
                }
            },
        };
        let mut loaded = self.loaded();
        if let Some(outran) = loaded.outran.remove(id) {
            let stored = stored.get_or_insert_default();
            stored.last = stored.last.max(outran);
        }
        // Two requests may load a session at once: the first to come back decides.
        let slot = loaded.sessions.entry(id.clone()).or_insert_with(|| Slot {
            session: Session::new(id.clone(), lifetime, stored, store.cloned(), self.logs.clone()),
            quiet: None,
        });
        slot.session.clone()
    }

    /// The session, if it is loaded. Touching it takes it off the list of quiet ones.
    pub(super) fn get(&self, id: &SessionId) -> Option<Arc<Session>> {
        let mut loaded = self.loaded();
        let slot = loaded.sessions.get_mut(id)?;
        let (session, quiet) = (slot.session.clone(), slot.quiet.take());
        if let Some(quiet) = quiet {
            loaded.has_woken(quiet);
        }
        Some(session)
    }

    /// A named session that has a past, loaded if it was not.
    pub(super) async fn known(&self, id: &SessionId) -> Option<Arc<Session>> {
        if let Some(session) = self.get(id) {
            return (session.lifetime == Lifetime::Named).then_some(session);
        }
        match self.store.session(id).await {
            Ok(Some(_)) => Some(self.session(id, Lifetime::Named).await),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(session = %id, %error, "the session's past could not be read");
                None
            }
        }
    }

    /// The session, with the answers that only the store had if it is one that is `wanted` for them.
    pub(super) async fn recalled(&self, session: Arc<Session>, wanted: impl Fn(&Session) -> bool) -> Arc<Session> {
        if !wanted(&session) {
            return session;
        }
        // Whoever asks may be gone before the store has answered, so it is as quiet as it was until then, and may be forgotten.
        self.went_quiet(&session);
        let stored = self.store.session(&session.id).await;
        let session = self.session(&session.id, session.lifetime).await;
        match stored {
            Ok(stored) => session.recall(stored.unwrap_or_default().settled),
            Err(error) => {
                tracing::error!(session = %session.id, %error, "earlier answers could not be read: a repeat is a new turn");
            }
        }
        session
    }

    /// Notes that a session has nothing to do, and forgets the longest quiet ones beyond the bound.
    pub(super) fn went_quiet(&self, session: &Arc<Session>) {
        let mut loaded = self.loaded();
        if !session.is_idle() || session.lifetime == Lifetime::Connection {
            return;
        }
        loaded.count += 1;
        let now = loaded.count;
        let Some(slot) = loaded.sessions.get_mut(&session.id) else { return };
        let quiet = Quiet { since: now, bytes: session.weight() };
        if let Some(before) = slot.quiet.replace(quiet) {
            loaded.has_woken(before);
        }
        loaded.quiet.insert(now, session.id.clone());
        loaded.quiet_bytes += quiet.bytes;
        // A session that somebody reads stays: a reader of a forgotten one would hear nothing more. Each is looked at once.
        let mut looked_at = loaded.quiet.len();
        // The one that comes now stays for what it takes: it had a turn just now.
        while (loaded.quiet.len() > self.most_quiet && looked_at > 0)
            || (loaded.quiet_bytes > QUIET_BYTES && looked_at > 1)
        {
            looked_at -= 1;
            let Some((_, id)) = loaded.quiet.pop_first() else { break };
            let now = loaded.count + 1;
            let Some(slot) = loaded.sessions.get_mut(&id) else { continue };
            let Some(quiet) = slot.quiet.as_mut() else { continue };
            if slot.session.log.has_readers() {
                quiet.since = now;
                loaded.count = now;
                loaded.quiet.insert(now, id);
                continue;
            }
            let bytes = quiet.bytes;
            loaded.quiet_bytes -= bytes;
            let Some(slot) = loaded.sessions.remove(&id) else { continue };
            if slot.session.log.outran_store() && loaded.outran.len() < OUTRAN {
                loaded.outran.insert(id, slot.session.log.end());
            }
        }
    }

    pub(super) async fn flush_store(&self) {
        self.store.flush().await;
    }

    /// What all logs share.
    pub(super) fn logs(&self) -> &Arc<Logs> {
        &self.logs
    }

    pub(super) fn forget(&self, id: &SessionId) {
        let mut loaded = self.loaded();
        if let Some(quiet) = loaded.sessions.remove(id).and_then(|slot| slot.quiet) {
            loaded.has_woken(quiet);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.loaded().sessions.len()
    }

    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.loaded().sessions.values().map(|slot| slot.session.clone()).collect()
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
