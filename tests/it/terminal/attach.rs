//! `attach` in a pipe: what goes where, when it ends, and with which code.

use super::{attach, command, interactive, line, run};
use crate::sessions::{create, delete, echo, log, told};
use crate::support::bridge::{Bridge, Step};
use crate::support::programs::Program;
use crate::support::{PATIENCE, SOON, Server, eventually, proc};
use base64::Engine as _;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Instant;

fn asides(stderr: &str) -> Vec<&str> {
    stderr.lines().collect()
}

/// What was, what comes, and the codes at the end.
#[tokio::test]
async fn a_session_that_has_ended() {
    let server = echo();
    let id = told(&server, "@delta 3 2").await;
    let (code, stdout, stderr) = attach(&server, &[&id], "").await;
    assert_eq!((code, stdout.as_str()), (Some(0), "[replay] dedede\n"), "{stderr}");
    let expected = [
        "[replay] [result] status=success".to_owned(),
        format!("Connected to session {id}"),
        "Session exited with code 0".to_owned(),
    ];
    assert_eq!(asides(&stderr), expected);
    // Flags stand before the id or behind it.
    for words in [[id.as_str(), "--no-replay"], ["--no-replay", id.as_str()]] {
        let (code, stdout, stderr) = attach(&server, &words, "").await;
        assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
        assert_eq!(asides(&stderr), expected[1..]);
    }
    // From the second line on, and from the middle of the first one.
    let whole = log(&server, &id).await;
    let first = whole.lines().next().unwrap().len();
    for (since, shown) in [(0, 6), (first + 1, 4), (1, 4), (whole.len(), 0), (whole.len() + 9, 0)] {
        let (code, stdout, _) = attach(&server, &["--since", &since.to_string(), &id], "").await;
        assert_eq!((code, 2 * stdout.matches("de").count()), (Some(0), shown), "since {since}");
    }
    let failed = told(&server, "@fail no such thing").await;
    let (code, _, stderr) = attach(&server, &[&failed], "").await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("[replay] [error] no such thing\n") && stderr.ends_with("Session exited with code 1\n"),
        "{stderr}"
    );
}

/// Every kind of line, as an agent's log has them.
#[tokio::test]
async fn the_form_of_each_line() {
    let before = [
        line("system", &json!({"subtype": "init", "model": "m"})),
        line("agent_message", &json!({"text": "two\nlines", "delta": false})),
        line("tool_use", &json!({"id": "t1", "name": "Bash", "input": {"command": "ls"}})),
    ];
    let live = [
        line("tool_result", &json!({"id": "t1", "name": "Bash", "output": "a"})),
        line("tool_result", &json!({"id": "t2", "output": "a"})),
        line("agent_message", &json!({"text": "Hel", "delta": true, "item_id": "m1"})),
        line("agent_message", &json!({"text": "lo\n", "delta": true, "item_id": "m1"})),
        line("agent_message", &json!({"text": "you", "delta": true, "item_id": "m1"})),
        line("agent_message", &json!({"text": "Hello\nyou", "delta": false, "item_id": "m1"})),
        line("agent_message", &json!({"text": "not in pieces", "delta": false, "item_id": "m2"})),
        line("agent_message", &json!({"text": "open", "delta": true})),
        line("tool_use", &json!({"id": "t3", "name": "Edit"})),
        line("agent_message", &json!({"text": " on", "delta": true})),
        line("agent_message", &json!({"text": "open on", "delta": false})),
        line("progress", &json!({"subtype": "thinking", "text": "hm"})),
        line("system", &json!({"subtype": "heartbeat", "uptime_ms": 1})),
        line("system", &json!({"subtype": "stderr", "text": "from below"})),
        line("system", &json!({"source": "hook:pre_init", "text": "hooked"})),
        line("system", &json!({"subtype": "stall_warning", "message": "silent", "silence": 3})),
        line("error", &json!({"message": "bad\nthing"})),
        line("unheard", &json!({"of": 1})),
        line("result", &json!({"status": "error_max_turns"})),
        line("exit", &json!({"code": 3, "error_category": "rate_limit"})),
    ];
    let replay = base64::engine::general_purpose::STANDARD.encode(before.concat());
    let bridge = Bridge::start(vec![vec![
        Step::Say(json!({"type": "replay", "data": replay, "offset": 10})),
        Step::Say(json!({"type": "connected", "session_id": "s", "mode": "pipe"})),
        Step::Say(json!({"type": "stdout", "data": live.concat(), "offset": 20})),
        Step::Say(json!({"type": "unheard", "of": 1})),
        Step::Say(json!({"type": "error", "error": "unknown frame type: resize"})),
        Step::Say(json!({"type": "exit", "exit_code": 3, "error_category": "rate_limit", "error_detail": "later"})),
    ]])
    .await;
    let ended = run(command(bridge.address.port(), &["attach", "s"])).await;
    assert_eq!(ended.code, Some(1), "{ended}");
    assert_eq!(
        ended.stdout,
        "[replay] two\n[replay] lines\n[replay] [tool] Bash\n[result] Bash\n[result] t2\nHello\nyou\nnot in pieces\n\
         open\n[tool] Edit\n on\n"
    );
    assert_eq!(
        ended.stderr,
        "[replay] [system] init\nConnected to session s\n[system] stderr: from below\n[system] hook:pre_init: hooked\n\
         [system] stall_warning: silent\n[error] bad\nthing\n[result] status=error_max_turns\n\
         [error] unknown frame type: resize\n[error] rate_limit: later\nSession exited with code 3\n"
    );
}

/// Each line is answered before it goes; without any it stays to the session's end.
#[tokio::test]
async fn the_end_of_standard_input() {
    let server = echo();
    let id = interactive(&server).await;
    let (code, stdout, stderr) = attach(&server, &[&id], "one\n\n@sleep 300\nthree").await;
    assert_eq!((code, stdout.as_str()), (Some(0), "one\nslept 300 ms\nthree\n"), "{stderr}");
    assert!(stderr.ends_with(&format!("Detached; session {id} goes on\n")), "{stderr}");
    assert_eq!(stderr.matches("[result] status=success").count(), 3, "{stderr}");
    // What was is not what is waited for.
    let (code, stdout, _) = attach(&server, &[&id], "four\n").await;
    assert_eq!((code, stdout.as_str()), (Some(0), "[replay] one\n[replay] slept 300 ms\n[replay] three\nfour\n"));
    // A steer where nothing runs is a prompt; one alone is a mistake.
    let (code, stdout, stderr) = attach(&server, &["--no-replay", &id], "/steer\n/steering\n/steer left\n").await;
    assert_eq!((code, stdout.as_str()), (Some(0), "/steering\nleft\n"));
    assert!(stderr.contains("/steer needs a text: /steer TEXT\n"), "{stderr}");
    // A turn that runs, and has said nothing, is answered first, and its answer is none to what is sent now.
    for words in [&["--no-replay", id.as_str()][..], &[id.as_str()]] {
        let mut other = server.connect(&format!("/ws/sessions/{id}")).await;
        other.send(&json!({"type": "prompt", "data": "@sleep 500"})).await;
        other.send(&json!({"type": "prompt", "data": "@text between"})).await;
        server.busy().await;
        let (code, stdout, stderr) = attach(&server, words, "behind it").await;
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.ends_with("slept 500 ms\nbetween\nbehind it\n"), "{words:?}: {stdout}\n{stderr}");
    }
    // An interrupt ends the turn, and that is its answer.
    let (code, stdout, stderr) = attach(&server, &["--no-replay", &id], "@sleep 60000\n/interrupt\n").await;
    assert_eq!((code, stdout.as_str()), (Some(0), ""));
    assert!(stderr.contains("[result] status=interrupted\n"), "{stderr}");
    assert_eq!(server.get(&format!("/sessions/{id}")).await.json()["state"], "running");
    // Nothing was sent: to the end of the session.
    let mut staying = Program::start(command(server.port, &["attach", &id]));
    eventually("the replay", || staying.said().contains("left").then_some(())).await;
    assert!(staying.is_running());
    delete(&server, &id).await;
    let ended = staying.end(PATIENCE).await;
    assert_eq!(ended.code, Some(1), "{ended}");
    assert!(ended.stderr.ends_with("Session exited with code -1\n"), "{ended}");
}

/// A session that takes no input says so, and that is the answer.
#[tokio::test]
async fn a_session_without_input() {
    let server = echo();
    let id = create(&server, &json!({"agent": "echo", "prompt": "@sleep 60000"})).await;
    let (code, _, stderr) = attach(&server, &[&id], "hello\n").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("[error] session does not accept input\n"), "{stderr}");
}

/// SIGTERM is heard at once, also by one that waits for its reader.
#[tokio::test]
async fn a_signal() {
    let server = echo();
    let id = interactive(&server).await;
    let attached = Program::start(command(server.port, &["attach", &id]));
    eventually("a connection", || attached.complained().contains("Connected").then_some(())).await;
    let began = Instant::now();
    attached.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = attached.end(PATIENCE).await;
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let big = told(&server, "@delta 20000 100").await;
    let mut stuck = command(server.port, &["attach", &big]);
    stuck.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut stuck = stuck.spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(stuck.id()).unwrap());
    // Its pipe is full: nothing of it goes on.
    let pipe = stuck.stdout.take().unwrap();
    eventually("a full pipe", || (rustix::io::ioctl_fionread(&pipe).unwrap() > 60_000).then_some(())).await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = eventually("its end", || stuck.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}

/// A reader that has seen enough is no failure.
#[tokio::test]
async fn an_output_that_is_closed() {
    let server = echo();
    let id = told(&server, "@delta 20000 100").await;
    let line = format!("exec \"$0\" attach --port {} {id} | head -c 20; echo; echo ${{PIPESTATUS[0]}}", server.port);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &line, crate::support::binary()]);
    let ended = run(shell).await;
    assert_eq!(ended.stdout, "[replay] delta 1....\n0\n", "{ended}");
}

/// A hundred thousand lines: all of them, and no more memory for it.
#[tokio::test]
async fn a_hundred_thousand_lines() {
    let server = echo();
    let id = told(&server, "@delta 100000 20").await;
    assert!(log(&server, &id).await.lines().count() >= 100_000);
    let began = Instant::now();
    let mut command = command(server.port, &["attach", &id]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let watch = proc::Watch::start(child.id());
    let mut out = child.stdout.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut out, &mut text).map(|_| text)
    });
    let text = tokio::time::timeout(PATIENCE, reading).await.expect("an end in time").unwrap().unwrap();
    let mut expected = "[replay] ".to_owned();
    for n in 1..=100_000 {
        write!(expected, "{:.<20}", format!("delta {n}")).unwrap();
    }
    expected.push('\n');
    assert!(text == expected, "{} bytes", text.len());
    let took = began.elapsed();
    assert_eq!(eventually("its end", || child.try_wait().unwrap()).await.code(), Some(0));
    // 11 MB of log.
    assert!(watch.most_kib() < 24 << 10, "{} KiB", watch.most_kib());
    println!("100,000 lines in {took:?}, {} KiB", watch.most_kib());
}

/// One sentence for each that cannot be.
#[tokio::test]
async fn what_cannot_be() {
    let closed = Server::start_with(&["--agent", "echo"], |command| {
        command.env("TURNHOST_TOKEN", "t0ken-of-this-test");
    });
    let open = echo();
    let other = Server::start(&["--agent", "echo", "--protocols", "dari"]);
    let token = |token: &'static str, name: &'static str| Some((name, token));
    let nobody = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    for (port, words, with, code, said) in [
        (nobody, &["attach", "x"][..], None, 1, format!("Error: no server answers at http://127.0.0.1:{nobody}: ")),
        (
            open.port,
            &["attach", "no-such"],
            None,
            1,
            format!("Error: there is no session no-such at {}\n", open.url("")),
        ),
        (open.port, &["attach", "../health"], None, 1, "Error: there is no session ../health at ".to_owned()),
        (closed.port, &["attach", "x"], None, 1, format!("Error: the server at {} wants a token: ", closed.url(""))),
        (
            closed.port,
            &["attach", "x"],
            token("wrong", "TURNHOST_TOKEN"),
            1,
            format!("Error: the server at {} does not know this token: ", closed.url("")),
        ),
        (
            closed.port,
            &["attach", "x"],
            token("t0ken-of-this-test", "TURNHOST_TOKEN"),
            1,
            "Error: there is no session x at ".to_owned(),
        ),
        (
            closed.port,
            &["attach", "x"],
            token("t0ken-of-this-test", "AGENTD_TOKEN"),
            1,
            "Error: there is no session x at ".to_owned(),
        ),
        (
            other.port,
            &["attach", "x"],
            None,
            1,
            format!("Error: the server at {} knows no sessions of agentruntime", other.url("")),
        ),
        (
            open.port,
            &["attach"],
            None,
            2,
            "error: the following required arguments were not provided:\n  <ID>".to_owned(),
        ),
        (open.port, &["attach", "x", "--since", "-1"], None, 2, "error: ".to_owned()),
        (
            open.port,
            &["attach", "x", "--since", "many"],
            None,
            2,
            "error: invalid value 'many' for '--since <N>'".to_owned(),
        ),
        (open.port, &["attach", "x", "--since", "1", "--no-replay"], None, 2, "error: the argument".to_owned()),
        (open.port, &["attach", "x", "--token-file", "/no/such"], None, 1, "Error: --token-file /no/such: ".to_owned()),
    ] {
        let mut command = command(port, words);
        if let Some((name, value)) = with {
            command.env(name, value);
        }
        let ended = run(command).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{words:?}: {ended}");
        assert!(ended.stderr.starts_with(&said), "{words:?}: {said}\n{ended}");
        assert!(!ended.stderr.contains("t0ken-of"), "{ended}");
    }
    // The token from a file, and the port where the server's own variable has it.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "t0ken-of-this-test\n").unwrap();
    let mut command = crate::support::server_command(&["attach", "x", "--token-file", file.to_str().unwrap()]);
    command.env("PORT", closed.port.to_string());
    let ended = run(command).await;
    assert!(ended.stderr.starts_with("Error: there is no session x at "), "{ended}");
}

/// What reaches the server is what was asked for.
#[tokio::test]
async fn what_is_sent() {
    let connected = Step::Say(json!({"type": "connected", "session_id": "s", "mode": "pipe", "offset": 5}));
    let steps = vec![connected, Step::Hear("interrupt"), Step::Say(json!({"type": "exit", "exit_code": 0}))];
    let bridge = Bridge::start(vec![steps]).await;
    let mut command = command(bridge.address.port(), &["attach", "s", "--since", "7"]);
    command.env("TURNHOST_TOKEN", "secret");
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b" a line \r\n/steer  left\n/interrupt\n").unwrap();
    assert_eq!(eventually("its end", || child.try_wait().unwrap()).await.code(), Some(0));
    assert_eq!(bridge.asked(), ["/ws/sessions/s?since=7 Bearer secret"]);
    let told: Vec<Value> = bridge.told();
    assert_eq!(
        told,
        [
            json!({"type": "stdin", "data": " a line \n"}),
            json!({"type": "steer", "data": "left"}),
            json!({"type": "interrupt"})
        ]
    );
    drop(stdin);
}
