//! Checks 19, 22 and 27: connections, the form of every answer, and what is there to be seen.

use super::{ADVANCE, Dari, Mode, holds_the_contract, turn_body};
use super::{input, large, limits, malformed, order, repeats, state};
use crate::support::http;
use crate::support::stub::script;
use serde_json::json;

/// The other tests run with `Connection: close`; here the list runs once more on connections that are kept.
#[tokio::test]
async fn check_19_connection_per_request() {
    let kept = Mode::KeepAlive;
    tokio::join!(
        input::all_forms(kept),
        input::not_user_turns(kept),
        malformed::malformed(kept),
        state::keep_set_clear(kept),
        repeats::duplicate_in_flight(kept),
        repeats::duplicate_with_id(kept),
        repeats::duplicate_without_id(kept),
        repeats::disconnect_with_id(kept),
        repeats::disconnect_then_another(kept),
        order::order(kept),
        limits::deadline(kept),
        strict_schema(kept),
    );
    // By themselves: what they compute would keep the clocks of the others waiting.
    repeats::disconnect_without_id(kept).await;
    large::large_input(kept).await;
    pipelined().await;
}

/// Several requests on one connection without waiting: answered one after the other.
async fn pipelined() {
    let dari = Dari::start(Mode::KeepAlive);
    let mut connection = dari.connect().await;
    let mut bytes = Vec::new();
    for n in 0..5 {
        let body = json!({"input": script(&[&format!("say {n}")])}).to_string();
        bytes.extend(http::request("POST", ADVANCE, &[], body.as_bytes()));
    }
    connection.send(&bytes).await;
    for n in 0..5 {
        assert_eq!(turn_body(&connection.answer("POST").await).text, n.to_string());
    }
    assert_eq!(dari.calls(), 5);
}

/// Every kind of answer that a turn can have. [`holds_the_contract`] looks at each.
pub async fn strict_schema(mode: Mode) {
    let dari = Dari::start_with(mode, &["--turn-timeout", "1s"], |_| {});
    let result = |fields: &str| script(&[&format!(r#"raw {{"type":"result","id":"{{{{id}}}}",{fields}}}"#), "silent"]);
    let text = async |prompt: String| turn_body(&dari.post(&json!({"input": prompt})).await).text;
    assert!(text("plain".to_owned()).await.starts_with("done "));
    assert_eq!(text(script(&["say ü \"quoted\" \\ 🙂 \u{7f}"])).await, "ü \"quoted\" \\ 🙂 \u{7f}");
    // A turn whose answer is nothing says so.
    for nothing in [script(&["say "]), script(&["say  \t "]), result(r#""text":"""#)] {
        let said = text(nothing).await;
        assert!(!said.trim().is_empty() && said.lines().count() == 1, "{said:?}");
    }
    // Structured output without text is compact JSON in `text`.
    assert_eq!(text(result(r#""structured_output": {"b" : [1, 2],"a":"x y"}"#)).await, r#"{"b":[1,2],"a":"x y"}"#);
    assert_eq!(text(result(r#""structured_output":null"#)).await, "null");
    // Results that are none, failures without a reason, and ends of every kind.
    let odd = [
        result(r#""text":7"#),
        result(r#""other":1"#),
        result(r#""text":"a","structured_output":{}"#),
        script(&["fail "]),
        script(&[r#"raw {"type":"error","id":"{{id}}"}"#, "silent"]),
        script(&["exit 0"]),
        script(&["exit 9"]),
        script(&["delay 20"]),
        script(&["stubborn", "delay 20"]),
    ];
    for prompt in odd {
        let said = text(prompt.clone()).await;
        assert!(!said.trim().is_empty(), "{prompt}");
        // What an end user may read: no trace of our insides.
        for internal in ["Traceback", "panicked", "stub-handler", "src/"] {
            assert!(!said.contains(internal), "{said}");
        }
    }
    let shapes = [script(&["state {}"]), script(&["clear"]), script(&["state \"\"", "fail with a state"])];
    for prompt in shapes {
        dari.turn(&json!({"input": prompt})).await;
    }
    // Two results are one answer.
    let twice = r#"raw {"type":"result","id":"{{id}}","text":"first"}"#;
    assert_eq!(text(script(&[twice, "say second"])).await, "first");
    assert!(text("and the next turn gets its own".to_owned()).await.starts_with("done "));
}

#[tokio::test]
async fn check_22_strict_schema() {
    strict_schema(Mode::Close).await;
}

/// Sends a head, and reads the answer of whoever feels addressed.
async fn asks(dari: &Dari, method: &str, path: &str, headers: &[(&str, &str)]) -> crate::support::HttpAnswer {
    let mut connection = dari.connect().await;
    connection.send(&http::request(method, path, headers, b"")).await;
    connection.answer(method).await
}

async fn only_two_routes() {
    let dari = Dari::start(Mode::Close);
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let paths = [
        "/",
        "/ws",
        "/sessions",
        "/sessions/create",
        "/ws/sessions/x",
        "/v1/sessions",
        "/metrics",
        "/openapi.json",
        "/ui",
        "/api/x",
        "/socket.io/",
        "/agent-profiles",
        "/invocations",
        "/ping",
        "/readiness",
        "/responses",
        "/acp",
        "/agui",
        "/favicon.ico",
        "/.env",
        "/runtime",
        "/runtime/advance/../../x",
    ];
    for path in paths {
        for (method, headers) in [("GET", &upgrade[..0]), ("POST", &upgrade[..0]), ("GET", &upgrade[..])] {
            let answer = asks(&dari, method, path, headers).await;
            assert_eq!((answer.status, answer.json()), (404, json!({"detail": "not found"})), "{method} {path}");
        }
    }
    // No upgrade on the two that exist either.
    assert_eq!(asks(&dari, "GET", "/health", &upgrade).await.status, 200);
    assert_eq!(asks(&dari, "GET", ADVANCE, &upgrade).await.status, 405);
    assert_eq!(dari.calls(), 0);

    // Without a Content-Type, and without any header that is not needed.
    let body = json!({"input": "no type"}).to_string();
    let mut connection = dari.connect().await;
    connection.send(&http::request("POST", ADVANCE, &[], body.as_bytes())).await;
    let answer = connection.answer("POST").await;
    holds_the_contract(&answer);
    turn_body(&answer);
    assert_eq!(dari.stub.last_call().prompt, "no type");
    // What the server is made of is nobody's business.
    assert_eq!((answer.header("server"), answer.header("x-powered-by")), (None, None));
}

/// Values of variables whose name says that they are secret; the second has characters that JSON writes differently.
const SECRETS: [(&str, &str); 4] = [
    ("PROVIDER_API_KEY", "sk-live-0123456789abcdef"),
    ("ODD_SECRET", "p\"w\\d/ü-7c1e"),
    ("SOME_TOKEN", "tok_ffeeddccbbaa9988"),
    ("DB_PASSWORD", "hunter2hunter2"),
];

/// A prompt that has the handler say a variable's value in every way that it can.
fn leak(name: &str, value: &str) -> Vec<String> {
    let (front, back) = value.split_at(value.char_indices().nth(5).unwrap().0);
    let line = |kind: &str, fields: &str| format!(r#"raw {{"type":"{kind}","id":"{{{{id}}}}",{fields}}}"#);
    let here = format!("{{{{env:{name}}}}}");
    let said = [
        format!("stderr in the log: {here}"),
        format!("raw no JSON at all: {here}"),
        line("log", &format!(r#""level":"error","text":"{here}""#)),
        line("warning", &format!(r#""text":"{here}""#)),
        line("thinking", &format!(r#""text":"{here}""#)),
        line("text", &format!(r#""text":"{here}""#)),
        line("delta", &format!(r#""text":{}"#, json!(front))),
        line("delta", &format!(r#""text":{}"#, json!(back))),
        line("tool_use", &format!(r#""call_id":"c","name":"{here}","input":{{"{here}":"{here}"}}"#)),
        line("tool_result", &format!(r#""call_id":"c","output":"{here}""#)),
        line("progress", &format!(r#""kind":"{here}","detail":"{here}""#)),
        line("{here}", r#""text":"an unknown kind""#).replace("{here}", &here),
    ];
    let ends = [
        line("result", &format!(r#""text":"the key is {here}.","metadata":{{"k":"{here}"}}"#)),
        line("result", &format!(r#""structured_output":{{"key":"{here}","{here}":["{here}"]}}"#)),
        line("error", &format!(r#""message":"denied for {here}","code":"{here}","metadata":{{"k":"{here}"}}"#)),
        line("result", &format!(r#""text":["{here}"]"#)),
        "delay 20".to_owned(),
        format!("stderr last words {here}"),
    ];
    let last = |end: &String| if end.starts_with("stderr") { "exit 4" } else { "silent" };
    ends.iter()
        .map(|end| {
            let steps: Vec<&str> = said.iter().map(String::as_str).chain([end.as_str(), last(end)]).collect();
            script(&steps)
        })
        .collect()
}

/// Whether the text has the value, as it is or as JSON writes it.
fn shows(text: &str, value: &str) -> bool {
    let quoted = json!(value).to_string();
    let ascii: String =
        quoted.chars().map(|c| if c.is_ascii() { c.to_string() } else { "\\u00fc".to_owned() }).collect();
    [value, quoted.trim_matches('"'), ascii.trim_matches('"')].iter().any(|form| text.contains(form))
}

async fn secrets_stay() {
    let dari = Dari::start_with(Mode::Close, &["--log-level", "trace", "--turn-timeout", "1s"], |command| {
        command.envs(SECRETS).env("TURNHOST_TOKEN", "the-servers-own-token");
    });
    for (name, value) in SECRETS {
        for prompt in leak(name, value) {
            let answer = dari.post(&json!({"input": prompt, "state": {"v": 1}})).await;
            let body = turn_body(&answer);
            assert!(!shows(&answer.body, value) && !shows(&body.text, value), "{name}: {answer:?}");
            assert_eq!(body.state(), None);
            for (name, header) in &answer.headers {
                assert!(!shows(header, value), "{name}: {header}");
            }
        }
        // A caller who sends it sees it in no log either, wherever in the request it is.
        let quoted = json!({"input": value, "session_id": value, "message_id": value, value: value, "state": null});
        let answer = dari.post(&quoted).await;
        assert!(!shows(&answer.body, value));
        for path in [format!("/{name}"), format!("{ADVANCE}?token=tok_ffeeddccbbaa9988")] {
            asks(&dari, "GET", &path, &[("Authorization", "Bearer sk-live-0123456789abcdef")]).await;
        }
    }
    assert_eq!(dari.calls(), SECRETS.len() * 7);
    // The handler has the keys, which it needs, and not the server's own token.
    let token = r#"raw {"type":"result","id":"{{id}}","text":"<{{env:TURNHOST_TOKEN}}>"}"#;
    assert_eq!(dari.turn(&json!({"input": script(&[token, "silent"])})).await.text, "<>");

    let Dari { mut server, stub, .. } = dari;
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(server.exited().await.code(), Some(0));
    let (log, out) = (server.log(), server.out.lock().unwrap().clone());
    assert!(log.contains("in the log: "), "the handler's standard error is in the log");
    for (name, value) in SECRETS {
        for text in [&log, &out] {
            let line = text.lines().find(|line| shows(line, value));
            assert_eq!(line, None, "{name} is in the log");
        }
    }
    assert!(!log.contains("the-servers-own-token"));
    drop(stub);
}

#[tokio::test]
async fn check_27_surface_and_secrets() {
    tokio::join!(only_two_routes(), secrets_stay());
}
