//! `turnhost chat`: turn after turn with an agent in this terminal.
//!
//! Owns the talk: what a typed line means, before a turn and during one. Who answers is in `here` (an agent in this
//! process) and `there` (a server).

mod here;
mod there;

use super::screen::Screen;
use super::terminal::Paint;
use super::typed::{Line, Lines, Typed, meaning};
use super::{INTERRUPTED, OK, TURN_FAILED, agent};
use crate::config::{ChatFlags, ConfigError};
use crate::engine::Followed;
use crate::model::{Event, Outcome};
use crate::telemetry;
use here::Here;
use std::collections::VecDeque;
use std::sync::Arc;
use there::There;
use tokio::runtime::Runtime;

/// Lines that wait for the running turn's end.
const WAITING: usize = 64;

const HELP: &str = "\
/state   what the agent left for its next turn
/reset   forget it: the next turn is a first one
/quit    leave, as does Ctrl+D
//text   a line that begins with a slash
What you type while a turn runs goes into it, if the agent listens; else it is the next turn. Ctrl+C cancels the turn.";

/// Talks until there is nothing more to say.
pub fn chat(runtime: &Runtime, flags: &ChatFlags) -> Result<u8, ConfigError> {
    let mut config = flags.agent_config()?;
    // What fails is shown as the end of its turn.
    if config.log.filter == "info" {
        "error".clone_into(&mut config.log.filter);
    }
    let server = flags.server(&config)?;
    let token = server.as_ref().and_then(|(_, token)| token.as_ref());
    let _log = telemetry::start(&config.log, agent::own_secrets(&config, token)).map_err(ConfigError)?;
    let system_prompt = agent::system_prompt(&config)?;
    let (json, model) = (flags.json, flags.model.clone());
    let talking = runtime.spawn(async move {
        let other = match server {
            Some((url, token)) => Other::There(Box::new(There::connect(url, token, system_prompt, model).await?)),
            None => Other::Here(Box::new(Here::start(&config, system_prompt, model).await?)),
        };
        let lines = Lines::read().map_err(|error| ConfigError(format!("standard input: {error}")))?;
        let screen = Screen::talk(json);
        let mut talk = Talk { other, lines, screen, paint: Paint::stderr(), waiting: VecDeque::new(), failed: false };
        let code = talk.whole().await;
        talk.other.stop().await;
        Ok(code)
    });
    runtime.block_on(talking).unwrap_or_else(|error| Err(ConfigError(format!("the talk broke off: {error}"))))
}

/// What comes of a turn while it runs.
enum Step {
    /// Entries of its log.
    Entries(Vec<Followed>),
    /// One thing it says.
    Said(Event),
    /// Something about it.
    Aside(String),
    /// Its end.
    Ended(Arc<Outcome>),
}

/// Who is talked to.
enum Other {
    Here(Box<Here>),
    There(Box<There>),
}

impl Other {
    fn name(&self) -> String {
        match self {
            Self::Here(here) => here.name(),
            Self::There(there) => there.name(),
        }
    }

    async fn begin(&mut self, prompt: &str) -> Result<(), String> {
        match self {
            Self::Here(here) => here.begin(prompt).await,
            Self::There(there) => there.begin(prompt).await,
        }
    }

    /// Cancel-safe.
    async fn next(&mut self) -> Step {
        match self {
            Self::Here(here) => here.next().await,
            Self::There(there) => there.next().await,
        }
    }

    fn ended(&mut self, outcome: &Outcome) {
        if let Self::Here(here) = self {
            here.ended(outcome);
        }
    }

    /// Whether the text goes into the running turn.
    async fn steer(&mut self, text: &str) -> bool {
        match self {
            Self::Here(here) => here.steer(text),
            Self::There(there) => there.steer(text).await,
        }
    }

    async fn cancel(&mut self) {
        match self {
            Self::Here(here) => here.cancel(),
            Self::There(there) => there.cancel().await,
        }
    }

    fn state(&self) -> String {
        match self {
            Self::Here(here) => here.state(),
            Self::There(there) => there.state(),
        }
    }

    async fn reset(&mut self) -> Result<(), String> {
        match self {
            Self::Here(here) => {
                here.reset().await;
                Ok(())
            }
            Self::There(there) => there.reset().await,
        }
    }

    async fn stop(self) {
        match self {
            Self::Here(here) => here.stop().await,
            Self::There(there) => there.stop().await,
        }
    }
}

struct Talk {
    other: Other,
    lines: Lines,
    screen: Screen,
    paint: Paint,
    /// Typed during a turn whose agent does not listen.
    waiting: VecDeque<String>,
    failed: bool,
}

impl Talk {
    async fn whole(&mut self) -> u8 {
        if self.lines.by_hand {
            let name = self.other.name();
            self.screen.aside(&format!("{name}: /help tells what you can do, Ctrl+D ends"));
        }
        let mut warned = false;
        loop {
            let line = match self.waiting.pop_front() {
                Some(line) => line,
                None => {
                    self.lines.prompt(self.paint);
                    match self.lines.next().await {
                        Typed::Line(line) => line,
                        Typed::Interrupt if warned || !self.lines.by_hand => return INTERRUPTED,
                        Typed::Interrupt => {
                            warned = true;
                            eprintln!();
                            self.screen.aside("Ctrl+C once more, or Ctrl+D, ends");
                            continue;
                        }
                        Typed::End => {
                            if self.lines.by_hand {
                                eprintln!();
                            }
                            return self.code();
                        }
                    }
                }
            };
            warned = false;
            match meaning(&line) {
                Line::Say(text) => {
                    if let Some(code) = self.turn(text).await {
                        return code;
                    }
                }
                Line::Quit => return self.code(),
                Line::Reset => match self.other.reset().await {
                    Ok(()) => self.screen.aside("forgotten: the next turn is a first one"),
                    Err(problem) => self.trouble(&problem),
                },
                other => self.answer(&other),
            }
        }
    }

    /// Somebody who types has seen what failed; a script is told by the exit code.
    fn code(&self) -> u8 {
        if self.failed && !self.lines.by_hand { TURN_FAILED } else { OK }
    }

    fn trouble(&mut self, problem: &str) {
        self.failed = true;
        eprintln!("{} {problem}", self.paint.red("Failed:"));
    }

    fn answer(&mut self, line: &Line<'_>) {
        match line {
            Line::State => self.screen.aside(&self.other.state()),
            Line::Help => self.screen.aside(HELP),
            Line::Unknown(word) => {
                self.screen.aside(&format!("no such command: {word}; /help lists them, //… says it to the agent"));
            }
            Line::Nothing | Line::Say(_) | Line::Reset | Line::Quit => {}
        }
    }

    /// One turn. An exit code ends the talk.
    async fn turn(&mut self, prompt: &str) -> Option<u8> {
        if let Err(problem) = self.other.begin(prompt).await {
            self.trouble(&problem);
            return None;
        }
        let mut interrupts = 0_u32;
        let mut leaving = None;
        let outcome = loop {
            tokio::select! {
                step = self.other.next() => match step {
                    Step::Entries(batch) => {
                        if let Some(outcome) = self.screen.show(batch) {
                            break outcome;
                        }
                    }
                    Step::Said(event) => self.screen.event(&event),
                    Step::Aside(text) => self.screen.aside(&text),
                    Step::Ended(outcome) => break outcome,
                },
                typed = self.lines.meanwhile() => match typed {
                    Typed::Line(line) => {
                        if self.typed_meanwhile(&line).await {
                            leaving = Some(OK);
                            self.other.cancel().await;
                        }
                    }
                    Typed::Interrupt => {
                        interrupts += 1;
                        if interrupts > 1 {
                            std::process::exit(i32::from(INTERRUPTED));
                        }
                        if !self.lines.by_hand {
                            leaving = Some(INTERRUPTED);
                        }
                        self.other.cancel().await;
                    }
                    // The turn comes to its end; then the talk does.
                    Typed::End => {}
                },
            }
        };
        self.other.ended(&outcome);
        self.failed |= self.screen.end(&outcome) == TURN_FAILED;
        leaving
    }

    /// Whether the talk is to end.
    async fn typed_meanwhile(&mut self, line: &str) -> bool {
        match meaning(line) {
            Line::Quit => return true,
            Line::Say(text) => {
                if !self.other.steer(text).await {
                    self.wait_with(line);
                }
            }
            Line::Reset => self.wait_with(line),
            other => self.answer(&other),
        }
        false
    }

    fn wait_with(&mut self, line: &str) {
        if self.waiting.len() == WAITING {
            self.screen.aside("too much waits already: this line is dropped");
            return;
        }
        self.waiting.push_back(line.to_owned());
        self.screen.aside("[after this turn]");
    }
}
