//! What the user says while a turn runs: passed on to a handler that listens, refused in words by one that does not.

use crate::support::agents::{begin, rest};
use crate::support::{Server, WsClient};
use serde_json::{Value, json};
use std::fs;

async fn say(client: &mut WsClient, text: &str) {
    client.send(&json!({"message_type": "input_message", "text": text})).await;
}

#[tokio::test]
async fn a_module_hears_it() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("listen.mjs");
    let source = "export default { async run(invocation, sender) {
        sender.sendAssistantMessage(['listening']);
        const heard = await new Promise((done) => invocation.onInput(done));
        return { type: 'text', text: `heard ${heard}` };
    } };";
    fs::write(&module, source).unwrap();
    let server = Server::start(&["--handler", module.to_str().unwrap()]);
    let mut client = server.connect("/").await;
    begin(&mut client, "go", &json!({})).await;
    while client.next().await.unwrap()["message_type"] != "assistant_message" {}
    say(&mut client, "more").await;
    assert_eq!(rest(&mut client).await.text(), "heard more");
}

#[tokio::test]
async fn one_that_does_not_listen_is_told_of() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let told = |frame: &Value| frame.get("error").or(frame.get("text")).unwrap().as_str().unwrap().to_owned();
    say(&mut client, "hello?").await;
    assert_eq!(told(&client.next().await.unwrap()), "input_message: no such request is running");
    client.send(&json!({"message_type": "input_message"})).await;
    assert_eq!(told(&client.next().await.unwrap()), "input_message.text: required string is missing");

    begin(&mut client, "@sleep 60000", &json!({"request_id": "q1"})).await;
    server.busy().await;
    say(&mut client, "hello?").await;
    let notice = client.next().await.unwrap();
    assert_eq!(notice["message_type"], "notice_message", "the running request goes on: {notice}");
    assert_eq!(told(&notice), "input_message: the agent takes no further messages while it works");
    client.send(&json!({"message_type": "input_message", "text": "x", "request_id": "other"})).await;
    assert_eq!(told(&client.next().await.unwrap()), "input_message: no such request is running");
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(rest(&mut client).await.error(), "Request cancelled");
}
