//! `turnhost run "…"`: one turn in this terminal.
//!
//! Owns the one turn; what is printed where is in `screen`.

use super::screen::Screen;
use super::{INTERRUPTED, agent};
use crate::config::{AgentConfig, ConfigError, RunFlags};
use crate::engine::{Engine, draw_connection_session};
use crate::handler::DynHandler;
use crate::model::{CancelReason, Lifetime, OnDrain, StateIn, TurnRequest};
use crate::store::MemoryStore;
use crate::telemetry;
use std::io::Read;
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
    Ok(TurnRequest {
        lifetime: Lifetime::Connection,
        model: flags.model.clone(),
        system_prompt: agent::system_prompt(config)?,
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
    let mut screen = Screen::new(json);
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
