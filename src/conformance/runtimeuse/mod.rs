//! The protocol of RuntimeUse 0.15, as a client sees it over a WebSocket.
//!
//! Owns the list of its checks and their order. `client` is the connection and its frames, `queries` the checks of
//! queries, `commands` those of commands and files, `place` where files are uploaded to.

mod client;
mod commands;
mod place;
mod queries;

use super::{Check, Report};
use crate::redact::Secret;
use std::fmt;
use std::time::Duration;
use url::Url;

const CONNECT: Check = Check { name: "runtimeuse-connect", expected: "a WebSocket upgrade is accepted" };
const FIRST_RESULT: Check =
    Check { name: "runtimeuse-first-result", expected: "a query is answered with one `result_message`" };
const MESSAGES: Check =
    Check { name: "runtimeuse-messages", expected: "every frame of a query has a form of the protocol" };
const NULL_FIELDS: Check =
    Check { name: "runtimeuse-null-fields", expected: "a field that is null means the same as one that is absent" };
const SECOND_RESULT: Check =
    Check { name: "runtimeuse-second-result", expected: "the next query on the same connection is answered, too" };
const COMMAND: Check =
    Check { name: "runtimeuse-command", expected: "a command's output comes as it is written, then its result" };
const COMMAND_FAILS: Check = Check {
    name: "runtimeuse-command-fails",
    expected: "a command that fails ends the list with its exit code, and is no error",
};
const COMMAND_ENV: Check =
    Check { name: "runtimeuse-command-env", expected: "a command runs in its `cwd` with its `env`" };
const COMMAND_INPUT: Check =
    Check { name: "runtimeuse-command-input", expected: "a command that reads its input finds its end at once" };
const PRE_COMMAND: Check =
    Check { name: "runtimeuse-pre-command", expected: "a pre command that fails is the query's error, in fixed words" };
const REDACTED: Check =
    Check { name: "runtimeuse-redacted", expected: "a secret is [REDACTED] in output and result, also across writes" };
const CANCEL: Check =
    Check { name: "runtimeuse-cancel", expected: "a cancel ends a request with one `Request cancelled`" };
const CANCEL_IDLE: Check = Check { name: "runtimeuse-cancel-idle", expected: "a cancel while nothing runs is ignored" };
const CANCEL_TREE: Check =
    Check { name: "runtimeuse-cancel-tree", expected: "a cancelled command leaves no process behind" };
const IN_FLIGHT: Check = Check {
    name: "runtimeuse-in-flight",
    expected: "a second request while one runs is refused, and the first goes on",
};
const BAD_FRAME: Check =
    Check { name: "runtimeuse-bad-frame", expected: "a frame that is no message leaves the connection usable" };
const BIG_MESSAGE: Check = Check { name: "runtimeuse-big-message", expected: "a message of 2 MB is read" };
const BIG_OUTPUT: Check = Check {
    name: "runtimeuse-big-output",
    expected: "3 MB of output arrive whole, in frames that a client of 1 MiB takes",
};
const ARTIFACT: Check = Check {
    name: "runtimeuse-artifact",
    expected: "a file that a request wrote is announced, and uploaded before the request's end",
};
const TWO_CONNECTIONS: Check =
    Check { name: "runtimeuse-two-connections", expected: "requests of two connections run at the same time" };
const DISCONNECT: Check =
    Check { name: "runtimeuse-disconnect", expected: "a client that leaves ends its command and nothing else" };
const END_SESSION: Check =
    Check { name: "runtimeuse-end-session", expected: "the end of a session is confirmed, and then it closes" };

/// All of them, in the order in which they are made.
pub const CHECKS: &[Check] = &[
    CONNECT,
    FIRST_RESULT,
    MESSAGES,
    NULL_FIELDS,
    SECOND_RESULT,
    PRE_COMMAND,
    BAD_FRAME,
    COMMAND,
    COMMAND_FAILS,
    COMMAND_ENV,
    COMMAND_INPUT,
    REDACTED,
    CANCEL,
    CANCEL_IDLE,
    CANCEL_TREE,
    IN_FLIGHT,
    BIG_MESSAGE,
    BIG_OUTPUT,
    ARTIFACT,
    TWO_CONNECTIONS,
    DISCONNECT,
    END_SESSION,
];

/// A server, as it is reached.
#[derive(Clone)]
pub struct Target {
    /// Where it is.
    pub url: Url,
    /// What it wants to be shown.
    pub token: Option<Secret>,
    /// What its agent is asked.
    pub prompt: String,
    /// How long a turn of the agent may take.
    pub turn_within: Duration,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// Makes all checks, and leaves out those that earlier ones make pointless.
pub async fn drive(report: &mut Report, target: &Target) {
    let connected = async {
        let client = client::Client::connect(target).await?;
        client.close().await;
        Ok(String::new())
    };
    if !report.check(&CONNECT, connected).await {
        report.skip_rest(CHECKS, "there is no connection");
        return;
    }
    queries::all(report, target).await;
    commands::all(report, target).await;
    report.check(&END_SESSION, queries::end_session(target)).await;
}
