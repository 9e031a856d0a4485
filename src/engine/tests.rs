//! The engine by itself: order, repeats, one outcome, bounds. What it does with its store is in `stores`.

mod model;
mod stores;

use super::*;
use crate::handler::echo::Echo;
use crate::handler::{Cancel, Failure, Handler, Reply, Sink, Turn};
use crate::model::{Answer, Conflict, Ending, Event, Fingerprint, Outcome, Repeat, Seq, StateChange, What};
use crate::store::{Acknowledge, Batch, Done, MemoryStore, Page, StoreError, StoredSession};
use futures_util::future::BoxFuture;
use std::sync::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

fn engine(options: EngineOptions, handler: impl Handler, store: Arc<dyn Store>) -> Engine {
    Engine::new(options, Arc::new(handler), store, Redactor::default(), TaskTracker::new())
}

fn echo() -> Engine {
    engine(EngineOptions::default(), Echo, Arc::new(MemoryStore::default()))
}

fn request(session: &str, prompt: &str) -> TurnRequest {
    TurnRequest::new(SessionId::new(session).unwrap(), "test", prompt)
}

fn by_id(session: &str, prompt: &str, id: &str, body: u8) -> TurnRequest {
    let repeat = Repeat::ById { id: id.into(), body: Fingerprint([body; 16]), conflict: Conflict::NewTurn };
    TurnRequest { repeat, ..request(session, prompt) }
}

async fn outcome(engine: &Engine, request: TurnRequest) -> Arc<Outcome> {
    engine.submit(request).await.expect("admitted").turn.outcome().await
}

fn text(outcome: &Outcome) -> &str {
    match &outcome.ending {
        Ending::Answered(Answer::Text(text)) => text,
        other => panic!("no text: {other:?}"),
    }
}

/// Reads a turn's entries up to its end.
async fn entries(follower: &mut Follower, turn: &TurnRecord) -> Vec<(Seq, String)> {
    let mut seen = Vec::new();
    loop {
        for item in follower.next(1 << 16).await {
            let Followed::Entry(entry) = item else { panic!("a gap: {item:?}") };
            if entry.turn != turn.id {
                continue;
            }
            let word = match &entry.what {
                What::Accepted { .. } => "accepted".to_owned(),
                What::Said(Event::Text { parts, .. }) => parts.concat(),
                What::Said(other) => format!("{other:?}"),
                What::Ended(_) => "ended".to_owned(),
            };
            let ended = word == "ended";
            seen.push((entry.seq, word));
            if ended {
                return seen;
            }
        }
    }
}

#[tokio::test]
async fn a_turn_is_numbered_from_its_acceptance_to_its_end() {
    let engine = echo();
    let (ticket, mut follower) = engine.submit_and_follow(request("s", "@stream 2")).await.unwrap();
    let seen = entries(&mut follower, &ticket.turn).await;
    let expected = [(1, "accepted"), (2, "message 1"), (3, "message 2"), (4, "ended")];
    assert_eq!(seen, expected.map(|(seq, word)| (Seq(seq), word.to_owned())));
}

#[tokio::test]
async fn the_state_goes_from_turn_to_turn() {
    let engine = echo();
    assert_eq!(
        outcome(&engine, request("s", "one")).await.state,
        StateChange::Set(RawJsonOf(r#"{"v":1,"turn":1}"#).into())
    );
    assert_eq!(
        outcome(&engine, request("s", "two")).await.state,
        StateChange::Set(RawJsonOf(r#"{"v":1,"turn":2}"#).into())
    );
    assert_eq!(
        outcome(&engine, request("other", "one")).await.state,
        StateChange::Set(RawJsonOf(r#"{"v":1,"turn":1}"#).into())
    );
    outcome(&engine, request("s", "@clear")).await;
    assert_eq!(
        outcome(&engine, request("s", "three")).await.state,
        StateChange::Set(RawJsonOf(r#"{"v":1,"turn":1}"#).into())
    );
}

struct RawJsonOf(&'static str);

impl From<RawJsonOf> for crate::model::RawJson {
    fn from(text: RawJsonOf) -> Self {
        Self::from_valid(text.0)
    }
}

#[tokio::test]
async fn a_named_repeat_gets_the_recorded_outcome() {
    let engine = echo();
    let first = outcome(&engine, by_id("s", "@text one", "m1", 1)).await;
    let again = engine.submit(by_id("s", "@text one", "m1", 1)).await.unwrap();
    assert!(again.is_repeat);
    assert!(Arc::ptr_eq(&first, &again.turn.outcome().await));
    let other = engine.submit(by_id("s", "@text two", "m1", 2)).await.unwrap();
    assert!(!other.is_repeat, "the same id with another body is a new turn where the protocol says so");
    let refused = Repeat::ById { id: "m1".into(), body: Fingerprint([9; 16]), conflict: Conflict::Refuse };
    let refused = TurnRequest { repeat: refused, ..request("s", "x") };
    assert_eq!(engine.submit(refused).await.unwrap_err().code, FaultCode::KeyConflict);
}

#[tokio::test]
async fn an_unnamed_repeat_counts_until_its_answer_is_delivered() {
    let engine = echo();
    let same = || TurnRequest { repeat: Repeat::ByBody { body: Fingerprint([1; 16]) }, ..request("s", "continue") };
    let first = engine.submit(same()).await.unwrap();
    first.turn.outcome().await;
    let retry = engine.submit(same()).await.unwrap();
    assert!(retry.is_repeat, "the answer was never delivered");
    retry.turn.mark_delivered();
    let next = engine.submit(same()).await.unwrap();
    assert!(!next.is_repeat, "the user said it twice");
    next.turn.outcome().await;
    outcome(&engine, request("s", "something else")).await;
    let late = engine.submit(same()).await.unwrap();
    assert!(!late.is_repeat, "another turn has begun since");
}

/// Notes the order in which turns begin and how many run at once.
#[derive(Default, Clone)]
struct Watcher {
    log: Arc<Mutex<Vec<String>>>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Handler for Watcher {
    fn name(&self) -> &'static str {
        "watcher"
    }

    async fn run(&self, turn: Turn, _: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        self.log.lock().unwrap().push(turn.request.prompt.clone());
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        if turn.request.prompt == "wait" {
            cancel.fired().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(Reply::text(turn.request.prompt.clone()))
    }
}

#[tokio::test]
async fn turns_of_a_session_run_one_at_a_time_in_order() {
    let watcher = Watcher::default();
    let engine = engine(EngineOptions::default(), watcher.clone(), Arc::new(MemoryStore::default()));
    let mut turns = Vec::new();
    for n in 0..10 {
        turns.push(engine.submit(request("s", &n.to_string())).await.unwrap().turn);
    }
    for turn in turns {
        turn.outcome().await;
    }
    assert_eq!(*watcher.log.lock().unwrap(), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(watcher.most.load(Ordering::SeqCst), 1);
    assert_eq!(engine.turns(), 0);
}

#[tokio::test]
async fn the_queue_is_bounded_and_a_waiting_turn_can_be_withdrawn() {
    let watcher = Watcher::default();
    let options = EngineOptions { queue_limit: 2, ..EngineOptions::default() };
    let engine = engine(options, watcher.clone(), Arc::new(MemoryStore::default()));
    let running = engine.submit(request("s", "wait")).await.unwrap().turn;
    while watcher.log.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let first = engine.submit(request("s", "first")).await.unwrap().turn;
    let (second, mut follower) = engine.submit_and_follow(request("s", "second")).await.unwrap();
    assert_eq!(engine.submit(request("s", "third")).await.unwrap_err().code, FaultCode::QueueFull);
    engine.cancel(&second.turn, CancelReason::Caller);
    assert_eq!(
        second.turn.outcome().await.ending,
        Ending::Cancelled(CancelReason::Caller),
        "at once, not after the others"
    );
    assert_eq!(entries(&mut follower, &second.turn).await.last().unwrap().1, "ended");
    engine.cancel(&running, CancelReason::Caller);
    assert_eq!(text(&*first.outcome().await), "first");
    assert_eq!(*watcher.log.lock().unwrap(), ["wait", "first"]);
}

#[tokio::test]
async fn exactly_one_outcome_whatever_happens() {
    let engine = echo();
    for _ in 0..200 {
        let turn = engine.submit(request("s", "@text hello")).await.unwrap().turn;
        engine.cancel(&turn, CancelReason::Caller);
        let first = turn.outcome().await;
        engine.cancel(&turn, CancelReason::Disconnected);
        turn.settle(Arc::new(Outcome::new(Ending::Interrupted)));
        assert!(Arc::ptr_eq(&first, &turn.outcome().await));
    }
    assert_eq!(engine.turns(), 0);
}

#[tokio::test]
async fn a_panic_costs_one_turn() {
    let engine = echo();
    let failed = outcome(&engine, request("s", "@panic")).await;
    let Ending::Failed(fault) = &failed.ending else { panic!("{failed:?}") };
    assert_eq!((fault.code, fault.message.as_str()), (FaultCode::HandlerPanicked, "the handler panicked"));
    assert_eq!(fault.detail.as_deref(), Some("asked to panic"));
    assert_eq!(text(&*outcome(&engine, request("s", "next")).await), "next");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_turn_and_signs_of_life_do_not() {
    struct Slow;
    impl Handler for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }
        async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_mins(20)).await;
                sink.alive();
            }
            let _ = sink.text("so far").await;
            if turn.request.prompt == "then silent" {
                cancel.fired().await;
                return Ok(Reply::text("late").with_state(StateChange::Clear));
            }
            Ok(Reply::text("done"))
        }
    }
    let engine = engine(EngineOptions::default(), Slow, Arc::new(MemoryStore::default()));
    assert_eq!(
        text(&*outcome(&engine, request("s", "x")).await),
        "done",
        "33 hours with a sign of life each 20 minutes"
    );
    let began = Instant::now();
    let cut = outcome(&engine, request("s", "then silent")).await;
    let Ending::TimedOut { limit, after, partial } = &cut.ending else { panic!("{cut:?}") };
    assert_eq!((*limit, *after, partial.as_str()), (crate::model::Limit::Silence, Duration::from_mins(30), "so far"));
    assert_eq!(cut.state, StateChange::Clear, "a state that the handler left within the grace counts");
    assert_eq!(began.elapsed().as_secs(), 100 * 20 * 60 + 1800);
}

/// The machine is paused for an hour in the middle of a turn: neither its silence nor its length counts that hour.
#[tokio::test(start_paused = true)]
async fn a_pause_ends_no_turn() {
    let hour = Duration::from_hours(1);
    for (turn_timeout, silent) in
        [(None, 25), (Some(Duration::from_mins(50)), 25), (None, 31), (Some(Duration::from_mins(40)), 25)]
    {
        let options = EngineOptions { turn_timeout, ..EngineOptions::default() };
        let engine = engine(options, Echo, Arc::new(MemoryStore::default()));
        let minutes = |minutes: u64| minutes * 60_000;
        // Twenty minutes before the pause, and some after it; the sleep itself goes by the clock.
        let turn = engine.submit(request("s", &format!("@sleep {}", minutes(20 + 60 + silent)))).await.unwrap().turn;
        tokio::time::sleep(Duration::from_mins(20)).await;
        tokio::time::advance(hour).await;
        let outcome = turn.outcome().await;
        let expected = match (turn_timeout, silent) {
            (_, 31) => Some(crate::model::Limit::Silence),
            (Some(limit), _) if limit < Duration::from_mins(45) => Some(crate::model::Limit::Turn),
            _ => None,
        };
        match (&outcome.ending, expected) {
            (Ending::Answered(_), None) => {}
            (Ending::TimedOut { limit, .. }, Some(expected)) if *limit == expected => {}
            other => panic!("{turn_timeout:?} {silent}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deaf_handler_is_dropped_after_the_grace() {
    let engine = echo();
    let began = Instant::now();
    let turn = engine.submit(TurnRequest { timeout: Some(Duration::from_secs(1)), ..request("s", "@deaf 60000") });
    let cut = turn.await.unwrap().turn.outcome().await;
    assert!(matches!(cut.ending, Ending::TimedOut { limit: crate::model::Limit::Request, .. }), "{cut:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_its_grace_and_then_cuts() {
    let engine = echo();
    let quick = engine.submit(request("a", "@sleep 5000")).await.unwrap().turn;
    let plain = engine.submit(TurnRequest { on_drain: OnDrain::Cancel, ..request("b", "@sleep 5000") });
    let plain = plain.await.unwrap().turn;
    let stuck = engine.submit(request("c", "@deaf 3600000")).await.unwrap().turn;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let began = Instant::now();
    engine.drain(Duration::from_secs(10)).await;
    assert_eq!(began.elapsed(), Duration::from_millis(10_500));
    assert_eq!(text(&*quick.outcome().await), "slept 5000 ms");
    assert_eq!(plain.outcome().await.ending, Ending::Cancelled(CancelReason::Draining));
    assert_eq!(stuck.outcome().await.ending, Ending::Cancelled(CancelReason::Draining));
    assert_eq!(engine.submit(request("d", "x")).await.unwrap_err().code, FaultCode::Draining);
}

#[tokio::test]
async fn at_most_a_thousand_quiet_sessions_are_kept() {
    let store = Arc::new(MemoryStore::default());
    let engine = engine(EngineOptions::default(), Echo, store.clone());
    for n in 0..1500 {
        outcome(&engine, request(&format!("s{n}"), "x")).await;
    }
    while engine.sessions() > 1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!((engine.sessions(), store.len()), (1000, 1000));
    assert_eq!(
        outcome(&engine, request("s1499", "x")).await.state,
        StateChange::Set(RawJsonOf(r#"{"v":1,"turn":2}"#).into())
    );
    assert_eq!(
        outcome(&engine, request("s0", "x")).await.state,
        StateChange::Set(RawJsonOf(r#"{"v":1,"turn":1}"#).into())
    );
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_its_turn_back_within_bounds() {
    let limits = LogLimits { ring: 10_000, hold: 50_000, spill_max: 0, ..LogLimits::default() };
    let options = EngineOptions { log: limits, ..EngineOptions::default() };
    let engine = engine(options, Echo, Arc::new(MemoryStore::default()));
    let (ticket, mut follower) = engine.submit_and_follow(request("s", "@stream 10000 100")).await.unwrap();
    let other = outcome(&engine, request("other", "@stream 10000 100"));
    assert_eq!(text(&*other.await), "streamed 10000", "without a reader nothing is held back");
    assert!(ticket.turn.ended().is_none(), "two megabytes do not fit into the bounds");
    let seen = entries(&mut follower, &ticket.turn).await;
    assert_eq!(seen.len(), 10_002, "and nothing is lost");
    assert!(seen.windows(2).all(|pair| pair[0].0.next() == pair[1].0));
}

#[tokio::test]
async fn what_is_said_after_the_end_goes_nowhere() {
    struct Late(Arc<Mutex<Option<Sink>>>);
    impl Handler for Late {
        fn name(&self) -> &'static str {
            "late"
        }
        async fn run(&self, _: Turn, sink: Sink, _: Cancel) -> Result<Reply, Failure> {
            *self.0.lock().unwrap() = Some(sink);
            Ok(Reply::text("done"))
        }
    }
    let kept = Arc::new(Mutex::new(None));
    let engine = engine(EngineOptions::default(), Late(kept.clone()), Arc::new(MemoryStore::default()));
    outcome(&engine, request("s", "x")).await;
    let sink = kept.lock().unwrap().take().unwrap();
    assert_eq!(sink.text("late").await, Err(crate::handler::TurnOver));
}

/// Says its prompt word by word, as deltas of two blocks in turn, and waits to be stopped.
struct Spelling;

impl Handler for Spelling {
    fn name(&self) -> &'static str {
        "spelling"
    }

    async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        for piece in turn.request.prompt.split('|') {
            for block in [None, Some("b".into())] {
                let _ = sink.say(Event::TextDelta { block, text: piece.into() }).await;
            }
        }
        cancel.fired().await;
        Err(Fault::new(FaultCode::HandlerFailed, "stopped").into())
    }
}

#[tokio::test]
async fn a_secret_that_is_split_between_deltas_is_found() {
    let redactor = Redactor::new(&[crate::redact::Secret::new("sesame-0123")]);
    let options = EngineOptions { turn_timeout: Some(Duration::from_millis(50)), ..EngineOptions::default() };
    let store = Arc::new(MemoryStore::default());
    let engine = Engine::new(options, Arc::new(Spelling), store, redactor, TaskTracker::new());
    let (ticket, mut follower) = engine.submit_and_follow(request("s", "open |ses|ame-01|23| and ses")).await.unwrap();
    let Ending::TimedOut { partial, .. } = &ticket.turn.outcome().await.ending else { panic!("not cut") };
    assert!(partial.contains("open ") && !partial.contains("sesame"), "{partial}");
    let mut blocks = std::collections::BTreeMap::<_, String>::new();
    let mut over = false;
    while !over {
        for item in follower.next(1 << 16).await {
            let Followed::Entry(entry) = item else { panic!("a gap: {item:?}") };
            match &entry.what {
                What::Said(Event::TextDelta { block, text }) => {
                    blocks.entry(block.clone()).or_default().push_str(text);
                }
                What::Ended(_) => over = true,
                _ => {}
            }
        }
    }
    // Whole at the end, what was held back for a moment included.
    assert_eq!(blocks.into_values().collect::<Vec<_>>(), ["open [REDACTED] and ses"; 2]);
}
