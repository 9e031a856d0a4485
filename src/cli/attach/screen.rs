//! What a session's log looks like to a person.
//!
//! Owns the form of each line, what goes to standard output and what to standard error, and where lines begin and end.

use super::output::{Output, Pieces, Stream, Unread};
use crate::cli::terminal::Paint;
use crate::wire::session_client::{LineSays, LogLine};
use std::borrow::Cow;
use std::collections::HashSet;
use std::io::IsTerminal;

/// Text that is handed over at once.
const MUCH: usize = 64 << 10;
/// Messages that can be open at once; an agent that leaves more open sees the whole of them, too.
const OPEN: usize = 1024;
/// What a line of the past begins with.
const REPLAY: &str = "[replay] ";

/// What a line means for those who wait for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// A turn is at work.
    Work,
    /// A turn has taken a steer.
    Heard,
    /// A turn has ended.
    Result,
    /// Nothing.
    Other,
}

/// The two streams that the user sees.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is a terminal, and where the lines stand, are facts side by side"
)]
pub struct Screen {
    output: Output,
    pieces: Pieces,
    /// Bytes of the pieces.
    waiting: usize,
    out: Paint,
    err: Paint,
    /// Standard output is a terminal: what could command it is taken out.
    is_terminal: bool,
    /// Both streams are on one terminal.
    is_shared: bool,
    /// What is typed is seen on it, too.
    is_typed_on: bool,
    is_replaying: bool,
    /// Standard output is at the beginning of a line.
    at_start: bool,
    /// Messages of which a piece was shown.
    open: HashSet<String>,
}

impl Screen {
    pub fn new() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let is_shared = is_terminal && std::io::stderr().is_terminal();
        Self {
            output: Output::start(),
            pieces: Vec::new(),
            waiting: 0,
            out: Paint::stdout(),
            err: Paint::stderr(),
            is_terminal,
            is_shared,
            is_typed_on: is_terminal && std::io::stdin().is_terminal(),
            is_replaying: false,
            at_start: true,
            open: HashSet::new(),
        }
    }

    /// Whether what comes was there before.
    pub fn replaying(&mut self, is_replaying: bool) {
        self.is_replaying = is_replaying;
    }

    /// Shows a line of the log; `None` where it is none.
    pub fn line(&mut self, line: &str) -> Option<Said> {
        let line: LogLine<'_> = serde_json::from_str(line).ok()?;
        let says = || line.data.and_then(|data| serde_json::from_str::<LineSays>(data.get()).ok()).unwrap_or_default();
        Some(match &*line.r#type {
            "agent_message" => {
                self.message(&says());
                Said::Work
            }
            kind @ ("tool_use" | "tool_result") => {
                let says = says();
                let name = says.name.or(says.id).unwrap_or_default();
                let word = if kind == "tool_use" { "[tool]" } else { "[result]" };
                let word = self.out.dim(word);
                self.whole_line(&format!("{word} {}", plain(&name)));
                Said::Work
            }
            "result" => {
                self.open.clear();
                let status = says().status.unwrap_or_default();
                self.aside(&format!("[result] status={status}"), Paint::dim);
                Said::Result
            }
            "system" => self.notice(&says()),
            "error" => {
                let says = says();
                self.error(&says.message.or(says.text).unwrap_or_default());
                Said::Other
            }
            // Thoughts and the like are not shown.
            "progress" => Said::Work,
            _ => Said::Other,
        })
    }

    fn message(&mut self, says: &LineSays) {
        let text = says.text.as_deref().unwrap_or_default();
        let item = says.item_id.as_deref().unwrap_or_default();
        if says.delta == true {
            if !self.open.contains(item) {
                // Another message than the one before.
                self.end_line();
                if self.open.len() < OPEN {
                    self.open.insert(item.to_owned());
                }
            }
            self.say(text);
            return;
        }
        // Its pieces stand there already. One without a name may be any.
        let is_shown = self.open.remove(item) || self.open.remove("") || (item.is_empty() && !self.open.is_empty());
        if item.is_empty() {
            self.open.clear();
        }
        if !is_shown {
            self.end_line();
            self.say(text);
        }
        self.end_line();
    }

    fn notice(&mut self, says: &LineSays) -> Said {
        let subtype = says.subtype.as_deref().unwrap_or_default();
        match subtype {
            // That it lives, and that it calls its model, is nothing to read.
            "heartbeat" | "status" => return Said::Other,
            "heard" => return Said::Heard,
            _ => {}
        }
        let text = [&says.text, &says.message, &says.error_detail].into_iter().flatten().next();
        let text = text.map(|text| text.trim_end()).filter(|text| !text.is_empty());
        let heads = [says.source.as_deref(), says.subtype.as_deref()].into_iter().flatten();
        let words: Vec<&str> = heads.chain(text).collect();
        self.system(&words.join(": "));
        if matches!(subtype, "init" | "thread_started") { Said::Work } else { Said::Other }
    }

    /// A notice on standard error.
    pub fn system(&mut self, text: &str) {
        self.aside(&format!("[system] {text}"), Paint::dim);
    }

    /// An error on standard error.
    pub fn error(&mut self, text: &str) {
        self.aside(&format!("[error] {}", text.trim_end()), Paint::red);
    }

    /// A word of ours on standard error.
    pub fn note(&mut self, text: &str) {
        let was = std::mem::take(&mut self.is_replaying);
        self.aside(text, Paint::bold);
        self.is_replaying = was;
    }

    /// The same behind a key that the terminal has shown.
    pub fn note_behind_key(&mut self, text: &str) {
        if self.is_typed_on {
            self.at_start = false;
        }
        self.note(text);
    }

    /// The user has ended a line.
    pub fn typed(&mut self) {
        if self.is_typed_on {
            self.at_start = true;
        }
    }

    fn aside(&mut self, text: &str, paint: fn(Paint, &str) -> String) {
        if self.is_shared {
            self.end_line();
        }
        let head = if self.is_replaying { REPLAY } else { "" };
        for line in text.split('\n') {
            let line = paint(self.err, &format!("{head}{}", plain(line)));
            self.push(Stream::Err, &line);
            self.push(Stream::Err, "\n");
        }
    }

    fn whole_line(&mut self, text: &str) {
        self.end_line();
        self.say_as_is(text);
        self.say_as_is("\n");
    }

    fn say(&mut self, text: &str) {
        let text = if self.is_terminal { plain(text) } else { Cow::Borrowed(text) };
        self.say_as_is(&text);
    }

    fn say_as_is(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if !self.is_replaying {
            self.at_start = text.ends_with('\n');
            self.push(Stream::Out, text);
            return;
        }
        let replay = self.out.dim(REPLAY);
        for piece in text.split_inclusive('\n') {
            if self.at_start {
                self.push(Stream::Out, &replay);
            }
            self.push(Stream::Out, piece);
            self.at_start = piece.ends_with('\n');
        }
    }

    fn end_line(&mut self) {
        if !self.at_start {
            self.at_start = true;
            self.push(Stream::Out, "\n");
        }
    }

    fn push(&mut self, stream: Stream, text: &str) {
        self.waiting += text.len();
        match self.pieces.last_mut() {
            Some((last, piece)) if *last == stream => piece.push_str(text),
            _ => self.pieces.push((stream, text.to_owned())),
        }
    }

    /// Hands over what came together.
    pub async fn show(&mut self) -> Result<(), Unread> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        self.waiting = 0;
        self.output.write(std::mem::take(&mut self.pieces)).await
    }

    /// The same once it is worth it.
    pub async fn show_if_much(&mut self) -> Result<(), Unread> {
        if self.waiting < MUCH { Ok(()) } else { self.show().await }
    }

    /// Shows everything to its end.
    pub async fn finish(mut self) {
        if self.is_terminal {
            self.end_line();
        }
        if self.show().await.is_ok() {
            self.output.finish().await;
        }
    }
}

/// A text that cannot command a terminal: without control characters but line breaks and tabs.
fn plain(text: &str) -> Cow<'_, str> {
    let is_command = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(is_command) { text.replace(is_command, "").into() } else { text.into() }
}
