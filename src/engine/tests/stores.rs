//! What the engine does with a store that is slow, that fails, that forgets.

use super::*;
use crate::model::FaultCode;
use crate::store::{DiskStore, Keep, StoreHealth};
use std::sync::atomic::AtomicBool;

/// Does not care what became of a batch.
struct Nobody;

impl Acknowledge for Nobody {
    fn acknowledged(self: Arc<Self>, _: Seq, _: usize, _: Result<(), StoreError>) {}
}

/// A store whose acknowledgements are given by the test.
struct SlowStore {
    kept: MemoryStore,
    waiting: mpsc::UnboundedSender<(usize, Done)>,
}

impl Store for SlowStore {
    fn append(&self, batch: Batch, done: Done) {
        let entries = batch.entries.len();
        self.kept.append(batch, Done::new(Arc::new(Nobody), Seq(0), 0));
        self.waiting.send((entries, done)).ok();
    }

    fn session(&self, id: &SessionId) -> BoxFuture<'_, Result<Option<StoredSession>, StoreError>> {
        self.kept.session(id)
    }

    fn events(&self, id: &SessionId, after: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.kept.events(id, after, max_bytes)
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.kept.flush()
    }
}

fn slow_store() -> (Arc<SlowStore>, mpsc::UnboundedReceiver<(usize, Done)>) {
    let (waiting, taken) = mpsc::unbounded_channel();
    (Arc::new(SlowStore { kept: MemoryStore::default(), waiting }), taken)
}

#[tokio::test]
async fn nothing_is_seen_before_it_is_stored_and_batches_form_meanwhile() {
    let (store, mut taken) = slow_store();
    let engine = engine(EngineOptions::default(), Echo, store);
    let (ticket, mut follower) = engine.submit_and_follow(request("s", "@stream 50")).await.unwrap();
    let (accepted, done) = taken.recv().await.unwrap();
    assert_eq!(accepted, 1);
    assert!(follower.try_next(1 << 20).is_empty(), "seen before it was stored");
    assert!(ticket.turn.ended().is_none());
    done.tell(Ok(()));
    let (first, done) = taken.recv().await.unwrap();
    // The handler goes on while the store has one batch; everything it says meanwhile is the next batch.
    while !follower.try_next(1 << 20).is_empty() {}
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(follower.try_next(1 << 20).is_empty(), "seen before it was stored");
    done.tell(Ok(()));
    let (second, done) = taken.recv().await.unwrap();
    assert_eq!(first + second, 51, "fifty events and the end, in two batches");
    assert!(ticket.turn.ended().is_none(), "answered before the outcome was stored");
    done.tell(Ok(()));
    assert_eq!(text(&*ticket.turn.outcome().await), "streamed 50");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_given_up_and_the_turn_goes_on() {
    let (store, _taken) = slow_store();
    let engine = engine(EngineOptions::default(), Echo, store);
    let began = Instant::now();
    let (ticket, mut follower) = engine.submit_and_follow(request("s", "@stream 3")).await.unwrap();
    assert_eq!(text(&*ticket.turn.outcome().await), "streamed 3");
    assert_eq!(began.elapsed(), LogLimits::default().patience);
    let entries = entries(&mut follower, &ticket.turn).await;
    assert_eq!(entries.len(), 6, "and a warning: {entries:?}");
}

/// A store that was asked before the process was paused for an hour has not failed after it.
#[tokio::test(start_paused = true)]
async fn a_store_is_not_given_up_for_a_pause() {
    let (store, mut taken) = slow_store();
    let engine = engine(EngineOptions::default(), Echo, store);
    let (ticket, mut follower) = engine.submit_and_follow(request("s", "@stream 3")).await.unwrap();
    let (_, done) = taken.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    tokio::time::advance(Duration::from_hours(1)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(follower.try_next(1 << 20).is_empty(), "it is still waited for");
    done.tell(Ok(()));
    let acknowledge = async {
        while let Some((_, done)) = taken.recv().await {
            done.tell(Ok(()));
        }
    };
    tokio::select! {
        outcome = ticket.turn.outcome() => assert_eq!(text(&outcome), "streamed 3"),
        () = acknowledge => {}
    }
    assert_eq!(engine.0.registry.logs().without_store(), 0);
}

/// A store that fails from its `good`-th batch on.
struct FailingStore {
    kept: MemoryStore,
    good: AtomicUsize,
}

impl Store for FailingStore {
    fn append(&self, batch: Batch, done: Done) {
        let left = self.good.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |good| good.checked_sub(1));
        if left.is_ok() { self.kept.append(batch, done) } else { done.tell(Err(StoreError("disk full".into()))) }
    }

    fn session(&self, _: &SessionId) -> BoxFuture<'_, Result<Option<StoredSession>, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError("unreadable".into()))))
    }

    fn events(&self, id: &SessionId, after: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.kept.events(id, after, max_bytes)
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.kept.flush()
    }
}

#[tokio::test]
async fn a_failing_store_costs_no_turn_and_no_event() {
    for good in 0..6 {
        let store = FailingStore { kept: MemoryStore::default(), good: AtomicUsize::new(good) };
        let engine = engine(EngineOptions::default(), Echo, Arc::new(store));
        for turn in 0..3 {
            let (ticket, mut follower) = engine.submit_and_follow(request("s", "@stream 3")).await.unwrap();
            assert_eq!(text(&*ticket.turn.outcome().await), "streamed 3", "{good} good batches, turn {turn}");
            let words: Vec<_> = entries(&mut follower, &ticket.turn).await.into_iter().map(|(_, word)| word).collect();
            assert_eq!(words, ["accepted", "message 1", "message 2", "message 3", "ended"]);
        }
    }
}

#[tokio::test]
async fn what_is_no_longer_kept_is_a_gap_with_bounds() {
    let engine = echo();
    outcome(&engine, request("s", "@stream 60000 100")).await;
    let session = engine.0.registry.get(&SessionId::new("s").unwrap()).unwrap();
    let mut follower = session.log.follow(Seq(0));
    let mut batch = follower.next(1 << 16).await;
    let first = batch.remove(0);
    let Followed::Gap { from, to } = first else { panic!("{first:?}") };
    assert_eq!(from, Seq(1));
    let mut next = to.next();
    while next < Seq(60_003) {
        for item in batch {
            let Followed::Entry(entry) = item else { panic!("a second gap: {item:?}") };
            assert_eq!(entry.seq, next);
            next = next.next();
        }
        batch = if next < Seq(60_003) { follower.next(1 << 16).await } else { Vec::new() };
    }
}

/// Sessions with long answers stay in memory without them, and a repeat finds each of them all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_that_only_the_store_has() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path(), Keep::default()).unwrap();
    let engine = engine(EngineOptions::default(), Echo, Arc::new(store));
    let asked = |session: usize, turn: usize| {
        by_id(&format!("s{session}"), &format!("{turn}{}", "x".repeat(100_000)), &format!("m{turn}"), 1)
    };
    for turn in 0..6 {
        for session in 0..40 {
            outcome(&engine, asked(session, turn)).await;
        }
    }
    // They are 24 MB, and what takes more than 16 is forgotten with its session.
    assert_eq!(engine.0.registry.len(), 40);
    for (session, turn) in [(0, 0), (0, 5), (39, 3), (7, 4)] {
        let (ticket, mut follower) = engine.submit_and_follow(asked(session, turn)).await.unwrap();
        assert!(ticket.is_repeat, "{session} {turn}");
        assert_eq!(text(&*ticket.turn.outcome().await), asked(session, turn).prompt);
        let seen = entries(&mut follower, &ticket.turn).await;
        assert_eq!(seen.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>(), ["accepted", "ended"]);
    }
    // One that is in memory goes the short way, the others do not.
    let short = |turn| engine.submit_to_loaded(Box::new(asked(9, turn)));
    assert!(short(5).is_ok_and(|ticket| ticket.unwrap().is_repeat) && short(4).is_err());
    let other = by_id("s9", "other", "m4", 2);
    let refused = TurnRequest {
        repeat: Repeat::ById { id: "m4".into(), body: Fingerprint([2; 16]), conflict: Conflict::Refuse },
        ..other
    };
    assert_eq!(engine.submit(refused).await.unwrap_err().code, FaultCode::KeyConflict);
    assert_eq!(engine.0.registry.len(), 40);
}

/// A store that fails for a while, works again, and says how it is.
struct Recovering {
    kept: MemoryStore,
    fails: AtomicBool,
}

impl Store for Recovering {
    fn append(&self, batch: Batch, done: Done) {
        match self.health() {
            StoreHealth::Ok => self.kept.append(batch, done),
            _ => done.tell(Err(StoreError("disk full".into()))),
        }
    }

    fn session(&self, id: &SessionId) -> BoxFuture<'_, Result<Option<StoredSession>, StoreError>> {
        self.kept.session(id)
    }

    fn events(&self, id: &SessionId, after: Seq, max_bytes: usize) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.kept.events(id, after, max_bytes)
    }

    fn health(&self) -> StoreHealth {
        if self.fails.load(Ordering::SeqCst) { StoreHealth::Degraded("disk full".into()) } else { StoreHealth::Ok }
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.kept.flush()
    }
}

/// An answer that the store does not have stays in memory, also when the store has the next ones.
#[tokio::test]
async fn answers_that_only_memory_has() {
    let store = Arc::new(Recovering { kept: MemoryStore::default(), fails: AtomicBool::new(false) });
    let engine = engine(EngineOptions::default(), Echo, store.clone());
    let asked = |turn: usize| by_id("s", &format!("{turn}{}", "x".repeat(1000)), &format!("m{turn}"), 1);
    for turn in 0..12 {
        store.fails.store((4..8).contains(&turn), Ordering::SeqCst);
        outcome(&engine, asked(turn)).await;
    }
    // The first four were let go of; the next four never can be.
    assert!(engine.submit_to_loaded(Box::new(asked(3))).is_err());
    for turn in (0..12).rev() {
        let ticket = engine.submit(asked(turn)).await.unwrap();
        assert!(ticket.is_repeat, "{turn}");
        assert_eq!(text(&*ticket.turn.outcome().await), asked(turn).prompt);
    }
}
