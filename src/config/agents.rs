//! Agents by name: one server offers several, each with options of its own.
//!
//! Owns their two forms. A definition is what one would write behind `turnhost`, so every option of an agent means the
//! same there.

use super::{AgentConfig, AgentFlags, ConfigError};
use clap::Parser;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Where further agents are named.
#[derive(Debug, clap::Args, Clone)]
pub struct AgentsFlags {
    /// A JSON file with further agents by name, {"NAME": {"agent": "claude", "claude-model": "…"}}: each has options of its own
    #[arg(long, env = "TURNHOST_AGENTS", value_name = "FILE")]
    agents: Option<PathBuf>,
    /// A further agent by name, with options of its own, as in fast="--agent claude --claude-model haiku"; may be repeated
    #[arg(long, value_name = "NAME=OPTIONS", action = clap::ArgAction::Append)]
    agent_def: Vec<String>,
}

/// The options of one definition.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, args_override_self = true, disable_help_flag = true)]
struct Definition {
    #[command(flatten)]
    flags: AgentFlags,
}

impl AgentsFlags {
    /// Every agent that is defined, by name. What works in no other place works where the server's own agent does.
    pub fn defined(&self, workspace: &Path) -> Result<Vec<(String, AgentConfig)>, ConfigError> {
        let mut all = Vec::new();
        if let Some(file) = self.agents.as_deref().filter(|file| !file.as_os_str().is_empty()) {
            let failed = |text: String| ConfigError(format!("--agents {}: {text}", file.display()));
            let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
            all.extend(read(&text, workspace, &format!("--agents {}", file.display()))?);
        }
        for definition in &self.agent_def {
            all.push(read_one(definition, workspace)?);
        }
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        if let Some(pair) = all.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(ConfigError(format!("the agent \"{}\" is defined twice", pair[0].0)));
        }
        Ok(all)
    }
}

/// The agents of a file.
fn read(text: &str, workspace: &Path, place: &str) -> Result<Vec<(String, AgentConfig)>, ConfigError> {
    let failed = |text: String| ConfigError(format!("{place}: {text}"));
    let named: Map<String, Value> = serde_json::from_str(text).map_err(|error| failed(error.to_string()))?;
    let mut all = Vec::new();
    for (name, options) in named {
        let Value::Object(options) = options else {
            return Err(failed(format!("{name}: expected an object of options")));
        };
        let words = options.iter().map(|(option, value)| words(option, value)).collect::<Result<Vec<_>, _>>();
        let words = words.map_err(|text| failed(format!("{name}: {text}")))?.concat();
        all.push(define(place, &name, words, workspace)?);
    }
    Ok(all)
}

/// `NAME=OPTIONS`
fn read_one(definition: &str, workspace: &Path) -> Result<(String, AgentConfig), ConfigError> {
    let Some((name, options)) = definition.split_once('=') else {
        return Err(ConfigError(format!("--agent-def \"{definition}\": expected NAME=OPTIONS")));
    };
    define("--agent-def", name, options.split_whitespace().map(str::to_owned).collect(), workspace)
}

/// What the fuzz target of the agents calls: the first line is a definition, all of it a file.
#[cfg(any(fuzzing, test))]
pub fn fuzz_agents(text: &str) {
    let workspace = Path::new("/");
    let sound = |all: Vec<(String, AgentConfig)>| {
        assert!(all.iter().all(|(name, _)| !name.is_empty() && !name.contains('/') && !name.starts_with('.')));
    };
    match read(text, workspace, "file") {
        Ok(all) => sound(all),
        Err(error) => assert!(error.0.starts_with("file: ") && error.0.len() > 6),
    }
    match read_one(text.lines().next().unwrap_or_default(), workspace) {
        Ok(one) => sound(vec![one]),
        Err(error) => assert!(error.0.starts_with("--agent-def")),
    }
}

/// An option as it would be written.
fn words(option: &str, value: &Value) -> Result<Vec<String>, String> {
    let flag = format!("--{}", option.replace('_', "-"));
    match value {
        Value::Bool(true) => Ok(vec![flag]),
        Value::Bool(false) | Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![format!("{flag}={text}")]),
        Value::Number(number) => Ok(vec![format!("{flag}={number}")]),
        _ => Err(format!("{option}: expected a text, a number, true or false")),
    }
}

fn define(place: &str, name: &str, words: Vec<String>, workspace: &Path) -> Result<(String, AgentConfig), ConfigError> {
    let failed = |text: &str| ConfigError(format!("{place}: agent \"{name}\": {text}"));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !(1..=64).contains(&name.len()) || !name.chars().all(is_plain) || name.starts_with('.') {
        return Err(failed("a name is 1 to 64 letters, digits, dots, hyphens and underscores"));
    }
    let own = format!("--workspace={}", workspace.display());
    let parsed = Definition::try_parse_from(std::iter::once(own).chain(words));
    let parsed = parsed.map_err(|error| {
        let text = error.to_string();
        failed(text.trim_start_matches("error: ").lines().next().unwrap_or("cannot be understood"))
    })?;
    let config = parsed.flags.into_config().map_err(|error| failed(&error.0))?;
    Ok((name.to_owned(), config))
}
