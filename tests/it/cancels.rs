//! A thousand cancels, and nothing that is left of them.

use crate::support::{Server, eventually, proc};
use serde_json::json;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 25;
const ROUNDS: usize = 40;

/// What a command does to survive: it ignores the signal, forks, makes sessions of its own, forks twice.
const STUBBORN: [&str; 4] = [
    "trap '' TERM; echo begun; while :; do sleep 600; done",
    "(sleep 600 & sleep 600 &) ; sleep 600 & echo begun; wait",
    "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 600 & wait' & echo begun; sleep 600",
    "setsid sh -c 'setsid sleep 600 & exec sleep 600' </dev/null & (setsid setsid sleep 600 &) ; echo begun; exec sleep 600",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_cancels_leave_no_process() {
    let server = Server::start(&["--agent", "echo", "--stop-grace", "100ms"]);
    let mark = format!("turnhost-cancels-{}", uuid::Uuid::new_v4().simple());
    let mut connections = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut client = server.connect("/").await;
        let mark = mark.clone();
        connections.push(tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            for round in 0..ROUNDS {
                let command =
                    json!({"command": STUBBORN[(connection + round) % STUBBORN.len()], "env": {"MARK": mark}});
                client.send(&json!({"message_type": "command_execution_message", "commands": [command]})).await;
                assert_eq!(client.next().await.expect("output")["text"], "begun\n");
                let began = Instant::now();
                client.send(&json!({"message_type": "cancel_message"})).await;
                assert_eq!(client.terminal().await["error"], "Request cancelled");
                longest = longest.max(began.elapsed());
            }
            longest
        }));
    }
    for connection in connections {
        let longest = connection.await.expect("a connection's rounds");
        assert!(longest < Duration::from_secs(5), "a cancel took {longest:?}");
    }
    // Each cancel was answered when its own tree was gone.
    assert_eq!(proc::marked(&mark).len(), 0, "{:?}", proc::marked(&mark));
    let below = eventually("the end of the shims", || {
        let below = proc::descendants(server.pid());
        (below.len() <= 1).then_some(below)
    })
    .await;
    assert!(below.iter().all(|process| process.command.contains("__shim")), "the spare one only: {below:?}");
}
