//! The checks of HTTP.

use super::talk::{Host, SOON, cut};
use super::{LOG_CURSOR, LOG_END, LOG_LINES, Report, SHOWN};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Between two looks at a state.
const POLL: Duration = Duration::from_millis(50);

pub async fn health(host: &Host<'_>) -> Result<String, String> {
    let health = host.get("/health").await?.expect(200)?;
    let runtimes = health["runtimes"].as_array().is_some_and(|all| all.iter().all(Value::is_string));
    if health["status"] == "ok" && runtimes {
        Ok(format!("version {}", health["version"].as_str().unwrap_or("not told")))
    } else {
        Err(format!("the answer was {}", cut(&health.to_string())))
    }
}

pub async fn not_found(host: &Host<'_>) -> Result<String, String> {
    let unknown = "00000000-0000-4000-8000-000000000000";
    for (method, path, error) in [
        ("GET", "/sessions/no/such/route".to_owned(), "not found"),
        ("PUT", "/sessions".to_owned(), "not found"),
        ("GET", format!("/sessions/{unknown}"), "session not found"),
        ("GET", format!("/sessions/{unknown}/info"), "session not found"),
        ("GET", format!("/sessions/{unknown}/logs?cursor=0"), "session not found"),
        ("GET", format!("/sessions/{unknown}/log"), "log file not found"),
        ("DELETE", format!("/sessions/{unknown}"), "session not found"),
    ] {
        let answer = host.ask(method, &path, None).await?;
        answer.is(404, &json!({"error": error})).map_err(|problem| format!("{method} {path}: {problem}"))?;
    }
    Ok(String::new())
}

pub async fn validation(host: &Host<'_>) -> Result<String, String> {
    let agent = &host.target.agent;
    let health = host.get("/health").await?.json();
    let error = |text: &str| json!({"error": text});
    let work_dir = |path: &str| json!({"agent": agent, "prompt": "x", "work_dir": path});
    let invalid = |message: &str| json!({"error": "invalid_work_dir", "message": message});
    let rows = [
        (json!({"prompt": "x"}), error("agent is required")),
        (json!({"agent": agent}), error("prompt is required")),
        (
            json!({"agent": agent, "prompt": "x", "runtime": "no-such"}),
            json!({"error": "unknown runtime: no-such", "available": health["runtimes"]}),
        ),
        (work_dir("relative"), invalid("working directory must be absolute: relative")),
        (work_dir("/tmp/../tmp"), invalid("working directory cannot contain '..': /tmp/../tmp")),
        (work_dir("/no/such/folder"), invalid("working directory does not exist: /no/such/folder")),
        (work_dir("/etc/passwd"), invalid("working directory is not a directory: /etc/passwd")),
        (work_dir("/"), invalid("working directory cannot be the filesystem root")),
        (json!({"agent": "no-such-agent", "prompt": "x"}), error("unknown agent: no-such-agent")),
        (json!({"agent": agent, "prompt": "x", "session_id": "not-a-uuid"}), error("session_id must be a valid UUID")),
    ];
    let mut wrong = Vec::new();
    for (body, expected) in &rows {
        let answer = host.post(body).await?;
        if let Err(problem) = answer.is(400, expected) {
            wrong.push(format!("{body}: {problem}"));
        }
    }
    for body in ["", "no JSON", "[]", "{\"agent\":7}"] {
        let answer = host.ask("POST", "/sessions", Some(body.to_owned())).await?;
        if answer.status != 400 || answer.json()["error"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("{body:?}: {}, not 400 with an error", answer.in_words()));
        }
    }
    if wrong.is_empty() { Ok(format!("{} requests", rows.len() + 4)) } else { Err(wrong.join("\n")) }
}

pub async fn create(host: &Host<'_>, created: &mut Option<String>) -> Result<String, String> {
    let began = Instant::now();
    let session = host.post(&host.one_prompt()).await?.expect(201)?;
    let took = began.elapsed();
    let id = session["session_id"].as_str().ok_or_else(|| format!("no session_id in {session}"))?;
    *created = Some(id.to_owned());
    let authority = host.target.base.as_str().split("//").nth(1).unwrap_or_default().trim_end_matches('/');
    let expected = [
        ("agent", host.target.agent.clone()),
        ("status", "running".to_owned()),
        ("ws_url", format!("ws://{authority}/ws/sessions/{id}")),
        ("log_url", format!("http://{authority}/sessions/{id}/logs")),
    ];
    for (name, value) in expected {
        if session[name] != value {
            return Err(format!("`{name}` is {}, not \"{value}\"", session[name]));
        }
    }
    if !session["runtime"].is_string() {
        return Err(format!("no runtime in {session}"));
    }
    Ok(format!("after {took:.1?}"))
}

/// Waits for the end.
pub async fn ends(host: &Host<'_>, id: &str) -> Result<String, String> {
    let began = Instant::now();
    loop {
        let seen = host.get(&format!("/sessions/{id}")).await?.expect(200)?;
        match seen["state"].as_str() {
            Some("pending" | "running") if began.elapsed() < host.target.turn_within => tokio::time::sleep(POLL).await,
            Some("pending" | "running") => return Err(format!("it still runs after {:?}", host.target.turn_within)),
            Some("completed") if seen["exit_code"] == 0 => return Ok(format!("after {:.1?}", began.elapsed())),
            _ => return Err(format!("it ended as {}", cut(&seen.to_string()))),
        }
    }
}

pub async fn of_one_that_ended(report: &mut Report, host: &Host<'_>, id: &str) {
    let log = host.get(&format!("/sessions/{id}/log")).await;
    report.check(&LOG_LINES, async { lines(&log?.body) }).await;
    let log = host.get(&format!("/sessions/{id}/log")).await;
    report.check(&LOG_END, async { end(&log?.text()) }).await;
    report.check(&LOG_CURSOR, cursor(host, id)).await;
    report.check(&SHOWN, shown(host, id)).await;
}

/// Types that a line may have.
const TYPES: [&str; 8] = ["agent_message", "tool_use", "tool_result", "result", "progress", "system", "error", "exit"];

fn lines(log: &[u8]) -> Result<String, String> {
    let mut offset = 0_u64;
    let mut count = 0;
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        offset += u64::try_from(line.len()).unwrap_or(u64::MAX);
        count += 1;
        let shown = cut(&String::from_utf8_lossy(line));
        let value: Value = serde_json::from_slice(line).map_err(|error| format!("line {count}: {error}: {shown}"))?;
        let is_type = value["type"].as_str().is_some_and(|kind| TYPES.contains(&kind));
        if !is_type || !value["data"].is_object() || !value["timestamp"].is_i64() {
            return Err(format!("line {count} has not the form of an event: {shown}"));
        }
        if value["offset"] != offset {
            return Err(format!("line {count} ends at byte {offset}, and says {}", value["offset"]));
        }
    }
    if log.last() == Some(&b'\n') { Ok(format!("{count} lines")) } else { Err("the log ends within a line".to_owned()) }
}

fn end(log: &str) -> Result<String, String> {
    let last = log.lines().last().unwrap_or_default();
    let value: Value = serde_json::from_str(last).unwrap_or_default();
    let exits = log.lines().filter(|line| line.starts_with(r#"{"type":"exit""#)).count();
    if exits == 1 && value["type"] == "exit" && value["exit_code"] == 0 && value["data"]["code"] == 0 {
        Ok(String::new())
    } else {
        Err(format!("the last line is {}, and {exits} lines are `exit`", cut(last)))
    }
}

async fn cursor(host: &Host<'_>, id: &str) -> Result<String, String> {
    let whole = host.get(&format!("/sessions/{id}/log")).await?.body;
    let mut read = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let part = host.get(&format!("/sessions/{id}/logs?cursor={cursor}&limit=1")).await?;
        part.expect(200)?;
        read.extend_from_slice(&part.body);
        let next = part.cursor.ok_or("no header Agentruntime-Log-Cursor")?;
        if next != read.len().to_string() {
            return Err(format!("after {} bytes the cursor is {next}", read.len()));
        }
        if part.body.is_empty() || next == cursor {
            break;
        }
        cursor = next;
    }
    if read != whole {
        return Err(format!("{} bytes came by cursors, and the log has {}", read.len(), whole.len()));
    }
    let beyond = host.get(&format!("/sessions/{id}/logs?cursor=999999999")).await?;
    if !beyond.body.is_empty() || beyond.cursor.as_deref() != Some(&*whole.len().to_string()) {
        return Err(format!("beyond the end: {}, cursor {:?}", beyond.in_words(), beyond.cursor));
    }
    let within = host.get(&format!("/sessions/{id}/logs?cursor=5")).await?;
    if whole.get(5..) != Some(&within.body) {
        return Err("from within a line the bytes are not those of the log".to_owned());
    }
    let none = host.get(&format!("/sessions/{id}/logs?cursor=x")).await?;
    none.is(400, &json!({"error": "invalid cursor"}))?;
    Ok(format!("{} bytes", whole.len()))
}

async fn shown(host: &Host<'_>, id: &str) -> Result<String, String> {
    let snapshot = host.get(&format!("/sessions/{id}")).await?.expect(200)?;
    let info = host.get(&format!("/sessions/{id}/info")).await?.expect(200)?;
    let list = host.get("/sessions").await?.expect(200)?;
    let listed = list.as_array().into_iter().flatten().find(|one| one["session_id"] == *id);
    let listed = listed.ok_or_else(|| format!("it is not in the list of {}", list.as_array().map_or(0, Vec::len)))?;
    let states = [&snapshot["state"], &info["status"], &listed["status"]];
    if states.iter().any(|state| *state != "completed") {
        return Err(format!("snapshot, info and list say {states:?}"));
    }
    if snapshot["id"] != *id || info["exit_code"] != 0 || snapshot["agent_name"] != host.target.agent {
        return Err(format!("the snapshot is {}, the info {}", cut(&snapshot.to_string()), cut(&info.to_string())));
    }
    Ok(String::new())
}

pub async fn callers_id(host: &Host<'_>) -> Result<String, String> {
    let id = uuid::Uuid::new_v4().to_string();
    let body =
        json!({"agent": host.target.agent, "interactive": true, "session_id": id, "tags": {"made": "by conform"}});
    let created = host.post(&body).await?.expect(201)?;
    let judged = async {
        if created["session_id"] != *id {
            return Err(format!("the session got the id {}", created["session_id"]));
        }
        let snapshot = host.get(&format!("/sessions/{id}")).await?.expect(200)?;
        if snapshot["tags"]["made"] != "by conform" {
            return Err(format!("its tags are {}", snapshot["tags"]));
        }
        let again = host.post(&body).await?;
        again.is(409, &json!({"error": "session_id already exists"}))?;
        Ok(String::new())
    };
    let judged = tokio::time::timeout(SOON, judged).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    host.delete(&id).await;
    judged
}
