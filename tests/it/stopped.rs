//! The server is stopped for longer than any of its limits, and goes on: what ran still runs, and is as durable as before.

use crate::support::{PATIENCE, Server, read};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};

/// Longer than every limit below, and than the store may take.
const STOPPED: Duration = Duration::from_secs(8);

const GATE: &str = "
import asyncio, os
async def run(invocation, sender):
    sender.send_assistant_message(['begun'])
    while not os.path.exists(os.environ['GATE']):
        await asyncio.sleep(0.01)
    return 'opened'
";

#[tokio::test]
async fn for_longer_than_its_limits() {
    let folder = tempfile::tempdir().unwrap();
    let (module, gate) = (folder.path().join("gate.py"), folder.path().join("gate"));
    std::fs::write(&module, GATE).unwrap();
    let data = folder.path().join("data");
    let args = ["--handler", module.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let limits = ["--idle-timeout", "4s", "--turn-timeout", "30s", "--ping", "1s", "--dead-after", "4s"];
    let mut server = Server::start_with(&[&args[..], &limits[..]].concat(), |command| {
        command.env("GATE", &gate);
    });
    let mut plain = server.connect("/").await;
    plain.query("go").await;
    assert_eq!(plain.next().await.unwrap()["text_blocks"], json!(["begun"]));
    let mut commands = server.connect("/").await;
    let command = format!("echo begun; while [ ! -e {} ]; do sleep 0.05; done; echo opened", gate.display());
    let command = json!({"command": command, "timeout_ms": 5000});
    commands.send(&json!({"message_type": "command_execution_message", "commands": [command]})).await;
    assert_eq!(commands.next().await.unwrap()["text"], "begun\n");
    let body = json!({"input": "go", "session_id": "d", "message_id": "m", "state": null});
    let dari = server.advance(&body);
    let stop = async {
        let asked = Instant::now();
        while server.get("/health").await.json()["running"] != 3 {
            assert!(asked.elapsed() < PATIENCE, "three turns");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut reader = server.connect("/v1/sessions/dari:d/events").await;
        while reader.next().await.unwrap()["type"] != "event" {}
        server.signal(Signal::SIGSTOP);
        // These answer pings only while they are asked for something.
        let frames = async { tokio::join!(plain.next(), commands.next(), reader.next()) };
        let opened = async {
            tokio::time::sleep(STOPPED).await;
            server.signal(Signal::SIGCONT);
            // Longer than it takes to notice a limit.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let health = server.get("/health").await.json();
            assert_eq!(health["running"], 3, "{health}");
            std::fs::write(&gate, "").unwrap();
        };
        let ((plain, commands, reader), ()) = tokio::join!(frames, opened);
        assert_eq!(plain.expect("the socket lives")["data"]["text"], "opened");
        assert_eq!(commands.expect("the socket lives")["text"], "opened\n");
        assert_eq!(reader.expect("the reader is there")["outcome"], "answered");
    };
    let (answer, ()) = tokio::join!(dari, stop);
    assert_eq!(answer.json()["text"], "opened");
    assert!(!server.log().contains("the store failed"), "{}", server.log());
    // What was said around the pause is on disk.
    server.signal(Signal::SIGKILL);
    server.exited().await;
    let server = Server::start_with(&args, |command| {
        command.env("GATE", &gate);
    });
    assert_eq!(server.advance(&body).await.body, answer.body);
    let events = read(server.request(Method::GET, "/v1/sessions/dari:d/events")).await.json();
    assert_eq!(events["events"].as_array().unwrap().len(), 3, "it ran once: {events}");
}
