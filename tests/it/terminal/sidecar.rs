//! turnhost under the name `agentruntime-sidecar`: one agent, `/ws` and `/health`, and an end of its own.

use super::run;
use crate::support::{PATIENCE, SOON, Server, eventually, proc, repository};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program, driving the script `fake-claude` on a free port.
fn sidecar(folder: &TempDir) -> Command {
    let link = folder.path().join("agentruntime-sidecar");
    if !link.exists() {
        std::os::unix::fs::symlink(crate::support::binary(), &link).unwrap();
    }
    let mut command = Command::new(link);
    command.env_clear().env("HOME", folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
    let fake = repository("tests/it/scripts/fake-claude");
    command.env("AGENT_CMD", json!([fake]).to_string()).env("SIDECAR_PORT", "0").current_dir(folder.path());
    command
}

async fn until(client: &mut crate::support::WsClient, kind: &str) -> Value {
    loop {
        let event = client.next().await.unwrap_or_else(|| panic!("the connection ended before {kind}"));
        if event["type"] == kind {
            return event;
        }
    }
}

/// One prompt: the agent starts with the first connection, and the process ends some time after it, from the last one on.
#[tokio::test]
async fn one_prompt() {
    let folder = TempDir::new().unwrap();
    let mut command = sidecar(&folder);
    command.env("AGENT_PROMPT", "two hundred").env("SIDECAR_CLEANUP_TIMEOUT", "2");
    let mut server = Server::spawn(command);
    let health = json!({"status": "ok", "agent_running": false, "agent_type": "claude"});
    assert_eq!(server.get("/health").await.json(), health);
    assert!(proc::descendants(server.pid()).is_empty(), "nothing begins before somebody is there");
    let mut client = server.connect("/ws?since=0").await;
    let exit = until(&mut client, "exit").await;
    assert_eq!((&exit["data"], &exit["exit_code"]), (&json!({"code": 0}), &json!(0)));
    for path in ["/", "/sessions", "/ws/sessions/x", "/v1/sessions/x/events", "/metrics"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "404 page not found\n"), "{path}");
    }
    // Counted anew: half way through there is another connection.
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    let again = Instant::now();
    let mut client = server.connect("/ws?since=0").await;
    until(&mut client, "exit").await;
    assert!(server.exited().await.success());
    assert!(again.elapsed().as_millis() >= 1990, "{:?}", again.elapsed());
}

/// A talk, its own id in `/health`, and SIGTERM: nothing is left.
#[tokio::test]
async fn a_talk() {
    let folder = TempDir::new().unwrap();
    let mut command = sidecar(&folder);
    command.env("SIDECAR_TOKEN", "t0ken-of-this-test");
    let mut server = Server::spawn(command);
    assert_eq!(server.get("/ws").await.status, 401);
    let mut client = server.connect("/ws?token=t0ken-of-this-test").await;
    client.send(&json!({"type": "prompt", "data": {"content": "hello"}})).await;
    until(&mut client, "result").await;
    let health = server.get("/health").await.json();
    assert_eq!((&health["agent_running"], &health["agent_type"]), (&json!(true), &json!("claude")));
    assert_eq!(health["session_id"], "5e551014-0000-4000-8000-000000000001");
    let agents = proc::descendants(server.pid());
    assert!(!agents.is_empty());
    let began = Instant::now();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(until(&mut client, "exit").await["exit_code"], -1);
    assert!(server.exited().await.success());
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    let left = || proc::all().iter().any(|one| agents.iter().any(|agent| agent.pid == one.pid && one.state != 'Z'));
    eventually("nothing is left", || (!left()).then_some(())).await;
    assert!(began.elapsed() < PATIENCE + SOON);
}

#[tokio::test]
async fn what_cannot_be() {
    let folder = TempDir::new().unwrap();
    for (name, value, said) in [
        ("SIDECAR_PORT", "http", "Error: SIDECAR_PORT: expected a port, got \"http\"\n"),
        ("SIDECAR_CLEANUP_TIMEOUT", "-5", "Error: SIDECAR_CLEANUP_TIMEOUT: expected a time"),
        ("AGENT_CMD", "", "Error: AGENT_CMD is not set: give a JSON array of strings, such as [\"claude\"]\n"),
        ("AGENT_CMD", "claude", "Error: AGENT_CMD: expected a JSON array of strings: "),
        ("AGENT_CMD", "[]", "Error: AGENT_CMD: the array names no program\n"),
        ("AGENT_CMD", "[\"/bin/cat\"]", "Error: AGENT_CMD: cat is neither claude nor codex"),
        ("AGENT_CONFIG", "{", "Error: AGENT_CONFIG: "),
        ("SIDECAR_HOST", "0.0.0.0", "Error: listening beyond this machine needs a token"),
    ] {
        let mut command = sidecar(&folder);
        command.env(name, value);
        let ended = run(command).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{name}={value}: {ended}");
        assert!(ended.stderr.starts_with(said), "{name}={value}: {ended}");
    }
    let mut command = sidecar(&folder);
    command.arg("--port");
    assert_eq!(run(command).await.code, Some(2));
    // A program that is not there: an event, not the end of the sidecar.
    let mut command = sidecar(&folder);
    command.env("AGENT_CMD", "[\"/no/such/claude\"]").env("AGENT_PROMPT", "x");
    let server = Server::spawn(command);
    let mut client = server.connect("/ws?since=0").await;
    until(&mut client, "error").await;
    assert_eq!(until(&mut client, "exit").await["exit_code"], 1);
    // The last line is there before the state is.
    let ended = async {
        loop {
            let health = server.get("/health").await.json();
            if health["status"] == "error" && health["agent_running"] == false {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let health = tokio::time::timeout(PATIENCE, ended).await.expect("the end in its health");
    assert!(health["error_detail"].as_str().unwrap().contains("/no/such/claude"), "{health}");
}
