//! A handler's process and its lines.
//!
//! Owns what was said so far, which turns run, and what is wrong with a line.

use super::Target;
use crate::process::{Child, Exit, Limits, Line, LineReader, Running, launch};
use crate::wire::handler::{PROTOCOL_VERSION, ToHandler, TurnLine};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Lines that wait for a handler which does not read.
const WAITING: usize = 64;
/// Problems told of one kind.
const TOLD: usize = 5;

/// How a turn ended.
pub enum Said {
    /// With a `result`.
    Answered(String),
    /// With an `error`.
    Failed(String),
}

impl Said {
    pub fn in_words(&self) -> String {
        match self {
            Self::Answered(text) => format!("answered {}", short(text)),
            Self::Failed(text) => format!("failed: {}", short(text)),
        }
    }
}

pub struct Talk {
    child: Child,
    out: Option<mpsc::Sender<String>>,
    lines: mpsc::Receiver<Line>,
    tasks: TaskTracker,
    turn_within: Duration,
    capabilities: BTreeSet<String>,
    /// What the last turn left.
    pub state: Option<String>,
    asked: u32,
    running: BTreeSet<String>,
    ended: BTreeMap<String, Said>,
    over: BTreeSet<String>,
    pongs: VecDeque<u64>,
    odd: Vec<String>,
    late: Vec<String>,
    exit: Option<Exit>,
}

impl Talk {
    pub async fn start(target: &Target) -> Result<Self, String> {
        let tasks = TaskTracker::new();
        let running = launch(target.launch.clone(), &tasks).map_err(|error| error.to_string())?;
        let Running { stdin, stdout, stderr, channel, child } = running;
        child.started().await.map_err(|error| error.to_string())?;
        let stdin = stdin.ok_or("the handler has no input")?;
        let (input, output) = match (target.source, channel) {
            (Some(source), Some((input, output))) => {
                tasks.spawn(feed(stdin, source));
                // What a module prints is log.
                tasks.spawn(drain(stdout));
                (input, output)
            }
            _ => (stdin, stdout),
        };
        tasks.spawn(drain(stderr));
        let (out, lines_out) = mpsc::channel(WAITING);
        tasks.spawn(write(input, lines_out));
        let (said, lines) = mpsc::channel(WAITING);
        tasks.spawn(read(output, said));
        Ok(Self {
            child,
            out: Some(out),
            lines,
            tasks,
            turn_within: target.turn_within,
            capabilities: BTreeSet::new(),
            state: None,
            asked: 0,
            running: BTreeSet::new(),
            ended: BTreeMap::new(),
            over: BTreeSet::new(),
            pongs: VecDeque::new(),
            odd: Vec::new(),
            late: Vec::new(),
            exit: None,
        })
    }

    /// Sends `hello`; what the handler promises.
    pub async fn ready(&mut self, within: Duration) -> Result<String, String> {
        let hello = ToHandler::Hello { protocol: PROTOCOL_VERSION, server: "turnhost conform" };
        self.send(&serde_json::to_string(&hello).unwrap_or_default());
        let deadline = Instant::now() + within;
        loop {
            let line = self.line(deadline, "`ready`").await?;
            let Ok(line) = serde_json::from_slice::<Value>(&line) else {
                self.odd(format!("no JSON: {}", short(&String::from_utf8_lossy(&line))));
                continue;
            };
            match line["type"].as_str() {
                Some("ready") => {
                    let words = line["capabilities"].as_array().into_iter().flatten().filter_map(Value::as_str);
                    self.capabilities = words.map(str::to_owned).collect();
                    let words: Vec<&str> = self.capabilities.iter().map(String::as_str).collect();
                    let name = line["name"].as_str().unwrap_or("no name");
                    let words = if words.is_empty() { "nothing more".to_owned() } else { words.join(", ") };
                    return Ok(format!("{name}; it promises {words}"));
                }
                Some("error") => {
                    let message = line["message"].as_str().unwrap_or("no message");
                    return Err(format!("it cannot be loaded: {message}"));
                }
                Some("log") => {}
                _ => return Err(format!("the first line was {}", short(&line.to_string()))),
            }
        }
    }

    pub fn can(&self, word: &str) -> bool {
        self.capabilities.contains(word)
    }

    pub fn send(&mut self, line: &str) {
        if let Some(out) = &self.out {
            // A handler that does not read is found out by the turn that has no end.
            let _ = out.try_send(format!("{line}\n"));
        }
    }

    /// Asks for a turn; its id. `more` are further keys, each with its comma.
    pub fn turn(&mut self, prompt: &str, more: &str) -> String {
        self.asked += 1;
        let id = format!("turn-{}", self.asked);
        let state: Option<&RawValue> = self.state.as_deref().and_then(|state| serde_json::from_str(state).ok());
        let line = ToHandler::Turn(TurnLine {
            id: &id,
            prompt,
            state,
            session_id: "conform",
            attempt: 1,
            source_id: None,
            system_prompt: None,
            model: None,
            output_format: None,
            output_schema: None,
            attachments: Vec::new(),
            env: None,
            secrets: Vec::new(),
            metadata: None,
            traceparent: None,
            tracestate: None,
        });
        let line = serde_json::to_string(&line).unwrap_or_default();
        let line = format!("{}{more}}}", line.strip_suffix('}').unwrap_or(&line));
        self.running.insert(id.clone());
        self.send(&line);
        id
    }

    /// Waits for a turn's end.
    pub async fn end_of(&mut self, id: &str) -> Result<Said, String> {
        let deadline = Instant::now() + self.turn_within;
        loop {
            if let Some(said) = self.ended.remove(id) {
                return Ok(said);
            }
            let line = self.line(deadline, "the end of the turn").await?;
            self.take(&line);
        }
    }

    /// How long it took.
    pub async fn ping(&mut self, n: u64) -> Result<Duration, String> {
        let began = Instant::now();
        self.send(&format!(r#"{{"type":"ping","n":{n}}}"#));
        loop {
            if let Some(found) = self.pongs.pop_front() {
                return if found == n {
                    Ok(began.elapsed())
                } else {
                    Err(format!("the ping {n} was answered with {found}"))
                };
            }
            let line = self.line(began + self.turn_within, "`pong`").await?;
            self.take(&line);
        }
    }

    async fn line(&mut self, deadline: Instant, what: &str) -> Result<bytes::Bytes, String> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.lines.recv()).await {
                Ok(Some(Line::Json(line))) => return Ok(line),
                // A stray print does no harm.
                Ok(Some(Line::Log { .. })) => {}
                Ok(Some(Line::TooLong)) => self.odd("a line that is too long".to_owned()),
                Ok(None) => {
                    let end = tokio::time::timeout(Duration::from_secs(1), self.gone()).await;
                    let end = end.unwrap_or_else(|_| "and closed its output".to_owned());
                    return Err(format!("{what} did not come: the handler ended {end}"));
                }
                Err(_) => return Err(format!("{what} did not come in time")),
            }
        }
    }

    /// What a line is, and what is wrong with it.
    fn take(&mut self, bytes: &[u8]) {
        let shown = short(&String::from_utf8_lossy(bytes));
        let Ok(line) = serde_json::from_slice::<Value>(bytes) else {
            return self.odd(format!("no JSON: {shown}"));
        };
        let kind = line["type"].as_str().unwrap_or_default();
        if let Some(problem) = wrong_form(kind, &line) {
            self.odd(format!("{problem}: {shown}"));
        }
        match kind {
            "pong" => self.pongs.extend(line["n"].as_u64()),
            "log" | "ready" => {}
            _ => {
                let id = line["id"].as_str().unwrap_or_default().to_owned();
                if self.over.contains(&id) {
                    if self.late.len() < TOLD {
                        self.late.push(format!("after its end {id} said {shown}"));
                    }
                    return;
                }
                if !self.running.contains(&id) {
                    return self.odd(format!("the id of no turn that runs: {shown}"));
                }
                let end = match kind {
                    "result" => Said::Answered(answer(&line)),
                    "error" => Said::Failed(line["message"].as_str().unwrap_or_default().to_owned()),
                    _ => return,
                };
                if let Some(state) = line.get("state") {
                    self.state = (!state.is_null()).then(|| state.to_string());
                }
                self.running.remove(&id);
                self.over.insert(id.clone());
                self.ended.insert(id, end);
            }
        }
    }

    fn odd(&mut self, problem: String) {
        if self.odd.len() < TOLD {
            self.odd.push(problem);
        }
    }

    pub fn odd_lines(&self) -> &[String] {
        &self.odd
    }

    pub fn after_the_end(&self) -> &[String] {
        &self.late
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        use futures_util::FutureExt;
        if self.exit.is_none() {
            self.exit = self.child.exited().now_or_never();
        }
        self.exit.as_ref().map(in_words)
    }

    async fn gone(&mut self) -> String {
        let exit = self.child.exited().await;
        let words = in_words(&exit);
        self.exit = Some(exit);
        words
    }

    /// Ends its input, reads what is left of its lines, and waits for its end.
    pub async fn finish(&mut self, within: Duration) -> Result<String, String> {
        self.out = None;
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        while let Ok(Some(line)) = tokio::time::timeout(left(), self.lines.recv()).await {
            if let Line::Json(line) = line {
                self.take(&line);
            }
        }
        let ended = tokio::time::timeout(left().max(Duration::from_millis(100)), self.gone()).await;
        ended.map(|end| format!("it ended {end}")).map_err(|_| format!("it still runs after {within:?}"))
    }

    pub async fn kill(&mut self) {
        self.out = None;
        self.child.kill();
        self.child.gone().await;
        self.lines.close();
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await;
    }
}

/// What is wrong with the form of a line.
fn wrong_form(kind: &str, line: &Value) -> Option<String> {
    let text = |name: &str| (!line[name].is_string()).then(|| format!("`{name}` must be a string"));
    let optional = |name: &str| {
        (!matches!(line.get(name), None | Some(Value::Null | Value::String(_))))
            .then(|| format!("`{name}` must be a string"))
    };
    match kind {
        "ready" | "progress" | "usage" => None,
        "log" | "warning" => text("text"),
        "pong" => line["n"].as_u64().is_none().then(|| "`n` must be a number".to_owned()),
        "text" => match (&line["text"], &line["parts"]) {
            (Value::String(_), _) => None,
            (_, Value::Array(parts)) if parts.iter().all(Value::is_string) => None,
            _ => Some("`text` must be a string, or `parts` a list of strings".to_owned()),
        },
        "delta" | "thinking" => text("text").or_else(|| optional("block")),
        "tool_use" => text("call_id").or_else(|| text("name")),
        "tool_result" => text("call_id").or_else(|| optional("output")),
        "result" => match (line.get("text"), line.get("structured_output")) {
            (Some(Value::String(_)), None) | (None, Some(_)) => None,
            (Some(_), None) => Some("`text` must be a string".to_owned()),
            _ => Some("exactly one of `text` and `structured_output` is needed".to_owned()),
        },
        "error" => text("message"),
        _ => Some("no such type".to_owned()),
    }
}

fn answer(line: &Value) -> String {
    line["text"].as_str().map_or_else(|| line["structured_output"].to_string(), str::to_owned)
}

fn in_words(exit: &Exit) -> String {
    match exit {
        Exit::Code(code) => format!("with exit code {code}"),
        Exit::Signal(signal) => format!("by signal {signal}"),
        Exit::NotStarted(error) => error.to_string(),
        Exit::Lost => "unseen".to_owned(),
    }
}

/// On one line, and not long.
fn short(text: &str) -> String {
    const LONGEST: usize = 100;
    let cut = &text[..text.floor_char_boundary(LONGEST)];
    format!("{}{}", cut.escape_debug(), if cut.len() < text.len() { "…" } else { "" })
}

async fn feed(mut stdin: pipe::Sender, source: &'static str) {
    // An interpreter that does not read it ends, and is seen to.
    let _ = stdin.write_all(source.as_bytes()).await;
}

async fn drain(mut output: pipe::Receiver) {
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
}

async fn write(mut input: pipe::Sender, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        if input.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(output: pipe::Receiver, said: mpsc::Sender<Line>) {
    let mut lines = LineReader::new(output, Limits::default());
    while let Ok(Some(line)) = lines.next().await {
        if said.send(line).await.is_err() {
            return;
        }
    }
}
