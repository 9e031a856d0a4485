//! From the agent part of the options to a handler.
//!
//! Owns nothing else: what the options mean is `config`'s, what a handler does is `handler`'s.

use crate::api::AgentKind;
use crate::config::{Agent, AgentConfig, ConfigError, HandlerProgram, Language};
use crate::handler::claude::Claude;
use crate::handler::codex::Codex;
use crate::handler::echo::Echo;
use crate::handler::openai::OpenAi;
use crate::handler::plain::{Plain, PlainProgram};
use crate::handler::stdio::{Bridge, Program, StdioHandler, StdioOptions};
use crate::handler::{Agents, DynHandler};
use crate::process::TOKEN_VARIABLE;
use crate::redact::{Redactor, Secret};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// Every agent that a server offers by name, and what it is: the built-in ones, the one of its options, and those that are
/// defined. A defined one may take the name of another.
pub fn offered(config: &AgentConfig, defined: &[(String, AgentConfig)]) -> Vec<(String, AgentKind)> {
    let mut all: BTreeMap<String, AgentKind> = BTreeMap::new();
    for agent in BUILT_IN {
        all.insert(name(&agent), kind(&agent));
    }
    all.insert(name(&config.agent), kind(&config.agent));
    all.extend(defined.iter().map(|(name, config)| (name.clone(), kind(&config.agent))));
    all.into_iter().collect()
}

const BUILT_IN: [Agent; 4] = [Agent::Echo, Agent::OpenAi, Agent::Claude, Agent::Codex];

fn kind(agent: &Agent) -> AgentKind {
    match agent {
        Agent::Claude => AgentKind::Claude,
        Agent::Codex => AgentKind::Codex,
        Agent::Plain { .. } => AgentKind::Plain,
        Agent::Echo | Agent::OpenAi | Agent::Program(_) => AgentKind::Other,
    }
}

/// What an agent is called by.
pub fn name(agent: &Agent) -> String {
    match agent {
        Agent::Echo => "echo".to_owned(),
        Agent::OpenAi => "openai".to_owned(),
        Agent::Claude => "claude".to_owned(),
        Agent::Codex => "codex".to_owned(),
        Agent::Program(program) => program_name(program),
        Agent::Plain { name, .. } => name.clone(),
    }
}

/// The handler of a server: the agent that its options ask for, and beside it every other that may be named.
pub fn handlers(config: &AgentConfig, defined: &[(String, AgentConfig)], tasks: &TaskTracker) -> Arc<dyn DynHandler> {
    let first = handler(config, &config.agent, tasks);
    let mut named: BTreeMap<String, Arc<dyn DynHandler>> = BTreeMap::new();
    for agent in BUILT_IN.iter().filter(|agent| **agent != config.agent) {
        named.insert(name(agent), handler(config, agent, tasks));
    }
    named.insert(name(&config.agent), first.clone());
    for (name, config) in defined {
        named.insert(name.clone(), handler(config, &config.agent, tasks));
    }
    Arc::new(Agents::new(first, named))
}

/// What a program is called by: its file's name.
fn program_name(program: &HandlerProgram) -> String {
    let name = |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    match program {
        HandlerProgram::Stdio { program, args } => {
            args.first().map_or_else(|| name(program), |script| name(script.as_ref()))
        }
        HandlerProgram::Module { named, .. } => name(named),
    }
}

/// The handler of one agent.
pub fn handler(config: &AgentConfig, agent: &Agent, tasks: &TaskTracker) -> Arc<dyn DynHandler> {
    let program = match agent {
        Agent::Echo => return Arc::new(Echo),
        Agent::Claude => return Arc::new(Claude::new(config.claude.clone(), tasks.clone())),
        Agent::OpenAi => return Arc::new(OpenAi::new(config.openai.clone(), tasks.clone())),
        Agent::Codex => return Arc::new(Codex::new(config.codex.clone(), tasks.clone())),
        Agent::Plain { name, program, args } => {
            let program = PlainProgram {
                name: name.clone(),
                program: program.into(),
                args: args.iter().map(Into::into).collect(),
                cwd: config.workspace.clone(),
                environment: config.engine.work.environment.clone(),
            };
            return Arc::new(Plain::new(program, tasks.clone()));
        }
        Agent::Program(program) => program,
    };
    let name = program_name(program);
    let env = config.engine.work.environment.clone();
    let program = match program {
        HandlerProgram::Stdio { program, args } => Program {
            name,
            program: program.clone().into(),
            args: args.clone(),
            bridge: None,
            cwd: config.workspace.clone(),
            env,
        },
        HandlerProgram::Module { language, interpreter, module, .. } => {
            let bridge = bridge_of(*language);
            Program {
                name,
                program: interpreter.clone().into(),
                args: bridge.args(module),
                bridge: Some(bridge),
                cwd: config.workspace.clone(),
                env,
            }
        }
    };
    let options = StdioOptions {
        isolation: config.handler_isolation,
        processes: config.handler_processes,
        sessions: config.handler_sessions,
        start_timeout: config.handler_start_timeout,
        stop_grace: config.engine.stop_grace,
        validate_output: config.validate_output,
    };
    Arc::new(StdioHandler::new(program, options, tasks.clone()))
}

/// What is always taken out of everything that leaves the process: the values of the server's own secret variables, and
/// the token, which may have come from a file.
pub fn own_secrets(config: &AgentConfig, token: Option<&Secret>) -> Redactor {
    let text = |value: &std::ffi::OsStr| value.to_str().map(str::to_owned);
    let variables = config.environment.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
    let token = token.map(|token| (TOKEN_VARIABLE.to_owned(), token.expose().to_owned()));
    Redactor::of_environment(variables.chain(token)).combined(&config.trace_secrets)
}

/// The text of `--system-prompt`.
pub fn system_prompt(config: &AgentConfig) -> Result<Option<String>, ConfigError> {
    let Some(file) = &config.system_prompt else { return Ok(None) };
    std::fs::read_to_string(file)
        .map(Some)
        .map_err(|error| ConfigError(format!("--system-prompt {}: {error}", file.display())))
}

const fn bridge_of(language: Language) -> Bridge {
    match language {
        Language::JavaScript => Bridge::JAVASCRIPT,
        Language::Python => Bridge::PYTHON,
    }
}

/// What loads a module.
pub fn bridge(program: &HandlerProgram) -> Option<Bridge> {
    match program {
        HandlerProgram::Module { language, .. } => Some(bridge_of(*language)),
        HandlerProgram::Stdio { .. } => None,
    }
}
