//! What is typed, or piped in, line by line.
//!
//! Owns standard input, the prompt, and Ctrl+C. The terminal stays in its own line mode: it edits the line, and what a
//! turn says can be printed while the next line is being typed.

use super::terminal::Paint;
use std::io::{BufRead, IsTerminal, Read, Write};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// A longer line is an error of whoever pipes it in.
const LINE: u64 = 16 << 20;

/// What came.
#[derive(Debug)]
pub enum Typed {
    /// A line, without its end.
    Line(String),
    /// Ctrl+C.
    Interrupt,
    /// There is no more.
    End,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    Nothing,
    Say(&'a str),
    State,
    Reset,
    Quit,
    Help,
    Unknown(&'a str),
}

/// What a line means. `//` is a slash of its own.
pub fn meaning(line: &str) -> Line<'_> {
    let trimmed = line.trim();
    match trimmed {
        "" => Line::Nothing,
        "/state" => Line::State,
        "/reset" => Line::Reset,
        "/quit" | "/exit" => Line::Quit,
        "/help" => Line::Help,
        _ => match trimmed.strip_prefix('/') {
            Some(rest) if rest.starts_with('/') => Line::Say(rest),
            Some(_) => Line::Unknown(trimmed.split_whitespace().next().unwrap_or(trimmed)),
            None => Line::Say(line),
        },
    }
}

/// Standard input, read by a thread of its own: a read of a terminal cannot be taken back.
pub struct Lines {
    lines: mpsc::Receiver<String>,
    interrupts: Signal,
    ended: bool,
    /// Whether a person types.
    pub by_hand: bool,
}

impl Lines {
    /// Begins to read. One at a time: a process has one standard input.
    ///
    /// # Errors
    /// When the system gives no thread, or no signals.
    pub fn read() -> std::io::Result<Self> {
        // One line ahead, so that what is piped in waits in its pipe.
        let (sender, lines) = mpsc::channel(1);
        std::thread::Builder::new().name("typed".to_owned()).spawn(move || pass_on(&sender))?;
        let interrupts = signal(SignalKind::interrupt())?;
        Ok(Self { lines, interrupts, ended: false, by_hand: std::io::stdin().is_terminal() })
    }

    /// Asks for a line, if somebody is there to be asked.
    pub fn prompt(&self, paint: Paint) {
        if self.by_hand {
            eprint!("{}", paint.bold("> "));
            let _ = std::io::stderr().flush();
        }
    }

    /// What comes next. Cancel-safe. `End` comes again at each call once it has come.
    pub async fn next(&mut self) -> Typed {
        if self.ended {
            return Typed::End;
        }
        tokio::select! {
            line = self.lines.recv() => match line {
                Some(line) => Typed::Line(line),
                None => {
                    self.ended = true;
                    Typed::End
                }
            },
            _ = self.interrupts.recv() => Typed::Interrupt,
        }
    }

    /// What comes while a turn runs: Ctrl+C, and lines only from somebody who types them. Cancel-safe.
    pub async fn meanwhile(&mut self) -> Typed {
        if self.by_hand && !self.ended {
            return self.next().await;
        }
        let _ = self.interrupts.recv().await;
        Typed::Interrupt
    }
}

fn pass_on(lines: &mpsc::Sender<String>) {
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        match input.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.strip_suffix('\n').unwrap_or(&line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if lines.blocking_send(line.to_owned()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lines_mean() {
        for (line, means) in [
            ("", Line::Nothing),
            ("  \t", Line::Nothing),
            (" hello ", Line::Say(" hello ")),
            ("/state", Line::State),
            (" /reset ", Line::Reset),
            ("/quit", Line::Quit),
            ("/exit", Line::Quit),
            ("/help", Line::Help),
            ("/help me", Line::Unknown("/help")),
            ("/States", Line::Unknown("/States")),
            ("//etc/hosts", Line::Say("/etc/hosts")),
            ("a /quit", Line::Say("a /quit")),
        ] {
            assert_eq!(meaning(line), means, "{line:?}");
        }
    }
}
