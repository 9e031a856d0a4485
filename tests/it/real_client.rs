//! The real client of the RuntimeUse protocol, `runtimeuse-client` 0.15.1 from PyPI, against the built server.
//!
//! The programs in `clients/` use nothing but the client's public interface and print what each of their steps came to;
//! what that must be stands here.

pub use crate::support::clients::{play, ws};
use crate::support::{PATIENCE, Server, repository};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub fn text(text: &str) -> Value {
    json!({"text": text, "metadata": {}})
}

fn structured(value: &Value) -> Value {
    json!({"structured_output": value, "metadata": {}})
}

fn cancelled() -> Value {
    json!({"raised": "CancelledException", "shown": "Query was cancelled"})
}

/// What the client shows of an error: its text, its metadata, and both as one string.
fn failed(error: &str, metadata: &Value) -> Value {
    let shown =
        if metadata == &json!({}) { error.to_owned() } else { format!("{error}\nmetadata: {}", python_json(metadata)) };
    json!({"raised": "AgentRuntimeError", "error": error, "metadata": metadata, "shown": shown})
}

/// JSON as Python writes it: a blank after every colon and comma; our keys are sorted already.
fn python_json(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{}: {}", json!(name), python_json(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(python_json).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The metadata of an error that brings none of its own.
fn plain_metadata() -> Value {
    json!({"error_name": "Error", "code": "handler_failed", "retryable": false})
}

pub fn seconds(results: &Value, step: &str) -> f64 {
    results["seconds"][step].as_f64().unwrap_or_else(|| panic!("no time of {step:?}: {results}"))
}

/// A busy machine may hold up one step. It does not hold up all of them.
#[track_caller]
fn assert_quick(results: &Value, steps: &[&str]) {
    let quickest = steps.iter().map(|step| seconds(results, step)).fold(f64::INFINITY, f64::min);
    assert!(quickest < 0.45, "none of {steps:?} was quick: {}", results["seconds"]);
}

/// The client logs a message that it does not understand as an error. A turn that goes well leaves nothing there.
#[track_caller]
fn assert_quiet(results: &Value) {
    assert_eq!(results["client_log"], json!([]));
}

#[tokio::test]
async fn queries_of_every_kind() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("basics.py", &[ws(&server)]).await;
    assert_eq!(results["text"], text("hello"));
    assert_eq!(results["unicode"], text("Grüße 👋\n\tline \"two\" \\ end\u{2028}"));
    assert_eq!(results["empty"], text(""));
    assert_eq!(results["structured"], structured(&json!({"answer": 42, "list": ["ä", null]})));
    assert_eq!(results["error"], failed("disk is full", &plain_metadata()));
    assert_eq!(results["after the error"], text("still there"));
    // Only the error is worth a line to the client.
    assert_eq!(results["client_log"].as_array().unwrap().len(), 1, "{}", results["client_log"]);
}

#[tokio::test]
async fn everything_in_a_request_reaches_the_handler() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("basics.py", &[ws(&server)]).await;
    let shown = &results["shown"]["structured_output"];
    assert_eq!(shown["system_prompt"], "You are helpful.");
    assert_eq!(shown["model"], "gpt-test");
    assert_eq!(shown["env"], json!({"REGION": "eu", "EMPTY": ""}));
    assert_eq!(shown["output_format"], json!({"type": "json_schema", "schema": {"type": "object", "required": ["a"]}}));
    assert_eq!((&shown["state"], &shown["attempt"]), (&Value::Null, &json!(1)));
}

/// The client waits until the server has closed the connection; so must the server at once.
#[tokio::test]
async fn a_one_shot_call_costs_no_more_than_its_query() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("basics.py", &[ws(&server)]).await;
    assert_quick(&results, &["unicode", "structured", "after the error"]);
}

#[tokio::test]
async fn a_thousand_messages_in_order() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("stream.py", &[ws(&server), "@stream 1000".into()]).await;
    assert_eq!(results["stream"], text("streamed 1000"));
    let expected: Vec<String> = (1..=1000).map(|n| format!("message {n}")).collect();
    assert_eq!(results["messages"], json!(expected));
    assert_quiet(&results);
    println!("1,000 messages: {:.3} s", seconds(&results, "stream"));
}

#[tokio::test]
async fn an_aborted_query_is_cancelled_and_the_next_is_right() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("abort.py", &[ws(&server), "@sleep 60000".into()]).await;
    assert_aborts(&results);
    // It is aborted after 0.3 s, and heeds that at once.
    assert_quick(&results, &["one-shot", "in a session", "again"]);
}

/// A handler that ignores its cancel holds its session for the grace and no longer.
#[tokio::test]
async fn a_deaf_handler_is_answered_for() {
    let server = Server::start(&["--agent", "echo", "--stop-grace", "500ms"]);
    let results = play("abort.py", &[ws(&server), "@deaf 60000".into()]).await;
    assert_aborts(&results);
    // The one-shot query may be aborted while it still connects: then it never runs, and there is no grace to wait for.
    for step in ["in a session", "again"] {
        let took = seconds(&results, step);
        assert!((0.75..20.0).contains(&took), "{step}: {}", results["seconds"]);
    }
    assert!(seconds(&results, "one-shot") < 20.0, "{}", results["seconds"]);
}

#[track_caller]
fn assert_aborts(results: &Value) {
    for step in ["one-shot", "in a session", "again"] {
        assert_eq!(results[step], cancelled(), "{step}");
    }
    assert_eq!(results["after the one-shot"], text("next"));
    assert_eq!(results["after it in the session"], text("next in the session"));
    assert_eq!(results["after again"], text("last"));
}

/// The client's own `timeout` sends nothing. A one-shot call hangs up, which cancels its query, and the next one is
/// right, as is every new session. Within a session the client, which knows no ids, is one answer behind from then on:
/// the peer's behaviour, which N6 keeps for such clients.
#[tokio::test]
async fn a_timeout_of_the_client() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("timeout.py", &[ws(&server)]).await;
    let timed_out = json!({"raised": "TimeoutError", "shown": ""});
    assert_eq!(results["one-shot"], timed_out);
    assert_eq!(results["after the one-shot"], text("one-shot again"));
    assert_eq!(results["in a session"], timed_out);
    let refused = failed("Received request while another is in flight!", &json!({"error_name": "Error"}));
    assert_eq!(results["next in the session"], refused);
    assert_eq!(results["the one after"], text("slept 6000 ms"));
    assert_eq!(results["in a new session"], text("a new session"));
    // Nobody waits for the one-shot query's minute of sleep any more.
    let until = Instant::now() + PATIENCE;
    while server.get("/health").await.json()["turns"] != 0 {
        assert!(Instant::now() < until, "an abandoned query goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_session_of_mixed_queries() {
    let server = Server::start(&["--agent", "echo"]);
    let rounds = 5;
    let results = play("mixed.py", &[ws(&server), rounds.to_string()]).await;
    for n in 0..rounds {
        assert_eq!(results[format!("text {n}")], text(&format!("prompt {n}")));
        assert_eq!(results[format!("failing {n}")], failed(&format!("reason {n}"), &plain_metadata()));
        assert_eq!(results[format!("structured {n}")], structured(&json!({"n": n})));
        assert_eq!(results[format!("aborted {n}")], cancelled());
        assert_eq!(results[format!("speaking {n}")], text(&format!("message {n}")));
    }
    let said: Vec<Value> = (0..rounds).map(|n| json!([format!("message {n}")])).collect();
    assert_eq!(results["said"], json!(said));
}

#[tokio::test]
async fn a_million_bytes() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("large.py", &[ws(&server)]).await;
    for step in ["plain", "three bytes each", "escaped"] {
        assert_eq!(results[step], "as it was asked", "{step}");
    }
    assert_eq!(results["message"], text("streamed 3"));
    assert_eq!(results["lengths"], json!([1_000_000, 1_000_000, 1_000_000]));
    assert_quiet(&results);
}

#[tokio::test]
async fn two_hundred_connections_at_once() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("many.py", &[ws(&server), "200".into()]).await;
    assert_eq!((&results["answers"], &results["wrong"]), (&json!(200), &json!([])));
    assert_quiet(&results);
    println!("200 connections: {:.3} s", seconds(&results, "in all"));
    // They are gone, and nothing of them is left.
    let health = server.get("/health").await.json();
    assert_eq!((&health["turns"], &health["busy"]), (&json!(0), &json!(false)), "{health}");
}

#[tokio::test]
async fn secrets_do_not_come_back() {
    let (secret, own) = ("s3cr3t-of-the-request", "key-of-the-server-itself");
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.env("UPSTREAM_API_KEY", own);
    });
    let results = play("redacted.py", &[&ws(&server), secret, own]).await;
    assert_eq!(results["text"], text("before [REDACTED] after"));
    assert_eq!(results["message"], text("say [REDACTED]"));
    assert_eq!(results["messages"], json!([["say [REDACTED]"]]));
    assert_eq!(results["structured"], structured(&json!({"key": "[REDACTED]", "[REDACTED]": [1]})));
    assert_eq!(results["error"], failed("cannot log in with [REDACTED]", &plain_metadata()));
    assert_eq!(results["the server's own"], text("key [REDACTED]"));
    assert_eq!(results["the next request's list is its own"], text(&format!("plain {secret}")));
    let log = server.log();
    assert!(log.contains("cannot log in with [REDACTED]"), "{log}");
    assert!(!log.contains(secret) && !log.contains(own), "{log}");
}

#[tokio::test]
async fn heartbeats_reset_the_clients_idle_timeout() {
    let server = Server::start(&["--agent", "echo", "--heartbeat", "200ms"]);
    let results = play("silence.py", &[ws(&server)]).await;
    for step in ["one-shot", "in a session"] {
        assert_eq!(results[step], text("slept 7000 ms"), "{step}");
    }
    assert_quiet(&results);
}

/// The counter-proof: with a heartbeat after 15 s only, the same query is too silent for the client.
#[tokio::test]
async fn without_heartbeats_the_client_gives_up() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("silence.py", &[ws(&server)]).await;
    for step in ["one-shot", "in a session"] {
        let error = &results[step];
        assert_eq!(error["error"], "No message received from agent runtime for 3.0s", "{step}");
        assert_eq!(error["metadata"]["timeout_type"], "idle_timeout", "{step}");
    }
}

#[tokio::test]
async fn a_token_in_the_url() {
    const TOKEN: &str = "t0ken-of-this-server";
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.env("TURNHOST_TOKEN", TOKEN);
    });
    let at = format!("127.0.0.1:{}", server.port);
    let urls = [
        format!("ws://x:{TOKEN}@{at}"),
        format!("ws://{at}/?token={TOKEN}"),
        format!("ws://{at}/any/path?a=b&token={TOKEN}"),
        format!("ws://{at}"),
        format!("ws://x:wrong@{at}"),
        format!("ws://{at}/?token=wrong"),
    ];
    let results = play("urls.py", &urls).await;
    for good in ["0", "1", "2"] {
        assert_eq!(results[good], text("let me in"), "{good}");
    }
    for bad in ["3", "4", "5"] {
        let shown = results[bad]["shown"].as_str().unwrap_or_default();
        assert!(shown.contains("401"), "{bad}: {}", results[bad]);
    }
    let (log, results) = (server.log(), results.to_string());
    assert!(!log.contains(TOKEN) && !results.contains(TOKEN), "{log}\n{results}");
}

#[tokio::test]
async fn the_end_of_a_session() {
    let server = Server::start(&["--agent", "echo"]);
    let results = play("leaving.py", &[ws(&server)]).await;
    for query in ["query 0", "query 2"] {
        assert_eq!(results[query], text("hello"));
    }
    assert_quick(&results, &["leaving 0", "leaving 2"]);
    assert_quick(&results, &["leaving 1", "leaving 3"]);
    assert_quiet(&results);
}

/// State belongs to a named session, whatever connection it is reached by.
#[tokio::test]
async fn a_named_session_keeps_its_state() {
    let server = Server::start(&["--agent", "echo"]);
    let url = format!("{}/?session=named", ws(&server));
    let first = play("prompts.py", &[url.as_str(), r#"@state {"v":1,"turn":7}"#]).await;
    assert_eq!(first["0"]["text"], "state set");
    let second = play("prompts.py", &[url.as_str(), "@show"]).await;
    assert_eq!(second["0"]["structured_output"]["state"], json!({"v": 1, "turn": 7}));
    let elsewhere = play("prompts.py", &[ws(&server).as_str(), "@show"]).await;
    assert_eq!(elsewhere["0"]["structured_output"]["state"], Value::Null);
}

/// The example handlers, one in each of the three ways a handler can be written.
#[tokio::test]
async fn the_example_handlers() {
    for name in ["echo.mjs", "echo.py", "echo.sh"] {
        let handler = repository("handlers").join(name).display().to_string();
        let server = Server::start(&["--handler", &handler]);
        let prompts = ["hello", "Grüße 👋\n\t\"two\" \\ lines", "{\"json\": true}", ""];
        let results = play("prompts.py", &[&[ws(&server).as_str()], &prompts[..]].concat()).await;
        for (n, prompt) in prompts.iter().enumerate() {
            let expected = json!({"text": prompt, "metadata": {}, "messages": [[format!("You said: {prompt}")]]});
            assert_eq!(results[n.to_string()], expected, "{name}");
        }
        assert_quiet(&results);
        // They count the turns of a session in its state.
        let answer = server.advance(&json!({"input": "count", "state": {"turns": 4}})).await.json();
        assert_eq!(answer, json!({"text": "count", "state": {"turns": 5}}), "{name}");
    }
}

/// What the client shows of an error that brings metadata of its own, and of a process that died.
#[tokio::test]
async fn errors_of_a_module() {
    for (module, location) in [("probe.mjs", "probe.mjs:"), ("probe.py", "probe.py\"")] {
        let handler = repository("tests/it/modules").join(module).display().to_string();
        let server = Server::start(&["--handler", &handler]);
        let prompts = ["throws quota", "reportsthenreturns", "exit 7", "say well"];
        let results = play("prompts.py", &[&[ws(&server).as_str()], &prompts[..]].concat()).await;
        let thrown = &results["0"];
        assert_eq!((&thrown["raised"], &thrown["error"]), (&json!("AgentRuntimeError"), &json!("disk is full")));
        let metadata = &thrown["metadata"];
        assert_eq!((&metadata["error_name"], &metadata["tenant"]), (&json!("QuotaError"), &json!("t1")), "{module}");
        assert!(metadata["stack"].as_str().unwrap().contains(location), "{module}: {metadata}");
        let result = json!({"data": {"type": "text", "text": "a result all the same"}, "metadata": {"m": 1}});
        assert_eq!(results["1"]["metadata"], json!({"at": 1, "result": result}), "{module}");
        assert_eq!(results["2"]["error"], "Handler process exited with code 7", "{module}");
        assert_eq!(results["2"]["messages"], json!([["before the end"]]), "{module}");
        assert_eq!(results["3"]["text"], "well", "{module}");
    }
}
