//! The conformance list of `dari-runtime-v1` (section 10): one test per number, played by a mock of the platform.
//!
//! Here is the driver: it starts the server with the stub as its handler, posts turns, and holds every answer on the
//! advance path against sections 3.1 and 3.4, whatever a check looks at besides. The checks of the list that need
//! agents (3, 21, 28) or the durable store (14 to 16, 24, the restart in 9) come with those.

mod environment;
mod events;
mod input;
mod large;
mod limits;
mod malformed;
mod order;
mod pause;
mod repeats;
mod start;
mod state;
mod surface;

use crate::support::http::{self, Http};
use crate::support::stub::Stub;
use crate::support::{HttpAnswer, PATIENCE, Server, server_command};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::process::Command;
use std::sync::Mutex;

const ADVANCE: &str = "/runtime/advance";

/// How the driver uses connections: a new one for every request, as the proxies of hosted sandboxes do, or a few that
/// are kept. Check 19 runs the list in both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Close,
    KeepAlive,
}

/// A server, its stub, and the platform's side of the wire.
pub struct Dari {
    pub server: Server,
    pub stub: Stub,
    mode: Mode,
    idle: Mutex<Vec<Http>>,
}

/// The body of a user turn's 200.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    pub text: String,
    #[serde(default, deserialize_with = "present")]
    state: Option<Box<RawValue>>,
}

/// Keeps `"state":null` apart from no state at all.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl Body {
    /// The bytes of the state; `None` where the key is absent.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref().map(RawValue::get)
    }
}

/// The command of section 6.1 with `--handler` in the place of `--agent`, on loopback unless `host` says otherwise.
pub fn command(stub: &Stub, host: Option<&str>, more: &[&str]) -> Command {
    let program = stub.program();
    let mut args = vec!["serve", "--handler", program.to_str().unwrap()];
    args.extend(host.iter().flat_map(|host| ["--host", host]));
    args.extend(["--protocols", "dari", "--no-auth"]);
    args.extend(more);
    let mut command = server_command(&args);
    stub.environment(&mut command);
    command
}

impl Dari {
    pub fn start(mode: Mode) -> Self {
        Self::start_with(mode, &[], |_| {})
    }

    /// The same with more options, and a last word on the command.
    pub fn start_with(mode: Mode, options: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let stub = Stub::new();
        let mut command = command(&stub, None, options);
        command.args(["--port", "0"]);
        change(&mut command);
        Self::of(mode, Server::spawn(command), stub)
    }

    pub fn of(mode: Mode, server: Server, stub: Stub) -> Self {
        Self { server, stub, mode, idle: Mutex::default() }
    }

    /// A new connection.
    pub async fn connect(&self) -> Http {
        Http::connect(self.server.address()).await
    }

    /// A new connection on which a turn was asked for and nothing is read yet.
    pub async fn post_and_hold(&self, body: &Value) -> Http {
        let mut connection = self.connect().await;
        connection.send(&http::request("POST", ADVANCE, &[], body.to_string().as_bytes())).await;
        connection
    }

    /// Any request, with the connection handling of the mode.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> HttpAnswer {
        let kept = if self.mode == Mode::KeepAlive { self.idle.lock().unwrap().pop() } else { None };
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await,
        };
        let mut headers = headers.to_vec();
        if self.mode == Mode::Close {
            headers.push(("Connection", "close"));
        }
        connection.send(&http::request(method, path, &headers, body)).await;
        let answer = connection.answer_within(method, PATIENCE * 2).await;
        // A body that was refused unread ends its connection; nothing else does.
        let ends = answer.status >= 400 && answer.header("connection") == Some("close");
        if self.mode == Mode::Close || ends {
            assert!(connection.is_ended_by_server().await, "the connection goes on after {answer:?}");
        } else {
            assert_eq!(answer.header("connection"), None, "the connection is not kept: {answer:?}");
            self.idle.lock().unwrap().push(connection);
        }
        if path.split('?').next().unwrap().trim_end_matches('/') == ADVANCE && method != "HEAD" {
            holds_the_contract(&answer);
        }
        answer
    }

    /// `POST` on the advance path with these bytes.
    pub async fn post_raw(&self, body: &[u8]) -> HttpAnswer {
        self.request("POST", ADVANCE, &[("Content-Type", "application/json")], body).await
    }

    pub async fn post(&self, body: &Value) -> HttpAnswer {
        self.post_raw(body.to_string().as_bytes()).await
    }

    /// A user turn, which must be answered with 200.
    pub async fn turn(&self, body: &Value) -> Body {
        turn_body(&self.post(body).await)
    }

    /// Opens new connections from here on.
    pub fn forget_connections(&self) {
        self.idle.lock().unwrap().clear();
    }

    pub fn calls(&self) -> usize {
        self.stub.calls().len()
    }

    pub async fn is_healthy(&self) {
        let health = self.request("GET", "/health", &[], b"").await;
        assert_eq!((health.status, health.body.as_str()), (200, r#"{"ok":true}"#));
    }
}

/// The body of an error, except that of health.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    detail: String,
}

/// The body of a user turn's answer.
pub fn turn_body(answer: &HttpAnswer) -> Body {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}

/// Sections 3.1, 3.4 and 2.7: what every answer on the advance path must be like.
pub fn holds_the_contract(answer: &HttpAnswer) {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
    assert_eq!(length, Some(answer.body.len()), "{answer:?}");
    if answer.status == 200 {
        if answer.body != "{}" {
            // Unknown keys and keys that come twice are errors of this reader.
            assert!(!turn_body(answer).text.is_empty(), "an empty text: {answer:?}");
        }
        return;
    }
    let refusal: Refusal = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert!(!refusal.detail.is_empty(), "{answer:?}");
    assert_eq!(answer.header("retry-after").is_some(), answer.status == 503, "{answer:?}");
}
