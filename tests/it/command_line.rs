//! The command line: RuntimeUse section 15's table with our column, DESIGN section 4, and how the server ends.

use crate::support::{Finished, PATIENCE, Server, WsClient, eventually, finish, proc, server_command, turnhost};
use nix::sys::signal::Signal;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// "At once" for a program that was built without optimisation, on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// A folder with one file in it.
fn file(name: &str, content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join(name);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    (folder, path)
}

/// Ends with exit code 1 and exactly this sentence, and nothing was announced.
async fn cannot(args: &[&str], sentence: &str) {
    let end = turnhost(args).await;
    assert_eq!((end.code, end.stderr, &*end.stdout), (Some(1), format!("Error: {sentence}\n"), ""), "{args:?}");
}

/// The lines of an end that are no log lines.
fn said(end: &Finished) -> String {
    let is_log = |line: &str| line.get(..4).is_some_and(|year| year.parse::<u16>().is_ok()) && line.contains("Z ");
    end.stderr.split_inclusive('\n').filter(|line| !is_log(line)).collect()
}

#[tokio::test]
async fn help_and_version_are_answers() {
    for flag in ["--help", "-h"] {
        let end = turnhost(&[flag]).await;
        assert_eq!((end.code, &*end.stderr), (Some(0), ""), "{flag}");
        for word in ["Usage: turnhost", "--port", "--handler", "--agent", "Exit codes"] {
            assert!(end.stdout.contains(word), "{flag} names no {word}: {}", end.stdout);
        }
    }
    for flag in ["--version", "-V"] {
        let end = turnhost(&[flag]).await;
        let version = format!("turnhost {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!((end.code, end.stdout, &*end.stderr), (Some(0), version, ""), "{flag}");
    }
}

/// Every bound has a flag and an environment variable, and `--help` lists its default.
#[tokio::test]
async fn help_lists_every_bound_with_its_default() {
    let help = turnhost(&["serve", "--help"]).await.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for (flag, default) in [
        ("heartbeat", "15s"),
        ("ping", "30s"),
        ("dead-after", "60s"),
        ("max-message-bytes", "104857600"),
        ("idle-timeout", "30m"),
        ("turn-timeout", "off"),
        ("stop-grace", "2s"),
        ("grace", "10s"),
        ("queue-limit", "16"),
        ("max-running", "1024"),
        ("spill-max", "1GiB"),
        ("body-timeout", "60s"),
        ("handler-start-timeout", "30s"),
    ] {
        let at = help.find(&format!("--{flag} <")).unwrap_or_else(|| panic!("--help has no --{flag}"));
        let rest = &help[at..];
        let end = rest[2..].find(" --").map_or(rest.len(), |end| end + 2);
        let variable = flag.to_uppercase().replace('-', "_");
        for word in [format!("[default: {default}]"), format!("[env: TURNHOST_{variable}=]")] {
            assert!(rest[..end].contains(&word), "--{flag} lists no {word}: {}", &rest[..end]);
        }
    }
}

#[tokio::test]
async fn an_agent_that_is_none_is_refused() {
    for agent in ["bogus", "", "Echo", "echo "] {
        let sentence = format!("unknown agent \"{agent}\". Choose one of: echo, openai, claude, codex");
        cannot(&["--agent", agent, "--port", "0"], &sentence).await;
    }
    // The default is openai.
    let server = Server::start(&[]);
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn what_makes_no_sense_is_a_usage_error() {
    for (args, names) in [
        (&["--prot", "1"][..], &["'--prot'", "similar argument exists: '--port'"][..]),
        (&["--prot=1"], &["'--prot'", "'--port'"]),
        (&["serve", "--heartbeet", "1s"], &["'--heartbeet'", "'--heartbeat'"]),
        (&["--agnt=echo"], &["'--agnt'", "'--agent'"]),
        (&["--zzz"], &["'--zzz'"]),
        (&["-p", "1"], &["'-p'"]),
        (&["--port"], &["'--port <N>'"]),
        (&["--agent", "echo", "--handler"], &["'--handler <PATH>'"]),
        (&["handler.js"], &["'handler.js'"]),
        (&["serv"], &["'serv'", "'serve'"]),
        (&["--port", "-1"], &["'-1'"]),
        (&["--no-auth=maybe=x", "--zzz"], &["--no-auth"]),
        (&["--version", "--zzz"], &[]),
    ] {
        let end = turnhost(args).await;
        if args[0] == "--version" {
            assert_eq!(end.code, Some(0), "the first that counts");
            continue;
        }
        assert_eq!((end.code, &*end.stdout), (Some(2), ""), "{args:?}");
        for name in names {
            assert!(end.stderr.contains(name), "{args:?} names no {name}: {}", end.stderr);
        }
    }
}

#[tokio::test]
async fn values_come_in_two_forms_and_the_last_one_wins() {
    let (_folder, handler) = file("a=b.sh", "read -r hello\nprintf '{\"type\":\"ready\"}\\n'\nread -r turn\n", 0o644);
    let handler = format!("--handler={}", handler.display());
    for args in [
        &["--agent=echo", "--port=0"][..],
        &["--agent", "echo", "--port", "0"],
        &["serve", "--agent=echo", "--port", "0"],
        &["--agent", "bogus", "--port=70000", "--port", "abc", "--agent=echo", "--port", "0"],
        &["--agent", "bogus", &handler, "--port", "0"],
        &[&handler, "--agent", "openai", "--port=0"],
    ] {
        let server = Server::start(args);
        assert_eq!(server.get("/health").await.status, 200, "{args:?}");
    }
    let variables = |command: &mut std::process::Command| {
        command.envs([("TURNHOST_AGENT", "echo"), ("TURNHOST_PORT", "0"), ("PORT", "70000"), ("TURNHOST_PING", "1s")]);
    };
    let mut command = server_command(&[]);
    variables(&mut command);
    assert_eq!(Server::spawn(command).get("/health").await.json()["agent"], "echo", "by variables alone");
    let mut command = server_command(&["--agent", "bogus"]);
    variables(&mut command);
    let end = finish(command).await;
    assert!(end.code == Some(1) && end.stderr.contains("\"bogus\""), "a flag wins over its variable: {end:?}");
}

#[tokio::test]
async fn ports_are_checked_and_told() {
    for port in ["abc", "70000", "8089xyz", "", " ", "65536", "1.5", "0x50"] {
        cannot(&["--agent", "echo", "--port", port], &format!("invalid port \"{port}\"")).await;
    }
    cannot(&["--agent", "echo", "--port=-1"], "invalid port \"-1\"").await;
    let mut command = server_command(&["--agent", "echo"]);
    command.env("PORT", "abc");
    let end = finish(command).await;
    let sentence = "Error: invalid port \"abc\" in the environment variable PORT\n";
    assert_eq!((end.code, &*end.stderr), (Some(1), sentence));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let end = turnhost(&["--agent", "echo", "--port", &port, "--log-level", "error"]).await;
    let sentence = format!("Error: port {port} is already in use\n");
    assert_eq!((end.code, end.stderr, &*end.stdout), (Some(1), sentence, ""));
    drop(taken);
    let mut command = server_command(&["--agent", "echo"]);
    command.env("PORT", &port);
    let server = Server::spawn(command);
    assert_eq!(server.port.to_string(), port, "$PORT counts where --port is not given");
    let mut command = server_command(&["--agent", "echo", "--port", "0"]);
    command.env("PORT", &port);
    assert_ne!(Server::spawn(command).port, server.port, "--port wins");
}

#[tokio::test]
async fn the_ready_line_carries_the_real_port() {
    for (host, shown) in [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")] {
        let mut command = server_command(&["--agent", "echo", "--port", "0", "--host", host]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let port = line.split(' ').nth(4).and_then(|port| port.parse::<u16>().ok()).expect(&line);
        assert!(port != 0);
        assert_eq!(line, format!("turnhost listening on port {port} (http://{shown}:{port})\n"));
    }
}

#[tokio::test]
async fn values_that_cannot_be_used_are_told_in_one_sentence() {
    for (args, sentence) in [
        (["--idle-timeout", "soon"], "--idle-timeout: expected a time such as 30m, 10s or off, got \"soon\""),
        (["--heartbeat", "0"], "--heartbeat: expected a time above zero, such as 10s"),
        (["--heartbeat", "99999999999999"], "--heartbeat: 99999999999999 is too long"),
        (["--max-message-bytes", "many"], "--max-message-bytes: expected a number, got \"many\""),
        (["--queue-limit", "-1x"], "--queue-limit: expected a number, got \"-1x\""),
        (["--spill-max", "1 XB"], "--spill-max: expected a size such as 1GiB, 500MB or off, got \"1 XB\""),
        (["--log-format", "xml"], "invalid log format \"xml\". Choose one of: text, json"),
        (["--workspace", "/no/such/folder"], "--workspace /no/such/folder: not a directory"),
        (["--dari-health-path", "health"], "--dari-health-path: expected a path such as /health"),
        (["--dari-advance-path", "/health"], "--dari-health-path and --dari-advance-path must differ"),
    ] {
        let flag = format!("{}={}", args[0], args[1]);
        cannot(&["--agent", "echo", "--port", "0", &flag], sentence).await;
    }
}

#[tokio::test]
async fn a_handler_that_cannot_be_started_is_refused_before_anything_listens() {
    cannot(&["--handler", "/no/such/handler.mjs", "--port", "0"], "handler not found: /no/such/handler.mjs").await;
    cannot(&["--handler", "/tmp", "--port", "0"], "handler /tmp is not a file").await;
    let (_folder, plain) = file("handler", "no program", 0o644);
    let plain = plain.display();
    let sentence = format!("handler {plain} is not executable; chmod +x makes it so");
    cannot(&["--handler", &plain.to_string(), "--port", "0"], &sentence).await;
    let (_folder, module) = file("handler.mjs", "", 0o644);
    let module = module.display().to_string();
    let mut command = server_command(&["--handler", &module, "--port", "0"]);
    command.env("PATH", "/no/such/folder");
    let end = finish(command).await;
    let sentence = "Error: running a JavaScript handler needs Node.js\n";
    assert_eq!((end.code, &*end.stderr, &*end.stdout), (Some(1), sentence, ""));
    let sentence = "running a JavaScript handler needs Node.js: /no/such/node is not a program";
    cannot(&["--handler", &module, "--node", "/no/such/node", "--port", "0"], sentence).await;
    let (_folder, module) = file("handler.py", "", 0o644);
    let mut command = server_command(&["--handler", &module.display().to_string(), "--port", "0"]);
    command.env("PATH", "/no/such/folder");
    let end = finish(command).await;
    assert_eq!((end.code, &*end.stderr), (Some(1), "Error: running a Python handler needs python3\n"));
}

#[tokio::test]
async fn a_handler_that_does_not_load_ends_the_server() {
    let export = "must export an AgentHandler (as default or named \"handler\")";
    for (name, content, first, also) in [
        ("none.mjs", "export const other = 1;", "Error: module at PATH MUST\n", ""),
        ("number.mjs", "export default 5;", "Error: module at PATH MUST\n", ""),
        ("no_run.mjs", "export default { run: 5 };", "Error: module at PATH MUST\n", ""),
        ("empty.mjs", "", "Error: module at PATH MUST\n", ""),
        ("throws.mjs", "throw new Error('boom at load');", "Error: boom at load\n", "at file://PATH:1:7"),
        ("rejects.mjs", "await Promise.reject(new TypeError('late'));", "Error: TypeError: late\n", "TypeError: late"),
        ("syntax.mjs", "export default {", "Error: SyntaxError: Unexpected end of input\n", "PATH"),
        ("exits.mjs", "process.exit(3);", "Error: the handler exited with code 3 before it was ready\n", ""),
        ("throws.py", "raise ValueError('boom')", "Error: ValueError: boom\n", "File \"PATH\", line 1"),
        (
            "ends",
            "#!/bin/sh\necho last words >&2; exit 7",
            "Error: the handler exited with code 7 before it was ready\n",
            "last words",
        ),
        ("mute", "#!/bin/sh\nexec sleep 600", "Error: the handler did not say ready within 3s\n", ""),
        ("lost", "#!/no/such/shell\n", "Error: cannot start PATH: the interpreter it needs was not found\n", ""),
    ] {
        let (_folder, path) = file(name, content, 0o755);
        let shown = path.display().to_string();
        let end = turnhost(&["--handler", &shown, "--port", "0", "--handler-start-timeout", "3s"]).await;
        let fill = |text: &str| text.replace("MUST", export).replace("PATH", &shown);
        let said = said(&end);
        assert_eq!(end.code, Some(1), "{name}: {}", end.stderr);
        assert!(said.starts_with(&fill(first)), "{name}: {said}");
        assert!(said.contains(&fill(also)) && (!also.is_empty() || said == fill(first)), "{name}: {said}");
    }
}

#[tokio::test]
async fn sigterm_ends_an_idle_server_at_once() {
    for (signal, code) in [(Signal::SIGTERM, 0), (Signal::SIGINT, 130)] {
        let mut server = Server::start(&["--agent", "echo"]);
        // Open connections that nothing runs on are no reason to stay.
        assert_eq!(server.get("/health").await.status, 200);
        let (mut plain, mut named) = (server.connect("/").await, server.connect("/?session=s").await);
        plain.query("hi").await;
        plain.terminal().await;
        let began = Instant::now();
        server.signal(signal);
        assert_eq!((plain.close_code().await, named.close_code().await), (Some(1001), Some(1001)));
        assert_eq!(server.exited().await.code(), Some(code));
        assert!(began.elapsed() < AT_ONCE, "{signal}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_whatever_runs() {
    let (_folder, handler) = file(
        "deaf.mjs",
        "process.on('SIGTERM', () => {}); export default { run() { return new Promise(() => {}); } };",
        0o644,
    );
    let handler = handler.display().to_string();
    for (first, second, code) in [
        (Signal::SIGTERM, Signal::SIGTERM, 143),
        (Signal::SIGINT, Signal::SIGINT, 130),
        (Signal::SIGTERM, Signal::SIGINT, 130),
    ] {
        let mut server = Server::start(&["--handler", &handler, "--grace", "600s", "--stop-grace", "600s"]);
        let turn = server.request(reqwest::Method::POST, "/runtime/advance").body(r#"{"input":"sleep"}"#).send();
        let turn = tokio::spawn(turn);
        server.busy().await;
        let below = proc::descendants(server.pid());
        assert!(!below.is_empty());
        server.signal(first);
        eventually("the drain", || server.log().contains("stopping").then_some(())).await;
        assert!(server.is_running(), "the turn has its grace");
        let began = Instant::now();
        server.signal(second);
        assert_eq!(server.exited().await.code(), Some(code));
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        // The tree goes with it: the shims see that the server is gone.
        let lives = |pid: u32| proc::all().iter().any(|process| process.pid == pid && process.state != 'Z');
        eventually("the end of the handler", || (!below.iter().any(|process| lives(process.pid))).then_some(())).await;
        turn.abort();
    }
}

/// Both pipes are open and full, and nobody reads: turns go on, and so does the way out.
#[tokio::test]
async fn pipes_that_nobody_reads_never_block() {
    let (_folder, handler) = file(
        "loud.mjs",
        "export default { async run({ userPrompt }) {
            for (let n = 0; n < 2000; n++) { console.log('x'.repeat(200)); console.error('y'.repeat(200)); }
            return { type: 'text', text: userPrompt };
        } };",
        0o644,
    );
    let handler = handler.display().to_string();
    let mut command = server_command(&["--handler", &handler, "--port", "0", "--log-level", "trace"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // The rest of the pipes stays in them.
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let port: u16 = line.split(' ').nth(4).and_then(|port| port.parse().ok()).expect(&line);
    let mut client = WsClient::connect(([127, 0, 0, 1], port).into(), "/").await;
    for n in 0..10 {
        let prompt = format!("turn {n}");
        client.query(&prompt).await;
        assert_eq!(client.terminal().await["data"]["text"], prompt);
    }
    let health = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().unwrap();
    let health = health.get(format!("http://127.0.0.1:{port}/health")).send().await.unwrap();
    assert_eq!(health.status().as_u16(), 200);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let began = Instant::now();
    let status = eventually("the exit", || child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    drop((stdout, child.stderr.take()));
}

/// A reader that has gone is no worse than one that does not read.
#[tokio::test]
async fn pipes_whose_reader_has_gone_never_end_it() {
    let mut command = server_command(&["--agent", "echo", "--port", "0", "--log-level", "trace"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    drop(child.stderr.take());
    let port: u16 = line.split(' ').nth(4).and_then(|port| port.parse().ok()).expect(&line);
    let mut client = WsClient::connect(([127, 0, 0, 1], port).into(), "/").await;
    for _ in 0..20 {
        client.query("@fail loudly").await;
        assert_eq!(client.terminal().await["error"], "loudly");
    }
    client.query("hi").await;
    assert_eq!(client.terminal().await["data"]["text"], "hi");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn the_port_can_be_taken_again_at_once() {
    let mut first = Server::start(&["--agent", "echo"]);
    let port = first.port.to_string();
    for _ in 0..5 {
        // The server's side closes first: its port is the one that the system keeps for a while.
        let end = crate::support::raw_http::request(first.address(), "GET /health", "", b"").await;
        assert_eq!(end.status, 200);
    }
    let mut open = first.connect("/").await;
    first.signal(Signal::SIGTERM);
    assert_eq!(open.close_code().await, Some(1001));
    assert_eq!(first.exited().await.code(), Some(0));
    let began = Instant::now();
    let second = Server::start(&["--agent", "echo", "--port", &port]);
    assert_eq!(second.advance(&json!({"input": "hi"})).await.status, 200);
    assert!(began.elapsed() < PATIENCE / 3);
}
