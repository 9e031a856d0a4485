use super::*;
use crate::model::{
    Answer, Conflict, Ending, Entry, Event, Fingerprint, Outcome, RawJson, Repeat, StateChange, StateIn, TurnRequest,
    What,
};
use crate::store::{Acknowledge, Entries};
use std::sync::mpsc::{Sender, channel};
use tempfile::TempDir;

struct Told(Mutex<Sender<Result<(), StoreError>>>);

impl Acknowledge for Told {
    fn acknowledged(self: Arc<Self>, _: Seq, _: usize, result: Result<(), StoreError>) {
        self.0.lock().unwrap().send(result).unwrap();
    }
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

fn put(store: &SqliteStore, session: &str, entries: Vec<Arc<Entry>>) -> Result<(), StoreError> {
    let (told, wait) = channel();
    let last = entries.last().unwrap().seq;
    let batch = Batch { session: id(session), entries: Entries::from_vec(entries) };
    store.append(batch, Done::new(Arc::new(Told(Mutex::new(told))), last, 1));
    wait.recv().unwrap()
}

#[tokio::test]
async fn what_is_kept_comes_back_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    put(&store, "s", vec![accepted(1, "t1", "k1", 1), said(2, "t1", "hel"), said(3, "t1", "lo")]).unwrap();
    put(&store, "s", vec![ended(4, "t1", "hello"), accepted(5, "t2", "k2", 3), said(6, "t2", "half")]).unwrap();
    store.delivered(&id("s"), &turn("t1"));
    assert!(store.session(&id("other")).await.unwrap().is_none());
    drop(store);

    let store = SqliteStore::open(folder.path()).unwrap();
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
    let store = SqliteStore::open(folder.path()).unwrap();
    let (told, wait) = channel();
    let told = Arc::new(Told(Mutex::new(told)));
    for n in 0..500 {
        let entries = Entries::from_vec(vec![accepted(1, "t", "k", 1), ended(2, "t", "done")]);
        store.append(Batch { session: id(&format!("s{n}")), entries }, Done::new(told.clone(), Seq(2), 1));
    }
    store.flush().await;
    assert_eq!(wait.try_iter().flatten().count(), 500);
    for n in [0, 250, 499] {
        assert_eq!(store.session(&id(&format!("s{n}"))).await.unwrap().unwrap().settled.len(), 1);
    }
}

#[test]
fn a_folder_has_one_owner() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    let refused = SqliteStore::open(folder.path()).err().unwrap();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
    drop(store);
    drop(SqliteStore::open(folder.path()).unwrap());
    let connection = Connection::open(folder.path().join("turnhost.db")).unwrap();
    connection.pragma_update(None, "user_version", VERSION + 1).unwrap();
    let refused = SqliteStore::open(folder.path()).err().unwrap();
    assert!(matches!(refused, OpenError::Later { form: 2, .. }), "{refused}");
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(SqliteStore::open(&file), Err(OpenError::Unusable { .. })));
}

#[tokio::test]
async fn nobody_else_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let outer = TempDir::new().unwrap();
    let folder = outer.path().join("made/here");
    let store = SqliteStore::open(&folder).unwrap();
    put(&store, "s", vec![accepted(1, "t1", "k1", 1)]).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
    }
}

/// A disk that is full is told, and what was kept before stays.
#[tokio::test]
async fn a_full_disk() {
    let folder = TempDir::new().unwrap();
    drop(SqliteStore::open(folder.path()).unwrap());
    let connection = connect(&folder.path().join("turnhost.db")).unwrap();
    connection.pragma_update(None, "max_page_count", 40).unwrap();
    let reader = Reader::new(connect(&folder.path().join("turnhost.db")).unwrap());
    let lock = Flock::lock(File::create(folder.path().join("other")).unwrap(), FlockArg::LockExclusive).unwrap();
    let store = SqliteStore { writer: Writer::start(connection), reader: Arc::new(Mutex::new(reader)), _lock: lock };
    put(&store, "s", vec![accepted(1, "t1", "k1", 1), ended(2, "t1", "kept")]).unwrap();
    let large = "x".repeat(1 << 20);
    let error = put(&store, "s", vec![accepted(3, "t2", "k2", 1), said(4, "t2", &large)]).unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    put(&store, "s", vec![accepted(3, "t3", "k3", 1), ended(4, "t3", "kept, too")]).unwrap();
    let session = store.session(&id("s")).await.unwrap().unwrap();
    assert_eq!((session.last, session.settled.len()), (Seq(4), 2));
}
