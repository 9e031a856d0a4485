//! `turnhost init` and `turnhost check`: what is written works, and what is wrong is told.

mod bundles;
mod fields;
mod servers;

use crate::support::{Finished, PATIENCE, server_command};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;

/// A bundle as `init` writes it.
async fn bundle(language: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let end = run(folder.path(), &["init", language]).await;
    assert_eq!((end.code, &*end.stderr), (Some(0), ""), "{}", end.stdout);
    folder
}

/// `turnhost ARGS` in a folder.
async fn run(folder: &Path, args: &[&str]) -> Finished {
    let mut command = server_command(args);
    command.current_dir(folder);
    let mut command = tokio::process::Command::from(command);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    // Many turns, and a server that takes its 11 s to end.
    let output = tokio::time::timeout(PATIENCE * 4, output).await.expect("an end in time").expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Replaces a text of a file that is there once.
fn change(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {file}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn make_executable(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What the report says about a check.
fn finding<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// The names of the checks with this verdict.
fn with_verdict<'a>(report: &'a Value, verdict: &str) -> Vec<&'a str> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["verdict"] == verdict).map(|check| check["name"].as_str().unwrap()).collect()
}
