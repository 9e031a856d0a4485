//! The command line: one file per command.
//!
//! Owns the runtime that turns run on, and how a failure becomes a sentence and an exit code.

mod agent;
mod attach;
mod chat;
mod check;
mod conform;
mod demo;
mod dispatch;
mod init;
mod list;
mod memory;
mod mock;
mod options;
mod run;
mod schema;
mod screen;
mod serve;
mod servers;
mod sidecar;
mod template;
mod terminal;
mod typed;

use crate::config::{Command, CommandLine, ConfigError, DaemonCommand, DaemonLine, SidecarLine, StartedAs};
use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::runtime::Runtime;

/// Stopped as asked, or did what was asked.
const OK: u8 = 0;
/// Cannot start, or cannot go on.
const CANNOT: u8 = 1;
/// The command line makes no sense.
const USAGE: u8 = 2;
/// `run`, `chat`: the turn failed.
const TURN_FAILED: u8 = 3;
/// `demo`, `mock`, `check`, `conform`: something differed from the contract.
const DIFFERED: u8 = 4;
/// Stopped by Ctrl+C.
const INTERRUPTED: u8 = 130;

/// Parses the arguments and does what they say. Which program it is, its name says.
#[must_use]
pub fn main() -> ExitCode {
    memory::settle();
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name.as_deref().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
    let line = match name {
        "agentd" => {
            let words = DaemonLine::words(std::env::args_os());
            DaemonLine::try_parse_from(words).map(|line| Line::Daemon(Box::new(line)))
        }
        "agentruntime-sidecar" => SidecarLine::try_parse().map(|_| Line::Sidecar),
        _ => CommandLine::try_parse().map(|line| Line::Turnhost(Box::new(line))),
    };
    let line = match line {
        Ok(line) => line,
        Err(error) => {
            let wanted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing is left to be said when even this cannot be written.
            let _ = error.print();
            return ExitCode::from(if wanted { OK } else { USAGE });
        }
    };
    let runtime = match main_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return cannot(&format!("no runtime: {error}")),
    };
    let code = match line {
        Line::Turnhost(line) => turnhost(&runtime, *line),
        Line::Daemon(line) => daemon(&runtime, *line),
        Line::Sidecar => sidecar::alone().and_then(|config| serve::serve(&runtime, config)),
    };
    // A handler written in Rust may have left a blocking task behind; it must not keep the process.
    runtime.shutdown_background();
    match code {
        Ok(code) => ExitCode::from(code),
        Err(ConfigError(text)) => cannot(&text),
    }
}

/// The words of one of the programs that this one is.
enum Line {
    Turnhost(Box<CommandLine>),
    Daemon(Box<DaemonLine>),
    Sidecar,
}

fn turnhost(runtime: &Runtime, line: CommandLine) -> Result<u8, ConfigError> {
    let started_as = StartedAs::Turnhost;
    match line.command.unwrap_or_else(|| Command::Serve(Box::new(line.serve))) {
        Command::Serve(flags) => serve::serve(runtime, flags.into_config()?),
        Command::Run(flags) => run::run(runtime, &flags),
        Command::Chat(flags) => chat::chat(runtime, &flags),
        Command::Mock(flags) => mock::mock(runtime, &flags),
        Command::Conform(flags) => conform::conform(runtime, &flags),
        Command::Attach(flags) => attach::attach(runtime, flags.into_config(started_as)?),
        Command::Sessions(flags) => list::list(runtime, &flags, started_as),
        Command::Dispatch(flags) => dispatch::dispatch(runtime, flags.into_config(started_as)?),
        Command::Demo => demo::demo(runtime),
        Command::Init(flags) => init::init(&flags),
        Command::Check(flags) => check::check(runtime, flags),
        Command::Schema { options: Some(path), .. } => options::write(&path),
        Command::Schema { dir, .. } => schema::schema(dir.as_deref()),
    }
}

fn daemon(runtime: &Runtime, line: DaemonLine) -> Result<u8, ConfigError> {
    let started_as = StartedAs::Daemon;
    match line.command {
        None => serve::serve(runtime, line.flags.into_config()?),
        Some(DaemonCommand::Attach(flags)) => attach::attach(runtime, flags.into_config(started_as)?),
        Some(DaemonCommand::Sessions(flags)) => list::list(runtime, &flags, started_as),
        Some(DaemonCommand::Dispatch(flags)) => dispatch::dispatch(runtime, flags.into_config(started_as)?),
    }
}

fn cannot(text: &str) -> ExitCode {
    eprintln!("Error: {text}");
    ExitCode::from(CANNOT)
}

/// The runtime that turns run on. One thread serves two cores best: the HTTP workers have threads of their own.
fn main_runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).clamp(1, 8))
        .thread_name("turnhost-main")
        .enable_all()
        .build()
}
