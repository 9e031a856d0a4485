//! Checks 23 and 25: the machine is paused, and the server is asked to stop.

use super::{ADVANCE, Dari, Mode, malformed, turn_body};
use crate::support::http::{self, Http};
use crate::support::stub::script;
use crate::support::{eventually, proc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::time::{Duration, Instant};

/// Sends a signal to a server and everything under it.
fn signal_all(dari: &Dari, signal: Signal) {
    dari.server.signal(signal);
    for process in proc::descendants(dari.server.pid()) {
        // One that has just ended needs no signal.
        let _ = kill(Pid::from_raw(i32::try_from(process.pid).unwrap()), signal);
    }
}

/// A turn that waits for a gate, with its caller.
async fn begun(mode: Mode) -> (Dari, serde_json::Value, Http) {
    let dari = Dari::start_with(mode, &["--log-level", "turnhost=debug"], |_| {});
    let body = json!({"input": script(&[&dari.stub.gate("go"), "say woken"]), "state": {"v": 1}});
    let caller = dari.post_and_hold(&body).await;
    dari.stub.called(1).await;
    (dari, body, caller)
}

#[tokio::test]
async fn check_23_pause() {
    let (kept, _, mut stays) = begun(Mode::Close).await;
    let (lost, body_of_lost, goes) = begun(Mode::Close).await;
    // The minute is also the one of M6: a body that does not come is given up after 60 s, on a server of its own.
    let (calm, idle) = (Dari::start(Mode::Close), Dari::start(Mode::KeepAlive));
    idle.turn(&json!({"input": "first"})).await;
    signal_all(&kept, Signal::SIGSTOP);
    signal_all(&lost, Signal::SIGSTOP);
    signal_all(&idle, Signal::SIGSTOP);
    goes.close().await;
    let minute = Duration::from_mins(1);
    tokio::join!(tokio::time::sleep(minute), malformed::stalled(&calm, minute));
    signal_all(&kept, Signal::SIGCONT);
    signal_all(&lost, Signal::SIGCONT);
    signal_all(&idle, Signal::SIGCONT);

    // Nothing is cut by the time that has passed; the turn ends as if nothing had happened.
    kept.is_healthy().await;
    kept.stub.open("go");
    assert_eq!(turn_body(&stays.answer("POST").await).text, "woken");
    assert_eq!(kept.calls(), 1);
    kept.turn(&json!({"input": "next"})).await;

    // The caller that was lost in the pause comes back for the answer of the one turn.
    lost.stub.open("go");
    eventually("the turn's end", || lost.server.log().contains("turn ended").then_some(())).await;
    assert_eq!(turn_body(&lost.post(&body_of_lost).await).text, "woken");
    assert_eq!(lost.calls(), 1);

    // An idle connection may be gone; whoever opens another one is served.
    idle.forget_connections();
    idle.turn(&json!({"input": "second"})).await;
}

/// SIGTERM in a turn that ends by itself.
async fn finishes() {
    let (mut dari, _, mut caller) = begun(Mode::Close).await;
    let mut kept = dari.connect().await;
    kept.send(&http::head("GET", "/health", &[])).await;
    assert_eq!(kept.answer("GET").await.status, 200);
    let began = Instant::now();
    dari.server.signal(Signal::SIGTERM);
    eventually("the drain", || dari.server.log().contains("stopping").then_some(())).await;
    let health = async || {
        let answer = dari.request("GET", "/health", &[], b"").await;
        (answer.status, answer.body)
    };
    // The line comes a moment before the drain.
    while health().await.0 == 200 {
        assert!(began.elapsed() < Duration::from_secs(1), "healthy a second after SIGTERM");
    }
    assert_eq!(health().await, (503, r#"{"ok":false}"#.to_owned()));
    kept.send(&http::head("GET", "/health", &[])).await;
    assert_eq!(kept.answer("GET").await.status, 503, "on a connection from before, too");
    let refused = dari.post(&json!({"input": "too late"})).await;
    assert_eq!((refused.status, refused.body.as_str()), (503, r#"{"detail":"shutting down"}"#));
    assert_eq!(dari.post(&json!({})).await.status, 200, "what is no turn needs no refusal");
    assert_eq!(dari.calls(), 1);
    dari.stub.open("go");
    assert_eq!(turn_body(&caller.answer("POST").await).text, "woken");
    let status = dari.server.exited().await;
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(11), "exit after {:?}", began.elapsed());
    assert_eq!(proc::marked(dari.stub.path("").to_str().unwrap()).len(), 0, "no process of it is left");
}

/// SIGTERM in a turn that does not end: after the grace of 10 s it is cut, whatever its handler thinks of it.
async fn is_cut(handler: &[(&str, &str)], stubborn: bool) {
    let mut dari = Dari::start_with(Mode::Close, &[], |command| {
        command.envs(handler.iter().copied());
    });
    let steps: &[&str] = if stubborn { &["stubborn", "delay 100"] } else { &["delay 100"] };
    let mut caller = dari.post_and_hold(&json!({"input": script(steps)})).await;
    dari.stub.called(1).await;
    let mut waiting = dari.post_and_hold(&json!({"input": "behind it"})).await;
    // A request that never becomes one must not hold the server up either.
    let mut stalled = dari.connect().await;
    stalled.send(&http::head("POST", ADVANCE, &[("Content-Length", "100")])).await;
    dari.is_healthy().await;
    let began = Instant::now();
    dari.server.signal(Signal::SIGTERM);
    let (running, behind) = tokio::join!(caller.answer("POST"), waiting.answer("POST"));
    for answer in [running, behind] {
        super::holds_the_contract(&answer);
        assert_eq!((answer.status, answer.body.as_str()), (503, r#"{"detail":"shutting down"}"#), "{handler:?}");
    }
    let status = dari.server.exited().await;
    let took = began.elapsed();
    assert_eq!(status.code(), Some(0), "{handler:?}");
    assert!(took >= Duration::from_secs(10), "the grace is given: {took:?}");
    assert!(took < Duration::from_secs(11), "{handler:?} {stubborn}: exit after {took:?}");
    assert_eq!(proc::marked(dari.stub.path("").to_str().unwrap()).len(), 0, "{handler:?}: no process of it is left");
}

#[tokio::test]
async fn check_25_drain() {
    let plain = [("STUB_MODE", "plain")];
    let deaf = [("STUB_TERM", "ignore")];
    let deaf_plain = [("STUB_MODE", "plain"), ("STUB_TERM", "ignore")];
    tokio::join!(finishes(), is_cut(&[], false), is_cut(&plain, false), is_cut(&deaf, true), is_cut(&deaf_plain, true),);
}
