//! What the user does: lines of standard input, and signals.
//!
//! Owns their meaning. The terminal stays as it is, so that its own line editing works; Ctrl+C comes as a signal.

use rustix::termios::tcgetwinsize;
use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The longest line that is sent.
pub const LINE: usize = 8 << 20;
/// Lines that wait for a connection.
const WAITING: usize = 16;
/// A process that is to detach is gone after this long, whatever holds it up.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A line, by what it asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A message to the agent.
    Line(String),
    /// `/steer TEXT`
    Steer(String),
    /// `/steer` without a text.
    SteerAlone,
    /// `/interrupt`
    Interrupt,
    /// Blank.
    Nothing,
    /// Longer than [`LINE`].
    TooLong,
}

/// A signal that does not end us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl+C, the first.
    Interrupt,
    /// The terminal has another size.
    Resized,
}

/// Both.
pub struct Keyboard {
    /// Ends with standard input.
    pub lines: mpsc::Receiver<Typed>,
    pub signals: mpsc::Receiver<Signal>,
    interrupts: Arc<AtomicU32>,
    is_connected: Arc<AtomicBool>,
}

impl Keyboard {
    /// Starts reading. The token fires when the user wants to go.
    pub fn start() -> std::io::Result<(Self, CancellationToken)> {
        let (line, lines) = mpsc::channel(WAITING);
        std::thread::Builder::new().name("attach-stdin".to_owned()).spawn(move || read(&line))?;
        let (heard, signals) = mpsc::channel(WAITING);
        let detach = CancellationToken::new();
        let keyboard = Self { lines, signals, interrupts: Arc::default(), is_connected: Arc::default() };
        let listening = Listening {
            heard,
            interrupts: keyboard.interrupts.clone(),
            is_connected: keyboard.is_connected.clone(),
            detach: detach.clone(),
        };
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let resized = signal(SignalKind::window_change())?;
        tokio::spawn(listening.listen(interrupt, terminate, resized));
        Ok((keyboard, detach))
    }

    /// Whether there is somebody to send an interrupt to; if not, Ctrl+C detaches.
    pub fn connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Relaxed);
    }

    /// Whether the user has just pressed Ctrl+C again.
    pub fn was_interrupted_twice(&self) -> bool {
        self.interrupts.load(Ordering::Relaxed) > 1
    }

    /// The user goes on: the next Ctrl+C is a first one again.
    pub fn forget_interrupt(&self) {
        self.interrupts.store(0, Ordering::Relaxed);
    }
}

struct Listening {
    heard: mpsc::Sender<Signal>,
    interrupts: Arc<AtomicU32>,
    is_connected: Arc<AtomicBool>,
    detach: CancellationToken,
}

impl Listening {
    async fn listen(self, mut interrupt: Signals, mut terminate: Signals, mut resized: Signals) {
        loop {
            tokio::select! {
                _ = terminate.recv() => return self.detach().await,
                _ = interrupt.recv() => {
                    let before = self.interrupts.fetch_add(1, Ordering::Relaxed);
                    if before > 0 || !self.is_connected.load(Ordering::Relaxed) {
                        return self.detach().await;
                    }
                    let _ = self.heard.try_send(Signal::Interrupt);
                }
                // One that finds no place is followed by those that wait: the size is looked up when they are read.
                _ = resized.recv() => { let _ = self.heard.try_send(Signal::Resized); }
            }
        }
    }

    async fn detach(self) {
        self.detach.cancel();
        tokio::time::sleep(AT_ONCE).await;
        std::process::exit(0);
    }
}

/// Columns and rows of the terminal, if there is one.
pub fn size() -> Option<(u16, u16)> {
    let sizes = [tcgetwinsize(std::io::stdout()), tcgetwinsize(std::io::stdin()), tcgetwinsize(std::io::stderr())];
    let size = sizes.into_iter().find_map(Result::ok)?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Reads standard input to its end, in a thread that nobody waits for: a read of a terminal cannot be broken off.
fn read(lines: &mpsc::Sender<Typed>) {
    let mut stdin = std::io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        match stdin.by_ref().take(LINE as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let mut is_too_long = false;
        while line.len() > LINE && line.last() != Some(&b'\n') {
            is_too_long = true;
            line.clear();
            match stdin.by_ref().take(LINE as u64 + 1).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let typed = if is_too_long { Typed::TooLong } else { meaning(&String::from_utf8_lossy(&line)) };
        if lines.blocking_send(typed).is_err() {
            return;
        }
    }
}

fn meaning(line: &str) -> Typed {
    let line = line.trim_end_matches(['\n', '\r']);
    if line.trim().is_empty() {
        return Typed::Nothing;
    }
    if line.trim() == "/interrupt" {
        return Typed::Interrupt;
    }
    match line.strip_prefix("/steer") {
        Some(text) if text.trim().is_empty() => Typed::SteerAlone,
        Some(text) if text.starts_with(char::is_whitespace) => Typed::Steer(text.trim().to_owned()),
        _ => Typed::Line(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lines_mean() {
        let line = |text: &str| Typed::Line(text.to_owned());
        let steer = |text: &str| Typed::Steer(text.to_owned());
        for (text, expected) in [
            ("hello\n", line("hello")),
            ("  indented\r\n", line("  indented")),
            ("no end", line("no end")),
            ("/steer left\n", steer("left")),
            ("/steer\tleft  \n", steer("left")),
            ("/steer\n", Typed::SteerAlone),
            ("/steer  \n", Typed::SteerAlone),
            ("/steering wheel\n", line("/steering wheel")),
            (" /steer x\n", line(" /steer x")),
            ("/interrupt\n", Typed::Interrupt),
            ("/interrupt now\n", line("/interrupt now")),
            ("\n", Typed::Nothing),
            (" \t\n", Typed::Nothing),
        ] {
            assert_eq!(meaning(text), expected, "{text:?}");
        }
    }
}
