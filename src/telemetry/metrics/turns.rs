//! The numbers of turns, by agent.
//!
//! Owns the handles. An agent's are made once, when a server knows its agents; its single counters when they count for the
//! first time.

use super::{counters, metrics, registered};
use prometheus::{
    Counter, CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

/// From a turn that only answers to one that works for hours.
const TURN_BUCKETS: [f64; 14] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// From an agent that is in the process to one that thinks for minutes.
const WAIT_BUCKETS: [f64; 13] = [0.001, 0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// What turns come by; whatever else an embedder names is the last.
const PROTOCOLS: [&str; 6] = ["dari", "runtimeuse", "sessions", "v1", "run", "other"];

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The handler answered.
    Answered,
    /// It failed.
    Failed,
    /// Somebody stopped it.
    Cancelled,
    /// A limit stopped it.
    TimedOut,
    /// The server's own end cut it: it has no outcome, and a retry runs it.
    Interrupted,
}

impl Ended {
    /// Its word in metrics and traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        OUTCOMES[self as usize]
    }
}

/// In the order of [`Ended`].
const OUTCOMES: [&str; 5] = ["answered", "failed", "cancelled", "timed_out", "interrupted"];

/// What a turn used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tokens {
    /// Read by the model.
    pub input: u64,
    /// Written by it.
    pub output: u64,
    /// Of the first, from a cache.
    pub cached: u64,
    /// Of the second, for reasoning.
    pub reasoning: u64,
    /// US dollars.
    pub cost: f64,
}

const TOKENS: [&str; 4] = ["input", "output", "cached", "reasoning"];

pub(super) struct TurnVectors {
    ended: IntCounterVec,
    failures: IntCounterVec,
    duration: HistogramVec,
    first_event: HistogramVec,
    queue: HistogramVec,
    tools: IntCounterVec,
    tokens: IntCounterVec,
    cost: CounterVec,
}

impl TurnVectors {
    pub(super) fn new(r: &Registry) -> Self {
        let seconds = |name, help, buckets: &[f64]| {
            registered(r, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &["agent"]))
        };
        let cost = Opts::new("turnhost_cost_dollars_total", "What turns cost, where the agent tells, in US dollars.");
        Self {
            ended: counters(r, "turnhost_turns_total", "Turns that ended.", &["agent", "protocol", "outcome"]),
            failures: counters(r, "turnhost_turn_failures_total", "Turns that failed, by code.", &["agent", "code"]),
            duration: seconds(
                "turnhost_turn_duration_seconds",
                "From a turn's beginning to its outcome.",
                &TURN_BUCKETS,
            ),
            first_event: seconds(
                "turnhost_turn_first_event_seconds",
                "From a turn's beginning to the first it says.",
                &WAIT_BUCKETS,
            ),
            queue: seconds("turnhost_turn_queue_seconds", "From a turn's admission to its beginning.", &WAIT_BUCKETS),
            tools: counters(r, "turnhost_tool_calls_total", "Tools that agents used.", &["agent"]),
            tokens: counters(
                r,
                "turnhost_tokens_total",
                "Tokens: cached ones are part of the input, those for reasoning part of the output.",
                &["agent", "kind"],
            ),
            cost: registered(r, CounterVec::new(cost, &["agent"])),
        }
    }
}

/// The numbers of a server's agents.
pub struct Meters {
    first: AgentMeter,
    named: HashMap<String, AgentMeter>,
}

impl Meters {
    /// For the agent that runs turns which name none, and for the others. Turns that name one that is unknown fail, and
    /// count for the first.
    #[must_use]
    pub fn new(first: &str, named: Vec<String>) -> Self {
        let named = named.into_iter().filter(|name| name != first);
        Self {
            first: AgentMeter::new(first),
            named: named.map(|name| (name.clone(), AgentMeter::new(&name))).collect(),
        }
    }

    /// The meter of a turn.
    #[must_use]
    pub fn of(&self, agent: Option<&str>) -> &AgentMeter {
        agent.and_then(|agent| self.named.get(agent)).unwrap_or(&self.first)
    }
}

/// The numbers of one agent.
pub struct AgentMeter {
    agent: String,
    ended: [[OnceLock<IntCounter>; OUTCOMES.len()]; PROTOCOLS.len()],
    duration: OnceLock<Histogram>,
    first_event: OnceLock<Histogram>,
    queue: OnceLock<Histogram>,
    tools: OnceLock<IntCounter>,
    tokens: OnceLock<([IntCounter; TOKENS.len()], Counter)>,
}

impl AgentMeter {
    fn new(agent: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            ended: Default::default(),
            duration: OnceLock::new(),
            first_event: OnceLock::new(),
            queue: OnceLock::new(),
            tools: OnceLock::new(),
            tokens: OnceLock::new(),
        }
    }

    /// The agent's name.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// A turn began that had waited for so long.
    pub fn began(&self, waited: Duration) {
        self.histogram(&self.queue, |all| &all.queue).observe(waited.as_secs_f64());
    }

    /// A turn ended.
    pub fn count(&self, protocol: &'static str, ended: Ended) {
        let at = PROTOCOLS.iter().position(|known| *known == protocol).unwrap_or(PROTOCOLS.len() - 1);
        let cell = &self.ended[at][ended as usize];
        let labels = || [self.agent.as_str(), PROTOCOLS[at], OUTCOMES[ended as usize]];
        cell.get_or_init(|| metrics().turns.ended.with_label_values(&labels())).inc();
    }

    /// How long the turn took that ended, and to its first event, if it said anything.
    pub fn took(&self, took: Duration, first: Option<Duration>) {
        self.histogram(&self.duration, |all| &all.duration).observe(took.as_secs_f64());
        if let Some(first) = first {
            self.histogram(&self.first_event, |all| &all.first_event).observe(first.as_secs_f64());
        }
    }

    /// The turn that ended failed with this code, a word of the table of faults.
    pub fn failed(&self, code: &'static str) {
        metrics().turns.failures.with_label_values(&[self.agent.as_str(), code]).inc();
    }

    /// What a turn used, all in all.
    pub fn used(&self, tokens: Tokens) {
        let (counters, cost) = self.tokens.get_or_init(|| {
            let all = &metrics().turns;
            let of = |kind| all.tokens.with_label_values(&[self.agent.as_str(), kind]);
            (TOKENS.map(of), all.cost.with_label_values(&[self.agent.as_str()]))
        });
        let used = [tokens.input, tokens.output, tokens.cached, tokens.reasoning];
        for (counter, used) in counters.iter().zip(used) {
            counter.inc_by(used);
        }
        // A counter only grows, whatever an agent tells.
        if tokens.cost.is_finite() && tokens.cost > 0.0 {
            cost.inc_by(tokens.cost);
        }
    }

    /// How many tools a turn used.
    pub fn used_tools(&self, calls: u64) {
        let counter = || metrics().turns.tools.with_label_values(&[self.agent.as_str()]);
        self.tools.get_or_init(counter).inc_by(calls);
    }

    fn histogram<'a>(
        &self,
        cell: &'a OnceLock<Histogram>,
        which: impl FnOnce(&'static TurnVectors) -> &'static HistogramVec,
    ) -> &'a Histogram {
        cell.get_or_init(|| which(&metrics().turns).with_label_values(&[self.agent.as_str()]))
    }
}
