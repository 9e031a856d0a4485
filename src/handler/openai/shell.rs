//! The model's shell: its commands run here, within limits of time and output.
//!
//! Owns what a command is given and what is kept of what it says. Running it is `process`'s business.

use super::OpenAiOptions;
use crate::handler::Cancel;
use crate::process::{Environment, ShellCommand, ShellCut, ShellOutput, ShellStream, Tail, run_shell};
use crate::wire::openai::{CommandOutcome, CommandOutput};
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Where commands run, and with what.
pub struct Shell<'a> {
    pub options: &'a OpenAiOptions,
    pub env: Environment,
    pub cwd: PathBuf,
    pub tasks: &'a TaskTracker,
    pub cancel: &'a Cancel,
}

/// What one command came to.
pub struct Ran {
    pub output: CommandOutput,
    /// `None` where it did not end by itself.
    pub exit_code: Option<i32>,
}

impl Shell<'_> {
    /// Runs one command. `None` when the turn was cancelled; its tree is gone then.
    pub async fn run(&self, command: &str, timeout: Option<Duration>, most: Option<u64>) -> Option<Ran> {
        let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX).min(self.options.output_cap);
        let mut kept = Kept { stdout: Ends::new(most), stderr: Ends::new(most) };
        let shell = ShellCommand {
            command: command.to_owned(),
            cwd: Some(self.cwd.clone()),
            env: self.env.clone(),
            timeout: Some(timeout.unwrap_or(self.options.shell_timeout).min(self.options.shell_timeout_most)),
            grace: self.options.stop_grace,
            pipes_quiet: Some(Duration::from_secs(5)),
        };
        let stop = async {
            self.cancel.fired().await;
            self.options.stop_grace
        };
        let (outcome, exit_code) = match run_shell(shell, self.tasks, stop, &mut kept).await {
            Ok(ended) => match ended.cut {
                Some(ShellCut::Stopped) => return None,
                Some(ShellCut::Timeout) => (CommandOutcome::Timeout, None),
                // As a shell tells it of its own children.
                Some(ShellCut::Signal(signal)) => (CommandOutcome::Exit { exit_code: 128 + signal }, None),
                None => (CommandOutcome::Exit { exit_code: ended.exit_code }, Some(ended.exit_code)),
            },
            Err(error) => {
                kept.stderr.add(&error.to_string());
                (CommandOutcome::Exit { exit_code: error.exit_code() }, Some(error.exit_code()))
            }
        };
        let output = CommandOutput { stdout: kept.stdout.text(), stderr: kept.stderr.text(), outcome };
        Some(Ran { output, exit_code })
    }
}

struct Kept {
    stdout: Ends,
    stderr: Ends,
}

impl ShellOutput for Kept {
    async fn take(&mut self, stream: ShellStream, text: String) {
        match stream {
            ShellStream::Stdout => self.stdout.add(&text),
            ShellStream::Stderr => self.stderr.add(&text),
        }
    }
}

/// The beginning and the end of a text, half of the room each.
struct Ends {
    head: String,
    tail: Tail,
    room: usize,
}

impl Ends {
    fn new(most: usize) -> Self {
        Self { head: String::new(), tail: Tail::new(most - most / 2), room: most / 2 }
    }

    fn add(&mut self, text: &str) {
        let fits = if self.tail.total() > 0 { 0 } else { text.floor_char_boundary(self.room - self.head.len()) };
        self.head.push_str(&text[..fits]);
        self.tail.push(&text.as_bytes()[fits..]);
    }

    fn text(&self) -> String {
        if !self.tail.is_cut() {
            return self.head.clone() + &self.tail.text();
        }
        let tail = self.tail.text();
        let left_out = self.tail.total().saturating_sub(tail.len() as u64);
        format!("{}\n[{left_out} bytes left out]\n{tail}", self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_both_ends() {
        let mut ends = Ends::new(10);
        ends.add("abcdefghij");
        assert_eq!(ends.text(), "abcdefghij");
        ends.add("klm");
        assert_eq!(ends.text(), "abcde\n[3 bytes left out]\nijklm");
        let mut one = Ends::new(10);
        for c in "0123456789abcdef".chars() {
            one.add(&c.to_string());
        }
        assert_eq!(one.text(), "01234\n[6 bytes left out]\nbcdef");
    }
}
