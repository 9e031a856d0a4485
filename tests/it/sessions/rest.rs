//! Sessions over plain HTTP: what they are asked, how they stand, their logs.

use super::{create, delete, echo, ended, kinds, lines, log, of, parsed, post, told};
use crate::support::{Server, read};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_session_from_beginning_to_end() {
    let server = echo();
    let body = json!({"agent": "echo", "prompt": "@delta 2 5", "task_id": "t1", "name": "mine", "tags": {"a": "b"},
                      "unknown": [1], "auto_discover": true, "model": null});
    let answer = post(&server, &body).await;
    assert_eq!((answer.status, answer.header("content-type")), (201, Some("application/json; charset=utf-8")));
    let made = answer.json();
    let id = made["session_id"].as_str().unwrap();
    let host = format!("127.0.0.1:{}", server.port);
    assert_eq!(
        made,
        json!({"session_id": id, "task_id": "t1", "agent": "echo", "runtime": "local", "status": "running", "name": "mine",
               "ws_url": format!("ws://{host}/ws/sessions/{id}"), "log_url": format!("http://{host}/sessions/{id}/logs")})
    );
    let snapshot = ended(&server, id).await;
    for (key, value) in [
        ("id", json!(id)),
        ("task_id", json!("t1")),
        ("agent_name", json!("echo")),
        ("runtime_name", json!("local")),
        ("tags", json!({"a": "b"})),
        ("state", json!("completed")),
        ("exit_code", json!(0)),
        ("name", json!("mine")),
    ] {
        assert_eq!(snapshot[key], value, "{key}: {snapshot}");
    }
    for key in ["created_at", "ended_at", "last_activity"] {
        let time = snapshot[key].as_str().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z') && time.contains('.'), "{key}: {time}");
    }
    for key in ["error_category", "retryable", "error_detail", "input_tokens", "volume_name"] {
        assert!(snapshot.get(key).is_none(), "{key}: {snapshot}");
    }
    let info = server.get(&format!("/sessions/{id}/info")).await.json();
    for (key, value) in [
        ("session_id", json!(id)),
        ("agent", json!("echo")),
        ("runtime", json!("local")),
        ("status", json!("completed")),
        ("exit_code", json!(0)),
        ("uptime", json!("0s")),
        ("ws_url", made["ws_url"].clone()),
        ("log_url", made["log_url"].clone()),
    ] {
        assert_eq!(info[key], value, "{key}: {info}");
    }
    assert!(info["session_dir"].as_str().unwrap().ends_with(&format!("/echo-sessions/{id}")), "{info}");
    assert!(info["log_file"].as_str().unwrap().ends_with(&format!("/logs/{id}.ndjson")), "{info}");
    let all = lines(&server, id).await;
    assert_eq!(kinds(&all), ["agent_message", "agent_message", "agent_message", "result", "exit"]);
    assert_eq!((&all[0]["data"]["delta"], &all[2]["data"]["delta"]), (&json!(true), &json!(false)));
    assert_eq!(all[2]["data"]["text"], "deltadelta");
    assert_eq!((&all[4]["data"], &all[4]["exit_code"]), (&json!({"code": 0}), &json!(0)));
    assert_eq!((&all[3]["data"]["status"], &all[3]["data"]["is_error"]), (&json!("success"), &json!(false)));
}

#[tokio::test]
async fn lists() {
    let server = echo();
    assert_eq!(server.get("/sessions").await.body, "[]");
    assert_eq!(server.get("/sessions/history").await.body, "[]");
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(told(&server, "x").await);
    }
    let all = server.get("/sessions").await.json();
    let listed: Vec<&str> = all.as_array().unwrap().iter().map(|one| one["session_id"].as_str().unwrap()).collect();
    let times: Vec<&str> = all.as_array().unwrap().iter().map(|one| one["created_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(ids.iter().all(|id| listed.contains(&id.as_str())));
    assert_eq!(
        (&all[0]["status"], &all[0]["agent"], &all[0]["runtime"]),
        (&json!("completed"), &json!("echo"), &json!("local"))
    );
    let history = server.get("/sessions/history?limit=2").await.json();
    assert_eq!(history.as_array().unwrap().len(), 2);
    assert_eq!(history[0]["session_id"], *listed.last().unwrap());
    for key in [
        "agent",
        "status",
        "exit_code",
        "created_at",
        "ended_at",
        "log_file",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "tool_calls",
        "file_size",
    ] {
        assert!(!history[0][key].is_null(), "{key}: {}", history[0]);
    }
    assert_eq!(history[0]["file_size"], log(&server, listed[2]).await.len());
}

/// The id as it was sent, in every form that is one, is the same session.
#[tokio::test]
async fn ids_of_the_callers_own() {
    let server = echo();
    let plain = "7c4f3c3e-8a63-4fe2-baf3-d72b0b7d6458";
    for (sent, shown) in [
        (plain.to_owned(), plain.to_owned()),
        (plain.to_uppercase(), plain.to_uppercase()),
        (format!("urn:uuid:{plain}"), plain.to_owned()),
        (format!("{{{plain}}}"), plain.to_owned()),
        (plain.replace('-', ""), plain.to_owned()),
    ] {
        let id = create(&server, &json!({"agent": "echo", "prompt": "x", "session_id": sent})).await;
        assert_eq!(id, shown);
        for path in [plain.to_owned(), plain.to_uppercase(), plain.replace('-', "")] {
            assert_eq!(ended(&server, &path).await["id"], shown);
        }
        assert_eq!(delete(&server, plain).await.json()["id"], shown);
        assert_eq!(log(&server, plain).await.lines().count(), 3);
    }
}

#[tokio::test]
async fn pieces_of_a_log() {
    let server = echo();
    let id = told(&server, "@delta 50 40").await;
    let whole = log(&server, &id).await;
    let logs = async |query: &str| {
        let answer = server.get(&format!("/sessions/{id}/logs{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
        let cursor: usize = answer.header("agentruntime-log-cursor").unwrap().parse().unwrap();
        (answer.body.clone(), cursor, answer.header("agentruntime-log-complete") == Some("true"))
    };
    for query in ["", "?cursor=", "?cursor=0", "?cursor=-5"] {
        assert_eq!(logs(query).await, (whole.clone(), whole.len(), true), "{query}");
    }
    for at in [1, 100, 121, whole.len() - 1] {
        assert_eq!(logs(&format!("?cursor={at}")).await, (whole[at..].to_owned(), whole.len(), true));
    }
    for at in [whole.len(), whole.len() + 1, usize::MAX / 2] {
        assert_eq!(logs(&format!("?cursor={at}")).await, (String::new(), whole.len(), true));
    }
    // In small pieces, each whole lines, at least one.
    let (mut at, mut together) = (0, String::new());
    while at < whole.len() {
        let (piece, cursor, complete) = logs(&format!("?cursor={at}&limit=300")).await;
        assert!(piece.ends_with('\n') && (piece.len() <= 300 || piece.lines().count() == 1), "{piece}");
        assert_eq!((cursor, complete), (at + piece.len(), cursor == whole.len()));
        together.push_str(&piece);
        at = cursor;
    }
    assert_eq!(together, whole);
    assert_eq!(logs("?limit=1").await.0.lines().count(), 1);

    let path = format!("/sessions/{id}/log");
    let answer = read(server.request(Method::GET, &path).header("range", "bytes=10-29")).await;
    assert_eq!((answer.status, answer.body.as_str()), (206, &whole[10..30]));
    assert_eq!(answer.header("content-range"), Some(format!("bytes 10-29/{}", whole.len()).as_str()));
    let answer = server.get(&path).await;
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    assert!(answer.header("last-modified").is_some(), "{answer:?}");
}

#[tokio::test]
async fn an_end_on_demand() {
    let server = echo();
    let id = create(&server, &json!({"agent": "echo", "prompt": "@sleep 60000"})).await;
    let (one, two) = tokio::join!(delete(&server, &id), delete(&server, &id));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404], "exactly one of two");
    let done = if one.status == 200 { one } else { two };
    assert_eq!(done.json(), json!({"id": id, "state": "failed"}));
    assert_eq!(server.get(&format!("/sessions/{id}")).await.status, 404);
    let all = lines(&server, &id).await;
    let last = all.last().unwrap();
    assert_eq!((&last["type"], &last["exit_code"], &last["data"]["code"]), (&json!("exit"), &json!(-1), &json!(-1)));
    // One that has ended keeps its state.
    let id = told(&server, "x").await;
    assert_eq!(delete(&server, &id).await.json(), json!({"id": id, "state": "completed"}));
    let id = told(&server, "@fail no").await;
    assert_eq!(delete(&server, &id).await.json(), json!({"id": id, "state": "failed"}));
    assert_eq!(delete(&server, &id).await.status, 404);
    server.idle().await;
}

#[tokio::test]
async fn failures() {
    let server = echo();
    let id = told(&server, "@fail the reason").await;
    let snapshot = ended(&server, &id).await;
    assert_eq!((&snapshot["state"], &snapshot["exit_code"]), (&json!("failed"), &json!(1)));
    assert_eq!(snapshot["error_detail"], "the reason");
    let all = lines(&server, &id).await;
    assert_eq!(kinds(&all), ["result", "error", "system", "exit"]);
    assert_eq!(of(&all, "error")[0]["message"], "the reason");
    assert_eq!(of(&all, "system")[0]["subtype"], "agent_error");
    // Its time is over.
    let id = create(&server, &json!({"agent": "echo", "prompt": "@sleep 60000", "timeout": "300ms"})).await;
    let snapshot = ended(&server, &id).await;
    assert_eq!((&snapshot["state"], &snapshot["exit_code"]), (&json!("failed"), &json!(-1)));
    assert_eq!((&snapshot["error_category"], &snapshot["retryable"]), (&json!("timeout"), &json!(false)));
    let all = lines(&server, &id).await;
    assert_eq!(all.last().unwrap()["data"]["error_category"], "timeout");
    // Silence.
    let server = Server::start(&["--agent", "echo", "--idle-timeout", "200ms"]);
    let id = told(&server, "@sleep 60000").await;
    let snapshot = ended(&server, &id).await;
    assert_eq!((&snapshot["exit_code"], &snapshot["error_category"]), (&json!(-1), &json!("stall")));
    let all = lines(&server, &id).await;
    assert!(of(&all, "system").iter().any(|data| data["subtype"] == "stall_kill"), "{all:?}");
}

/// What has no effect is told; what names a directory is the agent's.
#[tokio::test]
async fn warnings() {
    let server = echo();
    let body =
        json!({"agent": "echo", "prompt": "x", "pty": true, "container": {"memory": "1g"}, "persist_session": true});
    let answer = post(&server, &body).await.json();
    let expected =
        ["pty", "persist_session", "container.memory"].map(|name| format!("{name} has no effect on runtime local"));
    assert_eq!(answer["warnings"], json!(expected));
}

/// A restart: what had ended is as it was, what ran has failed, and offsets go on.
#[tokio::test]
async fn a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--agent", "echo", "--data-dir", folder.path().to_str().unwrap()];
    let mut server = Server::start(&args);
    let past = told(&server, "@delta 20 100").await;
    let live = create(&server, &json!({"agent": "echo", "interactive": true, "tags": {"a": "b"}})).await;
    let before = (log(&server, &past).await, server.get("/sessions").await.json());
    server.signal(Signal::SIGKILL);
    server.exited().await;
    let file = folder.path().join(format!("logs/{live}.ndjson"));
    let torn = format!("{}{{\"type\":\"torn", std::fs::read_to_string(&file).unwrap());
    std::fs::write(&file, torn).unwrap();

    let server = Server::start(&args);
    let after = server.get("/sessions").await.json();
    assert_eq!((log(&server, &past).await, &after[0]), (before.0.clone(), &before.1[0]));
    assert_eq!((&after[1]["status"], &after[1]["tags"]), (&json!("failed"), &json!({"a": "b"})));
    let answer = server.get(&format!("/sessions/{past}/logs?cursor=121")).await;
    assert_eq!(answer.body, before.0[121..]);
    let all = lines(&server, &live).await;
    assert_eq!((&all.last().unwrap()["type"], &all.last().unwrap()["exit_code"]), (&json!("exit"), &json!(-1)));
    assert_eq!(server.get(&format!("/sessions/{live}/info")).await.json()["exit_code"], -1);
    // A second server in the same folder leaves it alone.
    let second = Server::start(&args);
    assert_eq!(second.get("/sessions").await.body, "[]");
    let mode = |path: &str| std::fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("logs"), mode(&format!("logs/{live}.ndjson"))), (0o700, 0o600));
}

/// A stopping server ends its sessions at once, each with its last line.
#[tokio::test]
async fn a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&["--agent", "echo", "--data-dir", folder.path().to_str().unwrap()]);
    let running = create(&server, &json!({"agent": "echo", "prompt": "@sleep 60000"})).await;
    let idle = create(&server, &json!({"agent": "echo", "interactive": true})).await;
    server.busy().await;
    let mut reader = super::Reader::open(&server, &running, "").await;
    reader.until("connected").await;
    let began = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(reader.until("exit").await["exit_code"], -1);
    assert!(server.exited().await.success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for id in [running, idle] {
        let text = std::fs::read_to_string(folder.path().join(format!("logs/{id}.ndjson"))).unwrap();
        let all = parsed(&text, 0);
        assert_eq!((&all.last().unwrap()["type"], &all.last().unwrap()["exit_code"]), (&json!("exit"), &json!(-1)));
        let record = std::fs::read_to_string(folder.path().join(format!("echo-sessions/{id}/session.json"))).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&record).unwrap()["state"], "failed");
    }
}

/// Logs of the past go when they are too old or too many; what lives stays.
#[tokio::test]
async fn pruning() {
    let server = Server::start(&["--agent", "echo", "--log-max-bytes", "30k"]);
    let live = create(&server, &json!({"agent": "echo", "interactive": true})).await;
    let mut past = Vec::new();
    for _ in 0..4 {
        past.push(told(&server, "@delta 100 20").await);
    }
    let deadline = Instant::now() + crate::support::PATIENCE;
    while server.get(&format!("/sessions/{}", past[1])).await.status != 404 {
        assert!(Instant::now() < deadline, "nothing was forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.get(&format!("/sessions/{}/log", past[0])).await.status, 404);
    assert_eq!(server.get(&format!("/sessions/{}", past[3])).await.status, 200);
    assert_eq!(server.get(&format!("/sessions/{live}")).await.status, 200);

    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let mut server = Server::start(&["--agent", "echo", "--data-dir", data]);
    let old = told(&server, "x").await;
    server.signal(Signal::SIGTERM);
    server.exited().await;
    let server = Server::start(&["--agent", "echo", "--data-dir", data, "--log-max-age", "1ms"]);
    assert_eq!(server.get("/sessions").await.body, "[]");
    assert!(!folder.path().join(format!("logs/{old}.ndjson")).exists());
}

/// What becomes too old is forgotten though nothing else happens; what lives is not.
#[tokio::test]
async fn what_becomes_too_old() {
    let server = Server::start(&["--agent", "echo", "--log-max-age", "2s"]);
    let live = create(&server, &json!({"agent": "echo", "interactive": true})).await;
    let (began, past) = (Instant::now(), told(&server, "x").await);
    while server.get(&format!("/sessions/{past}")).await.status == 200 {
        assert!(began.elapsed() < crate::support::PATIENCE, "it was not forgotten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(server.get(&format!("/sessions/{past}/log")).await.status, 404);
    assert_eq!(server.get(&format!("/sessions/{live}")).await.json()["state"], "running");
}
