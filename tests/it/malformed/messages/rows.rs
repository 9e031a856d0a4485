//! The rows: what is sent, and what it is answered with when nothing else runs.

use crate::malformed::{digits, nested};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

/// What a message is answered with.
#[derive(Debug, Clone)]
pub enum Due {
    /// An `error_message` with this text and field.
    Refused(String, Option<String>),
    /// The turn's result.
    Result(String),
    Nothing,
}

pub struct Row {
    pub name: String,
    pub message: Message,
    /// Whether it asks for a turn or for commands: then it is answered also while another request runs.
    pub is_request: bool,
    pub due: Due,
}

#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, name: impl Into<String>, message: Message, is_request: bool, due: Due) {
        self.0.push(Row { name: name.into(), message, is_request, due });
    }

    /// A text that is no message at all.
    fn no_message(&mut self, name: &str, text: impl Into<String>, error: &str, field: Option<&str>) {
        let due = Due::Refused(error.to_owned(), field.map(str::to_owned));
        self.add(name, Message::text(text.into()), false, due);
    }

    /// A message of this type with these members, as text so that they may be what serde cannot write; its refusal.
    fn wrong(&mut self, kind: &str, members: &str, field: &str, problem: &str) {
        let place = if field.contains('[') { field.to_owned() } else { format!("{kind}.{field}") };
        let is_request = matches!(kind, "invocation_message" | "command_execution_message");
        let due = Due::Refused(format!("{place}: {problem}"), Some(field.to_owned()));
        self.add(format!("{kind} {}", clip(members)), message(kind, members), is_request, due);
    }

    /// An invocation whose prompt is fine and which has one more member.
    fn field(&mut self, field: &str, value: &str, place: &str, problem: &str) {
        let members = format!(r#""user_prompt":"hi","{field}":{value}"#);
        self.wrong("invocation_message", &members, place, problem);
    }

    /// An odd invocation that is taken all the same.
    fn taken(&mut self, members: &str, text: &str) {
        let name = format!("taken: {}", clip(members));
        self.add(name, message("invocation_message", members), true, Due::Result(text.to_owned()));
    }
}

fn message(kind: &str, members: &str) -> Message {
    Message::text(format!(r#"{{"message_type":"{kind}",{members}}}"#))
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Every row.
pub fn all() -> Vec<Row> {
    let mut rows = Rows::default();
    not_messages(&mut rows);
    wrong_invocations(&mut rows);
    wrong_commands(&mut rows);
    wrong_others(&mut rows);
    odd_but_taken(&mut rows);
    rows.0
}

fn not_messages(rows: &mut Rows) {
    let cancel = r#"{"message_type":"cancel_message"}"#;
    let deep = "Invalid JSON: nested deeper than 128 levels";
    let at = |line: u32, column: u32| format!("Invalid JSON: syntax error at line {line}, column {column}");
    rows.no_message("empty", "", "Invalid JSON: empty", None);
    rows.no_message("only blanks", " \t\r\n", "Invalid JSON: empty", None);
    rows.no_message("only a byte order mark", "\u{feff}", "Invalid JSON: empty", None);
    rows.no_message("a NUL", "\0", &at(1, 1), None);
    rows.no_message("words with a secret", "password-12345", &at(1, 1), None);
    rows.no_message("cut", r#"{"message_type":"cancel_mess"#, &at(1, 28), None);
    rows.no_message("cut on the second line", "{\n\"message_type\"", &at(2, 14), None);
    rows.no_message("bytes after the value", format!("{cancel} x"), &at(1, 35), None);
    rows.no_message("two values", format!("{cancel}{cancel}"), &at(1, 34), None);
    rows.no_message("129 levels", nested("[", "]", 129), deep, None);
    rows.no_message("100,000 arrays", "[".repeat(100_000), deep, None);
    rows.no_message("100,000 objects", nested("{\"a\":", "}", 100_000), deep, None);
    rows.add(
        "bytes that are not UTF-8, binary",
        Message::binary(b"\xff\xfe".to_vec()),
        false,
        Due::Refused(at(1, 1), None),
    );
    for (value, kind) in [
        ("null", "null"),
        ("true", "a boolean"),
        ("42", "a number"),
        ("1e999", "a number"),
        (&digits(), "a number"),
        ("\"cancel_message\"", "a string"),
        (r#""\ud83d""#, "a string"),
        ("[]", "an array"),
        (&format!("[{cancel}]"), "an array"),
    ] {
        let error = format!("expected a JSON object with message_type, got {kind}");
        rows.no_message(&format!("no object: {}", clip(value)), value, &error, None);
    }
    for (text, problem) in [
        ("{}", "required string is missing"),
        (r#"{"user_prompt":"hi"}"#, "required string is missing"),
        (r#"{"message_type":null}"#, "required string is missing"),
        (r#"{"message_type":5}"#, "expected a string, got a number"),
        (r#"{"message_type":["cancel_message"]}"#, "expected a string, got an array"),
        (r#"{"message_type":{}}"#, "expected a string, got an object"),
        (r#"{"message_type":""}"#, "unknown message type"),
        (r#"{"message_type":"invocation"}"#, "unknown message type"),
        (r#"{"message_type":"Invocation_Message"}"#, "unknown message type"),
        (r#"{"message_type":"result_message","metadata":{}}"#, "unknown message type"),
        (r#"{"message_type":"cancel_message","message_type":"x"}"#, "unknown message type"),
        (r#"{"message_type":"cancel_message\u0000"}"#, "unknown message type"),
    ] {
        rows.no_message(text, text, &format!("message_type: {problem}"), Some("message_type"));
    }
}

fn wrong_invocations(rows: &mut Rows) {
    let ask = "invocation_message";
    rows.wrong(ask, r#""model":"m""#, "user_prompt", "required string is missing");
    rows.wrong(ask, r#""user_prompt":null"#, "user_prompt", "required string is missing");
    let kinds =
        [("5", "a number"), ("1e999", "a number"), ("true", "a boolean"), ("[]", "an array"), ("{}", "an object")];
    for field in [
        "user_prompt",
        "source_id",
        "system_prompt",
        "model",
        "output_format_json_schema_str",
        "artifacts_dir",
        "artifacts_ignore_content",
        "request_id",
    ] {
        // A number is a fine name for a log line.
        for (value, kind) in kinds.iter().filter(|(_, kind)| field != "source_id" || *kind != "a number") {
            rows.field(field, value, field, &format!("expected a string, got {kind}"));
        }
    }
    for field in ["secrets_to_redact", "artifacts_dirs", "extensions"] {
        for (value, kind) in
            [("\"/srv/out\"", "a string"), ("5", "a number"), ("false", "a boolean"), ("{}", "an object")]
        {
            rows.field(field, value, field, &format!("expected an array of strings, got {kind}"));
        }
        for (item, kind) in [("null", "null"), ("true", "a boolean"), ("[]", "an array"), ("{}", "an object")] {
            let place = format!("{field}[1]");
            rows.field(field, &format!(r#"["a",{item}]"#), &place, &format!("expected a string, got {kind}"));
        }
    }
    for (value, kind) in [("\"A=1\"", "a string"), ("5", "a number"), ("true", "a boolean"), ("[]", "an array")] {
        rows.field("agent_env", value, "agent_env", &format!("expected an object of strings, got {kind}"));
    }
    rows.field("agent_env", r#"{"A":null}"#, "agent_env.A", "expected a string, got null");
    rows.field("agent_env", r#"{"A":{}}"#, "agent_env.A", "expected a string, got an object");
    for (value, name) in [(r#"{"":"x"}"#, ""), (r#"{"A=B":"x"}"#, "A=B"), (r#"{"A":"\u0000"}"#, "A")] {
        rows.field("agent_env", value, &format!("agent_env.{name}"), "not a valid environment variable");
    }
    for field in ["timeout_ms", "max_frame_bytes"] {
        for (value, got) in [
            ("0", "0"),
            ("-1", "-1"),
            ("1.5", "1.5"),
            ("18446744073709551616", "a number out of range"),
            ("1e999", "a number out of range"),
            ("\"5\"", "a string"),
            ("true", "a boolean"),
            ("[5]", "an array"),
            ("{}", "an object"),
        ] {
            rows.field(field, value, field, &format!("expected a positive integer, got {got}"));
        }
    }
    for id in [String::new(), "x".repeat(129), "é".repeat(129)] {
        rows.field("request_id", &format!("\"{id}\""), "request_id", "expected 1 to 128 characters");
    }
    let format = "output_format_json_schema_str";
    rows.field(format, r#""{""#, format, "expected a string that holds JSON: syntax error at line 1, column 1");
    rows.field(format, r#"" ""#, format, "expected a string that holds JSON: empty");
    let deep = format!("\"{}\"", "[".repeat(100_000));
    rows.field(format, &deep, format, "expected a string that holds JSON: nested deeper than 128 levels");
    for (field, value, place, problem) in [
        ("artifacts_dir", "\"\"", "artifacts_dir", "a directory must not be empty or contain a NUL character"),
        (
            "artifacts_dirs",
            r#"["a\u0000b"]"#,
            "artifacts_dirs",
            "a directory must not be empty or contain a NUL character",
        ),
    ] {
        rows.field(field, value, place, problem);
    }
    let many: Vec<String> = (0..101).map(|n| format!("\"/d{n}\"")).collect();
    let too_many = "101 are too many, at most 100 are taken";
    rows.field("artifacts_dirs", &format!("[{}]", many.join(",")), "artifacts_dirs", too_many);
    let many = vec!["\"s\""; 1001].join(",");
    rows.field(
        "secrets_to_redact",
        &format!("[{many}]"),
        "secrets_to_redact",
        "1001 are too many, at most 1000 are taken",
    );
}

fn wrong_commands(rows: &mut Rows) {
    let execute = "command_execution_message";
    let mut anywhere = |field: &str, value: &str, place: &str, problem: &str| {
        let is_ours = field == "commands" || field == "pre_execution_downloadables";
        if is_ours {
            let members = if field == "commands" { String::new() } else { r#""commands":[],"#.to_owned() };
            rows.wrong(execute, &format!(r#"{members}"{field}":{value}"#), place, problem);
        } else {
            rows.field(field, value, place, problem);
        }
    };
    for list in ["commands", "pre_agent_invocation_commands", "post_agent_invocation_commands"] {
        for (value, kind) in [("\"ls\"", "a string"), ("5", "a number"), ("{}", "an object")] {
            anywhere(list, value, list, &format!("expected an array of objects, got {kind}"));
        }
        for (item, member, problem) in [
            ("\"ls\"", "", "expected an object, got a string"),
            ("null", "", "expected an object, got null"),
            ("{}", ".command", "required string is missing"),
            (r#"{"command":""}"#, ".command", "required string is missing"),
            (r#"{"command":null}"#, ".command", "required string is missing"),
            (r#"{"command":["ls"]}"#, ".command", "expected a string, got an array"),
            (r#"{"command":"ls","cwd":5}"#, ".cwd", "expected a string, got a number"),
            (r#"{"command":"ls","env":"A=1"}"#, ".env", "expected an object of strings, got a string"),
            (r#"{"command":"ls","env":{"A":[]}}"#, ".env.A", "expected a string, got an array"),
            (r#"{"command":"l\u0000s"}"#, ".command", "must not contain a NUL character"),
            (r#"{"command":"ls","cwd":"\u0000"}"#, ".cwd", "must not contain a NUL character"),
            (r#"{"command":"ls","timeout_ms":0}"#, ".timeout_ms", "expected a positive integer, got 0"),
            (r#"{"command":"ls","silent":1}"#, ".silent", "expected true or false, got a number"),
        ] {
            anywhere(list, &format!(r#"[{{"command":"true"}},{item}]"#), &format!("{list}[1]{member}"), problem);
        }
    }
    for list in ["pre_execution_downloadables", "pre_agent_downloadables"] {
        anywhere(list, "\"https://x.example\"", list, "expected an array of objects, got a string");
        for (item, member, problem) in [
            ("5", "", "expected an object, got a number"),
            (r#"{"working_dir":"/tmp"}"#, ".download_url", "required string is missing"),
            (r#"{"download_url":5,"working_dir":"/tmp"}"#, ".download_url", "expected a string, got a number"),
            (r#"{"download_url":"https://x.example/a"}"#, ".working_dir", "required string is missing"),
            (r#"{"download_url":"a","working_dir":"/","sha256":"ab"}"#, ".sha256", "expected 64 hexadecimal digits"),
            (
                r#"{"download_url":"a","working_dir":"/","extract":"yes"}"#,
                ".extract",
                "expected true or false, got a string",
            ),
            (
                r#"{"download_url":"a","working_dir":"/","max_bytes":-1}"#,
                ".max_bytes",
                "expected a positive integer, got -1",
            ),
        ] {
            anywhere(list, &format!("[{item}]"), &format!("{list}[0]{member}"), problem);
        }
    }
    rows.wrong(execute, r#""source_id":"a""#, "commands", "required array is missing");
    rows.wrong(execute, r#""commands":null"#, "commands", "required array is missing");
    let many = vec![r#"{"command":"true"}"#; 1001].join(",");
    rows.wrong(execute, &format!(r#""commands":[{many}]"#), "commands", "1001 are too many, at most 1000 are taken");
}

fn wrong_others(rows: &mut Rows) {
    for (id, problem) in [
        ("5", "expected a string, got a number"),
        ("[]", "expected a string, got an array"),
        ("\"\"", "expected 1 to 128 characters"),
    ] {
        rows.wrong("cancel_message", &format!(r#""request_id":{id}"#), "request_id", problem);
    }
    let answer = "artifact_upload_response_message";
    let whole = json!({"filename": "a", "filepath": "/a", "presigned_url": "https://x.example/a", "content_type": "t"});
    for field in ["filename", "filepath", "presigned_url", "content_type"] {
        for (value, problem) in [
            (json!(null), "required string is missing"),
            (json!(5), "expected a string, got a number"),
            (json!(["a"]), "expected a string, got an array"),
        ] {
            let mut members = whole.clone();
            members[field] = value;
            rows.wrong(answer, members.to_string().trim_matches(['{', '}']), field, problem);
        }
    }
    let members = whole.to_string();
    let unasked = message(answer, members.trim_matches(['{', '}']));
    rows.add("an answer nobody asked for", unasked, false, Due::Nothing);
    let other = message("cancel_message", r#""request_id":"another","x":1e999"#);
    rows.add("a cancel of something else", other, false, Due::Nothing);
}

fn odd_but_taken(rows: &mut Rows) {
    rows.taken(r#""user_prompt":"hi\u0000""#, "hi\0");
    rows.taken(r#""user_prompt":"hi\ud83d""#, "hi\u{fffd}");
    rows.taken(r#""user_prompt":"no","user_prompt":"hi""#, "hi");
    rows.taken(r#""user_prompt":"""#, "");
    for extra in [
        r#""x":1e999"#.to_owned(),
        format!(r#""x":-{}"#, digits()),
        r#""x":"\udc00""#.to_owned(),
        r#""\ud83d":1"#.to_owned(),
        format!(r#""x":{}"#, nested("[", "]", 127)),
        r#""source_id":5"#.to_owned(),
        r#""source_id":"""#.to_owned(),
        r#""source_id":1e999"#.to_owned(),
        r#""secrets_to_redact":["",7,1e999]"#.to_owned(),
        r#""agent_env":{"A":5,"B":1e999}"#.to_owned(),
        r#""extensions":["nobody-knows-it"]"#.to_owned(),
        r#""timeout_ms":18446744073709551615"#.to_owned(),
        r#""output_format_json_schema_str":"null""#.to_owned(),
        r#""artifacts_dirs":[],"pre_agent_invocation_commands":[],"pre_agent_downloadables":[]"#.to_owned(),
        r#""system_prompt":null,"model":null,"agent_env":null,"request_id":null,"extensions":null,"timeout_ms":null"#
            .to_owned(),
    ] {
        rows.taken(&format!(r#""user_prompt":"hi",{extra}"#), "hi");
    }
    let with_mark = "\u{feff}{\"message_type\":\"invocation_message\",\"user_prompt\":\"hi\"}";
    rows.add("a byte order mark", Message::text(with_mark), true, Due::Result("hi".to_owned()));
    let binary = b"{\"message_type\":\"invocation_message\",\"user_prompt\":\"hi\xf0\x9f\"}".to_vec();
    rows.add("not UTF-8, binary", Message::binary(binary), true, Due::Result("hi\u{fffd}".to_owned()));
}
