//! `turnhost conform`: whether somebody's server or handler keeps its contract.
//!
//! Owns what is printed; the checks are in `conformance`.

use super::{DIFFERED, OK, agent};
use crate::config::{ConfigError, ConformFlags, HandlerProgram, Subject};
use crate::conformance::{Finding, Report, dari, handler, runtimeuse, sessions};
use crate::process::{Environment, Launch, OnExit, StdinFrom};
use crate::redact::Redactor;
use crate::telemetry::traces::TracesConfig;
use crate::telemetry::{self, LogConfig};
use std::io::Write;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long a handler may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long a stopped handler may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Makes every check of the contract, and says what came of each.
pub fn conform(runtime: &Runtime, flags: &ConformFlags) -> Result<u8, ConfigError> {
    let log = LogConfig { filter: "error".to_owned(), json: false, traces: TracesConfig::Off };
    let _log = telemetry::start(&log, Redactor::default()).map_err(ConfigError)?;
    let (subject, flags) = (flags.subject()?, flags.clone());
    let looking = runtime.spawn(async move { look(subject, flags).await });
    runtime.block_on(looking).unwrap_or_else(|error| Err(ConfigError(format!("the checks broke off: {error}"))))
}

async fn look(subject: Subject, flags: ConformFlags) -> Result<u8, ConfigError> {
    let (token, turn_within) = (flags.token()?, flags.turn_within()?);
    let json = flags.json;
    let tell = move |finding: &Finding| {
        if !json {
            // Whoever has seen enough closes the pipe.
            let _ = writeln!(std::io::stdout(), "{finding}");
        }
    };
    let ConformFlags { prompt, agent, health_path, advance_path, .. } = flags;
    let report = match subject {
        Subject::Dari(url) => {
            let mut report = Report::new("dari", &crate::outbound::websocket::shown(&url), tell);
            let target = dari::Target {
                base: url.as_str().trim_end_matches('/').to_owned(),
                health_path,
                advance_path,
                token,
                ready_within: READY,
                turn_within,
                // How somebody else's server ended is not known here.
                ended: Box::new(|| None),
            };
            dari::drive(&mut report, &target).await.map_err(ConfigError)?;
            report
        }
        Subject::RuntimeUse(url) => {
            let mut report = Report::new("runtimeuse", &crate::outbound::websocket::shown(&url), tell);
            runtimeuse::drive(&mut report, &runtimeuse::Target { url, token, prompt, turn_within }).await;
            report
        }
        Subject::Sessions(base) => {
            let mut report = Report::new("sessions", &crate::outbound::websocket::shown(&base), tell);
            let target = sessions::Target { base, token, agent, prompt, turn_within };
            sessions::drive(&mut report, &target).await.map_err(ConfigError)?;
            report
        }
        Subject::Handler { program, named, environment } => {
            let mut report = Report::new("handler", &named.display().to_string(), tell);
            let (launch, source) = started(program, environment);
            let target = handler::Target { launch, source, prompt, ready_within: READY, turn_within };
            handler::drive(&mut report, &target).await;
            report
        }
    };
    let mut out = std::io::stdout();
    let _ = if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report.record()).unwrap_or_default())
    } else {
        writeln!(out, "{}", report.sum())
    };
    Ok(if report.holds() { OK } else { DIFFERED })
}

/// How a handler is started, as the server does it.
fn started(program: HandlerProgram, env: Environment) -> (Launch, Option<&'static str>) {
    let bridge = agent::bridge(&program);
    let (program, args) = match program {
        HandlerProgram::Stdio { program, args } => (program.into(), args),
        HandlerProgram::Module { interpreter, module, .. } => {
            (interpreter.into(), bridge.map(|bridge| bridge.args(&module)).unwrap_or_default())
        }
    };
    let launch = Launch {
        program,
        args,
        cwd: None,
        env,
        stdin: StdinFrom::Pipe,
        channel: bridge.is_some(),
        on_exit: OnExit::KillRest,
        grace: GRACE,
    };
    (launch, bridge.map(|bridge| bridge.source()))
}
