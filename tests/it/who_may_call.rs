//! Who may call: DESIGN section 5 and RuntimeUse 17.10. The token, the Host rule, the Origin rule, and where a token must
//! never turn up.

use crate::support::raw_ws::RawWs;
use crate::support::{HttpAnswer, Server, proc, raw_http, server_command, turnhost};
use base64::Engine as _;
use serde_json::json;

const TOKEN: &str = "t0ken-of-this-test:with colon";
const BODY: &[u8] = b"{\"input\":\"hi\"}";

fn basic(password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("x:{password}"))
}

/// The statuses of a turn over HTTP and of an upgrade with these lines in the head; the bodies must tell the same.
async fn both(server: &Server, query: &str, lines: &str) -> u16 {
    let length = format!("{lines}Content-Length: {}\r\n", BODY.len());
    let first = format!("POST /runtime/advance{query}");
    let turn = raw_http::request(server.address(), &first, &length, BODY).await;
    let socket = match RawWs::connect_with(server.address(), &format!("/{query}"), lines).await {
        Ok(_) => HttpAnswer { status: 200, headers: vec![], body: String::new() },
        Err(answer) => raw_http::parse(answer.as_bytes()),
    };
    assert_eq!(turn.status, socket.status, "{query} {lines}");
    let why = match turn.status {
        200 => return 200,
        401 => "unauthorized",
        _ if lines.contains("Origin") => "origin not allowed",
        _ => "host not allowed",
    };
    assert_eq!((turn.json(), socket.json()), (json!({"detail": why}), json!({"error": why})), "{query} {lines}");
    for answer in [&turn, &socket] {
        assert_eq!(answer.header("content-type"), Some("application/json"), "{query} {lines}");
        assert_eq!(answer.header("www-authenticate"), (turn.status == 401).then_some("Bearer"), "{query} {lines}");
    }
    turn.status
}

#[tokio::test]
async fn a_loopback_server_wants_a_loopback_host() {
    let open = Server::start(&["--agent", "echo"]);
    let token = |command: &mut std::process::Command| {
        command.env("TURNHOST_TOKEN", TOKEN);
    };
    let closed = Server::start_with(&["--agent", "echo"], token);
    for server in [&open, &closed] {
        let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
        for host in ["localhost", "LocalHost:1", "127.0.0.1", "127.1.2.3:99", "[::1]", "[::1]:8080"] {
            assert_eq!(both(server, "", &format!("Host: {host}\r\n{bearer}")).await, 200, "{host}");
        }
        for host in [
            "example.com",
            "127.0.0.1.example.com",
            "localhost.example.com",
            "10.0.0.1",
            "0.0.0.0",
            "[::2]",
            "x@localhost",
        ] {
            assert_eq!(both(server, "", &format!("Host: {host}\r\n{bearer}")).await, 403, "{host}");
        }
        let health = raw_http::request(server.address(), "GET /health", "Host: example.com\r\n", b"").await;
        assert_eq!(health.status, 200, "health is open");
        for path in ["/", "/nope", "/v1"] {
            let refused =
                raw_http::request(server.address(), &format!("GET {path}"), "Host: example.com\r\n", b"").await;
            assert_eq!(refused.status, 403, "{path}");
        }
        let none = raw_http::exchange(server.address(), b"GET / HTTP/1.0\r\n\r\n").await;
        assert_eq!(raw_http::parse(&none).status, 403, "no Host at all");
    }
}

#[tokio::test]
async fn an_origin_must_be_ours_or_allowed() {
    let flags = ["--agent", "echo", "--allow-origin", "https://app.example", "--allow-origin", "https://two.example"];
    let server = Server::start(&flags);
    let own = server.address();
    for origin in
        [format!("http://{own}"), format!("https://{own}"), "https://app.example".into(), "https://two.example".into()]
    {
        assert_eq!(both(&server, "", &format!("Origin: {origin}\r\n")).await, 200, "{origin}");
    }
    for origin in [
        "null".to_owned(),
        "https://evil.example".into(),
        "http://127.0.0.1:1".into(),
        format!("http://{own}.evil.example"),
        format!("http://{own}/"),
        "http://app.example".into(),
        "https://app.example:8443".into(),
        "https://APP.example.evil".into(),
        String::new(),
    ] {
        assert_eq!(both(&server, "", &format!("Origin: {origin}\r\n")).await, 403, "{origin}");
    }
    // A page's own host name does not help it: that is what rebinding is.
    let rebound = "Host: evil.example\r\nOrigin: http://evil.example\r\n";
    let first = "POST /runtime/advance";
    assert_eq!(raw_http::request(own, first, &format!("{rebound}Content-Length: 0\r\n"), b"").await.status, 403);
    assert!(RawWs::connect_with(own, "/", rebound).await.is_err());
}

#[tokio::test]
async fn a_token_is_taken_in_three_places() {
    let token = |command: &mut std::process::Command| {
        command.env("TURNHOST_TOKEN", TOKEN);
    };
    let server = Server::start_with(&["--agent", "echo"], token);
    let (right, wrong) = (basic(TOKEN), basic("wrong"));
    let in_query = "?a=b&token=t0ken-of-this-test%3Awith+colon&c";
    for (query, lines) in [
        ("", format!("Authorization: Bearer {TOKEN}\r\n")),
        ("", format!("authorization: bearer {TOKEN}\r\n")),
        ("", format!("Authorization: Basic {right}\r\n")),
        ("", format!("Authorization: Basic {wrong}\r\nAuthorization: Bearer {TOKEN}\r\n")),
        (in_query, String::new()),
        (in_query, "Authorization: Bearer wrong\r\n".to_owned()),
    ] {
        assert_eq!(both(&server, query, &lines).await, 200, "{query} {lines}");
    }
    for (query, lines) in [
        ("", String::new()),
        ("", "Authorization: Bearer wrong\r\n".to_owned()),
        ("", "Authorization: Bearer\r\n".to_owned()),
        ("", "Authorization: Bearer \r\n".to_owned()),
        ("", format!("Authorization: {TOKEN}\r\n")),
        ("", format!("Authorization: Digest {TOKEN}\r\n")),
        ("", format!("Authorization: Bearer {TOKEN}x\r\n")),
        ("", format!("Authorization: Bearer {}\r\n", &TOKEN[1..])),
        ("", format!("Authorization: Bearer {}\r\n", TOKEN.to_uppercase())),
        ("", format!("Authorization: Basic {wrong}\r\n")),
        ("", "Authorization: Basic !!!\r\n".to_owned()),
        ("", format!("X-Token: {TOKEN}\r\n")),
        ("?token=", String::new()),
        ("?token=wrong", String::new()),
        ("?Token=t0ken-of-this-test%3Awith+colon", String::new()),
    ] {
        assert_eq!(both(&server, query, &lines).await, 401, "{query} {lines}");
    }
    // Health is open, and nothing that only looks like it.
    for path in ["/health", "/health/"] {
        assert_eq!(raw_http::request(server.address(), &format!("GET {path}"), "", b"").await.status, 200, "{path}");
    }
    for path in
        ["/health//", "//health", "/health/x", "/healthz", "/%68ealth", "/", "/nope", "/v1", "/runtime/advance//"]
    {
        assert_eq!(raw_http::request(server.address(), &format!("GET {path}"), "", b"").await.status, 401, "{path}");
        let refused = RawWs::connect_with(server.address(), path, "").await.err().expect(path);
        assert!(refused.starts_with("HTTP/1.1 401 "), "{path}: {refused}");
    }
}

#[tokio::test]
async fn no_auth_lets_everybody_call() {
    let token = |command: &mut std::process::Command| {
        command.env("TURNHOST_TOKEN", TOKEN);
    };
    let server = Server::start_with(&["--agent", "echo", "--no-auth"], token);
    assert_eq!(both(&server, "", "").await, 200);
    assert_eq!(both(&server, "", "Authorization: Bearer wrong\r\n").await, 200);
}

#[tokio::test]
async fn beyond_this_machine_a_token_is_due() {
    let end = turnhost(&["--agent", "echo", "--port", "0", "--host", "0.0.0.0"]).await;
    let sentence = "Error: listening beyond this machine needs a token: set TURNHOST_TOKEN or --token-file, or say \
                    --no-auth if everybody may run turns\n";
    assert_eq!((end.code, &*end.stderr, &*end.stdout), (Some(1), sentence, ""));
    let end = turnhost(&["--agent", "echo", "--port", "0", "--host", "::"]).await;
    assert_eq!((end.code, &*end.stderr), (Some(1), sentence));
    let mut empty = server_command(&["--agent", "echo", "--port", "0", "--host", "0.0.0.0"]);
    empty.env("TURNHOST_TOKEN", "");
    assert_eq!(crate::support::finish(empty).await.code, Some(1), "an empty token is none");

    let open = Server::start(&["--agent", "echo", "--host", "0.0.0.0", "--no-auth"]);
    assert_eq!(both(&open, "", "Host: turnhost.example\r\n").await, 200, "any Host there");
    assert_eq!(both(&open, "", "Host: turnhost.example\r\nOrigin: https://evil.example\r\n").await, 403);
    let token = |command: &mut std::process::Command| {
        command.env("TURNHOST_TOKEN", TOKEN);
    };
    let closed = Server::start_with(&["--agent", "echo", "--host", "0.0.0.0"], token);
    assert_eq!(both(&closed, "", "Host: turnhost.example\r\n").await, 401);
    let bearer = format!("Host: turnhost.example\r\nAuthorization: Bearer {TOKEN}\r\n");
    assert_eq!(both(&closed, "", &bearer).await, 200);
    assert_eq!(closed.get("/health").await.status, 200);
    // A loopback address that is not the usual one needs none.
    let own = Server::start(&["--agent", "echo", "--host", "localhost"]);
    assert_eq!(both(&own, "", "").await, 200);
    let end = turnhost(&["--agent", "echo", "--port", "0", "--host", "nowhere.example"]).await;
    let sentence = "Error: invalid host \"nowhere.example\": give an IP address\n";
    assert_eq!((end.code, &*end.stderr), (Some(1), sentence));
}

#[tokio::test]
async fn a_token_may_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("token"), format!("  {TOKEN}\r\n")).unwrap();
    std::fs::write(path("empty"), " \n").unwrap();
    // The file wins over the environment.
    let other = |command: &mut std::process::Command| {
        command.env("TURNHOST_TOKEN", "another-token");
    };
    let server = Server::start_with(&["--agent", "echo", "--token-file", &path("token")], other);
    assert_eq!(both(&server, "", &format!("Authorization: Bearer {TOKEN}\r\n")).await, 200);
    assert_eq!(both(&server, "", "Authorization: Bearer another-token\r\n").await, 401);
    for (name, problem) in [
        ("missing", "No such file or directory (os error 2)"),
        ("empty", "the file is empty"),
        ("", "Is a directory (os error 21)"),
    ] {
        let end = turnhost(&["--agent", "echo", "--port", "0", "--token-file", &path(name)]).await;
        let sentence = format!("Error: --token-file {}: {problem}\n", path(name));
        assert_eq!((end.code, end.stderr), (Some(1), sentence));
    }
    // As an argument every process of the machine could read it: there is no such flag.
    let end = turnhost(&["--agent", "echo", "--port", "0", "--token", TOKEN]).await;
    assert_eq!(end.code, Some(2));
}

/// Not in the log, not in an error, not in an answer, not in the environment or the arguments of any process below.
#[tokio::test]
async fn a_token_never_turns_up() {
    let folder = tempfile::tempdir().unwrap();
    let handler = folder.path().join("handler.mjs");
    let module = r#"export default { async run({ userPrompt }) {
        console.error("asked", userPrompt);
        if (userPrompt.startsWith("fail")) throw new Error(userPrompt);
        return { type: "text", text: userPrompt + JSON.stringify(process.env) };
    } };"#;
    std::fs::write(&handler, module).unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let (handler, file) = (handler.display().to_string(), file.display().to_string());
    let from_file = ["--token-file", &file];
    for (from, flags) in [("the environment", &[][..]), ("a file", &from_file[..])] {
        let flags = [&["--handler", &handler, "--log-level", "trace"], flags].concat();
        let server = Server::start_with(&flags, |command| {
            if from == "the environment" {
                command.env("TURNHOST_TOKEN", TOKEN);
            }
        });
        let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
        let near = format!("Authorization: Bearer {TOKEN}x\r\n");
        let in_query = "?token=t0ken-of-this-test%3Awith+colon";
        assert_eq!(both(&server, "", &near).await, 401);
        assert_eq!(both(&server, "?token=t0ken-of-this-test%3Awith+colonx", "").await, 401);
        assert_eq!(both(&server, in_query, "").await, 200);
        for prompt in [format!("say {TOKEN}"), format!("fail {TOKEN}")] {
            let body = json!({ "input": prompt }).to_string();
            let lines = format!("{bearer}Content-Length: {}\r\n", body.len());
            let turn = raw_http::request(server.address(), "POST /runtime/advance", &lines, body.as_bytes()).await;
            assert!(turn.body.contains("[REDACTED]") && !turn.body.contains(TOKEN), "{from}: {}", turn.body);
            let mut socket = RawWs::connect_with(server.address(), "/", &bearer).await.expect("an upgrade");
            let query = json!({"message_type": "invocation_message", "user_prompt": prompt});
            socket.send(&crate::support::raw_ws::Frame::text(query.to_string())).await;
            let said = socket.text().await;
            assert!(said.contains("[REDACTED]") && !said.contains(TOKEN), "{from}: {said}");
        }
        let below = proc::descendants(server.pid());
        assert!(below.len() >= 2, "{from}: the handler and its shim: {below:?}");
        for process in below {
            let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
            let environment = String::from_utf8_lossy(&environment);
            assert!(!environment.contains(TOKEN) && !process.command.contains(TOKEN), "{from}: {process:?}");
        }
        let log = server.log();
        assert!(log.contains("unauthorized") && log.contains("asked"), "{from}: {log}");
        assert!(!log.contains(TOKEN) && !log.contains("t0ken-of-this-test"), "{from}: {log}");
    }
}
