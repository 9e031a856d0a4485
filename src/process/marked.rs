//! Ending those processes below a program that carry a mark.
//!
//! Owns nothing: it is for a program that runs commands for several of its users, of whom one is done. What such a program
//! kills by itself is a command's process group; what called `setsid` stays, but it has kept its environment.

use super::child::Child;
use super::tree::Tree;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

/// What forks while we look is met in the next round; beyond this many it is a fork bomb, and not ours to race.
const ROUNDS: usize = 20;

/// Kills everything below the program's shim, but not the program, whose environment has this variable with this value.
pub async fn kill_marked(child: &Child, name: &str, value: &str) {
    let Some(program) = child.pid().and_then(|pid| i32::try_from(pid).ok()) else { return };
    let entry = format!("{name}={value}").into_bytes();
    let _ = tokio::task::spawn_blocking(move || kill_below(Pid::from_raw(program), &entry)).await;
}

fn kill_below(program: Pid, entry: &[u8]) {
    let tree = Tree::new();
    let Some(shim) = tree.parent(program) else { return };
    for _ in 0..ROUNDS {
        let mut found = false;
        for pid in tree.descendants(shim, |_| {}) {
            if pid != program && carries(pid, entry) {
                found |= kill(pid, Signal::SIGKILL).is_ok();
            }
        }
        if !found {
            return;
        }
    }
}

/// A process that has ended has no environment any more.
fn carries(pid: Pid, entry: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|one| one == entry))
}
