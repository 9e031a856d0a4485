use super::*;
use crate::model::{
    Answer, Conflict, Ending, Entry, Event, Fingerprint, Outcome, RawJson, Repeat, StateChange, StateIn, TurnRequest,
    What,
};
use crate::store::{Acknowledge, Entries};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

struct Told(UnboundedSender<Result<(), StoreError>>);

impl Acknowledge for Told {
    fn acknowledged(self: Arc<Self>, _: Seq, _: usize, result: Result<(), StoreError>) {
        self.0.send(result).unwrap();
    }
}

fn open(folder: &Path) -> Result<DiskStore, OpenError> {
    DiskStore::open(folder, Keep::default())
}

fn id(text: &str) -> SessionId {
    SessionId::new(text).unwrap()
}

fn turn(text: &str) -> TurnId {
    TurnId::from_drawn(text.to_owned())
}

fn entry(seq: u64, turn_id: &str, what: What) -> Arc<Entry> {
    Arc::new(Entry { seq: Seq(seq), turn: turn(turn_id), at_ms: 7, what })
}

fn repeat(key: &str) -> Repeat {
    Repeat::ById { id: key.to_owned(), body: Fingerprint([7; 16]), conflict: Conflict::NewTurn }
}

fn accepted(seq: u64, turn: &str, key: &str, attempt: u32) -> Arc<Entry> {
    let request = TurnRequest {
        repeat: repeat(key),
        state: StateIn::Given(Some(RawJson::from_valid(r#"{"given":1.0e3}"#))),
        ..TurnRequest::new(id("s"), "dari", "grüezi")
    };
    entry(seq, turn, What::Accepted { attempt, request: Arc::new(request) })
}

fn ended(seq: u64, turn: &str, text: &str) -> Arc<Entry> {
    let state = StateChange::Set(RawJson::from_valid(r#"{"z":12345678901234567890123}"#));
    let outcome = Outcome { state, ..Outcome::new(Ending::Answered(Answer::Text(text.to_owned()))) };
    entry(seq, turn, What::Ended(Arc::new(outcome)))
}

fn said(seq: u64, turn: &str, text: &str) -> Arc<Entry> {
    entry(seq, turn, What::Said(Event::TextDelta { block: None, text: text.to_owned() }))
}

async fn put(store: &DiskStore, session: &str, entries: Vec<Arc<Entry>>) -> Result<(), StoreError> {
    let (told, mut wait) = unbounded_channel();
    let last = entries.last().unwrap().seq;
    let batch = Batch { session: id(session), entries: Entries::from_vec(entries) };
    store.append(batch, Done::new(Arc::new(Told(told)), last, 1));
    wait.recv().await.unwrap()
}

#[tokio::test]
async fn what_is_kept_comes_back_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    put(&store, "s", vec![accepted(1, "t1", "k1", 1), said(2, "t1", "hel"), said(3, "t1", "lo")]).await.unwrap();
    put(&store, "s", vec![ended(4, "t1", "hello"), accepted(5, "t2", "k2", 3), said(6, "t2", "half")]).await.unwrap();
    store.delivered(&id("s"), &turn("t1"));
    assert!(store.session(&id("other")).await.unwrap().is_none());
    drop(store);

    let store = open(folder.path()).unwrap();
    let session = store.session(&id("s")).await.unwrap().unwrap();
    assert_eq!(session.last, Seq(6));
    // The turn that was begun last was given a state of its own.
    assert_eq!(session.state.unwrap().as_str(), r#"{"given":1.0e3}"#);
    let [settled] = &session.settled[..] else { panic!("{:?}", session.settled) };
    assert_eq!((&settled.id, &settled.repeat, settled.is_delivered), (&turn("t1"), &repeat("k1"), true));
    assert_eq!(settled.outcome.ending, Ending::Answered(Answer::Text("hello".to_owned())));
    let [cut] = &session.interrupted[..] else { panic!("{:?}", session.interrupted) };
    assert_eq!((&cut.repeat, cut.attempt), (&repeat("k2"), 3));

    let page = store.events(&id("s"), Seq(1), usize::MAX).await.unwrap();
    let numbers: Vec<u64> = page.entries.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(numbers, [2, 3, 4, 5, 6]);
    assert!(matches!(&page.entries[1].what, What::Said(Event::TextDelta { text, .. }) if text == "lo"));
    let What::Accepted { attempt, request } = &page.entries[3].what else { panic!() };
    assert_eq!((*attempt, request.protocol, request.prompt.as_str()), (3, "dari", "grüezi"));
    let first = store.events(&id("s"), Seq(0), 1).await.unwrap();
    assert_eq!(first.entries.len(), 1, "at least one, however small the page");
}

#[tokio::test]
async fn batches_of_many_sessions_are_grouped_and_kept() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    let (told, mut wait) = unbounded_channel();
    let told = Arc::new(Told(told));
    for n in 0..500 {
        let entries = Entries::from_vec(vec![accepted(1, "t", "k", 1), ended(2, "t", "done")]);
        store.append(Batch { session: id(&format!("s{n}")), entries }, Done::new(told.clone(), Seq(2), 1));
    }
    for _ in 0..500 {
        wait.recv().await.unwrap().unwrap();
    }
    for n in [0, 250, 499] {
        assert_eq!(store.session(&id(&format!("s{n}"))).await.unwrap().unwrap().settled.len(), 1);
    }
}

#[test]
fn a_folder_has_one_owner() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    let refused = open(folder.path()).err().unwrap();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    drop(store);
    drop(open(folder.path()).unwrap());
    let connection = Connection::open(folder.path().join("index.db")).unwrap();
    connection.pragma_update(None, "user_version", VERSION + 1).unwrap();
    let refused = open(folder.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Later { form: 2, .. }), "{refused}");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(open(&file), Err(OpenError::Unusable { .. })));
}

#[tokio::test]
async fn nobody_else_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let outer = TempDir::new().unwrap();
    let folder = outer.path().join("made/here");
    let store = open(&folder).unwrap();
    put(&store, "s", vec![accepted(1, "t1", "k1", 1)]).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("log")), 0o700);
    let inner = std::fs::read_dir(folder.join("log")).unwrap();
    let files = std::fs::read_dir(&folder).unwrap().chain(inner).flatten().map(|entry| entry.path());
    let files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
    assert!(files.len() > 2, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

/// A disk that is full is told, and what was kept before stays.
#[tokio::test]
async fn a_full_disk() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    store.full_at(100_000);
    put(&store, "s", vec![accepted(1, "t1", "k1", 1), ended(2, "t1", "kept")]).await.unwrap();
    let large = "x".repeat(1 << 20);
    let error = put(&store, "s", vec![accepted(3, "t2", "k2", 1), said(4, "t2", &large)]).await.unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    assert!(matches!(store.health(), StoreHealth::Degraded(why) if why.contains("full")));
    put(&store, "s", vec![accepted(3, "t3", "k3", 1), ended(4, "t3", "kept, too")]).await.unwrap();
    assert_eq!(store.health(), StoreHealth::Ok, "it works again");
    let session = store.session(&id("s")).await.unwrap().unwrap();
    assert_eq!((session.last, session.settled.len()), (Seq(4), 2));
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_all(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn numbers(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.seq.0).collect()
}

/// More rows than are known in memory alone, of sessions that take turns: found by number, from the middle, before and
/// after a restart, and a killed process leaves the index behind the log.
#[tokio::test]
async fn the_index_follows_behind_the_log() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    let sessions = ["a", "b", "c"];
    for n in 0..500 {
        for session in sessions {
            let (key, turn) = (format!("k{n}"), format!("{session}{n}"));
            let entries =
                vec![accepted(3 * n + 1, &turn, &key, 1), said(3 * n + 2, &turn, "x"), ended(3 * n + 3, &turn, "y")];
            put(&store, session, entries).await.unwrap();
        }
    }
    // As a killed process leaves it: without a last word of the thread.
    let copy = TempDir::new().unwrap();
    copy_all(folder.path(), copy.path());
    drop(store);
    for folder in [&folder, &copy] {
        let store = open(folder.path()).unwrap();
        for session in sessions {
            for after in [0, 1, 2, 3, 700, 1023, 1024, 1498, 1499, 1500, 1501] {
                let page = store.events(&id(session), Seq(after), usize::MAX).await.unwrap();
                assert_eq!(numbers(&page), (after + 1..=1500).collect::<Vec<_>>(), "{session}, {after}");
            }
            let stored = store.session(&id(session)).await.unwrap().unwrap();
            assert_eq!((stored.last, stored.settled.len(), stored.interrupted.len()), (Seq(1500), 100, 0));
            assert_eq!(stored.settled.last().unwrap().id, turn(&format!("{session}499")));
            assert_eq!(stored.state.unwrap().as_str(), r#"{"z":12345678901234567890123}"#);
        }
    }
}

/// What is kept no longer is gone, the rest is there, and a session still knows its number and its state.
#[tokio::test]
async fn what_is_kept_has_an_end() {
    let folder = TempDir::new().unwrap();
    let keep = Keep { age: Duration::MAX, events: 300, every: Duration::from_millis(10), ..Keep::default() };
    let store = DiskStore::open(folder.path(), keep).unwrap();
    put(&store, "quiet", vec![accepted(1, "q", "k", 1), ended(2, "q", "y")]).await.unwrap();
    for n in 0..1500 {
        let (key, turn) = (format!("k{n}"), format!("t{n}"));
        put(&store, "busy", vec![accepted(2 * n + 1, &turn, &key, 1), ended(2 * n + 2, &turn, "y")]).await.unwrap();
    }
    let began = std::time::Instant::now();
    loop {
        let page = store.events(&id("busy"), Seq(0), usize::MAX).await.unwrap();
        let numbers = numbers(&page);
        assert_eq!(*numbers.last().unwrap(), 3000);
        assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]), "no holes");
        // Rows that are not in the index yet are left alone.
        if numbers.len() < 2300 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{} are left", numbers.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let quiet = store.session(&id("quiet")).await.unwrap().unwrap();
    assert_eq!((quiet.last, quiet.settled.len()), (Seq(2), 0));
    assert_eq!(quiet.state.unwrap().as_str(), r#"{"z":12345678901234567890123}"#);
    put(&store, "quiet", vec![accepted(3, "q2", "k2", 1)]).await.unwrap();
    let page = store.events(&id("quiet"), Seq(0), usize::MAX).await.unwrap();
    assert_eq!(numbers(&page), [3]);
}

/// Old sessions go as a whole. The entries of these tests are from 1970.
#[tokio::test]
async fn what_is_old_goes() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    put(&store, "old", vec![accepted(1, "t", "k", 1), ended(2, "t", "y")]).await.unwrap();
    drop(store);
    let keep = Keep { every: Duration::from_millis(10), ..Keep::default() };
    let store = DiskStore::open(folder.path(), keep).unwrap();
    let began = std::time::Instant::now();
    while store.session(&id("old")).await.unwrap().is_some() {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    put(&store, "old", vec![accepted(3, "t2", "k2", 1)]).await.unwrap();
    assert_eq!(store.session(&id("old")).await.unwrap().unwrap().last, Seq(3));
}

/// What a platform gives back is kept once.
#[tokio::test]
async fn a_state_that_comes_back_is_kept_once() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    let large = format!("\"{}\"", "s".repeat(100_000));
    for n in 0..50_u64 {
        let request = TurnRequest {
            repeat: repeat(&format!("k{n}")),
            state: StateIn::Given(Some(RawJson::from_valid(large.clone()))),
            ..TurnRequest::new(id("s"), "dari", "hi")
        };
        let begun = entry(2 * n + 1, &format!("t{n}"), What::Accepted { attempt: 1, request: Arc::new(request) });
        let outcome = Arc::new(Outcome::new(Ending::Answered(Answer::Text("hello".to_owned()))));
        put(&store, "s", vec![begun, entry(2 * n + 2, &format!("t{n}"), What::Ended(outcome))]).await.unwrap();
    }
    drop(store);
    let first = folder.path().join("log").join(format!("{:019}.log", 0));
    assert!((100_000..200_000).contains(&std::fs::metadata(first).unwrap().len()));
    let store = open(folder.path()).unwrap();
    assert_eq!(store.session(&id("s")).await.unwrap().unwrap().state.unwrap().as_str(), large);
}

#[tokio::test]
async fn what_was_promised_is_kept_until_it_begins() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    let promise = |turn_id: &str| Promised { turn: turn(turn_id), session: id("s"), request: b"{}".to_vec() };
    store.promise(promise("t1")).await.unwrap();
    store.promise(promise("t2")).await.unwrap();
    put(&store, "s", vec![accepted(1, "t1", "k1", 1)]).await.unwrap();
    drop(store);
    assert_eq!(open(folder.path()).unwrap().promised().await.unwrap(), [promise("t2")]);
}

#[test]
fn a_file_is_brought_up_step_by_step() {
    let folder = TempDir::new().unwrap();
    let mut connection = Connection::open(folder.path().join("db")).unwrap();
    assert_eq!(bring_up(&mut connection, &["CREATE TABLE a (x)"]).unwrap(), 1);
    connection.execute("INSERT INTO a VALUES (7)", []).unwrap();
    // A step that fails leaves what was there.
    let steps = ["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = x + 1", "nonsense"];
    assert!(bring_up(&mut connection, &steps).is_err());
    assert_eq!(bring_up(&mut connection, &steps[..2]).unwrap(), 2);
    assert_eq!(connection.query_row("SELECT y FROM a", [], |row| row.get::<_, i64>(0)).unwrap(), 8);
    assert_eq!(bring_up(&mut connection, &[]).unwrap(), 2, "a later one is left alone");
}

/// A machine that lost its power in the middle of a write: what was whole before is there, and the store goes on.
#[tokio::test]
async fn a_torn_end() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path()).unwrap();
    for n in 0..20 {
        let (key, turn) = (format!("k{n}"), format!("t{n}"));
        put(&store, "s", vec![accepted(2 * n + 1, &turn, &key, 1), ended(2 * n + 2, &turn, "y")]).await.unwrap();
    }
    let name = format!("log/{:019}.log", 0);
    let log = std::fs::read(folder.path().join(&name)).unwrap();
    for torn in 1..60 {
        let copy = TempDir::new().unwrap();
        copy_all(folder.path(), copy.path());
        let mut torn_log = log.clone();
        // Cut somewhere, or with bytes that never arrived.
        let from = log.len() - torn * log.len() / 64;
        if torn % 2 == 0 {
            torn_log.truncate(from);
        } else {
            torn_log[from..].fill(0);
        }
        std::fs::write(copy.path().join(&name), &torn_log).unwrap();
        let store = match open(copy.path()) {
            Ok(store) => store,
            Err(error) => panic!("torn at {torn}: {error}"),
        };
        let kept = store.session(&id("s")).await.unwrap();
        let (last, settled) = kept.map_or((0, 0), |kept| (kept.last.0, kept.settled.len() as u64));
        let page = store.events(&id("s"), Seq(0), usize::MAX).await.unwrap();
        assert_eq!(numbers(&page), (1..=last).collect::<Vec<_>>());
        assert_eq!(settled, last / 2, "turns whole or not at all");
        put(&store, "s", vec![accepted(last + 1, "new", "new", 1)]).await.unwrap();
    }
}
