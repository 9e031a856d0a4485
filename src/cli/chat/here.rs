//! A talk with an agent in this process.
//!
//! Owns the state between the turns, as a platform would.

use super::Step;
use crate::cli::agent;
use crate::config::{AgentConfig, ConfigError};
use crate::engine::{Engine, Follower, TurnRecord, draw_connection_session};
use crate::handler::DynHandler;
use crate::model::{CancelReason, Lifetime, OnDrain, Outcome, RawJson, SessionId, StateChange, StateIn, TurnRequest};
use crate::store::MemoryStore;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// Entries taken from the log at once, in bytes.
const BATCH_BYTES: usize = 64 << 10;

pub struct Here {
    engine: Engine,
    tasks: TaskTracker,
    system_prompt: Option<String>,
    model: Option<String>,
    session: SessionId,
    state: Option<RawJson>,
    running: Option<(Arc<TurnRecord>, Follower)>,
}

impl Here {
    pub async fn start(
        config: &AgentConfig,
        system_prompt: Option<String>,
        model: Option<String>,
    ) -> Result<Self, ConfigError> {
        let tasks = TaskTracker::new();
        let handler = agent::handler(config, &config.agent, &tasks);
        let started: Arc<dyn DynHandler> = handler.clone();
        started.start().await.map_err(ConfigError)?;
        let engine = Engine::new(
            config.engine.clone(),
            handler,
            Arc::new(MemoryStore::default()),
            agent::own_secrets(config, None),
            tasks.clone(),
        );
        let session = draw_connection_session();
        Ok(Self { engine, tasks, system_prompt, model, session, state: None, running: None })
    }

    pub fn name(&self) -> String {
        self.engine.handler_name().to_owned()
    }

    pub async fn begin(&mut self, prompt: &str) -> Result<(), String> {
        let request = TurnRequest {
            lifetime: Lifetime::Connection,
            model: self.model.clone(),
            system_prompt: self.system_prompt.clone(),
            state: StateIn::Given(self.state.clone()),
            on_drain: OnDrain::Cancel,
            ..TurnRequest::new(self.session.clone(), "chat", prompt)
        };
        let submitted = self.engine.submit_and_follow(request).await;
        let (ticket, follower) = submitted.map_err(|fault| fault.message.clone())?;
        self.running = Some((ticket.turn, follower));
        Ok(())
    }

    /// Cancel-safe.
    pub async fn next(&mut self) -> Step {
        match &mut self.running {
            Some((_, follower)) => Step::Entries(follower.next(BATCH_BYTES).await),
            None => std::future::pending().await,
        }
    }

    pub fn ended(&mut self, outcome: &Outcome) {
        self.running = None;
        match &outcome.state {
            StateChange::Keep => {}
            StateChange::Clear => self.state = None,
            StateChange::Set(state) => self.state = Some(state.clone()),
        }
    }

    pub fn steer(&self, text: &str) -> bool {
        self.running.as_ref().is_some_and(|(turn, _)| turn.steer(text.to_owned()).is_ok())
    }

    pub fn cancel(&self) {
        if let Some((turn, _)) = &self.running {
            self.engine.cancel(turn, CancelReason::Caller);
        }
    }

    pub fn state(&self) -> String {
        let Some(state) = &self.state else { return "no state".to_owned() };
        let value: Result<serde_json::Value, _> = serde_json::from_str(state.as_str());
        value.map_or_else(|_| state.as_str().to_owned(), |value| format!("{value:#}"))
    }

    /// The agent knows nothing of what was said, also where it keeps a process for each session.
    pub async fn reset(&mut self) {
        let old = std::mem::replace(&mut self.session, draw_connection_session());
        self.state = None;
        self.engine.end_session(&old, Duration::ZERO).await;
    }

    pub async fn stop(self) {
        self.engine.drain(Duration::ZERO).await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}
