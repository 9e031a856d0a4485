//! Messages that RuntimeUse refuses, field by field: sections 3, 6 and 17.1 (N1, N6).

mod rows;

use crate::support::{Server, WsClient};
use rows::{Due, Row, all};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

fn error(text: &str, field: Option<&str>) -> Value {
    let mut metadata = json!({"error_name": "ValidationError"});
    if let Some(field) = field {
        metadata["field"] = field.into();
    }
    json!({"message_type": "error_message", "error": text, "metadata": metadata})
}

async fn works(client: &mut WsClient, after: &str) {
    client.query("still there").await;
    assert_eq!(client.terminal().await["data"]["text"], "still there", "after {after}");
}

#[tokio::test]
async fn runtimeuse_answers_every_malformed_message() {
    let mut server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let rows = all();
    assert!(rows.len() >= 60, "{} rows", rows.len());
    for Row { name, message, due, .. } in rows {
        futures_util::SinkExt::send(&mut client.socket, message).await.unwrap();
        match due {
            Due::Refused(text, field) => assert_eq!(client.said().await, [error(&text, field.as_deref())], "{name}"),
            Due::Nothing => assert_eq!(client.said().await, [] as [Value; 0], "{name}"),
            Due::Result(text) => {
                let result = json!({"type": "text", "text": text});
                let result = json!({"message_type": "result_message", "metadata": {}, "data": result});
                assert_eq!(client.until_terminal().await, [result], "{name}");
            }
        }
        works(&mut client, &name).await;
    }
    assert!(server.is_running());
}

/// N1 and N6: what was meant as a request, or is not JSON, is answered without ending the running call; the rest is told
/// only to clients that asked for notices.
async fn every_row_while_a_request_runs(extensions: Value, notices: bool) {
    let mut server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    client.query_with("@sleep 600000", json!({"request_id": "long", "extensions": extensions})).await;
    server.busy().await;
    for Row { name, message, is_request, due } in all() {
        futures_util::SinkExt::send(&mut client.socket, message).await.unwrap();
        let mut expected = match due {
            Due::Refused(text, field) if is_request || text.starts_with("Invalid JSON") => {
                vec![error(&text, field.as_deref())]
            }
            Due::Refused(text, field) if notices => {
                let mut notice = json!({"message_type": "notice_message", "level": "error", "text": text});
                if let Some(field) = field {
                    notice["field"] = field.into();
                }
                vec![notice]
            }
            Due::Refused(..) | Due::Nothing => vec![],
            Due::Result(_) => {
                let text = "Received request while another is in flight!";
                vec![json!({"message_type": "error_message", "error": text, "metadata": {"error_name": "Error"}})]
            }
        };
        for frame in expected.iter_mut().filter(|frame| frame["message_type"] == "error_message") {
            frame["terminal"] = false.into();
        }
        assert_eq!(client.said().await, expected, "{name}");
    }
    assert_eq!(server.get("/health").await.json()["turns"], 1, "the request goes on");
    client.send(&json!({"message_type": "cancel_message"})).await;
    let cancelled = json!([{"message_type": "error_message", "error": "Request cancelled", "metadata": {}, "request_id": "long", "seq": 1}]);
    assert_eq!(Value::from(client.until_terminal().await), cancelled);
    works(&mut client, "the cancel").await;
    assert!(server.is_running());
}

#[tokio::test]
async fn runtimeuse_answers_every_malformed_message_while_a_request_runs() {
    every_row_while_a_request_runs(json!(null), false).await;
}

#[tokio::test]
async fn runtimeuse_notices_every_malformed_message_while_a_request_runs() {
    every_row_while_a_request_runs(json!(["notices"]), true).await;
}

/// A client that sends much before it reads gets every answer: it is not taken for one that never reads.
#[tokio::test]
async fn a_burst_of_malformed_messages_is_answered_to_the_last() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let flood = 2000;
    for _ in 0..flood {
        futures_util::SinkExt::feed(&mut client.socket, Message::text("[]")).await.unwrap();
    }
    let said = tokio::time::timeout(Duration::from_secs(20), client.said()).await.expect("answers");
    assert_eq!(said.len(), flood);
    works(&mut client, "the burst").await;
}
