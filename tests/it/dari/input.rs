//! Checks 4 and 5: every form of input that is read, and the inputs that are no user turns.

use super::{ADVANCE, Dari, Mode, turn_body};
use crate::support::http;
use serde_json::{Value, json};

/// One row of section 2.4.
struct Form {
    name: &'static str,
    body: &'static str,
    prompt: &'static str,
    attachments: Value,
    session: Option<&'static str>,
    message: Option<&'static str>,
}

fn form(
    name: &'static str,
    body: &'static str,
    prompt: &'static str,
    session: Option<&'static str>,
    message: Option<&'static str>,
) -> Form {
    Form { name, body, prompt, attachments: json!([]), session, message }
}

/// The table of section 2.4, as it stands there.
fn forms() -> Vec<Form> {
    let list = "List the files.";
    vec![
        form("F1", r#"{"input":"List the files.","state":null}"#, list, None, None),
        form("F2", r#"{"input":{"text":"List the files."},"session_id":"sess_01"}"#, list, Some("sess_01"), None),
        form(
            "F3",
            r#"{"input":{"type":"text","text":"List the files."},"message_id":"msg_01"}"#,
            list,
            None,
            Some("msg_01"),
        ),
        form(
            "F4",
            r#"{"input":{"content":"List the files."},"sessionId":"sess_01","messageId":"msg_01"}"#,
            list,
            Some("sess_01"),
            Some("msg_01"),
        ),
        Form {
            attachments: json!([{"kind": "file", "file_id": "file_01"}]),
            ..form(
                "F5",
                r#"{"input":{"content":[{"type":"text","text":"Read this."},{"type":"file","file_id":"file_01"}]},"session":{"id":"sess_01"}}"#,
                "Read this.\n[attached file file_01]",
                Some("sess_01"),
                None,
            )
        },
        Form {
            // The image itself reaches the stub, and needs no mention for that reason.
            attachments: json!([{"kind": "image", "mime_type": "image/png", "data": "iVBORw0KGgo="}]),
            ..form(
                "F6",
                r#"{"input":{"parts":[{"type":"text","text":"What is this?"},{"type":"image","mime_type":"image/png","data":"iVBORw0KGgo="}]}}"#,
                "What is this?",
                None,
                None,
            )
        },
        form(
            "F7",
            r#"{"input":{"type":"user_message","message":{"role":"user","content":[{"type":"text","text":"List the files."}]}},"session_id":"sess_01","message_id":"msg_01","state":{"v":1,"turn":1,"claude_session_id":"5f0c9a12"}}"#,
            list,
            Some("sess_01"),
            Some("msg_01"),
        ),
        form(
            "F8",
            r#"{"input":{"type":"user.message","message_id":"msg_01","content":[{"type":"text","text":"List the files."}],"metadata":{}}}"#,
            list,
            None,
            Some("msg_01"),
        ),
        form(
            "F9",
            r#"{"input":{"id":"sess_01:evt_4","type":"user.message","session_id":"sess_01","data":{"content":[{"type":"text","text":"List the files."}],"message_id":"msg_01"}}}"#,
            list,
            Some("sess_01"),
            Some("msg_01"),
        ),
        form(
            "F10",
            r#"{"input":{"message":{"id":"msg_01","parts":[{"type":"text","text":"List the files."}]}}}"#,
            list,
            None,
            Some("msg_01"),
        ),
        form(
            "F11",
            r#"{"input":{"messages":[{"role":"user","content":"Hello."},{"role":"assistant","content":"Hi."},{"id":"msg_02","role":"user","content":"List the files."}]}}"#,
            list,
            None,
            Some("msg_02"),
        ),
        form(
            "F12 blocks",
            r#"{"input":[{"type":"text","text":"Line one."},{"type":"text","text":"Line two."}],"state":"{\"v\":1,\"turn\":2}"}"#,
            "Line one.\nLine two.",
            None,
            None,
        ),
        form(
            "F12 events",
            r#"{"input":[{"type":"user.message","data":{"content":"Hello.","message_id":"msg_01"}},{"type":"assistant.message_completed","data":{"content":"Hi."}},{"type":"user.message","data":{"content":"Bye.","message_id":"msg_03"}}]}"#,
            "Bye.",
            None,
            Some("msg_03"),
        ),
    ]
}

/// What a session is called within: the platform's name, or ours where it gives none.
fn session_of(form: &Form) -> String {
    format!("dari:{}", form.session.unwrap_or("main"))
}

/// The same request with another state, and with this id on top, which wins over the one that is found further down.
fn probe(body: &str, id: Option<&str>) -> Value {
    let mut body: Value = serde_json::from_str(body).unwrap();
    let members = body.as_object_mut().unwrap();
    if let Some(id) = id {
        members.remove("message_id");
        members.insert("messageId".to_owned(), id.into());
    }
    members.insert("state".to_owned(), json!({"another": "state"}));
    body
}

/// Wants exactly what the row says of prompt, attachments and session; and of the message id that it counts: a repeat
/// under that id is one whatever its state, under any other it is not.
async fn reads(dari: &Dari, form: &Form) {
    let before = dari.calls();
    let first = dari.post_raw(form.body.as_bytes()).await;
    turn_body(&first);
    let call = dari.stub.last_call();
    assert_eq!(dari.calls(), before + 1, "{}", form.name);
    assert_eq!(call.prompt, form.prompt, "{}", form.name);
    assert_eq!(call.attachments, form.attachments, "{}", form.name);
    assert_eq!(call.session_id, session_of(form), "{}", form.name);
    assert_eq!(call.attempt, 1);

    let (repeat, other) = (probe(form.body, form.message), probe(form.body, Some("msg_other")));
    let again = dari.post(&repeat).await;
    let runs_again = usize::from(form.message.is_none());
    assert_eq!(dari.calls(), before + 1 + runs_again, "{}: the id is {:?}", form.name, form.message);
    assert_eq!(again.body == first.body, form.message.is_some(), "{}", form.name);
    dari.turn(&other).await;
    assert_eq!(dari.calls(), before + 2 + runs_again, "{}: another id is another message", form.name);
}

pub async fn all_forms(mode: Mode) {
    let dari = Dari::start(mode);
    for form in forms() {
        reads(&dari, &form).await;
        // Without `input` its content is looked for in the body itself.
        let Value::Object(mut body) = serde_json::from_str(form.body).unwrap() else { panic!("no object") };
        if let Some(Value::Object(content)) = body.remove("input") {
            content.into_iter().for_each(|(key, value)| drop(body.insert(key, value)));
            let before = dari.calls();
            dari.turn(&Value::Object(body)).await;
            let call = dari.stub.last_call();
            assert_eq!((dari.calls(), call.prompt.as_str()), (before + 1, form.prompt), "{} on top", form.name);
            assert_eq!(call.attachments, form.attachments, "{} on top", form.name);
        }
    }
    mentions(&dari).await;
    transport(&dari).await;
}

/// Section 2.6: what the agent cannot read by itself becomes a line of the prompt, and is never dropped.
async fn mentions(dari: &Dari) {
    let blocks = json!([
        {"type": "text", "text": "See:"},
        {"type": "file", "filename": "report.pdf", "file_id": "file_01"},
        {"type": "image"},
        {"type": "file", "url": "https://example.com/x.png", "media_type": "image/png"},
        {"type": "video", "path": "clips/a.mp4"},
        {"type": "text", "text": "Done."},
    ]);
    dari.turn(&json!({"input": blocks})).await;
    let call = dari.stub.last_call();
    let lines = [
        "See:",
        "[attached file report.pdf (file_01)]",
        "[attached image]",
        "[attached file https://example.com/x.png]",
        "[attached video clips/a.mp4]",
        "Done.",
    ];
    assert_eq!(call.prompt, lines.join("\n"));
    let attachments = json!([
        {"kind": "file", "filename": "report.pdf", "file_id": "file_01"},
        {"kind": "image"},
        {"kind": "file", "url": "https://example.com/x.png", "mime_type": "image/png"},
        {"kind": "other", "path": "clips/a.mp4"},
    ]);
    assert_eq!(call.attachments, attachments);
}

/// Section 2.1: what of a request's transport makes no difference.
async fn transport(dari: &Dari) {
    let asks = |text: &str| json!({"input": text}).to_string().into_bytes();
    let path = format!("{ADVANCE}/");
    assert_eq!(dari.request("POST", &path, &[], &asks("with a slash")).await.status, 200);
    let path = format!("{ADVANCE}?a=1&token=x");
    assert_eq!(dari.request("POST", &path, &[], &asks("with a query")).await.status, 200);
    for kind in ["text/plain", "application/x-www-form-urlencoded", "nonsense", "application/json; charset=latin1"] {
        assert_eq!(dari.request("POST", ADVANCE, &[("Content-Type", kind)], &asks(kind)).await.status, 200);
        assert_eq!(dari.stub.last_call().prompt, kind);
    }
    assert_eq!(dari.request("POST", ADVANCE, &[("Content-Encoding", "identity")], &asks("plain")).await.status, 200);
    // Of keys that come twice the last one counts; a byte order mark is skipped.
    dari.post_raw(b"\xef\xbb\xbf {\"input\":\"first\",\"input\":\"last\"}").await;
    assert_eq!(dari.stub.last_call().prompt, "last");
    // A string is used as it is: neither trimmed nor decoded.
    dari.turn(&json!({"input": " {\"text\":\"x\"} "})).await;
    assert_eq!(dari.stub.last_call().prompt, " {\"text\":\"x\"} ");

    let body = asks("after a while");
    let mut connection = dari.connect().await;
    let length = body.len().to_string();
    let headers = [("Expect", "100-continue"), ("Content-Length", length.as_str()), ("Connection", "close")];
    connection.send(&http::head("POST", ADVANCE, &headers)).await;
    assert!(connection.read_some().await > 0, "the interim answer");
    connection.send(&body).await;
    turn_body(&connection.answer("POST").await);
    assert_eq!(dari.stub.last_call().prompt, "after a while");

    // Chunked, cut within a character.
    let mut connection = dari.connect().await;
    connection.send(&http::head("POST", ADVANCE, &[("Transfer-Encoding", "chunked")])).await;
    connection.send(b"b\r\n{\"input\":\"\xc3\r\n").await;
    connection.send(b"3\r\n\xa9\"}\r\n0\r\n\r\n").await;
    turn_body(&connection.answer("POST").await);
    assert_eq!(dari.stub.last_call().prompt, "é");
}

pub async fn not_user_turns(mode: Mode) {
    let dari = Dari::start(mode);
    let nothing = ["{}", r#"{"input":null}"#, r#"{"state":{"v":1}}"#, r#"{"session_id":"s","message_id":"m"}"#];
    let resumed = ["resume", "continue", "ping"].map(|kind| json!({"input": {"type": kind, "text": "x"}}).to_string());
    for body in nothing.map(str::to_owned).into_iter().chain(resumed) {
        let answer = dari.post_raw(body.as_bytes()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"), "{body}");
    }
    for kind in ["llm_result", "llm_error", "tool_result", "tool_error", "tool.result_submitted"] {
        let body = json!({"input": {"type": kind, "content": "x"}, "state": {"v": 1}});
        let answer = dari.post(&body).await;
        assert_eq!(answer.status, 200, "{kind}");
        assert_eq!(answer.body, r#"{"text":"No tool or model result was requested."}"#, "{kind}");
    }
    assert_eq!(dari.calls(), 0);

    // They join no queue: while a turn runs they are answered all the same.
    let running = dari.post_and_hold(&json!({"input": crate::support::stub::script(&[&dari.stub.gate("go")])})).await;
    dari.stub.called(1).await;
    assert_eq!(dari.post(&json!({})).await.body, "{}");
    dari.stub.open("go");
    let mut running = running;
    turn_body(&running.answer("POST").await);
    assert_eq!(dari.calls(), 1);
}

#[tokio::test]
async fn check_04_all_forms() {
    all_forms(Mode::Close).await;
}

#[tokio::test]
async fn check_05_not_user_turns() {
    not_user_turns(Mode::Close).await;
}
