//! Starts turnhost: the shim if this process is one, else the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: a process of ours that only looks after a program must not become a second server.
    if let Some(code) = turnhost::run_shim_if_asked() {
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    turnhost::cli::main()
}
