//! The commands that talk to a server of sessions: `attach`, `sessions`, `dispatch`.

mod attach;
mod daemon;
mod dispatch;
mod list;
mod lost;
mod screen;
mod sidecar;

use crate::support::programs::{Finished, Program};
use crate::support::{PATIENCE, Server, server_command};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// `turnhost WORDS` for this server.
fn command(port: u16, words: &[&str]) -> Command {
    let port = port.to_string();
    server_command(&[words, &["--port", &port]].concat())
}

/// Runs a command to its end, with nothing on its standard input.
async fn run(command: Command) -> Finished {
    Program::start(command).end(PATIENCE).await
}

/// `turnhost attach ID`, with this on its standard input and an end behind it.
async fn attach(server: &Server, words: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = command(server.port, &[&["attach"], words].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = tokio::time::timeout(PATIENCE, ended).await.expect("an end in time").unwrap().unwrap();
    writing.join().unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A session of echo that waits for input.
async fn interactive(server: &Server) -> String {
    crate::sessions::create(server, &json!({"agent": "echo", "interactive": true})).await
}

/// A line of a log as a frame brings it.
fn line(kind: &str, data: &Value) -> String {
    format!("{}\n", json!({"type": kind, "data": data}))
}

/// Waits until it is so; panics with what is seen instead.
async fn until(is_so: impl Fn() -> bool, seen: impl Fn() -> String) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "not within {PATIENCE:?}:\n{}", seen());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
