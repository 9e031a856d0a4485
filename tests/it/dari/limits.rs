//! Check 18: a turn that takes too long, or says nothing for too long, is cut, and nothing of it is left.

use super::{Body, Dari, Mode};
use crate::support::stub::script;
use crate::support::{eventually_within, proc};
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};

/// A mark that no other process of this machine has.
fn mark() -> String {
    format!("child-of-a-turn-{}", uuid::Uuid::new_v4().simple())
}

/// Runs a turn of 30 s that has started children: cut after 2 s, it must be answered within 4.
async fn cut(dari: &Dari, steps: &[&str]) -> Body {
    let mark = mark();
    let child = format!("child {mark}");
    let all: Vec<&str> = [child.as_str()].into_iter().chain(steps.iter().copied()).chain(["delay 30"]).collect();
    let began = Instant::now();
    let body = dari.turn(&json!({"input": script(&all), "state": {"v": 1}})).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "answered after {took:?}");
    assert!(body.text.contains("cut"), "{}", body.text);
    let left = || proc::marked(&mark);
    eventually_within(Duration::from_secs(2), "the end of the turn's children", || left().is_empty().then_some(()))
        .await;
    let next = dari.turn(&json!({"input": "next", "state": {"v": 1}})).await;
    assert!(next.text.starts_with("done "), "the next turn works: {}", next.text);
    body
}

fn plain(command: &mut Command) {
    command.env("STUB_MODE", "plain");
}

pub async fn deadline(mode: Mode) {
    let limit = ["--turn-timeout", "2s"];
    let partial = r#"raw {"type":"text","id":"{{id}}","text":"The first half."}"#;

    // A program that knows no cancel is ended, with everything that it has started.
    let dari = Dari::start_with(mode, &limit, plain);
    let body = cut(&dari, &[]).await;
    assert_eq!(body.state(), None);
    let body = cut(&dari, &[partial]).await;
    assert!(body.text.starts_with("The first half.\n"), "what was said stays: {}", body.text);
    drop(dari);

    // One that knows it stops its own children, and may leave a state.
    let dari = Dari::start_with(mode, &limit, |_| {});
    let body = cut(&dari, &[partial, r#"leave {"v":1,"turn": 2}"#]).await;
    assert!(body.text.starts_with("The first half.\n"), "{}", body.text);
    assert_eq!(body.state(), Some(r#"{"v":1,"turn": 2}"#), "the state that the handler left is set");
    assert_eq!(cut(&dari, &[]).await.state(), None);
    drop(dari);

    // One that pays no heed to it loses its process.
    let dari = Dari::start_with(mode, &["--turn-timeout", "2s", "--stop-grace", "1s"], |_| {});
    assert_eq!(cut(&dari, &["stubborn"]).await.state(), None);
}

/// Silence is what counts by default, and a sign of life ends it.
pub async fn silence(mode: Mode) {
    let dari = Dari::start_with(mode, &["--idle-timeout", "2s"], plain);
    let life = r#"raw {"type":"progress","id":"{{id}}"}"#;
    let alive = [life, "delay 1.2", life, "delay 1.2", life, "delay 1.2", "say alive"];
    assert_eq!(dari.turn(&json!({"input": script(&alive)})).await.text, "alive");
    cut(&dari, &[]).await;
}

#[tokio::test]
async fn check_18_deadline() {
    tokio::join!(deadline(Mode::Close), silence(Mode::Close));
}
