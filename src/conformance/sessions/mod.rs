//! The protocol of agentruntime 0.8, as a client sees it over HTTP and WebSockets.
//!
//! Owns the list of its checks and their order. `talk` is HTTP and the frames of a bridge, `rest` the checks of HTTP,
//! `bridge` those of WebSockets.

mod bridge;
mod rest;
mod talk;

use super::{Check, Report};
use crate::redact::Secret;
use std::fmt;
use std::time::Duration;
use talk::Host;
use url::Url;

const HEALTH: Check =
    Check { name: "sessions-health", expected: "`/health` answers 200 with a status and the list of runtimes" };
const NOT_FOUND: Check =
    Check { name: "sessions-not-found", expected: "unknown routes and sessions are 404, in the words of the contract" };
const VALIDATION: Check =
    Check { name: "sessions-validation", expected: "a request that makes no sense gets the error of the contract" };
const CREATE: Check = Check {
    name: "sessions-create",
    expected: "a session is created with 201 and the addresses of its log and stream",
};
const ENDS: Check =
    Check { name: "sessions-ends", expected: "a session with one prompt comes to `completed` with exit code 0" };
const LOG_LINES: Check =
    Check { name: "sessions-log-lines", expected: "each line of the log tells its type, data, offset and time" };
const LOG_END: Check =
    Check { name: "sessions-log-end", expected: "the last line of the log is `exit`, with the code" };
const LOG_CURSOR: Check =
    Check { name: "sessions-log-cursor", expected: "reading on from each cursor gives the whole log, byte for byte" };
const SHOWN: Check =
    Check { name: "sessions-shown", expected: "snapshot, info and list show the session with one and the same state" };
const CALLERS_ID: Check =
    Check { name: "sessions-callers-id", expected: "an id of the caller's own is kept, and good for one session" };
const REPLAY: Check = Check {
    name: "sessions-replay",
    expected: "a late client gets the log, then `connected`, then `exit` with the code",
};
const LIVE: Check =
    Check { name: "sessions-live", expected: "what is typed over the stream is a turn, and its result comes back" };
const PING: Check = Check { name: "sessions-ping", expected: "`ping` is answered with `pong`" };
const BAD_FRAME: Check =
    Check { name: "sessions-bad-frame", expected: "a bad frame is told to its sender alone, and the stream goes on" };
const LEAVING: Check = Check { name: "sessions-leaving", expected: "a client that leaves disturbs no other" };
const GOING_ON: Check = Check {
    name: "sessions-going-on",
    expected: "a client that comes back with its offset misses and repeats nothing",
};
const DELETE: Check =
    Check { name: "sessions-delete", expected: "a deleted session ends for all, is gone, and leaves its log" };

/// All of them, in the order in which they are made.
pub const CHECKS: &[Check] = &[
    HEALTH, NOT_FOUND, VALIDATION, CREATE, ENDS, LOG_LINES, LOG_END, LOG_CURSOR, SHOWN, REPLAY, CALLERS_ID, LIVE, PING,
    BAD_FRAME, LEAVING, GOING_ON, DELETE,
];

/// A server, as it is reached.
#[derive(Clone)]
pub struct Target {
    /// Without a path.
    pub base: Url,
    /// What it wants to be shown.
    pub token: Option<Secret>,
    /// The agent that sessions are created with.
    pub agent: String,
    /// What it is asked.
    pub prompt: String,
    /// How long a turn may take.
    pub turn_within: Duration,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("host", &self.base.host_str()).finish_non_exhaustive()
    }
}

/// Makes all checks, and leaves out those that earlier ones make pointless.
///
/// # Errors
/// When no client can be made.
pub async fn drive(report: &mut Report, target: &Target) -> Result<(), String> {
    let host = Host::new(target)?;
    if !report.check(&HEALTH, rest::health(&host)).await {
        report.skip_rest(CHECKS, "the server is not healthy");
        return Ok(());
    }
    report.check(&NOT_FOUND, rest::not_found(&host)).await;
    report.check(&VALIDATION, rest::validation(&host)).await;
    let mut created = None;
    report.check(&CREATE, rest::create(&host, &mut created)).await;
    let Some(id) = created else {
        report.skip_rest(CHECKS, "no session can be created");
        return Ok(());
    };
    if report.check(&ENDS, rest::ends(&host, &id)).await {
        rest::of_one_that_ended(report, &host, &id).await;
        report.check(&REPLAY, bridge::replay(&host, &id)).await;
    } else {
        for check in [&LOG_LINES, &LOG_END, &LOG_CURSOR, &SHOWN, &REPLAY] {
            report.skip(check, "the session has no end");
        }
    }
    report.check(&CALLERS_ID, rest::callers_id(&host)).await;
    bridge::all(report, &host).await;
    Ok(())
}
