//! The scripted handler (`stub-handler`, whose head lists what a prompt can ask of it), and what it saw.

use super::{eventually, repository};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A stub with a folder of its own for its log, its marks and its gates.
pub struct Stub {
    folder: TempDir,
}

/// A turn, as the stub was asked for it.
#[derive(Debug, Deserialize)]
pub struct Call {
    pub id: String,
    pub prompt: String,
    pub session_id: String,
    pub attempt: u32,
    pub system_prompt: Option<String>,
    pub attachments: Value,
    /// As text, so that every byte counts. `null` is none.
    state: Box<RawValue>,
}

impl Call {
    pub fn state(&self) -> Option<&str> {
        Some(self.state.get()).filter(|state| *state != "null")
    }
}

/// A Python that needs no `PATH` and that every user may run: one from a user's own folder can do neither.
pub fn python() -> &'static str {
    let places = ["/usr/bin/python3", "/usr/local/bin/python3"];
    places.into_iter().find(|place| Path::new(place).exists()).expect("the tests need a system-wide python3")
}

impl Stub {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        // Open to everybody, since a server may run as another user than the tests.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let source = fs::read_to_string(repository("tests/it/support/stub-handler")).unwrap();
        let (_, rest) = source.split_once('\n').unwrap();
        let program = folder.path().join("stub-handler");
        fs::write(&program, format!("#!{}\n{rest}", python())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    /// The handler to start.
    pub fn program(&self) -> PathBuf {
        self.path("stub-handler")
    }

    /// A path in the stub's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives a server's command what the stub needs of the environment.
    pub fn environment(&self, command: &mut Command) {
        command.env("STUB_LOG", self.path("log")).env("STUB_MARKS", self.path("marks"));
    }

    /// The turns it was asked for, in their order.
    pub fn calls(&self) -> Vec<Call> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        // A line that is just being written is no call yet.
        let lines = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    pub fn last_call(&self) -> Call {
        self.calls().pop().expect("a call")
    }

    /// Waits until it was asked for so many turns.
    pub async fn called(&self, times: usize) {
        eventually(&format!("call {times}"), || (self.calls().len() >= times).then_some(())).await;
    }

    /// What `mark` wrote, line by line.
    pub fn marks(&self) -> Vec<String> {
        fs::read_to_string(self.path("marks")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub async fn marked(&self, mark: &str) {
        eventually(&format!("mark {mark}"), || self.marks().iter().any(|found| found == mark).then_some(())).await;
    }

    /// The step that waits for a gate of this name.
    pub fn gate(&self, name: &str) -> String {
        format!("gate {}", self.path(name).display())
    }

    pub fn open(&self, gate: &str) {
        fs::write(self.path(gate), "").unwrap();
    }
}

/// A prompt that is a script of these steps.
pub fn script(steps: &[&str]) -> String {
    format!("#stub\n{}", steps.join("\n"))
}
