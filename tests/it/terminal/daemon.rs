//! turnhost under the name `agentd`.

use super::run;
use crate::sessions::{create, post};
use crate::support::{Server, binary, server_command};
use serde_json::json;
use std::process::Command;
use tempfile::TempDir;

/// `agentd WORDS`, with its home in the folder.
fn agentd(folder: &TempDir, words: &[&str]) -> Command {
    let link = folder.path().join("agentd");
    if !link.exists() {
        std::os::unix::fs::symlink(binary(), &link).unwrap();
    }
    let mut command = Command::new(link);
    command.args(words).env_clear().env("HOME", folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
    command
}

/// Its sessions, where they are kept, and no other protocol.
#[tokio::test]
async fn it_serves() {
    let folder = TempDir::new().unwrap();
    for (name, value, kept) in [
        ("X", "", ".local/share/agentruntime"),
        ("XDG_DATA_HOME", "xdg", "xdg/agentruntime"),
        ("AGENTRUNTIME_DATA_DIR", "own", "own"),
    ] {
        let mut command = agentd(&folder, &["-port", "0", "--max-sessions=1"]);
        // A word of ours does not change what that program does.
        command.env(name, folder.path().join(value)).env("TURNHOST_DATA_DIR", "memory");
        let server = Server::spawn(command);
        let id = create(&server, &json!({"agent": "echo", "interactive": true, "prompt": "hello"})).await;
        let log = folder.path().join(kept).join(format!("logs/{id}.ndjson"));
        crate::support::eventually("its log", || std::fs::read_to_string(&log).ok()?.contains("hello").then_some(()))
            .await;
        let refused = post(&server, &json!({"agent": "echo", "interactive": true})).await;
        assert_eq!((refused.status, refused.body.as_str()), (503, r#"{"error":"max sessions limit reached"}"#));
        assert_eq!(server.get("/v1/sessions/x/events").await.status, 404);
        assert_eq!(server.get("/health").await.json()["runtime"], "local");
        let port = server.port.to_string();
        let listed = run(agentd(&folder, &["sessions", "-port", &port])).await;
        assert!(listed.stdout.contains(&id), "{listed}");
        let mut attached = agentd(&folder, &["attach", "-since", "0", &id, "-port", &port]);
        attached.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut attached = attached.spawn().unwrap();
        std::io::Write::write_all(&mut attached.stdin.take().unwrap(), b"more\n").unwrap();
        let output = tokio::task::spawn_blocking(move || attached.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(0), "[replay] hello\nmore\n")
        );
    }
}

/// With its token, and without.
#[tokio::test]
async fn its_token() {
    let folder = TempDir::new().unwrap();
    let refused = run(agentd(&folder, &["--port", "0", "--host", "0.0.0.0"])).await;
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("needs a token"), "{refused}");
    let mut command = agentd(&folder, &["--port", "0"]);
    command.env("AGENTD_TOKEN", "t0ken-of-this-test");
    let server = Server::spawn(command);
    assert_eq!(server.get("/sessions").await.status, 401);
    let file = folder.path().join("session.yaml");
    std::fs::write(&file, "agent: echo\nprompt: hello\n").unwrap();
    let words = ["dispatch", "--config", file.to_str().unwrap(), "--server", &server.url("")];
    let without = run(agentd(&folder, &words)).await;
    assert_eq!(without.code, Some(1), "{without}");
    let mut with = agentd(&folder, &words);
    with.env("AGENTD_TOKEN", "t0ken-of-this-test").env("TURNHOST_TOKEN", "another");
    let with = run(with).await;
    assert_eq!(with.code, Some(0), "{with}");
    assert!(with.stdout.contains(r#""text":"hello""#), "{with}");
}

#[tokio::test]
async fn what_it_does_not_do() {
    let folder = TempDir::new().unwrap();
    for (words, code, said) in [
        (&["--runtime", "docker"][..], 2, "the runtime docker is not available yet; there is: local"),
        (&["-runtime=local-pipe"], 2, "the runtime local-pipe is not available yet; there is: local"),
        (&["--runtime", "ssh"], 2, "unknown runtime ssh; there is: local"),
        (&["--credential-sync"], 2, "credentials are not synchronised yet"),
        (&["--docker-host", "unix:///x"], 2, "containers are not available yet"),
        (&["--max-sessions", "many"], 2, "invalid value 'many' for '--max-sessions <N>'"),
        (&["--port", "99999"], 2, "invalid value '99999' for '--port <N>'"),
        (&["--agent", "echo"], 2, "unexpected argument '--agent'"),
        (&["--log-max-age", "long"], 1, "Error: --log-max-age: expected a time"),
        (&["dispatch"], 2, "--config <FILE>"),
        (&["attach", "x"], 1, "http://127.0.0.1:8090"),
        (&["sessions", "--port", "1"], 1, "Error: no server answers at http://127.0.0.1:1: "),
    ] {
        let ended = run(agentd(&folder, words)).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{words:?}: {ended}");
        assert!(ended.stderr.contains(said), "{words:?}: {ended}");
    }
    let version = run(agentd(&folder, &["-version"])).await;
    assert_eq!((version.code, version.stdout), (Some(0), format!("agentd {}\n", env!("CARGO_PKG_VERSION"))));
    let own = run(server_command(&["--version"])).await;
    assert_eq!(own.stdout, format!("turnhost {}\n", env!("CARGO_PKG_VERSION")));
}
