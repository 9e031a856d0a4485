//! What RuntimeUse frames look like on the wire: their bytes, their fragments, and what is taken out of them. RuntimeUse
//! sections 4, 16.3 and 17.5.

use crate::support::raw_ws::{Frame, Heard, RawWs};
use crate::support::{Server, WsClient};
use serde_json::{Value, json};

const MARK: &str = "[REDACTED]";

fn query(prompt: &str, more: &str) -> Frame {
    let prompt = Value::from(prompt);
    Frame::text(format!(r#"{{"message_type":"invocation_message","user_prompt":{prompt}{more}}}"#))
}

#[tokio::test]
async fn every_frame_is_written_to_the_letter() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = RawWs::connect(server.address(), "/").await;
    let with_id = r#","request_id":"q1","extensions":["notices","events"]"#;
    for (prompt, more, expected) in [
        ("hi", "", vec![r#"{"message_type":"result_message","metadata":{},"data":{"type":"text","text":"hi"}}"#]),
        (
            "@json {\"b\": 1.50, \"a\":[ ]}",
            r#","request_id":"q1""#,
            // The handler's own JSON is passed on byte for byte.
            vec![
                r#"{"message_type":"result_message","metadata":{},"data":{"type":"structured_output","structured_output":{"b": 1.50, "a":[ ]}},"request_id":"q1","seq":1}"#,
            ],
        ),
        (
            "@json [1]",
            "",
            vec![
                r#"{"message_type":"error_message","error":"handler result: \"structured_output\" must be an object","metadata":{"error_name":"HandlerResultError"}}"#,
            ],
        ),
        (
            "@warn w then t",
            with_id,
            vec![
                r#"{"message_type":"notice_message","level":"warning","text":"w","request_id":"q1","seq":1}"#,
                r#"{"message_type":"event_message","seq":1,"event":{"type":"warning","text":"w"},"request_id":"q1"}"#,
                r#"{"message_type":"result_message","metadata":{},"data":{"type":"text","text":"t"},"request_id":"q1","seq":2}"#,
            ],
        ),
        (
            "@text t",
            with_id,
            vec![
                r#"{"message_type":"assistant_message","text_blocks":["t"],"request_id":"q1","seq":1}"#,
                r#"{"message_type":"event_message","seq":1,"event":{"type":"text","parts":["t"]},"request_id":"q1"}"#,
                r#"{"message_type":"result_message","metadata":{},"data":{"type":"text","text":"t"},"request_id":"q1","seq":2}"#,
            ],
        ),
        (
            "@fail \u{1}\"\\/😀\u{2028}",
            "",
            vec![
                "{\"message_type\":\"error_message\",\"error\":\"\\u0001\\\"\\\\/😀\u{2028}\",\"metadata\":{\"code\":\"handler_failed\",\"error_name\":\"Error\",\"retryable\":false}}",
            ],
        ),
    ] {
        client.send(&query(prompt, more)).await;
        for frame in expected {
            assert_eq!(client.text().await, frame, "{prompt}");
        }
    }
    client.send(&Frame::text(r#"{"message_type":"end_session_message"}"#)).await;
    assert_eq!(client.text().await, r#"{"message_type":"end_session_confirm_message"}"#);
    assert_eq!((client.next().await, client.next().await), (Heard::Close(Some(1000)), Heard::End));
    let server = Server::start(&["--agent", "echo", "--heartbeat", "100ms"]);
    let mut client = RawWs::connect(server.address(), "/").await;
    client.send(&query("@sleep 150", "")).await;
    let beat = client.text().await;
    let elapsed = serde_json::from_str::<Value>(&beat).unwrap()["elapsed_ms"].take();
    assert_eq!(
        beat,
        format!(r#"{{"message_type":"heartbeat_message","phase":"request_in_flight","elapsed_ms":{elapsed}}}"#)
    );
}

#[tokio::test]
async fn a_large_answer_comes_back_byte_for_byte_in_fragments() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = RawWs::connect(server.address(), "/").await;
    for unit in ["x", "grüße 😀 \"\\\n\u{0}"] {
        let prompt = unit.repeat(5_000_000 / unit.len());
        client.send(&query(&prompt, "")).await;
        let answer: Value = serde_json::from_str(&client.text().await).unwrap();
        assert!(answer["data"]["text"] == *prompt, "5 MB of {unit:?}");
        assert!(client.fragments > 50, "{} fragments", client.fragments);
    }
    client.send(&query("small", "")).await;
    client.text().await;
    assert_eq!(client.fragments, 1);
    // A ping is answered between two messages or behind the last, never within one, and the order of messages holds.
    client.send(&query("@stream 20 300000", "")).await;
    client.send(&Frame::new(crate::support::raw_ws::PING, "now")).await;
    let (mut messages, mut pongs, mut terminals) = (0, 0, 0);
    while (pongs, terminals) != (1, 1) {
        match client.next().await {
            Heard::Text(text) if text.contains("assistant_message") => {
                messages += 1;
                assert!(text.contains(&format!("message {messages}.")), "in order");
            }
            Heard::Text(text) => {
                assert!(text.contains("streamed 20"), "{text}");
                terminals += 1;
            }
            Heard::Pong(_) => pongs += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(messages, 20);
}

/// A client that takes its messages late gets all of them, in order.
#[tokio::test]
async fn a_late_reader_misses_nothing() {
    let server = Server::start(&["--agent", "echo"]);
    let (mut late, mut other) = (server.connect("/").await, server.connect("/").await);
    late.query("@stream 20000 500").await;
    // 10 MB are more than the sockets hold. Meanwhile nobody else waits.
    for _ in 0..50 {
        other.query("hi").await;
        assert_eq!(other.terminal().await["data"]["text"], "hi");
    }
    for n in 1..=20_000 {
        let frame = late.next().await.expect("a frame");
        let text = frame["text_blocks"][0].as_str().unwrap_or_default();
        assert!(text.starts_with(&format!("message {n}.")) && text.len() == 500, "{n}: {frame}");
    }
    assert_eq!(late.terminal().await["data"]["text"], "streamed 20000");
}

async fn ask(client: &mut WsClient, prompt: &str, secrets: Value) -> Vec<Value> {
    let more = json!({"secrets_to_redact": secrets, "extensions": ["events", "notices"], "request_id": "q1"});
    client.query_with(prompt, more).await;
    client.until_terminal().await
}

#[tokio::test]
async fn secrets_are_taken_out_of_every_value() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let secrets = json!(["s3cr3t", "12345", "", 777, "overlap", "lapping"]);
    for (prompt, expected) in [
        ("a s3cr3t b 12345 c 777", "a [REDACTED] b [REDACTED] c [REDACTED]"),
        ("s3cr3ts3cr3t", MARK),
        ("overlapping", MARK),
        ("S3CR3T s3cr3", "S3CR3T s3cr3"),
    ] {
        for directive in ["", "@text ", "@warn "] {
            let asked = match directive {
                "@warn " => format!("@warn {prompt} then {prompt}"),
                _ => format!("{directive}{prompt}"),
            };
            let frames = ask(&mut client, &asked, secrets.clone()).await;
            let all = Value::from(frames.clone()).to_string();
            assert_eq!(frames.last().unwrap()["data"]["text"], expected, "{asked}");
            assert!(!all.contains("s3cr3t") && !all.contains("12345") && !all.contains("777"), "{asked}: {all}");
        }
    }
    // A secret that comes in pieces, each of them harmless.
    let deltas = ask(&mut client, "@delta 3 7", json!(["1delta", "ta 3"])).await;
    let whole: String = deltas.iter().filter_map(|frame| frame["event"]["text"].as_str()).collect();
    assert_eq!(whole, "delta [REDACTED] 2del[REDACTED]");
    assert_eq!(deltas.last().unwrap()["data"]["text"], whole);
    let failed = ask(&mut client, "@fail because of s3cr3t", secrets.clone()).await;
    assert_eq!(failed.last().unwrap()["error"], "because of [REDACTED]");
    let value = r#"@json {"key s3cr3t":{"s3cr3t":["s3cr3t",12345,true]},"plain":"x"}"#;
    let structured = ask(&mut client, value, secrets).await.pop().unwrap()["data"]["structured_output"].take();
    // Numbers are not searched; keys of the handler's own are.
    assert_eq!(structured, json!({"key [REDACTED]": {MARK: [MARK, 12345, true]}, "plain": "x"}));
    // The list is the request's own: the next one has another.
    assert_eq!(ask(&mut client, "a s3cr3t", json!(["a"])).await.pop().unwrap()["data"]["text"], "[REDACTED] s3cr3t");
    client.query("a s3cr3t").await;
    assert_eq!(client.terminal().await["data"]["text"], "a s3cr3t");
}

#[tokio::test]
async fn secrets_never_change_a_word_of_the_protocol() {
    let server = Server::start(&["--agent", "echo", "--heartbeat", "100ms"]);
    let mut client = server.connect("/").await;
    let words = json!([
        "message",
        "message_type",
        "text",
        "type",
        "data",
        "metadata",
        "result",
        "result_message",
        "error",
        "seq",
        "q1",
        "event",
        "structured_output",
        "assistant_message",
        "text_blocks",
        "phase",
        "request_in_flight",
        "level",
        "warning",
        "notice",
        "terminal",
        "parts",
        "field",
        "text_delta",
        "block",
        "true",
        "false",
        "null",
        "1",
        "{",
        "\"",
        ",",
        "e",
    ]);
    for prompt in ["zzz", "@text zzz", "@json {}", "@warn zzz then zzz", "@sleep 150", "@fail zzz"] {
        let (mut plain, mut secret) =
            (ask(&mut client, prompt, json!([])).await, ask(&mut client, prompt, words.clone()).await);
        // How many heartbeats there are is up to the clock.
        let beat = |frame: &Value| {
            let elapsed = &frame["elapsed_ms"];
            let beat = json!({"message_type": "heartbeat_message", "phase": "request_in_flight", "elapsed_ms": elapsed, "request_id": "q1"});
            *frame == beat
        };
        assert!(prompt != "@sleep 150" || secret.iter().any(beat), "{secret:?}");
        plain.retain(|frame| !beat(frame));
        secret.retain(|frame| !beat(frame));
        assert_eq!(plain.len(), secret.len(), "{prompt}");
        for (plain, mut secret) in plain.into_iter().zip(secret) {
            // Only what the handler said may differ.
            if let (Some(there), Some(here)) = (plain.pointer("/data/text"), secret.pointer_mut("/data/text")) {
                assert!(here == there || here.as_str().unwrap().contains(MARK), "{prompt}: {here}");
                *here = there.clone();
            }
            assert_eq!(plain, secret, "{prompt}");
        }
    }
}

/// What a handler throws: its text and its metadata are searched, the keys this protocol defines are not.
#[tokio::test]
async fn secrets_are_taken_out_of_errors_and_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let handler = folder.path().join("handler.mjs");
    let module = r#"export default { async run({ userPrompt, secrets }, sender) {
        const [secret] = secrets;
        if (userPrompt === "answer") return { type: "text", text: secret, metadata: { [secret]: secret, n: { m: [secret] } } };
        const error = new Error("because " + secret, { cause: secret });
        error.metadata = { [secret]: { deep: ["x" + secret] } };
        throw error;
    } };"#;
    std::fs::write(&handler, module).unwrap();
    let server = Server::start(&["--handler", &handler.display().to_string()]);
    let mut client = server.connect("/").await;
    let mut asked = async |prompt: &str, secrets: Value| {
        client.query_with(prompt, json!({ "secrets_to_redact": secrets })).await;
        client.terminal().await
    };
    let answer = asked("answer", json!(["s3cr3t"])).await;
    assert_eq!(answer["data"], json!({"type": "text", "text": MARK}));
    assert_eq!(answer["metadata"], json!({MARK: MARK, "n": {"m": [MARK]}}));
    let failed = asked("fail", json!(["s3cr3t"])).await;
    assert_eq!(failed["error"], "because [REDACTED]");
    assert_eq!(failed["metadata"]["cause"], MARK);
    assert_eq!(failed["metadata"][MARK], json!({"deep": ["x[REDACTED]"]}));
    assert!(!failed.to_string().contains("s3cr3t"), "{failed}");
    // Defined keys stay, or nobody would find what is under them.
    let failed = asked("fail", json!(["zzz", "stack", "cause", "error_name", "error_details", "metadata"])).await;
    assert_eq!((&failed["metadata"]["error_name"], &failed["metadata"]["cause"]), (&json!("Error"), &json!(MARK)));
    assert!(failed["metadata"]["stack"].is_string(), "{failed}");
}
