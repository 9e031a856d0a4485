//! `attach` when its connection breaks: it goes on where it was, or says why not.

use super::{command, line, run};
use crate::support::bridge::{Bridge, Step};
use serde_json::json;

fn connected(offset: u64) -> Step {
    Step::Say(json!({"type": "connected", "session_id": "s", "mode": "pipe", "offset": offset}))
}

fn delta(text: &str, offset: u64) -> Step {
    let data = line("agent_message", &json!({"text": text, "delta": true}));
    Step::Say(json!({"type": "stdout", "data": data, "offset": offset}))
}

fn exit(code: i32) -> Step {
    Step::Say(json!({"type": "exit", "exit_code": code}))
}

/// Twice, once in the middle of a message: nothing twice, nothing missing, nothing of it as if it were old.
#[tokio::test]
async fn it_goes_on_where_it_was() {
    let data = line("agent_message", &json!({"text": "there ", "delta": true}));
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, data);
    let missed = Step::Say(json!({"type": "replay", "data": data, "offset": 30}));
    let bridge = Bridge::start(vec![
        vec![connected(5), delta("Hello ", 20), Step::Cut],
        vec![missed, connected(30), Step::Cut],
        vec![connected(30), delta("you", 40), exit(0)],
    ])
    .await;
    let ended = run(command(bridge.address.port(), &["attach", "s"])).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "Hello there you"), "{ended}");
    assert_eq!(bridge.asked(), ["/ws/sessions/s?since=0", "/ws/sessions/s?since=20", "/ws/sessions/s?since=30"]);
    for said in ["; trying again (1 of 8)\n", "[system] connected again\n"] {
        assert_eq!(ended.stderr.matches(said).count(), 2, "{ended}");
    }
    assert_eq!(ended.stderr.matches("Connected to session s\n").count(), 1, "{ended}");
}

/// Without a replay it goes on behind what it has seen, not at the new end.
#[tokio::test]
async fn without_a_replay() {
    let bridge =
        Bridge::start(vec![vec![connected(50), Step::Cut], vec![connected(50), delta("x", 60), exit(0)]]).await;
    let ended = run(command(bridge.address.port(), &["attach", "s", "--no-replay"])).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "x"), "{ended}");
    assert_eq!(bridge.asked(), ["/ws/sessions/s", "/ws/sessions/s?since=50"]);
}

/// A server that stays away: some tries, then one sentence.
#[tokio::test]
async fn it_gives_up() {
    let bridge = Bridge::start(vec![vec![connected(5), delta("Hello", 20), Step::Gone]]).await;
    let port = bridge.address.port();
    let ended = run(command(port, &["attach", "s"])).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), "Hello"), "{ended}");
    assert!(ended.stderr.contains("trying again (8 of 8)\n"), "{ended}");
    let last =
        format!("Error: the connection to http://127.0.0.1:{port} was lost, and 8 tries did not bring it back: ");
    assert!(ended.stderr.lines().last().unwrap().starts_with(&last), "{ended}");
}

/// A session of a server that was stopped: its end is seen by whoever looks on.
#[tokio::test]
async fn a_server_that_stops() {
    let mut server = crate::sessions::echo();
    let id = super::interactive(&server).await;
    let program = crate::support::programs::Program::start(command(server.port, &["attach", &id]));
    crate::support::eventually("a connection", || program.complained().contains("Connected").then_some(())).await;
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = program.end(crate::support::PATIENCE).await;
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.stderr.ends_with("Session exited with code -1\n"), "{ended}");
    assert!(server.exited().await.success());
}
