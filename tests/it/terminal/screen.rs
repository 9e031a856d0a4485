//! `attach` on a terminal: what the screen shows when a person types.

use super::{command, interactive, line};
use crate::sessions::{create, echo, told};
use crate::support::agents::claude_program;
use crate::support::bridge::{Bridge, Step};
use crate::support::model::{Block, Model, Play, text};
use crate::support::pty::Pty;
use crate::support::{SOON, Server, proc};
use serde_json::json;
use std::time::{Duration, Instant};

/// The rows of a screen that have something on them, less what stands for this session alone.
fn rows(pty: &Pty, id: &str) -> Vec<String> {
    let shown = pty.shown().replace(id, "ID");
    shown.lines().map(|row| row.trim_end().to_owned()).filter(|row| row != "[system] init").collect()
}

/// Typing, `/steer`, `/steer` alone, `/interrupt`, Ctrl+C once and again: the whole screen.
#[tokio::test]
async fn a_talk() {
    let server = echo();
    let id = interactive(&server).await;
    let mut pty = Pty::start(&command(server.port, &["attach", &id]), 80, 30);
    pty.shows("Connected to session").await;
    pty.type_keys("Hello, you!");
    // The terminal's own line editing.
    pty.type_keys("\x7f?\r");
    pty.shows("[result] status=success").await;
    pty.type_line("/steer");
    pty.shows("/steer needs a text: /steer TEXT").await;
    pty.type_line("/steer to the left");
    pty.shows("\nto the left\n").await;
    pty.type_line("@sleep 60000");
    server.busy().await;
    pty.type_line("/interrupt");
    pty.shows("[result] status=interrupted").await;
    pty.type_line("@sleep 60001");
    server.busy().await;
    pty.ctrl_c();
    pty.shows("Interrupted the agent; Ctrl+C again detaches\n[result] status=interrupted").await;
    pty.ctrl_c();
    assert_eq!(pty.ended().await, Some(0));
    pty.shows("goes on").await;
    let expected = "Connected to session ID\nHello, you?\nHello, you?\n[result] status=success\n/steer\n\
                    /steer needs a text: /steer TEXT\n/steer to the left\nto the left\n[result] status=success\n\
                    @sleep 60000\n/interrupt\n[result] status=interrupted\n@sleep 60001\n^C\n\
                    Interrupted the agent; Ctrl+C again detaches\n[result] status=interrupted\n^C\n\
                    Detached; session ID goes on";
    assert_eq!(rows(&pty, &id).join("\n"), expected);
    assert_eq!(server.get(&format!("/sessions/{id}")).await.json()["state"], "running");
}

/// Whoever goes on after an interrupt may interrupt again.
#[tokio::test]
async fn an_interrupt_is_forgotten() {
    let server = echo();
    let id = interactive(&server).await;
    let mut pty = Pty::start(&command(server.port, &["attach", &id]), 80, 24);
    pty.shows("Connected to session").await;
    for turn in 1..=2 {
        pty.type_line("@sleep 60000");
        server.busy().await;
        pty.ctrl_c();
        super::until(|| pty.shown().matches("[result] status=interrupted").count() == turn, || pty.shown()).await;
        server.idle().await;
        pty.type_line(&format!("on {turn}"));
        pty.shows(&format!("\non {turn}\non {turn}\n")).await;
    }
    pty.signal(nix::sys::signal::Signal::SIGTERM);
    let began = Instant::now();
    assert_eq!(pty.ended().await, Some(0));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// The end of what is typed.
#[tokio::test]
async fn ctrl_d() {
    let server = echo();
    let id = interactive(&server).await;
    let mut pty = Pty::start(&command(server.port, &["attach", &id]), 80, 24);
    pty.shows("Connected to session").await;
    pty.type_line("@sleep 300");
    pty.type_keys("\x04");
    assert_eq!(pty.ended().await, Some(0));
    pty.shows("slept 300 ms\n[result] status=success\nDetached").await;
}

/// The size of the terminal, at the beginning and whenever it changes.
#[tokio::test]
async fn resize() {
    let connected = Step::Say(json!({"type": "connected", "session_id": "s", "mode": "pipe"}));
    let bridge = Bridge::start(vec![vec![connected]]).await;
    let mut pty = Pty::start(&command(bridge.address.port(), &["attach", "s"]), 80, 24);
    bridge.hears(&json!({"type": "resize", "cols": 80, "rows": 24})).await;
    pty.resize(120, 40);
    bridge.hears(&json!({"type": "resize", "cols": 120, "rows": 40})).await;
    pty.type_line("a line");
    bridge.hears(&json!({"type": "stdin", "data": "a line\n"})).await;
    pty.ctrl_c();
    bridge.hears(&json!({"type": "interrupt"})).await;
    pty.ctrl_c();
    assert_eq!(pty.ended().await, Some(0));
}

/// Colour is for terminals, and nothing that an agent says commands one; what is cut by a notice is legible.
#[tokio::test]
async fn colours_and_commands() {
    let lines = [
        line("agent_message", &json!({"text": "a\u{1b}[2Jb\u{7}\u{9b}31mc", "delta": true})),
        line("system", &json!({"subtype": "stderr", "text": "\u{1b}]0;title\u{7}notice"})),
        line("agent_message", &json!({"text": "d\r\ne", "delta": true})),
        line("tool_use", &json!({"id": "1", "name": "Ba\u{1b}[1msh"})),
    ];
    let steps = |end: Step| {
        let connected = Step::Say(json!({"type": "connected", "session_id": "s", "mode": "pipe"}));
        vec![connected, Step::Say(json!({"type": "stdout", "data": lines.concat(), "offset": 9})), end]
    };
    let exit = Step::Say(json!({"type": "exit", "exit_code": 0}));
    let bridge = Bridge::start(vec![steps(exit.clone()), steps(exit)]).await;
    let mut pty = Pty::start(&command(bridge.address.port(), &["attach", "s"]), 80, 24);
    assert_eq!(pty.ended().await, Some(0));
    pty.shows("exited").await;
    let expected = "Connected to session s\na[2Jb31mc\n[system] stderr: ]0;titlenotice\nd\ne\n[tool] Ba[1msh\nSession exited with code 0";
    assert_eq!(pty.shown().trim_end(), expected);
    assert!(pty.raw().contains("\x1b[2m[tool]\x1b[0m"), "{:?}", pty.raw());
    assert!(!pty.raw().contains("\x1b[2J") && !pty.raw().contains("\x1b]"), "{:?}", pty.raw());
    // In a pipe nothing is added and nothing taken out.
    let ended = super::run(command(bridge.address.port(), &["attach", "s"])).await;
    assert_eq!(ended.stdout, "a\u{1b}[2Jb\u{7}\u{9b}31mcd\r\ne\n[tool] Bash\n".replace("Bash", "Ba[1msh"));
}

/// A long session on a screen: its end is seen, soon, and the keys work.
#[tokio::test]
async fn a_hundred_thousand_lines() {
    let server = echo();
    let id = interactive(&server).await;
    let mut reader = crate::sessions::Reader::open(&server, &id, "?since=0").await;
    reader.prompt("@stream 100000 20").await;
    reader.until_line("result").await;
    let began = Instant::now();
    let mut pty = Pty::start(&command(server.port, &["attach", &id]), 80, 24);
    let watch = proc::Watch::start(pty.pid());
    pty.shows("Connected to session").await;
    let took = began.elapsed();
    // The last of them, and what the turn came to.
    let shown = rows(&pty, &id);
    let mut expected: Vec<String> =
        (99_981..=100_000).map(|n| format!("[replay] {:.<20}", format!("message {n}"))).collect();
    expected.extend(
        ["[replay] streamed 100000", "[replay] [result] status=success", "Connected to session ID"].map(str::to_owned),
    );
    assert_eq!(shown, expected);
    pty.type_line("still here");
    pty.shows("still here\nstill here\n").await;
    pty.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(pty.ended().await, Some(0));
    assert!(watch.most_kib() < 24 << 10, "{} KiB", watch.most_kib());
    println!("100,000 lines on a screen in {took:?}, {} KiB", watch.most_kib());
}

/// A session that fails while somebody looks on.
#[tokio::test]
async fn the_end_of_a_session() {
    let server = echo();
    for (prompt, code) in [("@text bye", 0), ("@fail badly", 1)] {
        let id = create(&server, &json!({"agent": "echo", "prompt": prompt})).await;
        let mut pty = Pty::start(&command(server.port, &["attach", &id]), 80, 24);
        assert_eq!(pty.ended().await, Some(code));
        pty.shows(&format!("Session exited with code {code}")).await;
    }
    let id = told(&server, "@text long ago").await;
    let mut pty = Pty::start(&command(server.port, &["attach", &id]), 80, 24);
    assert_eq!(pty.ended().await, Some(0));
    pty.shows("[replay] long ago\n").await;
}

/// The real Claude Code: its words as they come, its tools by name, a steer, an interrupt.
#[tokio::test]
async fn a_real_agent() {
    let bash = |command: &str| Block::Tool("Bash", json!({"command": command, "description": "x"}));
    let look = Play::Say(vec![Block::Text("Let me look.".into()), bash("echo out")]);
    let plays = vec![look, text("Out it is."), Play::Say(vec![bash("sleep 1")]), text("Turned."), Play::Hang("Wait")];
    let model = Model::start(plays).await;
    let folder = tempfile::tempdir().unwrap();
    let program = claude_program();
    let server = Server::start_with(&["--agent", "echo", "--claude-program", program.to_str().unwrap()], |command| {
        command.env("HOME", folder.path());
    });
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let id = create(
        &server,
        &json!({"agent": "claude", "model": "test-model", "interactive": true, "work_dir": work.canonicalize().unwrap(),
                "env": {"ANTHROPIC_API_KEY": "sk-good-0123456789", "ANTHROPIC_BASE_URL": model.root()}}),
    )
    .await;
    let mut pty = Pty::start(&command(server.port, &["attach", &id]), 100, 40);
    pty.shows("Connected to session").await;
    pty.type_line("Look at it");
    pty.shows("[result] status=success").await;
    assert!(
        pty.shown().contains("Let me look.\n[tool] Bash\n[result] Bash\nOut it is.\n[result] status=success"),
        "{}",
        pty.shown()
    );
    pty.type_line("Work on");
    pty.shows("[result] Bash\nOut it is.").await;
    super::until(|| pty.shown().matches("[tool] Bash").count() == 2, || pty.shown()).await;
    pty.type_line("/steer turn left");
    pty.shows("Turned.\n[result] status=success").await;
    assert!(model.last().to_string().contains("turn left"));
    pty.type_line("Hang on");
    pty.shows("\nWait").await;
    pty.ctrl_c();
    pty.shows_within(Duration::from_secs(20), "[result] status=error_during_execution").await;
    pty.ctrl_c();
    assert_eq!(pty.ended().await, Some(0));
}
