//! What `make dist` makes, from the file to a turn: each package is installed in an empty home without a network, and serves.

mod bundle;
mod examples;
mod npm;
mod packages;

use crate::support::programs::{Finished, Program};
use crate::support::{Server, binary, python, repository};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// Longer than an installer takes beside all the other tests.
const INSTALLED: Duration = Duration::from_mins(2);

/// One query by the real client.
const ASK: &str = "import asyncio, sys
from runtimeuse_client import QueryOptions, RuntimeUseClient
query = RuntimeUseClient(ws_url=sys.argv[1]).query('Hello', QueryOptions(system_prompt='', model='any'))
print(asyncio.run(query).data.text)";

/// The files of a release, made of the program under test; packed once for all tests.
fn dist() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dist");
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("program");
        // Half of it is for debuggers.
        let stripped = Command::new("strip").arg("-o").args([&program, &PathBuf::from(binary())]).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(binary(), &program).unwrap();
        }
        let packed = pack(&program, &folder);
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        folder
    })
}

/// `make dist` for a program that is there.
fn pack(program: &Path, folder: &Path) -> std::process::Output {
    let mut pack = Command::new(repository("packaging/build"));
    pack.env("TURNHOST_BINARY", program).env("TURNHOST_DIST", folder).env("PACK_LEVEL", "1");
    pack.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap()
}

/// The one file of a release with this beginning and end.
fn file(begin: &str, end: &str) -> PathBuf {
    let names = fs::read_dir(dist()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<String> = names.filter(|name| name.starts_with(begin) && name.ends_with(end)).collect();
    assert_eq!(found.len(), 1, "{begin}…{end}: {found:?}");
    dist().join(found.remove(0))
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// A folder with an empty home, for somebody who has nothing.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A program with an environment of a home and a `PATH`, in this folder.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.0.path()).env("HOME", self.path("home"));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// Runs it to its end, which must be a good one.
    async fn run(&self, command: Command) -> String {
        let shown = format!("{command:?}");
        let finished = self.end(command).await;
        assert_eq!(finished.code, Some(0), "{shown}\n{finished}");
        finished.stdout
    }

    async fn end(&self, command: Command) -> Finished {
        Program::start(command).end(INSTALLED).await
    }

    async fn sh(&self, line: &str) -> String {
        let mut command = self.command("sh");
        command.args(["-c", line]);
        self.run(command).await
    }
}

/// Starts an installed program and has it serve a turn to `curl` and one to the real client of RuntimeUse.
async fn serves(mut command: Command) -> Server {
    let shown = format!("{command:?}");
    let server = Server::spawn({
        command.args(["--agent", "echo", "--port", "0", "--data-dir", "memory"]);
        command
    });
    let place = Place::new();
    let turn = r#"{"input": "Hello", "session_id": "s", "message_id": "m", "state": null}"#;
    let said = place.sh(&format!("curl -sS {} -d '{turn}'", server.url("/runtime/advance"))).await;
    assert_eq!(said, r#"{"text":"Hello","state":{"v":1,"turn":1}}"#, "{shown}");
    let mut client = place.command(python());
    client.args(["-c", ASK]).arg(format!("ws://127.0.0.1:{}", server.port));
    assert_eq!(place.run(client).await, "Hello\n", "{shown}");
    server
}
