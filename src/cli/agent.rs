//! From the agent part of the options to a handler.
//!
//! Owns nothing else: what the options mean is `config`'s, what a handler does is `handler`'s.

use crate::api::AgentKind;
use crate::config::{AGENTS, Agent, AgentConfig, HandlerProgram, Language};
use crate::handler::claude::Claude;
use crate::handler::codex::Codex;
use crate::handler::echo::Echo;
use crate::handler::openai::OpenAi;
use crate::handler::stdio::{Bridge, Program, StdioHandler, StdioOptions};
use crate::handler::{Agents, DynHandler};
use crate::process::TOKEN_VARIABLE;
use crate::redact::{Redactor, Secret};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// Every agent that the server offers by name: the built-in ones, and the one of its options.
pub fn offered(config: &AgentConfig) -> Vec<(String, AgentKind)> {
    let mut all: Vec<(String, AgentKind)> = AGENTS.iter().map(|name| ((*name).to_owned(), kind(name))).collect();
    if let Agent::Program(program) = &config.agent {
        all.push((program_name(program), AgentKind::Other));
    }
    all
}

fn kind(built_in: &str) -> AgentKind {
    match built_in {
        "claude" => AgentKind::Claude,
        "codex" => AgentKind::Codex,
        _ => AgentKind::Other,
    }
}

/// The handler of a server: the agent that the options ask for, and beside it every other that may be named.
pub fn handlers(config: &AgentConfig, tasks: &TaskTracker) -> Arc<dyn DynHandler> {
    let first = handler(config, &config.agent, tasks);
    let mut named: BTreeMap<String, Arc<dyn DynHandler>> = BTreeMap::new();
    for agent in [Agent::Echo, Agent::OpenAi, Agent::Claude, Agent::Codex] {
        let handler = if agent == config.agent { first.clone() } else { handler(config, &agent, tasks) };
        named.insert(handler.name().to_owned(), handler);
    }
    if let Agent::Program(program) = &config.agent {
        named.insert(program_name(program), first.clone());
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
            let bridge = match language {
                Language::JavaScript => Bridge::JAVASCRIPT,
                Language::Python => Bridge::PYTHON,
            };
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
    Redactor::of_environment(variables.chain(token))
}
