//! The JavaScript and the Python bridge, through the server: what a module is given, what becomes of what it says,
//! returns and throws, and that nothing a module does reaches another turn.
//!
//! The modules are `modules/probe.mjs` and `modules/probe.py`; a prompt's first word names what they do.

use crate::support::programs::Program;
use crate::support::{PATIENCE, Server, WsClient, eventually, proc, repository, server_command};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const JAVASCRIPT: &str = "tests/it/modules/probe.mjs";
const PYTHON: &str = "tests/it/modules/probe.py";

/// Tests that both bridges must pass.
macro_rules! in_both_languages {
    ($($test:ident),* $(,)?) => {
        mod javascript {
            $(#[tokio::test] async fn $test() { super::$test(super::JAVASCRIPT).await })*
        }
        mod python {
            $(#[tokio::test] async fn $test() { super::$test(super::PYTHON).await })*
        }
    };
}

in_both_languages!(
    a_turn_that_says_everything,
    the_state_is_kept_set_and_cleared,
    the_first_error_decides,
    late_calls_are_dropped,
    a_process_that_exits_costs_its_own_turn_only,
    what_is_printed_is_log,
    prompts_of_any_length_arrive_whole,
    ten_thousand_messages_in_order,
    a_slow_turn_delays_nobody,
    a_cancel_is_heard,
    a_cancel_that_is_not_heard_costs_the_process_at_most,
    cycles_hide_nothing,
);

fn server(module: &str, more: &[&str]) -> Server {
    let module = repository(module).display().to_string();
    Server::start(&[&["--handler", &module], more].concat())
}

/// One query; the frames up to its terminal.
async fn ask(client: &mut WsClient, prompt: &str) -> Vec<Value> {
    client.query(prompt).await;
    client.until_terminal().await
}

async fn ask_one(client: &mut WsClient, prompt: &str) -> Value {
    let mut frames = ask(client, prompt).await;
    assert_eq!(frames.len(), 1, "{prompt}: {frames:?}");
    frames.remove(0)
}

fn answer(text: &str) -> Value {
    json!({"message_type": "result_message", "metadata": {}, "data": {"type": "text", "text": text}})
}

fn message(text: &str) -> Value {
    json!({"message_type": "assistant_message", "text_blocks": [text]})
}

/// The connection and its handler still work.
async fn assert_works(client: &mut WsClient) {
    assert_eq!(ask_one(client, "say still here").await, answer("still here"));
}

/// The handler's processes, without the shims above them.
fn interpreters(server: &Server) -> Vec<u32> {
    let mut found: Vec<u32> = proc::descendants(server.pid())
        .into_iter()
        .filter(|process| process.command.contains("probe.") && !process.command.contains("__shim"))
        .map(|process| process.pid)
        .collect();
    found.sort_unstable();
    found
}

async fn a_turn_that_says_everything(module: &str) {
    let server = server(module, &[]);
    let mut client = server.connect("/").await;
    client.query_with("everything", json!({"extensions": ["events"]})).await;
    let mut frames = client.until_terminal().await;
    let terminal = frames.pop().unwrap();
    let events: Vec<Value> = frames.iter().filter_map(|frame| frame.get("event").cloned()).collect();
    let expected = json!([
        {"type": "text", "parts": ["Let me look."]},
        {"type": "thinking", "text": "There may be a file."},
        {"type": "tool_use", "id": "call-1", "name": "shell", "input": {"command": "ls", "timeout": null}},
        {"type": "tool_result", "id": "call-1", "output": "report.txt\n", "is_error": false, "exit_code": 0},
        {"type": "progress", "kind": "retry", "detail": {"attempt": 2}},
        {"type": "text_delta", "block": "b1", "text": "Ther"},
        {"type": "discarded", "block": "b1"},
        {"type": "text_delta", "block": "b1", "text": "There."},
        {"type": "text", "block": "b1", "parts": ["There", "."]},
        {"type": "usage", "input_tokens": 10, "output_tokens": 5, "cached_tokens": 3, "reasoning_tokens": 1,
         "cost_usd": 0.25},
        {"type": "warning", "text": "the model was slow", "field": "model"},
    ]);
    assert_eq!(json!(events), expected);
    let data = json!({"type": "text", "text": "done"});
    assert_eq!(terminal, json!({"message_type": "result_message", "metadata": {"steps": 2}, "data": data}));
}

async fn the_state_is_kept_set_and_cleared(module: &str) {
    let server = server(module, &[]);
    // On Dari's wire: no key keeps, `null` clears, anything else replaces.
    let old = json!({"old": true});
    let given = |input: &str| json!({"input": input, "state": old});
    assert_eq!(server.advance(&given("keep")).await.body, r#"{"text":"kept"}"#);
    assert_eq!(server.advance(&given("clear")).await.body, r#"{"text":"cleared","state":null}"#);
    assert_eq!(server.advance(&given("set null")).await.body, r#"{"text":"set","state":null}"#);
    for state in [r#"{"b":1,"a":[null,0.5,"ä🙂\n"]}"#, "[]", "0", "false", r#""""#] {
        let answer = server.advance(&given(&format!("set {state}"))).await;
        assert_eq!(answer.body, format!(r#"{{"text":"set","state":{state}}}"#));
        let back = server.advance_raw(format!(r#"{{"input":"state","state":{state}}}"#)).await.json();
        let back: Value = serde_json::from_str(back["text"].as_str().unwrap()).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(state).unwrap());
    }
    // In a named session the server keeps it, and a connection without a name has none.
    let mut named = server.connect("/?session=s1").await;
    for (prompt, state_then) in [
        ("keep", None),
        (r#"set {"n":1}"#, Some(json!({"n": 1}))),
        ("keep", Some(json!({"n": 1}))),
        ("reportsthenreturns", Some(json!({"n": 1}))),
        ("clear", None),
    ] {
        ask(&mut named, prompt).await;
        let mut other_way = server.connect("/?session=s1").await;
        let seen = ask_one(&mut other_way, "state").await["data"]["text"].as_str().unwrap().to_owned();
        let seen: Option<Value> = serde_json::from_str(&seen).unwrap_or_default();
        assert_eq!(seen, state_then, "after {prompt:?}");
    }
    let mut plain = server.connect("/").await;
    ask(&mut plain, "set 5").await;
    let seen = ask_one(&mut plain, "state").await;
    assert!(["undefined", "null"].map(answer).contains(&seen), "{seen}");
}

/// N2: one terminal, and nothing that came is lost.
async fn the_first_error_decides(module: &str) {
    let server = server(module, &[]);
    let mut client = server.connect("/").await;
    let terminal = ask_one(&mut client, "reportsthenreturns").await;
    let result = json!({"data": {"type": "text", "text": "a result all the same"}, "metadata": {"m": 1}});
    let first = |metadata: Value| json!({"message_type": "error_message", "error": "first", "metadata": metadata});
    assert_eq!(terminal, first(json!({"at": 1, "result": result})));
    assert_works(&mut client).await;

    assert_eq!(ask_one(&mut client, "reportsthenreturnsnothing").await, first(json!({"at": 1})));
    assert_works(&mut client).await;

    let terminal = ask_one(&mut client, "reportsthenthrows").await;
    assert_eq!((&terminal["error"], &terminal["metadata"]["at"]), (&json!("first"), &json!(1)));
    let further = &terminal["metadata"]["further_errors"];
    assert_eq!((further.as_array().unwrap().len(), &further[0]["error"]), (1, &json!("second")));
    assert!(further[0]["metadata"]["stack"].as_str().unwrap().contains("probe."), "{further}");
    assert_works(&mut client).await;

    let terminal = ask_one(&mut client, "reportstwice").await;
    assert_eq!(terminal, first(json!({"further_errors": [{"error": "second", "metadata": {"at": 2}}]})));
    assert_works(&mut client).await;

    // The terminal comes when the handler ends, after what it still had to say.
    let frames = ask(&mut client, "reportsandtalks").await;
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!((&frames[0], &frames[1]["error"]), (&message("still talking"), &json!("first")));
    assert_works(&mut client).await;

    // Dari has one text for it.
    let answer = server.advance(&json!({"input": "reportsthenreturns", "state": null})).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"text":"first"}"#));
}

/// N3: what a turn says after its end goes nowhere, above all not into the next one.
async fn late_calls_are_dropped(module: &str) {
    let server = server(module, &["--log-level", "debug"]);
    let mut client = server.connect("/").await;
    assert_eq!(ask_one(&mut client, "late").await, answer("on time"));
    // The late calls come while this one sleeps.
    let frames = ask(&mut client, "sleep 600").await;
    assert_eq!(frames, [message("asleep"), answer("slept, aborted: false")]);
    let told = || server.log().contains("after the turn had ended: dropped").then_some(());
    eventually("a line in the log about the late call", told).await;
}

/// N4: the process is gone and its turn with it; the next turn finds another.
async fn a_process_that_exits_costs_its_own_turn_only(module: &str) {
    let server = server(module, &[]);
    let mut client = server.connect("/").await;
    assert_works(&mut client).await;
    let mut quickest = Duration::MAX;
    for code in [7, 0, 1] {
        let began = Instant::now();
        let frames = ask(&mut client, &format!("exit {code}")).await;
        quickest = quickest.min(began.elapsed());
        assert_eq!(frames.len(), 2, "{frames:?}");
        assert_eq!(frames[0], message("before the end"));
        assert_eq!(frames[1]["error"], format!("Handler process exited with code {code}"));
        assert_eq!(frames[1]["metadata"]["exit_code"], code);
        assert_works(&mut client).await;
    }
    // A busy machine may hold up one of them.
    assert!(quickest < Duration::from_secs(2), "told only after {quickest:?}");
    let body = json!({"input": "exit 7", "state": null});
    let answer = server.advance(&body).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"text": "Handler process exited with code 7"})));
    let answer = server.advance(&json!({"input": "say well", "state": null})).await;
    assert_eq!(answer.body, r#"{"text":"well"}"#);
}

async fn what_is_printed_is_log(module: &str) {
    let server = server(module, &[]);
    let mut client = server.connect("/").await;
    assert_eq!(ask(&mut client, "noise").await, [message("said"), answer("quiet")]);
    assert_works(&mut client).await;
    for line in ["a line of ", "fake", "written to stderr"] {
        eventually(line, || server.log().contains(line).then_some(())).await;
    }
}

/// Also where they come in several reads that part a character, and several come in one.
async fn prompts_of_any_length_arrive_whole(module: &str) {
    let server = server(module, &[]);
    let talk = async |n: usize| {
        let mut client = server.connect("/").await;
        for length in [0, 60, 16_000, 160_000] {
            let text = format!("{}{}", "x".repeat(n), "é😀".repeat(length / 6));
            assert_eq!(ask_one(&mut client, &format!("say {text}")).await, answer(&text), "{n} and {length}");
        }
    };
    join_all((1..9).map(talk)).await;
}

async fn ten_thousand_messages_in_order(module: &str) {
    let server = server(module, &[]);
    let mut client = server.connect("/").await;
    let ways = ["flood 10000", "floodawait 10000", "plain flood 10000"];
    for prompt in ways.iter().filter(|way| module == PYTHON || !way.starts_with("plain")) {
        let began = Instant::now();
        let mut frames = ask(&mut client, prompt).await;
        println!("{module}: {prompt}: {:?}", began.elapsed());
        assert_eq!(frames.pop(), Some(answer("said 10000")));
        assert_eq!(frames.len(), 10_000);
        let wrong = frames.iter().zip(1..).find(|(frame, n)| **frame != message(&format!("message {n}")));
        assert_eq!(wrong, None);
    }
}

/// Turns share a process; one that waits is in nobody's way.
async fn a_slow_turn_delays_nobody(module: &str) {
    let server = server(module, &["--stop-grace", "200ms"]);
    let ways: &[&str] = if module == PYTHON { &["sleep 60000", "plain sleep 60000"] } else { &["sleep 60000"] };
    for slow in ways {
        let mut waiting = server.connect("/").await;
        waiting.query(slow).await;
        assert_eq!(waiting.next().await, Some(message("asleep")));
        let began = Instant::now();
        for n in 0..20 {
            let mut other = server.connect("/").await;
            assert_eq!(ask_one(&mut other, &format!("say {n}")).await, answer(&n.to_string()));
        }
        let body = json!({"input": format!("say beside {slow}"), "state": null});
        let answered = server.advance(&body).await;
        assert_eq!(answered.json()["text"], format!("beside {slow}"));
        assert!(began.elapsed() < Duration::from_secs(30), "{slow}: the others took {:?}", began.elapsed());
        assert_eq!(interpreters(&server).len(), 1, "one process did it all");
        waiting.send(&json!({"message_type": "cancel_message"})).await;
        assert_eq!(waiting.terminal().await["error"], "Request cancelled");
    }
}

/// A handler that heeds its signal is told at once, and its process lives on.
async fn a_cancel_is_heard(module: &str) {
    let server = server(module, &["--stop-grace", "60s"]);
    let ways: &[&str] = if module == PYTHON { &["heeds", "plain heeds"] } else { &["heeds"] };
    for prompt in ways {
        let mut client = server.connect("/").await;
        client.query(prompt).await;
        assert_eq!(client.next().await, Some(message("listening")));
        let before = interpreters(&server);
        let began = Instant::now();
        client.send(&json!({"message_type": "cancel_message"})).await;
        let cancelled = json!({"message_type": "error_message", "error": "Request cancelled", "metadata": {}});
        assert_eq!(client.until_terminal().await, [cancelled]);
        assert!(began.elapsed() < Duration::from_secs(20), "{prompt}: {:?}", began.elapsed());
        assert_works(&mut client).await;
        assert_eq!(interpreters(&server), before, "{prompt}");
        // A client that goes away cancels its request too.
        let mut client = server.connect("/").await;
        client.query(prompt).await;
        assert_eq!(client.next().await, Some(message("listening")));
        drop(client);
        let ended = || server.log().contains("reason=Disconnected").then_some(());
        eventually("the end of the abandoned turn", ended).await;
        let mut client = server.connect("/").await;
        assert_works(&mut client).await;
        assert_eq!(interpreters(&server), before, "{prompt}");
    }
}

/// One that ignores it is answered for after the grace; the process goes once no other turn needs it.
async fn a_cancel_that_is_not_heard_costs_the_process_at_most(module: &str) {
    let server = server(module, &["--stop-grace", "500ms"]);
    let prompt = if module == PYTHON { "plain sleep 60000" } else { "sleep 60000" };
    let mut client = server.connect("/").await;
    let mut neighbour = server.connect("/").await;
    client.query(prompt).await;
    assert_eq!(client.next().await, Some(message("asleep")));
    neighbour.query("sleep 2000").await;
    assert_eq!(neighbour.next().await, Some(message("asleep")));
    let before = interpreters(&server);
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(client.terminal().await["error"], "Request cancelled");
    let took = began.elapsed();
    assert!((0.4..20.0).contains(&took.as_secs_f64()), "{took:?}");
    assert_works(&mut client).await;
    // The neighbour was in the same process and is not disturbed.
    assert_eq!(neighbour.terminal().await, answer("slept, aborted: false"));
    let replaced = || (interpreters(&server).iter().all(|pid| !before.contains(pid))).then_some(());
    eventually("the end of the process that ignored its cancel", replaced).await;
    assert_works(&mut neighbour).await;
}

/// N7: a cycle is named as one, and the text is there.
async fn cycles_hide_nothing(module: &str) {
    let server = server(module, &[]);
    let mut client = server.connect("/").await;
    let terminal = ask_one(&mut client, "throws cyclic").await;
    assert_eq!(terminal["error"], "the original text");
    let metadata = &terminal["metadata"];
    let itself = if module == PYTHON { "itself" } else { "self" };
    assert_eq!(metadata["error_details"][itself], "[circular]", "{metadata}");
    assert_eq!((&metadata["retry"], &metadata["again"]), (&json!(true), &json!("[circular]")));
    assert_eq!(metadata["cause"]["cause"], "[circular]", "{metadata}");
    assert!(metadata["cause"].to_string().contains("the cause"), "{metadata}");
    assert!(metadata["error_details"]["deep"].to_string().contains("[max depth reached]"), "{metadata}");
    assert_works(&mut client).await;
}

/// What a request carries, for `shape`.
fn full_request() -> Value {
    json!({
        "source_id": "run-1", "system_prompt": "Be brief.", "model": "m-1", "secrets_to_redact": ["s3cret-value"],
        "agent_env": {"REGION": "eu"},
        "output_format_json_schema_str": r#"{"type":"json_schema","schema":{"type":"object"}}"#,
    })
}

#[tokio::test]
async fn a_javascript_invocation() {
    let server = server(JAVASCRIPT, &[]);
    let mut client = server.connect("/?session=shape").await;
    client.query_with("shape", full_request()).await;
    let shape = client.terminal().await["data"]["structured_output"].clone();
    let keys: Vec<&str> = shape["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    // Those of the peer first, in its order.
    let peer = ["systemPrompt", "userPrompt", "outputFormat", "model", "env", "secrets", "signal", "logger"];
    assert_eq!(keys[..8], peer);
    let ours = [
        "state",
        "sessionId",
        "turnId",
        "attempt",
        "sourceId",
        "attachments",
        "metadata",
        "traceparent",
        "tracestate",
        "onInput",
    ];
    assert_eq!(keys[8..], ours);
    let mut plain = shape["plain"].clone();
    assert!(plain["turnId"].take().as_str().is_some_and(|id| !id.is_empty()));
    let expected = json!({
        "systemPrompt": "Be brief.", "userPrompt": "shape", "model": "m-1", "env": {"REGION": "eu"},
        "outputFormat": {"type": "json_schema", "schema": {"type": "object"}},
        // The handler had it; on its way out it is redacted.
        "secrets": ["[REDACTED]"],
        "sessionId": "shape", "turnId": null, "attempt": 1, "sourceId": "run-1", "attachments": [],
    });
    assert_eq!(plain, expected);
    let types = json!({"signal": true, "logger": ["log", "warn", "error", "debug"], "onInput": "function",
                       "undefined": ["state", "metadata", "traceparent", "tracestate"]});
    assert_eq!(shape["types"], types);

    // `null` and absent are undefined, not null.
    for more in [json!({}), json!({"system_prompt": null, "model": null, "agent_env": null, "secrets_to_redact": null})]
    {
        client.query_with("shape", more).await;
        let shape = client.terminal().await["data"]["structured_output"].clone();
        let missing = ["systemPrompt", "outputFormat", "model", "env", "state", "sourceId", "metadata"];
        let missing = json!([&missing[..], &["traceparent", "tracestate"]].concat());
        assert_eq!((&shape["types"]["undefined"], &shape["plain"]["secrets"]), (&missing, &json!([])));
    }
}

#[tokio::test]
async fn a_python_invocation() {
    let server = server(PYTHON, &[]);
    let mut client = server.connect("/?session=shape").await;
    client.query_with("shape", full_request()).await;
    let shape = client.terminal().await["data"]["structured_output"].clone();
    let mut plain = shape["plain"].clone();
    assert!(plain["turn_id"].take().as_str().is_some_and(|id| !id.is_empty()));
    let mut expected = json!({
        "system_prompt": "Be brief.", "user_prompt": "shape", "model": "m-1", "env": {"REGION": "eu"},
        "output_format": {"type": "json_schema", "schema": {"type": "object"}}, "secrets": ["[REDACTED]"],
        "state": null, "session_id": "shape", "turn_id": null, "attempt": 1, "source_id": "run-1", "attachments": [],
        "metadata": null, "traceparent": null, "tracestate": null,
    });
    assert_eq!(plain, expected);
    let types =
        json!({"signal": [false, true, true], "logger": ["info", "warning", "error", "debug"], "on_input": true});
    assert_eq!(shape["types"], types);

    client.query("shape").await;
    let mut plain = client.terminal().await["data"]["structured_output"]["plain"].clone();
    plain["turn_id"].take();
    for missing in ["system_prompt", "model", "env", "output_format", "source_id"] {
        expected[missing].take();
    }
    expected["secrets"] = json!([]);
    assert_eq!(plain, expected);
}

#[tokio::test]
async fn an_error_in_javascript() {
    let server = server(JAVASCRIPT, &[]);
    let mut client = server.connect("/").await;
    let terminal = ask_one(&mut client, "throws quota").await;
    assert_eq!(terminal["error"], "disk is full");
    let mut metadata = terminal["metadata"].clone();
    let stack = metadata["stack"].take();
    let stack = stack.as_str().unwrap();
    assert!(stack.lines().next().unwrap().ends_with("Error: disk is full") && stack.contains("/probe.mjs:"), "{stack}");
    assert!(!stack.contains("turnhost-bridge") && !stack.contains("node:"), "frames of ours: {stack}");
    assert!(metadata["cause"]["stack"].take().as_str().unwrap().contains("no space"));
    let expected = json!({
        "error_name": "QuotaError", "stack": null, "cause": {"error_name": "TypeError", "stack": null},
        "tenant": "t1", "flags": [true, null], "error_details": {"code": "ENOSPC", "used": 12},
    });
    assert_eq!(metadata, expected);

    // An error without a text is told by what it is.
    let terminal = ask_one(&mut client, "throws empty").await;
    assert!(terminal["error"].as_str().unwrap().starts_with(r#"{"error_name":"Error""#), "{terminal}");

    let details = ask_one(&mut client, "throws long").await["metadata"]["error_details"].clone();
    assert_eq!(details["text"], format!("{}... [truncated 1000 chars]", "x".repeat(4000)));
    assert_eq!(details["many"], json!((0..20).collect::<Vec<_>>()));

    let details = ask_one(&mut client, "throws kinds").await["metadata"]["error_details"].clone();
    let expected = json!({"f": "() => 1", "s": "Symbol(s)", "n": "10", "d": {}, "b": {"0": 97, "1": 98, "2": 99}});
    assert_eq!(details, expected);

    // Values that are no errors.
    for (name, text, metadata) in [
        ("string", "just a string", json!({"error_type": "string"})),
        ("undefined", "undefined", json!({"error_type": "undefined"})),
        ("null", "null", json!({"error_type": "object"})),
        ("number", "42", json!({"error_type": "number"})),
        (
            "object",
            r#"{"code":7,"list":[1,2]}"#,
            json!({"error_type": "object", "error_details": {"code": 7, "list": [1, 2]}}),
        ),
    ] {
        let terminal = ask_one(&mut client, &format!("throws {name}")).await;
        assert_eq!(terminal, json!({"message_type": "error_message", "error": text, "metadata": metadata}), "{name}");
    }
    assert_works(&mut client).await;
}

#[tokio::test]
async fn an_error_in_python() {
    let server = server(PYTHON, &[]);
    let mut client = server.connect("/").await;
    for prompt in ["throws quota", "plain throws quota"] {
        let terminal = ask_one(&mut client, prompt).await;
        assert_eq!(terminal["error"], "disk is full");
        let mut metadata = terminal["metadata"].clone();
        let stack = metadata["stack"].take();
        let stack = stack.as_str().unwrap();
        assert!(stack.starts_with("Traceback") && stack.ends_with("QuotaError: disk is full"), "{stack}");
        assert!(stack.contains("/probe.py\"") && !stack.contains("<stdin>"), "frames of ours: {stack}");
        let expected = json!({
            "error_name": "QuotaError", "stack": null, "cause": {"error_name": "TypeError", "message": "no space"},
            "tenant": "t1", "flags": [true, null], "error_details": {"code": "ENOSPC"},
        });
        assert_eq!(metadata, expected, "{prompt}");
    }
    let terminal = ask_one(&mut client, "throws empty").await;
    assert_eq!((&terminal["error"], &terminal["metadata"]["error_name"]), (&json!("ValueError"), &json!("ValueError")));
    // It fails the turn and not the process.
    let before = interpreters(&server);
    let terminal = ask_one(&mut client, "throws exit").await;
    assert_eq!(terminal["metadata"]["error_name"], "SystemExit");
    assert_works(&mut client).await;
    assert_eq!(interpreters(&server), before);
}

/// N4: the turn that an error outside of its call belongs to gets it, and nobody else notices.
#[tokio::test]
async fn stray_errors_in_javascript() {
    let server = server(JAVASCRIPT, &[]);
    let mut client = server.connect("/").await;
    let mut neighbour = server.connect("/").await;
    neighbour.query("sleep 1500").await;
    assert_eq!(neighbour.next().await, Some(message("asleep")));
    let before = interpreters(&server);
    let terminal = ask_one(&mut client, "rejection").await;
    assert_eq!(terminal["error"], "nobody caught me");
    assert_eq!(terminal["metadata"]["error_details"], json!({"code": "STRAY"}));
    assert!(terminal["metadata"]["stack"].as_str().unwrap().contains("/probe.mjs:"), "{terminal}");
    assert_works(&mut client).await;
    let terminal = ask_one(&mut client, "exception").await;
    assert_eq!(terminal["error"], "thrown in a timer");
    assert_works(&mut client).await;
    assert_eq!(neighbour.terminal().await, answer("slept, aborted: false"));
    assert_eq!(interpreters(&server), before);
}

/// N8: one error that names the defect.
async fn assert_wrong_results(module: &str, table: &[(&str, &str)]) {
    let server = server(module, &[]);
    let mut client = server.connect("/").await;
    for (name, defect) in table {
        let terminal = ask_one(&mut client, &format!("returns {name}")).await;
        let error = terminal["error"].as_str().unwrap_or_else(|| panic!("{name}: {terminal}"));
        assert!(error.starts_with("handler result: ") && error.contains(defect), "{name}: {error}");
        assert_eq!(terminal["metadata"]["error_name"], "HandlerResultError", "{name}: {terminal}");
    }
    assert_works(&mut client).await;
    let answer = server.advance(&json!({"input": format!("returns {}", table[0].0), "state": null})).await;
    assert!(answer.status == 200 && answer.json()["text"].as_str().unwrap().contains(table[0].1), "{answer:?}");
}

#[tokio::test]
async fn wrong_results_in_javascript() {
    let table = [
        ("undefined", "got undefined"),
        ("null", "got null"),
        ("number", "got number"),
        ("array", "got array"),
        ("notype", "type"),
        ("othertype", "\"video\""),
        ("notext", "\"text\" must be a string, got undefined"),
        ("numbertext", "\"text\" must be a string, got number"),
        ("nooutput", "\"structuredOutput\" must be an object, got undefined"),
        ("arrayoutput", "\"structuredOutput\" must be an object, got array"),
        ("stringoutput", "\"structuredOutput\" must be an object, got string"),
        ("bigint", "\"structuredOutput\" cannot be serialised"),
        ("cycle", "\"structuredOutput\" cannot be serialised"),
        ("metadata", "\"metadata\" must be an object, got string"),
        ("state", "\"state\" cannot be serialised"),
    ];
    assert_wrong_results(JAVASCRIPT, &table).await;
}

#[tokio::test]
async fn wrong_results_in_python() {
    let table = [
        ("none", "got None"),
        ("number", "got int"),
        ("list", "got list"),
        ("notype", "type"),
        ("othertype", "'video'"),
        ("notext", "\"text\" must be a string, got None"),
        ("numbertext", "\"text\" must be a string, got int"),
        ("nooutput", "\"structured_output\" must be an object, got None"),
        ("listoutput", "\"structured_output\" must be an object, got list"),
        ("set", "\"structured_output\" cannot be serialised"),
        ("nan", "\"structured_output\" cannot be serialised"),
        ("cycle", "\"structured_output\" cannot be serialised"),
        ("metadata", "\"metadata\" must be an object, got str"),
        ("state", "\"state\" cannot be serialised"),
    ];
    assert_wrong_results(PYTHON, &table).await;
}

/// F3, N5: a handler that blocks its thread keeps neither its own connection's heartbeats nor its cancel.
#[tokio::test]
async fn a_blocked_javascript_thread() {
    let server = server(JAVASCRIPT, &["--heartbeat", "100ms", "--stop-grace", "500ms"]);
    let mut client = server.connect("/").await;
    client.query("block 30000").await;
    let mut beats_since = None;
    while beats_since != Some(5) {
        let frame = client.next().await.expect("the connection lives");
        if frame == message("blocking") {
            beats_since = Some(0);
        } else {
            assert_eq!(frame["message_type"], "heartbeat_message");
            beats_since = beats_since.map(|beats| beats + 1);
        }
    }
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(client.terminal().await["error"], "Request cancelled");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(ask(&mut client, "say well").await.pop(), Some(answer("well")));
}

/// Every form of a module that is taken, with what it answers to `x`.
const SHAPES: &[(&str, &str, &str)] = &[
    (
        "default.mjs",
        "export default { run: async ({ userPrompt }) => ({ type: 'text', text: `d ${userPrompt}` }) };",
        "d x",
    ),
    (
        "default.js",
        "export default { run: async () => ({ type: 'text', text: 'a module by its syntax' }) };",
        "a module by its syntax",
    ),
    ("named.mjs", "export const handler = { run: async () => ({ type: 'text', text: 'named' }) };", "named"),
    (
        "both.mjs",
        "export const handler = { run: async () => 'named' }; export default { run: async () => 'default' };",
        "default",
    ),
    (
        "passed-over.mjs",
        "export default { version: 1 }; export const handler = { run: async () => ({ type: 'text', text: 'named' }) };",
        "named",
    ),
    ("function.mjs", "export default async ({ userPrompt }) => ({ type: 'text', text: `f ${userPrompt}` });", "f x"),
    ("plain.mjs", "export default { run: () => 'neither promise nor object' };", "neither promise nor object"),
    (
        "class.mjs",
        "class A { #n = 'its this'; async run() { return { type: 'text', text: this.#n }; } } export default new A();",
        "its this",
    ),
    (
        "common.cjs",
        "module.exports = { handler: { run: async () => ({ type: 'text', text: require('node:path').sep }) } };",
        "/",
    ),
    ("common-default.cjs", "module.exports = { run: async () => ({ type: 'text', text: 'common' }) };", "common"),
    (
        "compiled.cjs",
        "Object.defineProperty(exports, '__esModule', { value: true }); exports.default = { run: async () => 'tsc' };",
        "tsc",
    ),
    (
        "slow to load.mjs",
        "await new Promise((r) => setTimeout(r, 500)); export default { run: async () => 'loaded' };",
        "loaded",
    ),
    ("plain.py", "def run(invocation, sender):\n    return f'p {invocation.user_prompt}'\n", "p x"),
    (
        "coroutine.py",
        "async def run(invocation, sender):\n    return {'type': 'text', 'text': f'a {invocation.user_prompt}'}\n",
        "a x",
    ),
    (
        "object.py",
        "class A:\n    name = 'its self'\n    async def run(self, invocation, sender):\n        return self.name\nhandler = A()\n",
        "its self",
    ),
    ("function.py", "def handler(invocation, sender):\n    return 'function'\n", "function"),
    (
        "script.py",
        "def run(i, s):\n    return __name__\nif __name__ == '__main__':\n    raise SystemExit(3)\n",
        "script",
    ),
    ("sibling.py", "import plain\ndef run(i, s):\n    return 'sibling of ' + plain.run(i, s)\n", "sibling of p x"),
];

#[tokio::test]
async fn every_form_of_a_module() {
    let folder = tempfile::tempdir().unwrap();
    for (name, source, _) in SHAPES {
        std::fs::write(folder.path().join(name), source).unwrap();
    }
    for (name, _, expected) in SHAPES {
        let path = folder.path().join(name).display().to_string();
        let server = Server::start(&["--handler", &path]);
        // Sent at once: a turn waits for a module that is still loading.
        let mut client = server.connect("/").await;
        assert_eq!(ask(&mut client, "x").await, [answer(expected)], "{name}: {}", server.log());
    }
}

/// Modules that cannot be loaded, with what the server says of them.
const BROKEN: &[(&str, &str, &str)] = &[
    ("syntax.mjs", "export default { run( };", "Error: SyntaxError: Unexpected token"),
    ("throws.mjs", "throw new Error('no key in the environment');", "Error: no key in the environment"),
    (
        "missing.mjs",
        "import 'not-installed'; export default { run() {} };",
        "Error: Cannot find package 'not-installed'",
    ),
    ("nothing.mjs", "export const agent = { run() {} };", "MUST EXPORT"),
    ("norun.mjs", "export default { walk() {} };", "MUST EXPORT"),
    ("exits.mjs", "process.exit(9);", "Error: the handler exited with code 9 before it was ready"),
    ("rejects.mjs", "Promise.reject(new Error('stray')); await new Promise(() => {});", "Error: stray"),
    ("syntax.py", "def run(invocation, sender)\n    return 1\n", "Error: SyntaxError: "),
    (
        "throws.py",
        "raise RuntimeError('no key in the environment')\n",
        "Error: RuntimeError: no key in the environment",
    ),
    ("missing.py", "import not_installed\n", "Error: ModuleNotFoundError: No module named 'not_installed'"),
    ("nothing.py", "agent = 1\n", "MUST EXPORT"),
    ("norun.py", "handler = 1\n", "MUST EXPORT"),
    ("exits.py", "import os\nos._exit(9)\n", "Error: the handler exited with code 9 before it was ready"),
];

/// One sentence, the handler's own stack where it has one, exit code 1.
#[tokio::test]
async fn a_module_that_cannot_be_loaded_ends_the_server() {
    let folder = tempfile::tempdir().unwrap();
    for (name, source, expected) in BROKEN {
        let path = folder.path().join(name);
        std::fs::write(&path, source).unwrap();
        let path = path.display().to_string();
        let expected = if *expected == "MUST EXPORT" {
            format!("Error: module at {path} must export an AgentHandler (as default or named \"handler\")")
        } else {
            (*expected).to_owned()
        };
        let finished = Program::start(server_command(&["--handler", &path, "--port", "0"])).end(PATIENCE).await;
        assert_eq!(finished.code, Some(1), "{name}: {finished}");
        let line = finished.stderr.lines().find(|line| line.starts_with(&expected));
        assert!(line.is_some(), "{name}: no line starts with {expected:?}: {finished}");
        if name.starts_with("throws") {
            assert!(finished.stderr.contains(&path), "{name}: its stack is not there: {finished}");
        }
        assert!(finished.took < Duration::from_secs(20), "{name}: {finished}");
    }
}

#[tokio::test]
async fn an_interpreter_that_is_missing_ends_the_server() {
    for (module, expected) in [
        (JAVASCRIPT, "Error: running a JavaScript handler needs Node.js"),
        (PYTHON, "Error: running a Python handler needs python3"),
    ] {
        let module = repository(module).display().to_string();
        let mut command = server_command(&["--handler", &module, "--port", "0"]);
        command.env("PATH", "/nowhere");
        let finished = Program::start(command).end(PATIENCE).await;
        assert_eq!((finished.code, finished.stderr.trim_end()), (Some(1), expected));
    }
}

/// TypeScript runs where node can strip types; elsewhere the server ends with a sentence that says what to install.
#[tokio::test]
async fn a_handler_in_typescript() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("typed.ts");
    let source = "type Said = { userPrompt: string };
        export default { async run(invocation: Said): Promise<object> {
            return { type: 'text', text: `typed ${invocation.userPrompt}` };
        } };";
    std::fs::write(&file, source).unwrap();
    let handler = file.display().to_string();
    let strips =
        std::process::Command::new("node").args(["-p", "Boolean(process.features.typescript)"]).output().unwrap();
    if strips.stdout.starts_with(b"true") {
        let server = Server::start(&["--handler", &handler]);
        let answer = server.advance(&serde_json::json!({"input": "hello", "state": null})).await;
        assert_eq!(answer.json()["text"], "typed hello");
    } else {
        let end = crate::support::turnhost(&["run", "--handler", &handler, "hello"]).await;
        assert_eq!(end.code, Some(1));
        assert!(end.stderr.contains("a TypeScript handler needs Node.js 22.18 or later"), "{}", end.stderr);
        assert!(end.stderr.contains("compile the handler to .mjs"), "{}", end.stderr);
    }
}

/// With `--validate-output` a handler's answer has to fit; without, it is the handler's own business.
#[tokio::test]
async fn an_answer_that_does_not_fit_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("answer.py");
    let source = "import json\nasync def run(i, s):\n    if i.user_prompt == 'text':\n        return 'words'\n    \
        return {'type': 'structured_output', 'structured_output': json.loads(i.user_prompt)}\n";
    std::fs::write(&file, source).unwrap();
    let handler = file.display().to_string();
    let schema = serde_json::json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
    let format = serde_json::json!({"type": "json_schema", "schema": schema}).to_string();
    let format = serde_json::json!({"output_format_json_schema_str": format});
    let ends = async |args: &[&str], prompt: &str| {
        let server = Server::start(&[&["--handler", &handler], args].concat());
        let mut client = server.connect("/").await;
        client.query_with(prompt, format.clone()).await;
        client.until_terminal().await.pop().unwrap()
    };
    let strict = ["--validate-output"];
    let fits = ends(&strict, r#"{"age":7}"#).await;
    assert_eq!(fits["data"]["structured_output"], serde_json::json!({"age": 7}));
    let wrong = ends(&strict, r#"{"age":"seven"}"#).await;
    let text = wrong["error"].as_str().unwrap();
    assert!(text.starts_with("the handler's answer does not fit the schema: /age: "), "{text}");
    assert_eq!(wrong["metadata"]["code"], "handler_protocol");
    let words = ends(&strict, "text").await;
    assert_eq!(words["error"], "the handler's answer does not fit the schema: it is a text");
    let free = ends(&[], r#"{"age":"seven"}"#).await;
    assert_eq!(free["data"]["structured_output"], serde_json::json!({"age": "seven"}));
}
