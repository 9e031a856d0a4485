//! `turnhost mock dari|runtimeuse`: plays a host against a running server, with faults if asked to.
//!
//! Owns the play: line after line a turn, and what it came to. What a host says on its wire is in `dari` and
//! `runtimeuse`; which fault when is in `chaos`.

mod chaos;
mod dari;
mod runtimeuse;

use super::terminal::Paint;
use super::typed::{Line, Lines, Typed, meaning};
use super::{DIFFERED, INTERRUPTED, OK};
use crate::config::{Chaos, ConfigError, Host, MockFlags};
use crate::redact::{Redactor, Secret};
use crate::telemetry::traces::TracesConfig;
use crate::telemetry::{self, LogConfig};
use chaos::Fate;
use serde_json::Value;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the server may take to be there.
const START: Duration = Duration::from_secs(3);
/// Problems told in full; the rest is counted.
const TOLD: u64 = 20;

/// Plays until there are no more lines.
pub fn mock(runtime: &Runtime, flags: &MockFlags) -> Result<u8, ConfigError> {
    let log = LogConfig { filter: "error".to_owned(), json: false, traces: TracesConfig::Off };
    let _log = telemetry::start(&log, Redactor::default()).map_err(ConfigError)?;
    let (host, chaos) = (flags.host()?, flags.chaos()?);
    let wire = Wire { shown: flags.wire, paint: Paint::stderr() };
    let rules = Rules { tries: flags.tries, limit: flags.limit()?, token: flags.token()?, wire };
    let (session, expect_echo) = (flags.session(), flags.expect_echo);
    let playing = runtime.spawn(async move {
        let player = match host {
            Host::Dari(url) => Player::Dari(Box::new(dari::Platform::new(url, session, rules).await?)),
            Host::RuntimeUse(url) => Player::RuntimeUse(Box::new(runtimeuse::Client::new(url, session, rules).await?)),
        };
        let lines = Lines::read().map_err(|error| ConfigError(format!("standard input: {error}")))?;
        Ok(Play { player, lines, chaos, expect_echo, paint: Paint::stderr(), tally: Tally::default() }.whole().await)
    });
    runtime.block_on(playing).unwrap_or_else(|error| Err(ConfigError(format!("the play broke off: {error}"))))
}

/// What both hosts keep to.
struct Rules {
    /// How often a turn is asked before it counts as lost.
    tries: u32,
    /// How long one answer may take.
    limit: Duration,
    token: Option<Secret>,
    wire: Wire,
}

/// What goes over the wire, for whoever wants to see it.
#[derive(Clone, Copy)]
struct Wire {
    shown: bool,
    paint: Paint,
}

impl Wire {
    fn sent(self, text: &str) {
        self.show("→", text);
    }

    fn got(self, text: &str) {
        self.show("←", text);
    }

    fn show(self, arrow: &str, text: &str) {
        if self.shown {
            eprintln!("{} {text}", self.paint.dim(arrow));
        }
    }
}

/// Who plays.
enum Player {
    Dari(Box<dari::Platform>),
    RuntimeUse(Box<runtimeuse::Client>),
}

/// What was seen of one turn, asked as often as its fate wanted.
#[derive(Default)]
struct Seen {
    /// Every answer that was read, as it came.
    answers: Vec<String>,
    /// Asked again because there was no answer.
    retries: u64,
    /// Connections that were dropped.
    dropped: u64,
    /// Asked while, or after, it was answered.
    copies: u64,
    /// Why the last try had no answer.
    problem: String,
}

impl Player {
    async fn turn(&self, n: u64, prompt: &str, fate: &Fate) -> Seen {
        match self {
            Self::Dari(platform) => platform.turn(n, prompt, fate).await,
            Self::RuntimeUse(client) => client.turn(n, prompt, fate).await,
        }
    }

    /// What an answer says, and what it leaves behind.
    fn take(&mut self, answer: &str) -> Result<String, String> {
        match self {
            Self::Dari(platform) => platform.take(answer),
            Self::RuntimeUse(_) => runtimeuse::text_of(answer),
        }
    }

    fn state(&self) -> Option<&str> {
        match self {
            Self::Dari(platform) => platform.state(),
            Self::RuntimeUse(_) => None,
        }
    }
}

/// What it all came to.
#[derive(Default)]
struct Tally {
    turns: u64,
    answered: u64,
    retries: u64,
    dropped: u64,
    copies: u64,
    slow: u64,
    identical: u64,
    lost: u64,
    repeated: u64,
    differed: u64,
}

impl Tally {
    fn is_clean(&self) -> bool {
        self.lost + self.repeated + self.differed == 0
    }

    fn told(&self) -> String {
        format!(
            "turns {}, answered {}, dropped connections {}, retries {}, copies {}, read late {}, identical answers {}, \
             lost {}, repeated {}, not as expected {}",
            self.turns,
            self.answered,
            self.dropped,
            self.retries,
            self.copies,
            self.slow,
            self.identical,
            self.lost,
            self.repeated,
            self.differed
        )
    }
}

struct Play {
    player: Player,
    lines: Lines,
    chaos: Chaos,
    expect_echo: bool,
    paint: Paint,
    tally: Tally,
}

impl Play {
    async fn whole(&mut self) -> u8 {
        let code = loop {
            self.lines.prompt(self.paint);
            let line = match self.lines.next().await {
                Typed::Line(line) => line,
                Typed::Interrupt => break INTERRUPTED,
                Typed::End => break OK,
            };
            let prompt = match meaning(&line) {
                Line::Nothing => continue,
                Line::Quit => break OK,
                Line::State => {
                    eprintln!("{}", self.player.state().unwrap_or("no state"));
                    continue;
                }
                Line::Help | Line::Reset | Line::Unknown(_) => {
                    eprintln!("{}", self.paint.dim("a line is a turn; /state, /quit; // begins a line with a slash"));
                    continue;
                }
                Line::Say(text) => text.to_owned(),
            };
            self.tally.turns += 1;
            let n = self.tally.turns;
            let fate = Fate::of(&self.chaos, n);
            let seen = tokio::select! {
                seen = self.player.turn(n, &prompt, &fate) => seen,
                () = async { while !matches!(self.lines.meanwhile().await, Typed::Interrupt) {} } => {
                    self.tally.turns -= 1;
                    eprintln!("{}", self.paint.dim("left; a server that keeps the contract runs the turn to its end"));
                    if self.lines.by_hand {
                        continue;
                    }
                    break INTERRUPTED;
                }
            };
            self.judge(n, &prompt, &fate, seen);
        };
        println!("{}", self.tally.told());
        if code == OK && !self.tally.is_clean() { DIFFERED } else { code }
    }

    fn judge(&mut self, n: u64, prompt: &str, fate: &Fate, seen: Seen) {
        let tally = &mut self.tally;
        tally.retries += seen.retries;
        tally.dropped += seen.dropped;
        tally.copies += seen.copies;
        tally.slow += u64::from(fate.slow.is_some());
        let Some(first) = seen.answers.first() else {
            tally.lost += 1;
            return self.tell(tally_of(&self.tally), &format!("turn {n} is lost: {}", seen.problem));
        };
        tally.answered += 1;
        let others = seen.answers.len() - 1;
        match seen.answers.iter().find(|answer| *answer != first) {
            None => tally.identical += u64::try_from(others).unwrap_or(u64::MAX),
            Some(other) => {
                tally.repeated += 1;
                let text = format!(
                    "turn {n} was run more than once: asked again, its answer was {}, not {}",
                    short(other),
                    short(first)
                );
                self.tell(tally_of(&self.tally), &text);
            }
        }
        match self.player.take(first) {
            Err(problem) => {
                self.tally.differed += 1;
                self.tell(tally_of(&self.tally), &format!("turn {n}: {problem}"));
            }
            Ok(text) => {
                println!("{text}");
                if self.expect_echo
                    && let Some(problem) = self.not_an_echo(n, prompt, &text)
                {
                    self.tally.differed += 1;
                    self.tell(tally_of(&self.tally), &format!("turn {n}: {problem}"));
                }
            }
        }
    }

    /// What is wrong with the answer of an agent that tells the prompt back and counts its turns.
    fn not_an_echo(&self, n: u64, prompt: &str, text: &str) -> Option<String> {
        if text != prompt {
            return Some(format!("the answer to {} was {}", short(prompt), short(text)));
        }
        let state: Value = serde_json::from_str(self.player.state()?).ok()?;
        let count = state.get("turn").or(state.get("turns"))?.as_u64()?;
        (count != n).then(|| format!("the agent has counted {count} turns"))
    }

    fn tell(&self, problems: u64, text: &str) {
        if problems <= TOLD {
            eprintln!("{} {text}", self.paint.red("DIFFERS"));
        }
    }
}

fn tally_of(tally: &Tally) -> u64 {
    tally.lost + tally.repeated + tally.differed
}

fn short(text: &str) -> String {
    const LONGEST: usize = 200;
    if text.len() <= LONGEST { text.to_owned() } else { format!("{}…", &text[..text.floor_char_boundary(LONGEST)]) }
}
