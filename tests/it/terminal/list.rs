//! `turnhost sessions`.

use super::{command, run};
use crate::sessions::{create, echo, ended};
use serde_json::{Value, json};

#[tokio::test]
async fn sessions() {
    let server = echo();
    let none = run(command(server.port, &["sessions"])).await;
    let said = format!("There are no sessions at {}\n", server.url(""));
    assert_eq!((none.code, none.stdout.as_str(), none.stderr.as_str()), (Some(0), "", said.as_str()));
    let none = run(command(server.port, &["sessions", "--json"])).await;
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), "[]\n"));
    let first = create(&server, &json!({"agent": "echo", "prompt": "x", "name": "the\u{1b}first"})).await;
    ended(&server, &first).await;
    let second = create(&server, &json!({"agent": "echo", "interactive": true})).await;
    let listed = run(command(server.port, &["sessions"])).await;
    assert_eq!((listed.code, listed.stderr.as_str()), (Some(0), ""), "{listed}");
    let rows: Vec<Vec<&str>> = listed
        .stdout
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(rows[0], ["ID", "NAME", "AGENT", "STATUS", "AGE", "TOKENS", "COST"]);
    assert_eq!(rows[1][..4], [&first, "the first", "echo", "completed"], "{listed}");
    assert_eq!(rows[2][..4], [second.as_str(), "-", "echo", "running"]);
    assert!(rows[1][4].ends_with('s') && rows[1][5..] == ["-", "-"], "{listed}");
    let listed = run(command(server.port, &["sessions", "--json"])).await;
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed, server.get("/sessions").await.json());
}

/// What an agent used and what it cost.
#[tokio::test]
async fn what_it_cost() {
    let fake = crate::support::repository("tests/it/scripts/fake-claude");
    let server = crate::support::Server::start(&["--agent", "echo", "--claude-program", fake.to_str().unwrap()]);
    let id = create(&server, &json!({"agent": "claude", "prompt": "hello"})).await;
    ended(&server, &id).await;
    let listed = run(command(server.port, &["sessions"])).await;
    let row: Vec<&str> = listed.stdout.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[5..], ["3", "$0.2500"], "{listed}");
}

#[tokio::test]
async fn nobody_there() {
    let port = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    let ended = run(command(port, &["sessions"])).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    let said = format!("Error: no server answers at http://127.0.0.1:{port}: ");
    assert!(ended.stderr.starts_with(&said) && ended.stderr.lines().count() == 1, "{ended}");
    let other = crate::support::Server::start(&["--agent", "echo", "--protocols", "dari"]);
    let ended = run(command(other.port, &["sessions"])).await;
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.stderr.contains("knows no sessions of agentruntime"), "{ended}");
    assert_eq!(run(command(port, &["sessions", "x"])).await.code, Some(2));
}
