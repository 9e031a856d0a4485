//! The stdio protocol as `handlers/README.md` tells it.

use crate::support::{Server, repository};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

#[test]
fn the_transcript_of_the_readme_is_what_happens() {
    let readme = fs::read_to_string(repository("handlers/README.md")).unwrap();
    let transcript =
        readme.split("```transcript\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a transcript");
    let lines = |mark: &str| -> String {
        transcript.lines().filter_map(|line| line.strip_prefix(mark)).flat_map(|line| [line, "\n"]).collect()
    };
    let (to_handler, from_handler) = (lines("> "), lines("< "));
    assert!(to_handler.lines().count() >= 2 && from_handler.lines().count() >= 3, "{transcript}");
    let mut handler = Command::new("bash");
    handler.arg(repository("handlers/echo.sh")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut handler = handler.spawn().unwrap();
    handler.stdin.take().unwrap().write_all(to_handler.as_bytes()).unwrap();
    let output = handler.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), from_handler);
    // The next test pins what the server really sends; the transcript's turns must begin the same way.
    for line in to_handler.lines().filter(|line| line.contains(r#""type":"turn""#)) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["id"].is_string() && line["prompt"].is_string() && line.get("state").is_some(), "{line}");
    }
}

/// `echo.sh` finds its way by the order of keys, and `README.md` promises it.
#[tokio::test]
async fn a_turn_line_begins_with_type_id_prompt_state_and_has_no_spaces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recorder");
    let script = r#"#!/bin/sh
read -r hello
echo "$hello" >> "$LINES_FILE"
echo '{"type":"ready","name":"recorder"}'
while read -r line; do
  printf '%s\n' "$line" >> "$LINES_FILE"
  id=$(printf '%s' "$line" | cut -d'"' -f8)
  echo "{\"type\":\"result\",\"id\":\"$id\",\"text\":\"ok\",\"state\":{\"k\": [1,  2]}}"
done
"#;
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let record = folder.path().join("lines");
    let server = Server::start_with(&["--handler", path.to_str().unwrap()], |command| {
        command.env("LINES_FILE", &record);
    });
    let mut client = server.connect("/?session=s1").await;
    for _ in 0..2 {
        client
            .query_with(
                "hi",
                json!({
                    "system_prompt": "be brief", "model": "m1", "source_id": "run-1", "agent_env": {"A": "b"},
                    "secrets_to_redact": ["s3cret"], "output_format_json_schema_str": "{\"type\":\"json_schema\",\n\"schema\":{\"type\":\"object\"}}"
                }),
            )
            .await;
        assert_eq!(client.terminal().await["data"]["text"], "ok");
    }
    let text = fs::read_to_string(&record).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        format!(r#"{{"type":"hello","protocol":1,"server":"turnhost {}"}}"#, env!("CARGO_PKG_VERSION"))
    );
    let id = serde_json::from_str::<Value>(lines[1]).unwrap()["id"].as_str().unwrap().to_owned();
    let expected = format!(
        r#"{{"type":"turn","id":"{id}","prompt":"hi","state":null,"session_id":"s1","attempt":1,"source_id":"run-1","system_prompt":"be brief","model":"m1","output_format":{{"type":"json_schema", "schema":{{"type":"object"}}}},"output_schema":{{"type":"object"}},"attachments":[],"env":{{"A":"b"}},"secrets":["s3cret"],"metadata":null,"traceparent":null,"tracestate":null}}"#
    );
    assert_eq!(lines[1], expected);
    // The state comes back byte for byte.
    assert!(lines[2].contains(r#""prompt":"hi","state":{"k": [1,  2]},"session_id""#), "{}", lines[2]);
}

/// The three examples are the same agent: same events, same answer, same state, through both protocols.
#[tokio::test]
async fn the_three_echo_handlers_behave_alike() {
    for name in ["echo.py", "echo.mjs", "echo.sh"] {
        let path = repository("handlers").join(name);
        let server = Server::start(&["--handler", path.to_str().unwrap()]);
        let prompt = "Grüße, \"Welt\"\n\\ \u{1F600}";
        for turn in 1..=2 {
            let body = json!({"input": prompt, "message_id": turn, "state": if turn == 1 { Value::Null } else { json!({"turns": 1}) }});
            assert_eq!(server.advance(&body).await.json(), json!({"text": prompt, "state": {"turns": turn}}), "{name}");
        }
        let mut client = server.connect("/").await;
        client.query(prompt).await;
        let frames = client.until_terminal().await;
        let said = json!({"message_type": "assistant_message", "text_blocks": [format!("You said: {prompt}")]});
        let result =
            json!({"message_type": "result_message", "metadata": {}, "data": {"type": "text", "text": prompt}});
        assert_eq!(frames, [said, result], "{name}");
    }
}
