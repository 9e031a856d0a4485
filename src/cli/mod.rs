//! The command line: one file per command.
//!
//! Owns the runtime that turns run on, and how a failure becomes a sentence and an exit code.

mod agent;
mod chat;
mod demo;
mod memory;
mod mock;
mod run;
mod schema;
mod screen;
mod serve;
mod sidecar;
mod terminal;
mod typed;

use crate::config::{Command, CommandLine, ConfigError};
use clap::Parser;
use clap::error::ErrorKind;
use std::process::ExitCode;

/// Stopped as asked, or did what was asked.
const OK: u8 = 0;
/// Cannot start, or cannot go on.
const CANNOT: u8 = 1;
/// The command line makes no sense.
const USAGE: u8 = 2;
/// `run`, `chat`: the turn failed.
const TURN_FAILED: u8 = 3;
/// `demo`, `mock`: something differed from the contract.
const DIFFERED: u8 = 4;
/// Stopped by Ctrl+C.
const INTERRUPTED: u8 = 130;

/// Parses the arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    memory::settle();
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let wanted = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing is left to be said when even this cannot be written.
            let _ = error.print();
            return ExitCode::from(if wanted { OK } else { USAGE });
        }
    };
    let command = line.command.unwrap_or_else(|| Command::Serve(Box::new(line.serve)));
    let runtime = match main_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return cannot(&format!("no runtime: {error}")),
    };
    let code = match command {
        Command::Serve(flags) => serve::serve(&runtime, *flags),
        Command::Run(flags) => run::run(&runtime, &flags),
        Command::Chat(flags) => chat::chat(&runtime, &flags),
        Command::Mock(flags) => mock::mock(&runtime, &flags),
        Command::Demo => demo::demo(&runtime),
        Command::Schema => Ok(schema::schema()),
    };
    // A handler written in Rust may have left a blocking task behind; it must not keep the process.
    runtime.shutdown_background();
    match code {
        Ok(code) => ExitCode::from(code),
        Err(ConfigError(text)) => cannot(&text),
    }
}

fn cannot(text: &str) -> ExitCode {
    eprintln!("Error: {text}");
    ExitCode::from(CANNOT)
}

/// The runtime that turns run on. One thread serves two cores best: the HTTP workers have threads of their own.
fn main_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).clamp(1, 8))
        .thread_name("turnhost-main")
        .enable_all()
        .build()
}
