//! Handlers that block, go deaf, or are not to be shared: who runs the next turn. With the real bridges.

use crate::support::{Server, WsClient, eventually, proc};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Blocks the one thread of its process when it is told to, and counts its turns.
const MJS: &str = "
let turns = 0;
export default { async run(invocation, sender) {
  const [what, ms] = invocation.userPrompt.split(' ');
  turns += 1;
  if (what === 'block') {
    await sender.sendAssistantMessage(['blocking']);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const end = Date.now() + Number(ms);
    while (Date.now() < end);
  }
  if (what === 'wait') await new Promise((resolve) => setTimeout(resolve, Number(ms)));
  return { type: 'text', text: `${process.pid} ${turns}` };
} };
";

const PY: &str = "
import asyncio, os, time
turns = 0
async def run(invocation, sender):
    global turns
    what, _, ms = invocation.user_prompt.partition(' ')
    turns += 1
    if what == 'block':
        sender.send_assistant_message(['blocking'])
        await asyncio.sleep(0.02)
        time.sleep(int(ms) / 1000)
    if what == 'wait':
        await asyncio.sleep(int(ms) / 1000)
    return {'type': 'text', 'text': f'{os.getpid()} {turns}'}
";

struct Module {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn module(name: &str) -> Module {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, if name.ends_with("py") { PY } else { MJS }).unwrap();
    Module { _folder: folder, path }
}

fn start(module: &Module, more: &[&str]) -> Server {
    let path = module.path.to_str().unwrap();
    Server::start(&[&["--handler", path], more].concat())
}

/// The process and its count of turns, as it answered.
fn told(terminal: &Value) -> (u32, u32) {
    let text = terminal["data"]["text"].as_str().unwrap_or_else(|| panic!("no text: {terminal}"));
    let (pid, turns) = text.split_once(' ').unwrap();
    (pid.parse().unwrap(), turns.parse().unwrap())
}

async fn ask(client: &mut WsClient, prompt: &str) -> (u32, u32) {
    client.query(prompt).await;
    told(&client.terminal().await)
}

#[tokio::test]
async fn a_blocked_process_delays_nobody() {
    for name in ["handler.mjs", "handler.py"] {
        let module = module(name);
        let server = start(&module, &["--heartbeat", "300ms", "--handler-processes", "2"]);
        let (mut one, mut two) = (server.connect("/").await, server.connect("/").await);
        let (first, _) = ask(&mut one, "hi").await;
        assert_eq!(ask(&mut two, "hi").await.0, first, "{name}: sessions share a process");
        one.query("block 4000").await;
        assert_eq!(one.next().await.unwrap()["text_blocks"], json!(["blocking"]));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        let (second, turns) = ask(&mut two, "hi").await;
        let took = began.elapsed();
        assert_ne!(second, first, "{name}");
        assert_eq!(turns, 1);
        assert!(took < Duration::from_secs(2), "{name}: {took:?}");
        // The next one does not wait for the blocked one again.
        let mut quickest = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(ask(&mut two, "hi").await.0, second);
            quickest = quickest.min(began.elapsed());
        }
        assert!(quickest < Duration::from_millis(200), "{name}: {quickest:?}");
        // Commands, pings and heartbeats go on.
        two.send(&json!({"message_type": "command_execution_message", "commands": [{"command": "true"}]})).await;
        assert_eq!(two.terminal().await["results"][0]["exit_code"], 0);
        let beat = one.next().await.unwrap();
        assert_eq!(beat["message_type"], "heartbeat_message", "{beat}");
        // It answers again: then it takes turns again.
        assert_eq!(told(&one.terminal().await).0, first);
        let deadline = Instant::now() + Duration::from_secs(5);
        while ask(&mut one, "hi").await.0 != first {
            assert!(Instant::now() < deadline, "{name}: the first one takes no turns any more");
        }
    }
}

/// A cancel of a blocked turn is answered after the grace, and the next turn has a fresh process.
#[tokio::test]
async fn a_deaf_process_is_retired() {
    let module = module("handler.mjs");
    let server = start(&module, &["--stop-grace", "400ms"]);
    let mut client = server.connect("/").await;
    let (first, _) = ask(&mut client, "hi").await;
    client.query("block 60000").await;
    client.next().await.unwrap();
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(client.terminal().await["error"], "Request cancelled");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let (second, turns) = ask(&mut client, "hi").await;
    assert!(second != first && turns == 1);
    eventually("the end of the deaf one", || proc::all().iter().all(|p| p.pid != first).then_some(())).await;
}

/// Many turns at once run in one process that answers: one ping lets them all in.
#[tokio::test]
async fn turns_at_once_share_a_process_that_answers() {
    for name in ["handler.mjs", "handler.py"] {
        let module = module(name);
        let server = start(&module, &[]);
        let mut clients = Vec::new();
        for _ in 0..50 {
            let mut client = server.connect("/").await;
            client.query("wait 500").await;
            clients.push(client);
        }
        let mut pids = Vec::new();
        for mut client in clients {
            pids.push(told(&client.terminal().await).0);
        }
        pids.dedup();
        assert_eq!(pids.len(), 1, "{name}: {pids:?}");
    }
}

#[tokio::test]
async fn every_session_has_its_own_process_if_asked() {
    for name in ["handler.mjs", "handler.py"] {
        let module = module(name);
        let server = start(&module, &["--handler-isolation", "session", "--handler-sessions", "2"]);
        let (mut one, mut two) = (server.connect("/").await, server.connect("/").await);
        let (first, turns) = ask(&mut one, "hi").await;
        assert_eq!(turns, 1);
        let (second, turns) = ask(&mut two, "hi").await;
        assert!(second != first && turns == 1, "{name}");
        // Module state survives between the requests of one session.
        assert_eq!((ask(&mut one, "hi").await, ask(&mut two, "hi").await), ((first, 2), (second, 2)));
        // A third takes the place of the one that was quiet longest.
        let mut three = server.connect("/").await;
        let (third, _) = ask(&mut three, "hi").await;
        assert!(third != first && third != second);
        eventually("the end of the first", || proc::all().iter().all(|p| p.pid != first).then_some(())).await;
        assert_eq!(ask(&mut three, "hi").await, (third, 2));
        // With its connection a session's process goes too.
        drop(three);
        eventually("the end of the third", || proc::all().iter().all(|p| p.pid != third).then_some(())).await;
        assert_eq!(ask(&mut two, "hi").await, (second, 3));
    }
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_of_a_turn_leaves_no_process() {
    let module = module("handler.mjs");
    let server = start(&module, &["--handler-isolation", "session"]);
    let mut client = server.connect("/").await;
    let (pid, _) = ask(&mut client, "hi").await;
    client.query("wait 60000").await;
    client.said().await;
    drop(client);
    eventually("the end of its process", || proc::all().iter().all(|p| p.pid != pid).then_some(())).await;
    server.idle().await;
}

#[tokio::test]
async fn an_idle_connection_costs_no_process() {
    let module = module("handler.mjs");
    let server = start(&module, &["--handler-isolation", "session"]);
    let mut busy = server.connect("/").await;
    let (pid, _) = ask(&mut busy, "hi").await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(server.connect("/").await);
    }
    let handlers = proc::descendants(server.pid()).into_iter().filter(|p| p.command.contains("handler.mjs"));
    assert_eq!(handlers.map(|p| p.pid).collect::<Vec<_>>(), [pid]);
}

#[tokio::test]
async fn the_mode_is_checked() {
    let finished = crate::support::turnhost(&["--agent", "echo", "--handler-isolation", "none"]).await;
    assert_eq!(finished.code, Some(1));
    assert_eq!(finished.stderr, "Error: invalid handler isolation \"none\". Choose one of: shared, session\n");
}
