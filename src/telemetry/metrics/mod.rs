//! Numbers about the server, for Prometheus.
//!
//! Owns every metric's name, help and labels, and the page they are shown on. Counting is done by static handles: no label
//! is looked up where events or turns go by. A label's values are words of ours or names from the configuration, never
//! anything a caller sent.

mod own_process;
mod turns;

pub use turns::{AgentMeter, Ended, Meters, Tokens};

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};
use turns::TurnVectors;

/// The kinds of events, in the order of [`Metrics::event`].
const EVENTS: [&str; 11] = [
    "text",
    "text_delta",
    "thinking",
    "tool_use",
    "tool_result",
    "progress",
    "discarded",
    "usage",
    "command_output",
    "artifact",
    "warning",
];

/// Commits take from some microseconds to the time a slow disk needs.
const COMMIT_BUCKETS: [f64; 10] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0];

/// The first and the last status of HTTP, less one.
const STATUSES: std::ops::Range<u16> = 100..600;

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The numbers of this process.
#[must_use]
pub fn metrics() -> &'static Metrics {
    &METRICS
}

/// How a server's store and sessions stand when somebody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Turns that run.
    pub running: usize,
    /// Turns that wait.
    pub waiting: usize,
    /// Sessions in memory.
    pub sessions: usize,
    /// Of them, those whose store does not take what they say.
    pub without_store: usize,
    /// What is said is not kept.
    pub is_degraded: bool,
}

/// Which way bytes go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Bodies of HTTP.
    Http,
    /// WebSockets, frames and all.
    WebSocket,
}

/// Every metric. The turns' own are in [`Meters`].
pub struct Metrics {
    registry: Registry,
    turns: TurnVectors,
    /// Requests that were answered with an earlier turn.
    pub turn_repeats: IntCounter,
    refused: IntCounterVec,
    events: [IntCounter; EVENTS.len()],
    running: IntGauge,
    waiting: IntGauge,
    sessions: IntGauge,
    without_store: IntGauge,
    received: [IntCounter; 2],
    sent: [IntCounter; 2],
    responses: IntCounterVec,
    by_status: Vec<OnceLock<IntCounter>>,
    websockets: IntGaugeVec,
    /// Programs that run under a shim.
    pub child_processes: IntGauge,
    /// Programs that were started.
    pub child_processes_started: IntCounter,
    /// Processes of a handler that were started in place of one that had ended.
    pub handler_restarts: IntCounter,
    /// Commits that the store made.
    pub store_commits: IntCounter,
    /// Commits that failed.
    pub store_failures: IntCounter,
    /// How long a commit took.
    pub store_commit_seconds: Histogram,
    /// Bytes of entries that were committed.
    pub store_written: IntCounter,
    /// Bytes of entries that wait for their commit.
    pub store_pending: IntGauge,
    degraded: IntGauge,
    /// Bytes of entries that were written to spill files.
    pub spilled: IntCounter,
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let bytes = |name, help| {
            let vector = counters(r, name, help, &["transport"]);
            ["http", "websocket"].map(|transport| vector.with_label_values(&[transport]))
        };
        let events = counters(r, "turnhost_events_total", "Events that turns said.", &["kind"]);
        let info = gauges(r, "turnhost_info", "Always 1; the label tells the version.", &["version"]);
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            turns: TurnVectors::new(r),
            turn_repeats: counter(r, "turnhost_turn_repeats_total", "Requests that got an earlier turn's answer."),
            refused: counters(r, "turnhost_turns_refused_total", "Requests that no turn was made of.", &["code"]),
            events: EVENTS.map(|kind| events.with_label_values(&[kind])),
            running: gauge(r, "turnhost_turns_running", "Turns that run."),
            waiting: gauge(r, "turnhost_turns_waiting", "Turns that wait for their session or for a place."),
            sessions: gauge(r, "turnhost_sessions_loaded", "Sessions in memory."),
            without_store: gauge(r, "turnhost_sessions_without_store", "Sessions that the store does not keep."),
            received: bytes("turnhost_received_bytes_total", "Bytes of request bodies and of WebSockets that came."),
            sent: bytes("turnhost_sent_bytes_total", "Bytes of response bodies and of WebSockets that went."),
            responses: counters(r, "turnhost_http_responses_total", "Responses by status.", &["code"]),
            by_status: STATUSES.map(|_| OnceLock::new()).collect(),
            websockets: gauges(r, "turnhost_websocket_connections", "Open WebSockets.", &["protocol"]),
            child_processes: gauge(r, "turnhost_child_processes", "Programs that run."),
            child_processes_started: counter(
                r,
                "turnhost_child_processes_started_total",
                "Programs that were started.",
            ),
            handler_restarts: counter(
                r,
                "turnhost_handler_restarts_total",
                "Processes of a handler that were started in place of one that had ended.",
            ),
            store_commits: counter(r, "turnhost_store_commits_total", "Commits that the store made."),
            store_failures: counter(r, "turnhost_store_failures_total", "Commits that failed."),
            store_commit_seconds: histogram(
                r,
                "turnhost_store_commit_seconds",
                "How long a commit took.",
                &COMMIT_BUCKETS,
            ),
            store_written: counter(r, "turnhost_store_written_bytes_total", "Bytes of entries that were committed."),
            store_pending: gauge(r, "turnhost_store_pending_bytes", "Bytes of entries that wait for their commit."),
            degraded: gauge(r, "turnhost_store_degraded", "1 while what is said is not kept."),
            spilled: counter(r, "turnhost_log_spilled_bytes_total", "Bytes of entries that slow readers left on disk."),
            registry,
        };
        let _ = metrics.registry.register(Box::new(own_process::OwnProcess::new()));
        metrics
    }

    /// A request was refused with this code, a word of the table of faults.
    pub fn refused(&self, code: &'static str) {
        self.refused.with_label_values(&[code]).inc();
    }

    /// An event of the kind with this number in the list was said.
    pub fn event(&self, kind: usize) {
        if let Some(counter) = self.events.get(kind) {
            counter.inc();
        }
    }

    /// A response with this status was sent.
    pub fn responded(&self, status: u16) {
        if let Some(cell) = status.checked_sub(STATUSES.start).and_then(|at| self.by_status.get(usize::from(at))) {
            cell.get_or_init(|| self.responses.with_label_values(&[&status.to_string()])).inc();
        }
    }

    /// So many bytes came.
    pub fn received(&self, transport: Transport, bytes: usize) {
        self.received[transport as usize].inc_by(bytes as u64);
    }

    /// So many bytes went.
    pub fn sent(&self, transport: Transport, bytes: u64) {
        self.sent[transport as usize].inc_by(bytes);
    }

    /// A WebSocket of this protocol is open as long as what is returned lives.
    #[must_use]
    pub fn websocket(&self, protocol: &'static str) -> Open {
        Open::new(self.websockets.with_label_values(&[protocol]))
    }

    /// The page: every metric in Prometheus' text format, and its media type.
    #[must_use]
    pub fn page(&self, now: Now) -> (String, &'static str) {
        let set = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.running, now.running);
        set(&self.waiting, now.waiting);
        set(&self.sessions, now.sessions);
        set(&self.without_store, now.without_store);
        self.degraded.set(i64::from(now.is_degraded));
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        (text, "text/plain; version=0.0.4; charset=utf-8")
    }
}

/// Something that is counted while it is there.
#[derive(Debug)]
pub struct Open {
    gauge: IntGauge,
    is_closed: AtomicBool,
}

impl Open {
    /// One more.
    #[must_use]
    pub fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self { gauge, is_closed: AtomicBool::new(false) }
    }

    /// It is gone, though the value may live on.
    pub fn close(&self) {
        if !self.is_closed.swap(true, Ordering::AcqRel) {
            self.gauge.dec();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

#[expect(clippy::expect_used, reason = "names and labels are constants, and a test makes every one of them")]
fn registered<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let metric = made.expect("a metric with a right name");
    registry.register(Box::new(metric.clone())).expect("a metric of its own");
    metric
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registered(registry, IntCounter::new(name, help))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::new(name, help))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    registered(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}
