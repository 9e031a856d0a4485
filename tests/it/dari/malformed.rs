//! Check 6: bad JSON and the other malformed inputs, M1 to M10 of section 2.8.

use super::{ADVANCE, Dari, Mode, holds_the_contract};
use crate::support::http;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MAX_BODY: usize = 64 << 20;

/// Posts these bytes and wants this refusal, no turn, and a server that goes on.
async fn refused(dari: &Dari, body: &[u8], status: u16, detail: &str) {
    let calls = dari.calls();
    let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
    let answer = dari.post_raw(body).await;
    assert_eq!((answer.status, answer.json()), (status, json!({"detail": detail})), "{shown}");
    dari.is_healthy().await;
    assert_eq!(dari.calls(), calls, "{shown}");
}

/// M1 to M3.
async fn bodies(dari: &Dari) {
    let deep = format!("{{\"input\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let bomb = "[".repeat(1 << 20);
    let not_json: [&[u8]; 12] = [
        b"",
        b"  \r\n ",
        b"nonsense",
        b"{\"input\":\"x\"",
        b"{\"input\":\"x\"} x",
        b"{\"input\":\"x\"}{\"input\":\"x\"}",
        b"{\"input\":\"x\",}",
        b"{\"input\":\"\xff\xfe\"}",
        b"\xff\xfe{\x00}\x00",
        b"{\"input\":\"x\"}\0",
        deep.as_bytes(),
        bomb.as_bytes(),
    ];
    for body in not_json {
        refused(dari, body, 400, "request body is not valid JSON").await;
    }
    for body in ["[]", r#"[{"input":"x"}]"#, r#""x""#, "1", "-0.5e3", "true", "false", "null"] {
        refused(dari, body.as_bytes(), 400, "request body must be a JSON object").await;
    }
    let nothing_said = [
        r#"{"input":""}"#,
        r#"{"input":" \t\n\u00a0"}"#,
        r#"{"input":{}}"#,
        r#"{"input":[]}"#,
        r#"{"input":42}"#,
        r#"{"input":true}"#,
        r#"{"text":""}"#,
        r#"{"input":{"messages":[{"role":"assistant","content":"Hi."}]}}"#,
        r#"{"input":[{"type":"text","text":5}]}"#,
    ];
    for body in nothing_said {
        refused(dari, body.as_bytes(), 422, "no user input found").await;
    }
    let nested = |levels| (0..levels).fold(json!({"text": "deep"}), |inner, _| json!({"message": inner}));
    refused(dari, json!({"input": nested(6)}).to_string().as_bytes(), 422, "no user input found").await;
    let before = dari.calls();
    dari.turn(&json!({"input": nested(5)})).await;
    assert_eq!((dari.calls(), dari.stub.last_call().prompt.as_str()), (before + 1, "deep"), "level 6 is not too deep");
}

/// M4: what is of the wrong type beside a user's text.
async fn tolerated(dari: &Dari) {
    let odd = [
        json!({"input": "state 1", "state": 7}),
        json!({"input": "state 2", "state": ["not", "ours"]}),
        json!({"input": "state 3", "state": {"somebody": "else's"}}),
        json!({"input": "ids 1", "session_id": {}, "message_id": []}),
        json!({"input": "ids 2", "session_id": "", "message_id": "x".repeat(257), "session": 1.5, "context": true}),
        json!({"input": [{"type": "text", "text": "blocks"}, {"type": "hologram", "size": 3}]}),
    ];
    for body in odd {
        let before = dari.calls();
        dari.turn(&body).await;
        assert_eq!(dari.calls(), before + 1, "{body}");
        let call = dari.stub.last_call();
        assert_eq!(call.session_id, "dari:main", "an id of a wrong type is none: {body}");
        let expected = match &body["input"] {
            Value::String(text) => text.clone(),
            _ => "blocks\n[attached hologram]".to_owned(),
        };
        assert_eq!(call.prompt, expected);
        dari.is_healthy().await;
    }
}

/// M5, without the bytes: who only announces too much is told so. Check 20 sends them.
async fn announced_too_large(dari: &Dari) {
    let (length, calls) = ((MAX_BODY + 1).to_string(), dari.calls());
    let began = Instant::now();
    let mut connection = dari.connect().await;
    connection.send(&http::head("POST", ADVANCE, &[("Content-Length", &length)])).await;
    let answer = connection.answer("POST").await;
    assert_eq!((answer.status, answer.json()), (413, json!({"detail": "request body is too large"})));
    holds_the_contract(&answer);
    assert!(began.elapsed() < Duration::from_secs(10), "told after {:?}", began.elapsed());
    dari.is_healthy().await;
    assert_eq!(dari.calls(), calls);
}

/// M6: a body that does not come. Check 23 waits for the real limit of 60 s.
pub async fn stalled(dari: &Dari, limit: Duration) {
    for declared in [("Content-Length", "100"), ("Transfer-Encoding", "chunked")] {
        let mut connection = dari.connect().await;
        let began = Instant::now();
        connection.send(&http::head("POST", ADVANCE, &[declared])).await;
        connection.send(b"5\r\n{\"inp\r\n").await;
        let answer = connection.answer_within("POST", limit + Duration::from_secs(20)).await;
        assert_eq!((answer.status, answer.json()), (408, json!({"detail": "request body timed out"})));
        holds_the_contract(&answer);
        assert!(began.elapsed() >= limit, "told after {:?}", began.elapsed());
    }
    dari.is_healthy().await;
    assert_eq!(dari.calls(), 0);
}

/// M7: a body that is cut, also when what came is a whole JSON object.
async fn cut(dari: &Dari) {
    let calls = dari.calls();
    for (length, part) in [("100", "{\"input\":\"half a bo"), ("100", "{\"input\":\"whole\"}")] {
        for reset in [false, true] {
            let mut connection = dari.connect().await;
            connection.send(&http::head("POST", ADVANCE, &[("Content-Length", length)])).await;
            connection.send(part.as_bytes()).await;
            if reset { connection.reset().await } else { connection.close().await }
        }
    }
    let mut connection = dari.connect().await;
    connection.send(&http::head("POST", ADVANCE, &[("Transfer-Encoding", "chunked")])).await;
    connection.send(b"11\r\n{\"input\":\"whole\"}\r\n").await;
    connection.close().await;
    dari.is_healthy().await;
    // A turn of the same session comes after everything that was taken in before it.
    dari.turn(&json!({"input": "next"})).await;
    assert_eq!(dari.calls(), calls + 1, "a cut body is no turn");
    assert_eq!(dari.stub.last_call().prompt, "next");
}

/// M8 to M10.
async fn heads(dari: &Dari) {
    let calls = dari.calls();
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"] {
        let answer = dari.request(method, ADVANCE, &[], b"").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method}");
        let expected = if method == "HEAD" { "" } else { r#"{"detail":"method not allowed"}"# };
        assert_eq!(answer.body, expected, "{method}");
        dari.is_healthy().await;
    }
    let strays =
        ["/", "/runtime", "/runtime/advance/x", "/RUNTIME/ADVANCE", "/advance", "/health/x", "/%2e%2e/x", "//"];
    for path in strays {
        for method in ["GET", "POST"] {
            let answer = dari.request(method, path, &[], b"").await;
            assert_eq!((answer.status, answer.json()), (404, json!({"detail": "not found"})), "{method} {path}");
            assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {path}");
        }
        dari.is_healthy().await;
    }
    for encoding in ["gzip", "br", "deflate", "gzip, identity", "x"] {
        let body = json!({"input": "packed"}).to_string();
        let answer = dari.request("POST", ADVANCE, &[("Content-Encoding", encoding)], body.as_bytes()).await;
        assert_eq!((answer.status, answer.json()), (415, json!({"detail": "unsupported content encoding"})));
        dari.is_healthy().await;
    }
    assert_eq!(dari.calls(), calls);
}

pub async fn malformed(mode: Mode) {
    let dari = Dari::start(mode);
    bodies(&dari).await;
    tolerated(&dari).await;
    announced_too_large(&dari).await;
    cut(&dari).await;
    heads(&dari).await;
    let limit = Duration::from_secs(1);
    stalled(&Dari::start_with(mode, &["--body-timeout", "1s"], |_| {}), limit).await;
}

#[tokio::test]
async fn check_06_malformed() {
    malformed(Mode::Close).await;
}
