//! The same in a pseudo-terminal: a prompt, what is typed while a turn runs, Ctrl+C and Ctrl+D.

use crate::support::{PATIENCE, binary, eventually};
use nix::pty::{Winsize, openpty};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

/// A program in a terminal of its own.
struct Terminal {
    keys: File,
    screen: Arc<Mutex<String>>,
    child: Child,
    /// How far of the screen was waited for.
    seen: usize,
}

impl Terminal {
    fn open(args: &[&str]) -> Self {
        let size = Winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a pseudo-terminal");
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        // Its own session with this terminal: Ctrl+C is a signal only there.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(binary()).args(args).stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("setsid of util-linux");
        drop(command);
        let keys = File::from(pty.master);
        let mut output = keys.try_clone().unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let kept = screen.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // The end of the last program is an error here.
            while let Ok(read) = output.read(&mut chunk) {
                if read == 0 {
                    break;
                }
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        });
        Self { keys, screen, child, seen: 0 }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this appears behind what was waited for before.
    async fn shows(&mut self, text: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let screen = self.screen.lock().unwrap().clone();
            if let Some(at) = screen[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(std::time::Instant::now() < deadline, "no {text:?} in {:?}", &screen[self.seen..]);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn ends(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the end of the talk", || child.try_wait().unwrap()).await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PROMPT: &str = "\x1b[1m> \x1b[0m";

#[tokio::test]
async fn a_talk_that_is_typed() {
    let mut terminal = Terminal::open(&["chat", "--agent", "echo"]);
    terminal.shows("echo: /help tells what you can do").await;
    terminal.shows(PROMPT).await;
    // The terminal itself edits the line.
    terminal.press("hellO\x7fo you\r");
    terminal.shows("o you\r\n").await;
    terminal.shows("hello you\r\n").await;
    terminal.shows(PROMPT).await;
    terminal.press("/state\r");
    terminal.shows("\"turn\": 1").await;
    terminal.shows(PROMPT).await;
    // Ctrl+D
    terminal.press("\x04");
    assert_eq!(terminal.ends().await.code(), Some(0));
}

#[tokio::test]
async fn ctrl_c_cancels_the_turn_and_twice_at_the_prompt_ends() {
    let mut terminal = Terminal::open(&["chat", "--agent", "echo"]);
    terminal.shows(PROMPT).await;
    terminal.press("@sleep 60000\r");
    // Typed meanwhile: this agent does not listen, so it is the next turn.
    terminal.shows("@sleep 60000\r\n").await;
    terminal.press("next one\r");
    terminal.shows("[after this turn]").await;
    terminal.press("\x03");
    terminal.shows("Cancelled.").await;
    terminal.shows("next one\r\n").await;
    terminal.shows(PROMPT).await;
    terminal.press("\x03");
    terminal.shows("Ctrl+C once more, or Ctrl+D, ends").await;
    terminal.shows(PROMPT).await;
    // Something said in between: it takes two again.
    terminal.press("still here\r");
    terminal.shows("still here\r\nstill here\r\n").await;
    terminal.press("\x03");
    terminal.shows("once more").await;
    terminal.press("\x03");
    assert_eq!(terminal.ends().await.code(), Some(130));
}

#[tokio::test]
async fn what_is_typed_goes_into_a_turn_that_listens() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("listen.mjs");
    let source = "export default { async run(invocation, sender) {
        sender.sendToolUse({ id: 'c1', name: 'look', input: { at: 'x' } });
        const heard = new Promise((done) => invocation.onInput(done));
        sender.sendAssistantMessage(['listening']);
        const more = await heard;
        sender.sendUsage({ inputTokens: 7, outputTokens: 5, costUsd: 0.25 });
        return { type: 'text', text: `heard ${more}` };
    } };";
    std::fs::write(&module, source).unwrap();
    let mut terminal = Terminal::open(&["chat", "--handler", module.to_str().unwrap()]);
    terminal.shows(PROMPT).await;
    terminal.press("go\r");
    terminal.shows("[tool] look {\"at\":\"x\"}").await;
    terminal.shows("listening\r\n").await;
    terminal.press("and more\r");
    terminal.shows("heard and more\r\n").await;
    terminal.shows("[7 tokens in, 5 out, $0.2500]").await;
    terminal.shows(PROMPT).await;
    terminal.press("again\r");
    terminal.shows("listening\r\n").await;
    terminal.press("/quit\r");
    terminal.shows("Cancelled.").await;
    assert_eq!(terminal.ends().await.code(), Some(0));
}
