//! The stdio protocol of `handlers/README.md`, as the server speaks it with a handler.
//!
//! Owns the list of its checks and their order. `talk` is the process and its lines.

mod talk;

use super::{Check, Report};
use crate::process::Launch;
use std::fmt;
use std::time::Duration;
use talk::{Said, Talk};

const READY: Check = Check { name: "handler-ready", expected: "`hello` is answered with `ready`" };
const FIRST_TURN: Check =
    Check { name: "handler-first-turn", expected: "a turn ends with one `result` of its id, a text or an output" };
const STATE: Check = Check { name: "handler-state", expected: "a turn with the state that was left is answered" };
const ODD_STATE: Check =
    Check { name: "handler-odd-state", expected: "a state that is not its own does not end the handler" };
const TEXT: Check = Check { name: "handler-text", expected: "line breaks, quotes and emoji in a prompt are only text" };
const BIG_PROMPT: Check = Check { name: "handler-big-prompt", expected: "a prompt of 1 MB is a turn" };
const UNKNOWN_KEYS: Check =
    Check { name: "handler-unknown-keys", expected: "keys and lines of later versions are ignored" };
const BAD_LINE: Check = Check { name: "handler-bad-line", expected: "a line that is no JSON is not the end" };
const STRAY_CANCEL: Check =
    Check { name: "handler-stray-cancel", expected: "a cancel of a turn that is over is ignored" };
const CANCEL: Check = Check { name: "handler-cancel", expected: "a cancelled turn ends once, within 2 s" };
const INPUT: Check = Check { name: "handler-input", expected: "what is said meanwhile does not end the handler" };
const TWO_TURNS: Check = Check { name: "handler-two-turns", expected: "two turns at a time end under their own ids" };
const PING: Check = Check { name: "handler-ping", expected: "a ping is answered with its number within 250 ms" };
const LINES: Check =
    Check { name: "handler-lines", expected: "every line has a form of the protocol and names a turn that runs" };
const ONE_END: Check = Check { name: "handler-one-end", expected: "no turn ends twice, and nothing follows its end" };
const END: Check = Check { name: "handler-end", expected: "the handler ends within 5 s of its input" };

/// All of them, in the order in which they are made.
pub const CHECKS: &[Check] = &[
    READY,
    FIRST_TURN,
    STATE,
    ODD_STATE,
    TEXT,
    BIG_PROMPT,
    UNKNOWN_KEYS,
    BAD_LINE,
    STRAY_CANCEL,
    CANCEL,
    INPUT,
    TWO_TURNS,
    PING,
    LINES,
    ONE_END,
    END,
];

/// How long after a cancel a turn may go on.
const CANCEL_WITHIN: Duration = Duration::from_secs(2);
/// A handler that is slower is not given new turns.
const PONG_WITHIN: Duration = Duration::from_millis(250);
/// Of so many pings one has to be answered in time: the machine may be busy.
const PINGS: u64 = 5;
/// How long after the end of its input a handler may run.
const END_WITHIN: Duration = Duration::from_secs(5);

/// A handler, as it is started.
pub struct Target {
    /// The program. With a channel it speaks there, and what is in `source` is its standard input.
    pub launch: Launch,
    /// The program text that an interpreter is to read.
    pub source: Option<&'static str>,
    /// What is asked.
    pub prompt: String,
    /// How long it may take to be ready.
    pub ready_within: Duration,
    /// How long a turn may take.
    pub turn_within: Duration,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("launch", &self.launch).finish_non_exhaustive()
    }
}

/// Makes all checks, and leaves out those that the handler does not promise.
pub async fn drive(report: &mut Report, target: &Target) {
    let talk = match Talk::start(target).await {
        Ok(talk) => talk,
        Err(problem) => {
            report.check(&READY, async { Err(problem) }).await;
            report.skip_rest(CHECKS, "the handler cannot be started");
            return;
        }
    };
    let mut stage = Stage { report, talk };
    stage.all(target).await;
}

struct Stage<'a> {
    report: &'a mut Report,
    talk: Talk,
}

impl Stage<'_> {
    async fn all(&mut self, target: &Target) {
        if !self.report.check(&READY, self.talk.ready(target.ready_within)).await {
            self.report.skip_rest(CHECKS, "the handler is not ready");
            return;
        }
        if !self.report.check(&FIRST_TURN, first(&mut self.talk, &target.prompt)).await {
            self.report.skip_rest(CHECKS, "the first turn has no answer");
            return;
        }
        let prompt = &target.prompt;
        self.turn(&STATE, prompt, "").await;
        self.odd_state(prompt).await;
        self.turn(&TEXT, &format!("{prompt}\n\"quoted\" \\ \u{1F642} Grüße\t{{}}"), "").await;
        self.turn(&BIG_PROMPT, &format!("{prompt} {}", "x".repeat(1_000_000)), "").await;
        if self.alive(&UNKNOWN_KEYS) {
            self.talk.send(r#"{"type":"a line of a later version","n":[1]}"#);
            self.turn(&UNKNOWN_KEYS, prompt, r#","a_key_of_a_later_version":{"x":[1,null]}"#).await;
        }
        if self.alive(&BAD_LINE) {
            self.talk.send("this is no JSON");
            self.talk.send("{\"type\":\"turn\",");
            self.turn(&BAD_LINE, prompt, "").await;
        }
        if self.alive(&STRAY_CANCEL) {
            self.talk.send(r#"{"type":"cancel","id":"no-such-turn"}"#);
            self.turn(&STRAY_CANCEL, prompt, "").await;
        }
        self.promised(prompt).await;
        self.at_the_end().await;
    }

    /// Whether the handler still runs; if not, the check is left out.
    fn alive(&mut self, check: &Check) -> bool {
        let ended = self.talk.ended();
        if let Some(end) = &ended {
            self.report.skip(check, &format!("the handler has ended {end}"));
        }
        ended.is_none()
    }

    /// A turn has to be answered, whatever the answer is.
    async fn turn(&mut self, check: &Check, prompt: &str, more: &str) {
        if self.alive(check) {
            let talk = &mut self.talk;
            let work = async {
                let id = talk.turn(prompt, more);
                talk.end_of(&id).await.map(|said| said.in_words())
            };
            self.report.check(check, work).await;
        }
    }

    async fn odd_state(&mut self, prompt: &str) {
        if !self.alive(&ODD_STATE) {
            return;
        }
        let talk = &mut self.talk;
        let work = async {
            let own = talk.state.take();
            for state in [r#""a text""#, "[1,[2]]", r#"{"v":99,"somebody":"else"}"#] {
                talk.state = Some(state.to_owned());
                let id = talk.turn(prompt, "");
                talk.end_of(&id).await.map_err(|problem| format!("with the state {state}: {problem}"))?;
            }
            talk.state = own;
            Ok("a text, a list, an object".to_owned())
        };
        self.report.check(&ODD_STATE, work).await;
    }

    /// What only some handlers promise.
    async fn promised(&mut self, prompt: &str) {
        let lacks = |word: &str| format!("the handler does not name `{word}` in `ready`");
        if !self.talk.can("cancel") {
            self.report.skip(&CANCEL, &lacks("cancel"));
        } else if self.alive(&CANCEL) {
            let talk = &mut self.talk;
            let work = async {
                let id = talk.turn(prompt, "");
                talk.send(&format!(r#"{{"type":"cancel","id":"{id}"}}"#));
                let ended = tokio::time::timeout(CANCEL_WITHIN, talk.end_of(&id)).await;
                ended.map_err(|_| format!("no end within {CANCEL_WITHIN:?}"))?.map(|said| said.in_words())
            };
            self.report.check(&CANCEL, work).await;
        }
        if !self.talk.can("steer") {
            self.report.skip(&INPUT, &lacks("steer"));
        } else if self.alive(&INPUT) {
            let talk = &mut self.talk;
            let work = async {
                let id = talk.turn(prompt, "");
                talk.send(&format!(r#"{{"type":"input","id":"{id}","text":"and more"}}"#));
                let said = talk.end_of(&id).await?;
                // The turn is over: nobody is there to hear it.
                talk.send(&format!(r#"{{"type":"input","id":"{id}","text":"too late"}}"#));
                Ok(said.in_words())
            };
            self.report.check(&INPUT, work).await;
        }
        if !self.talk.can("concurrent") {
            self.report.skip(&TWO_TURNS, &lacks("concurrent"));
            self.report.skip(&PING, &lacks("concurrent"));
            return;
        }
        if self.alive(&TWO_TURNS) {
            let talk = &mut self.talk;
            let work = async {
                let (one, other) = (talk.turn(prompt, ""), talk.turn(prompt, ""));
                let one = talk.end_of(&one).await.map_err(|problem| format!("the first: {problem}"))?;
                talk.end_of(&other).await.map_err(|problem| format!("the second: {problem}"))?;
                Ok(one.in_words())
            };
            self.report.check(&TWO_TURNS, work).await;
        }
        if self.alive(&PING) {
            self.report.check(&PING, ping(&mut self.talk, prompt)).await;
        }
    }

    async fn at_the_end(&mut self) {
        let runs = self.talk.ended().is_none();
        let ended = self.talk.finish(END_WITHIN).await;
        // What it said until then counts, too.
        for (check, problems) in [(&LINES, self.talk.odd_lines()), (&ONE_END, self.talk.after_the_end())] {
            let seen = if problems.is_empty() { Ok(String::new()) } else { Err(problems.join("\n")) };
            self.report.check(check, async { seen }).await;
        }
        if runs {
            self.report.check(&END, async { ended }).await;
        } else {
            self.report.skip(&END, "the handler has ended before");
        }
        self.talk.kill().await;
    }
}

async fn first(talk: &mut Talk, prompt: &str) -> Result<String, String> {
    let id = talk.turn(prompt, "");
    match talk.end_of(&id).await? {
        Said::Failed(message) => Err(format!("the turn failed: {message}")),
        said @ Said::Answered(_) => Ok(said.in_words()),
    }
}

async fn ping(talk: &mut Talk, prompt: &str) -> Result<String, String> {
    let id = talk.turn(prompt, "");
    let mut fastest = None;
    for n in 1..=PINGS {
        let took = talk.ping(7000 + n).await?;
        fastest = Some(fastest.map_or(took, |fastest: Duration| fastest.min(took)));
    }
    talk.end_of(&id).await?;
    let fastest = fastest.unwrap_or_default();
    if fastest <= PONG_WITHIN {
        Ok(format!("after {fastest:.1?} at best"))
    } else {
        Err(format!("the fastest of {PINGS} took {fastest:.1?}"))
    }
}
