//! The body of `GET /health`, and of what answers with it.
//!
//! Owns its form. Written as it stands here, and not as a map: platforms ask every second or so, and load balancers more often.

use schemars::JsonSchema;
use serde::Serialize;

/// How the server stands.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HealthReport<'a> {
    /// Whether turns are taken.
    pub ok: bool,
    /// Whether it takes turns, is about to end, or is parked for a pause.
    pub status: ServerStatus,
    /// The version of turnhost.
    pub version: &'static str,
    /// The agent that runs turns which name none.
    pub agent: &'a str,
    /// Whether any turn runs or waits.
    pub busy: bool,
    /// Turns that run or wait.
    pub turns: u64,
    /// Turns that run.
    pub running: u64,
    /// How long ago a running turn last gave a sign of life; `null` if none runs.
    pub last_progress_ms: Option<u64>,
    /// Whether a pause of the machine would cut no work.
    pub safe_to_pause: bool,
    /// How the store is.
    pub store: StoreReport<'a>,
    /// `local`
    pub runtime: &'static str,
    /// `local`
    pub default_runtime: &'static str,
    /// `["local"]`
    pub runtimes: &'static [&'static str],
    /// Sessions.
    pub sessions: SessionsLoaded,
}

/// Whether a server takes turns.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// It does.
    Ok,
    /// It ends.
    Draining,
    /// It waits for a pause.
    Parked,
}

/// How the store is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StoreReport<'a> {
    /// `memory`: it forgets with the process; `ok`; `degraded`: it does not keep what it should.
    pub state: &'static str,
    /// Why it is degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
}

/// Sessions in memory.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SessionsLoaded {
    /// How many.
    pub loaded: u64,
}
