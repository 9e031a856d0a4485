//! How agents end, and what of it is told: every last line, the right code, the right category, and nothing left.

use super::{Reader, create, delete, ended, kinds, lines, log, of, parsed};
use crate::support::{SOON, Server, eventually, eventually_within, proc, repository};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// A server whose Claude does what the prompt says.
pub fn scripted(change: impl FnOnce(&mut Command)) -> Server {
    let program = repository("tests/it/scripts/scripted-claude");
    Server::start_with(&["--agent", "echo", "--claude-program", program.to_str().unwrap()], change)
}

pub fn asked(script: &Value) -> Value {
    json!({"agent": "claude", "prompt": script.to_string()})
}

/// A session that runs this to its end: its snapshot and its lines.
pub async fn played(server: &Server, script: Value) -> (Value, Vec<Value>) {
    let id = create(server, &asked(&script)).await;
    let snapshot = ended(server, &id).await;
    (snapshot, lines(server, &id).await)
}

/// Whatever runs below the server but its own shims, and `sleep`s that were left.
fn agents(server: &Server) -> Vec<proc::Process> {
    let all = proc::descendants(server.pid()).into_iter();
    all.filter(|one| one.command.contains("scripted-claude") || one.command.contains("sleep 333")).collect()
}

async fn nothing_left(server: &Server) {
    eventually_within(SOON, "nothing is left", || agents(server).is_empty().then_some(())).await;
    let zombies = || proc::all().into_iter().filter(|one| one.parent == server.pid() && one.state == 'Z').count();
    eventually("no zombie", || (zombies() == 0).then_some(())).await;
}

/// 20 at once that exit right behind their last line, ten times: every line is there, in order, and the end behind it.
#[tokio::test]
async fn two_hundred_that_exit_at_once() {
    let server = scripted(|_| {});
    for _ in 0..10 {
        let sessions = (0..20).map(|n| {
            let server = &server;
            async move {
                let code = n % 3;
                let (snapshot, all) = played(server, json!([["deltas", 200], ["result"], ["exit", code]])).await;
                let deltas: Vec<&str> = of(&all, "agent_message")
                    .iter()
                    .filter(|data| data["delta"] == true)
                    .map(|data| data["text"].as_str().unwrap())
                    .collect();
                assert_eq!(deltas.len(), 200);
                assert!(deltas.is_sorted(), "{deltas:?}");
                let mut tail = kinds(&all).split_off(202);
                tail.retain(|kind| *kind != "system");
                assert_eq!(tail, ["result", "exit"], "{:?}", kinds(&all));
                assert_eq!(all.last().unwrap()["type"], "exit");
                assert_eq!((&snapshot["exit_code"], &all.last().unwrap()["exit_code"]), (&json!(code), &json!(code)));
                assert_eq!(snapshot["state"], if code == 0 { "completed" } else { "failed" });
            }
        });
        join_all(sessions).await;
    }
    nothing_left(&server).await;
}

/// An agent that has given its result and does not end: it is told of, killed with its tree, and that is no failure.
#[tokio::test]
async fn a_hang_after_the_result() {
    let server = scripted(|command| {
        command.env("AGENT_CONFIG", r#"{"result_grace_period":1}"#);
    });
    let error = json!({"subtype": "error_during_execution", "is_error": true});
    for (result, code) in [(json!({}), 0), (error, 1)] {
        let id = create(&server, &asked(&json!([["result", result], ["hang"]]))).await;
        let mut reader = Reader::open(&server, &id, "?since=0").await;
        reader.until_line("result").await;
        let began = Instant::now();
        assert_eq!(reader.until("exit").await["exit_code"], code);
        let took = began.elapsed();
        assert!((Duration::from_millis(700)..Duration::from_secs(4) + SOON).contains(&took), "{took:?}");
        let snapshot = ended(&server, &id).await;
        assert_eq!(snapshot["state"], if code == 0 { "completed" } else { "failed" });
        let all = lines(&server, &id).await;
        let kill = of(&all, "system").into_iter().find(|data| data["subtype"] == "stall_kill").expect("it is told");
        assert_eq!(kill["reason"], "result_timeout");
        assert_eq!(kill["message"], "the agent did not end within 1 seconds after its result");
        assert_eq!(all.last().unwrap()["type"], "exit");
        nothing_left(&server).await;
    }
    // What it still says counts as a sign of life, and one that ends by itself is not killed.
    let script = json!([["result"], ["sleep", 0.7], ["line", "more"], ["sleep", 0.7], ["exit", 0]]);
    let (snapshot, all) = played(&server, script).await;
    assert_eq!(snapshot["state"], "completed", "{all:?}");
    assert!(of(&all, "system").iter().all(|data| data["subtype"] != "stall_kill"), "{all:?}");
    // Somebody may not want to wait.
    let id = create(&server, &asked(&json!([["result"], ["hang"]]))).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    reader.until_line("result").await;
    assert_eq!(delete(&server, &id).await.status, 200);
    assert_eq!(reader.until("exit").await["exit_code"], -1);
    nothing_left(&server).await;
}

/// Its own time is over while it lingers.
#[tokio::test]
async fn a_time_that_ends_behind_the_result() {
    let server = scripted(|_| {});
    let mut body = asked(&json!([["result"], ["hang"]]));
    body["timeout"] = json!("1s");
    let id = create(&server, &body).await;
    let snapshot = ended(&server, &id).await;
    assert_eq!((&snapshot["exit_code"], &snapshot["error_category"]), (&json!(-1), &json!("timeout")));
    nothing_left(&server).await;
}

/// By itself or by a signal, before its result or behind it.
#[tokio::test]
async fn codes() {
    let server = scripted(|_| {});
    for (script, code) in [
        (json!([["result"]]), 0),
        (json!([["result"], ["exit", 3]]), 3),
        (json!([["result"], ["error", "why"], ["kill", 9]]), 137),
        (json!([["text", "x"], ["exit", 5]]), 5),
        (json!([["text", "x"], ["kill", 15]]), 143),
        (json!([["text", "x"], ["exit", 0]]), 1),
        (json!([["result"], ["at end", ["sleep", 0.1], ["exit", 6]]]), 6),
    ] {
        let (snapshot, all) = played(&server, script.clone()).await;
        let exit = all.last().unwrap();
        assert_eq!((&snapshot["exit_code"], &exit["data"]["code"]), (&json!(code), &json!(code)), "{script}: {all:?}");
        assert_eq!(snapshot["state"], if code == 0 { "completed" } else { "failed" });
        if code == 0 {
            assert_eq!(exit["data"], json!({"code": 0}));
            continue;
        }
        let before = &all[all.len() - 2];
        let told = json!({"subtype": "agent_error", "code": code, "error_detail": exit["data"]["error_detail"]});
        assert_eq!(before["data"], told, "{script}");
        if code == 137 {
            assert_eq!(exit["data"]["error_detail"], "why");
            assert!(of(&all, "system").contains(&&json!({"subtype": "stderr", "text": "why"})), "{all:?}");
        }
    }
}

/// One that waits for its next turn ends by itself: its session ends with it, and by its code.
#[tokio::test]
async fn an_end_between_turns() {
    let server = scripted(|_| {});
    for (last, code) in [(json!(["exit", 0]), 0), (json!(["exit", 5]), 5), (json!(["kill", 9]), 137)] {
        let mut body = asked(&json!([["result"], ["sleep", 0.4], ["error", "that was all"], last]));
        body["interactive"] = json!(true);
        let id = create(&server, &body).await;
        let mut reader = Reader::open(&server, &id, "?since=0").await;
        reader.until_line("result").await;
        assert_eq!(server.get(&format!("/sessions/{id}")).await.json()["state"], "running", "between its turns");
        assert_eq!(reader.until("exit").await["exit_code"], code);
        let snapshot = ended(&server, &id).await;
        assert_eq!(
            (&snapshot["state"], snapshot.get("error_category")),
            (&json!(if code == 0 { "completed" } else { "failed" }), None)
        );
        let all = lines(&server, &id).await;
        assert!(of(&all, "system").contains(&&json!({"subtype": "stderr", "text": "that was all"})), "{all:?}");
        let detail = if code == 0 { Value::Null } else { json!("that was all") };
        assert_eq!(all.last().unwrap()["data"]["error_detail"], detail);
    }
    nothing_left(&server).await;
    // One that goes on is heard, as long as it is there.
    let mut body = asked(&json!([["result"]]));
    body["interactive"] = json!(true);
    let id = create(&server, &body).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    reader.until_line("result").await;
    reader.prompt(&json!([["result"]]).to_string()).await;
    reader.until_line("result").await;
    assert_eq!(server.get(&format!("/sessions/{id}")).await.json()["state"], "running");
}

/// What a program that does not start says on standard error, or an error result in words, has a category.
#[tokio::test]
async fn categories_from_words() {
    let server = scripted(|_| {});
    for (said, category, retryable) in [
        ("Error: model_not_found: no-such", "model_not_found", false),
        ("Invalid API key · Please run /login", "auth_error", false),
        ("API Error: 403 {\"type\":\"permission_error\"}", "permission_denied", false),
        ("Claude usage limit reached.", "rate_limit", true),
        ("Error: Session ID 5e551014-0000-4000-8000-000000000002 is already in use.", "duplicate_session", true),
        ("connect ECONNREFUSED 10.0.0.1:443", "upstream_api_error", true),
        ("Segmentation fault", "startup_crash", false),
    ] {
        let body = json!({"agent": "claude", "prompt": "x", "env": {"SCRIPTED_ERROR": said}});
        let id = create(&server, &body).await;
        let snapshot = ended(&server, &id).await;
        assert_eq!((&snapshot["exit_code"], &snapshot["state"]), (&json!(1), &json!("failed")));
        let all = lines(&server, &id).await;
        for found in [&snapshot, &all.last().unwrap()["data"]] {
            assert_eq!(
                (&found["error_category"], &found["retryable"]),
                (&json!(category), &json!(retryable)),
                "{said}"
            );
            assert_eq!(found["error_detail"], said);
        }
        assert!(of(&all, "system").contains(&&json!({"subtype": "stderr", "text": said})), "{all:?}");
    }
    // One that has come far is no startup crash, and what it says in the ordinary way is nobody's category.
    let texts: Vec<Value> = (0..10).map(|_| json!(["text", "The author field has an error."])).collect();
    let mut script = texts;
    script.extend([json!(["text", "model not found"]), json!(["result"])]);
    let (snapshot, all) = played(&server, Value::Array(script)).await;
    assert_eq!((&snapshot["state"], snapshot.get("error_category")), (&json!("completed"), None));
    assert_eq!(of(&all, "agent_message").len(), 12, "and the answer");
    let far = json!([["text", "model not found"], ["long", 3000], ["error", "Segmentation fault"], ["exit", 139]]);
    let (snapshot, _) = played(&server, far).await;
    assert_eq!((&snapshot["exit_code"], snapshot.get("error_category")), (&json!(139), None));
    // A success that is none.
    let error = json!({"is_error": true, "result": "API Error: 529 Overloaded", "api_error_status": 529});
    let (snapshot, all) = played(&server, json!([["result", error]])).await;
    assert_eq!(
        (&snapshot["error_category"], &of(&all, "result")[0]["status"]),
        (&json!("upstream_api_error"), &json!("error"))
    );
}

/// What has no event of its own is told as it is; what is no line of the protocol, as a line.
#[tokio::test]
async fn nothing_is_dropped() {
    let server = scripted(|_| {});
    let script = json!([
        ["line", {"type": "news", "a": [1, {"b": "ä"}]}],
        ["line", {"type": "stream_event", "event": {"type": "news", "x": 1}}],
        ["line", {"type": "system", "subtype": "status", "status": "compacting", "uuid": "u"}],
        ["line", {"type": "system", "subtype": "hook_response", "output": "private", "exit_code": 0}],
        ["line", {"type": "assistant", "message": {"id": "m", "content": [{"type": "server_tool_use", "id": "s"}]}}],
        ["line", "no JSON"],
        ["error", "aside"],
        ["tool"],
        ["result", {"total_cost_usd": 0.0123, "usage": {"input_tokens": 3, "output_tokens": 42}}],
        ["exit", 0],
    ]);
    let (snapshot, all) = played(&server, script).await;
    let system = of(&all, "system");
    let raw: Vec<&Value> =
        system.iter().filter(|data| data["subtype"] == "agent_raw").map(|data| &data["raw"]).collect();
    assert_eq!(raw.len(), 3, "{all:#?}");
    assert_eq!(raw[0], &json!({"type": "news", "a": [1, {"b": "ä"}]}));
    assert_eq!((&raw[1]["event"]["type"], &raw[2]["message"]["content"][0]["id"]), (&json!("news"), &json!("s")));
    for told in [
        json!({"subtype": "status", "status": "compacting"}),
        json!({"subtype": "hook_response"}),
        json!({"subtype": "stdout_raw", "text": "no JSON"}),
        json!({"subtype": "stderr", "text": "aside"}),
    ] {
        assert!(system.contains(&&told), "{told}: {system:#?}");
    }
    let init = system.iter().find(|data| data["subtype"] == "init").unwrap();
    assert_eq!((&init["model"], &init["claude_code_version"]), (&json!("fake"), &json!("2.1.329")));
    assert_eq!(of(&all, "tool_use"), [&json!({"id": "t1", "name": "Bash", "input": {"command": "echo hi"}})]);
    let result = of(&all, "tool_result")[0];
    assert_eq!((&result["id"], &result["name"], &result["output"]), (&json!("t1"), &json!("Bash"), &json!("hi\nho")));
    let result = of(&all, "result")[0];
    assert_eq!(
        (&result["cost_usd"], &result["usage"]),
        (&json!(0.0123), &json!({"input_tokens": 3, "output_tokens": 42}))
    );
    assert_eq!((&snapshot["input_tokens"], &snapshot["output_tokens"]), (&json!(3), &json!(42)));
    assert_eq!((&snapshot["cost_usd"], &snapshot["tool_call_count"]), (&json!(0.0123), &json!(1)));
}

/// The same of Codex: what it says that has no event of its own, and what it says on standard error.
#[tokio::test]
async fn nothing_of_codex_is_dropped() {
    let program = repository("tests/it/scripts/codex_fake.py");
    let server = Server::start(&["--agent", "echo", "--codex-program", program.to_str().unwrap()]);
    let played = async |prompt: &str| {
        let body = json!({"agent": "codex", "prompt": prompt, "env": {"OPENAI_API_KEY": "sk-x-0123456789"}});
        let id = create(&server, &body).await;
        (ended(&server, &id).await, lines(&server, &id).await)
    };
    let (snapshot, all) = played("noise").await;
    assert_eq!(snapshot["state"], "completed", "{snapshot}");
    let raw: Vec<&Value> = of(&all, "system").into_iter().filter(|data| data["subtype"] == "agent_raw").collect();
    let methods: Vec<&str> = raw.iter().map(|data| data["raw"]["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["item/unheard/of"], "{raw:?}");
    assert_eq!(raw[0]["raw"]["params"]["item"], json!({"type": 3}));
    let (snapshot, all) = played("aside").await;
    assert_eq!(snapshot["state"], "completed", "{snapshot}");
    for text in ["one aside", "another"] {
        assert!(of(&all, "system").contains(&&json!({"subtype": "stderr", "text": text})), "{all:?}");
    }
    let item =
        of(&all, "system").into_iter().find(|data| data["subtype"] == "agent_raw").expect("an item without an event");
    assert_eq!(item["raw"]["params"]["item"], json!({"type": "unheardOf", "id": "u2"}));
    let (snapshot, all) = played("crash").await;
    assert_eq!((&snapshot["exit_code"], &snapshot["state"]), (&json!(7), &json!("failed")));
    let detail = all.last().unwrap()["data"]["error_detail"].as_str().unwrap();
    assert!(detail.ends_with("the end is near"), "{all:?}");
}

/// Long lines come whole, and of one that is too long is told.
#[tokio::test]
async fn long_lines_of_an_agent() {
    let server = scripted(|_| {});
    for size in [5_000_000, 20_000_000] {
        let id = create(&server, &asked(&json!([["long", size], ["result"], ["exit", 0]]))).await;
        assert_eq!(ended(&server, &id).await["state"], "completed");
        let text = log(&server, &id).await;
        let all = parsed(&text, 0);
        assert!(of(&all, "agent_message").iter().any(|data| data["text"].as_str().unwrap().len() == size), "{size}");
    }
    let script = json!([["long", 75_500_000], ["text", "on"], ["result", {"result": "on"}], ["exit", 0]]);
    let (snapshot, all) = played(&server, script).await;
    assert_eq!(snapshot["state"], "completed");
    assert_eq!(of(&all, "agent_message"), [&json!({"text": "on", "delta": false})]);
    let notice = json!({"subtype": "warning", "message": "a line of the agent was too long and is left out"});
    assert!(of(&all, "system").contains(&&notice), "{all:?}");
}

/// Calls of the model that fail in the same hopeless way, again and again: the session does not wait for the last of them.
#[tokio::test]
async fn hopeless() {
    let server = scripted(|_| {});
    let retry = |status: u16| {
        json!(["line", {"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10,
                                              "retry_delay_ms": 500.0, "error_status": status, "error": "x"}])
    };
    let script = json!([
        retry(429),
        retry(429),
        ["text", "it goes on"],
        retry(429),
        retry(500),
        retry(429),
        retry(429),
        ["hang"]
    ]);
    for interactive in [false, true] {
        let mut body = asked(&script);
        body["interactive"] = json!(interactive);
        let id = create(&server, &body).await;
        let snapshot = ended(&server, &id).await;
        assert_eq!(
            (&snapshot["exit_code"], &snapshot["error_category"], &snapshot["retryable"]),
            (&json!(1), &json!("rate_limit"), &json!(true))
        );
        let all = lines(&server, &id).await;
        assert_eq!(of(&all, "error")[0]["fatal"], true, "{all:?}");
        assert_eq!(of(&all, "agent_message").len(), 1, "{all:?}");
        nothing_left(&server).await;
    }
}

/// Hooks that come once the agent runs are told which process it is.
#[tokio::test]
async fn hooks_know_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let script = |name: &str, body: &str| {
        fs::write(at(name), format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("pre", "echo pre [$AGENT_PID]");
    script("post", r#"echo "post $AGENT_PID $(tr '\0' ' ' < /proc/$AGENT_PID/cmdline)""#);
    script("beside", "echo beside $AGENT_PID; sleep 60");
    script("fails", "exit 3");
    let server = scripted(|_| {});
    let hooks = json!({"pre_init": at("pre"), "post_init": at("post"), "sidecar": at("beside")});
    let mut body = asked(&json!([["sleep", 0.5], ["result"]]));
    body["lifecycle"] = hooks;
    let id = create(&server, &body).await;
    assert_eq!(ended(&server, &id).await["state"], "completed");
    let all = lines(&server, &id).await;
    let said = |hook: &str| {
        let name = format!("hook:{hook}");
        let mut of_hook =
            of(&all, "system").into_iter().filter(|data| data["source"] == *name && data.get("subtype").is_none());
        let said = of_hook.next().unwrap_or_else(|| panic!("{hook}: {all:?}"));
        said["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(said("pre_init"), "pre []");
    let post = said("post_init");
    let pid = post.split(' ').nth(1).unwrap().to_owned();
    assert!(pid.parse::<u32>().is_ok() && post.contains("scripted-claude -p"), "{post}");
    assert_eq!(said("sidecar"), format!("beside {pid}"));
    nothing_left(&server).await;
    // One that fails ends the agent that was started for it.
    body["lifecycle"] = json!({"post_init": at("fails")});
    let id = create(&server, &body).await;
    assert_eq!(ended(&server, &id).await["exit_code"], 1);
    assert_eq!(
        of(&lines(&server, &id).await, "error")[0]["message"],
        "post_init hook failed: post_init: exit status 3"
    );
    nothing_left(&server).await;
}

/// Signs of life come while the agent lives, and say what was used so far.
#[tokio::test]
async fn heartbeats() {
    let server = scripted(|_| {});
    let script = json!([["tool"], ["result", {"usage": {"input_tokens": 3, "output_tokens": 4}}]]);
    let mut body = asked(&script);
    body["interactive"] = json!(true);
    let id = create(&server, &body).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    let began = Instant::now();
    let beat = loop {
        reader.next().await.expect("the stream goes on");
        let all = parsed(reader.text(), 0);
        if let Some(beat) = all.into_iter().find(|line| line["data"]["subtype"] == "heartbeat") {
            break beat;
        }
    };
    assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
    let data = &beat["data"];
    let keys: Vec<&String> = data.as_object().unwrap().keys().collect();
    let mut expected = ["subtype", "uptime_ms", "input_tokens", "output_tokens", "tool_calls", "agent_running"];
    expected.sort_unstable();
    let mut keys: Vec<&str> = keys.into_iter().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!((beat["type"].as_str(), keys), (Some("system"), expected.to_vec()));
    assert_eq!(
        (&data["input_tokens"], &data["output_tokens"], &data["tool_calls"], &data["agent_running"]),
        (&json!(3), &json!(4), &json!(1), &json!(true))
    );
    assert!(data["uptime_ms"].as_u64().unwrap() >= 8000, "{data}");
    assert_eq!(delete(&server, &id).await.status, 200);
    reader.until("exit").await;
    assert_eq!(parsed(reader.text(), 0).last().unwrap()["type"], "exit");
}
