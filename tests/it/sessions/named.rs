//! Several agents by name, each with options of its own.

use super::{create, ended, lines, of, post};
use crate::support::agents::turn;
use crate::support::{Server, turnhost};
use serde_json::json;

const SHOUT: &str = "export default { run: (invocation) => invocation.userPrompt.toUpperCase() };";

#[tokio::test]
async fn one_server_offers_several() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("shout.mjs"), SHOUT).unwrap();
    let fake = crate::support::repository("tests/it/scripts/fake-claude");
    let agents = json!({
        "loud": {"handler": at("shout.mjs")},
        "strict": {"handler": at("shout.mjs"), "validate-output": true, "handler_processes": 1},
        "other": {"agent": "claude", "claude-program": fake, "claude-no-spare": true, "workspace": folder.path()},
    });
    std::fs::write(at("agents.json"), agents.to_string()).unwrap();
    let def = format!("short=--handler {}", at("shout.mjs"));
    let server = Server::start(&["--agent", "echo", "--agents", &at("agents.json"), "--agent-def", &def]);
    for (agent, answer) in [("echo", "hey"), ("loud", "HEY"), ("strict", "HEY"), ("short", "HEY"), ("other", "hey")] {
        let id = create(&server, &json!({"agent": agent, "prompt": "hey"})).await;
        let snapshot = ended(&server, &id).await;
        assert_eq!((&snapshot["agent_name"], &snapshot["state"]), (&json!(agent), &json!("completed")), "{snapshot}");
        assert_eq!(of(&lines(&server, &id).await, "result")[0]["text"], answer);
        let dir = snapshot["session_dir"].as_str().unwrap();
        assert!(dir.contains(&format!("/{agent}-sessions/")), "{dir}");
    }
    assert_eq!(post(&server, &json!({"agent": "none", "prompt": "x"})).await.json()["error"], "unknown agent: none");
    // The same names by RuntimeUse; whoever names none gets the server's own.
    let mut client = server.connect("/?agent=loud").await;
    assert_eq!(turn(&mut client, "hey", &json!({})).await.text(), "HEY");
    let mut client = server.connect("/").await;
    assert_eq!(turn(&mut client, "hey", &json!({})).await.text(), "hey");
    let answer = server.advance(&json!({"input": "hey"})).await.json();
    assert_eq!(answer["text"], "hey");
}

#[tokio::test]
async fn definitions_that_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agents.json");
    let at = file.to_str().unwrap();
    for (text, says) in [
        ("{", "--agents "),
        ("[]", "--agents "),
        (r#"{"a":7}"#, "a: expected an object of options"),
        (r#"{"a":{"agent":"nope"}}"#, "agent \"a\": unknown agent \"nope\""),
        (r#"{"a":{"agnt":"echo"}}"#, "agent \"a\": unexpected argument '--agnt'"),
        (r#"{"a":{"agent":["echo"]}}"#, "a: agent: expected a text, a number, true or false"),
        (r#"{"a/b":{"agent":"echo"}}"#, "agent \"a/b\": a name is 1 to 64 letters"),
        (r#"{"a":{"handler":"/no/such.py"}}"#, "agent \"a\": "),
    ] {
        std::fs::write(&file, text).unwrap();
        let ended = turnhost(&["--agent", "echo", "--agents", at, "--port", "0"]).await;
        assert_eq!(ended.code, Some(1), "{text}: {ended:?}");
        assert!(ended.stderr.contains(says), "{text}: {}", ended.stderr);
    }
    for (definition, says) in [
        ("nothing", "--agent-def \"nothing\": expected NAME=OPTIONS"),
        ("a=--nope", "--agent-def: agent \"a\": unexpected argument '--nope'"),
    ] {
        let ended = turnhost(&["--agent", "echo", "--agent-def", definition, "--port", "0"]).await;
        assert_eq!(ended.code, Some(1), "{definition}: {ended:?}");
        assert!(ended.stderr.contains(says), "{definition}: {}", ended.stderr);
    }
}
