//! The built-in `openai` agent against a model on loopback that speaks the real wire.

use crate::support::agents::{Seen, advance, ask, ask_really, begin, rest, turn, with_model};
use crate::support::model::{Block, Model, Play, status, text, tool};
use crate::support::{Server, eventually, proc};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const KEY: &str = "sk-good-0123456789";

async fn start(plays: Vec<Play>, args: &[&str]) -> (Server, Model) {
    let model = Model::start(plays).await;
    (server(&model, args), model)
}

fn server(model: &Model, args: &[&str]) -> Server {
    let args = [&["--agent", "openai", "--openai-model", "default-model"], args].concat();
    Server::start_with(&args, with_model(model, KEY))
}

fn shell(command: &str) -> Play {
    Play::Say(vec![Block::Shell(json!({"commands": [command], "timeout_ms": null, "max_output_length": null}))])
}

fn person() -> Value {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                        "required": ["name"]});
    json!({"output_format_json_schema_str": json!({"type": "json_schema", "schema": schema}).to_string()})
}

#[tokio::test]
async fn a_plain_turn() {
    let (server, model) = start(vec![text("Hello there.")], &[]).await;
    let seen = ask(&server, "Hi", &json!({})).await;
    assert_eq!((seen.text(), seen.deltas().as_str()), ("Hello there.", "Hello there."));
    assert_eq!(seen.messages, [json!(["Hello there."])]);
    assert_eq!(seen.kinds(), ["progress", "text_delta", "text", "usage"]);
    let metadata = json!({"usage": {"inputTokens": 10, "outputTokens": 3, "totalTokens": 13}, "model_calls": 1});
    assert_eq!(seen.terminal["metadata"], metadata);
    let usage =
        json!({"type": "usage", "input_tokens": 10, "output_tokens": 3, "cached_tokens": 4, "reasoning_tokens": 1});
    assert_eq!(seen.of("usage"), [&usage]);

    let call = &model.calls()[0];
    assert_eq!(call.headers["authorization"], format!("Bearer {KEY}"));
    let expected = json!({
        "model": "test-model", "instructions": "Be brief.", "input": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "web_search", "search_context_size": "medium"},
                  {"type": "shell", "environment": {"type": "local"}}],
        "stream": true,
    });
    assert_eq!(call.body, expected);
}

/// The same by the client that people use, and by the other host.
#[tokio::test]
async fn the_real_client_and_dari() {
    let (server, model) = start(vec![text("one"), text("two"), text("three"), text("four")], &[]).await;
    let answers = ask_really(&server, &json!([{"prompt": "1"}, {"prompt": "2"}])).await;
    assert_eq!((&answers[0]["text"], &answers[0]["messages"]), (&json!("one"), &json!([["one"]])));
    assert_eq!(answers[1]["text"], "two");

    let (_, first) = advance(&server, "3", &Value::Null).await;
    assert_eq!((&first["text"], &first["state"]["previous_response_id"]), (&json!("three"), &json!("resp_3")));
    assert_eq!(model.last()["model"], "default-model");
    let (_, second) = advance(&server, "4", &first["state"]).await;
    assert_eq!(second["text"], "four");
    assert_eq!(model.last()["previous_response_id"], "resp_3");
    assert_eq!(model.last()["input"], json!([{"role": "user", "content": "4"}]));
}

#[tokio::test]
async fn memory_without_anything_kept_at_the_service() {
    let plays = vec![Play::Say(vec![Block::Thinking("Hm."), Block::Text("one".into())]), text("two")];
    let (server, model) = start(plays, &["--openai-state", "stateless"]).await;
    let (_, first) = advance(&server, "1", &Value::Null).await;
    drop(server);
    // Another process, with nothing but the state.
    let server = self::server(&model, &["--openai-state", "stateless"]);
    let (_, second) = advance(&server, "2", &first["state"]).await;
    assert_eq!(second["text"], "two");
    let asked = model.last();
    assert_eq!((&asked["store"], &asked["include"]), (&json!(false), &json!(["reasoning.encrypted_content"])));
    let kinds: Vec<_> = asked["input"].as_array().unwrap().iter().map(|item| item["type"].as_str()).collect();
    assert_eq!(kinds, [None, Some("reasoning"), Some("message"), None]);
    assert_eq!(asked["input"][1]["encrypted_content"], "c2VjcmV0");
}

/// What the service has forgotten ends nothing.
#[tokio::test]
async fn a_talk_that_is_gone() {
    let (server, model) = start(vec![text("Anew.")], &[]).await;
    let (_, told) = advance(&server, "Hi", &json!({"v": 1, "previous_response_id": "resp_gone"})).await;
    assert_eq!((&told["text"], &told["state"]["previous_response_id"]), (&json!("Anew."), &json!("resp_2")));
    assert_eq!(model.last().get("previous_response_id"), None);
}

#[tokio::test]
async fn a_round_of_tools() {
    let both = Play::Say(vec![
        Block::Thinking("Let me look."),
        Block::Shell(json!({"commands": ["echo out; echo err >&2; exit 3", "echo $GREETING"]})),
        Block::Search,
    ]);
    let (server, model) = start(vec![both, text("Done.")], &[]).await;
    let seen = ask(&server, "Look", &json!({"agent_env": {"GREETING": "grüezi"}})).await;
    assert_eq!(seen.text(), "Done.");
    assert_eq!(
        seen.kinds(),
        ["progress", "thinking", "tool_use", "tool_result", "tool_use", "tool_result", "text_delta", "text", "usage"]
    );
    let result = json!({"type": "tool_result", "id": "call_1_1", "output": "out\nerr\ngrüezi\n", "is_error": true,
                        "exit_code": 3});
    assert_eq!(seen.of("tool_result")[0], &result);
    let outputs = json!([{"type": "shell_call_output", "call_id": "call_1_1", "output": [
        {"stdout": "out\n", "stderr": "err\n", "outcome": {"type": "exit", "exit_code": 3}},
        {"stdout": "grüezi\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
    ]}]);
    assert_eq!(model.last()["input"], outputs);
    assert_eq!(model.last()["instructions"], "Be brief.", "instructions and tools are not inherited");
    assert_eq!(seen.terminal["metadata"]["usage"]["totalTokens"], 26);
}

/// A model that knows no shell tool gets a function; that is found out once.
#[tokio::test]
async fn a_model_without_the_shell_tool() {
    let plays = vec![tool("shell", json!({"command": "echo hi", "timeout_ms": null})), text("Done."), text("Again.")];
    let (server, model) = start(plays, &[]).await;
    let simple = json!({"model": "simple-model"});
    let seen = ask(&server, "Look", &simple).await;
    assert_eq!(seen.text(), "Done.");
    assert_eq!(model.calls()[0].path, "/v1/responses");
    assert_eq!(seen.of("tool_use")[0]["input"], json!({"command": "echo hi", "timeout_ms": null}));
    assert_eq!(seen.of("tool_result")[0]["output"], "hi\n");
    assert_eq!(ask(&server, "Again", &simple).await.text(), "Again.");
    assert_eq!(model.calls().len(), 4, "the first was refused");
}

#[tokio::test]
async fn arguments_that_are_wrong_do_not_end_the_turn() {
    let plays = vec![
        Play::Say(vec![
            Block::Function("shell", "{\"command\": \"ec"),
            Block::Function("nothing", "{\"command\":\"x\"}"),
        ]),
        text("Sorry."),
    ];
    let (server, model) = start(plays, &["--openai-shell", "function"]).await;
    let seen = ask(&server, "Look", &json!({})).await;
    assert_eq!(seen.text(), "Sorry.");
    let outputs = model.last()["input"].clone();
    assert!(outputs[0]["output"].as_str().unwrap().starts_with("the arguments are not valid: "), "{outputs}");
    assert_eq!(outputs[1]["output"], "there is no function nothing");
}

#[tokio::test]
async fn a_command_has_limits() {
    let action =
        json!({"commands": ["sleep 30", "yes | head -c 300000"], "timeout_ms": 200, "max_output_length": 1000});
    let (server, model) = start(vec![Play::Say(vec![Block::Shell(action)]), text("Done.")], &[]).await;
    let began = Instant::now();
    assert_eq!(ask(&server, "Look", &json!({})).await.text(), "Done.");
    assert!(began.elapsed() < Duration::from_secs(10));
    let output = model.last()["input"][0].clone();
    assert_eq!(
        (&output["output"][0]["outcome"], &output["max_output_length"]),
        (&json!({"type": "timeout"}), &json!(1000))
    );
    let stdout = output["output"][1]["stdout"].as_str().unwrap();
    assert!(stdout.len() < 1100 && stdout.contains("[299000 bytes left out]"), "{}", stdout.len());
}

/// The key is the model's service's, and commands are the model's.
#[tokio::test]
async fn commands_see_no_key() {
    let (server, model) = start(vec![shell("env"), text("Done.")], &[]).await;
    let seen = ask(&server, "Look", &json!({})).await;
    let told = model.last().to_string();
    assert!(told.contains("OPENAI_BASE_URL") && !told.contains("OPENAI_API_KEY") && !told.contains(KEY), "{told}");
    assert!(!format!("{seen:?}").contains(KEY));
    assert!(!server.log().contains(KEY));
}

#[tokio::test]
async fn structured_output() {
    let plays = vec![
        text(r#"{"name":"Ann","age":7}"#),
        text("Ann is seven."),
        text(r#"{"name":"Ann","age":8}"#),
        text(r#"{"age":"old"}"#),
        text(r#"{"name":3}"#),
    ];
    let (server, model) = start(plays, &[]).await;
    let seen = ask(&server, "Who?", &person()).await;
    assert_eq!(
        seen.terminal["data"],
        json!({"type": "structured_output", "structured_output": {"name": "Ann", "age": 7}})
    );
    let format = &model.last()["text"]["format"];
    // A property is optional, so the service cannot hold the model to it; the schema goes as it came.
    assert_eq!((&format["strict"], &format["schema"]["required"]), (&json!(false), &json!(["name"])));

    let seen = ask(&server, "Who?", &person()).await;
    assert_eq!(seen.terminal["data"]["structured_output"], json!({"name": "Ann", "age": 8}), "after one repair");
    assert!(model.last()["input"][0]["content"].as_str().unwrap().starts_with("Your answer does not fit the schema: "));

    let seen = ask(&server, "Who?", &person()).await;
    assert_eq!((seen.category(), &seen.terminal["metadata"]["retryable"]), ("structured_output_missing", &json!(true)));
    assert!(seen.error().contains("/name") && seen.error().contains("string"), "{}", seen.error());
    assert_eq!(seen.terminal["metadata"]["text"], r#"{"name":3}"#);

    let strict = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false});
    let strict = json!({"output_format_json_schema_str": json!({"type": "json_schema", "schema": strict}).to_string()});
    model.play([text(r#"{"a":"b"}"#)]);
    assert_eq!(ask(&server, "Who?", &strict).await.terminal["data"]["structured_output"], json!({"a": "b"}));
    assert_eq!(model.last()["text"]["format"]["strict"], true);
}

#[tokio::test]
async fn a_schema_that_is_none() {
    let (server, model) = start(vec![], &[]).await;
    let bad = json!({"output_format_json_schema_str": r#"{"type":"json_schema","schema":{"type":"nonsense"}}"#});
    let seen = ask(&server, "Who?", &bad).await;
    assert_eq!(seen.category(), "invalid_request");
    assert!(seen.error().starts_with("output format: not a valid JSON Schema: "), "{}", seen.error());
    assert_eq!(model.calls().len(), 0);
}

/// Each way to fail, its category, whether another try is worth it, and how often it was called.
#[tokio::test]
async fn failures() {
    let quota = Play::Status { status: 429, code: "insufficient_quota", message: "Pay.", headers: vec![] };
    for (plays, fields, category, retryable, message, calls) in [
        (vec![status(401, "invalid_api_key")], json!({}), "auth_error", false, "401 the fake model says no", 1),
        (vec![status(403, "x")], json!({}), "permission_denied", false, "403 the fake model says no", 1),
        (vec![], json!({"model": "unknown-model"}), "model_not_found", false, "404 there is no such model", 1),
        (vec![quota], json!({}), "rate_limit", false, "429 Pay.", 1),
        (
            vec![status(400, "context_length_exceeded")],
            json!({}),
            "invalid_request",
            false,
            "400 the fake model says no",
            1,
        ),
        (
            vec![Play::Say(vec![Block::Refusal("I will not.")])],
            json!({}),
            "invalid_request",
            false,
            "the model refused: I will not.",
            1,
        ),
        (
            vec![Play::Break("Half", "max_output_tokens")],
            json!({}),
            "invalid_request",
            false,
            "the response is incomplete: max_output_tokens",
            1,
        ),
        (
            vec![Play::Break("Half", "max_output_tokens")],
            person(),
            "structured_output_missing",
            true,
            "the response is incomplete: max_output_tokens",
            1,
        ),
        (vec![Play::Break("", "rate_limit_exceeded")], json!({}), "rate_limit", true, "the fake model failed", 1),
    ] {
        let (server, model) = start(plays, &[]).await;
        let seen = ask(&server, "Hi", &fields).await;
        assert_eq!((seen.category(), seen.error()), (category, message));
        assert_eq!(seen.terminal["metadata"]["retryable"], retryable, "{category}");
        assert_eq!(model.calls().len(), calls, "{category}");
        // On the other host it is said, and the state stays.
        model.play([status(403, "x")]);
        let (answer, body) = advance(&server, "Hi", &Value::Null).await;
        assert_eq!(answer.status, 200);
        assert!(!body["text"].as_str().unwrap().is_empty() && body.get("state").is_none(), "{body}");
    }
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let after = Play::Status {
        status: 429,
        code: "rate_limit_exceeded",
        message: "Slow.",
        headers: vec![("retry-after", "1".into())],
    };
    let (server, model) = start(vec![after, status(529, "overloaded"), text("Hello.")], &[]).await;
    let seen = ask(&server, "Hi", &json!({})).await;
    assert_eq!(seen.text(), "Hello.");
    let calls = model.calls();
    assert!(calls[1].at - calls[0].at >= Duration::from_secs(1), "retry-after was not kept");
    let kinds: Vec<_> = seen.of("progress").iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["started", "retry", "retry"]);

    // For ever is not: three tries.
    model.play([status(500, "x"), status(500, "x"), status(500, "x")]);
    let seen = ask(&server, "Hi", &json!({})).await;
    assert_eq!((seen.category(), &seen.terminal["metadata"]["retryable"]), ("upstream_api_error", &json!(true)));
    assert_eq!(model.calls().len(), 6);
}

#[tokio::test]
async fn a_stream_that_breaks_begins_again() {
    let (server, _model) = start(vec![Play::Cut("Half of"), text("All of it.")], &[]).await;
    let seen = ask(&server, "Hi", &json!({})).await;
    assert_eq!((seen.text(), seen.deltas().as_str()), ("All of it.", "Half ofAll of it."));
    assert_eq!(seen.of("discarded").len(), 1);
    assert_eq!(seen.of("discarded")[0]["block"], seen.of("text_delta")[0]["block"]);
}

#[tokio::test]
async fn a_service_that_cannot_be_reached() {
    let (server, model) = start(vec![], &[]).await;
    // Nothing listens on port 1.
    let env = json!({"agent_env": {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}});
    let seen = ask(&server, "Hi", &env).await;
    assert_eq!(seen.category(), "upstream_api_error");
    assert!(seen.error().starts_with("cannot connect to the model API: "), "{}", seen.error());
    assert_eq!(model.calls().len(), 0);
}

/// A missing key is told at once, and names the variable; the server lives.
#[tokio::test]
async fn a_missing_key() {
    let server = Server::start(&["--agent", "openai", "--openai-model", "m"]);
    let began = Instant::now();
    let seen = ask(&server, "Hi", &json!({})).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(seen.category(), "auth_error");
    assert!(seen.error().contains("OPENAI_API_KEY is not set"), "{}", seen.error());
    let (answer, body) = advance(&server, "Hi", &Value::Null).await;
    assert_eq!((answer.status, body.get("state")), (200, None));
    assert!(body["text"].as_str().unwrap().contains("OPENAI_API_KEY"), "{body}");
    assert_eq!(server.get("/health").await.status, 200);
}

/// Services repeat keys in their errors. Nobody else sees them.
#[tokio::test]
async fn a_bad_key_is_not_told() {
    let (server, _model) = start(vec![], &[]).await;
    let seen = ask(&server, "Hi", &json!({"agent_env": {"OPENAI_API_KEY": "bad-key-123"}})).await;
    assert_eq!(seen.category(), "auth_error");
    assert!(!seen.terminal.to_string().contains("bad-key-123"), "{}", seen.terminal);
    assert!(!server.log().contains("bad-key-123"));
}

#[tokio::test]
async fn a_cancel_while_it_speaks() {
    let (server, model) = start(vec![Play::Hang("Well,")], &[]).await;
    let mut client = server.connect("/").await;
    begin(&mut client, "Hi", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    let seen = rest(&mut client).await;
    assert_eq!(seen.error(), "Request cancelled");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    eventually("the service sees the hang-up", || model.calls()[0].hung_up.then_some(())).await;
    assert_eq!(turn(&mut client, "Hi", &json!({})).await.text(), "ok", "the next turn works");
}

#[tokio::test]
async fn a_cancel_before_it_speaks() {
    let (server, _model) = start(vec![Play::After(Duration::from_mins(1), Box::new(text("Late.")))], &[]).await;
    let mut client = server.connect("/").await;
    begin(&mut client, "Hi", &json!({})).await;
    server.busy().await;
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(rest(&mut client).await.error(), "Request cancelled");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_cancel_while_a_command_runs() {
    let mark = format!("turnhost-openai-{}", std::process::id());
    let command = format!("trap '' TERM; (setsid sleep 300 {mark} &) ; sh -c 'sleep 300; : {mark}'");
    let (server, model) = start(vec![shell(&command)], &["--stop-grace", "500ms"]).await;
    let mut client = server.connect("/").await;
    begin(&mut client, "Hi", &json!({})).await;
    eventually("the command runs", || (proc::marked(&mark).len() >= 2).then_some(())).await;
    client.send(&json!({"message_type": "cancel_message"})).await;
    let seen = rest(&mut client).await;
    assert_eq!(seen.error(), "Request cancelled");
    proc::gone(&mark).await;
    // The call that was not answered is not part of the talk.
    assert_eq!(turn(&mut client, "Hi", &json!({})).await.text(), "ok");
    assert_eq!(model.last()["previous_response_id"], Value::Null);
}

#[tokio::test]
async fn calls_have_a_limit() {
    let (server, model) = start(vec![shell("true"), shell("true"), shell("true")], &["--openai-max-calls", "3"]).await;
    let seen = ask(&server, "Loop", &json!({})).await;
    assert_eq!((seen.category(), seen.error()), ("max_turns", "the model was called 3 times without an end"));
    assert_eq!(seen.terminal["metadata"]["model_calls"], 3);
    assert!(seen.terminal.to_string().len() < 1000);
    assert_eq!(model.calls().len(), 3);
}

#[tokio::test]
async fn a_service_that_knows_chat_completions_alone() {
    let plays = vec![
        tool("shell", json!({"command": "echo hi", "timeout_ms": null})),
        text("It said hi."),
        text("I remember."),
        text(r#"{"name":"Ann"}"#),
    ];
    let model = Model::of_chat(plays).await;
    let server = server(&model, &[]);
    let mut client = server.connect("/").await;
    let seen = turn(&mut client, "Look", &json!({})).await;
    assert_eq!((seen.text(), seen.deltas().as_str()), ("It said hi.", "It said hi."));
    assert_eq!(seen.kinds(), ["progress", "tool_use", "tool_result", "text_delta", "text", "usage"]);
    assert_eq!(seen.terminal["metadata"]["usage"]["totalTokens"], 26);

    let (_, first) = advance(&server, "And?", &Value::Null).await;
    let (_, _) = advance(&server, "Who?", &first["state"]).await;
    let messages = model.last()["messages"].clone();
    let said: Vec<_> =
        messages.as_array().unwrap()[1..].iter().map(|one| (one["role"].as_str().unwrap(), &one["content"])).collect();
    assert_eq!(said, [("user", &json!("And?")), ("assistant", &json!("I remember.")), ("user", &json!("Who?"))]);

    model.play([text(r#"{"name":"Bob"}"#)]);
    let seen = turn(&mut client, "Who?", &person()).await;
    assert_eq!(seen.terminal["data"]["structured_output"], json!({"name": "Bob"}));
    assert_eq!(model.last()["response_format"]["json_schema"]["name"], "output");
    let rounds = &model.calls()[1].body["messages"];
    assert_eq!(rounds[2]["tool_calls"][0]["function"]["name"], "shell");
    assert_eq!((&rounds[3]["role"], &rounds[3]["tool_call_id"]), (&json!("tool"), &json!("call_1_0")));
}

#[tokio::test]
async fn an_image_reaches_the_model() {
    let (server, model) = start(vec![text("A cat.")], &[]).await;
    let input = json!({"parts": [{"type": "text", "text": "What is this?"},
                                 {"type": "image", "mime_type": "image/png", "data": "iVBORw0KGgo="}]});
    assert_eq!(server.advance(&json!({"input": input})).await.json()["text"], "A cat.");
    let parts = json!([{"type": "input_text", "text": "What is this?"},
                       {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}]);
    assert_eq!(model.last()["input"][0]["content"], parts);
}

#[tokio::test]
async fn whose_account_it_is() {
    let (server, model) = start(vec![], &[]).await;
    let env = json!({"agent_env": {"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj-2"}});
    assert_eq!(ask(&server, "Hi", &env).await.text(), "ok");
    let headers = &model.calls()[0].headers;
    assert_eq!((headers["openai-organization"].as_str(), headers["openai-project"].as_str()), ("org-1", "proj-2"));
}

/// From the first byte of the service to the first delta at the caller.
#[tokio::test]
async fn the_first_delta_comes_at_once() {
    let (server, model) = start(vec![], &[]).await;
    let mut took = Vec::new();
    let mut client = server.connect("/").await;
    for _ in 0..20 {
        begin(&mut client, "Hi", &json!({})).await;
        while client.next().await.unwrap()["event"]["type"] != "text_delta" {}
        let now = Instant::now();
        took.push(now - model.calls().last().unwrap().answered.unwrap());
        let _: Seen = rest(&mut client).await;
    }
    took.sort();
    println!("first delta after the service's first byte: median {:?}, worst {:?}", took[10], took[19]);
    // Busy machines are slow; the median is measured alone.
    assert!(took[0] < Duration::from_millis(5), "{took:?}");
}

/// What the user says meanwhile comes with the next call; with no round left, it makes one.
#[tokio::test]
async fn a_steer() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let command = format!("while [ ! -e {} ]; do sleep 0.01; done", gate.display());
    let (server, model) = start(vec![shell(&command), text("So be it.")], &[]).await;
    let mut client = server.connect("/").await;
    begin(&mut client, "Work", &json!({})).await;
    while client.next().await.unwrap()["event"]["type"] != "tool_use" {}
    client.send(&json!({"message_type": "input_message", "text": "Use the blue one."})).await;
    client.send(&json!({"message_type": "input_message", "text": "Please."})).await;
    // Both were read when the next message of the same connection is answered.
    client.send(&json!({"message_type": "input_message"})).await;
    while client.next().await.unwrap()["message_type"] != "notice_message" {}
    std::fs::write(&gate, "").unwrap();
    assert_eq!(rest(&mut client).await.text(), "So be it.");
    let input = model.last()["input"].clone();
    assert_eq!(input[0]["type"], "shell_call_output");
    assert_eq!(input[1], json!({"role": "user", "content": "Use the blue one."}));
    assert_eq!(input[2], json!({"role": "user", "content": "Please."}));
}
