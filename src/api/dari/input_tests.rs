//! Tests of reading a body: every row of sections 2.4 to 2.8, and a second, slower reading of 2.3 to compare with.

use super::*;
use crate::model::Attachment;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs;
use std::path::Path;

fn nowhere(_: &Attachment) -> Option<PathBuf> {
    None
}

fn turn(body: &str) -> UserTurn<'_> {
    match read(body, &nowhere) {
        Ok(Input::Turn(turn)) => turn,
        other => panic!("no turn in {body}: {other:?}"),
    }
}

fn prompt(body: &str) -> String {
    turn(body).prompt
}

fn no_input(body: &str) -> bool {
    matches!(read(body, &nowhere), Err(Malformed::NoUserInput))
}

fn canned(body: &str) -> Canned {
    match read(body, &nowhere) {
        Ok(Input::NotATurn(canned)) => canned,
        other => panic!("not canned: {body}: {other:?}"),
    }
}

fn file(id: &str) -> Attachment {
    Attachment { kind: "file", file_id: Some(id.into()), ..Attachment::default() }
}

struct Form {
    body: &'static str,
    prompt: &'static str,
    attachments: Vec<Attachment>,
    session: Option<&'static str>,
    message: Option<&'static str>,
}

impl Form {
    fn check(&self, body: &str) {
        let turn = turn(body);
        assert_eq!(turn.prompt, self.prompt, "{body}");
        assert_eq!(turn.attachments, self.attachments, "{body}");
        assert_eq!(turn.session.as_deref(), self.session, "{body}");
        assert_eq!(turn.message_id.as_deref(), self.message, "{body}");
    }
}

fn form(
    body: &'static str,
    prompt: &'static str,
    session: Option<&'static str>,
    message: Option<&'static str>,
) -> Form {
    Form { body, prompt, attachments: Vec::new(), session, message }
}

/// F2 to F11: the forms whose `input` is an object.
fn object_forms() -> Vec<Form> {
    let list = "List the files.";
    let (sess, msg) = (Some("sess_01"), Some("msg_01"));
    vec![
        form(r#"{"input":{"text":"List the files."},"session_id":"sess_01"}"#, list, sess, None),
        form(r#"{"input":{"type":"text","text":"List the files."},"message_id":"msg_01"}"#, list, None, msg),
        form(r#"{"input":{"content":"List the files."},"sessionId":"sess_01","messageId":"msg_01"}"#, list, sess, msg),
        Form {
            body: r#"{"input":{"content":[{"type":"text","text":"Read this."},{"type":"file","file_id":"file_01"}]},"session":{"id":"sess_01"}}"#,
            prompt: "Read this.\n[attached file file_01]",
            attachments: vec![file("file_01")],
            session: sess,
            message: None,
        },
        Form {
            body: r#"{"input":{"parts":[{"type":"text","text":"What is this?"},{"type":"image","mime_type":"image/png","data":"iVBORw0KGgo="}]}}"#,
            prompt: "What is this?",
            attachments: vec![Attachment {
                kind: "image",
                mime_type: Some("image/png".into()),
                data: Some("iVBORw0KGgo=".into()),
                ..Attachment::default()
            }],
            session: None,
            message: None,
        },
        form(
            r#"{"input":{"type":"user_message","message":{"role":"user","content":[{"type":"text","text":"List the files."}]}},"session_id":"sess_01","message_id":"msg_01","state":{"v":1,"turn":1,"claude_session_id":"5f0c9a12"}}"#,
            list,
            sess,
            msg,
        ),
        form(
            r#"{"input":{"type":"user.message","message_id":"msg_01","content":[{"type":"text","text":"List the files."}],"metadata":{}}}"#,
            list,
            None,
            msg,
        ),
        form(
            r#"{"input":{"id":"sess_01:evt_4","type":"user.message","session_id":"sess_01","data":{"content":[{"type":"text","text":"List the files."}],"message_id":"msg_01"}}}"#,
            list,
            sess,
            msg,
        ),
        form(
            r#"{"input":{"message":{"id":"msg_01","parts":[{"type":"text","text":"List the files."}]}}}"#,
            list,
            None,
            msg,
        ),
        form(
            r#"{"input":{"messages":[{"role":"user","content":"Hello."},{"role":"assistant","content":"Hi."},{"id":"msg_02","role":"user","content":"List the files."}]}}"#,
            list,
            None,
            Some("msg_02"),
        ),
    ]
}

fn resolve_in(root: &Path, attachment: &Attachment) -> Option<PathBuf> {
    Workspace::new(root).resolve(attachment)
}

#[test]
fn every_form_of_the_table() {
    form(r#"{"input":"List the files.","state":null}"#, "List the files.", None, None)
        .check(r#"{"input":"List the files.","state":null}"#);
    let forms = object_forms();
    assert_eq!(forms.len(), 10);
    for form in &forms {
        form.check(form.body);
    }
    let blocks = r#"{"input":[{"type":"text","text":"Line one."},{"type":"text","text":"Line two."}],"state":"{\"v\":1,\"turn\":2}"}"#;
    form(blocks, "Line one.\nLine two.", None, None).check(blocks);
    assert_eq!(turn(blocks).state.unwrap().get(), r#"{"v":1,"turn":2}"#);
    let events = r#"{"input":[{"type":"user.message","data":{"content":"Hello.","message_id":"msg_01"}},{"type":"assistant.message_completed","data":{"content":"Hi."}},{"type":"user.message","data":{"content":"Bye.","message_id":"msg_03"}}]}"#;
    form(events, "Bye.", None, Some("msg_03")).check(events);
}

#[test]
fn every_object_form_at_the_top_level() {
    for form in object_forms() {
        let mut body: Value = serde_json::from_str(form.body).unwrap();
        let top = body.as_object_mut().unwrap();
        let Value::Object(input) = top.remove("input").unwrap() else { panic!("an object form") };
        top.extend(input);
        form.check(&body.to_string());
        body.as_object_mut().unwrap().insert("input".into(), Value::Null);
        form.check(&body.to_string());
    }
}

#[test]
fn text_is_taken_as_it_is() {
    assert_eq!(prompt(r#"{"input":"  two blanks \n"}"#), "  two blanks \n");
    assert_eq!(prompt(r#"{"input":"{\"text\":\"inner\"}"}"#), r#"{"text":"inner"}"#);
    assert_eq!(prompt(r#"{"input":["a",["b",{"text":"c"}],7,null," ",{"type":"text","text":"d"}]}"#), "a\nb\nc\nd");
    assert_eq!(prompt(r#"{"input":{"text":"x","text":"y"},"input":{"text":"z","text":"w"}}"#), "w");
    assert_eq!(prompt(r#"{"input":{"content":"x","text":"y","content":null}}"#), "y");
    assert_eq!(prompt("\n\t {\"input\" : \"x\"} \r\n"), "x");
}

#[test]
fn lists_of_messages_and_lists_of_blocks() {
    // One message-like item, wherever it stands, makes the list one of messages.
    assert_eq!(prompt(r#"{"input":["a","b",{"role":"user","content":"c"},"d"]}"#), "d");
    assert_eq!(prompt(r#"{"input":["a",{"type":"odd"},{"role":"assistant","content":"c"}]}"#), "a");
    assert_eq!(prompt(r#"{"input":[{"type":"user_message","text":"a"},{"type":"odd"}]}"#), "a");
    assert_eq!(
        prompt(r#"{"input":[{"type":"odd"},"a",{"type":"odd","file_id":"f"}]}"#),
        "[attached odd]\na\n[attached odd f]"
    );
    assert_eq!(prompt(r#"{"input":[{"text":"a"},{"prompt":"b"}]}"#), "a\nb");
    assert_eq!(prompt(r#"{"input":[{"data":{"text":"a"}},{"data":{"text":"b"}}]}"#), "b");
    // A null key is as good as absent.
    assert_eq!(prompt(r#"{"input":[{"text":"a","role":null},{"text":"b","content":null}]}"#), "a\nb");
    // The block types are never messages.
    assert_eq!(
        prompt(r#"{"input":[{"type":"text","text":"a","role":"user"},{"type":"text","text":"b","content":"x"}]}"#),
        "a\nb"
    );
    // Other speakers say nothing.
    assert_eq!(
        prompt(r#"{"input":[{"role":"user","content":"a"},{"role":"tool","content":"b"},{"role":5,"text":"c"}]}"#),
        "a"
    );
    assert_eq!(prompt(r#"{"input":[{"type":"user.message","text":"a"},{"type":"tool.call","text":"b"}]}"#), "a");
}

#[test]
fn the_first_match_decides() {
    // The first key counts even if it leads nowhere.
    assert!(no_input(r#"{"input":{"content":[],"text":"x"}}"#));
    assert!(no_input(r#"{"input":{"content":"","text":"x"}}"#));
    assert_eq!(prompt(r#"{"input":{"text":"x","message":{"prompt":"y"}}}"#), "y");
    assert_eq!(prompt(r#"{"input":{"prompt":"x","input":"y"}}"#), "y");
    // Base64 is not an envelope.
    assert_eq!(prompt(r#"{"input":{"data":"aGk=","text":"x"}}"#), "x");
    assert_eq!(prompt(r#"{"input":{"path":"a.txt","text":"x"}}"#), "x");
    assert_eq!(prompt(r#"{"input":{"type":"file","text":"x"}}"#), "[attached file]");
    assert_eq!(prompt(r#"{"input":{"type":"odd","text":"x"}}"#), "x");
    // An unknown type alone is an attachment only in a list of blocks.
    assert!(no_input(r#"{"input":{"type":"odd"}}"#));
    assert!(no_input(r#"{"input":{"content":{"type":"odd"}}}"#));
    assert_eq!(prompt(r#"{"input":{"content":[{"type":"odd"}]}}"#), "[attached odd]");
    assert!(no_input(r#"{"input":[{"type":""},{"type":7},{}]}"#));
    assert!(no_input(r#"{"type":"assistant.message_completed","data":{"content":"Hi."}}"#));
}

#[test]
fn nothing_deeper_than_level_six() {
    let nested = |levels: usize| format!(r#"{{"input":{}"x"{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert_eq!(prompt(&nested(6)), "x");
    assert!(no_input(&nested(7)));
    let objects =
        |levels: usize| format!(r#"{{"input":{}"x"{}}}"#, r#"{"content":"#.repeat(levels), "}".repeat(levels));
    assert_eq!(prompt(&objects(6)), "x");
    assert!(no_input(&objects(7)));
    let block = |levels: usize| {
        format!(r#"{{"input":{}{{"type":"text","text":"x"}}{}}}"#, "[".repeat(levels), "]".repeat(levels))
    };
    assert_eq!(prompt(&block(5)), "x");
    assert!(no_input(&block(6)));
    let attached =
        |levels: usize| format!(r#"{{"input":{}{{"type":"file"}}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert_eq!(prompt(&attached(6)), "[attached file]");
    assert!(no_input(&attached(7)));
    assert!(no_input(&nested(120)));
    // At the top level the body is level 0.
    assert_eq!(prompt(r#"{"text":"x"}"#), "x");
    assert_eq!(prompt(r#"{"content":[[[[["x"]]]]]}"#), "x");
    assert!(no_input(r#"{"content":[[[[[["x"]]]]]]}"#));
}

#[test]
fn session_ids_in_their_order() {
    let session = |body: Value| turn(&body.to_string()).session;
    let mut body = json!({"input": {"session_id": "g", "sessionId": "h", "message": {"session_id": "i", "text": "x"}},
        "session_id": "a", "sessionId": "b", "session": {"id": "c"}, "context": {"session_id": "d"}});
    for (key, expected) in [("session_id", "a"), ("sessionId", "b"), ("session", "c"), ("context", "d")] {
        assert_eq!(session(body.clone()).as_deref(), Some(expected));
        body.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(session(body.clone()).as_deref(), Some("g"));
    body["input"]["session_id"] = json!({});
    assert_eq!(session(body.clone()).as_deref(), Some("h"));
    body["input"]["sessionId"] = json!("");
    assert_eq!(session(body).as_deref(), Some("i"));
    // A message that does not win is not on the path, and a block of a list never is.
    assert_eq!(session(json!({"input": [{"content": "x", "session_id": "a"}, {"content": "y"}]})), None);
    assert_eq!(session(json!({"input": [{"text": "x", "session_id": "a"}]})), None);
    assert_eq!(session(json!({"input": {"text": "x"}, "session": "a", "context": ["b"]})), None);
}

#[test]
fn message_ids_in_their_order() {
    let message = |body: Value| turn(&body.to_string()).message_id;
    let mut body = json!({"input": {"id": "f", "content": {"messageId": "d", "message_id": "e", "content": "x"}},
        "message_id": "a", "messageId": "b", "message": {"id": "c"}});
    for (key, expected) in [("message_id", "a"), ("messageId", "b"), ("message", "c")] {
        assert_eq!(message(body.clone()).as_deref(), Some(expected));
        body.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(message(body.clone()).as_deref(), Some("e"));
    body["input"]["content"]["message_id"] = json!(true);
    assert_eq!(message(body.clone()).as_deref(), Some("d"));
    body["input"]["content"]["messageId"] = json!(1.5);
    assert_eq!(message(body.clone()).as_deref(), Some("f"));
    body["input"]["type"] = json!("user.message");
    body["input"]["content"]["id"] = json!("g");
    assert_eq!(message(body).as_deref(), Some("g"));
    // Only objects that hold `content` or `parts` themselves.
    assert_eq!(message(json!({"input": {"id": "a", "text": "x"}})), None);
    assert_eq!(message(json!({"input": {"id": "a", "parts": ["x"]}})).as_deref(), Some("a"));
    // `P.message.id` beside an input, and before the ids of the path at the top level.
    assert_eq!(message(json!({"input": "x", "message": {"id": 7}})).as_deref(), Some("7"));
    assert_eq!(message(json!({"message": {"id": "a", "message_id": "b", "text": "x"}})).as_deref(), Some("a"));
    assert_eq!(
        message(json!({"message": {"id": "a"}, "data": {"message_id": "b", "text": "x"}})).as_deref(),
        Some("a")
    );
}

#[test]
fn ids_are_short_strings_or_integers() {
    let session = |id: &str| turn(&format!(r#"{{"input":"x","session_id":{id}}}"#)).session;
    assert_eq!(session("17").as_deref(), Some("17"));
    assert_eq!(session("-3").as_deref(), Some("-3"));
    assert_eq!(session("-0").as_deref(), Some("0"));
    assert_eq!(session("123456789012345678901234567890").as_deref(), Some("123456789012345678901234567890"));
    for wrong in ["1.0", "1e3", "1e999", "true", "null", "[]", "{}", r#""""#] {
        assert_eq!(session(wrong), None, "{wrong}");
    }
    let long = |count: usize| format!("\"{}\"", "é".repeat(count));
    assert_eq!(session(&long(256)).map(|id| id.chars().count()), Some(256));
    assert_eq!(session(&long(257)), None);
    let escaped = |count: usize| format!("\"{}\"", r"\ud83d\ude00".repeat(count));
    assert_eq!(session(&escaped(256)).map(|id| id.chars().count()), Some(256));
    assert_eq!(session(&escaped(257)), None);
    // Integers on the path keep all their digits too.
    let path = turn(r#"{"input":{"text":"x","session_id":123456789012345678901234567890}}"#).session;
    assert_eq!(path.as_deref(), Some("123456789012345678901234567890"));
}

#[test]
fn state_as_it_came() {
    let state = |body: &str| turn(body).state.map(|state| state.get().to_owned());
    assert_eq!(state(r#"{"input":"x"}"#), None);
    assert_eq!(state(r#"{"input":"x","state":null}"#), None);
    for raw in [
        r#"{ "b" : 1.0e3, "a" : 12345678901234567890123 }"#,
        "0",
        "false",
        r#""null""#,
        r#""[1]""#,
        r#""{\"a\":""#,
        r#""{} {}""#,
        r#""\ud800""#,
        "[1, 2]",
    ] {
        assert_eq!(state(&format!(r#"{{"input":"x","state":{raw}}}"#)).as_deref(), Some(raw));
    }
    assert_eq!(state(r#"{"input":"x","state":" {\"b\" : 1} \n"}"#).as_deref(), Some(r#"{"b" : 1}"#));
    // Decoded once, not twice.
    assert_eq!(state(r#"{"input":"x","state":"\"{}\""}"#).as_deref(), Some(r#""\"{}\"""#));
    let deep = format!("{}0{}", r#"{\"a\":"#.repeat(5_000), "}".repeat(5_000));
    assert!(state(&format!(r#"{{"input":"x","state":"{deep}"}}"#)).unwrap().starts_with('"'));
    let fine = format!("{}0{}", r#"{\"a\":"#.repeat(128), "}".repeat(128));
    assert!(state(&format!(r#"{{"input":"x","state":"{fine}"}}"#)).unwrap().starts_with('{'));
    let all = r#"{"input":"x","runtime_state":4,"state_json":3,"previous_state":2,"state":1}"#;
    assert_eq!(state(all).as_deref(), Some("1"));
    assert_eq!(state(&all.replace(",\"state\":1", "")).as_deref(), Some("2"));
    assert_eq!(state(&all.replace("\"state\":1", "\"state\":null")), None);
    assert_eq!(state(r#"{"input":"x","runtime_state":4,"state_json":3}"#).as_deref(), Some("3"));
    assert_eq!(state(r#"{"input":"x","runtime_state":4}"#).as_deref(), Some("4"));
    assert_eq!(state(r#"{"input":"x","state":1,"state":2}"#).as_deref(), Some("2"));
}

#[test]
fn a_borrowed_state_is_the_bodys_own_text() {
    let body = r#"{"input":"x","state": {"a": 1} }"#;
    let Some(Cow::Borrowed(state)) = turn(body).state else { panic!("copied") };
    assert!(body.as_bytes().as_ptr_range().contains(&state.get().as_ptr()));
}

#[test]
fn instructions_of_the_request() {
    let found = |body: &str| turn(body).instructions;
    assert_eq!(found(r#"{"input":"x"}"#), None);
    assert_eq!(found(r#"{"input":"x","instructions":"a","system":"b","system_prompt":"c"}"#).as_deref(), Some("a"));
    assert_eq!(found(r#"{"input":"x","instructions":{"system":"a"},"system":"b"}"#).as_deref(), Some("a"));
    assert_eq!(found(r#"{"input":"x","instructions":{"system":5},"system":"b"}"#).as_deref(), Some("b"));
    assert_eq!(found(r#"{"input":"x","instructions":" ","system":7,"system_prompt":"c"}"#).as_deref(), Some("c"));
    assert_eq!(found(r#"{"input":"x","instructions":["a"],"system":null}"#), None);
}

#[test]
fn mentions_of_every_shape() {
    let mention = |block: &str| prompt(&format!(r#"{{"input":["t",{block}]}}"#)).trim_start_matches("t\n").to_owned();
    for (block, line) in [
        (r#"{"type":"file","filename":"report.pdf","file_id":"file_01"}"#, "[attached file report.pdf (file_01)]"),
        (r#"{"type":"file","file_id":"file_01"}"#, "[attached file file_01]"),
        (r#"{"type":"image"}"#, "[attached image]"),
        (r#"{"file_id":42}"#, "[attached file 42]"),
        (r#"{"file_id":{"a":1}}"#, "[attached file]"),
        (r#"{"type":"image","url":"https://a/b.png"}"#, "[attached image https://a/b.png]"),
        (r#"{"type":"image","url":"u","path":"p"}"#, "[attached image p]"),
        (r#"{"type":"image","url":"u","path":"p","filename":"f"}"#, "[attached image f]"),
        (r#"{"type":"file","filename":"","url":5,"path":null}"#, "[attached file]"),
        (r#"{"url":"https://a"}"#, "[attached file https://a]"),
        (r#"{"type":"video","url":"https://a"}"#, "[attached video https://a]"),
        (r#"{"type":"odd"}"#, "[attached odd]"),
        (r#"{"type":"file","filename":"a\nb"}"#, "[attached file a b]"),
        (r#"{"type":"image","data":""}"#, "[attached image]"),
        (r#"{"type":"file","data":"hello"}"#, "[attached file]"),
        (r#"{"type":"image","data":"data:image/png;base64,AA=="}"#, "[attached image]"),
    ] {
        assert_eq!(mention(block), line, "{block}");
    }
    let long = mention(&format!(r#"{{"url":"{}"}}"#, "é".repeat(5_000)));
    assert_eq!(long.chars().count(), "[attached file ]".len() + 1_025);
}

#[test]
fn attachments_keep_what_they_have() {
    let attachments = turn(
        r#"{"input":[{"type":"file","file_id":"i","path":"p","filename":"n","media_type":"m","url":"u","data":"AA=="},
            {"type":"image","mimeType":"b"},{"type":"file","mime_type":"a","mimeType":"b","media_type":5},{"type":"odd"}]}"#,
    )
    .attachments;
    let all = Attachment {
        kind: "file",
        file_id: Some("i".into()),
        path: Some("p".into()),
        filename: Some("n".into()),
        mime_type: Some("m".into()),
        url: Some("u".into()),
        data: Some("AA==".into()),
    };
    let typed =
        |kind, mime: Option<&str>| Attachment { kind, mime_type: mime.map(Into::into), ..Attachment::default() };
    assert_eq!(attachments, [all, typed("image", Some("b")), typed("file", Some("a")), typed("other", None)]);
}

#[test]
fn an_attachment_alone_is_a_turn() {
    let turn = turn(r#"{"input":{"type":"image","data":"AA=="}}"#);
    assert_eq!((turn.prompt.as_str(), turn.attachments.len()), ("", 1));
    assert_eq!(prompt(r#"{"input":{"file_id":"f"}}"#), "[attached file f]");
}

#[test]
fn texts_and_mentions_keep_their_order() {
    let body = r#"{"input":[{"type":"file","file_id":"1"},"a","b",{"type":"image","data":"AA=="},"c",{"type":"file","file_id":"2"}]}"#;
    assert_eq!(prompt(body), "[attached file 1]\na\nb\nc\n[attached file 2]");
}

#[test]
fn the_resolver_is_asked_for_the_users_files_only() {
    let asked = RefCell::new(Vec::new());
    let resolver = |attachment: &Attachment| {
        asked.borrow_mut().push(attachment.clone());
        attachment.path.as_ref().map(|path| Path::new("/workspace").join(path))
    };
    let body = r#"{"input":[{"role":"user","content":[{"type":"file","path":"old.txt"}]},
        {"role":"user","content":["x",{"type":"file","path":"a.txt"},{"type":"file","filename":"b.txt"},
        {"type":"file","file_id":"f"},{"type":"image","path":"c.png","data":"AA=="}]}]}"#;
    let Ok(Input::Turn(turn)) = read(body, &resolver) else { panic!("no turn") };
    assert_eq!(turn.prompt, "x\n[attached file b.txt]\n[attached file f]");
    let paths: Vec<_> = turn.attachments.iter().map(|attachment| attachment.path.as_deref()).collect();
    assert_eq!(paths, [Some("/workspace/a.txt"), None, None, Some("c.png")]);
    assert_eq!(asked.borrow().len(), 2);
}

#[test]
fn very_many_attachments_become_lines() {
    let blocks = vec![r#"{"type":"image","data":"AA=="}"#; 1_003].join(",");
    let body = format!(r#"{{"input":[{blocks}]}}"#);
    let turn = turn(&body);
    assert_eq!(turn.attachments.len(), 1_000);
    assert_eq!(turn.prompt, "[attached image]\n[attached image]\n[attached image]");
}

#[test]
fn inputs_that_are_no_turns() {
    for body in [
        "{}",
        r#"{"input":null}"#,
        r#"{"session_id":"a","state":{"v":1}}"#,
        r#"{"data":"aGk="}"#,
        r#"{"file_id":"f"}"#,
        r#"{"input":{"type":"resume"}}"#,
        r#"{"input":{"type":"continue","text":"x"}}"#,
        r#"{"input":{"type":"ping"}}"#,
        r#"{"type":"ping","text":"x"}"#,
        r#"{"type":"tool_result"}"#,
    ] {
        assert_eq!(canned(body), Canned::Empty, "{body}");
    }
    for kind in ["llm_result", "llm_error", "tool_result", "tool_error", "tool.result_submitted"] {
        let body = format!(r#"{{"input":{{"type":"{kind}","content":"x"}}}}"#);
        assert_eq!(canned(&body), Canned::ResultNotRequested, "{body}");
    }
    assert_eq!(canned(r#"{"type":"tool_error","message":"x"}"#), Canned::ResultNotRequested);
    // Below the level to start from these are ordinary types.
    assert_eq!(prompt(r#"{"input":[{"type":"ping","text":"x"}]}"#), "x");
    assert_eq!(prompt(r#"{"type":"ping","input":"x"}"#), "x");
}

#[test]
fn bodies_that_are_no_objects() {
    for body in ["[]", r#""x""#, "7", "true", "null", " [{}] "] {
        assert_eq!(read(body, &nowhere).err(), Some(Malformed::NotAnObject), "{body}");
    }
    assert_eq!(Malformed::NotAnObject.to_string(), "request body must be a JSON object");
    assert_eq!(Malformed::NoUserInput.to_string(), "no user input found");
}

#[test]
fn bodies_without_user_input() {
    for body in [
        r#"{"input":""}"#,
        r#"{"input":" \n\t "}"#,
        r#"{"input":{}}"#,
        r#"{"input":[]}"#,
        r#"{"input":42}"#,
        r#"{"input":true}"#,
        r#"{"text":""}"#,
        r#"{"data":{}}"#,
        r#"{"input":{"messages":[{"role":"assistant","content":"Hi."}]}}"#,
        r#"{"input":[{"type":"text","text":5}]}"#,
        r#"{"input":[{"type":"text","text":"  "}]}"#,
    ] {
        assert!(no_input(body), "{body}");
    }
}

#[test]
fn odd_fields_beside_good_ones() {
    let odd = turn(
        r#"{"input":[{"type":"text","text":"x"},{"type":"hologram","size":3}],"state":"not ours","session_id":[1],"message_id":{},"session":7,"message":"m","context":null}"#,
    );
    assert_eq!(odd.prompt, "x\n[attached hologram]");
    assert_eq!((odd.session, odd.message_id), (None, None));
    assert_eq!(odd.state.unwrap().get(), r#""not ours""#);
}

#[test]
fn what_identifies_the_input() {
    let InputText::Input(raw) = turn(r#"{"input": {"text":"x"} ,"attempt":1}"#).input else { panic!("input") };
    assert_eq!(raw.get(), r#"{"text":"x"}"#);
    let body = r#"{"text":"y","text":"x","attempt":2,"turn_id":"a","run_id":"b","state":1,"state_json":2,"previous_state":3,"runtime_state":4,"session_id":"s","input":null}"#;
    let InputText::Members(members) = turn(body).input else { panic!("members") };
    let members: Vec<_> = members.iter().map(|(key, value)| (&**key, value.get())).collect();
    assert_eq!(members, [("session_id", r#""s""#), ("text", r#""x""#)]);
}

#[test]
fn unknown_keys_are_named() {
    assert_eq!(turn(r#"{"input":"x","state":1,"tools":[],"zeta":1,"alpha":2}"#).unknown_keys, ["alpha", "zeta"]);
    let many: Vec<String> = (0..100).map(|n| format!(r#""{}{n:03}":1"#, "k".repeat(100))).collect();
    let body = format!(r#"{{"input":"x",{}}}"#, many.join(","));
    let unknown = turn(&body).unknown_keys;
    assert_eq!(unknown.len(), 16);
    assert!(unknown.iter().all(|key| key.chars().count() == 64));
}

#[test]
fn json_that_rust_strings_and_floats_cannot_hold() {
    assert_eq!(prompt(r#"{"input":"cut \ud83d"}"#), "cut \u{fffd}");
    assert_eq!(
        prompt(r#"{"input":["\udc00 \ud83d\ude00 \ud800\ud83d\ude00 \\ud800 \"","\u00e9"]}"#),
        "\u{fffd} 😀 \u{fffd}😀 \\ud800 \"\né"
    );
    assert_eq!(prompt(r#"{"input":[1e999,"a",-1E400]}"#), "a");
    assert_eq!(prompt(&format!(r#"{{"input":[{},"a"]}}"#, "9".repeat(500))), "a");
    let turn = turn(r#"{"\ud800":1e999,"input":{"text":"\ud800","session_id":12345678901234567890123}}"#);
    assert_eq!(turn.prompt, "\u{fffd}");
    assert_eq!(turn.session.as_deref(), Some("12345678901234567890123"));
    assert_eq!(turn.unknown_keys.len(), 1);
}

#[test]
fn a_large_prompt() {
    let text = "0123456789abcdé\n".repeat(650_000);
    let body = json!({"message": {"id": "m", "content": [{"type": "text", "text": text}]}}).to_string();
    let turn = turn(&body);
    assert!(turn.prompt == text);
    assert_eq!(turn.message_id.as_deref(), Some("m"));
}

fn workspace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "a.txt",
        "sub/b.txt",
        "sub/twice.txt",
        "other/twice.txt",
        ".dari/secret.txt",
        ".git/hidden.txt",
        "node_modules/x/m.js",
    ] {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    dir
}

fn at(path: &str) -> Attachment {
    Attachment { kind: "file", path: Some(path.into()), ..Attachment::default() }
}

fn named(name: &str) -> Attachment {
    Attachment { kind: "file", filename: Some(name.into()), ..Attachment::default() }
}

#[test]
fn paths_in_the_workspace() {
    let dir = workspace();
    let root = fs::canonicalize(dir.path()).unwrap();
    let resolve = |attachment: &Attachment| resolve_in(dir.path(), attachment);
    assert_eq!(resolve(&at("a.txt")), Some(root.join("a.txt")));
    assert_eq!(resolve(&at("./sub/../sub/b.txt")), Some(root.join("sub/b.txt")));
    assert_eq!(resolve(&at(root.join("a.txt").to_str().unwrap())), Some(root.join("a.txt")));
    for bad in [
        "",
        "/",
        "sub",
        "missing.txt",
        "/etc/passwd",
        "../../etc/passwd",
        ".dari/secret.txt",
        "sub/../.dari/secret.txt",
        "a\0b",
    ] {
        assert_eq!(resolve(&at(bad)), None, "{bad:?}");
    }
    assert_eq!(resolve_in(Path::new("/no/such/folder"), &at("a.txt")), None);
}

#[cfg(unix)]
#[test]
fn links_do_not_lead_out_of_the_workspace() {
    use std::os::unix::fs::symlink;
    let dir = workspace();
    let root = fs::canonicalize(dir.path()).unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("o.txt"), "x").unwrap();
    symlink(outside.path(), root.join("out")).unwrap();
    symlink(outside.path().join("o.txt"), root.join("o.txt")).unwrap();
    symlink(root.join(".dari"), root.join("platform")).unwrap();
    symlink(root.join("a.txt"), root.join("inner.txt")).unwrap();
    for bad in ["out/o.txt", "o.txt", "platform/secret.txt"] {
        assert_eq!(resolve_in(&root, &at(bad)), None, "{bad}");
    }
    assert_eq!(resolve_in(&root, &at("inner.txt")), Some(root.join("a.txt")));
    assert_eq!(resolve_in(&root, &named("o.txt")), None);
    assert_eq!(resolve_in(&root, &named("inner.txt")), None);
    // The root itself may be a link, and so may the platform's folder.
    let link = outside.path().join("root");
    symlink(&root, &link).unwrap();
    assert_eq!(resolve_in(&link, &at("a.txt")), Some(root.join("a.txt")));
    fs::rename(root.join(".dari"), root.join("moved")).unwrap();
    symlink(root.join("moved"), root.join(".dari")).unwrap();
    assert_eq!(resolve_in(&root, &at("moved/secret.txt")), None);
}

#[test]
fn file_names_in_the_workspace() {
    let dir = workspace();
    let root = fs::canonicalize(dir.path()).unwrap();
    let workspace = Workspace::new(dir.path());
    assert_eq!(workspace.resolve(&named("b.txt")), Some(root.join("sub/b.txt")));
    assert_eq!(
        workspace.resolve(&Attachment { path: Some("gone".into()), ..named("b.txt") }),
        Some(root.join("sub/b.txt"))
    );
    for bad in [
        "twice.txt",
        "secret.txt",
        "hidden.txt",
        "m.js",
        "sub/b.txt",
        "../a.txt",
        ".",
        "..",
        "",
        "sub",
        "a.txt/",
        "/a.txt",
    ] {
        assert_eq!(workspace.resolve(&named(bad)), None, "{bad:?}");
    }
    let deep = |levels: usize| {
        let folder = (0..levels).fold(root.join("deep"), |path, _| path.join("d"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("deep{levels}.txt")), "x").unwrap();
    };
    deep(14);
    deep(15);
    let workspace = Workspace::new(dir.path());
    assert!(workspace.resolve(&named("deep14.txt")).is_some());
    assert_eq!(workspace.resolve(&named("deep15.txt")), None);
    fs::create_dir(root.join("many")).unwrap();
    for n in 0..10_000 {
        fs::write(root.join(format!("many/{n}")), "").unwrap();
    }
    assert_eq!(resolve_in(&root, &named("b.txt")), None);
    assert_eq!(resolve_in(&root, &at("a.txt")), Some(root.join("a.txt")));
}

/// Section 2.3 read a second time, as plainly as possible, over a tree.
mod plain {
    use serde_json::Value;

    /// Lines of the prompt, with the number of attachments, or nothing.
    #[derive(Debug, Default, PartialEq)]
    pub struct Said {
        pub lines: Vec<String>,
        pub attachments: usize,
        pub session: Option<String>,
        pub message: Option<String>,
        pub holder: Option<String>,
    }

    const STEPS: [&str; 8] = ["input", "data", "message", "messages", "content", "parts", "text", "prompt"];

    fn get<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
        value.get(key).filter(|value| !value.is_null())
    }

    pub fn step(value: &Value) -> Option<&Value> {
        STEPS.iter().find_map(|key| get(value, key).filter(|found| *key != "data" || found.is_object()))
    }

    fn kind(value: &Value) -> &str {
        get(value, "type").and_then(Value::as_str).unwrap_or_default()
    }

    fn message_like(value: &Value) -> bool {
        value.is_object()
            && !["text", "file", "image"].contains(&kind(value))
            && (["role", "content", "parts", "message"].iter().any(|key| get(value, key).is_some())
                || get(value, "data").is_some_and(Value::is_object)
                || ["user.message", "user_message"].contains(&kind(value)))
    }

    pub fn id(value: Option<&Value>) -> Option<String> {
        match value? {
            Value::String(text) if (1..=256).contains(&text.chars().count()) => Some(text.clone()),
            Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            _ => None,
        }
    }

    pub fn resolve(value: &Value, level: usize, in_blocks: bool) -> Option<Said> {
        if level > 6 {
            return None;
        }
        match value {
            Value::String(text) if !text.trim().is_empty() => {
                Some(Said { lines: vec![text.clone()], ..Said::default() })
            }
            Value::Array(items) if items.iter().any(message_like) => {
                items.iter().rev().find_map(|item| resolve(item, level + 1, false))
            }
            Value::Array(items) => {
                let all: Vec<_> = items.iter().filter_map(|item| resolve(item, level + 1, true)).collect();
                (!all.is_empty()).then(|| Said {
                    lines: all.iter().flat_map(|said| said.lines.clone()).collect(),
                    attachments: all.iter().map(|said| said.attachments).sum(),
                    ..Said::default()
                })
            }
            Value::Object(_) => {
                let mut said = object(value, level, in_blocks)?;
                let has = |key: &str| get(value, key).is_some();
                let own = |key: &str| id(value.get(key));
                said.session = own("session_id").or_else(|| own("sessionId")).or(said.session);
                said.message = own("message_id").or_else(|| own("messageId")).or(said.message);
                if (has("content") || has("parts")) && !kind(value).contains('.') {
                    said.holder = own("id").or(said.holder);
                }
                Some(said)
            }
            _ => None,
        }
    }

    fn object(value: &Value, level: usize, in_blocks: bool) -> Option<Said> {
        if get(value, "role").is_some_and(|role| role != "user")
            || (kind(value).contains('.') && kind(value) != "user.message")
        {
            return None;
        }
        if kind(value) == "text" {
            return value.get("text").filter(|text| text.is_string()).and_then(|text| resolve(text, level + 1, false));
        }
        let is_file = ["file_id", "path", "url"].iter().any(|key| get(value, key).is_some())
            || value.get("data").is_some_and(Value::is_string);
        if ["file", "image"].contains(&kind(value)) || (is_file && step(value).is_none()) {
            return Some(attachment(value));
        }
        if let Some(next) = step(value) {
            return resolve(next, level + 1, false);
        }
        (in_blocks && !kind(value).is_empty()).then(|| attachment(value))
    }

    fn attachment(value: &Value) -> Said {
        let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let mut line = format!("[attached {}", text("type").unwrap_or("file"));
        let name = text("filename").or_else(|| text("path")).or_else(|| text("url"));
        match (name, id(value.get("file_id"))) {
            (Some(name), Some(id)) => line.extend([" ", name, " (", &id, ")"]),
            (Some(name), None) => line.extend([" ", name]),
            (None, Some(id)) => line.extend([" ", &id]),
            (None, None) => {}
        }
        let word = |data: &str| data.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
        let inline = text("data").is_some_and(|data| word(data) && data.len() % 4 != 1);
        Said { lines: if inline { vec![] } else { vec![line + "]"] }, attachments: 1, ..Said::default() }
    }
}

fn keys() -> impl Strategy<Value = String> {
    const KEYS: [&str; 25] = [
        "input",
        "data",
        "message",
        "messages",
        "content",
        "parts",
        "text",
        "prompt",
        "role",
        "type",
        "file_id",
        "path",
        "url",
        "filename",
        "mime_type",
        "id",
        "session_id",
        "sessionId",
        "message_id",
        "messageId",
        "state",
        "content",
        "text",
        "type",
        "other",
    ];
    prop::sample::select(&KEYS[..]).prop_map(str::to_owned)
}

fn words() -> impl Strategy<Value = Value> {
    const WORDS: [&str; 17] = [
        "",
        " ",
        "hello",
        "user",
        "assistant",
        "text",
        "file",
        "image",
        "odd",
        "user.message",
        "user_message",
        "AAAA",
        "tool.call",
        "a b",
        "x",
        "user",
        "text",
    ];
    prop::sample::select(&WORDS[..]).prop_map(Value::from)
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        8 => words(),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
    ];
    leaf.prop_recursive(9, 80, 6, |inner| {
        prop_oneof![
            2 => prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            5 => prop::collection::vec((keys(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_without_panic(body in ".{0,200}") {
        let _ = read(&body, &nowhere);
    }

    #[test]
    fn any_value_is_read_as_the_plain_reading_has_it(members in prop::collection::vec((keys(), anything()), 0..5)) {
        let value = Value::Object(members.into_iter().collect());
        let body = value.to_string();
        let outcome = read(&body, &nowhere);
        prop_assert_eq!(format!("{outcome:?}"), format!("{:?}", read(&body, &nowhere)));
        let start = value.get("input").filter(|input| !input.is_null()).unwrap_or(&value);
        let said = plain::resolve(start, 0, false);
        match outcome {
            Ok(Input::NotATurn(_)) => prop_assert!(plain::step(&value).is_none()),
            Err(_) => prop_assert!(said.is_none()),
            Ok(Input::Turn(turn)) => {
                let said = said.expect("the plain reading finds nothing");
                prop_assert_eq!(&turn.prompt, &said.lines.join("\n"));
                prop_assert_eq!(turn.attachments.len(), said.attachments);
                let id = |key: &str| plain::id(value.get(key));
                let in_message = plain::id(value.get("message").and_then(|message| message.get("id")));
                prop_assert_eq!(turn.session, id("session_id").or_else(|| id("sessionId")).or(said.session));
                let message = id("message_id").or_else(|| id("messageId")).or(in_message);
                prop_assert_eq!(turn.message_id, message.or(said.message).or(said.holder));
            }
        }
    }

    #[test]
    fn spaces_and_the_order_of_keys_change_nothing(value in anything()) {
        let body = json!({"input": value, "state": {"a": 1}});
        let outcome = |body: &str| match read(body, &nowhere) {
            Ok(Input::Turn(turn)) => format!("{:?}", (turn.prompt, turn.attachments, turn.session, turn.message_id)),
            other => format!("{:?}", other.err()),
        };
        prop_assert_eq!(outcome(&body.to_string()), outcome(&serde_json::to_string_pretty(&body).unwrap()));
    }

    #[test]
    fn mending_changes_nothing_that_is_whole(value in anything()) {
        let body = value.to_string();
        let mended = repaired(&body);
        let exponents = body.contains("e+") || body.contains("e-") || body.contains("e1") || body.contains("e2");
        prop_assert!(exponents || mended == body);
        prop_assert!(serde_json::from_str::<Value>(&mended).is_ok());
    }
}
