//! Requests that are refused: which check answers, and in which words.

use super::{create, echo, post};
use crate::support::{HttpAnswer, Server, read};
use reqwest::Method;
use serde_json::{Value, json};

const UUID: &str = "7c4f3c3e-8a63-4fe2-baf3-d72b0b7d6458";

#[tokio::test]
async fn in_the_order_of_the_checks() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("work")).unwrap();
    std::fs::write(root.join("file"), "").unwrap();
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.env("HOME", &root);
    });
    create(&server, &json!({"agent": "echo", "prompt": "x", "session_id": UUID})).await;
    let ok = json!({"agent": "echo", "prompt": "x"});
    let with = |more: Value| {
        let mut body = ok.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let folder = |message: String| json!({"error": "invalid_work_dir", "message": message});
    let error = |text: &str| json!({"error": text});
    let ssh = "working directory cannot be or contain sensitive directory: .ssh";
    let team = |team: Value, agent: &str| json!({"agent": agent, "prompt": "x", "team": team});
    let scaffold = "orchestrator must scaffold team directory before spawning";
    for (body, status, expected) in [
        (json!({}), 400, error("agent is required")),
        (json!({"agent": null, "prompt": "x"}), 400, error("agent is required")),
        (json!({"agent": "nope", "runtime": "ssh"}), 400, error("prompt is required")),
        (json!({"agent": "echo", "prompt": "", "interactive": false}), 400, error("prompt is required")),
        (
            json!({"agent": "nope", "prompt": "x", "runtime": "ssh", "work_dir": "rel"}),
            400,
            json!({"error": "unknown runtime: ssh", "available": ["local"]}),
        ),
        (with(json!({"runtime": "docker"})), 400, json!({"error": "unknown runtime: docker", "available": ["local"]})),
        (
            json!({"agent": "nope", "prompt": "x", "work_dir": "rel"}),
            400,
            folder("working directory must be absolute: rel".into()),
        ),
        (with(json!({"work_dir": "/a/../b"})), 400, folder("working directory cannot contain '..': /a/../b".into())),
        (with(json!({"work_dir": "/no/such"})), 400, folder("working directory does not exist: /no/such".into())),
        (
            with(json!({"work_dir": at("file")})),
            400,
            folder(format!("working directory is not a directory: {}", at("file"))),
        ),
        (with(json!({"work_dir": "/"})), 400, folder("working directory cannot be the filesystem root".into())),
        (with(json!({"work_dir": at("")})), 400, folder(ssh.into())),
        (with(json!({"mounts": [{"host": "rel"}]})), 400, folder("working directory must be absolute: rel".into())),
        (
            with(json!({"volumes": ["nocolon", "/no/such:/x"]})),
            400,
            folder("working directory does not exist: /no/such".into()),
        ),
        (json!({"agent": "nope", "prompt": "x", "session_id": "x"}), 400, error("unknown agent: nope")),
        (team(json!({}), "claude"), 400, error("team.name is required")),
        (team(json!({"name": "t"}), "claude"), 400, error("team.agent_name is required for team sessions")),
        (
            team(json!({"name": "t", "agent_name": "a"}), "codex"),
            400,
            error("team config is only supported for claude agent"),
        ),
        (
            team(json!({"name": "t", "agent_name": "a"}), "claude"),
            400,
            json!({"error": "team not found", "team": "t", "message": scaffold}),
        ),
        (with(json!({"session_id": "not-a-uuid"})), 400, error("session_id must be a valid UUID")),
        (with(json!({"session_id": UUID})), 409, error("session_id already exists")),
        (with(json!({"session_id": UUID.to_uppercase()})), 409, error("session_id already exists")),
        (with(json!({"session_id": UUID.replace('-', "")})), 409, error("session_id already exists")),
        (with(json!({"timeout": "soon"})), 400, error("invalid timeout: soon")),
        (with(json!({"timeout": "-5s"})), 400, error("invalid timeout: -5s")),
        (with(json!({"env": {"A=B": "x"}})), 400, error("invalid env name: A=B")),
        (with(json!({"env": {"": "x"}})), 400, error("invalid env name: ")),
    ] {
        let answer = post(&server, &body).await;
        assert_eq!((answer.status, answer.json()), (status, expected), "{body}");
        assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"), "{body}");
    }
    let all = server.get("/sessions").await.json();
    assert_eq!(all.as_array().unwrap().len(), 1, "nothing of it left a session: {all}");
}

/// Bodies that are none: any text, but not an empty one.
#[tokio::test]
async fn bodies_of_the_wrong_form() {
    let server = echo();
    for body in [
        "",
        "{",
        "null",
        "[]",
        "7",
        r#""echo""#,
        r#"{"agent":7}"#,
        r#"{"agent":"echo","prompt":{}}"#,
        r#"{"agent":"echo","prompt":"x","interactive":"yes"}"#,
        r#"{"agent":"echo","prompt":"x","tags":{"a":1}}"#,
        r#"{"agent":"echo","prompt":"x","env":["a"]}"#,
        r#"{"agent":"echo","prompt":"x","mounts":{}}"#,
        r#"{"agent":"echo","prompt":"x","lifecycle":{"hook_timeout":"1"}}"#,
    ] {
        let answer = read(server.request(Method::POST, "/sessions").body(body)).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(!answer.json()["error"].as_str().unwrap().is_empty(), "{body}");
    }
    let large = format!(r#"{{"agent":"echo","prompt":"{}"}}"#, "x".repeat(32 << 20));
    let answer = read(server.request(Method::POST, "/sessions").body(large)).await;
    assert_eq!((answer.status, answer.json()), (413, json!({"error": "request body too large"})));
}

fn told(answer: &HttpAnswer) -> (u16, &str) {
    (answer.status, &answer.body)
}

#[tokio::test]
async fn paths_and_methods() {
    let server = echo();
    let unknown = (404, r#"{"error":"session not found"}"#);
    let nothing = (404, r#"{"error":"not found"}"#);
    for path in [format!("/sessions/{UUID}"), format!("/sessions/{UUID}/info"), format!("/sessions/{UUID}/logs")] {
        assert_eq!(told(&server.get(&path).await), unknown, "{path}");
    }
    assert_eq!(told(&server.get("/sessions/..%2f..%2fetc").await), unknown);
    assert_eq!(told(&server.get(&format!("/sessions/{UUID}/log")).await), (404, r#"{"error":"log file not found"}"#));
    assert_eq!(told(&super::delete(&server, UUID).await), unknown);
    assert_eq!(told(&server.get(&format!("/ws/sessions/{UUID}")).await), unknown);
    for (method, path) in [
        (Method::PUT, "/sessions"),
        (Method::DELETE, "/sessions"),
        (Method::POST, "/sessions/x"),
        (Method::POST, "/sessions/x/info"),
        (Method::GET, "/sessions/x/else"),
        (Method::POST, "/ws/sessions/x"),
        (Method::GET, "/ws/else"),
        (Method::POST, "/sessions/create"),
    ] {
        assert_eq!(told(&read(server.request(method.clone(), path)).await), nothing, "{method} {path}");
    }
    let id = super::told(&server, "x").await;
    let answer = server.get(&format!("/ws/sessions/{id}")).await;
    assert_eq!((answer.status, answer.body.as_str()), (400, "Bad Request"));
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    let answer = server.get(&format!("/sessions/{id}/logs?cursor=x")).await;
    assert_eq!(told(&answer), (400, r#"{"error":"invalid cursor"}"#));
    // Not offered: the paths are free.
    let other = Server::start(&["--agent", "echo", "--protocols", "dari,v1"]);
    assert_eq!(told(&other.get("/sessions").await), nothing);
}

#[tokio::test]
async fn who_may_call() {
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.env("TURNHOST_TOKEN", "sesame-open-now");
    });
    let answer = server.get("/sessions").await;
    assert_eq!(told(&answer), (401, r#"{"error":"unauthorized"}"#));
    let bearer = |request: reqwest::RequestBuilder| request.header("authorization", "Bearer sesame-open-now");
    assert_eq!(read(bearer(server.request(Method::GET, "/sessions"))).await.status, 200);
    let foreign = bearer(server.request(Method::POST, "/sessions")).header("origin", "https://evil.example");
    assert_eq!(told(&read(foreign).await), (403, r#"{"error":"origin not allowed"}"#));
    let rebound = server.request(Method::GET, "/sessions").header("host", "evil.example");
    assert_eq!(told(&read(rebound).await), (403, r#"{"error":"host not allowed"}"#));
}

#[tokio::test]
async fn another_name_of_this_machine() {
    let server = Server::start(&["--agent", "echo", "--allow-host", "box.local,other"]);
    for (host, status) in [("box.local:80", 200), ("other", 200), ("localhost", 200), ("evil.example", 403)] {
        let request = server.request(Method::GET, "/sessions").header("host", host);
        assert_eq!(read(request).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn the_limit_of_sessions() {
    let server = Server::start(&["--agent", "echo", "--max-sessions", "2"]);
    let live = json!({"agent": "echo", "interactive": true});
    let first = create(&server, &live).await;
    create(&server, &live).await;
    let refused = post(&server, &live).await;
    assert_eq!(told(&refused), (503, r#"{"error":"max sessions limit reached"}"#));
    assert_eq!(super::delete(&server, &first).await.status, 200);
    // Those that have ended do not count.
    super::told(&server, "one").await;
    super::told(&server, "two").await;
    create(&server, &live).await;
    assert_eq!(post(&server, &live).await.status, 503);
}
