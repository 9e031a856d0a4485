//! `/metrics`: the page is what Prometheus reads, its numbers are those of what happened, its labels tell nothing of users.

use crate::support::stub::{Stub, script};
use crate::support::{PATIENCE, Server, read, repository};
use reqwest::Method;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// One line of the page: its name, its labels in order, its value.
type Series = (String, Vec<(String, String)>);

/// A page, read by the rules of the text format 0.0.4; whoever breaks one ends the test.
struct Page {
    types: BTreeMap<String, String>,
    values: BTreeMap<Series, f64>,
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `name{a="b",c="d"} 1.5`
fn series(line: &str) -> (Series, f64) {
    let (left, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = match value {
        "+Inf" => f64::INFINITY,
        value => value.parse().unwrap_or_else(|_| panic!("no number: {line}")),
    };
    let Some((name, rest)) = left.split_once('{') else {
        assert!(is_name(left), "{line}");
        return ((left.to_owned(), Vec::new()), value);
    };
    assert!(is_name(name), "{line}");
    let mut rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("labels that do not end: {line}"));
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert!(is_name(label), "{line}");
        let (mut text, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            let (at, c) = chars.next().unwrap_or_else(|| panic!("a label that does not end: {line}"));
            match c {
                '"' => break at,
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some(c @ ('\\' | '"')) => text.push(c),
                    other => panic!("escape {other:?}: {line}"),
                },
                c => text.push(c),
            }
        };
        labels.push((label.to_owned(), text));
        rest = &after[end + 1..];
        if let Some(more) = rest.strip_prefix(',') {
            rest = more;
        } else {
            assert!(rest.is_empty(), "{line}");
        }
    }
    labels.sort();
    ((name.to_owned(), labels), value)
}

impl Page {
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends");
        let (mut types, mut helps, mut values) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let mut family = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').expect("a help text");
                assert!(!text.is_empty() && helps.insert(name.to_owned()), "help of {name}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert!(helps.contains(name), "the help of {name} comes first");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
                name.clone_into(&mut family);
            } else {
                let (key, value) = series(line);
                let part = key.0.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
                let may = if types[&family] == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
                assert!(may.contains(&part), "{line} is not of {family}");
                assert!(types[&family] == "gauge" || value >= 0.0, "{line}");
                assert!(values.insert(key, value).is_none(), "{line} comes twice");
            }
        }
        let page = Self { types, values };
        page.check_histograms();
        page
    }

    /// Buckets grow, and the last is the count.
    fn check_histograms(&self) {
        let mut last: BTreeMap<Series, (f64, f64)> = BTreeMap::new();
        let mut buckets: Vec<(Series, f64, f64)> = Vec::new();
        for ((name, labels), count) in &self.values {
            let Some(family) = name.strip_suffix("_bucket") else { continue };
            let (bound, rest): (Vec<_>, Vec<_>) = labels.iter().cloned().partition(|(label, _)| label == "le");
            let bound = &bound[0].1;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            buckets.push(((family.to_owned(), rest), bound, *count));
        }
        buckets.sort_by(|a, b| (&a.0, a.1).partial_cmp(&(&b.0, b.1)).unwrap());
        for (key, bound, count) in buckets {
            let before = last.insert(key.clone(), (bound, count));
            assert!(before.is_none_or(|(_, before)| before <= count), "{key:?} shrinks at {bound}");
        }
        assert!(!last.is_empty(), "no histogram");
        for ((family, labels), (bound, count)) in last {
            assert!(bound.is_infinite(), "{family} has no last bucket");
            assert_eq!(self.values[&(format!("{family}_count"), labels)].to_bits(), count.to_bits(), "{family}");
        }
    }

    /// A series; one that is not there yet is 0.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let family = ["_count", "_sum"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(
            labels.len() + usize::from(self.types.contains_key(name) || self.types.contains_key(family)) > 0,
            "no metric {name}"
        );
        let mut labels: Vec<_> =
            labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        labels.sort();
        self.values.get(&(name.to_owned(), labels)).copied().unwrap_or_default()
    }

    fn labels(&self) -> BTreeSet<&str> {
        self.values.keys().flat_map(|(_, labels)| labels.iter().map(|(_, value)| value.as_str())).collect()
    }
}

async fn page(server: &Server) -> Page {
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Page::parse(&answer.body)
}

async fn turn(server: &Server, session: &str, body: serde_json::Value) -> serde_json::Value {
    read(server.request(Method::POST, &format!("/v1/sessions/{session}/turns?wait=30")).body(body.to_string()))
        .await
        .json()
}

fn is(value: f64, expected: f64) -> bool {
    (value - expected).abs() < 1e-9
}

#[tokio::test]
async fn the_numbers_are_those_of_the_turns() {
    let stub = Stub::new();
    let program = stub.program();
    let args = ["--handler", program.to_str().unwrap(), "--queue-limit", "1", "--stop-grace", "200ms"];
    let server = Server::start_with(&args, |command| stub.environment(command));
    let usage = |cost: &str| {
        let tokens = r#""input_tokens":100,"output_tokens":20,"cached_tokens":30,"reasoning_tokens":5"#;
        format!(r#"raw {{"type":"usage","id":"{{{{id}}}}",{tokens},"cost_usd":{cost}}}"#)
    };
    let tool = [
        r#"raw {"type":"tool_use","id":"{{id}}","call_id":"t1","name":"look","input":{}}"#,
        r#"raw {"type":"tool_result","id":"{{id}}","call_id":"t1","output":"seen"}"#,
    ];
    // Answered twice, failed, a process that ends, cancelled, timed out: one of each way.
    let first = [&usage("0.5"), tool[0], tool[1], &usage("0.25"), "delay 0.02"].map(str::to_owned);
    let first = script(&first.iter().map(String::as_str).collect::<Vec<_>>());
    let said = turn(&server, "a", json!({"prompt": first})).await;
    assert_eq!(said["outcome"], "answered", "{said}");
    let answer = server.advance(&json!({"input": "again", "session_id": "d", "message_id": "m1"})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(
        server.advance(&json!({"input": "again", "session_id": "d", "message_id": "m1"})).await.body,
        answer.body
    );
    assert_eq!(turn(&server, "b", json!({"prompt": script(&["fail no"])})).await["outcome"], "failed");
    assert_eq!(turn(&server, "b", json!({"prompt": script(&["exit 3"])})).await["outcome"], "failed");
    let begun = read(
        server
            .request(Method::POST, "/v1/sessions/c/turns")
            .body(json!({"prompt": script(&["mark runs", "delay 600"])}).to_string()),
    );
    let begun = begun.await.json();
    stub.marked("runs").await;
    let now = page(&server).await;
    assert!(is(now.value("turnhost_turns_running", &[]), 1.0));
    assert!(now.value("turnhost_child_processes", &[]) >= 1.0);
    // One waits, the next is refused, and the one that waits is cancelled before it begins.
    let waits = read(server.request(Method::POST, "/v1/sessions/c/turns").body(r#"{"prompt":"next"}"#)).await.json();
    let refused = read(server.request(Method::POST, "/v1/sessions/c/turns").body(r#"{"prompt":"more"}"#)).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(is(page(&server).await.value("turnhost_turns_waiting", &[]), 1.0));
    for id in [&waits["turn"], &begun["turn"]] {
        read(server.request(Method::DELETE, &format!("/v1/turns/{}", id.as_str().unwrap()))).await;
    }
    server.idle().await;

    let now = page(&server).await;
    let ended = |protocol, outcome| {
        let labels = [("agent", "stub-handler"), ("protocol", protocol), ("outcome", outcome)];
        now.value("turnhost_turns_total", &labels)
    };
    let found = [
        ended("v1", "answered"),
        ended("dari", "answered"),
        ended("v1", "failed"),
        ended("v1", "cancelled"),
        ended("v1", "timed_out"),
        ended("v1", "interrupted"),
    ];
    assert!(found.iter().zip([1.0, 1.0, 2.0, 2.0, 0.0, 0.0]).all(|(a, b)| is(*a, b)), "{found:?}");
    let agent = [("agent", "stub-handler")];
    let failed = |code| now.value("turnhost_turn_failures_total", &[("agent", "stub-handler"), ("code", code)]);
    assert!(is(failed("handler_failed"), 1.0) && is(failed("handler_exited"), 1.0), "{:?}", now.values);
    // The one that never began took no time.
    assert!(is(now.value("turnhost_turn_duration_seconds_count", &agent), 5.0));
    assert!(now.value("turnhost_turn_duration_seconds_sum", &agent) >= 0.02);
    assert!(is(now.value("turnhost_turn_first_event_seconds_count", &agent), 1.0), "{:?}", now.values);
    assert!(is(now.value("turnhost_turn_queue_seconds_count", &agent), 5.0));
    for (kind, count) in [("input", 100.0), ("output", 20.0), ("cached", 30.0), ("reasoning", 5.0)] {
        let labels = [("agent", "stub-handler"), ("kind", kind)];
        assert!(
            is(now.value("turnhost_tokens_total", &labels), count),
            "{kind}: a later usage replaces an earlier one"
        );
    }
    assert!(is(now.value("turnhost_cost_dollars_total", &agent), 0.25));
    assert!(is(now.value("turnhost_tool_calls_total", &agent), 1.0));
    assert!(is(now.value("turnhost_events_total", &[("kind", "usage")]), 2.0));
    assert!(is(now.value("turnhost_events_total", &[("kind", "tool_result")]), 1.0));
    assert!(is(now.value("turnhost_turn_repeats_total", &[]), 1.0));
    assert!(is(now.value("turnhost_turns_refused_total", &[("code", "queue_full")]), 1.0));
    assert!(is(now.value("turnhost_handler_restarts_total", &[]), 1.0));
    assert!(now.value("turnhost_child_processes_started_total", &[]) >= 2.0);
    assert!(is(now.value("turnhost_turns_running", &[]), 0.0) && is(now.value("turnhost_turns_waiting", &[]), 0.0));
    assert!(now.value("turnhost_http_responses_total", &[("code", "200")]) >= 5.0);
    assert!(is(now.value("turnhost_http_responses_total", &[("code", "503")]), 1.0));
}

#[tokio::test]
async fn a_limit_and_a_pause_have_their_own_outcome() {
    let server = Server::start(&["--agent", "echo", "--idle-timeout", "100ms"]);
    assert_eq!(turn(&server, "a", json!({"prompt": "@sleep 60000"})).await["outcome"], "timed_out");
    let mut client = server.connect("/").await;
    client.query("@sleep 60000").await;
    assert_eq!(client.terminal().await["message_type"], "error_message");
    let now = page(&server).await;
    for protocol in ["v1", "runtimeuse"] {
        let labels = [("agent", "echo"), ("protocol", protocol), ("outcome", "timed_out")];
        assert!(is(now.value("turnhost_turns_total", &labels), 1.0), "{protocol}");
    }
    let slow = Server::start(&["--agent", "echo"]);
    let body = json!({"prompt": "@sleep 600000"}).to_string();
    assert_eq!(read(slow.request(Method::POST, "/v1/sessions/s/turns").body(body)).await.status, 202);
    slow.busy().await;
    read(slow.request(Method::POST, "/v1/quiesce?wait=0&interrupt=true")).await;
    let labels = [("agent", "echo"), ("protocol", "v1"), ("outcome", "interrupted")];
    assert!(is(page(&slow).await.value("turnhost_turns_total", &labels), 1.0));
}

#[tokio::test]
async fn sockets_bytes_and_the_process() {
    let server = Server::start(&["--agent", "echo"]);
    let before = page(&server).await;
    let open = |page: &Page| page.value("turnhost_websocket_connections", &[("protocol", "runtimeuse")]);
    let bytes = |page: &Page, way: &str, transport: &str| {
        page.value(&format!("turnhost_{way}_bytes_total"), &[("transport", transport)])
    };
    let mut client = server.connect("/").await;
    client.query(&format!("@text {}", "x".repeat(10_000))).await;
    client.terminal().await;
    let during = page(&server).await;
    assert!(is(open(&during), 1.0));
    assert!(bytes(&during, "received", "websocket") >= 10_000.0);
    assert!(bytes(&during, "sent", "websocket") >= 20_000.0, "the message and the answer");
    assert!(bytes(&during, "sent", "websocket") < 40_000.0);
    drop(client);
    let deadline = Instant::now() + PATIENCE;
    while !is(open(&page(&server).await), 0.0) {
        assert!(Instant::now() < deadline, "the socket is gone");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (sent, received) = (bytes(&during, "sent", "http"), bytes(&during, "received", "http"));
    let answer = server.advance(&json!({"input": "y".repeat(5000)})).await;
    let after = page(&server).await;
    assert!(bytes(&after, "received", "http") - received >= 5000.0);
    assert!(bytes(&after, "sent", "http") - sent >= 5000.0, "{}", answer.body);

    for name in ["process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds", "process_threads"]
    {
        assert!(before.value(name, &[]) > 0.0, "{name}");
    }
    assert!(before.value("process_max_fds", &[]) >= before.value("process_open_fds", &[]));
    assert!(after.value("process_cpu_seconds_total", &[]) >= before.value("process_cpu_seconds_total", &[]));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let up = now - before.value("process_start_time_seconds", &[]);
    assert!((-2.0..600.0).contains(&up), "{up}");
    assert!(is(before.value("turnhost_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0));
}

#[tokio::test]
async fn the_store_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&["--agent", "echo", "--data-dir", folder.path().to_str().unwrap()]);
    assert_eq!(server.advance(&json!({"input": "z".repeat(3000), "session_id": "s"})).await.status, 200);
    let now = page(&server).await;
    assert!(now.value("turnhost_store_commits_total", &[]) >= 1.0);
    assert!(now.value("turnhost_store_commit_seconds_count", &[]) >= 1.0);
    assert!(now.value("turnhost_store_written_bytes_total", &[]) >= 3000.0);
    assert!(is(now.value("turnhost_store_pending_bytes", &[]), 0.0), "the answer came after its commit");
    for name in ["turnhost_store_degraded", "turnhost_store_failures_total", "turnhost_sessions_without_store"] {
        assert!(is(now.value(name, &[]), 0.0), "{name}");
    }
    assert!(is(now.value("turnhost_sessions_loaded", &[]), 1.0));
}

/// Whatever callers send, labels are words of ours and the names of configured agents.
#[tokio::test]
async fn labels_tell_nothing_of_users() {
    let server = Server::start_with(&["--agent", "echo", "--agent-def", "fast=--agent echo"], |command| {
        command.env("OPENAI_API_KEY", "sk-canary-key-000111");
    });
    let canary = "canary-4711";
    let body = json!({"input": format!("{canary} prompt"), "session_id": format!("{canary}-session"),
        "message_id": format!("{canary}-message"), "system_prompt": canary, "model": canary});
    server.advance(&body).await;
    turn(&server, &format!("{canary}-v1"), json!({"prompt": format!("@fail {canary}"), "model": canary})).await;
    server.get(&format!("/{canary}/path?{canary}")).await;
    let mut client = server.connect(&format!("/?session={canary}&agent=fast")).await;
    client.query_with(canary, json!({"source_id": canary, "secrets_to_redact": [canary]})).await;
    client.terminal().await;
    let answer = server.get("/metrics").await;
    assert!(!answer.body.contains("canary"), "{}", answer.body);
    let now = Page::parse(&answer.body);
    let labels = [("agent", "fast"), ("protocol", "runtimeuse"), ("outcome", "answered")];
    assert!(is(now.value("turnhost_turns_total", &labels), 1.0));
    for label in now.labels() {
        let is_word = label.chars().all(|c| c.is_ascii_lowercase() || c == '_') && label.len() <= 20;
        let is_number = label == "+Inf" || label.parse::<f64>().is_ok();
        assert!(is_word || is_number || label == "v1" || label == env!("CARGO_PKG_VERSION"), "{label}");
    }
}

#[tokio::test]
async fn the_page_has_an_owner_and_a_gate() {
    let server = Server::start_with(&["--agent", "echo", "--host", "0.0.0.0"], |command| {
        command.env("TURNHOST_TOKEN", "a-token-of-16-letters");
    });
    assert_eq!(server.get("/metrics").await.status, 401);
    let allowed = server.request(Method::GET, "/metrics").header("Authorization", "Bearer a-token-of-16-letters");
    assert_eq!(read(allowed).await.status, 200);
    let other = server.request(Method::POST, "/metrics").header("Authorization", "Bearer a-token-of-16-letters");
    assert_eq!(read(other).await.status, 405);
    let off = Server::start(&["--agent", "echo", "--protocols", "dari,v1"]);
    assert_eq!(off.get("/metrics").await.status, 404);
    let alone = Server::start(&["--agent", "echo", "--protocols", "metrics"]);
    assert_eq!((alone.get("/metrics").await.status, alone.get("/v1/turns/x").await.status), (200, 404));
}

/// The page in `docs/` names every metric there is, and no other.
#[tokio::test]
async fn the_docs_tell_of_every_metric() {
    let server = Server::start(&["--agent", "echo"]);
    server.advance(&json!({"input": "@fail no"})).await;
    let docs = std::fs::read_to_string(repository("docs/observability.md")).unwrap();
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let told: BTreeSet<&str> = docs.split(|c: char| !is_part(c)).filter(|word| word.starts_with("turnhost_")).collect();
    let found = page(&server).await;
    let shown = found.types.keys().map(String::as_str).filter(|name| name.starts_with("turnhost_"));
    // What counts only agents that tell of it, or only what went wrong, comes with the first of it.
    let late = [
        "turnhost_cost_dollars_total",
        "turnhost_tokens_total",
        "turnhost_tool_calls_total",
        "turnhost_turn_first_event_seconds",
        "turnhost_turns_refused_total",
        "turnhost_websocket_connections",
    ];
    assert_eq!(told, shown.chain(late).collect());
}
