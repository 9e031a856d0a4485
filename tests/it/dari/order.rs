//! Check 17: one turn at a time, in the order in which they came, and a bound on those that wait.

use super::{Dari, Mode, holds_the_contract, turn_body};
use crate::support::stub::script;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub async fn order(mode: Mode) {
    // With a second protocol health tells how many turns there are: on a machine with other things to do 50 ms may be
    // too little for the first of two requests to be the first that the server reads.
    let dari = Dari::start_with(mode, &["--protocols", "dari,runtimeuse"], |_| {});
    let mut callers = Vec::new();
    for n in 1..=3 {
        let (begin, end) = (format!("mark begin {n}"), format!("mark end {n}"));
        let prompt = script(&[&begin, "delay 2", &end, &format!("say {n}")]);
        // Each goes on from the state that the platform had when the user wrote: the same for all of them.
        callers.push(dari.post_and_hold(&json!({"input": prompt, "state": {"v": 1}})).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asked = Instant::now();
        while dari.request("GET", "/health", &[], b"").await.json()["turns"] != n {
            assert!(asked.elapsed() < Duration::from_secs(1), "turn {n} is not taken in while the first runs");
        }
    }
    for (caller, n) in callers.iter_mut().zip(1..) {
        assert_eq!(turn_body(&caller.answer("POST").await).text, n.to_string(), "no 409");
    }
    assert_eq!(dari.stub.marks(), ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]);
}

/// One runs, 16 wait, one more is sent away; and then the 17 finish.
pub async fn full_queue(mode: Mode) {
    let dari = Dari::start(mode);
    let dari = &dari;
    let mut running = dari.post_and_hold(&json!({"input": script(&[&dari.stub.gate("go"), "say 0"])})).await;
    dari.stub.called(1).await;
    let ask = |n: u64| async move {
        let mut caller = dari.post_and_hold(&json!({"input": script(&[&format!("say {n}")])})).await;
        caller.answer("POST").await
    };
    let mut asked: FuturesUnordered<_> = (1..=17).map(ask).collect();
    // One more than there are places. Whichever of them came last is told so at once; nobody else is told anything.
    let refused = asked.next().await.unwrap();
    assert_eq!((refused.status, refused.body.as_str()), (503, r#"{"detail":"turn queue is full"}"#));
    let after = refused.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
    assert!(after.is_some_and(|seconds| (1..=60).contains(&seconds)), "{refused:?}");
    holds_the_contract(&refused);
    // Another session has a queue of its own.
    dari.turn(&json!({"input": "elsewhere", "session_id": "sess_02"})).await;
    dari.is_healthy().await;
    assert_eq!(dari.calls(), 2, "the 16 wait");

    dari.stub.open("go");
    let mut answered = BTreeSet::from([turn_body(&running.answer("POST").await).text]);
    while let Some(answer) = asked.next().await {
        holds_the_contract(&answer);
        answered.insert(turn_body(&answer).text);
    }
    assert_eq!(answered.len(), 17, "{answered:?}");
    assert_eq!(dari.calls(), 18);
    dari.turn(&json!({"input": "after the rush"})).await;
}

#[tokio::test]
async fn check_17_order() {
    order(Mode::Close).await;
    full_queue(Mode::Close).await;
}
