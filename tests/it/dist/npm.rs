//! The packages for npm: no node stays beside the server, and the server does not stay without npx.

use super::{Place, file, serves, version};
use crate::support::{Server, eventually};
use std::fs;
use std::process::Command;

/// A program in whose environment npm has no registry and no word to say about itself.
pub fn npm(place: &Place, program: &str) -> Command {
    let mut command = place.command(program);
    command.env("npm_config_registry", "http://127.0.0.1:9").env("npm_config_fetch_retries", "0");
    command.env("npm_config_update_notifier", "false").env("npm_config_audit", "false").env("npm_config_fund", "false");
    command
}

/// The name of a process's program; nothing once it is gone.
fn program(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// A process's parent.
fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

/// The process that listens on this server's port, where another was started.
fn listener(server: &Server) -> u32 {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", server.port);
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.into_iter().find(|row| row[1].ends_with(&port) && row[3] == "0A").expect("a listener");
    let socket = format!("socket:[{}]", row[9]);
    let mut processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let has = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| link.as_os_str() == socket.as_str())
    };
    processes.find(has).expect("its process")
}

fn command_package() -> std::path::PathBuf {
    file(&format!("turnhost-{}", version()), ".tgz")
}

async fn install(place: &Place) {
    let mut command = npm(place, "npm");
    command.args(["install", "--offline"]).args([command_package(), file("turnhost-linux", ".tgz")]);
    place.run(command).await;
}

#[tokio::test]
async fn the_command_is_the_program_itself() {
    let place = Place::new();
    install(&place).await;
    let server = serves(place.command(place.path("node_modules/.bin/turnhost"))).await;
    // What was started is the program: no shell and no node is left, above it or below.
    assert_eq!((listener(&server), program(server.pid()).as_deref()), (server.pid(), Some("turnhost")));
}

#[tokio::test]
async fn npx_starts_it_and_takes_it_along() {
    let place = Place::new();
    // From a registry npx would do this itself; the wait for a server is not made for installers.
    install(&place).await;
    let mut npx = npm(&place, "npx");
    npx.args(["-y", "turnhost"]);
    let mut server = serves(npx).await;
    let pid = listener(&server);
    assert_eq!(program(pid).as_deref(), Some("turnhost"));
    // The one node is that of npx itself.
    let mut above = parent(pid);
    while above != server.pid() {
        assert_ne!(program(above).as_deref(), Some("node"), "a node between npx and the server");
        above = parent(above);
    }
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.exited().await;
    // The shell of npx ends without a word to the server, which sees it and stops.
    eventually("the server's end", || program(pid).is_none().then_some(())).await;
}

/// Left out by `--omit=optional`, or by a lock file from another machine.
#[tokio::test]
async fn the_command_without_its_program_says_what_to_do() {
    let place = Place::new();
    let mut command = npm(&place, "npm");
    command.args(["install", "--offline", "--omit=optional"]).arg(command_package());
    place.run(command).await;
    let finished = place.end(place.command(place.path("node_modules/.bin/turnhost"))).await;
    assert_eq!(finished.code, Some(1), "{finished}");
    assert!(
        finished.stderr.contains("is not installed") && finished.stderr.contains("npm install @turnhost/"),
        "{finished}"
    );
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
}
