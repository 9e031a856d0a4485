//! `turnhost run "…"`: one turn in this terminal.
//!
//! Owns what is printed where: what the agent says goes to standard output, everything about it to standard error.

use super::terminal::Paint;
use super::{INTERRUPTED, OK, TURN_FAILED, agent};
use crate::config::{AgentConfig, ConfigError, RunFlags};
use crate::engine::{Engine, Followed, draw_connection_session};
use crate::handler::DynHandler;
use crate::model::{CancelReason, Ending, Event, Lifetime, OnDrain, Outcome, StateIn, TurnRequest, What};
use crate::store::MemoryStore;
use crate::telemetry;
use crate::wire::record::EventRecord;
use crate::wire::v1::outcome_members;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

/// Entries taken from the log at once, in bytes.
const BATCH_BYTES: usize = 64 << 10;

/// Runs one turn.
pub fn run(runtime: &Runtime, flags: &RunFlags) -> Result<u8, ConfigError> {
    let mut config = flags.agent_config()?;
    // In a terminal the agent's words matter, not ours; whoever asks for logs gets them.
    if config.log.filter == "info" {
        "warn".clone_into(&mut config.log.filter);
    }
    let _log = telemetry::start(&config.log, agent::own_secrets(&config, None)).map_err(ConfigError)?;
    let prompt = match flags.prompt.as_str() {
        "-" => read_prompt()?,
        given => given.to_owned(),
    };
    let request = request(prompt, flags, &config)?;
    let json = flags.json;
    let running = runtime.spawn(async move { turn(config, request, json).await });
    runtime.block_on(running).unwrap_or_else(|error| Err(ConfigError(format!("the turn was lost: {error}"))))
}

fn read_prompt() -> Result<String, ConfigError> {
    let mut text = String::new();
    match std::io::stdin().read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(ConfigError(format!("the prompt cannot be read from standard input: {error}"))),
    }
}

fn request(prompt: String, flags: &RunFlags, config: &AgentConfig) -> Result<TurnRequest, ConfigError> {
    let system_prompt = match &config.system_prompt {
        None => None,
        Some(file) => Some(
            std::fs::read_to_string(file)
                .map_err(|error| ConfigError(format!("--system-prompt {}: {error}", file.display())))?,
        ),
    };
    Ok(TurnRequest {
        lifetime: Lifetime::Connection,
        model: flags.model.clone(),
        system_prompt,
        state: StateIn::Given(None),
        on_drain: OnDrain::Cancel,
        ..TurnRequest::new(draw_connection_session(), "run", prompt)
    })
}

async fn turn(config: AgentConfig, request: TurnRequest, json: bool) -> Result<u8, ConfigError> {
    let tasks = TaskTracker::new();
    let handler = agent::handler(&config, &config.agent, &tasks);
    let started: Arc<dyn DynHandler> = handler.clone();
    started.start().await.map_err(ConfigError)?;
    let engine = Engine::new(
        config.engine.clone(),
        handler,
        Arc::new(MemoryStore::default()),
        agent::own_secrets(&config, None),
        tasks.clone(),
    );
    let submitted = engine.submit_and_follow(request).await;
    let (ticket, mut follower) = submitted.map_err(|fault| ConfigError(fault.message))?;
    let mut screen = Screen { json, paint: Paint::stderr(), said: None, open: HashSet::new(), mid_line: false };
    let mut interrupts = 0_u32;
    let outcome = loop {
        tokio::select! {
            batch = follower.next(BATCH_BYTES) => {
                if let Some(outcome) = screen.show(batch) {
                    break outcome;
                }
            }
            _ = tokio::signal::ctrl_c() => {
                interrupts += 1;
                if interrupts > 1 {
                    std::process::exit(i32::from(INTERRUPTED));
                }
                engine.cancel(&ticket.turn, CancelReason::Caller);
            }
        }
    };
    let code = screen.end(&outcome);
    engine.drain(Duration::ZERO).await;
    tasks.close();
    tasks.wait().await;
    Ok(code)
}

struct Screen {
    json: bool,
    paint: Paint,
    /// The last message that was shown whole.
    said: Option<String>,
    /// Blocks whose text was shown in pieces.
    open: HashSet<String>,
    mid_line: bool,
}

impl Screen {
    fn show(&mut self, batch: Vec<Followed>) -> Option<Arc<Outcome>> {
        for item in batch {
            let Followed::Entry(entry) = item else {
                self.aside("[some of it is no longer kept]");
                continue;
            };
            match &entry.what {
                What::Accepted { .. } => {}
                What::Said(event) if self.json => {
                    out(&(serde_json::to_string(&EventRecord::from(event)).unwrap_or_default() + "\n"));
                }
                What::Said(event) => self.event(event),
                What::Ended(outcome) => return Some(outcome.clone()),
            }
        }
        None
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::TextDelta { block, text } => {
                self.open.insert(block.as_deref().unwrap_or_default().to_owned());
                self.mid_line = !text.ends_with('\n');
                out(text);
            }
            Event::Text { block, parts } => {
                let whole = parts.join("\n");
                // What came in pieces stands there already.
                if self.open.remove(block.as_deref().unwrap_or_default()) {
                    self.end_line();
                } else {
                    self.end_line();
                    out(&format!("{whole}\n"));
                }
                self.said = Some(whole);
            }
            Event::CommandOutput { text, .. } | Event::Thinking { text } => self.aside(text.trim_end()),
            Event::ToolUse { name, input, .. } => self.aside(&format!("[{name}] {}", input.as_str())),
            Event::ToolResult { output, .. } => self.aside(output.trim_end()),
            Event::Warning { text, .. } => self.aside(&format!("warning: {text}")),
            Event::Progress { .. } | Event::Discarded { .. } | Event::Usage(_) | Event::Artifact { .. } => {}
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.mid_line) {
            out("\n");
        }
    }

    fn aside(&mut self, text: &str) {
        self.end_line();
        eprintln!("{}", self.paint.dim(text));
    }

    fn end(&mut self, outcome: &Outcome) -> u8 {
        self.end_line();
        if self.json {
            out(&format!("{{\"type\":\"ended\",{}}}\n", outcome_members(outcome)));
        }
        match &outcome.ending {
            Ending::Answered(answer) => {
                let text = answer.plain();
                if !self.json && self.said.as_deref() != Some(&text) {
                    out(&format!("{text}\n"));
                }
                OK
            }
            Ending::Failed(fault) => {
                if let Some(process) = fault.process.as_ref().filter(|process| !process.stderr_tail.trim().is_empty()) {
                    self.aside(process.stderr_tail.trim_end());
                }
                eprintln!("{} {}", self.paint.red("Failed:"), fault.message);
                TURN_FAILED
            }
            Ending::Cancelled(_) => {
                eprintln!("{}", self.paint.red("Cancelled."));
                INTERRUPTED
            }
            Ending::TimedOut { after, .. } => {
                eprintln!("{} no end within {after:?}", self.paint.red("Timed out:"));
                TURN_FAILED
            }
            Ending::Interrupted => TURN_FAILED,
        }
    }
}

fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // Whoever closed our output does not want the rest.
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}
