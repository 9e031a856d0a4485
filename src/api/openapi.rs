//! `GET /openapi.json`: our HTTP, described.
//!
//! Owns the list of operations. The shapes of bodies are `wire`'s; a test walks every operation against a running server,
//! and every route of the server against the list.

use crate::wire::health::HealthReport;
use crate::wire::{dari, described, runtimeuse, sessions, v1};
use actix_web::HttpResponse;
use actix_web::http::header;
use schemars::generate::{Contract, SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// Where shapes stand in the document.
const SHAPES: &str = "/components/schemas";

/// Answers with the document.
pub async fn page() -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(document())
}

/// The shapes that were used so far: what callers send is described as it is read, what they get as it is written.
struct Shapes {
    sent: SchemaGenerator,
    got: SchemaGenerator,
}

impl Shapes {
    fn new() -> Self {
        let settings = |contract| {
            let with = |settings: &mut SchemaSettings| {
                settings.definitions_path = SHAPES.into();
                settings.contract = contract;
            };
            SchemaGenerator::new(SchemaSettings::draft2020_12().with(with))
        };
        Self { sent: settings(Contract::Deserialize), got: settings(Contract::Serialize) }
    }

    fn sent<T: JsonSchema>(&mut self) -> Schema {
        self.sent.subschema_for::<T>()
    }

    fn got<T: JsonSchema>(&mut self) -> Schema {
        self.got.subschema_for::<T>()
    }

    fn finish(mut self) -> Map<String, Value> {
        let mut all = self.sent.take_definitions(true);
        all.extend(self.got.take_definitions(true));
        all
    }
}

/// One operation, as it is put together.
struct Operation(Value);

impl Operation {
    fn new(tag: &str, id: &str, summary: &str) -> Self {
        Self(json!({"tags": [tag], "operationId": id, "summary": summary, "responses": {}}))
    }

    fn takes(mut self, place: &str, name: &str, kind: &str, about: &str) -> Self {
        let parameter = json!({"name": name, "in": place, "required": place == "path", "description": about, "schema": {"type": kind}});
        if !self.0["parameters"].is_array() {
            self.0["parameters"] = json!([]);
        }
        if let Some(all) = self.0["parameters"].as_array_mut() {
            all.push(parameter);
        }
        self
    }

    fn path(self, name: &str, about: &str) -> Self {
        self.takes("path", name, "string", about)
    }

    fn query(self, name: &str, kind: &str, about: &str) -> Self {
        self.takes("query", name, kind, about)
    }

    fn body(mut self, shape: Schema) -> Self {
        self.0["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": shape}}});
        self
    }

    fn json(self, status: &str, about: &str, shape: Schema) -> Self {
        self.answers(status, about, &json!({"application/json": {"schema": shape}}))
    }

    fn text(self, status: &str, about: &str, kind: &str) -> Self {
        self.answers(status, about, &json!({kind: {"schema": {"type": "string"}}}))
    }

    fn nothing(mut self, status: &str, about: &str) -> Self {
        self.0["responses"][status] = json!({"description": about});
        self
    }

    fn answers(mut self, status: &str, about: &str, content: &Value) -> Self {
        self.0["responses"][status] = json!({"description": about, "content": content});
        self
    }

    /// Every other status.
    fn else_error(self, shapes: &mut Shapes) -> Self {
        let shape = shapes.got::<described::ErrorText>();
        self.json("default", "It was not done: why.", shape)
    }

    fn without_token(mut self) -> Self {
        self.0["security"] = json!([]);
        self
    }

    /// What is said over a WebSocket: the shapes of its texts.
    fn socket(mut self, from_client: Option<Schema>, from_server: &[Schema]) -> Self {
        self.0["x-websocket"] = json!({"client": from_client, "server": from_server});
        self.nothing("101", "A WebSocket, if an upgrade was asked for.")
    }
}

/// The whole document, with the paths that a server has by default.
#[must_use]
pub fn document() -> Value {
    let mut shapes = Shapes::new();
    let s = &mut shapes;
    let mut paths = Map::new();
    for part in [server(s), dari_paths(s), runtimeuse_paths(s), v1_paths(s), sessions_paths(s)] {
        paths.extend(part);
    }
    let tags = [
        ("server", "The server itself."),
        ("dari", "Dari's custom runtime server, `dari-runtime-v1`. Both paths can be configured."),
        ("runtimeuse", "The WebSocket channel of RuntimeUse, on `/` and any path that nobody owns."),
        ("v1", "Every session, whichever way its turns came."),
        ("sessions", "Sessions of agentruntime 0.8."),
    ];
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "turnhost",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": env!("CARGO_PKG_DESCRIPTION"),
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"basic": []}, {"query": []}],
        "tags": tags.map(|(name, about)| json!({"name": name, "description": about})),
        "paths": paths,
        "components": {
            "schemas": shapes.finish(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "The token is the password."},
                "query": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    })
}

type Paths = Map<String, Value>;

fn path(paths: &mut Paths, path: &str, operations: impl IntoIterator<Item = (&'static str, Operation)>) {
    let all: Map<String, Value> = operations.into_iter().map(|(method, one)| (method.to_owned(), one.0)).collect();
    paths.insert(path.to_owned(), all.into());
}

fn server(s: &mut Shapes) -> Paths {
    let mut all = Paths::new();
    let health = |s: &mut Shapes, method| {
        let shape = s.got::<HealthReport<'_>>();
        Operation::new("server", method, "How the server stands. Needs no token.")
            .json("200", "It takes turns.", shape.clone())
            .json("503", "It does not, since it stops or is parked.", shape)
            .without_token()
    };
    let (get, head) = (health(s, "health"), health(s, "healthHead"));
    path(&mut all, "/health", [("get", get), ("head", head)]);
    let metrics = Operation::new("server", "metrics", "Numbers for Prometheus.")
        .text("200", "The text format 0.0.4.", "text/plain; version=0.0.4; charset=utf-8")
        .else_error(s);
    path(&mut all, "/metrics", [("get", metrics)]);
    let own = Operation::new("server", "openapi", "This document.")
        .answers("200", "OpenAPI 3.1.", &json!({"application/json": {"schema": {"type": "object"}}}))
        .else_error(s);
    path(&mut all, "/openapi.json", [("get", own)]);
    all
}

fn dari_paths(s: &mut Shapes) -> Paths {
    let mut all = Paths::new();
    let advance =
        Operation::new("dari", "advance", "A user turn. A repeat with the same message id gets the same bytes.")
            .body(s.got::<dari::AdvanceRequest<'_>>())
            .json("200", "The turn ended.", s.got::<dari::AdvanceResponse<'_>>())
            .json("default", "It did not: why. A 503 may be tried again.", s.got::<dari::ErrorBody<'_>>());
    path(&mut all, "/runtime/advance", [("post", advance)]);
    all
}

fn runtimeuse_paths(s: &mut Shapes) -> Paths {
    let mut all = Paths::new();
    let (client, server) = (s.sent::<runtimeuse::ClientMessage>(), s.got::<runtimeuse::ServerMessage<'_>>());
    let channel = Operation::new("runtimeuse", "runtimeuse", "The channel; without an upgrade there is nothing here.")
        .query("session", "string", "Queries of one name share their state, and outlive their connection.")
        .query("turn", "string", "The key of the connection's query: asked again under it, it runs once.")
        .query("after", "integer", "Go on behind the frame with this number.")
        .query("agent", "string", "An agent of the server, by name.")
        .socket(Some(client), &[server])
        .text("426", "An upgrade is needed.", "text/plain");
    path(&mut all, "/", [("get", channel)]);
    all
}

fn v1_paths(s: &mut Shapes) -> Paths {
    let mut all = Paths::new();
    let events = Operation::new("v1", "events", "A session's log, page by page or live.")
        .path("session", "The session.")
        .query("after", "integer", "From behind this number on.")
        .takes("header", "Last-Event-ID", "integer", "As `after`; wins over it.")
        .answers(
            "200",
            "A page; with `Accept: text/event-stream` everything from there on, each event's number as its id.",
            &json!({
                "application/json": {"schema": s.got::<described::EventsPage<'_>>()},
                "text/event-stream": {"schema": {"type": "string"}},
            }),
        )
        .socket(None, &[s.got::<described::LogEntry<'_>>()])
        .else_error(s);
    path(&mut all, "/v1/sessions/{session}/events", [("get", events)]);
    let shown = s.got::<described::TurnShown>();
    let begin = Operation::new("v1", "begin", "A turn.")
        .path("session", "The session, which is made if it is not there.")
        .query("wait", "number", "Wait so many seconds for its outcome.")
        .takes("header", "Idempotency-Key", "string", "A retry gets the running turn or the recorded outcome.")
        .body(s.sent::<v1::NewTurn<'_>>())
        .json("200", "It ended within `wait`.", shown.clone())
        .json("202", "It runs or waits.", shown.clone())
        .else_error(s);
    path(&mut all, "/v1/sessions/{session}/turns", [("post", begin)]);
    let show = Operation::new("v1", "turn", "How a turn stands.")
        .path("turn", "The turn.")
        .json("200", "So.", shown.clone())
        .else_error(s);
    let cancel = Operation::new("v1", "cancel", "Asks for a turn's end.")
        .path("turn", "The turn.")
        .json("200", "It was cut before.", shown.clone())
        .json("202", "It was asked.", shown.clone())
        .else_error(s);
    path(&mut all, "/v1/turns/{turn}", [("get", show), ("delete", cancel)]);
    let input = Operation::new("v1", "input", "Another message into a running turn.")
        .path("turn", "The turn.")
        .body(s.sent::<v1::NewInput>())
        .json("202", "The agent gets it.", shown)
        .else_error(s);
    path(&mut all, "/v1/turns/{turn}/input", [("post", input)]);
    let health = s.got::<HealthReport<'_>>();
    let quiesce = Operation::new("v1", "quiesce", "Before a pause: no new turns, those that run end or are cut.")
        .query("wait", "number", "How many seconds they may take to end.")
        .query("interrupt", "boolean", "Whether they are cut then.")
        .json("200", "A pause is safe now.", health.clone())
        .json("202", "It is not: turns go on.", health.clone())
        .else_error(s);
    path(&mut all, "/v1/quiesce", [("post", quiesce)]);
    let wake = Operation::new("v1", "wake", "After a pause: turns are taken again.")
        .json("200", "They are.", health)
        .else_error(s);
    path(&mut all, "/v1/wake", [("post", wake)]);
    all
}

fn sessions_paths(s: &mut Shapes) -> Paths {
    let mut all = Paths::new();
    let one = s.got::<described::SessionShown>();
    let list = s.got::<Vec<described::SessionShown>>();
    let of = |id: &str, summary: &str| Operation::new("sessions", id, summary);
    let sessions = of("sessions", "Sessions that live.").json("200", "All of them.", list.clone()).else_error(s);
    let create = of("createSession", "A session, which begins at once.")
        .body(s.sent::<sessions::SessionRequest<'_>>())
        .json("201", "It runs.", s.got::<sessions::SessionResponse<'_>>())
        .else_error(s);
    path(&mut all, "/sessions", [("get", sessions), ("post", create)]);
    let history = of("history", "Sessions that are known.").json("200", "All of them.", list).else_error(s);
    path(&mut all, "/sessions/history", [("get", history)]);
    let id = "The session: its id, or the agent's own.";
    let show = of("session", "How a session stands.").path("id", id).json("200", "So.", one.clone()).else_error(s);
    let delete = of("deleteSession", "Ends a session; its log stays.")
        .path("id", id)
        .json("200", "It has ended.", s.got::<described::SessionEnded>())
        .else_error(s);
    path(&mut all, "/sessions/{id}", [("get", show), ("delete", delete)]);
    let info = of("sessionInfo", "The same, with its places.").path("id", id).json("200", "So.", one).else_error(s);
    path(&mut all, "/sessions/{id}/info", [("get", info)]);
    let logs = of("sessionLogs", "Its log from a byte on; the header `Agentruntime-Log-Cursor` is the next one.")
        .path("id", id)
        .query("cursor", "integer", "The byte.")
        .query("limit", "integer", "At most so many bytes.")
        .text("200", "Lines of JSON.", "text/plain; charset=utf-8")
        .else_error(s);
    path(&mut all, "/sessions/{id}/logs", [("get", logs)]);
    let whole = |operation: &str, s: &mut Shapes| {
        of(operation, "Its whole log as a file; ranges work.")
            .path("id", id)
            .text("200", "Lines of JSON.", "application/x-ndjson")
            .text("206", "Some of its bytes.", "application/x-ndjson")
            .else_error(s)
    };
    let (get, head) = (whole("sessionLog", s), whole("sessionLogHead", s));
    path(&mut all, "/sessions/{id}/log", [("get", get), ("head", head)]);
    let bridge = of("bridge", "A session's stream: replay, then live.")
        .path("id", id)
        .query("since", "integer", "The byte of its log to begin at.")
        .socket(Some(s.sent::<sessions::ClientFrame<'_>>()), &[s.got::<sessions::ServerFrame<'_>>()])
        .else_error(s);
    path(&mut all, "/ws/sessions/{id}", [("get", bridge)]);
    let sidecar = of("sidecar", "The sidecar's protocol, for the server's own agent.")
        .query("since", "integer", "The byte of its log to begin at.")
        .socket(Some(s.sent::<sessions::Command<'_>>()), &[])
        .else_error(s);
    path(&mut all, "/ws", [("get", sidecar)]);
    all
}
