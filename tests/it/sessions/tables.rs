//! The tables of the protocol: which keys a body has, which path answers what, what is left of a session.

use super::ends::{asked, scripted};
use super::{Reader, create, delete, ended, log, post, told};
use crate::support::{PATIENCE, Server, raw_http, read};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

fn keys(body: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = body.as_object().unwrap_or_else(|| panic!("{body}")).keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn sorted(lists: &[&'static str]) -> Vec<&'static str> {
    let mut keys: Vec<&str> = lists.iter().flat_map(|list| list.split_whitespace()).collect();
    keys.sort_unstable();
    keys
}

/// Every body with the keys that it has, and no other: while it runs, when it has ended well, and when it has not.
#[tokio::test]
async fn keys_of_bodies() {
    let server = scripted(|_| {});
    let usage = json!({"total_cost_usd": 0.5, "usage": {"input_tokens": 3, "output_tokens": 42}});
    let well = json!([["tool"], ["result", usage], ["exit", 0]]);
    let badly = json!([["result", {"is_error": true, "result": "no", "api_error_status": 401}]]);
    let waits = json!([["sleep", 60]]);
    let (named, failed) = ("task_id name tags", "error_category retryable error_detail");
    let counted = "last_activity input_tokens output_tokens cost_usd tool_call_count agent_session_id tags";
    let ends = "ended_at exit_code";
    for (script, more, state, extra) in [
        (&waits, json!({}), "running", vec![]),
        (&well, json!({}), "completed", vec![ends, counted]),
        (&well, json!({"task_id": "t", "name": "n", "tags": {"a": "b"}}), "completed", vec![ends, counted, named]),
        (&badly, json!({}), "failed", vec![ends, failed, "last_activity agent_session_id tags"]),
    ] {
        let mut body = asked(script);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let id = create(&server, &body).await;
        if state != "running" {
            ended(&server, &id).await;
        }
        let look = async |path: &str| server.get(&format!("/sessions/{id}{path}")).await.json();
        let expected = |base: &'static str, without: &[&str]| {
            let mut all = sorted(&[&[base], extra.as_slice()].concat());
            all.dedup();
            all.retain(|key| !without.contains(key));
            all
        };
        // What an agent has told of itself so far is in some of them, while it runs.
        let passing = ["agent_session_id", "tags", "last_activity"];
        let told = |body: &Value| -> Vec<String> {
            let keys = keys(body).into_iter().filter(|key| state != "running" || !passing.contains(key));
            keys.map(str::to_owned).collect()
        };
        let snapshot = look("").await;
        assert_eq!(
            told(&snapshot),
            expected("id agent_name runtime_name session_dir state created_at", &[]),
            "{snapshot}"
        );
        assert_eq!(snapshot["state"], state);
        let info = look("/info").await;
        let base = "session_id agent runtime status created_at session_dir log_file ws_url log_url uptime";
        assert_eq!(told(&info), expected(base, &[]), "{info}");
        assert_eq!(info["status"], state);
        let all = server.get("/sessions").await.json();
        let summary = all.as_array().unwrap().iter().find(|one| one["session_id"] == *id).unwrap();
        let kept = "session_id agent runtime status created_at";
        let out: Vec<&str> = [ends, failed, "last_activity input_tokens output_tokens cost_usd tool_call_count"]
            .iter()
            .flat_map(|list| list.split(' '))
            .collect();
        assert_eq!(told(summary), expected(kept, &out), "{summary}");
        let all = server.get("/sessions/history").await.json();
        let entry = all.as_array().unwrap().iter().find(|one| one["session_id"] == *id).unwrap();
        let base =
            "session_id agent status created_at log_file input_tokens output_tokens cost_usd tool_calls file_size";
        let ends: &[&'static str] = if state == "running" { &[base] } else { &[base, ends] };
        assert_eq!(keys(entry), sorted(ends), "{entry}");
    }
}

#[tokio::test]
async fn health() {
    let server = Server::start(&["--agent", "echo"]);
    let body = server.get("/health").await.json();
    let version = env!("CARGO_PKG_VERSION");
    for (key, value) in [
        ("status", json!("ok")),
        ("runtime", json!("local")),
        ("default_runtime", json!("local")),
        ("runtimes", json!(["local"])),
        ("version", json!(version)),
    ] {
        assert_eq!(body[key], value, "{key}: {body}");
    }
}

/// Paths with another method, and paths of what is not offered.
#[tokio::test]
async fn paths() {
    let server = Server::start(&["--agent", "echo", "--protocols", "sessions"]);
    let id = told(&server, "x").await;
    let nothing = (404, r#"{"error":"not found"}"#.to_owned());
    for (method, path) in [
        (Method::GET, "/".to_owned()),
        (Method::GET, "/dashboard/".to_owned()),
        (Method::GET, "/chats".to_owned()),
        (Method::GET, "/ws/chats/x".to_owned()),
        (Method::PATCH, "/sessions".to_owned()),
        (Method::POST, "/sessions/history".to_owned()),
        (Method::PUT, format!("/sessions/{id}")),
        (Method::POST, format!("/sessions/{id}/logs")),
        (Method::DELETE, format!("/sessions/{id}/log")),
        (Method::GET, format!("/sessions/{id}/")),
        (Method::GET, "/nothing".to_owned()),
    ] {
        let answer = read(server.request(method.clone(), &path)).await;
        assert_eq!((answer.status, answer.body), nothing, "{method} {path}");
    }
    assert_eq!(read(server.request(Method::DELETE, &format!("/sessions/{id}?remove_volume=true"))).await.status, 200);
}

/// URLs are of the host by which the caller came.
#[tokio::test]
async fn urls() {
    let server = Server::start(&["--agent", "echo", "--allow-host", "box.local"]);
    let body = r#"{"agent":"echo","prompt":"x"}"#;
    for host in [format!("localhost:{}", server.port), format!("[::1]:{}", server.port), "box.local".to_owned()] {
        let head = format!("Host: {host}\r\nContent-Length: {}\r\n", body.len());
        let made = raw_http::request(server.address(), "POST /sessions", &head, body.as_bytes()).await.json();
        let id = made["session_id"].as_str().unwrap();
        assert_eq!(made["ws_url"], format!("ws://{host}/ws/sessions/{id}"));
        assert_eq!(made["log_url"], format!("http://{host}/sessions/{id}/logs"));
    }
}

/// What is left of a session that was deleted: its log and its line in the history, until they are pruned, also behind a
/// restart. Logs of older versions are read, too.
#[tokio::test]
async fn what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: String| folder.path().join(name);
    let args = ["--agent", "echo", "--data-dir", folder.path().to_str().unwrap()];
    let mut server = Server::start(&args);
    let (first, second) = (told(&server, "@delta 2 5").await, told(&server, "@fail no").await);
    let whole = log(&server, &first).await;
    assert_eq!(delete(&server, &first).await.json()["state"], "completed");
    assert!(!at(format!("echo-sessions/{first}")).exists());
    let old = "7c4f3c3e-8a63-4fe2-baf3-d72b0b7d6458";
    fs::write(at(format!("logs/{old}.jsonl")), "{\"type\":\"system\",\"data\":{}}\n").unwrap();
    for _ in 0..2 {
        let history = server.get("/sessions/history").await.json();
        let ids: Vec<&str> =
            history.as_array().unwrap().iter().map(|one| one["session_id"].as_str().unwrap()).collect();
        assert_eq!(ids, [old, &second, &first], "newest first");
        let entry = &history[2];
        assert_eq!(
            (&entry["status"], &entry["agent"], &entry["exit_code"], &entry["file_size"]),
            (&json!("completed"), &json!("echo"), &json!(0), &json!(whole.len()))
        );
        assert!(history[0].get("status").is_none() && history[0]["file_size"] == 28, "{}", history[0]);
        assert_eq!(log(&server, &first).await, whole);
        assert_eq!(log(&server, old).await.len(), 28);
        for path in ["", "/info", "/logs"] {
            assert_eq!(server.get(&format!("/sessions/{first}{path}")).await.status, 404, "{path}");
        }
        assert_eq!(server.get("/sessions").await.json().as_array().unwrap().len(), 1);
        server.signal(Signal::SIGTERM);
        server.exited().await;
        server = Server::start(&args);
    }
    server.signal(Signal::SIGTERM);
    server.exited().await;
    let server = Server::start(&[&args[..], &["--log-max-bytes", "2000"]].concat());
    let id = told(&server, &format!("@text {}", "x".repeat(600))).await;
    let deadline = Instant::now() + PATIENCE;
    while [&first, &second].iter().any(|id| at(format!("logs/{id}.ndjson")).exists()) {
        assert!(Instant::now() < deadline, "{:?}", fs::read_dir(at("logs".to_owned())).unwrap().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!at(format!("logs/{first}.json")).exists());
    let history = server.get("/sessions/history").await.json();
    assert_eq!(history[0]["session_id"], json!(id));
}

/// Ten clients of one session, each from another byte: every one has its rest of the same stream.
#[tokio::test]
async fn ten_clients() {
    let server = Server::start(&["--agent", "echo"]);
    let id = create(&server, &json!({"agent": "echo", "interactive": true, "prompt": "@delta 500 60"})).await;
    let mut readers = Vec::new();
    for n in 0..10 {
        readers.push(Reader::open(&server, &id, &format!("?since={}", n * 37)).await);
        readers[n].until("connected").await;
        readers[n].prompt(&format!("@text from {n}")).await;
    }
    let whole = async |readers: &mut Vec<Reader>| {
        for reader in readers.iter_mut() {
            while reader.text().matches(r#""type":"result""#).count() < 11 {
                reader.next().await.expect("the stream goes on");
            }
        }
    };
    whole(&mut readers).await;
    assert_eq!(delete(&server, &id).await.status, 200);
    for reader in &mut readers {
        assert_eq!(
            reader.until("exit").await,
            json!({"type": "exit", "exit_code": -1, "error_detail": "the session was deleted"})
        );
    }
    let all = log(&server, &id).await;
    for reader in &readers {
        assert_eq!(reader.text(), &all[reader.start..]);
    }
    for n in 0..10 {
        assert_eq!(all.matches(&format!(r#""text":"from {n}","delta""#)).count(), 1, "{n}");
    }
}

/// A log that somebody took away is a gap, and is told as one.
#[tokio::test]
async fn a_log_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&["--agent", "echo", "--data-dir", folder.path().to_str().unwrap()]);
    let id = told(&server, "@delta 3 10").await;
    let length = log(&server, &id).await.len();
    fs::remove_file(folder.path().join(format!("logs/{id}.ndjson"))).unwrap();
    let mut client = server.connect(&format!("/ws/sessions/{id}?since=0")).await;
    let gap = json!({"type": "replay", "data": "", "offset": length, "encoding": "base64", "gap": true});
    assert_eq!(client.next().await, Some(gap));
    assert_eq!(client.next().await.unwrap()["type"], "connected");
    assert_eq!(client.next().await, Some(json!({"type": "exit", "exit_code": 0})));
    let gone = (404, json!({"error": "log file not found"}));
    let answer = server.get(&format!("/sessions/{id}/log")).await;
    assert_eq!((answer.status, answer.json()), gone);
}

/// Where a session cannot be kept, there is none.
#[tokio::test]
async fn a_folder_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("echo-sessions"), "").unwrap();
    let server = Server::start(&["--agent", "echo", "--data-dir", folder.path().to_str().unwrap()]);
    let answer = post(&server, &json!({"agent": "echo", "prompt": "x"})).await;
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().starts_with("the session cannot be kept: "), "{answer:?}");
    assert_eq!(server.get("/sessions").await.body, "[]");
}
