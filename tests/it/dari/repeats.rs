//! Checks 8 to 13: repeats, disconnects, and what counts as delivered.

use super::{Dari, Mode, turn_body};
use crate::support::http::Http;
use crate::support::stub::script;
use crate::support::{HttpAnswer, eventually, proc};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The same request with and without a message id.
fn with_and_without_id(body: &Value) -> [(bool, Value); 2] {
    let mut with = body.clone();
    with["message_id"] = json!("msg_01");
    [(true, with), (false, body.clone())]
}

/// A server whose log tells when a turn has ended.
fn talkative(mode: Mode) -> Dari {
    Dari::start_with(mode, &["--log-level", "turnhost=debug"], |_| {})
}

/// Waits until so many turns have ended, whoever listened.
async fn ended(dari: &Dari, turns: usize) {
    let seen = || dari.server.log().matches("turn ended").count() >= turns;
    eventually(&format!("the end of turn {turns}"), || seen().then_some(())).await;
}

pub async fn duplicate_in_flight(mode: Mode) {
    for (has_id, mut body) in with_and_without_id(&json!({"input": script(&["delay 3"]), "state": {"b": 1, "a": [2]}}))
    {
        let dari = Dari::start(mode);
        let began = Instant::now();
        let ask = async |copy: u64| {
            tokio::time::sleep(Duration::from_millis(copy * 90)).await;
            // Equal JSON values, however they are written.
            let state = if copy.is_multiple_of(2) { r#"{"b":1,"a":[2]}"# } else { r#"{ "a":[ 2 ], "b":1 }"# };
            let mut copied = body.clone();
            copied["attempt"] = json!(copy);
            let text = copied.to_string().replace(&body["state"].to_string(), state);
            assert!(text.contains(state), "{text}");
            dari.post_raw(text.as_bytes()).await
        };
        let answers = futures_util::future::join_all((0..10).map(&ask)).await;
        assert!(began.elapsed() >= Duration::from_secs(3));
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == answers[0].body), "{answers:?}");
        assert_eq!(dari.calls(), 1, "with an id: {has_id}");
        // In flight a different message is a different turn, of course.
        body["input"] = json!("other");
        dari.turn(&body).await;
        assert_eq!(dari.calls(), 2);
    }
}

pub async fn duplicate_with_id(mode: Mode) {
    let dari = Dari::start(mode);
    let body = json!({"input": {"text": "once", "n": 1.0}, "message_id": "msg_01", "state": {"v": 1}});
    let first = dari.post(&body).await;
    turn_body(&first);
    let with = |key: &str, value: Value| {
        let mut other = body.clone();
        other[key] = value;
        other
    };
    // The id is the caller's promise: a repeat is a retry whatever the state and however often it comes.
    for state in [json!({"v": 1}), json!(null), json!({"v": 2}), json!("x")] {
        let again = dari.post(&with("state", state)).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
    }
    let reordered = r#"{"attempt":2,"state":null,"messageId":"msg_01","input":{ "n":1.0, "text":"once" }}"#;
    assert_eq!(dari.post_raw(reordered.as_bytes()).await.body, first.body);
    assert_eq!(dari.calls(), 1);

    // Also after other turns, up to a hundred of them.
    for n in 0..50 {
        dari.turn(&json!({"input": format!("in between {n}")})).await;
    }
    assert_eq!(dari.post(&body).await.body, first.body);
    assert_eq!(dari.calls(), 51);

    let other = dari.post(&with("input", json!("twice"))).await;
    assert_eq!(dari.calls(), 52, "the same id with other input is a new turn");
    assert_ne!(other.body, first.body);
    eventually("a warning about the id", || dari.server.log().contains("WARN").then_some(())).await;
    assert_eq!(dari.post(&with("input", json!("twice"))).await.body, other.body);
    assert_eq!(dari.post(&body).await.body, first.body, "both are remembered");
    dari.turn(&with("session_id", json!("sess_02"))).await;
    assert_eq!(dari.calls(), 53, "ids belong to their session");

    // The header is the last place where an id is looked for.
    let keyed = async |key: &str, body: &Value| {
        let headers = [("Idempotency-Key", key)];
        dari.request("POST", super::ADVANCE, &headers, body.to_string().as_bytes()).await.body
    };
    let by_key = keyed("k-1", &json!({"input": "keyed"})).await;
    assert_eq!(keyed("k-1", &json!({"input": "keyed", "state": [1]})).await, by_key);
    assert_eq!(keyed("k-2", &body).await, first.body, "the id in the body wins");
    assert_eq!(dari.calls(), 54);
}

pub async fn duplicate_without_id(mode: Mode) {
    let dari = Dari::start(mode);
    let mut bodies = Vec::new();
    for calls in 1..=3 {
        bodies.push(dari.post(&json!({"input": "continue", "state": {"v": 1}})).await.body);
        assert_eq!(dari.calls(), calls, "a user may send the same twice");
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 3, "each turn has an answer of its own");
}

/// The ways to lose a caller in the middle of a turn.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Close,
    Reset,
    /// The same while the server's process stands still and the handler goes on: when it wakes up, the caller's end and
    /// the turn's are there at once.
    CloseAsleep,
    ResetAsleep,
}

const LOSSES: [Loss; 4] = [Loss::Close, Loss::Reset, Loss::CloseAsleep, Loss::ResetAsleep];

impl Loss {
    /// Loses the caller of the turn that waits for this gate, and has the turn end after that.
    async fn happens(self, dari: &Dari, caller: Http, gate: &str) {
        match self {
            Self::Close => caller.close().await,
            Self::Reset => caller.reset().await,
            Self::CloseAsleep | Self::ResetAsleep => {
                dari.server.signal(Signal::SIGSTOP);
                // A signal takes effect when it is taken; until then the server would still see the caller go.
                eventually("the server to stand still", || is_stopped(dari.server.pid()).then_some(())).await;
                if matches!(self, Self::CloseAsleep) {
                    caller.close().await;
                } else {
                    caller.reset().await;
                }
                dari.stub.open(gate);
                // The handler's answer is in the pipe a moment after its mark.
                dari.stub.marked(&format!("past {gate}")).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                dari.server.signal(Signal::SIGCONT);
            }
        }
    }
}

fn is_stopped(pid: u32) -> bool {
    proc::all().iter().any(|process| process.pid == pid && process.state == 'T')
}

/// A request whose turn lasts until its gate is opened.
fn gated(dari: &Dari, gate: &str) -> Value {
    json!({"input": script(&[&dari.stub.gate(gate), &format!("mark past {gate}")]), "state": {"v": 1}})
}

/// Asks for a turn and goes away while it runs.
async fn ask_and_leave(dari: &Dari, body: &Value, loss: Loss, gate: &str) {
    let before = dari.calls();
    let caller = dari.post_and_hold(body).await;
    dari.stub.called(before + 1).await;
    loss.happens(dari, caller, gate).await;
}

pub async fn disconnect_with_id(mode: Mode) {
    for loss in LOSSES {
        let dari = talkative(mode);
        let mut body = gated(&dari, "go");
        body["message_id"] = json!("msg_01");
        ask_and_leave(&dari, &body, loss, "go").await;
        // One retry while it runs (if it still does), and others after its end.
        let mut retry = dari.post_and_hold(&body).await;
        dari.stub.open("go");
        let first = retry.answer("POST").await;
        turn_body(&first);
        ended(&dari, 1).await;
        for _ in 0..2 {
            assert_eq!(dari.post(&body).await.body, first.body, "{loss:?}");
        }
        assert_eq!(dari.calls(), 1, "{loss:?}");

        // The same with nobody there at all when it ends.
        let mut body = gated(&dari, "go 2");
        body["message_id"] = json!("msg_02");
        ask_and_leave(&dari, &body, loss, "go 2").await;
        dari.stub.open("go 2");
        ended(&dari, 2).await;
        let first = dari.post(&body).await;
        assert_eq!(dari.post(&body).await.body, first.body, "{loss:?}");
        assert_eq!(dari.calls(), 2, "{loss:?}");
    }
}

pub async fn disconnect_without_id(mode: Mode) {
    for loss in LOSSES {
        let dari = talkative(mode);
        for round in 0..3 {
            let gate = format!("go {round}");
            let body = gated(&dari, &gate);
            ask_and_leave(&dari, &body, loss, &gate).await;
            dari.stub.open(&gate);
            ended(&dari, 2 * round + 1).await;
            let stored = dari.post(&body).await;
            let id = dari.stub.last_call().id;
            assert_eq!(stored.body, json!({"text": format!("done {id}")}).to_string());
            assert_eq!(dari.calls(), 2 * round + 1, "the stored answer: {loss:?}, round {round}");
            let new = dari.post(&body).await;
            assert_eq!(dari.calls(), 2 * round + 2, "a new turn: {loss:?}, round {round}");
            assert_ne!(new.body, stored.body);
            ended(&dari, 2 * round + 2).await;
        }
    }
    several_callers(&talkative(mode)).await;
    while_it_is_written(&talkative(mode)).await;
    right_after_the_request(&talkative(mode)).await;
    after_blanks().await;
}

/// With several attached callers one complete delivery is enough, and none is none.
async fn several_callers(dari: &Dari) {
    let body = gated(dari, "all gone");
    let callers = [dari.post_and_hold(&body).await, dari.post_and_hold(&body).await];
    dari.stub.called(1).await;
    let [first, second] = callers;
    first.close().await;
    second.reset().await;
    dari.stub.open("all gone");
    ended(dari, 1).await;
    // The first of these gets what is stored and so ends the waiting for a retry.
    let stored = dari.post(&body).await;
    assert_eq!(dari.calls(), 1);
    assert_ne!(dari.post(&body).await.body, stored.body);
    assert_eq!(dari.calls(), 2);

    let body = gated(dari, "one stays");
    let gone = dari.post_and_hold(&body).await;
    dari.stub.called(3).await;
    let mut stays = dari.post_and_hold(&body).await;
    gone.close().await;
    dari.stub.open("one stays");
    let answer: HttpAnswer = stays.answer("POST").await;
    turn_body(&answer);
    ended(dari, 3).await;
    assert_ne!(dari.post(&body).await.body, answer.body, "it was delivered, so this is a new turn");
    assert_eq!(dari.calls(), 4);
}

/// A caller who goes away in the middle of a large answer has not got it.
async fn while_it_is_written(dari: &Dari) {
    for (calls, reset) in [(1, false), (2, true)] {
        let body = json!({"input": script(&["size 30000000"]), "state": calls});
        let mut caller = dari.post_and_hold(&body).await;
        assert!(caller.read_some().await > 0, "the answer has begun");
        // What is unread turns a close into a reset, too; this way both kinds of bookkeeping on our side are seen.
        if reset {
            caller.reset().await;
        } else {
            caller.close().await;
        }
        let stored = dari.post(&body).await;
        assert_eq!(stored.body.len(), 30_000_000 + r#"{"text":""}"#.len());
        assert_eq!(dari.calls(), calls, "reset: {reset}");
    }
}

/// A request that has arrived whole runs, also if its caller is gone in the same moment.
async fn right_after_the_request(dari: &Dari) {
    for (calls, size) in [(1, 10), (2, 3_000_000), (3, 10), (4, 3_000_000)] {
        let gate = format!("go {calls}");
        let body = json!({"input": script(&[&dari.stub.gate(&gate), "end", &"x".repeat(size)])});
        dari.post_and_hold(&body).await.close().await;
        dari.stub.called(calls).await;
        dari.stub.open(&gate);
        ended(dari, calls).await;
        dari.turn(&body).await;
        assert_eq!(dari.calls(), calls, "nobody had the answer, so it is still there");
    }
}

/// Section 4.3: blanks before an answer are no part of it, and a caller who has had nothing else has not got it.
async fn after_blanks() {
    let dari = Dari::start_with(Mode::Close, &["--keepalive-seconds", "1", "--log-level", "turnhost=debug"], |_| {});
    for (calls, loss) in [(1, Loss::Close), (3, Loss::Reset), (5, Loss::CloseAsleep)] {
        let gate = format!("go {calls}");
        let body = gated(&dari, &gate);
        let mut caller = dari.post_and_hold(&body).await;
        let head = caller.read_some().await;
        eventually_more(&mut caller, head).await;
        dari.stub.called(calls).await;
        loss.happens(&dari, caller, &gate).await;
        dari.stub.open(&gate);
        ended(&dari, calls).await;
        let retry = async || dari.post_and_hold(&body).await.answer("POST").await;
        let stored = retry().await;
        let id = dari.stub.last_call().id;
        assert_eq!(stored.body.trim_start(), json!({"text": format!("done {id}")}).to_string(), "{loss:?}");
        assert_eq!(dari.calls(), calls, "{loss:?}");
        retry().await;
        assert_eq!(dari.calls(), calls + 1, "{loss:?}");
        ended(&dari, calls + 1).await;
    }
}

/// Reads until more than so many bytes have come.
async fn eventually_more(caller: &mut Http, than: usize) {
    while caller.read_some().await <= than {}
}

pub async fn disconnect_then_another(mode: Mode) {
    for (has_id, loss) in [(false, Loss::Close), (false, Loss::Reset), (true, Loss::Close), (true, Loss::Reset)] {
        let dari = talkative(mode);
        let mut lost = gated(&dari, "go");
        if has_id {
            lost["message_id"] = json!("msg_01");
        }
        ask_and_leave(&dari, &lost, loss, "go").await;
        let other = json!({"input": script(&["mark other", "say other"]), "state": {"v": 1}});
        let mut caller = dari.post_and_hold(&other).await;
        dari.is_healthy().await;
        assert_eq!(dari.calls(), 1, "it waits for the first turn");
        dari.stub.open("go");
        assert_eq!(turn_body(&caller.answer("POST").await).text, "other", "its own answer, not the lost one");
        assert_eq!(dari.stub.marks(), ["past go", "other"]);
        assert_eq!(dari.calls(), 2);
        // The lost answer no longer waits for a retry without id, since another turn has begun. One with id finds it.
        let late = turn_body(&dari.post(&lost).await);
        let ids: Vec<_> = dari.stub.calls().into_iter().map(|call| call.id).collect();
        assert_eq!(ids.len(), if has_id { 2 } else { 3 });
        assert_eq!(late.text, format!("done {}", if has_id { &ids[0] } else { &ids[2] }));
    }
}

#[tokio::test]
async fn check_08_duplicate_in_flight() {
    duplicate_in_flight(Mode::Close).await;
}

#[tokio::test]
async fn check_09_duplicate_with_id() {
    duplicate_with_id(Mode::Close).await;
}

#[tokio::test]
async fn check_10_duplicate_without_id() {
    duplicate_without_id(Mode::Close).await;
}

#[tokio::test]
async fn check_11_disconnect_with_id() {
    disconnect_with_id(Mode::Close).await;
}

#[tokio::test]
async fn check_12_disconnect_without_id() {
    disconnect_without_id(Mode::Close).await;
}

#[tokio::test]
async fn check_13_disconnect_then_another() {
    disconnect_then_another(Mode::Close).await;
}
