//! The real client of RuntimeUse, playing a script of `tests/it/clients`.

use super::programs::{Finished, Program};
use super::{Server, python, repository};
use serde_json::Value;
use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

/// A little longer than the programs' own deadline: they know better where they hang.
const DEADLINE: Duration = Duration::from_mins(1);

/// Runs `clients/PROGRAM URL ARGUMENTS` and gives its results.
pub async fn play<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Value {
    let mut command = Command::new(python());
    command.arg(repository("tests/it/clients").join(program)).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    let finished: Finished = Program::start(command).end(DEADLINE).await;
    assert_eq!(finished.code, Some(0), "{program}: {finished}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{program}: {error}: {finished}"))
}

pub fn ws(server: &Server) -> String {
    format!("ws://127.0.0.1:{}", server.port)
}
