//! A turn's shell commands: what they say goes out redacted, and their end becomes a part of the answer.
//!
//! Owns what is kept of a command's output. Running a command is `process`'s business.

use super::funnel::Funnel;
use super::work::Doing;
use crate::handler::traced;
use crate::model::{Command, CommandEnd, CutBy, Event, Fault, FaultCode, OutputStream};
use crate::process::{ShellCommand, ShellCut, ShellEnd, ShellOutput, ShellStream, Tail, run_shell};
use crate::redact::Stream;
use std::sync::Arc;

/// Runs one command to its end. Its answer holds at most `room` bytes of its standard output.
///
/// # Errors
/// A fault when it could not be run, or was stopped: how it ended is then nobody's answer.
pub(super) async fn run(doing: &Doing<'_>, command: &Command, room: usize) -> Result<CommandEnd, Fault> {
    let (engine, record, funnel) = (doing.engine, doing.record, doing.funnel);
    let options = &engine.options.work;
    let env = traced(options.environment.clone(), &doing.request);
    let env = command.env.iter().fold(env, |env, (name, value)| env.with(name, value.expose()));
    let shell = ShellCommand {
        command: command.command.to_string(),
        cwd: command.cwd.clone().filter(|cwd| !cwd.as_os_str().is_empty()),
        env,
        timeout: command.timeout,
        grace: engine.options.stop_grace,
        pipes_quiet: options.pipes_quiet,
    };
    // A command that runs is a sign of life, also when it says nothing for hours.
    let _busy = funnel.busy();
    let stop = async { engine.stop_grace(record.stop.pulled().await) };
    let mut collector = Collector::new(funnel, command, room);
    let shown = collector.command.clone();
    tracing::info!(turn = %record.id, command = %shown, "command started");
    let ended = run_shell(shell, &engine.tasks, stop, &mut collector).await;
    let ended = ended.map_err(|error| unavailable(funnel, &shown, &error.to_string()))?;
    tracing::info!(turn = %record.id, exit_code = ended.exit_code, took = ?ended.took, cut = ?ended.cut, "command ended");
    if ended.cut == Some(ShellCut::Stopped) {
        return Err(Fault::new(FaultCode::CommandFailed, "the command was stopped"));
    }
    Ok(collector.end(&ended))
}

fn unavailable(funnel: &Funnel, command: &str, why: &str) -> Fault {
    let why = funnel.redactor().text(why);
    let shown: String = command.chars().take(200).collect();
    Fault::new(FaultCode::CommandUnavailable, format!("command \"{shown}\": {why}"))
}

/// One of the two streams of a command.
struct Said {
    redaction: Stream,
    tail: Tail,
}

/// Takes what a command says.
struct Collector<'a> {
    funnel: &'a Arc<Funnel>,
    /// As it may be shown.
    command: Arc<str>,
    silent: bool,
    stdout: Said,
    stderr: Said,
    /// The beginning of its standard output.
    kept: String,
    room: usize,
    is_cut: bool,
}

impl<'a> Collector<'a> {
    fn new(funnel: &'a Arc<Funnel>, command: &Command, room: usize) -> Self {
        let redactor = funnel.redactor();
        let said = || Said { redaction: redactor.stream(), tail: Tail::default() };
        let shown = match redactor.text(&command.command) {
            std::borrow::Cow::Borrowed(_) => command.command.clone(),
            std::borrow::Cow::Owned(clean) => clean.into(),
        };
        Self {
            funnel,
            command: shown,
            silent: command.silent,
            stdout: said(),
            stderr: said(),
            kept: String::new(),
            room,
            is_cut: false,
        }
    }

    /// Keeps what the answer needs of a clean text, and gives back the event it is.
    fn keep(&mut self, stream: ShellStream, text: String) -> Option<Event> {
        if text.is_empty() {
            return None;
        }
        let stream = match stream {
            ShellStream::Stdout => {
                self.stdout.tail.push(text.as_bytes());
                let fits = text.floor_char_boundary(self.room.saturating_sub(self.kept.len()));
                let fits = if self.is_cut { 0 } else { fits };
                self.kept.push_str(&text[..fits]);
                self.is_cut |= fits < text.len();
                OutputStream::Stdout
            }
            ShellStream::Stderr => {
                self.stderr.tail.push(text.as_bytes());
                OutputStream::Stderr
            }
        };
        (!self.silent).then(|| Event::CommandOutput { stream, text, command: self.command.clone() })
    }

    /// Says what was held back of both streams, and makes the command's end.
    fn end(mut self, ended: &ShellEnd) -> CommandEnd {
        let nothing = || self.funnel.redactor().stream();
        let rests = [
            (ShellStream::Stdout, std::mem::replace(&mut self.stdout.redaction, nothing())),
            (ShellStream::Stderr, std::mem::replace(&mut self.stderr.redaction, nothing())),
        ];
        for (stream, redaction) in rests {
            if let Some(event) = self.keep(stream, redaction.finish()) {
                let _ = self.funnel.take_clean(event);
            }
        }
        CommandEnd {
            command: self.command,
            exit_code: ended.exit_code,
            cut: match ended.cut {
                Some(ShellCut::Signal(signal)) => Some(CutBy::Signal(signal)),
                Some(ShellCut::Timeout) => Some(CutBy::Timeout),
                Some(ShellCut::Stopped) | None => None,
            },
            took: ended.took,
            stdout: self.kept,
            stdout_bytes: ended.stdout_bytes,
            stdout_cut: self.is_cut,
            stdout_tail: self.stdout.tail.text(),
            stderr_tail: self.stderr.tail.text(),
        }
    }
}

impl ShellOutput for Collector<'_> {
    async fn take(&mut self, stream: ShellStream, text: String) {
        let clean = if self.funnel.redactor().is_empty() {
            text
        } else {
            let said = match stream {
                ShellStream::Stdout => &mut self.stdout,
                ShellStream::Stderr => &mut self.stderr,
            };
            said.redaction.pass(text)
        };
        let Some(event) = self.keep(stream, clean) else { return };
        self.funnel.say_clean(event).await;
    }
}
