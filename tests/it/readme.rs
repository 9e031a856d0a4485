//! What the README shows is what happens.

use crate::support::agents::{claude_program, codex_program};
use crate::support::model::{Model, text};
use crate::support::{Server, binary, repository, server_command};
use serde_json::json;
use std::fs;
use std::process::{Command, Stdio};

fn readme() -> String {
    page("README.md")
}

fn page(name: &str) -> String {
    fs::read_to_string(repository(name)).unwrap()
}

/// The first code block of this language that holds `needle`.
fn block(language: &str, needle: &str) -> String {
    let readme = readme();
    let fence = format!("```{language}\n");
    let mut blocks = readme.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    blocks
        .find(|block| block.contains(needle))
        .unwrap_or_else(|| panic!("no {language} block with {needle}"))
        .to_owned()
}

#[tokio::test]
async fn the_handlers_run_as_shown() {
    let folder = tempfile::tempdir().unwrap();
    for (name, language) in [("handler.py", "python"), ("handler.mjs", "js")] {
        let path = folder.path().join(name);
        fs::write(&path, block(language, "You said")).unwrap();
        let server = Server::start(&["--handler", path.to_str().unwrap()]);
        let answer = server.advance(&json!({"input": "Hello", "state": {"turns": 4}})).await;
        assert_eq!(answer.json(), json!({"text": "Hello", "state": {"turns": 5}}), "{name}");
    }
}

#[test]
fn the_commands_run_as_shown() {
    let line = readme().lines().find(|line| line.starts_with("turnhost run ")).unwrap().to_owned();
    let command = line.split('#').next().unwrap().replacen("turnhost", binary(), 1);
    let output = Command::new("sh").args(["-c", &command]).current_dir(repository(".")).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "You said: Hello\nHello\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// One after the other, in an empty folder.
#[test]
fn a_bundle_is_made_and_checked_as_shown() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["turnhost init ", "turnhost check "] {
        let line = readme().lines().find(|line| line.starts_with(command)).unwrap().to_owned();
        let args: Vec<&str> = line.split('#').next().unwrap().split_whitespace().skip(1).collect();
        let output = server_command(&args).current_dir(folder.path()).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[tokio::test]
async fn the_curl_call_works_as_shown_port_aside() {
    let server = Server::start(&["--agent", "echo"]);
    let line = readme().lines().find(|line| line.starts_with("curl ")).unwrap().to_owned();
    let line = line.replace(":3000", &format!(":{}", server.port));
    let output = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), r#"{"text":"Hello","state":{"v":1,"turn":1}}"#);
}

/// A session by the calls that its page shows, one after the other.
#[tokio::test]
async fn the_calls_of_sessions_work_as_shown_port_aside() {
    let server = Server::start(&["--agent", "echo"]);
    let page = page("docs/sessions.md");
    let shown = page.lines().filter(|line| line.starts_with("curl "));
    let lines: Vec<String> = shown.map(|line| line.replace(":3000", &format!(":{}", server.port))).collect();
    let run = |line: &str, id: &str| {
        let line = line.replace("/ID", &format!("/{id}"));
        let output = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let made: serde_json::Value = serde_json::from_str(&run(&lines[0], "")).unwrap();
    let id = made["session_id"].as_str().unwrap();
    crate::support::eventually("the answer", || run(&lines[1], id).contains(r#""text":"Hello""#).then_some(())).await;
    assert_eq!(run(&lines[2], id), format!(r#"{{"id":"{id}","state":"failed"}}"#));
    assert_eq!((lines.len(), server.get(&format!("/sessions/{id}/log")).await.status), (3, 200));
}

/// The commands of the terminal, one after the other, with the file that is shown.
#[tokio::test]
async fn the_terminal_works_as_shown_port_aside() {
    let server = Server::start(&["--agent", "echo"]);
    let folder = tempfile::tempdir().unwrap();
    let page = page("docs/sessions.md");
    let file = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    fs::write(folder.path().join("session.yaml"), file).unwrap();
    let run = |name: &str, id: &str| {
        let line = page.lines().find(|line| line.starts_with(&format!("turnhost {name} "))).unwrap();
        let line =
            line.split('#').next().unwrap().replacen("turnhost", binary(), 1).replace(" ID ", &format!(" {id} "));
        let line = line.replace("3000", &server.port.to_string());
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(folder.path()).env("USER", "Mo").stdin(Stdio::null());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run("dispatch", "").contains("\"Good morning, Mo\""));
    let sessions = server.get("/sessions").await.json();
    let id = sessions[0]["session_id"].as_str().unwrap();
    assert!(run("sessions", "").contains(&format!("\n{id}  -     echo   completed")));
    assert_eq!(run("attach", id), "[replay] Good morning, Mo\n");
}

/// The client's snippet, with the real client.
#[tokio::test]
async fn the_runtimeuse_client_works_as_shown_port_aside() {
    let server = Server::start(&["--agent", "echo"]);
    let snippet = block("python", "RuntimeUseClient").replace(":3000", &format!(":{}", server.port));
    let (imports, body): (Vec<&str>, Vec<&str>) = snippet.lines().partition(|line| line.starts_with("from "));
    let body: String = body.iter().flat_map(|line| ["    ", line, "\n"]).collect();
    let program = format!(
        "import asyncio\n{}\nasync def main():\n{body}    print(result.data.text)\nasyncio.run(main())\n",
        imports.join("\n")
    );
    let output = Command::new(crate::support::python()).args(["-c", &program]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Hello\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_demo_ends_well_and_shows_both_hosts() {
    let output = server_command(&["demo"]).stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    for part in ["a Dari host", "a RuntimeUse client", "things were as the contracts say"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(!shown.contains('\x1b'), "colour is for terminals");
    // What it says comes next works where it was called, installed or not.
    let last = shown.lines().last().unwrap();
    let [serve, run] = last.strip_prefix("next: ").unwrap().split(", or ").collect::<Vec<_>>()[..] else {
        panic!("{last}")
    };
    assert!(serve.ends_with(" --agent echo --port 3000"), "{last}");
    let output = Command::new("sh").args(["-c", run]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Hello\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// The commands of the built-in agents, port, key and place of the program aside; one turn of each.
#[tokio::test]
async fn the_agents_run_as_shown() {
    let page = page("docs/agents.md");
    for (agent, key) in [("openai", "OPENAI_API_KEY"), ("claude", "ANTHROPIC_API_KEY"), ("codex", "OPENAI_API_KEY")] {
        let shown = format!("{key}=… turnhost --agent {agent} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&shown)).unwrap_or_else(|| panic!("no {shown}"));
        let line = line.strip_suffix("--port 3000").expect("the port of all examples");
        let model = Model::start(vec![text("Hello to you.")]).await;
        let folder = tempfile::tempdir().unwrap();
        let (claude, codex) = (claude_program(), codex_program());
        let mut args = vec!["--agent", agent, "--claude-program", claude.to_str().unwrap()];
        args.extend(["--codex-program", codex.to_str().unwrap()]);
        args.extend(line.split_whitespace());
        let server = Server::start_with(&args, |command| {
            command.env("OPENAI_BASE_URL", model.base()).env("ANTHROPIC_BASE_URL", model.root());
            command.env(key, "sk-good-0123456789").env("HOME", folder.path()).current_dir(folder.path());
        });
        let answer = server.advance(&json!({"input": "Hello", "state": null})).await;
        assert_eq!(answer.json()["text"], "Hello to you.", "{agent}");
    }
}

/// The directives of the echo agent are told of.
#[test]
fn what_exists_is_named() {
    let handlers = page("handlers/README.md");
    for (directive, _) in turnhost::DIRECTIVES {
        let word = directive.split(' ').next().unwrap();
        assert!(handlers.contains(&format!("`{word}")), "handlers/README.md does not tell of {word}");
    }
}
