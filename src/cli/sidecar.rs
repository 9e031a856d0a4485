//! What the sidecar's own variables ask for, as a request for a session of the server's agent.
//!
//! Owns the meaning of `AGENT_CMD`, `AGENT_PROMPT`, `AGENT_CONFIG`, `SESSION_ID` and `TASK_ID`.

use super::agent;
use crate::api::{SidecarOnly, Stalls};
use crate::config::{self, Agent, AgentConfig, ConfigError, Driver, ServeConfig};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::time::Duration;

/// Variables that mean something to an agent: a sidecar that a user starts by hand passes its own on.
const OF_AGENTS: [&str; 4] = ["ANTHROPIC_", "OPENAI_", "CODEX_", "CLAUDE_CODE_"];

/// Variables of the sidecar itself, which no program of lines is given.
const OWN: [&str; 3] = ["AGENT_CMD", "AGENT_PROMPT", "AGENT_CONFIG"];

/// What the sidecar's own program serves: the agent that `AGENT_CMD` names.
pub fn alone() -> Result<ServeConfig, ConfigError> {
    let given = config::agent_command()?;
    let words: Vec<String> = serde_json::from_str(&given)
        .map_err(|error| ConfigError(format!("AGENT_CMD: expected a JSON array of strings: {error}")))?;
    let Some((program, args)) = words.split_first().filter(|(program, _)| !program.is_empty()) else {
        return Err(ConfigError("AGENT_CMD: the array names no program".to_owned()));
    };
    let name = program.rsplit('/').next().unwrap_or_default();
    let driver = match name {
        name if name.contains("claude") => Driver::Claude,
        name if name.contains("codex") => Driver::Codex,
        _ => Driver::Plain,
    };
    if driver == Driver::Codex && !args.is_empty() {
        // Most of what stands there is for another of its commands than the one that is driven.
        eprintln!("note: AGENT_CMD: what stands behind codex is not used");
    }
    config::sidecar(driver, program, args)
}

/// `AGENT_CONFIG`
fn own(config: &AgentConfig) -> Result<Map<String, Value>, ConfigError> {
    match variable(config, "AGENT_CONFIG") {
        "" => Ok(Map::new()),
        text => serde_json::from_str(text).map_err(|error| ConfigError(format!("AGENT_CONFIG: {error}"))),
    }
}

fn variable<'a>(config: &'a AgentConfig, name: &str) -> &'a str {
    config.environment.get(OsStr::new(name)).and_then(|value| value.to_str()).unwrap_or("")
}

/// Its limits on silence, in seconds: 0 is the usual one, -1 none.
pub fn stalls(config: &AgentConfig) -> Result<Stalls, ConfigError> {
    let own = own(config)?;
    let usual = Stalls::default();
    let limit = |name: &str, usual: Option<Duration>| match own.get(name).and_then(Value::as_f64) {
        Some(seconds) if seconds < 0.0 => None,
        Some(seconds) if seconds > 0.0 => Duration::try_from_secs_f64(seconds).ok().or(usual),
        _ => usual,
    };
    Ok(Stalls {
        warning: limit("stall_warning_timeout", usual.warning),
        kill: limit("stall_kill_timeout", usual.kill),
        result: limit("result_grace_period", usual.result),
    })
}

/// The body of a request for the sidecar's session.
pub fn request(config: &AgentConfig, alone: Option<&SidecarOnly>) -> Result<String, ConfigError> {
    let variable = |name: &str| variable(config, name);
    let own = own(config)?;
    let prompt = variable("AGENT_PROMPT");
    let decoded = STANDARD.decode(prompt).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let prompt = decoded.unwrap_or_else(|| prompt.to_owned());
    let is_plain = matches!(config.agent, Agent::Plain { .. });
    // A program of lines sees what it would see without a sidecar.
    let is_for_it =
        |name: &str| !name.starts_with("SIDECAR_") && !name.starts_with("TURNHOST_") && !OWN.contains(&name);
    let is_passed_on =
        |name: &str| OF_AGENTS.iter().any(|start| name.starts_with(start)) || (is_plain && is_for_it(name));
    let mut env = Map::new();
    for (name, value) in &config.environment {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        if is_passed_on(name) {
            env.insert(name.to_owned(), value.into());
        }
    }
    if let Some(Value::Object(more)) = own.get("env") {
        env.extend(more.clone());
    }
    let given = |name: &str| own.get(name).cloned().unwrap_or(Value::Null);
    let session_id = Some(variable("SESSION_ID")).filter(|id| uuid::Uuid::parse_str(id).is_ok());
    let effort = own.get("effort").map(|effort| json!({"model_reasoning_effort": effort}));
    let team = own.get("team_name").filter(|name| !name.as_str().unwrap_or_default().is_empty());
    let team = team
        .map(|name| json!({"name": name, "agent_name": given("team_agent_name"), "agent_id": given("team_agent_id")}));
    let request = json!({
        "agent": alone.map_or_else(|| agent::name(&config.agent), |alone| alone.agent.clone()),
        "interactive": prompt.is_empty(),
        "prompt": prompt,
        "session_id": session_id,
        "task_id": variable("TASK_ID"),
        "model": given("model"),
        "resume_session": given("resume_session"),
        "env": env,
        "lifecycle": given("lifecycle"),
        "claude": {"max_turns": given("max_turns"), "allowed_tools": given("allowed_tools"), "bare": given("bare")},
        "codex": {"approval_mode": given("approval_mode"), "config_toml": effort},
        "team": team,
    });
    Ok(request.to_string())
}
