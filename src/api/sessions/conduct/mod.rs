//! The life of a session: its turns one after the other, what it is told meanwhile, its limits, its end.
//!
//! Owns the one task of a session. It belongs to the main runtime and outlives every request about it. What it does last is
//! in `closing`.

mod closing;

use super::category::Hopeless;
use super::ending::{Exit, TurnEnd};
use super::hooks::{self, Beside, Hooks};
use super::lines::Lines;
use super::session::{Input, Session};
use super::times::now;
use super::{AgentKind, book};
use crate::api::Runtime;
use crate::engine::{Followed, Follower, TurnRecord};
use crate::handler::plain::INTERRUPT;
use crate::model::{CancelReason, StateChange, StateIn, TurnRequest, What};
use crate::wire::session_line::ErrorData;
use actix_web::web;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Entries taken from the engine's log at once, in bytes.
const BATCH: usize = 64 << 10;
/// Between two signs of life in the log.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often a message for a turn that does not listen yet is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// What a session is to do.
pub struct Plan {
    /// Everything of a turn but its prompt.
    pub template: TurnRequest,
    pub prompt: Option<String>,
    /// How long it may take in all.
    pub timeout: Option<Duration>,
    pub hooks: Hooks,
    pub kind: AgentKind,
}

struct Conductor {
    runtime: web::Data<Runtime>,
    session: Arc<Session>,
    template: TurnRequest,
    lines: Lines,
    follower: Option<Follower>,
    running: Option<Arc<TurnRecord>>,
    prompts: VecDeque<String>,
    /// Messages for the running turn that it has not taken yet.
    steers: VecDeque<String>,
    /// What the agent is to know with the next message.
    context: Vec<String>,
    last_said: Instant,
    is_warned: bool,
    hopeless: Hopeless,
    hooks: Hooks,
    beside: Option<Beside>,
    kind: AgentKind,
    /// Whether the engine has a state of the agent's, so that a turn goes on where the one before it ended.
    has_state: bool,
    deadline: Option<Instant>,
    /// The agent had its one prompt, and may end by itself.
    may_leave: bool,
}

/// Lives a session to its end.
pub async fn conduct(runtime: web::Data<Runtime>, session: Arc<Session>, plan: Plan) {
    let mut conductor = Conductor {
        lines: Lines::new(session.clone(), plan.kind),
        runtime,
        session,
        template: plan.template,
        follower: None,
        running: None,
        prompts: plan.prompt.into_iter().collect(),
        steers: VecDeque::new(),
        context: Vec::new(),
        last_said: Instant::now(),
        is_warned: false,
        hopeless: Hopeless::default(),
        hooks: plan.hooks,
        beside: None,
        kind: plan.kind,
        has_state: false,
        deadline: None,
        may_leave: false,
    };
    if plan.kind == AgentKind::Plain && conductor.prompts.is_empty() {
        // Its turn is its life, and begins without a word.
        conductor.prompts.push_back(String::new());
    }
    conductor.has_state = matches!(conductor.template.state, StateIn::Given(Some(_)));
    let exit = match conductor.prepare(plan.timeout).await {
        Ok(()) => conductor.live().await,
        Err(exit) => exit,
    };
    conductor.end(exit).await;
}

impl Conductor {
    /// What comes before the first turn.
    async fn prepare(&mut self, timeout: Option<Duration>) -> Result<(), Exit> {
        for name in ["pre_init", "post_init"] {
            if name == "post_init" {
                self.deadline = timeout.map(|timeout| Instant::now() + timeout);
                self.start_agent().await?;
            }
            let stop = CancellationToken::new();
            let (kill, draining) = (self.session.kill.clone(), self.runtime.engine.draining());
            let ended = async {
                tokio::select! {
                    () = kill.cancelled() => {}
                    () = draining.cancelled() => {}
                }
            };
            let running = self.hooks.run(name, &self.runtime, &mut self.lines, &stop);
            if let Err(reason) = stopped_by(running, ended, &stop).await {
                if let Some(killed) = self.killed() {
                    return Err(killed);
                }
                let message = format!("{name} hook failed: {name}: {reason}");
                self.lines.error(ErrorData { message: &message, code: Some(500), ..ErrorData::default() });
                return Err(Exit { code: 1, ..Exit::killed(&message) });
            }
        }
        self.beside = self.hooks.beside(&self.runtime, &mut self.lines);
        let _ = self.lines.flush().await;
        Ok(())
    }

    /// Where a hook is to know the agent's process, that is started before its first turn.
    async fn start_agent(&mut self) -> Result<(), Exit> {
        if !self.hooks.need_agent() {
            return Ok(());
        }
        let draining = self.runtime.engine.draining();
        let pid = tokio::select! {
            pid = self.runtime.engine.prepare_session(self.template.clone()) => pid,
            () = self.session.kill.cancelled() => None,
            () = draining.cancelled() => None,
        };
        if let Some(pid) = pid {
            self.hooks.agent_runs(pid);
        }
        self.killed().map_or(Ok(()), Err)
    }

    async fn live(&mut self) -> Exit {
        let mut heartbeat = ticker(HEARTBEAT);
        let mut again = ticker(TRY_AGAIN);
        let (session, runtime) = (self.session.clone(), self.runtime.clone());
        let draining = runtime.engine.draining();
        loop {
            if let Some(exit) = self.next_turn().await {
                return exit;
            }
            let stalls = self.runtime.sessions.options.stalls;
            let is_watched = self.running.is_some() && !self.may_be_idle();
            let silent = |after: Option<Duration>| Some(self.last_said + after?).filter(|_| is_watched);
            let (warn_at, kill_at) = (silent(stalls.warning).filter(|_| !self.is_warned), silent(stalls.kill));
            tokio::select! {
                biased;
                () = session.kill.cancelled() => return Exit::killed("the session was deleted"),
                () = draining.cancelled() => return Exit::killed("the server is stopping"),
                () = at(self.deadline) => return self.out_of_time(),
                batch = next_of(&mut self.follower) => {
                    if let Some(exit) = self.take(batch).await {
                        return exit;
                    }
                }
                input = session.told() => self.hear(input),
                () = runtime.engine.agent_left(&session.engine_id), if self.running.is_none() => {
                    self.may_leave = true;
                    return Exit::default();
                }
                said = Beside::next(&mut self.beside) => match said {
                    Some(line) => hooks::output(&mut self.lines, "sidecar", &line),
                    None => self.beside = None,
                },
                _ = again.tick(), if !self.steers.is_empty() => {}
                _ = heartbeat.tick() => self.lines.heartbeat(true),
                () = at(warn_at) => self.warn(stalls.warning.unwrap_or_default()),
                () = at(kill_at) => return self.stalled(),
            }
            self.steer();
            session.asked(self.unanswered());
            let held = || self.prompts.iter().chain(&self.steers).chain(&self.context);
            session.holds(held().count(), held().map(String::len).sum());
            if let Err(error) = self.lines.flush().await {
                tracing::error!(session = %session.engine_id, %error, "the log of a session cannot be written");
                return Exit::killed("the log of the session cannot be written");
            }
        }
    }

    /// Begins the next turn, if there is one and none runs.
    async fn next_turn(&mut self) -> Option<Exit> {
        if self.running.is_some() {
            return None;
        }
        let mut prompt = self.prompts.pop_front()?;
        if !self.context.is_empty() {
            self.context.push(prompt);
            prompt = std::mem::take(&mut self.context).join("\n\n");
        }
        let mut request = TurnRequest { prompt, ..self.template.clone() };
        // A first turn that did not end well has left no state, and the agent knows its own all the same.
        if let Some(native) = self.session.look(|record| record.agent_session_id.clone()).filter(|_| !self.has_state) {
            request.state = StateIn::Given(self.kind.state_of(&native));
        }
        self.template.state = StateIn::Stored;
        // A session that was quiet for long may have been unloaded: its log is followed anew then.
        let submitted = if self.follower.as_ref().is_some_and(|follower| !follower.is_at_end()) {
            self.runtime.engine.submit(request).await.map(|ticket| ticket.turn)
        } else {
            self.runtime.engine.submit_and_follow(request).await.map(|(ticket, follower)| {
                self.follower = Some(follower);
                ticket.turn
            })
        };
        self.last_said = Instant::now();
        self.is_warned = false;
        match submitted {
            Ok(turn) => {
                self.running = Some(turn);
                None
            }
            Err(fault) => {
                self.lines.error(ErrorData { message: &fault.message, code: Some(503), ..ErrorData::default() });
                Some(Exit { code: 1, ..Exit::killed(&fault.message) })
            }
        }
    }

    /// What the session's turns said. Also those that came another way.
    async fn take(&mut self, batch: Vec<Followed>) -> Option<Exit> {
        let mut exit = None;
        for followed in batch {
            let entry = match followed {
                Followed::Entry(entry) => entry,
                Followed::Gap { from, to } => {
                    self.lines.system([("subtype", "gap".into()), ("from", from.0.into()), ("to", to.0.into())]);
                    continue;
                }
            };
            match &entry.what {
                What::Accepted { .. } => self.lines.accepted(entry.at_ms),
                What::Said(event) => {
                    self.lines.said(event, entry.at_ms);
                    if let Some(hopeless) = self.hopeless.said(event).filter(|_| self.running.is_some()) {
                        exit = Some(self.is_over(hopeless));
                        self.hopeless.clear();
                    }
                }
                What::Ended(outcome) => {
                    self.session.answering();
                    let end = self.lines.ended(entry.turn.as_str(), outcome, entry.at_ms);
                    // Readers do not wait for what is kept.
                    let _ = self.lines.flush().await;
                    self.keep(&outcome.state).await;
                    if self.running.as_ref().is_some_and(|turn| turn.id == entry.turn) {
                        self.running = None;
                        // What it did not hear any more is the next one's.
                        self.prompts.extend(std::mem::take(&mut self.steers));
                        exit = exit.or(self.after(end));
                    }
                    self.session.answered(self.unanswered());
                }
            }
        }
        self.last_said = Instant::now();
        self.is_warned = false;
        self.session.change(|record| record.last_activity = Some(now()));
        exit
    }

    fn unanswered(&self) -> usize {
        usize::from(self.running.is_some()) + self.prompts.len()
    }

    /// What the end of a turn means for its session.
    fn after(&mut self, end: TurnEnd) -> Option<Exit> {
        if self.kind == AgentKind::Plain {
            // It ends as it likes; that it never began is an error.
            if end.is_crash && end.exit.category == Some("startup_crash") {
                self.tell_error(&end, true);
            }
            return Some(end.exit);
        }
        if !self.session.interactive {
            if !end.is_success && !end.is_interrupted {
                self.tell_error(&end, true);
            }
            self.may_leave = !end.is_crash && end.exit.code != -1;
            return Some(end.exit);
        }
        if end.is_success {
            self.hopeless.clear();
            return None;
        }
        if end.is_interrupted {
            return None;
        }
        let is_hopeless = self.hopeless.turn_failed(end.exit.category);
        let is_over = end.is_crash || end.exit.code == -1 || is_hopeless;
        self.tell_error(&end, is_over);
        is_over.then_some(end.exit)
    }

    /// A session that goes on with this one begins with its state.
    async fn keep(&mut self, state: &StateChange) {
        let state = match state {
            StateChange::Keep => return,
            StateChange::Clear => None,
            StateChange::Set(state) => Some(state.clone()),
        };
        self.has_state = state.is_some();
        let session = self.session.clone();
        let kept = tokio::task::spawn_blocking(move || {
            book::save_state(&session.folder, state.as_ref().map(|state| state.as_str()));
            book::save(&session.folder, &session.record());
        });
        let _ = kept.await;
    }

    /// Of a program of lines nobody knows whether it works or waits to be told something.
    fn may_be_idle(&self) -> bool {
        self.kind == AgentKind::Plain && self.session.interactive
    }

    fn hear(&mut self, input: Input) {
        let is_plain = self.kind == AgentKind::Plain;
        match input {
            Input::Prompt(text) | Input::Steer(text) if is_plain && self.running.is_some() => self.add_steer(text),
            Input::Interrupt if is_plain => {
                // It goes on, or ends by itself.
                if let Some(turn) = &self.running
                    && turn.steer(INTERRUPT.to_owned()).is_err()
                {
                    self.steers.push_front(INTERRUPT.to_owned());
                }
            }
            Input::Steer(text) if self.running.is_some() => self.add_steer(text),
            Input::Prompt(text) | Input::Steer(text) => self.prompts.push_back(text),
            Input::Context(text) => self.context.push(text),
            Input::Interrupt => {
                if let Some(turn) = &self.running {
                    self.runtime.engine.cancel(turn, CancelReason::Caller);
                }
            }
        }
    }

    fn add_steer(&mut self, text: String) {
        let mut all = std::mem::take(&mut self.context);
        all.push(text);
        self.steers.push_back(all.join("\n\n"));
    }

    /// Gives the running turn what was said meanwhile, as far as it listens.
    fn steer(&mut self) {
        let Some(turn) = &self.running else { return };
        while let Some(text) = self.steers.front() {
            if turn.steer(text.clone()).is_err() {
                return;
            }
            self.steers.pop_front();
        }
    }

    fn warn(&mut self, threshold: Duration) {
        self.is_warned = true;
        let silence = self.last_said.elapsed().as_secs();
        self.lines.system([
            ("subtype", "stall_warning".into()),
            ("message", format!("the agent has said nothing for {silence} seconds").into()),
            ("silence", silence.into()),
            ("threshold", threshold.as_secs().into()),
        ]);
    }
}

/// Waits for something that is to stop when `fires` does.
async fn stopped_by<T>(
    running: impl Future<Output = T>,
    fires: impl Future<Output = ()>,
    stop: &CancellationToken,
) -> T {
    tokio::pin!(running, fires);
    loop {
        tokio::select! {
            biased;
            ended = &mut running => return ended,
            () = &mut fires, if !stop.is_cancelled() => stop.cancel(),
        }
    }
}

async fn next_of(follower: &mut Option<Follower>) -> Vec<Followed> {
    match follower {
        Some(follower) => follower.next(BATCH).await,
        None => std::future::pending().await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn ticker(period: Duration) -> Interval {
    let mut ticker = tokio::time::interval_at(Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}
