//! `turnhost dispatch`: a file becomes a session, its log is copied whole, its end is the exit code.

use super::run;
use crate::sessions::{delete, echo, log};
use crate::support::programs::{Finished, Program};
use crate::support::{PATIENCE, Server, eventually, repository, server_command};
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

fn file(folder: &TempDir, text: &str) -> PathBuf {
    let file = folder.path().join("session.yaml");
    std::fs::write(&file, text).unwrap();
    file
}

fn command(server: &Server, folder: &TempDir, text: &str) -> Command {
    let file = file(folder, text);
    server_command(&["dispatch", "--config", file.to_str().unwrap(), "--server", &server.url("/")])
}

async fn dispatch(server: &Server, text: &str) -> Finished {
    run(command(server, &TempDir::new().unwrap(), text)).await
}

fn id(stderr: &str) -> &str {
    stderr.lines().find_map(|line| line.strip_prefix("session_id: ")).unwrap_or_else(|| panic!("no id: {stderr}"))
}

/// Fifty, of an agent that ends with its last words: what is printed is the log, each time.
#[tokio::test]
async fn fifty_of_an_agent_with_last_words() {
    let fake = repository("tests/it/scripts/fake-claude");
    let server = Server::start(&["--agent", "echo", "--claude-program", fake.to_str().unwrap()]);
    let folder = TempDir::new().unwrap();
    let file = file(&folder, "agent: claude\nprompt: two hundred\n");
    let url = server.url("");
    for round in 0..25 {
        let words = ["dispatch", "--config", file.to_str().unwrap(), "--server", &url];
        let start = || Program::start(server_command(&words));
        let (one, other) = (start(), start());
        for ended in [one.end(PATIENCE).await, other.end(PATIENCE).await] {
            assert_eq!(ended.code, Some(0), "round {round}: {ended}");
            let deltas = ended.stdout.matches(r#""delta":true"#).count();
            assert_eq!(deltas, 200, "round {round}");
            assert!(ended.stdout == log(&server, id(&ended.stderr)).await, "round {round}");
            assert!(ended.stdout.lines().last().unwrap().starts_with(r#"{"type":"exit","data":{"code":0}"#));
        }
    }
}

/// A log that is long, and one that takes its time.
#[tokio::test]
async fn whole_logs() {
    let server = echo();
    for (prompt, code) in [("@delta 30000 100", 0), ("@sleep 700", 0), ("@fail x", 1)] {
        let ended = dispatch(&server, &format!("agent: echo\nprompt: \"{prompt}\"\n")).await;
        assert_eq!(ended.code, Some(code), "{prompt}");
        assert!(ended.stdout == log(&server, id(&ended.stderr)).await, "{prompt}");
        let id = id(&ended.stderr);
        let port = server.port;
        let lines = [
            format!("session_id: {id}"),
            format!("ws_url: ws://127.0.0.1:{port}/ws/sessions/{id}"),
            format!("log_url: http://127.0.0.1:{port}/sessions/{id}/logs"),
        ];
        assert_eq!(ended.stderr.lines().collect::<Vec<_>>(), lines);
    }
}

/// Variables, texts that look like numbers, and what the server has to say about a field.
#[tokio::test]
async fn what_the_file_says() {
    let server = echo();
    let text = "agent: ${AGENT_NAME}\nprompt: \"say $WORD, $MISSING. pay $5\"\ntask_id: 0042\ntags: {n: 7}\npty: true\n\
                container: {memory: 1g}\n";
    let folder = TempDir::new().unwrap();
    let mut with = command(&server, &folder, text);
    with.env("AGENT_NAME", "echo").env("WORD", "hel\"lo\nyou: x");
    let ended = run(with).await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(ended.stdout.contains(r#""text":"say hel\"lo\nyou: x, . pay $5""#), "{ended}");
    let note = format!(
        "note: the variable MISSING is not set, so it is empty in {}\n",
        folder.path().join("session.yaml").display()
    );
    assert!(ended.stderr.starts_with(&note), "{ended}");
    assert!(ended.stderr.contains("warning: container.memory has no effect on runtime local\n"), "{ended}");
    let snapshot = server.get(&format!("/sessions/{}", id(&ended.stderr))).await.json();
    assert_eq!((&snapshot["task_id"], &snapshot["tags"]["n"]), (&"0042".into(), &"7".into()));
}

#[tokio::test]
async fn what_cannot_be() {
    let server = echo();
    let closed = Server::start_with(&["--agent", "echo"], |command| {
        command.env("TURNHOST_TOKEN", "t0ken-of-this-test");
    });
    for (text, said) in [
        ("agent: echo\nprompt: {a: 1}\n", "session.yaml: line 2, column 9: "),
        ("agent: echo\nprompt: \"a\n", "session.yaml: line 3, column 1: "),
        ("agent: echo\nagent: echo\n", "session.yaml: line 2, column 1: "),
        ("", "Error: the server refused: agent is required\n"),
        ("agent: echo\n", "Error: the server refused: prompt is required\n"),
        ("agent: nobody\nprompt: x\n", "Error: the server refused: unknown agent: nobody\n"),
        (
            "agent: echo\nprompt: x\nwork_dir: relative\n",
            "Error: the server refused: invalid_work_dir: working directory must be absolute: relative\n",
        ),
    ] {
        let ended = dispatch(&server, text).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{text:?}: {ended}");
        assert!(ended.stderr.contains(said) && ended.stderr.lines().count() == 1, "{text:?}: {ended}");
    }
    assert_eq!(server.get("/sessions").await.body, "[]");
    let ended = dispatch(&closed, "agent: echo\nprompt: x\n").await;
    assert!(ended.stderr.starts_with(&format!("Error: the server at {} wants a token: ", closed.url(""))), "{ended}");
    let folder = TempDir::new().unwrap();
    let mut with = command(&closed, &folder, "agent: echo\nprompt: x\n");
    with.env("AGENTD_TOKEN", "t0ken-of-this-test");
    assert_eq!(run(with).await.code, Some(0));
    let file = file(&folder, "agent: echo\nprompt: x\n");
    let file = file.to_str().unwrap();
    // The token as the password of the address: taken, and not shown.
    let url = format!("http://x:t0ken-of-this-test@127.0.0.1:{}", closed.port);
    assert_eq!(run(server_command(&["dispatch", "--config", file, "--server", &url])).await.code, Some(0));
    for (words, code, said) in [
        (&["dispatch"][..], 2, "--config <FILE>"),
        (&["dispatch", "--config", file, "--server", "localhost"], 2, "expected a URL such as http://localhost:8090"),
        (&["dispatch", "--config", file, "--server", "ftp://x"], 2, "expected a URL such as http://localhost:8090"),
        (&["dispatch", "--config", "/no/such.yaml"], 1, "Error: --config /no/such.yaml: No such file or directory"),
        (
            &["dispatch", "--config", file, "--server", "http://127.0.0.1:1"],
            1,
            "Error: no server answers at http://127.0.0.1:1: ",
        ),
        (
            &["dispatch", "--config", file, "--server", "http://x:secret-word@127.0.0.1:1"],
            1,
            "Error: no server answers at http://127.0.0.1:1: ",
        ),
    ] {
        let ended = run(server_command(words)).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{words:?}: {ended}");
        assert!(ended.stderr.contains(said) && !ended.stderr.contains("secret-word"), "{words:?}: {ended}");
    }
}

/// Interrupted, the session goes on; deleted, what it has said is there.
#[tokio::test]
async fn it_is_broken_off() {
    let server = echo();
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
        let folder = TempDir::new().unwrap();
        let program = Program::start(command(&server, &folder, "agent: echo\nprompt: \"@sleep 60000\"\n"));
        eventually("a session", || program.complained().contains("log_url: ").then_some(())).await;
        program.signal(signal);
        let ended = program.end(PATIENCE).await;
        let session = id(&ended.stderr);
        assert_eq!(ended.code, Some(1), "{ended}");
        assert!(ended.stderr.ends_with(&format!("Interrupted; session {session} goes on\n")), "{ended}");
        assert_eq!(server.get(&format!("/sessions/{session}")).await.json()["state"], "running");
    }
    let folder = TempDir::new().unwrap();
    let program = Program::start(command(&server, &folder, "agent: echo\ninteractive: yes\nprompt: hello\n"));
    eventually("its words", || program.said().contains(r#""type":"result""#).then_some(())).await;
    let session = id(&program.complained()).to_owned();
    delete(&server, &session).await;
    let ended = program.end(PATIENCE).await;
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.stdout == log(&server, &session).await, "{ended}");
}
