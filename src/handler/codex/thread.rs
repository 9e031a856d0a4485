//! The thread of a turn: found again by the state, or a new one.
//!
//! Owns a claimed thread from its opening until its turn is over. A thread that the process still has loaded as the state
//! left it is used as it is; otherwise it is read again from where the program keeps it.

use super::pool::{Lease, Origin};
use super::server::{Heard, Inbox, Loaded, Server};
use super::wishes::Wishes;
use super::{Codex, KEY, raw};
use crate::handler::agent_error::{AgentError, Category};
use crate::handler::{Cancel, Sink, Turn};
use crate::json;
use crate::model::{Event, Lifetime, SessionId, StateChange};
use crate::wire::codex as wire;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// Why a turn ends without an answer.
pub enum Stop {
    /// It was cancelled, and nothing of it runs any more.
    Cancelled,
    Failed(AgentError),
    /// The process ended before anything of the turn began: another one can run it.
    Lost(AgentError),
}

impl From<AgentError> for Stop {
    fn from(error: AgentError) -> Self {
        Self::Failed(error)
    }
}

/// A thread that belongs to this turn. Dropped while the turn runs, the process is killed: that is the one way to end the
/// turn for sure that needs no waiting.
pub struct Thread {
    lease: Lease,
    pub inbox: Inbox,
    pub id: String,
    /// Whether a turn runs in it.
    pub is_busy: bool,
    /// Turns that the state knows of; 0 where there is no state.
    turns: u64,
    settings: u64,
    session: SessionId,
    /// Nobody can come back to it.
    is_passing: bool,
}

impl Thread {
    /// Opens the turn's thread.
    pub async fn open(
        agent: &Codex,
        turn: &Turn,
        wishes: &Wishes,
        origin: &Origin,
        sink: &Sink,
        cancel: &Cancel,
    ) -> Result<Self, Stop> {
        let lease = tokio::select! {
            biased;
            () = cancel.fired() => return Err(Stop::Cancelled),
            lease = agent.pool.server(origin) => lease?,
        };
        let base = agent.base(turn);
        let config = raw(&config(agent, turn, wishes, origin, &base));
        let mut hasher = DefaultHasher::new();
        let cwd = turn.request.cwd.as_deref().unwrap_or(&agent.options.workspace).to_string_lossy();
        (config.get(), &turn.request.system_prompt, &wishes.instructions, &cwd).hash(&mut hasher);
        let settings = hasher.finish();
        let mut thread = Self {
            lease,
            inbox: Inbox::new(),
            id: String::new(),
            is_busy: false,
            turns: 0,
            settings,
            session: turn.session.clone(),
            is_passing: turn.request.lifetime == Lifetime::Connection,
        };
        let is_passing = thread.is_passing;
        let params = |id: Option<&str>| {
            raw(&wire::OpenThread {
                thread_id: id,
                exclude_turns: id.map(|_| true),
                ephemeral: id.is_none().then_some(is_passing),
                model: turn.request.model.as_deref().or(agent.options.model.as_deref()),
                cwd: &cwd,
                approval_policy: wishes.approval_policy.as_deref().unwrap_or("never"),
                sandbox: &agent.options.sandbox,
                developer_instructions: turn.request.system_prompt.as_deref().or(wishes.instructions.as_deref()),
                config: &config,
            })
        };
        let limit = agent.options.start_timeout;
        if let Some(state) = state_of(turn) {
            let (id, turns) = (state.codex_thread_id, state.turns);
            if thread.claim(id, turns)? {
                return Ok(thread);
            }
            match thread.ask("thread/resume", &params(Some(&thread.id)), cancel, limit).await? {
                Ok(_) => return Ok(thread),
                Err(error) => thread.forget(&error, sink).await,
            }
        }
        let reply = thread.ask("thread/start", &params(None), cancel, limit).await?;
        let reply = reply.map_err(|error| AgentError::new(Category::InvalidRequest, error.message))?;
        let reply = serde_json::from_str::<wire::ThreadReply>(reply.get())
            .map_err(|_| AgentError::new(Category::StartupCrash, "codex opened a thread and did not say which"))?;
        thread.claim(reply.thread.id, 0)?;
        Ok(thread)
    }

    pub fn server(&self) -> Arc<Server> {
        self.lease.server.clone()
    }

    /// Takes a thread for this turn. `true` when it is loaded as it should be.
    fn claim(&mut self, id: String, turns: u64) -> Result<bool, AgentError> {
        let server = &self.lease.server;
        if !server.claim(&id, &self.inbox.to) {
            let text = "another turn runs in the thread of this state";
            return Err(AgentError::new(Category::InvalidRequest, text));
        }
        let loaded = server.take_loaded(&id);
        let is_current = loaded.as_ref().is_some_and(|one| one.settings == self.settings && one.turns == turns);
        if loaded.is_some() && !is_current {
            server.unload(&id);
        }
        (self.id, self.turns) = (id, turns);
        Ok(is_current)
    }

    /// The program does not know the thread of the state, as when it was kept on another machine.
    async fn forget(&mut self, error: &wire::ErrorBody, sink: &Sink) {
        self.lease.server.release(&self.id);
        (self.id, self.turns) = (String::new(), 0);
        let text = format!("the conversation begins anew, codex does not have what was before: {}", error.message);
        let _ = sink.say(Event::Warning { text, field: Some("state".to_owned()) }).await;
    }

    /// Asks something and waits for the reply; what is told meanwhile is about the opening and of no use.
    async fn ask(
        &mut self,
        method: &str,
        params: &impl Serialize,
        cancel: &Cancel,
        limit: Duration,
    ) -> Result<Result<Box<RawValue>, wire::ErrorBody>, Stop> {
        let server = self.lease.server.clone();
        let asked = server.ask(method, params, &self.inbox.to);
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            tokio::select! {
                biased;
                () = cancel.fired() => return Err(Stop::Cancelled),
                heard = self.inbox.from.recv() => match heard {
                    Some(Heard::Reply { id, result }) if id == asked => return Ok(result),
                    _ => {}
                },
                exit = server.ended() => return Err(Stop::Lost(server.crashed(&exit))),
                () = tokio::time::sleep_until(deadline) => {
                    server.kill();
                    let text = format!("codex did not open a thread within {limit:?}");
                    return Err(AgentError::new(Category::Timeout, text).into());
                }
            }
        }
    }

    /// The state after a turn that went well; the process keeps the thread for the next one.
    pub fn answered(mut self) -> StateChange {
        if self.is_passing {
            self.lease.server.unload(&self.id);
            return StateChange::Keep;
        }
        self.turns += 1;
        let state = wire::State { v: 1, codex_thread_id: self.id.clone(), turns: self.turns };
        self.keep();
        StateChange::Set(json::from_raw(&raw(&state)))
    }

    /// After a turn that did not: the state stays as it was. What no state knows is of no more use.
    pub fn failed(self) {
        if self.turns > 0 && !self.is_passing {
            self.keep();
        } else {
            self.lease.server.unload(&self.id);
        }
    }

    fn keep(&self) {
        let (thread, session) = (self.id.clone(), self.session.clone());
        let (settings, turns) = (self.settings, self.turns);
        self.lease.server.put_loaded(Loaded { thread, settings, turns, session });
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.is_busy {
            self.lease.server.kill();
        }
        self.lease.server.release(&self.id);
    }
}

fn state_of(turn: &Turn) -> Option<wire::State> {
    let state: wire::State = serde_json::from_str(turn.state.as_ref()?.as_str()).ok()?;
    (state.v == 1 && !state.codex_thread_id.is_empty()).then_some(state)
}

/// The settings of a turn's thread. They go through the pipe: nothing of them is in the program's arguments.
fn config(agent: &Codex, turn: &Turn, wishes: &Wishes, origin: &Origin, base: &str) -> Map<String, Value> {
    let mut all = wishes.config.clone();
    // What the program itself sees of its environment, its commands see too.
    let given = turn.request.env.iter().flatten().filter(|(name, _)| *name != KEY && !turn.has_own_environment());
    let set: BTreeMap<&str, &str> = given.map(|(name, value)| (name.as_str(), value.expose())).collect();
    // The program gets one more variable for its own log; commands are none of its modules.
    let own_log = agent.options.environment.get("RUST_LOG").is_none().then_some("RUST_LOG");
    let exclude: Vec<&str> = [KEY, "CODEX_API_KEY"].into_iter().chain(own_log).collect();
    let policy = json!({"inherit": "all", "ignore_default_excludes": true, "exclude": exclude, "set": set});
    all.entry("shell_environment_policy").or_insert(policy);
    // Without a key the program uses the login that it has.
    if origin.key.is_some() && !all.contains_key("model_provider") {
        let provider = json!({
            "name": "turnhost",
            "base_url": base,
            "env_key": KEY,
            "wire_api": "responses",
            "request_max_retries": 2,
            "stream_max_retries": 2,
        });
        all.insert("model_provider".to_owned(), "turnhost".into());
        let providers = all.entry("model_providers").or_insert_with(|| json!({}));
        if let Some(providers) = providers.as_object_mut() {
            providers.insert("turnhost".to_owned(), provider);
        }
    }
    all
}
