//! Handlers that crash, flood, lie, go deaf or leave children: the caller has one clear answer, the next turn works, and
//! no process is left.

use crate::support::{PATIENCE, Server, WsClient, binary, eventually, proc, server_command};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A handler written by the test, with a mark that its processes can be found by.
struct Script {
    folder: tempfile::TempDir,
    mark: String,
}

/// What every script begins with: it says that it is ready, and reads turns. `$id` and `$prompt` are a turn's.
const BASH: &str = r#"#!/usr/bin/env bash
string='"([^"\\]*(\\.[^"\\]*)*)"'
turn="^\{\"type\":\"turn\",\"id\":$string,\"prompt\":$string"
answer() { printf '{"type":"result","id":"%s","text":"%s"}\n' "$id" "$1"; }
while IFS= read -r line; do
  case $line in '{"type":"hello"'*) printf '{"type":"ready","name":"script","capabilities":[CAPABILITIES]}\n'; continue ;; esac
  if [[ $line =~ '"type":"cancel"' ]]; then on_cancel; continue; fi
  [[ $line =~ $turn ]] || continue
  id=${BASH_REMATCH[1]} prompt=${BASH_REMATCH[3]}
  case $prompt in
    hello) answer hello ;;
BODY
  esac
done
"#;

impl Script {
    fn bash(body: &str) -> Self {
        Self::with_capabilities("", body)
    }

    fn with_capabilities(capabilities: &str, body: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mark = format!("turnhost-test-{}", folder.path().file_name().unwrap().display());
        let text = BASH.replace("CAPABILITIES", capabilities).replace("BODY", body);
        let path = folder.path().join("script");
        fs::write(&path, text.replace("while IFS", "on_cancel() { :; }\nwhile IFS")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, mark }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("script")
    }

    fn serve(&self, args: &[&str]) -> Server {
        let path = self.path();
        let all = [&["--handler", path.to_str().unwrap()], args].concat();
        Server::start_with(&all, |command| {
            command.env("MARK", &self.mark);
        })
    }

    /// Processes of this script other than the server and the shims.
    fn alive(&self) -> Vec<proc::Process> {
        let ours = |process: &proc::Process| !process.command.contains("turnhost");
        proc::marked(&self.mark).into_iter().filter(ours).collect()
    }
}

async fn ask(client: &mut WsClient, prompt: &str) -> Value {
    client.query(prompt).await;
    client.terminal().await
}

async fn assert_works(client: &mut WsClient) {
    assert_eq!(ask(client, "hello").await["data"], json!({"type": "text", "text": "hello"}));
}

#[tokio::test]
async fn a_crash_is_told_within_100_ms_with_exit_code_and_the_last_of_stderr() {
    let script = Script::bash("crash) echo 'the disk is on fire' >&2; exit 7 ;;");
    let server = script.serve(&[]);
    let mut client = server.connect("/").await;
    assert_works(&mut client).await;
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let asked = Instant::now();
        let told = ask(&mut client, "crash").await;
        fastest = fastest.min(asked.elapsed());
        assert_eq!(told["error"], "Handler process exited with code 7");
        assert_eq!(told["metadata"]["exit_code"], 7);
        assert_eq!(told["metadata"]["stderr_tail"], "the disk is on fire\n");
        assert_works(&mut client).await;
    }
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
    // An end user gets the exit code and not what the program wrote.
    let told = server.advance(&json!({"input": "crash"})).await;
    assert_eq!((told.status, told.json()), (200, json!({"text": "Handler process exited with code 7"})));
    assert_eq!(server.advance(&json!({"input": "hello"})).await.json(), json!({"text": "hello"}));
}

#[tokio::test]
async fn run_shows_the_exit_code_and_the_last_of_stderr() {
    let script = Script::bash("crash) echo 'the disk is on fire' >&2; exit 7 ;;");
    let path = script.path();
    let mut command = server_command(&["run", "--handler", path.to_str().unwrap(), "crash"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(said.contains("Handler process exited with code 7") && said.contains("the disk is on fire"), "{said}");
}

#[tokio::test]
async fn a_handler_killed_by_a_signal_fails_its_turn_only() {
    let script = Script::bash("die) kill -SEGV $$ ;;");
    let server = script.serve(&[]);
    let mut client = server.connect("/").await;
    let told = ask(&mut client, "die").await;
    assert_eq!(
        (&told["error"], &told["metadata"]["signal"]),
        (&json!("Handler process was ended by signal 11"), &json!(11))
    );
    assert_works(&mut client).await;
}

#[tokio::test]
async fn a_rust_handler_that_panics_fails_its_turn_only() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let told = ask(&mut client, "@panic").await;
    assert_eq!(
        (&told["error"], &told["metadata"]["code"]),
        (&json!("the handler panicked"), &json!("handler_panicked"))
    );
    assert_eq!(ask(&mut client, "hello").await["data"]["text"], "hello");
}

#[tokio::test]
async fn noise_is_log_and_a_flood_without_a_line_end_costs_nothing() {
    let script = Script::bash(
        r#"noise) echo 'no json'; echo '{"type":"result"'; echo '[1,2]'; echo '{"type":"dance"}'; echo '{"id":5}'; echo; answer quiet ;;
    flood) head -c 200000000 /dev/zero | tr '\0' x; echo; answer flooded ;;"#,
    );
    let server = script.serve(&["--log-level", "warn"]);
    let mut client = server.connect("/").await;
    assert_eq!(ask(&mut client, "noise").await["data"]["text"], "quiet");
    let before = proc::private_kib(server.pid());
    assert_eq!(ask(&mut client, "flood").await["data"]["text"], "flooded");
    let grown = proc::private_kib(server.pid()).saturating_sub(before);
    assert!(grown < 16 << 10, "200 MB without a line end took {grown} KiB");
    assert_works(&mut client).await;
}

#[tokio::test]
async fn a_json_line_without_an_end_ends_the_handler_not_the_server() {
    let script = Script::bash(
        r#"endless) printf '{"type":"text","id":"%s","text":"' "$id"; head -c 90000000 /dev/zero | tr '\0' x ;;"#,
    );
    let server = script.serve(&[]);
    let mut client = server.connect("/").await;
    let told = ask(&mut client, "endless").await;
    assert_eq!(told["message_type"], "error_message", "{told}");
    assert_works(&mut client).await;
    assert!(server.log().contains("longer than 72 MiB"), "{}", server.log());
}

#[tokio::test]
async fn two_answers_are_one() {
    let script = Script::bash(
        "twice) answer one; answer two; printf '{\"type\":\"error\",\"id\":\"%s\",\"message\":\"three\"}\\n' \"$id\" ;;",
    );
    let server = script.serve(&[]);
    let mut client = server.connect("/").await;
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "twice").await["data"]["text"], "one");
        assert_works(&mut client).await;
    }
}

#[tokio::test]
async fn results_that_are_none_name_the_defect() {
    let script = Script::bash(
        r#"number) printf '{"type":"result","id":"%s","text":5}\n' "$id" ;;
    nothing) printf '{"type":"result","id":"%s"}\n' "$id" ;;
    both) printf '{"type":"result","id":"%s","text":"a","structured_output":{}}\n' "$id" ;;
    meta) printf '{"type":"result","id":"%s","text":"a","metadata":[]}\n' "$id" ;;
    list) printf '{"type":"result","id":"%s","structured_output":[1]}\n' "$id" ;;"#,
    );
    let server = script.serve(&[]);
    let mut client = server.connect("/").await;
    for (prompt, defect) in [
        ("number", r#"handler result: "text" must be a string, got a number"#),
        ("nothing", r#"handler result: expected "text" or "structured_output", got neither"#),
        ("both", r#"handler result: expected "text" or "structured_output", got both"#),
        ("meta", r#"handler result: "metadata" must be an object, got an array"#),
        ("list", r#"handler result: "structured_output" must be an object"#),
    ] {
        assert_eq!(ask(&mut client, prompt).await["error"], defect);
        assert_works(&mut client).await;
    }
    // On Dari any JSON value is structured output.
    assert_eq!(server.advance(&json!({"input": "list"})).await.json(), json!({"text": "[1]"}));
}

#[tokio::test]
async fn a_deaf_handler_is_answered_for_and_replaced() {
    let script = Script::with_capabilities(r#""cancel""#, "deaf) trap '' TERM; while :; do sleep 1; done ;;");
    let server = script.serve(&["--stop-grace", "500ms"]);
    let mut client = server.connect("/").await;
    assert_works(&mut client).await;
    client.query("deaf").await;
    eventually("the deaf one runs", || {
        script.alive().iter().any(|process| process.command.starts_with("sleep")).then_some(())
    })
    .await;
    let cancelled = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    let told = client.terminal().await;
    assert_eq!((&told["error"], &told["metadata"]), (&json!("Request cancelled"), &json!({})));
    let after = cancelled.elapsed();
    assert!(after >= Duration::from_millis(450) && after < Duration::from_secs(3), "{after:?}");
    assert_works(&mut client).await;
    eventually("nothing is left of it", || {
        script.alive().iter().all(|process| !process.command.starts_with("sleep")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_handler_that_cannot_cancel_is_ended_instead() {
    let script = Script::bash("long) sleep 3600; answer late ;;");
    let server = script.serve(&[]);
    let mut client = server.connect("/").await;
    client.query("long").await;
    eventually("it sleeps", || script.alive().iter().any(|process| process.command.starts_with("sleep")).then_some(()))
        .await;
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(client.terminal().await["error"], "Request cancelled");
    eventually("nothing is left of it", || {
        script.alive().iter().all(|process| !process.command.starts_with("sleep")).then_some(())
    })
    .await;
    assert_works(&mut client).await;
}

/// Children of every kind: plain, in a session of their own, forked twice, deaf to TERM.
const LEAVES: &str = r#"sleep 3601 &
      setsid sleep 3602 &
      (setsid bash -c 'trap "" TERM; sleep 3603 & while :; do sleep 1; done' &) &
      nohup env -u MARK sleep 3604 >/dev/null 2>&1 &"#;

fn left_behind() -> Vec<proc::Process> {
    let ours = |process: &proc::Process| (3601..=3604).any(|n| process.command == format!("sleep {n} "));
    proc::all().into_iter().filter(|process| process.state != 'Z' && ours(process)).collect()
}

/// One test for all that looks at these children: they are found by their numbers, so two at once would see each other's.
#[tokio::test]
async fn grandchildren_go_with_their_handler() {
    let script = Script::bash(&format!(
        "leave) {LEAVES}\n sleep 0.3; answer left ;;\n    crash) exit 1 ;;\n    wait) {LEAVES}\n read -r nothing < <(sleep 3600) ;;"
    ));
    // They live as long as the handler does, and go when it crashes.
    let server = script.serve(&[]);
    let mut client = server.connect("/").await;
    assert_eq!(ask(&mut client, "leave").await["data"]["text"], "left");
    assert_eq!(left_behind().len(), 4);
    ask(&mut client, "crash").await;
    eventually("a crash takes them along", || left_behind().is_empty().then_some(())).await;
    assert_works(&mut client).await;
    // A turn that is cut takes them along too.
    client.query("wait").await;
    eventually("they run", || (left_behind().len() == 4).then_some(())).await;
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(client.terminal().await["error"], "Request cancelled");
    eventually("a cancel takes them along", || left_behind().is_empty().then_some(())).await;
    // So does the end of the server, asked for or not.
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGKILL] {
        let mut server = script.serve(&[]);
        let mut client = server.connect("/").await;
        client.query("leave").await;
        client.terminal().await;
        assert_eq!(left_behind().len(), 4);
        server.signal(signal);
        server.exited().await;
        eventually("the server's end takes them along", || left_behind().is_empty().then_some(())).await;
        eventually("and the handler itself", || script.alive().iter().all(|p| p.parent == server.pid()).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn a_crash_of_a_shared_process_fails_only_the_turns_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.py");
    fs::write(
        &path,
        "import asyncio, os\nasync def run(invocation, sender):\n    p = invocation.user_prompt\n    if p == 'crash': os._exit(9)\n    if p == 'wait': await asyncio.sleep(3600)\n    return p\n",
    )
    .unwrap();
    let server = Server::start(&["--handler", path.to_str().unwrap()]);
    let mut waiting = server.connect("/").await;
    let mut crashing = server.connect("/").await;
    waiting.query("wait").await;
    assert_eq!(ask(&mut crashing, "hello").await["data"]["text"], "hello");
    for told in [ask(&mut crashing, "crash").await, waiting.terminal().await] {
        assert_eq!(
            (&told["error"], &told["metadata"]["exit_code"]),
            (&json!("Handler process exited with code 9"), &json!(9))
        );
    }
    assert_eq!(ask(&mut waiting, "again").await["data"]["text"], "again");
}

#[tokio::test]
async fn a_handler_that_never_becomes_ready_ends_the_server() {
    for (text, told) in [
        ("exit 5", "the handler exited with code 5 before it was ready"),
        ("echo '{\"type\":\"error\",\"message\":\"no key\"}'; exit 1", "no key"),
        ("read -r hello; read -r more", "the handler did not say ready within 300ms"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handler");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command =
            server_command(&["--handler", path.to_str().unwrap(), "--port", "0", "--handler-start-timeout", "300ms"]);
        let began = Instant::now();
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("Error: {told}")), "{said}");
        assert!(began.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn one_turn_at_a_time_handlers_get_more_processes_up_to_their_number() {
    let script = Script::bash("nap) sleep 0.5; answer $$ ;;");
    let server = script.serve(&["--handler-processes", "3"]);
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = server.connect("/").await;
        client.query("nap").await;
        clients.push(client);
    }
    let mut pids = std::collections::BTreeSet::new();
    for client in &mut clients {
        pids.insert(client.terminal().await["data"]["text"].as_str().unwrap().to_owned());
    }
    assert_eq!(pids.len(), 3, "six turns, three processes: {pids:?}");
}

/// The shim and the server are one binary; a name on the command line must not make a server of it.
#[test]
fn the_hidden_command_does_nothing_by_itself() {
    let output = std::process::Command::new(binary()).arg("__shim").stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
}

/// Whoever asked first for a process that is slow to start may leave: the process is there for the next one, not left over.
#[tokio::test]
async fn a_start_that_nobody_waits_for() {
    let script = Script::bash("    die) exit 3 ;;\n");
    let path = script.path();
    let (starts, slow) = (script.folder.path().join("starts"), script.folder.path().join("slow"));
    let begin = format!(
        "#!/usr/bin/env bash\necho $$ >>'{}'\nwhile [ -e '{}' ]; do sleep 0.01; done\n",
        starts.display(),
        slow.display()
    );
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("#!/usr/bin/env bash\n", &begin)).unwrap();
    let server = script.serve(&["--handler-processes", "1"]);
    let mut client = server.connect("/").await;
    client.query("hello").await;
    assert_eq!(client.terminal().await["data"]["text"], "hello");
    fs::write(&slow, "").unwrap();
    client.query("die").await;
    assert_eq!(client.terminal().await["message_type"], "error_message");
    let started = || fs::read_to_string(&starts).unwrap().lines().count();
    for n in 0..5 {
        client.query("hello").await;
        eventually("it is started again", || (started() >= 2).then_some(())).await;
        client.send(&json!({"message_type": "cancel_message"})).await;
        assert_eq!(client.terminal().await["error"], "Request cancelled", "{n}");
    }
    fs::remove_file(&slow).unwrap();
    client.query("hello").await;
    assert_eq!(client.terminal().await["data"]["text"], "hello");
    assert_eq!(started(), 2, "the first one, and one in its place");
}
