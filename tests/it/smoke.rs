//! The shortest proof of life.

use crate::support::Server;
use serde_json::json;

#[tokio::test]
async fn a_turn_through_both_protocols() {
    let server = Server::start(&["--agent", "echo"]);
    let answer = server.advance(&json!({"input": "hello", "state": null})).await;
    assert_eq!((answer.status, answer.body), (200, r#"{"text":"hello","state":{"v":1,"turn":1}}"#.to_owned()));
    let mut client = server.connect("/").await;
    client.query("hello").await;
    let frames = client.until_terminal().await;
    let expected = json!({"message_type": "result_message", "metadata": {}, "data": {"type": "text", "text": "hello"}});
    assert_eq!(frames, [expected]);
}

/// Somebody who looks at the address with a browser.
#[tokio::test]
async fn a_plain_request_to_the_channel() {
    let server = Server::start(&["--agent", "echo"]);
    let answer = server.get("/").await;
    assert_eq!((answer.status, answer.body.as_str()), (426, "Upgrade Required"));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
}
