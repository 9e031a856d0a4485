//! `turnhost conform`: turnhost itself keeps every contract, and a planted defect is found by its own check alone.

mod stand_in;

use crate::support::{Finished, PATIENCE, Server, repository, server_command, stub, turnhost};
use serde_json::Value;
use stand_in::StandIn;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// As `finish`; many of these run at a time.
async fn finish(command: Command) -> Finished {
    let mut command = tokio::process::Command::from(command);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE * 4, output).await.expect("an end in time").expect("a program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The report as JSON, and the names of the checks that differ.
async fn report(command: Command) -> (Finished, Value, Vec<String>) {
    let end = finish(command).await;
    let report: Value = serde_json::from_str(&end.stdout).unwrap_or_else(|error| panic!("{error}: {end:?}"));
    let checks = report["checks"].as_array().unwrap();
    let differ = checks.iter().filter(|check| check["verdict"] == "differs");
    let differ = differ.map(|check| check["name"].as_str().unwrap().to_owned()).collect();
    (end, report, differ)
}

/// A server is looked at.
fn conform(url: &str, protocol: &str) -> Command {
    server_command(&["conform", url, "--protocol", protocol, "--agent", "echo", "--turn-within", "20s", "--json"])
}

/// A handler is looked at.
fn conform_handler(handler: &Path) -> Command {
    server_command(&["conform", "--handler", handler.to_str().unwrap(), "--turn-within", "5s", "--json"])
}

#[tokio::test]
async fn turnhost_keeps_the_contracts_of_its_servers() {
    let server = Server::start(&["--agent", "echo"]);
    let runtimeuse = format!("ws://127.0.0.1:{}", server.port);
    for (protocol, url, checks) in
        [("dari", server.url(""), 19), ("runtimeuse", runtimeuse, 22), ("sessions", server.url(""), 17)]
    {
        let (end, report, differ) = report(conform(&url, protocol)).await;
        assert_eq!((end.code, &*differ), (Some(0), &[][..]), "{protocol}: {report:#}");
        assert_eq!((&report["held"], &report["skipped"]), (&checks.into(), &0.into()), "{report:#}");
        assert_eq!((&report["protocol"], &report["holds"]), (&protocol.into(), &true.into()));
    }
}

#[tokio::test]
async fn the_examples_keep_the_contract_of_handlers() {
    for (file, held, skipped) in [("echo.sh", 12, 4), ("echo.py", 16, 0), ("echo.mjs", 16, 0)] {
        let (end, report, differ) = report(conform_handler(&repository("handlers").join(file))).await;
        assert_eq!((end.code, &*differ), (Some(0), &[][..]), "{file}: {report:#}");
        assert_eq!((&report["held"], &report["skipped"]), (&held.into(), &skipped.into()), "{file}: {report:#}");
    }
    // In words.
    let end = turnhost(&["conform", "--handler", repository("handlers/echo.sh").to_str().unwrap()]).await;
    let lines: Vec<&str> = end.stdout.lines().collect();
    assert_eq!((end.code, lines.len(), &*end.stderr), (Some(0), 17, ""), "{}", end.stdout);
    assert!(lines[0].starts_with("ok      handler-ready: "), "{}", lines[0]);
    assert!(lines[16].starts_with("all 12 checks hold, 4 skipped: "), "{}", lines[16]);
}

#[tokio::test]
async fn a_defect_of_a_server_is_found_by_its_check_alone() {
    let server = Server::start(&["--agent", "echo"]);
    let mut looks = Vec::new();
    for (check, defect) in stand_in::runtimeuse() {
        let stand_in = StandIn::before(server.port, defect).await;
        looks.push((check, conform(&format!("ws://127.0.0.1:{}", stand_in.port), "runtimeuse"), stand_in));
    }
    for (check, defect) in stand_in::sessions() {
        let stand_in = StandIn::before(server.port, defect).await;
        looks.push((check, conform(&format!("http://127.0.0.1:{}", stand_in.port), "sessions"), stand_in));
    }
    assert!(looks.len() >= 20, "{}", looks.len());
    // A stand-in that changes nothing is none.
    let stand_in = StandIn::before(server.port, stand_in::Defect::default()).await;
    looks.push(("", conform(&format!("http://127.0.0.1:{}", stand_in.port), "sessions"), stand_in));
    let mut rest = looks.into_iter();
    loop {
        // Several at a time: they wait more than they work.
        let some: Vec<_> = rest.by_ref().take(15).collect();
        if some.is_empty() {
            break;
        }
        let some: Vec<_> = some
            .into_iter()
            .map(|(check, command, stand_in)| tokio::spawn(async move { (check, report(command).await, stand_in) }))
            .collect();
        for look in some {
            let (check, (end, report, differ), _stand_in) = look.await.unwrap();
            let expected: Vec<&str> = Some(check).filter(|check| !check.is_empty()).into_iter().collect();
            assert_eq!(differ, expected, "{report:#}");
            assert_eq!(end.code, Some(if expected.is_empty() { 0 } else { 4 }));
        }
    }
}

/// A handler in Python, with one thing that is wrong.
const HANDLER: &str = r#"
import json, sys, time
def say(**line): print(json.dumps(line), flush=True)
turns = 0
while True:
    text = sys.stdin.readline()
    if not text:
        break
    if WRONG == "big-prompt" and len(text) > 65536:
        continue
    try:
        line = json.loads(text)
    except ValueError:
        if WRONG == "bad-line": sys.exit(3)
        continue
    kind, id = line["type"], line.get("id")
    if kind == "hello":
        if WRONG == "ready": say(type="text", id="x", text="hello to you")
        say(type="ready", name="planted", capabilities=["concurrent", "cancel", "steer"])
    elif kind == "ping":
        say(type="pong", n=line["n"] + (1 if WRONG == "ping" else 0))
    elif kind == "turn":
        turns += 1
        state = line["state"]
        if WRONG == "state" and state is not None: sys.exit(4)
        if WRONG == "odd-state" and not (state is None or "turns" in state and isinstance(state, dict)): sys.exit(5)
        if WRONG == "unknown-keys" and "a_key_of_a_later_version" in line: sys.exit(6)
        if WRONG == "text" and "\n" in line["prompt"]: sys.exit(7)
        if WRONG == "lines": say(type="assistant", id=id, text="an unknown type")
        if WRONG == "first-turn":
            say(type="error", id=id, message="no key")
            continue
        say(type="result", id=id, text="fine", state={"turns": turns})
        if WRONG == "one-end": say(type="result", id=id, text="and fine again")
    elif kind == "cancel":
        if WRONG == "stray-cancel": sys.exit(8)
    elif kind != "input" and WRONG == "unknown-lines":
        sys.exit(9)
if WRONG == "end": time.sleep(60)
"#;

#[tokio::test]
async fn a_defect_of_a_handler_is_found_by_its_check_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut looks = Vec::new();
    for (wrong, check) in [
        ("nothing", ""),
        ("ready", "handler-ready"),
        ("first-turn", "handler-first-turn"),
        ("state", "handler-state"),
        ("odd-state", "handler-odd-state"),
        ("text", "handler-text"),
        ("big-prompt", "handler-big-prompt"),
        ("unknown-keys", "handler-unknown-keys"),
        ("unknown-lines", "handler-unknown-keys"),
        ("bad-line", "handler-bad-line"),
        ("stray-cancel", "handler-stray-cancel"),
        ("ping", "handler-ping"),
        ("lines", "handler-lines"),
        ("one-end", "handler-one-end"),
        ("end", "handler-end"),
    ] {
        let path = folder.path().join(wrong);
        std::fs::write(&path, format!("#!{}\nWRONG = {wrong:?}\n{HANDLER}", stub::python())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        looks.push((check, tokio::spawn(report(conform_handler(&path)))));
    }
    for (check, look) in looks {
        let (end, report, differ) = look.await.unwrap();
        let expected: Vec<&str> = Some(check).filter(|check| !check.is_empty()).into_iter().collect();
        assert_eq!(differ, expected, "{report:#}");
        assert_eq!(end.code, Some(if expected.is_empty() { 0 } else { 4 }));
    }
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_said() {
    for (args, code, sentence) in [
        (&["conform"][..], 2, "required arguments were not provided"),
        (&["conform", "http://h"], 2, "--protocol <NAME>"),
        (&["conform", "http://h", "--protocol", "smtp"], 2, "invalid value 'smtp'"),
        (&["conform", "http://h", "--handler", "x"], 2, "cannot be used with"),
        (&["conform", "http://h", "--protocol", "runtimeuse"], 1, "Error: http://h: expected ws://HOST:PORT"),
        (&["conform", "ws://h", "--protocol", "sessions"], 1, "Error: ws://h: expected http://HOST:PORT"),
        (&["conform", "--handler", "/no/such"], 1, "Error: handler not found: /no/such"),
    ] {
        let end = turnhost(args).await;
        assert_eq!((end.code, &*end.stdout), (Some(code), ""), "{args:?}: {}", end.stderr);
        assert!(end.stderr.contains(sentence), "{args:?}: {}", end.stderr);
    }
    // Nobody there is a finding, and the rest is left out.
    for (protocol, url) in [("runtimeuse", "ws://127.0.0.1:1"), ("sessions", "http://127.0.0.1:1")] {
        let (end, report, differ) = report(conform(url, protocol)).await;
        assert_eq!((end.code, differ.len(), &report["held"]), (Some(4), 1, &0.into()), "{report:#}");
    }
}
