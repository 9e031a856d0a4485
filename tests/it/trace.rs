//! The caller's place in its trace reaches whatever works for its turn.

use crate::support::model::{Model, text};
use crate::support::stub::Stub;
use crate::support::{Server, eventually, read};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const STATE: &str = "vendor=one,other=two";

/// The turn lines that a handler got: prompt, `traceparent`, `tracestate`.
fn lines(stub: &Stub) -> Vec<(String, Value, Value)> {
    let log = std::fs::read_to_string(stub.path("log")).unwrap_or_default();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|line| {
            (line["prompt"].as_str().unwrap().to_owned(), line["traceparent"].clone(), line["tracestate"].clone())
        })
        .collect()
}

#[tokio::test]
async fn a_handler_gets_it_from_every_protocol() {
    let stub = Stub::new();
    let server =
        Server::start_with(&["--handler", stub.program().to_str().unwrap()], |command| stub.environment(command));
    let post = |path: &str, body: Value| {
        let request = server.request(Method::POST, path).body(body.to_string());
        request.header("traceparent", PARENT).header("tracestate", STATE)
    };
    assert_eq!(read(post("/runtime/advance", json!({"input": "dari", "session_id": "d"}))).await.status, 200);
    assert_eq!(read(post("/v1/sessions/v/turns?wait=30", json!({"prompt": "v1"}))).await.status, 200);
    let made = read(post("/sessions", json!({"agent": "stub-handler", "prompt": "sessions"}))).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let mut upgrade = format!("ws://{}/", server.address()).into_client_request().unwrap();
    upgrade.headers_mut().insert("traceparent", PARENT.parse().unwrap());
    upgrade.headers_mut().insert("tracestate", STATE.parse().unwrap());
    let tcp = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(upgrade, tcp).await.unwrap();
    let mut client = crate::support::WsClient { socket };
    client.query("runtimeuse").await;
    client.terminal().await;
    // Without one there is none, and a wrong one is none.
    server.advance(&json!({"input": "none", "session_id": "d"})).await;
    let wrong = server.request(Method::POST, "/runtime/advance").header("traceparent", "00-0-0-00");
    read(wrong.body(r#"{"input": "wrong", "session_id": "d"}"#)).await;
    let twice = server.request(Method::POST, "/runtime/advance").header("traceparent", PARENT);
    read(twice.header("traceparent", PARENT).body(r#"{"input": "twice", "session_id": "d"}"#)).await;
    stub.called(7).await;
    for prompt in ["dari", "v1", "sessions", "runtimeuse"] {
        let found = eventually(prompt, || lines(&stub).into_iter().find(|(said, ..)| said == prompt)).await;
        assert_eq!((&found.1, &found.2), (&json!(PARENT), &json!(STATE)), "{prompt}");
    }
    for prompt in ["none", "wrong", "twice"] {
        let found = lines(&stub).into_iter().find(|(said, ..)| said == prompt).unwrap();
        assert_eq!((&found.1, &found.2), (&Value::Null, &Value::Null), "{prompt}");
    }
}

#[tokio::test]
async fn a_command_of_a_turn_gets_it() {
    let server = Server::start(&["--agent", "echo"]);
    let mut upgrade = format!("ws://{}/", server.address()).into_client_request().unwrap();
    upgrade.headers_mut().insert("traceparent", PARENT.parse().unwrap());
    let tcp = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(upgrade, tcp).await.unwrap();
    let mut client = crate::support::WsClient { socket };
    let command = json!({"command": "echo parent=$TRACEPARENT"});
    client.send(&json!({"message_type": "command_execution_message", "commands": [command]})).await;
    let frames = client.until_terminal().await;
    assert!(frames.iter().any(|frame| frame["text"] == format!("parent={PARENT}\n")), "{frames:?}");
}

#[tokio::test]
async fn a_call_of_the_model_gets_it() {
    let model = Model::start(vec![text("Hello."), text("Hello.")]).await;
    let server = Server::start_with(&["--agent", "openai", "--openai-model", "m-1"], |command| {
        command.env("OPENAI_BASE_URL", model.base()).env("OPENAI_API_KEY", "sk-good-0123456789");
    });
    let request =
        server.request(Method::POST, "/runtime/advance").header("traceparent", PARENT).header("tracestate", STATE);
    assert_eq!(read(request.body(r#"{"input": "Hi", "session_id": "s"}"#)).await.status, 200);
    assert_eq!(server.advance(&json!({"input": "Hi again", "session_id": "s"})).await.status, 200);
    let calls = model.calls();
    let header = |at: usize, name: &str| calls[at].headers.get(name).cloned();
    assert_eq!((header(0, "traceparent"), header(0, "tracestate")), (Some(PARENT.to_owned()), Some(STATE.to_owned())));
    assert_eq!(header(1, "traceparent"), None);
}
