//! What a `POST /sessions` asks for: checked in the protocol's order, refused in its words.
//!
//! Owns that order and those words. What comes of it is a record, a plan for the session's task, and warnings.

use super::conduct::Plan;
use super::hooks::Hooks;
use super::materialise::Materialised;
use super::{AgentKind, Sessions, book, effect, times, work_dir};
use crate::json;
use crate::model::{EnvPolicy, OnDrain, RawJson, SessionId, StateIn, TurnRequest};
use crate::redact::Secret;
use crate::wire::sessions::{Mount, SessionRecord, SessionRequest, Team};
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde_json::{Value, json as object};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Why there is no session.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    body: Value,
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: object!({"error": error.into()}) }
    }

    fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    fn bad_with(error: &str, more: Value) -> Self {
        let mut body = more;
        body["error"] = error.into();
        Self { status: StatusCode::BAD_REQUEST, body }
    }

    /// What is wrong, in one line.
    pub fn text(&self) -> String {
        let error = self.body["error"].as_str().unwrap_or_default();
        match self.body["message"].as_str() {
            Some(message) => format!("{error}: {message}"),
            None => error.to_owned(),
        }
    }

    pub fn answer(&self) -> HttpResponse {
        HttpResponse::build(self.status).content_type(super::JSON).body(self.body.to_string())
    }
}

/// A session that may begin.
pub struct Asked<'a> {
    pub uuid: Uuid,
    pub record: SessionRecord,
    pub request: SessionRequest<'a>,
    pub kind: AgentKind,
    pub start: Start,
    pub warnings: Vec<String>,
}

/// How its first turn begins.
pub struct Start {
    engine_id: SessionId,
    state: Option<RawJson>,
    timeout: Option<Duration>,
}

/// Checks a request, up to the limit of sessions.
pub fn check<'a>(body: &'a [u8], sessions: &Sessions) -> Result<Asked<'a>, Refusal> {
    let text = json::check(body).map_err(|error| Refusal::bad(format!("invalid request body: {error}")))?;
    if !json::is_object(text) {
        return Err(Refusal::bad("invalid request body: expected an object"));
    }
    let request: SessionRequest<'_> =
        serde_json::from_str(text).map_err(|error| Refusal::bad(format!("invalid request body: {error}")))?;
    if request.agent.is_empty() {
        return Err(Refusal::bad("agent is required"));
    }
    if request.prompt.is_empty() && !request.interactive {
        return Err(Refusal::bad("prompt is required"));
    }
    if !["", "local"].contains(&request.runtime.as_str()) {
        let text = format!("unknown runtime: {}", request.runtime);
        return Err(Refusal::bad_with(&text, object!({"available": ["local"]})));
    }
    let mounts = mounts(&request);
    let folder = working_directory(&request, &mounts);
    if let Some(folder) = &folder {
        work_dir::check(folder, sessions.options.home.as_deref())
            .map_err(|message| Refusal::bad_with("invalid_work_dir", object!({"message": message})))?;
    }
    let kind = sessions.kind(&request.agent);
    let kind = kind.ok_or_else(|| Refusal::bad(format!("unknown agent: {}", request.agent)))?;
    let team =
        request.team.as_ref().map(|team| checked_team(team, kind, sessions.options.home.as_deref())).transpose()?;
    let state = resumed(&request.resume_session, kind, sessions)?;
    let (uuid, id) = session_id(&request.session_id)?;
    if sessions.book.get(&uuid).is_some() {
        return Err(Refusal::new(StatusCode::CONFLICT, "session_id already exists"));
    }
    let timeout = match request.timeout.as_str() {
        "" => None,
        text => {
            let timeout = times::duration(text).ok_or_else(|| Refusal::bad(format!("invalid timeout: {text}")))?;
            Some(timeout).filter(|timeout| !timeout.is_zero())
        }
    };
    if let Some(name) = request.env.iter().find_map(|(name, value)| {
        (name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')).then_some(name)
    }) {
        return Err(Refusal::bad(format!("invalid env name: {name}")));
    }
    let engine_id = SessionId::new(&uuid.hyphenated().to_string()).map_err(|error| Refusal::bad(error.to_string()))?;
    let mut tags = request.tags.clone();
    if let Some(team) = &team {
        tags.insert("team".to_owned(), team.name.clone());
        tags.insert("team_agent".to_owned(), team.agent_name.clone());
    }
    let record = SessionRecord {
        id,
        task_id: request.task_id.clone(),
        agent: request.agent.clone(),
        name: request.name.clone(),
        tags,
        team,
        interactive: request.interactive,
        state: "running".to_owned(),
        created_at: times::now(),
        work_dir: folder,
        ..SessionRecord::default()
    };
    let warnings = effect::warnings(&request, kind);
    let start = Start { engine_id, state, timeout };
    Ok(Asked { uuid, record, request, kind, start, warnings })
}

/// What the session's task is to do.
pub fn plan(
    request: SessionRequest<'_>,
    kind: AgentKind,
    record: &SessionRecord,
    made: Materialised,
    start: Start,
) -> Plan {
    let mounts = mounts(&request);
    let folder = record.work_dir.as_deref().map(PathBuf::from);
    let hooks = Hooks::new(request.lifecycle, mounts, folder.clone(), record);
    let mut env: BTreeMap<String, Secret> =
        request.env.into_iter().map(|(name, value)| (name, Secret::new(value))).collect();
    for (name, value) in made.env {
        env.entry(name.to_owned()).or_insert_with(|| Secret::new(value));
    }
    let metadata = Some(Value::Object(made.metadata)).filter(|metadata| metadata != &object!({}));
    let is_secret = |name: &str, value: &Secret| {
        let name = name.to_ascii_uppercase();
        ["KEY", "TOKEN", "SECRET", "PASSWORD"].iter().any(|end| name.ends_with(end)) && value.expose().len() >= 8
    };
    let secrets = env.iter().filter(|(name, value)| is_secret(name, value)).map(|(_, value)| value.clone()).collect();
    let template = TurnRequest {
        model: Some(request.model).filter(|model| !model.is_empty()),
        state: StateIn::Given(start.state),
        metadata: metadata.map(|metadata| RawJson::from_valid(metadata.to_string())),
        env: Some(env),
        env_policy: EnvPolicy::AllowList,
        secrets,
        agent: Some(request.agent.into()),
        cwd: folder,
        on_drain: OnDrain::Cancel,
        ..TurnRequest::new(start.engine_id, "sessions", "")
    };
    Plan {
        template,
        prompt: Some(request.prompt).filter(|prompt| !prompt.is_empty()),
        timeout: start.timeout,
        hooks,
        kind,
    }
}

/// The UUID, and the form in which it is shown: as it was sent, where it has hyphens and nothing else.
fn session_id(sent: &str) -> Result<(Uuid, String), Refusal> {
    if sent.is_empty() {
        let uuid = Uuid::new_v4();
        return Ok((uuid, uuid.hyphenated().to_string()));
    }
    let uuid = Uuid::parse_str(sent).map_err(|_| Refusal::bad("session_id must be a valid UUID"))?;
    let plain = uuid.hyphenated().to_string();
    let shown = if plain.eq_ignore_ascii_case(sent) { sent.to_owned() } else { plain };
    Ok((uuid, shown))
}

/// All mounts: of `work_dir`, as they are, and of `volumes`.
fn mounts(request: &SessionRequest<'_>) -> Vec<Mount> {
    let mut mounts = Vec::new();
    if !request.work_dir.is_empty() {
        mounts.push(Mount {
            host: request.work_dir.clone(),
            container: "/workspace".to_owned(),
            mode: "rw".to_owned(),
            r#type: "bind".to_owned(),
        });
    }
    mounts.extend(request.mounts.iter().cloned());
    mounts.extend(request.volumes.iter().filter_map(|volume| {
        let mut parts = volume.splitn(3, ':');
        let (host, container) = (parts.next()?, parts.next()?);
        let mode = parts.next().filter(|mode| !mode.is_empty()).unwrap_or("rw");
        let kind = if host.starts_with('/') { "bind" } else { "volume" };
        Some(Mount {
            host: host.to_owned(),
            container: container.to_owned(),
            mode: mode.to_owned(),
            r#type: kind.to_owned(),
        })
    }));
    mounts
}

fn working_directory(request: &SessionRequest<'_>, mounts: &[Mount]) -> Option<String> {
    if !request.work_dir.is_empty() {
        return Some(request.work_dir.clone());
    }
    let binds = || mounts.iter().filter(|mount| ["", "bind"].contains(&mount.r#type.as_str()));
    let found = binds().find(|mount| mount.mode != "ro").or_else(|| binds().next())?;
    Some(found.host.clone()).filter(|host| !host.is_empty())
}

fn checked_team(team: &Team, kind: AgentKind, home: Option<&Path>) -> Result<Team, Refusal> {
    if team.name.is_empty() {
        return Err(Refusal::bad("team.name is required"));
    }
    if team.agent_name.is_empty() {
        return Err(Refusal::bad("team.agent_name is required for team sessions"));
    }
    if kind != AgentKind::Claude {
        return Err(Refusal::bad("team config is only supported for claude agent"));
    }
    let is_plain = !team.name.contains('/') && ![".", ".."].contains(&team.name.as_str());
    let config = home.map(|home| home.join(".claude/teams").join(&team.name).join("config.json"));
    if !is_plain || !config.is_some_and(|config| config.is_file()) {
        let message = "orchestrator must scaffold team directory before spawning";
        return Err(Refusal::bad_with("team not found", object!({"team": team.name, "message": message})));
    }
    let mut team = team.clone();
    if team.agent_id.is_empty() {
        team.agent_id = format!("{}@{}", team.agent_name, team.name);
    }
    Ok(team)
}

/// The state that a session begins with which goes on with another.
fn resumed(id: &str, kind: AgentKind, sessions: &Sessions) -> Result<Option<RawJson>, Refusal> {
    if id.is_empty() {
        return Ok(None);
    }
    let mut native = id.to_owned();
    if let Some(earlier) = Uuid::parse_str(id).ok().and_then(|id| sessions.book.find(&id)) {
        let record = earlier.record();
        let is_same = sessions.kind(&record.agent) == Some(kind);
        let state = book::state(&earlier.folder).filter(|state| is_same && json::check(state.as_bytes()).is_ok());
        match (state, record.agent_session_id) {
            (Some(state), _) => return Ok(Some(RawJson::from_valid(state))),
            (None, Some(id)) if is_same => native = id,
            _ => return Err(Refusal::bad(format!("session {id} has no agent session to resume"))),
        }
    }
    Ok(kind.state_of(&native))
}
