//! A server that is killed while its agent is at work: what the next turn is told, and what is not done twice. Dari's
//! checks 14, 16 and 24.

use crate::agents_scenarios::{AGENTS, start_with};
use crate::support::model::{Model, Play, text};
use crate::support::{PATIENCE, Server, eventually, raw_http};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

async fn kill(mut server: Server) {
    server.signal(Signal::SIGKILL);
    server.exited().await;
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

/// What the model was told in its last call.
fn told(model: &Model) -> String {
    model.last().to_string()
}

async fn uses(server: &Server) -> usize {
    let events = server.get("/v1/sessions/dari:s/events").await.json()["events"].clone();
    events.as_array().unwrap().iter().filter(|event| event["event"]["type"] == "tool_use").count()
}

/// Check 14: a tool had finished, another one had not; the retry is told of both, and neither is run again unasked.
#[tokio::test]
async fn a_retry_is_told_what_was_done() {
    for agent in AGENTS {
        let folder = TempDir::new().unwrap();
        let (data, file) = (folder.path().join("data"), folder.path().join("effects"));
        let with_data = ["--data-dir", data.to_str().unwrap()];
        let effect =
            |name: &str, then: &str| (agent.run)(&format!("echo {name} >> {}; echo {name}-done{then}", file.display()));
        let model =
            Model::start(vec![effect("first", ""), effect("second", "; sleep 300"), text("All is done.")]).await;
        let server = start_with(agent.name, &model, &folder, &with_data);
        let body = json!({"input": "Work", "session_id": "s", "message_id": "m1", "state": null}).to_string();
        let socket = raw_http::begin_advance(server.address(), &body).await;
        eventually("two effects", || (lines(&file) == 2).then_some(())).await;
        // A program tells of a command while it runs already.
        let deadline = std::time::Instant::now() + PATIENCE;
        while uses(&server).await < 2 {
            assert!(std::time::Instant::now() < deadline, "{}: two calls of tools", agent.name);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        kill(server).await;
        drop(socket);

        let began = std::time::Instant::now();
        let server = start_with(agent.name, &model, &folder, &with_data);
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "it listens: {:?}", began.elapsed());
        let answer = server.advance_raw(body.clone()).await;
        assert_eq!((answer.status, answer.json()["text"].as_str()), (200, Some("All is done.")), "{}", agent.name);
        let told = told(&model);
        for part in ["An earlier attempt at this task was interrupted", "first-done", "outcome unknown", "Work"] {
            assert!(told.contains(part), "{}: no {part} in {told}", agent.name);
        }
        assert_eq!(lines(&file), 2, "{}: nothing was done twice", agent.name);
        assert_eq!(server.advance_raw(body).await.body, answer.body, "{}", agent.name);
    }
}

/// Check 16: another message comes instead of the retry.
#[tokio::test]
async fn another_message_is_told_of_the_cut() {
    for agent in AGENTS {
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("data");
        let with_data = ["--data-dir", data.to_str().unwrap()];
        let model = Model::start(vec![Play::Hang("I begin"), text("Something else."), text("And more.")]).await;
        let server = start_with(agent.name, &model, &folder, &with_data);
        let body = |id: &str, input: &str| json!({"input": input, "session_id": "s", "message_id": id, "state": null});
        let socket = raw_http::begin_advance(server.address(), &body("m1", "Paint it").to_string()).await;
        eventually("the model is asked", || (!model.calls().is_empty()).then_some(())).await;
        kill(server).await;
        drop(socket);

        let server = start_with(agent.name, &model, &folder, &with_data);
        let answer = server.advance(&body("m2", "What else?")).await;
        assert_eq!(answer.json()["text"], "Something else.", "{}", agent.name);
        let told_then = told(&model);
        assert!(told_then.contains("The task before this one was interrupted"), "{}: {told_then}", agent.name);
        assert!(told_then.contains("Paint it") && told_then.contains("What else?"), "{}: {told_then}", agent.name);
        // It is told once.
        let next = json!({"input": "And now?", "session_id": "s", "message_id": "m3", "state": null});
        assert_eq!(server.advance(&next).await.json()["text"], "And more.", "{}", agent.name);
        assert!(!told(&model).contains("was interrupted"), "{}: {}", agent.name, told(&model));
    }
}

/// Check 24: two clones of a machine, each with its copy of the folder, go on with the same state and do not repeat each
/// other's ids; a fresh disk goes on from the state that the platform gives back.
#[tokio::test]
async fn clones_and_a_fresh_disk() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let model = Model::start((0..4).map(|n| text(format!("Answer {n}."))).collect()).await;
    let on = |data: &Path| {
        start_with("openai", &model, &folder, &["--data-dir", data.to_str().unwrap(), "--openai-state", "stateless"])
    };
    let server = on(&data);
    let body = |id: &str, input: &str, state: &Value| json!({"input": input, "session_id": "s", "message_id": id, "state": state});
    let first = server.advance(&body("m1", "One", &Value::Null)).await.json();
    kill(server).await;

    let copy = folder.path().join("copy");
    assert!(std::process::Command::new("cp").arg("-r").args([&data, &copy]).status().unwrap().success());
    let (one, two) = (on(&data), on(&copy));
    let mut turns = Vec::new();
    for (server, id) in [(&one, "m2"), (&two, "m3")] {
        let answer = server.advance(&body(id, id, &first["state"])).await;
        assert!(answer.json()["text"].as_str().unwrap().starts_with("Answer"), "{answer:?}");
        assert!(told(&model).contains("Answer 0."), "it knows what was said: {}", told(&model));
        let events = server.get("/v1/sessions/dari:s/events").await.json()["events"].clone();
        turns.push(events.as_array().unwrap().last().unwrap()["turn"].clone());
    }
    assert_ne!(turns[0], turns[1]);

    let fresh = on(&folder.path().join("fresh"));
    let answer = fresh.advance(&body("m4", "Four", &first["state"])).await;
    assert_eq!(answer.json()["text"], "Answer 3.");
    assert!(told(&model).contains("Answer 0.") && told(&model).contains("One"), "{}", told(&model));
}
