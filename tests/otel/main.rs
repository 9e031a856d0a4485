//! Traces of the real binary with the feature `otel`, as a collector gets them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on ends with a panic; programs under test are started, and their environment is set, here"
)]

#[allow(dead_code, reason = "the other tests stand on it, too")]
#[path = "../it/support/mod.rs"]
mod support;

mod collector;

use collector::{Collector, Span};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use support::model::{Model, text, tool};
use support::stub::{Stub, script};
use support::{SOON, Server, eventually, read};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const STATE: &str = "vendor=one";

/// A caller's place; its last byte says whether it is sampled.
fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// A server with the stub as its handler, and the variables of OpenTelemetry.
fn serve(stub: &Stub, variables: &[(&str, &str)]) -> Server {
    Server::start_with(&["--handler", stub.program().to_str().unwrap()], |command| {
        stub.environment(command);
        command.envs(variables.iter().copied());
    })
}

async fn ask(server: &Server, session: &str, prompt: &str, parent: Option<&str>) -> Value {
    let path = format!("/v1/sessions/{session}/turns?wait=30");
    let request = server.request(Method::POST, &path).body(json!({"prompt": prompt, "model": "m-1"}).to_string());
    let request = match parent {
        Some(parent) => request.header("traceparent", parent).header("tracestate", STATE),
        None => request,
    };
    let answer = read(request).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// What the stub was told of its place in the trace, turn by turn.
fn told(stub: &Stub) -> Vec<(Value, Value)> {
    let log = std::fs::read_to_string(stub.path("log")).unwrap_or_default();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["traceparent"].clone(), line["tracestate"].clone())).collect()
}

/// Stops a server and gives back how long that took.
async fn stop(mut server: Server) -> Duration {
    let began = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.exited().await.code(), Some(0));
    began.elapsed()
}

fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    let [span] = found[..] else { panic!("{} spans {name} in {spans:#?}", found.len()) };
    span
}

fn attributes(span: &Span) -> Vec<(&str, &str)> {
    span.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// In protobuf, which is the default: a turn with its tools, sent when the server stops, and nothing of what was said.
#[tokio::test]
async fn a_turn_and_its_tools() {
    let (stub, collector) = (Stub::new(), Collector::start().await);
    let endpoint = format!("http://{}", collector.address);
    let server = serve(
        &stub,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=let-me-in-please"),
            ("OTEL_SERVICE_NAME", "the-service"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
            // Nothing but the end of the server sends them.
            ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
        ],
    );
    let prompt = script(&[
        r#"raw {"type":"tool_use","id":"{{id}}","call_id":"call-1","name":"search","input":{"q":"hidden words"}}"#,
        r#"raw {"type":"tool_use","id":"{{id}}","call_id":"call-2","name":"read","input":{}}"#,
        r#"raw {"type":"tool_result","id":"{{id}}","call_id":"call-1","output":"hidden words"}"#,
        r#"raw {"type":"tool_result","id":"{{id}}","call_id":"call-2","output":"hidden words","is_error":true}"#,
        r#"raw {"type":"usage","id":"{{id}}","input_tokens":70,"output_tokens":30,"cached_tokens":20}"#,
        "say hidden words",
    ]);
    let turn = ask(&server, "s1", &prompt, Some(&parent("01"))).await;
    assert!(!server.log().contains("let-me-in-please"));
    stop(server).await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let whole = only(&spans, "invoke_agent stub-handler");
    assert_eq!((whole.trace.as_str(), whole.parent.as_str(), whole.kind), (TRACE, CALLER, 1));
    assert_eq!(whole.status, (0, String::new()));
    assert_eq!(
        attributes(whole),
        [
            ("gen_ai.agent.name", "stub-handler"),
            ("gen_ai.conversation.id", "s1"),
            ("gen_ai.operation.name", "invoke_agent"),
            ("gen_ai.request.model", "m-1"),
            ("gen_ai.usage.cache_read.input_tokens", "20"),
            ("gen_ai.usage.input_tokens", "70"),
            ("gen_ai.usage.output_tokens", "30"),
            ("turnhost.outcome", "answered"),
            ("turnhost.protocol", "v1"),
            ("turnhost.turn.attempt", "1"),
            ("turnhost.turn.id", turn["turn"].as_str().unwrap()),
        ]
    );
    for (name, id, status) in [("search", "call-1", 0), ("read", "call-2", 2)] {
        let span = only(&spans, &format!("execute_tool {name}"));
        assert_eq!((&span.trace, &span.parent, span.status.0), (&whole.trace, &whole.id, status), "{span:?}");
        assert_eq!((span.attribute("gen_ai.tool.name"), span.attribute("gen_ai.tool.call.id")), (Some(name), Some(id)));
        assert_eq!(span.attribute("gen_ai.operation.name"), Some("execute_tool"));
        assert_eq!(span.attribute("error.type"), (status == 2).then_some("tool_error"));
    }
    assert_eq!(whole.resource["service.name"], "the-service");
    assert_eq!(whole.resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(whole.resource["deployment.environment.name"], "test");
    // The handler stands below the turn, and the caller's own state goes along.
    assert_eq!(told(&stub), [(json!(format!("00-{TRACE}-{}-01", whole.id)), json!(STATE))]);
    for asked in collector.asked() {
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/v1/traces"));
        assert_eq!(asked.headers["x-api-key"], "let-me-in-please");
        assert!(!String::from_utf8_lossy(&asked.body).contains("hidden"), "what was said is in a span");
    }
}

/// In JSON: each call of a model is a span of its own, and the service that answers it stands below that.
#[tokio::test]
async fn calls_of_a_model() {
    let model = Model::start(vec![tool("shell", json!({"command": "true", "timeout_ms": null})), text("Done.")]).await;
    let collector = Collector::start().await;
    let args = ["--agent", "openai", "--openai-model", "m-2", "--openai-shell", "function"];
    let server = Server::start_with(&args, |command| {
        command.env("OPENAI_BASE_URL", model.base()).env("OPENAI_API_KEY", "sk-good-0123456789");
        command.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("http://{}/own/path", collector.address));
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json").env("OTEL_BSP_SCHEDULE_DELAY", "20");
    });
    let request = server.request(Method::POST, "/runtime/advance").header("traceparent", parent("01"));
    assert_eq!(read(request.body(r#"{"input": "Hi", "session_id": "s"}"#)).await.status, 200);
    let spans = eventually("the turn's span", || {
        let spans = collector.spans();
        spans.iter().any(|span| span.name.starts_with("invoke_agent")).then_some(spans)
    });
    let spans = spans.await;
    let whole = only(&spans, "invoke_agent openai");
    assert_eq!((whole.parent.as_str(), whole.attribute("gen_ai.provider.name")), (CALLER, Some("openai")));
    assert_eq!(whole.attribute("gen_ai.conversation.id"), Some("dari:s"));
    assert_eq!(whole.attribute("gen_ai.request.model"), Some("m-2"));
    assert_eq!(whole.resource["service.name"], "turnhost");
    let calls: Vec<&Span> = spans.iter().filter(|span| span.name == "chat m-2").collect();
    assert_eq!(calls.len(), 2, "{spans:#?}");
    let heard: Vec<String> = model.calls().iter().map(|call| call.headers["traceparent"].clone()).collect();
    for span in calls {
        assert_eq!((&span.parent, span.kind, span.status.0), (&whole.id, 3, 0));
        assert_eq!(span.attribute("gen_ai.operation.name"), Some("chat"));
        assert!(span.attribute("gen_ai.usage.input_tokens").is_some(), "{span:?}");
        assert!(heard.contains(&format!("00-{TRACE}-{}-01", span.id)), "{heard:?}");
    }
    assert_eq!(only(&spans, "execute_tool shell").parent, whole.id);
    assert!(collector.asked().iter().all(|asked| asked.path == "/own/path"));
}

/// Each turn has a trace of its own where its caller has none; one that fails says so in a word of ours.
#[tokio::test]
async fn turns_without_a_caller_and_turns_that_fail() {
    let (stub, collector) = (Stub::new(), Collector::start().await);
    let server = serve(&stub, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}/", collector.address))]);
    let (one, two) = (script(&["fail hidden words"]), script(&["exit 3"]));
    tokio::join!(ask(&server, "one", &one, None), async {
        stub.called(1).await;
        ask(&server, "two", &two, None).await
    });
    let open = r#"raw {"type":"tool_use","id":"{{id}}","call_id":"t","name":"slow","input":{}}"#;
    let begun = server.request(Method::POST, "/v1/sessions/three/turns");
    let begun = read(begun.body(json!({"prompt": script(&[open, "mark on", "delay 60"])}).to_string())).await.json();
    stub.marked("on").await;
    let cancelled = server.request(Method::DELETE, &format!("/v1/turns/{}", begun["turn"].as_str().unwrap()));
    assert!(read(cancelled).await.status < 300);
    server.idle().await;
    stop(server).await;
    let spans = collector.spans();
    let of = |session: &str| {
        let of = |span: &&Span| span.attribute("gen_ai.conversation.id") == Some(session);
        spans.iter().find(of).unwrap_or_else(|| panic!("no span of {session} in {spans:#?}"))
    };
    for (session, error) in [("one", "handler_failed"), ("two", "handler_exited")] {
        let span = of(session);
        assert_eq!((span.attribute("error.type"), &span.status), (Some(error), &(2, String::new())));
        assert_eq!((span.attribute("turnhost.outcome"), span.parent.as_str()), (Some("failed"), ""));
    }
    assert_ne!(of("one").trace, of("two").trace);
    // A caller who gives up is no error; a tool that gave no result is told with its turn.
    let given_up = of("three");
    assert_eq!((given_up.attribute("turnhost.outcome"), given_up.status.0), (Some("cancelled"), 0));
    assert_eq!(only(&spans, "execute_tool slow").attribute("error.type"), Some("no_result"));
    assert!(collector.asked().iter().all(|asked| !String::from_utf8_lossy(&asked.body).contains("hidden")));
}

#[tokio::test]
async fn what_is_not_sampled_is_not_sent() {
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str());
    // By the caller; by the sampler.
    for (sampler, flags) in [("parentbased_always_on", "00"), ("always_off", "01")] {
        let stub = Stub::new();
        let server = serve(&stub, &[endpoint, ("OTEL_TRACES_SAMPLER", sampler)]);
        ask(&server, "s", &script(&["say done"]), Some(&parent(flags))).await;
        stop(server).await;
        let (heard, _) = told(&stub).pop().unwrap();
        let heard = heard.as_str().unwrap();
        assert!(heard.starts_with(&format!("00-{TRACE}-")) && heard.ends_with("-00"), "{sampler}: {heard}");
    }
    assert_eq!(collector.spans(), []);
}

/// Nothing is sent, and the caller's place goes on as it came.
#[tokio::test]
async fn without_a_collector_nothing_changes() {
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str());
    for (variables, warns) in [
        (&[("OTEL_SERVICE_NAME", "x")][..], false),
        (&[on, ("OTEL_SDK_DISABLED", "true")], false),
        (&[on, ("OTEL_TRACES_EXPORTER", "none")], false),
        (&[on, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], true),
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "no url")], true),
    ] {
        let stub = Stub::new();
        let server = serve(&stub, variables);
        ask(&server, "s", &script(&["say done"]), Some(&parent("01"))).await;
        let warned = server.log().contains("no traces are exported: ");
        stop(server).await;
        assert_eq!(told(&stub), [(json!(parent("01")), json!(STATE))], "{variables:?}");
        assert_eq!(warned, warns, "{variables:?}");
    }
    assert_eq!(collector.asked().len(), 0);
}

/// A collector that is not there, or never answers, costs no turn anything, is told of once, and does not hold up the end.
#[tokio::test]
async fn a_collector_that_takes_nothing() {
    let nobody = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    for address in [nobody, silent.local_addr().unwrap()] {
        let stub = Stub::new();
        let server = serve(
            &stub,
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://user:pass-in-a-url@{address}")),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
                ("OTEL_BSP_SCHEDULE_DELAY", "20"),
                ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
                ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
            ],
        );
        let told = || server.log().matches("the collector of traces takes nothing").count();
        let mut quickest = Duration::MAX;
        for n in 0..20 {
            let began = Instant::now();
            ask(&server, "s", &script(&["say done"]), None).await;
            quickest = quickest.min(began.elapsed());
            if n == 0 {
                eventually("a word about the collector", || (told() == 1).then_some(())).await;
            }
        }
        assert!(quickest < Duration::from_millis(250), "the quickest turn took {quickest:?}");
        assert_eq!(told(), 1, "{}", server.log());
        assert!(!server.log().contains("pass-in-a-url"), "{}", server.log());
        let took = stop(server).await;
        assert!(took < Duration::from_secs(1) + SOON, "{took:?}");
    }
}

/// A collector that comes back is told of, and gets what comes from then on.
#[tokio::test]
async fn a_collector_that_comes_back() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let stub = Stub::new();
    let endpoint = format!("http://{free}");
    let quick = [("OTEL_EXPORTER_OTLP_TIMEOUT", "300"), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let server = serve(&stub, &[&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())][..], &quick].concat());
    ask(&server, "before", &script(&["say done"]), None).await;
    eventually("a word about it", || server.log().contains("takes nothing").then_some(())).await;
    let collector = Collector::at(free).await;
    ask(&server, "after", &script(&["say done"]), None).await;
    eventually("a word about it", || server.log().contains("takes spans again").then_some(())).await;
    eventually("the span", || {
        collector.spans().into_iter().find(|span| span.attribute("gen_ai.conversation.id") == Some("after"))
    })
    .await;
}

/// `turnhost run` has a turn, too.
#[tokio::test]
async fn one_turn_in_a_terminal() {
    let collector = Collector::start().await;
    let mut command: Command = support::server_command(&["run", "--agent", "echo", "hello"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address));
    let ended = support::finish(command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(only(&collector.spans(), "invoke_agent echo").attribute("turnhost.protocol"), Some("run"));
}
