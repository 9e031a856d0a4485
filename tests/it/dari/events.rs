//! The events that a platform may ask for in place of a text.

use crate::support::agents::with_model;
use crate::support::model::{Block, Model, Play, text};
use crate::support::{Server, repository};
use serde_json::json;

#[tokio::test]
async fn check_28_opt_in_events() {
    let handler = repository("tests/it/scripts/turns").display().to_string();
    let completed = |kind: &str, data: serde_json::Value| json!({"type": kind, "data": data});
    let said = completed("assistant.message_completed", json!({"content": [{"type": "text", "text": "A report."}]}));
    let input = json!({"command": "ls", "timeout": null});
    let requested = |id: &str, name: &str, arguments: &serde_json::Value| {
        completed("tool.call_requested", json!({"tool_call_id": id, "tool_name": name, "arguments": arguments}))
    };
    let gave = |kind: &str, id: &str, name: &str, arguments: &serde_json::Value, output: &str, is_error: bool| {
        let data = json!({"tool_call_id": id, "tool_name": name, "arguments": arguments,
                          "result": {"output": output}, "is_error": is_error});
        completed(kind, data)
    };
    let one = gave("tool.call_completed", "call-1", "shell", &input, "report.txt\n", false);
    let two = gave("tool.call_failed", "call-2", "nothing", &json!({}), "no such tool", true);
    let (ask_one, ask_two) = (requested("call-1", "shell", &input), requested("call-2", "nothing", &json!({})));
    for (mode, events) in [("completed", json!([one, two, said])), ("all", json!([ask_one, one, ask_two, two, said]))] {
        let server = Server::start(&["--handler", &handler, "--dari-events", mode]);
        let body = json!({"input": "everything", "message_id": "m1", "state": null});
        let answer = server.advance(&body).await;
        let told = answer.json();
        assert_eq!(told["events"], events, "{mode}");
        assert_eq!((&told["action"], told.get("text")), (&json!({"type": "wait_for_user"}), None));
        assert!(answer.body.contains(r#""state":{"z":1.0e3,"#), "{}", answer.body);
        assert_eq!(server.advance(&body).await.body, answer.body, "a retry gets the same bytes");
    }
    let server = Server::start(&["--handler", &handler]);
    let told = server.advance(&json!({"input": "everything", "state": null})).await.json();
    assert_eq!(told.as_object().unwrap().keys().collect::<Vec<_>>(), ["state", "text"]);
    let end = crate::support::turnhost(&["--agent", "echo", "--port", "0", "--dari-events", "some"]).await;
    assert!(end.code == Some(1) && end.stderr.contains("--dari-events: unknown value \"some\""), "{end:?}");
}

#[tokio::test]
async fn the_tools_of_an_agent() {
    let call = Play::Say(vec![Block::Shell(json!({"commands": ["echo hi"]}))]);
    let model = Model::start(vec![call, text("It said hi.")]).await;
    let args = ["--agent", "openai", "--openai-model", "m", "--dari-events", "completed"];
    let server = Server::start_with(&args, with_model(&model, "sk-good-0123456789"));
    let told = server.advance(&json!({"input": "Look", "state": null})).await.json();
    let kinds: Vec<_> = told["events"].as_array().unwrap().iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["tool.call_completed", "assistant.message_completed"]);
    assert_eq!(told["events"][0]["data"]["result"], json!({"output": "hi\n"}));
    assert_eq!(told["state"]["previous_response_id"], "resp_2");
}
