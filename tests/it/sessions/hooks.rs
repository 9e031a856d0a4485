//! Programs around an agent: in their order, with what they say, and what their failure means.

use super::{create, delete, ended, lines, of};
use crate::support::Server;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

fn script(folder: &Path, name: &str, body: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn stage() -> (Server, TempDir) {
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.env("OPENAI_API_KEY", "sk-own-0123456789").env("PLAIN", "seen");
    });
    (server, TempDir::new().unwrap())
}

fn body(folder: &Path, lifecycle: &Value) -> Value {
    json!({"agent": "echo", "prompt": "hi", "task_id": "t7", "work_dir": folder, "lifecycle": lifecycle})
}

/// What the hooks said, in order.
fn said(all: &[Value]) -> Vec<String> {
    let of_hooks = of(all, "system").into_iter().filter(|data| data["source"].is_string());
    of_hooks.map(|data| format!("{} {}", data["source"].as_str().unwrap(), data["text"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn all_in_their_order() {
    let (server, folder) = stage();
    let at = folder.path().canonicalize().unwrap();
    script(&at, "pre", r#"echo "pre $SESSION_ID $TASK_ID $AGENT $WORK_DIR $(pwd) ${OPENAI_API_KEY:-none} $PLAIN $#""#);
    script(&at, "post", "echo post >&2; printf open");
    script(&at, "beside", "echo beside; trap exit TERM; while :; do sleep 0.05; done");
    script(&at, "run", "echo last");
    // As a container sees them.
    let hooks = json!({"pre_init": "/workspace/pre", "post_init": at.join("post"), "sidecar": "/workspace/beside",
                       "post_run": "/workspace/run"});
    let mut asked = body(&at, &hooks);
    asked["prompt"] = json!("@sleep 300");
    let id = create(&server, &asked).await;
    assert_eq!(ended(&server, &id).await["state"], "completed");
    let all = lines(&server, &id).await;
    let here = at.display();
    let expected = [
        "hook:pre_init pre_init hook started".to_owned(),
        format!("hook:pre_init pre {id} t7 echo {here} {here} none seen 0"),
        "hook:pre_init pre_init hook completed".to_owned(),
        "hook:post_init post_init hook started".to_owned(),
        "hook:post_init post".to_owned(),
        "hook:post_init open".to_owned(),
        "hook:post_init post_init hook completed".to_owned(),
        "hook:sidecar sidecar hook started".to_owned(),
        "hook:sidecar beside".to_owned(),
        "hook:sidecar sidecar hook stopped".to_owned(),
        "hook:post_run post_run hook started".to_owned(),
        "hook:post_run last".to_owned(),
        "hook:post_run post_run hook completed".to_owned(),
    ];
    assert_eq!(said(&all), expected);
    assert_eq!(all.last().unwrap()["type"], "exit");
    let lifecycle = of(&all, "system");
    assert_eq!((&lifecycle[0]["subtype"], lifecycle[1].get("subtype")), (&json!("lifecycle"), None));
}

#[tokio::test]
async fn failures() {
    let (server, folder) = stage();
    let at = folder.path();
    script(at, "four", "echo the reason; exit 4");
    script(at, "slow", "echo begun; sleep 60");
    for (hooks, message) in [
        (json!({"pre_init": at.join("four")}), "pre_init hook failed: pre_init: exit status 4"),
        (json!({"post_init": at.join("four")}), "post_init hook failed: post_init: exit status 4"),
        (json!({"pre_init": at.join("slow"), "hook_timeout": 1}), "pre_init hook failed: pre_init: timed out after 1s"),
    ] {
        let id = create(&server, &body(at, &hooks)).await;
        let snapshot = ended(&server, &id).await;
        assert_eq!((&snapshot["state"], &snapshot["exit_code"]), (&json!("failed"), &json!(1)), "{hooks}");
        let all = lines(&server, &id).await;
        assert_eq!(of(&all, "error"), [&json!({"message": message, "code": 500})]);
        assert!(of(&all, "agent_message").is_empty(), "the agent never began: {all:?}");
        let said_at =
            all.iter().position(|line| ["the reason", "begun"].contains(&line["data"]["text"].as_str().unwrap_or("")));
        let error_at = all.iter().position(|line| line["type"] == "error");
        assert!(said_at.unwrap() < error_at.unwrap(), "what it said is kept: {all:?}");
    }
    // Those that come later change nothing, and one that is not there is skipped.
    let hooks = json!({"pre_init": "/no/such", "sidecar": at.join("four"), "post_run": at.join("four")});
    let id = create(&server, &body(at, &hooks)).await;
    assert_eq!(ended(&server, &id).await["state"], "completed");
    let all = said(&lines(&server, &id).await);
    assert_eq!(all[0], "hook:pre_init pre_init hook skipped: /no/such does not exist");
    assert!(all.contains(&"hook:post_run post_run hook failed: exit status 4".to_owned()), "{all:?}");
    // A session may be deleted while it is being prepared.
    let id = create(&server, &body(at, &json!({"pre_init": at.join("slow")}))).await;
    assert_eq!(delete(&server, &id).await.status, 200);
}

/// A stopping server does not wait for them.
#[tokio::test]
async fn a_stop() {
    let (mut server, folder) = stage();
    let at = folder.path();
    script(at, "slow", "echo begun; exec sleep 60");
    let before = create(&server, &body(at, &json!({"pre_init": at.join("slow")}))).await;
    let mut asked = body(at, &json!({"post_run": at.join("slow")}));
    asked["prompt"] = json!("@sleep 60000");
    let after = create(&server, &asked).await;
    let mut readers = Vec::new();
    for id in [&before, &after] {
        let mut reader = super::Reader::open(&server, id, "").await;
        reader.until("connected").await;
        readers.push(reader);
    }
    server.busy().await;
    let began = std::time::Instant::now();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    for reader in &mut readers {
        assert_eq!(reader.until("exit").await["exit_code"], -1);
    }
    assert!(server.exited().await.success());
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
}
