//! Which path belongs to whom: DESIGN section 4's table, health, and what is negotiated at an upgrade.

use crate::support::raw_ws::{Frame, Heard, RawWs, header};
use crate::support::{HttpAnswer, Server, raw_http, turnhost};
use nix::sys::signal::Signal;
use serde_json::json;

const NOT_FOUND: &str = r#"{"error":"not found"}"#;

/// Paths that other hosts will own: they answer 404 now, upgrades too.
const KEPT_FREE: &[&str] = &[
    "/api",
    "/api/",
    "/api/agents/1",
    "/socket.io/",
    "/socket.io/?EIO=4&transport=websocket",
    "/sessions/create",
    "/sessions/1/message",
    "/ws/else",
    "/v1",
    "/v1/else",
    "/agent-profiles",
    "/invocations",
    "/ping",
    "/readiness",
    "/responses",
    "/acp",
    "/agui",
    "/ui",
    "/ui/index.html",
];

/// Paths that nobody owns, some of them near those that somebody does.
const UNOWNED: &[&str] = &[
    "/nope",
    "/nope/deeper?x=y",
    "/apis",
    "/pings",
    "/v10",
    "/healthz",
    "/health/deeper",
    "/runtime",
    "/runtime/advance/deeper",
    "/Health",
    "/%00",
    "/a%2Fb",
];

fn short(answer: &HttpAnswer) -> (u16, &str) {
    (answer.status, &answer.body)
}

async fn http(server: &Server, first: &str) -> HttpAnswer {
    raw_http::request(server.address(), first, "", b"").await
}

/// The status and body of an upgrade that is refused; 101 for one that is not, which must work then.
async fn upgrade(server: &Server, path: &str) -> (u16, String) {
    match RawWs::connect_with(server.address(), path, "").await {
        Err(answer) => {
            let answer = raw_http::parse(answer.as_bytes());
            (answer.status, answer.body)
        }
        Ok(mut socket) => {
            let query = json!({"message_type": "invocation_message", "user_prompt": "hi"});
            socket.send(&Frame::text(query.to_string())).await;
            let expected = r#"{"message_type":"result_message","metadata":{},"data":{"type":"text","text":"hi"}"#;
            assert!(socket.text().await.starts_with(expected), "{path}");
            (101, String::new())
        }
    }
}

#[tokio::test]
async fn every_path_has_one_owner() {
    let server = Server::start(&["--agent", "echo"]);
    for path in KEPT_FREE {
        for method in ["GET", "POST"] {
            let answer = http(&server, &format!("{method} {path}")).await;
            assert_eq!(short(&answer), (404, NOT_FOUND), "{method} {path}");
            assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {path}");
        }
        assert_eq!(upgrade(&server, path).await, (404, NOT_FOUND.to_owned()), "upgrade on {path}");
    }
    for path in UNOWNED {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let answer = http(&server, &format!("{method} {path}")).await;
            assert_eq!(short(&answer), (404, NOT_FOUND), "{method} {path}");
            assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {path}");
        }
        assert_eq!(upgrade(&server, path).await.0, 101, "upgrade on {path}");
    }
    assert_eq!(upgrade(&server, "/").await.0, 101);
    assert_eq!(upgrade(&server, "/?session=one").await.0, 101);
    // Owned paths stay their owners', whatever is asked.
    assert_eq!(upgrade(&server, "/health").await.0, 200);
    let advance = upgrade(&server, "/runtime/advance").await;
    assert_eq!(advance, (405, r#"{"detail":"method not allowed"}"#.to_owned()));
    for path in ["/runtime/advance", "/runtime/advance/", "/runtime/advance?x=y", "/runtime/advance/?x"] {
        let lines = "Content-Length: 14\r\n";
        let answer = raw_http::request(server.address(), &format!("POST {path}"), lines, b"{\"input\":\"hi\"}").await;
        assert_eq!(short(&answer), (200, r#"{"text":"hi","state":{"v":1,"turn":1}}"#), "{path}");
    }
}

/// `Connection` lists `upgrade` beside `close`: the `Upgrade` header of a 426 asks for it.
fn closes(answer: &HttpAnswer) -> bool {
    answer.header("connection").is_some_and(|options| options.split(',').any(|option| option.trim() == "close"))
}

#[tokio::test]
async fn plain_http_to_the_channel_is_told_to_upgrade() {
    let server = Server::start(&["--agent", "echo"]);
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"] {
        let answer = http(&server, &format!("{method} /")).await;
        assert_eq!(answer.status, 426, "{method}");
        assert_eq!(answer.body, if method == "HEAD" { "" } else { "Upgrade Required" }, "{method}");
        assert_eq!(answer.header("content-type"), Some("text/plain"), "{method}");
        assert_eq!(answer.header("content-length"), Some("16"), "{method}");
        assert!(closes(&answer), "{method}: {answer:?}");
    }
    // It closes also where nobody asked for it.
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", server.address());
    let answer = raw_http::parse(&raw_http::exchange(server.address(), request.as_bytes()).await);
    assert_eq!(short(&answer), (426, "Upgrade Required"));
    assert!(closes(&answer), "{answer:?}");
}

#[tokio::test]
async fn an_upgrade_that_is_none_is_refused() {
    let mut server = Server::start(&["--agent", "echo"]);
    let whole = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let lines = lines.concat();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{lines}\r\n", server.address());
        raw_http::head(server.address(), request.as_bytes()).await.status
    };
    assert_eq!(ask("GET", "/", &whole).await, 101);
    assert_eq!(ask("POST", "/", &whole).await, 405, "only GET upgrades");
    assert_eq!(ask("GET", "/", &whole[1..]).await, 426, "no Connection");
    assert_eq!(ask("GET", "/", &[whole[0], whole[2], whole[3]]).await, 426, "no Upgrade");
    assert_eq!(ask("GET", "/", &[whole[0], whole[1], whole[3]]).await, 400, "no version");
    assert_eq!(
        ask("GET", "/", &[whole[0], whole[1], ("Sec-WebSocket-Version", "8"), whole[3]]).await,
        426,
        "version 8"
    );
    assert_eq!(ask("GET", "/", &whole[..3]).await, 400, "no key");
    let id = "a".repeat(257);
    for session in ["", "%00", "%0a", &id] {
        let (status, body) = upgrade(&server, &format!("/?session={session}")).await;
        let expected = r#"{"error":"session: an id is 1 to 256 characters without control characters"}"#;
        assert_eq!((status, &*body), (400, expected), "{session}");
    }
    assert!(server.is_running());
}

#[tokio::test]
async fn health_tells_how_the_server_is() {
    let mut server = Server::start(&["--agent", "echo", "--grace", "20s"]);
    let idle = json!({
        "ok": true, "status": "ok", "version": env!("CARGO_PKG_VERSION"), "agent": "echo", "busy": false, "turns": 0,
        "running": 0, "last_progress_ms": null, "safe_to_pause": true, "store": {"state": "memory"},
        "runtime": "local", "default_runtime": "local", "runtimes": ["local"], "sessions": {"loaded": 0},
    });
    for path in ["/health", "/health/", "/health?x=y"] {
        let get = http(&server, &format!("GET {path}")).await;
        assert_eq!((get.status, get.json()), (200, idle.clone()), "{path}");
        assert_eq!(get.header("content-type"), Some("application/json"));
        assert_eq!(get.header("cache-control"), Some("no-store"));
        let head = http(&server, &format!("HEAD {path}")).await;
        assert_eq!(short(&head), (200, ""), "{path}");
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let refused = http(&server, &format!("{method} /health")).await;
        assert_eq!(short(&refused), (405, r#"{"detail":"method not allowed"}"#), "{method}");
        assert_eq!(refused.header("allow"), Some("GET, HEAD"), "{method}");
    }
    let asleep = server.request(reqwest::Method::POST, "/runtime/advance").body(r#"{"input":"@sleep 600000"}"#);
    let asleep = tokio::spawn(asleep.send());
    server.busy().await;
    let busy = server.get("/health").await.json();
    assert_eq!((&busy["turns"], &busy["sessions"]["loaded"]), (&json!(1), &json!(1)));
    // While the server stops it says so, and takes nothing new.
    server.signal(Signal::SIGTERM);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    let draining = loop {
        let answer = server.get("/health").await;
        if answer.status != 200 {
            break answer;
        }
        assert!(std::time::Instant::now() < deadline, "not draining");
    };
    assert_eq!(
        (draining.status, &draining.json()["ok"], &draining.json()["status"]),
        (503, &json!(false), &json!("draining"))
    );
    let refused = server.advance(&json!({"input": "hi"})).await;
    assert_eq!((short(&refused), refused.header("retry-after")), ((503, r#"{"detail":"shutting down"}"#), Some("1")));
    assert_eq!(upgrade(&server, "/").await, (503, r#"{"error":"shutting down"}"#.to_owned()));
    asleep.abort();
    server.signal(Signal::SIGTERM);
    server.exited().await;
}

#[tokio::test]
async fn protocols_that_are_off_free_their_paths() {
    let dari = Server::start(&["--agent", "echo", "--protocols", "dari", "--no-auth"]);
    assert_eq!(short(&dari.get("/health").await), (200, r#"{"ok":true}"#));
    for path in ["/", "/nope", "/api", "/v1"] {
        assert_eq!(short(&dari.get(path).await), (404, r#"{"detail":"not found"}"#), "{path}");
        assert_eq!(upgrade(&dari, path).await, (404, r#"{"detail":"not found"}"#.to_owned()), "{path}");
    }
    let hi = json!({"input": "hi"});
    assert_eq!(dari.advance(&hi).await.status, 200);

    let runtimeuse = Server::start(&["--agent", "echo", "--protocols", "runtimeuse"]);
    assert_eq!(short(&runtimeuse.advance(&hi).await), (404, NOT_FOUND));
    assert_eq!(upgrade(&runtimeuse, "/runtime/advance").await.0, 101);
    assert_eq!(runtimeuse.get("/").await.status, 426);
    assert_eq!(runtimeuse.get("/health").await.json()["status"], "ok");

    let both = Server::start(&["--agent", "echo", "--protocols", " runtimeuse , dari "]);
    assert_eq!(both.advance(&hi).await.status, 200);
    assert_eq!(upgrade(&both, "/").await.0, 101);

    let paths = ["--dari-health-path", "/up", "--dari-advance-path", "/turns/next"];
    let moved = Server::start(&[&["--agent", "echo"][..], &paths].concat());
    assert_eq!(moved.get("/up").await.json(), moved.get("/health").await.json());
    assert_eq!(short(&moved.advance(&hi).await), (404, NOT_FOUND));
    let answer = crate::support::read(moved.request(reqwest::Method::POST, "/turns/next").body(hi.to_string())).await;
    assert_eq!(answer.status, 200);
    assert_eq!(upgrade(&moved, "/runtime/advance").await.0, 101);
    let moved = Server::start(&[&["--agent", "echo", "--protocols", "dari"][..], &paths].concat());
    assert_eq!(short(&moved.get("/up").await), (200, r#"{"ok":true}"#));
    assert_eq!(moved.get("/health").await.status, 404);

    for (list, sentence) in [
        ("dari,telnet", "Error: unknown protocol \"telnet\". Choose from: dari, runtimeuse, sessions, v1, metrics\n"),
        (",", "Error: --protocols names none\n"),
    ] {
        let end = turnhost(&["--agent", "echo", "--port", "0", "--protocols", list]).await;
        assert_eq!((end.code, &*end.stderr, &*end.stdout), (Some(1), sentence, ""));
    }
}

#[tokio::test]
async fn the_first_subprotocol_is_echoed_and_nothing_is_compressed() {
    let server = Server::start(&["--agent", "echo"]);
    for (lines, echoed) in [
        ("", None),
        ("Sec-WebSocket-Protocol: one\r\n", Some("one")),
        ("Sec-WebSocket-Protocol: one, two\r\n", Some("one")),
        ("Sec-WebSocket-Protocol:  , two\r\n", Some("two")),
        ("Sec-WebSocket-Protocol: one\r\nSec-WebSocket-Protocol: two\r\n", Some("one")),
        ("Sec-WebSocket-Protocol: \r\n", None),
    ] {
        let socket = RawWs::connect_with(server.address(), "/", lines).await.expect("an upgrade");
        assert_eq!(header(&socket.head, "sec-websocket-protocol"), echoed, "{lines:?}");
    }
    let lines = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nAccept-Encoding: gzip\r\n";
    let mut socket = RawWs::connect_with(server.address(), "/", lines).await.expect("an upgrade");
    assert_eq!(header(&socket.head, "sec-websocket-extensions"), None, "{}", socket.head);
    assert_eq!(header(&socket.head, "content-encoding"), None, "{}", socket.head);
    let query = json!({"message_type": "invocation_message", "user_prompt": "x".repeat(10_000)});
    socket.send(&Frame::text(query.to_string())).await;
    assert!(matches!(socket.next().await, Heard::Text(text) if text.contains(&"x".repeat(10_000))));
    let plain = raw_http::request(server.address(), "GET /health", "Accept-Encoding: gzip, br\r\n", b"").await;
    assert_eq!((plain.header("content-encoding"), &plain.json()["ok"]), (None, &json!(true)));
}
