//! The contract of `dari-runtime-v1`, as a platform sees it over HTTP.
//!
//! Owns the list of its checks and their order. `talk` is HTTP and the form of an answer, `turns` the checks of turns,
//! `rough` those of what should not happen and does.

mod rough;
mod talk;
mod turns;

use super::{Check, Report};
use crate::redact::Secret;
use std::fmt;
use std::time::Duration;
use talk::Host;

const HEALTH: Check = Check { name: "dari-health", expected: "the health path answers 200 once turns can be taken" };
const HEALTH_FAST: Check = Check { name: "dari-health-fast", expected: "the health path answers within 100 ms" };
const FIRST_TURN: Check =
    Check { name: "dari-first-turn", expected: "a turn without a state is answered with 200 and one JSON object" };
const ANSWER_SHAPE: Check =
    Check { name: "dari-answer-shape", expected: "an answer has a text, perhaps a state, and nothing else" };
const STATE_CARRIED: Check =
    Check { name: "dari-state-carried", expected: "the next turn goes on from the state that it is given" };
const STATE_ABSENT: Check =
    Check { name: "dari-state-absent", expected: "a turn without the key of the state is a first turn" };
const RETRY: Check = Check { name: "dari-retry", expected: "the same request again gets the same bytes" };
const RETRY_IN_FLIGHT: Check =
    Check { name: "dari-retry-in-flight", expected: "the same request twice at a time gets the same bytes twice" };
const SESSIONS: Check = Check { name: "dari-sessions", expected: "turns of two sessions at a time are both answered" };
const ORDER: Check = Check { name: "dari-order", expected: "turns of one session that come together are all answered" };
const INPUTS: Check = Check { name: "dari-inputs", expected: "an input is understood in each of its forms" };
const NO_INPUT: Check =
    Check { name: "dari-no-input", expected: "a request without an input is no fault of the server" };
const HEALTH_BUSY: Check = Check { name: "dari-health-busy", expected: "the health path answers while turns run" };
const BIG_BODY: Check = Check { name: "dari-big-body", expected: "a body of 10 MB is a turn" };
const BAD_BODY: Check =
    Check { name: "dari-bad-body", expected: "a body that makes no sense gets a 4xx, and the server lives on" };
const PATHS: Check = Check { name: "dari-paths", expected: "other paths and methods are refused" };
const CONNECTIONS: Check =
    Check { name: "dari-connections", expected: "one connection carries one answer per request" };
const HANG_UP: Check =
    Check { name: "dari-hang-up", expected: "a turn survives the loss of its connection, and its retry is answered" };
const ALIVE: Check = Check { name: "dari-alive", expected: "after all of this a turn is answered" };

/// All of them, in the order in which they are made.
pub const CHECKS: &[Check] = &[
    HEALTH,
    HEALTH_FAST,
    FIRST_TURN,
    ANSWER_SHAPE,
    STATE_CARRIED,
    STATE_ABSENT,
    RETRY,
    RETRY_IN_FLIGHT,
    SESSIONS,
    ORDER,
    INPUTS,
    NO_INPUT,
    HEALTH_BUSY,
    BIG_BODY,
    BAD_BODY,
    PATHS,
    CONNECTIONS,
    HANG_UP,
    ALIVE,
];

/// A server, as it is reached.
pub struct Target {
    /// Without a path: `http://127.0.0.1:8787`.
    pub base: String,
    /// Where its health is asked for.
    pub health_path: String,
    /// Where turns are sent.
    pub advance_path: String,
    /// What it wants to be shown.
    pub token: Option<Secret>,
    /// How long it may take until it is healthy.
    pub ready_within: Duration,
    /// How long a turn may take.
    pub turn_within: Duration,
    /// How it ended, if that can be known here and it did.
    pub ended: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Makes all checks, and leaves out those that earlier ones make pointless.
///
/// # Errors
/// When no client can be made or the address makes no sense.
pub async fn drive(report: &mut Report, target: &Target) -> Result<(), String> {
    let host = Host::new(target)?;
    let mut stage = Stage { report, host: &host };
    if !stage.check(&HEALTH, host.until_healthy()).await {
        stage.report.skip_rest(CHECKS, "the server does not become healthy");
        return Ok(());
    }
    stage.check(&HEALTH_FAST, host.health_is_fast()).await;
    if turns::first(&mut stage).await {
        turns::further(&mut stage).await;
        rough::all(&mut stage).await;
    } else {
        stage.report.skip_rest(CHECKS, "the first turn has no answer that could be read");
    }
    Ok(())
}

/// Where the checks are made: each knows whether the server is still there.
struct Stage<'a> {
    report: &'a mut Report,
    host: &'a Host<'a>,
}

impl Stage<'_> {
    async fn check(&mut self, check: &Check, work: impl Future<Output = Result<String, String>>) -> bool {
        if (self.host.target.ended)().is_some() {
            self.report.skip(check, "the server has ended");
            return false;
        }
        let ended = &self.host.target.ended;
        let work = async {
            let seen = work.await.map_err(|seen| (seen, ended()));
            match seen {
                Ok(seen) => Ok(seen),
                Err((seen, Some(end))) => Err(format!("{seen}; the server ended {end}")),
                Err((seen, None)) => {
                    // Its end is known a moment after its connections are.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    Err(ended().map_or(seen.clone(), |end| format!("{seen}; the server ended {end}")))
                }
            }
        };
        self.report.check(check, work).await
    }
}
