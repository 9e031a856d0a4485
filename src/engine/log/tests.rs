//! The log by itself: whatever readers do, each gets every entry once and in order, and memory stays bounded.

use super::*;
use crate::model::{Ending, Event, Outcome, TurnRequest};
use crate::store::MemoryStore;
use futures_util::FutureExt;
use proptest::prelude::*;
use std::path::Path;

const PATIENCE: Duration = Duration::from_secs(20);

fn limits(spill_max: u64, folder: Option<&Path>) -> LogLimits {
    LogLimits { ring: 2000, hold: 8000, spill_max, spill_folder: folder.map(Path::to_owned), ..LogLimits::default() }
}

fn log_with(limits: LogLimits, store: Option<Arc<dyn Store>>) -> Arc<SessionLog> {
    SessionLog::new(SessionId::new("s").unwrap(), Seq(0), store, Logs::new(limits))
}

fn turn(n: u64) -> TurnId {
    TurnId::from_drawn(format!("turn_{n}"))
}

fn accepted() -> What {
    What::Accepted { attempt: 1, request: Arc::new(TurnRequest::new(SessionId::new("s").unwrap(), "test", "x")) }
}

fn said(text: &str) -> What {
    What::Said(Event::TextDelta { block: None, text: text.to_owned() })
}

fn ended() -> What {
    What::Ended(Arc::new(Outcome::new(Ending::Interrupted)))
}

/// In words, so that entries can be compared.
fn word(what: &What) -> String {
    match what {
        What::Accepted { .. } => "accepted".to_owned(),
        What::Said(Event::TextDelta { text, .. }) => text.clone(),
        What::Said(other) => format!("{other:?}"),
        What::Ended(_) => "ended".to_owned(),
    }
}

async fn until(what: &str, check: impl Fn() -> bool) {
    let wait = async {
        while !check() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

impl SessionLog {
    fn in_memory(&self) -> usize {
        let inner = self.inner();
        inner.ring_bytes + inner.spill.kept()
    }

    fn in_files(&self) -> u64 {
        self.inner().spill.in_files()
    }

    fn is_writing(&self) -> bool {
        self.inner().spilling
    }
}

/// Says texts until the turn is held back and nothing is written any more, or `most` are said. How many it said.
async fn say_all(log: &Arc<SessionLog>, most: usize) -> usize {
    for n in 0..most {
        if tokio::time::timeout(Duration::from_secs(2), log.room(&turn(1))).await.is_err() {
            return n;
        }
        log.append(&turn(1), said(&format!("text {n}")));
    }
    most
}

/// Reads everything up to the end, which must be without gaps.
async fn read_all(follower: &mut Follower, log: &SessionLog) -> Vec<Arc<Entry>> {
    let mut all: Vec<Arc<Entry>> = Vec::new();
    while all.last().is_none_or(|entry| entry.seq < log.end()) {
        let next = tokio::time::timeout(PATIENCE, follower.next(1000)).await.expect("the next entries");
        for item in next {
            let Followed::Entry(entry) = item else { panic!("a gap: {item:?}") };
            all.push(entry);
        }
    }
    all
}

#[tokio::test]
async fn a_turn_does_not_wait_for_its_reader() {
    let log = log_with(limits(1 << 30, None), None);
    let mut follower = log.follow(Seq(0));
    log.append(&turn(1), accepted());
    assert_eq!(say_all(&log, 20_000).await, 20_000);
    log.append(&turn(1), ended());
    until("the last write", || !log.is_writing()).await;
    assert!(log.in_memory() <= 10_000, "{} bytes in memory", log.in_memory());
    assert!(log.in_files() > 500_000, "{} bytes in files", log.in_files());
    let all = read_all(&mut follower, &log).await;
    assert!(all.iter().zip(1..).all(|(entry, n)| entry.seq == Seq(n)));
    assert_eq!((all.len(), word(&all[20_000].what)), (20_002, "text 19999".to_owned()));
    assert_eq!((log.in_files(), log.inner().spill.first()), (0, None), "space is given back");
}

#[tokio::test]
async fn a_full_spill_file_holds_the_turn_back_and_nothing_is_lost() {
    let log = log_with(limits(20_000, None), None);
    let mut follower = log.follow(Seq(0));
    log.append(&turn(1), accepted());
    let count = say_all(&log, 20_000).await;
    assert!(count > 200 && count < 1000, "{count} texts in 20 kB of file and 10 kB of memory");
    assert!(log.in_files() <= 20_000);
    let rest = tokio::spawn({
        let log = log.clone();
        async move {
            for n in count..20_000 {
                log.room(&turn(1)).await;
                log.append(&turn(1), said(&format!("text {n}")));
            }
        }
    });
    let mut next = 0;
    while next < 20_001 {
        for item in tokio::time::timeout(PATIENCE, follower.next(1000)).await.expect("the next entries") {
            let Followed::Entry(entry) = item else { panic!("a gap: {item:?}") };
            next += 1;
            assert_eq!(entry.seq, Seq(next));
        }
    }
    rest.await.unwrap();
}

#[tokio::test]
async fn without_a_file_the_turn_is_held_back() {
    let nowhere = Path::new("/proc/nowhere");
    for limits in [limits(1 << 30, Some(nowhere)), limits(0, None)] {
        let log = log_with(limits, None);
        let mut follower = log.follow(Seq(0));
        log.append(&turn(1), accepted());
        let said = say_all(&log, 1000).await;
        assert!(said > 10 && said < 100, "{said} texts in 10 kB of memory");
        assert_eq!(read_all(&mut follower, &log).await.len(), said + 1);
        assert!(!log.is_full(), "it goes on");
    }
}

#[tokio::test]
async fn a_reader_that_goes_frees_what_only_it_needed() {
    let log = log_with(limits(1 << 30, None), None);
    let (mut fast, slow) = (log.follow(Seq(0)), log.follow(Seq(0)));
    log.append(&turn(1), accepted());
    assert_eq!(say_all(&log, 2000).await, 2000);
    assert_eq!(read_all(&mut fast, &log).await.len(), 2001);
    until("the last write", || !log.is_writing()).await;
    assert!(log.in_files() > 0);
    drop(slow);
    assert_eq!(log.in_files(), 0);
    assert!(log.in_memory() <= 2000);
}

#[tokio::test]
async fn a_page_that_cannot_be_read_is_a_gap_and_the_rest_is_not() {
    let log = log_with(limits(1 << 30, None), None);
    let mut follower = log.follow(Seq(0));
    log.append(&turn(1), accepted());
    say_all(&log, 2000).await;
    until("the last write", || !log.is_writing()).await;
    assert!(matches!(&follower.next(1000).await[..], [Followed::Entry(first)] if first.seq == Seq(1)));
    follower.reading = Some(super::follower::Reading {
        last: Seq(50),
        page: tokio::task::spawn_blocking(|| Err(std::io::Error::other("broken"))),
    });
    let gap = follower.next(1000).await;
    assert!(matches!(gap[..], [Followed::Gap { from: Seq(2), to: Seq(50) }]), "{gap:?}");
    assert_eq!(read_all(&mut follower, &log).await.first().unwrap().seq, Seq(51));
}

#[derive(Debug, Clone)]
enum Step {
    Say {
        count: usize,
        size: usize,
    },
    NextTurn,
    Read {
        reader: usize,
        bytes: usize,
    },
    /// Begins to read and thinks better of it.
    Begin {
        reader: usize,
    },
    Join,
    Leave {
        reader: usize,
    },
    Breathe,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..120_usize, 0..300_usize).prop_map(|(count, size)| Step::Say { count, size }),
        1 => Just(Step::NextTurn),
        4 => (0..4_usize, 1..20_000_usize).prop_map(|(reader, bytes)| Step::Read { reader, bytes }),
        2 => (0..4_usize).prop_map(|reader| Step::Begin { reader }),
        1 => Just(Step::Join),
        1 => (0..4_usize).prop_map(|reader| Step::Leave { reader }),
        2 => Just(Step::Breathe),
    ];
    prop::collection::vec(step, 1..60)
}

struct Reader {
    follower: Follower,
    next: u64,
}

impl Reader {
    fn check(&mut self, items: Vec<Followed>, all: &[String]) {
        for item in items {
            let Followed::Entry(entry) = item else { panic!("a gap: {item:?}") };
            assert_eq!(entry.seq, Seq(self.next));
            let text = format!("{} {}", entry.turn, word(&entry.what));
            assert_eq!(text, all[usize::try_from(self.next).unwrap() - 1]);
            self.next += 1;
        }
    }

    async fn read(&mut self, bytes: usize, log: &SessionLog, all: &[String]) {
        if Seq(self.next) <= log.end() {
            let items = tokio::time::timeout(PATIENCE, self.follower.next(bytes)).await.expect("the next entries");
            assert!(!items.is_empty());
            self.check(items, all);
        }
    }
}

async fn play(steps: Vec<Step>, spill_max: u64, with_store: bool) {
    let store = with_store.then(|| Arc::new(MemoryStore::default()) as Arc<dyn Store>);
    let log = log_with(limits(spill_max, None), store);
    let mut readers = vec![Reader { follower: log.follow(Seq(0)), next: 1 }];
    let (mut all, mut turns): (Vec<String>, u64) = (Vec::new(), 1);
    let add = |all: &mut Vec<String>, turns: u64, what: What| {
        all.push(format!("{} {}", turn(turns), word(&what)));
        assert_eq!(log.append(&turn(turns), what), Some(Seq(all.len() as u64)));
    };
    add(&mut all, turns, accepted());
    for step in steps {
        match step {
            Step::Say { count, size } => {
                for n in 0..count {
                    if log.is_full() {
                        break;
                    }
                    add(&mut all, turns, said(&format!("{n}{}", "x".repeat(size))));
                }
            }
            Step::NextTurn => {
                add(&mut all, turns, ended());
                turns += 1;
                add(&mut all, turns, accepted());
            }
            Step::Read { reader, bytes } => {
                if let Some(reader) = readers.get_mut(reader) {
                    reader.read(bytes, &log, &all).await;
                }
            }
            Step::Begin { reader } => {
                if let Some(reader) = readers.get_mut(reader)
                    && let Some(items) = reader.follower.next(500).now_or_never()
                {
                    reader.check(items, &all);
                }
            }
            Step::Join => {
                let end = log.end();
                readers.push(Reader { follower: log.follow(end), next: end.0 + 1 });
            }
            Step::Leave { reader } => {
                if reader < readers.len() {
                    readers.remove(reader);
                }
            }
            Step::Breathe => until("the writes", || !log.is_writing()).await,
        }
        // One text, and the ends of turns, may come on top.
        let ends = 1000 * usize::try_from(turns).unwrap();
        assert!(log.in_memory() < 10_000 + 700 + ends, "{} bytes in memory", log.in_memory());
        assert!(log.in_files() <= spill_max);
    }
    for reader in &mut readers {
        while Seq(reader.next) <= log.end() {
            reader.read(3000, &log, &all).await;
        }
        assert_eq!(reader.next, all.len() as u64 + 1);
    }
    until("the last write", || !log.is_writing()).await;
    assert_eq!((log.in_files(), log.is_full()), (0, false));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_reader_gets_every_entry_once_and_in_order(
        steps in steps(),
        spill_max in prop::sample::select(vec![0, 3000, 1 << 30]),
        with_store in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(play(steps, spill_max, with_store));
    }
}
