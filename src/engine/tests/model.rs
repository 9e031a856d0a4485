//! Ten thousand random steps against a simple model: turns, retries, cancels, readers, restarts with and without a word of
//! farewell. What was promised once holds for ever: outcomes, numbers, states.

use super::*;
use crate::model::RawJson;
use crate::store::{DiskStore, Keep, OpenError};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const STEPS: usize = 10_000;
const SESSIONS: usize = 6;
/// The engine remembers a hundred turns of a session.
const RETRIED: usize = 60;
const PATIENCE: Duration = Duration::from_mins(1);

/// Numbers that look random and come again with their seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }
}

/// Says as many texts as the prompt asks for, counts the turns of its session, and waits at a gate when it is to.
#[derive(Clone, Default)]
struct Script {
    gates: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
}

impl Script {
    fn gate(&self, key: &str) -> Arc<Notify> {
        self.gates.lock().unwrap().entry(key.to_owned()).or_default().clone()
    }

    /// Resolves when the turn of this key waits at its gate.
    async fn holds(&self, key: &str) {
        while !self.gates.lock().unwrap().contains_key(key) {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
}

impl Handler for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        let mut words = turn.request.prompt.split(' ');
        let (key, texts) = (words.next().unwrap(), words.next().unwrap().parse::<usize>().unwrap());
        for n in 0..texts {
            let _ = sink.text(format!("{key} says {n}")).await;
        }
        if words.next() == Some("holds") && turn.attempt == 1 {
            let gate = self.gate(key);
            tokio::select! {
                () = cancel.fired() => return Err(Failure::cancelled()),
                () = gate.notified() => {}
            }
        }
        let count: u64 = turn.state.as_ref().map_or(0, |state| state.as_str().parse().unwrap());
        let state = StateChange::Set(RawJson::from_valid((count + 1).to_string()));
        Ok(Reply { state, ..Reply::text(format!("{key} at attempt {}", turn.attempt)) })
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Stands {
    /// With this text, or cancelled.
    Settled(Option<String>),
    Runs,
    /// At this attempt.
    Cut(u32),
}

struct Asked {
    key: String,
    prompt: String,
    stands: Stands,
    attempt: u32,
}

#[derive(Default)]
struct Known {
    asked: Vec<Asked>,
    /// What a reader was shown under each number.
    shown: BTreeMap<u64, String>,
    answered: u64,
    runs: Option<(usize, Arc<TurnRecord>)>,
}

struct World {
    folder: TempDir,
    script: Script,
    runtime: Option<Runtime>,
    engine: Option<Engine>,
    store: Option<Arc<DiskStore>>,
    sessions: Vec<Known>,
    dice: Dice,
    keys: usize,
}

fn open(folder: &Path, script: &Script) -> (Runtime, Engine, Arc<DiskStore>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (engine, store) = runtime.block_on(async {
        let began = Instant::now();
        let store = loop {
            match DiskStore::open(folder, Keep::default()) {
                Ok(store) => break Arc::new(store),
                // The one before is on its way out.
                Err(OpenError::InUse(_)) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
        };
        // A disk that others keep busy is no store that failed: what was answered without it could not be found again.
        let log = LogLimits { patience: PATIENCE, ..LogLimits::default() };
        let options = EngineOptions { max_quiet_sessions: 3, log, ..EngineOptions::default() };
        (engine(options, script.clone(), store.clone()), store)
    });
    (runtime, engine, store)
}

impl World {
    fn new(seed: u64) -> Self {
        let (folder, script) = (TempDir::new().unwrap(), Script::default());
        let (runtime, engine, store) = open(folder.path(), &script);
        let sessions = std::iter::repeat_with(Known::default).take(SESSIONS).collect();
        let (runtime, engine, store) = (Some(runtime), Some(engine), Some(store));
        Self { folder, script, runtime, engine, store, sessions, dice: Dice(seed), keys: 0 }
    }

    fn submit(&self, session: usize, key: &str, prompt: &str, body: u8) -> Result<Ticket, Fault> {
        let repeat = Repeat::ById { id: key.into(), body: Fingerprint([body; 16]), conflict: Conflict::Refuse };
        let request = TurnRequest { repeat, ..request(&format!("s{session}"), prompt) };
        self.wait(self.engine.as_ref().unwrap().submit(request))
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
    }

    /// Waits for the outcome and compares it with what was known of it.
    fn settle(&mut self, session: usize, at: usize, turn: &TurnRecord) {
        let outcome = self.wait(turn.outcome());
        let known = &mut self.sessions[session];
        let asked = &mut known.asked[at];
        let expected = format!("{} at attempt {}", asked.key, asked.attempt);
        assert_eq!(text(&outcome), expected, "s{session}");
        known.answered += 1;
        let state = StateChange::Set(RawJson::from_valid(known.answered.to_string()));
        assert_eq!(outcome.state, state, "s{session} {}: every answered turn counts once", asked.key);
        asked.stands = Stands::Settled(Some(expected));
    }

    fn new_turn(&mut self, session: usize, holds: bool) {
        self.keys += 1;
        let key = format!("k{}", self.keys);
        let prompt = format!("{key} {}{}", self.dice.below(6), if holds { " holds" } else { "" });
        let ticket = self.submit(session, &key, &prompt, 1).unwrap();
        assert!(!ticket.is_repeat);
        if holds {
            // One that has not begun leaves nothing in the store: after a kill, or once its session is forgotten, it is new.
            self.wait(self.script.holds(&key));
        }
        let known = &mut self.sessions[session];
        known.asked.push(Asked { key, prompt, stands: Stands::Runs, attempt: 1 });
        let at = known.asked.len() - 1;
        if holds {
            known.runs = Some((at, ticket.turn));
        } else {
            self.settle(session, at, &ticket.turn);
        }
    }

    fn retry(&mut self, session: usize) {
        let Some(at) = self.recent(session) else { return };
        let asked = &self.sessions[session].asked[at];
        let (key, prompt, stands) = (asked.key.clone(), asked.prompt.clone(), asked.stands.clone());
        let is_busy = self.sessions[session].runs.is_some();
        match stands {
            Stands::Settled(expected) => {
                let ticket = self.submit(session, &key, &prompt, 1).unwrap();
                assert!(ticket.is_repeat, "s{session} {key} ran twice");
                let outcome = self.wait(ticket.turn.outcome());
                match expected {
                    Some(expected) => assert_eq!(text(&outcome), expected),
                    None => assert_eq!(outcome.ending, Ending::Cancelled(CancelReason::Caller)),
                }
                let refused = self.submit(session, &key, &prompt, 2).unwrap_err();
                assert_eq!(refused.code, FaultCode::KeyConflict);
            }
            Stands::Runs => {
                let ticket = self.submit(session, &key, &prompt, 1).unwrap();
                let (_, running) = self.sessions[session].runs.as_ref().unwrap();
                assert_eq!((ticket.is_repeat, &ticket.turn.id), (true, &running.id));
            }
            Stands::Cut(attempt) if !is_busy => {
                let ticket = self.submit(session, &key, &prompt, 1).unwrap();
                assert!(!ticket.is_repeat, "s{session} {key} was cut");
                self.sessions[session].asked[at].attempt = attempt + 1;
                self.settle(session, at, &ticket.turn);
            }
            Stands::Cut(_) => {}
        }
    }

    fn recent(&mut self, session: usize) -> Option<usize> {
        let asked = self.sessions[session].asked.len();
        let among = asked.min(RETRIED);
        (among > 0).then(|| asked - 1 - self.dice.below(among))
    }

    fn release(&mut self, session: usize) {
        let Some((at, turn)) = self.sessions[session].runs.take() else { return };
        let gate = self.script.gate(&self.sessions[session].asked[at].key);
        gate.notify_one();
        self.settle(session, at, &turn);
    }

    fn cancel(&mut self, session: usize) {
        let Some((at, turn)) = self.sessions[session].runs.take() else { return };
        self.engine.as_ref().unwrap().cancel(&turn, CancelReason::Caller);
        let outcome = self.wait(turn.outcome());
        assert_eq!(outcome.ending, Ending::Cancelled(CancelReason::Caller));
        self.sessions[session].asked[at].stands = Stands::Settled(None);
    }

    /// Reads from somewhere to the end.
    fn read(&mut self, session: usize) {
        let last = self.sessions[session].shown.last_key_value().map_or(0, |(seq, _)| *seq);
        let after = self.dice.below(usize::try_from(last).unwrap() + 1) as u64;
        let engine = self.engine.clone().unwrap();
        let id = SessionId::new(&format!("s{session}")).unwrap();
        let entries = self.wait(async move {
            let Some(mut follower) = engine.follow(&id, Seq(after)).await else { return Vec::new() };
            let mut entries = Vec::new();
            while !follower.is_at_end() {
                entries.extend(follower.next(1 << 16).await);
            }
            entries
        });
        let known = &mut self.sessions[session];
        for (expected, entry) in (after + 1..).zip(entries) {
            let Followed::Entry(entry) = entry else { panic!("a gap: {entry:?}") };
            assert_eq!(entry.seq.0, expected, "s{session}: in order, without holes");
            let what = match &entry.what {
                What::Accepted { attempt, request } => format!("accepted {attempt} {}", request.prompt),
                What::Said(Event::Text { parts, .. }) => parts.concat(),
                What::Said(other) => panic!("{other:?}"),
                What::Ended(outcome) => format!("ended {:?}", outcome.ending),
            };
            let what = format!("{} {what}", entry.turn);
            assert_eq!(*known.shown.entry(expected).or_insert_with(|| what.clone()), what, "s{session}: {expected}");
        }
        let last = known.shown.last_key_value().map_or(0, |(seq, _)| *seq);
        assert_eq!(known.shown.len() as u64, last, "s{session}: nothing that was shown is missing");
    }

    fn restart(&mut self, with_farewell: bool) {
        let engine = self.engine.take().unwrap();
        if with_farewell {
            self.wait(async {
                engine.drain(Duration::ZERO).await;
                engine.flush().await;
            });
        } else {
            self.store.as_ref().unwrap().kill();
        }
        drop(engine);
        for known in &mut self.sessions {
            if let Some((at, _)) = known.runs.take() {
                let asked = &mut known.asked[at];
                asked.stands = Stands::Cut(asked.attempt);
            }
        }
        self.runtime.take().unwrap().shutdown_timeout(PATIENCE);
        drop(self.store.take());
        let (runtime, engine, store) = open(self.folder.path(), &self.script);
        (self.runtime, self.engine, self.store) = (Some(runtime), Some(engine), Some(store));
    }

    fn step(&mut self) {
        let session = self.dice.below(SESSIONS);
        let is_busy = self.sessions[session].runs.is_some();
        match self.dice.below(1000) {
            0..500 if !is_busy => self.new_turn(session, false),
            500..620 if !is_busy => self.new_turn(session, true),
            0..300 => self.release(session),
            300..400 => self.cancel(session),
            400..800 => self.retry(session),
            800..990 => self.read(session),
            what => self.restart(what % 2 == 0),
        }
    }
}

#[test]
fn ten_thousand_steps() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = u64::try_from(now.as_nanos() % u128::from(u64::MAX)).unwrap();
    // Only a test that fails is shown, and with it this line.
    eprintln!("the seed is {seed}");
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    for session in 0..SESSIONS {
        world.read(session);
    }
    world.restart(false);
    for session in 0..SESSIONS {
        world.read(session);
    }
}
