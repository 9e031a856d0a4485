//! A server under measurement: a process of its own, what it uses, and the median of what was measured.

#![allow(dead_code, reason = "each bench uses a part")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub struct Served {
    child: Child,
    pub port: u16,
}

impl Served {
    /// Starts a program that says `… on port N …` first.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let port = line.split("on port ").nth(1).and_then(|rest| rest.split([' ', '\n']).next());
        Self { child, port: port.and_then(|port| port.parse().ok()).expect("a port in the line") }
    }

    pub fn turnhost(args: &[&str]) -> Self {
        let ours = ["--port", "0", "--log-level", "error"];
        Self::start(Command::new(turnhost()).args(ours).args(args))
    }

    /// What the process has used of the processor so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it lives");
        let after = stat.rsplit_once(") ").expect("a name in brackets").1;
        let ticks: Vec<u64> = after.split(' ').skip(11).take(2).map(|word| word.parse().expect("a number")).collect();
        // A tick is a hundredth of a second on every Linux that turnhost runs on.
        Duration::from_millis((ticks[0] + ticks[1]) * 10)
    }

    /// A field of its status in KiB: `VmRSS:`, `VmHWM:`, `RssAnon:`.
    pub fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program: the release that `TURNHOST_BINARY` names, or the one that was built with the bench. That has what tests need
/// besides.
pub fn turnhost() -> PathBuf {
    std::env::var_os("TURNHOST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_turnhost").into(), PathBuf::from)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
