//! `turnhost check`: reads a bundle's dari.yml, starts its command as a platform would, and tries the contract.
//!
//! Owns what is printed and which exit code that makes; the checks are in `conformance`.

use super::terminal::Paint;
use super::{CANNOT, DIFFERED, INTERRUPTED, OK};
use crate::config::{CheckConfig, CheckFlags, ConfigError};
use crate::conformance::dari::{self, Target};
use crate::conformance::start::{self, Start, Started};
use crate::conformance::{Lines, Report, Verdict, explained, manifest};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

/// Makes the checks.
pub fn check(runtime: &Runtime, flags: CheckFlags) -> Result<u8, ConfigError> {
    let config = flags.into_config()?;
    if let Some(name) = &config.explain {
        let text = explained(name).ok_or_else(|| ConfigError(unknown(name)))?;
        out(&format!("{name}\n\n{text}\n"));
        return Ok(OK);
    }
    let checking = runtime.spawn(async move {
        tokio::select! {
            code = all(&config) => Ok(code),
            // What was started is ended by its shim, which sees us go.
            _ = tokio::signal::ctrl_c() => Ok(INTERRUPTED),
        }
    });
    runtime.block_on(checking).unwrap_or_else(|error| Err(ConfigError(format!("the check broke off: {error}"))))
}

fn unknown(name: &str) -> String {
    let names = crate::conformance::ALL.iter().flat_map(|(_, checks)| checks.iter().map(|check| check.name));
    format!("there is no check \"{name}\"; there are {}", names.collect::<Vec<_>>().join(", "))
}

async fn all(config: &CheckConfig) -> u8 {
    let subject = config.manifest.display().to_string();
    let lines = Arc::new(Mutex::new(Lines::default()));
    let (telling, json) = (lines.clone(), config.json);
    let mut report = Report::new("dari", &subject, move |finding| {
        if !json {
            telling.lock().unwrap_or_else(PoisonError::into_inner).take(finding).iter().for_each(show);
        }
    });
    let code = findings(&mut report, config).await;
    lines.lock().unwrap_or_else(PoisonError::into_inner).rest().iter().for_each(show);
    if json {
        out(&(serde_json::to_string_pretty(&report.record()).unwrap_or_default() + "\n"));
    } else {
        let paint = Paint::stdout();
        let sum = report.sum();
        out(&format!("\n{}\n", if report.holds() { paint.green(&sum) } else { paint.red(&sum) }));
        if let Some(name) = report.first_that_differs() {
            out(&format!("what to do: turnhost check --explain {name}\n"));
        }
    }
    code
}

/// Exit code 1 is for what cannot be looked at, 4 for what was and differs.
async fn findings(report: &mut Report, config: &CheckConfig) -> u8 {
    let Some(found) = manifest::check(report, &config.manifest) else {
        skip_all(report, "there is nothing to start yet");
        return if report.differs(manifest::YAML.name) { CANNOT } else { verdict(report) };
    };
    if !config.start {
        return verdict(report);
    }
    let tasks = TaskTracker::new();
    let start = Start {
        secrets: CheckConfig::secrets(&found.secrets),
        own_program: config.own_program.clone(),
        own_path: config.own_path.clone(),
        within: config.start_within,
        manifest: found,
    };
    let Some(started) = start::start(report, &start, &tasks).await else {
        skip_all(report, "nothing listens");
        return if report.differs(start::PROGRAM.name) { CANNOT } else { verdict(report) };
    };
    let started = Arc::new(started);
    if let Err(error) = drive(report, config, &start, &started).await {
        report.skip_rest(dari::CHECKS, &error);
    }
    started.stop(report).await;
    verdict(report)
}

async fn drive(report: &mut Report, config: &CheckConfig, start: &Start, started: &Arc<Started>) -> Result<(), String> {
    let watched = started.clone();
    let target = Target {
        base: format!("http://127.0.0.1:{}", started.port),
        health_path: start.manifest.health_path.clone(),
        advance_path: start.manifest.advance_path.clone(),
        token: None,
        ready_within: config.start_within,
        turn_within: config.turn_within,
        ended: Box::new(move || watched.end()),
    };
    dari::drive(report, &target).await
}

fn skip_all(report: &mut Report, why: &str) {
    for checks in [start::CHECKS, dari::CHECKS, start::AT_END] {
        report.skip_rest(checks, why);
    }
}

fn verdict(report: &Report) -> u8 {
    if report.holds() { OK } else { DIFFERED }
}

fn show((verdict, line): &(Verdict, String)) {
    let word = verdict.word();
    let paint = Paint::stdout();
    let painted = match verdict {
        Verdict::Holds => paint.green(word),
        Verdict::Differs => paint.red(word),
        Verdict::Skipped => paint.dim(word),
    };
    out(&format!("{painted}{}\n", &line[word.len()..]));
}

fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // Whoever closed our output does not want the rest.
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}
