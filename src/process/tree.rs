//! Finding and signalling the descendants of a process.
//!
//! Reads `/proc`; knows nothing of why. A listing is a moment's view: what forks meanwhile is found by the caller's next
//! round, so callers repeat until the kernel says that no child is left.

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A view of the process table.
pub(super) struct Tree {
    proc: PathBuf,
    /// Whether the kernel tells children directly; many small sandbox kernels are built without.
    direct: bool,
}

impl Tree {
    /// The table of this machine.
    pub(super) fn new() -> Self {
        Self::at(Path::new("/proc"))
    }

    fn at(proc: &Path) -> Self {
        let own = std::process::id();
        let direct = proc.join(format!("{own}/task/{own}/children")).exists();
        Self { proc: proc.to_owned(), direct }
    }

    /// The children of `parent`, the ended but unreaped ones included.
    pub(super) fn children(&self, parent: Pid) -> Vec<Pid> {
        let mut children = Vec::new();
        if self.direct {
            self.listed_children(parent, &mut children);
        } else {
            self.scan(|pid, its_parent| children.extend((its_parent == parent).then_some(pid)));
        }
        children
    }

    /// The parent of a process that has not been reaped.
    pub(super) fn parent(&self, pid: Pid) -> Option<Pid> {
        parent_in_stat(&fs::read(self.proc.join(format!("{pid}/stat"))).ok()?)
    }

    /// Everything below `root`, parents before their children. The children of `root` are handed to `first` at once:
    /// what forks and ends is gone by the time a long table has been read.
    pub(super) fn descendants(&self, root: Pid, mut first: impl FnMut(Pid)) -> Vec<Pid> {
        let mut table: HashMap<Pid, Vec<Pid>> = HashMap::new();
        if !self.direct {
            self.scan(|pid, parent| {
                if parent == root {
                    first(pid);
                }
                table.entry(parent).or_default().push(pid);
            });
        }
        let mut found = Vec::new();
        let mut seen = HashSet::from([root]);
        let mut next = 0;
        let mut parent = root;
        loop {
            let mut children = table.remove(&parent).unwrap_or_default();
            if self.direct {
                self.listed_children(parent, &mut children);
            }
            // A process that moves while we read may be met twice.
            children.retain(|pid| seen.insert(*pid));
            if self.direct && parent == root {
                children.iter().copied().for_each(&mut first);
            }
            found.append(&mut children);
            let Some(&following) = found.get(next) else { return found };
            parent = following;
            next += 1;
        }
    }

    /// The kernel keeps children per thread.
    fn listed_children(&self, parent: Pid, children: &mut Vec<Pid>) {
        let Ok(threads) = fs::read_dir(self.proc.join(format!("{parent}/task"))) else { return };
        for thread in threads.flatten() {
            let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            children.extend(list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
        }
    }

    /// All processes and their parents, by rising process id. What is started meanwhile is mostly met too.
    fn scan(&self, mut met: impl FnMut(Pid, Pid)) {
        let Ok(entries) = fs::read_dir(&self.proc) else { return };
        let mut path = self.proc.clone();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            path.push(&name);
            path.push("stat");
            // One read into a fixed buffer: the part we want comes early, and this runs for every process there is.
            let mut line = [0; 256];
            let length = fs::File::open(&path).and_then(|mut file| file.read(&mut line)).unwrap_or(0);
            if let Some(parent) = parent_in_stat(&line[..length]) {
                met(Pid::from_raw(pid), parent);
            }
            path.pop();
            path.pop();
        }
    }
}

/// The parent in a line of `/proc/PID/stat`: the second word after the name. The name is in brackets and may itself
/// contain brackets and spaces, so the last bracket counts.
fn parent_in_stat(stat: &[u8]) -> Option<Pid> {
    let after_name = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
    let mut words = after_name.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    std::str::from_utf8(words.nth(1)?).ok()?.parse().ok().map(Pid::from_raw)
}

/// Asks the group of `leader`, if it leads one still, and all these processes to end, each once: programs take a second
/// SIGTERM for impatience. Stopped ones are continued, so that they can.
///
/// Between listing and signalling a process that is not our direct child could end and its number go to another one.
/// That needs the whole range of numbers (32,768 at least) to pass within microseconds; direct children are safe, their
/// numbers are kept until we reap them.
pub(super) fn terminate(leader: Option<Pid>, processes: &[Pid]) {
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        // As one: what is being forked in the group right now gets it too.
        if let Some(group) = leader {
            let _ = killpg(group, signal);
        }
        for pid in processes {
            if leader.is_none() || getpgid(Some(*pid)).ok() != leader {
                let _ = kill(*pid, signal);
            }
        }
    }
}

/// Kills processes together with their process groups.
///
/// The kernel signals a group as one: no member can fork its way out, which killing one by one cannot promise. The
/// groups are ours as well: a group never spans sessions, and a session never reaches beyond the descendants of the
/// process that made it, which is the shim itself or one below it.
pub(super) struct Killer {
    groups: HashSet<Pid>,
}

impl Killer {
    /// One round of killing. The group `spared` is left alone, though not its members.
    pub(super) fn new(spared: Pid) -> Self {
        Self { groups: HashSet::from([spared]) }
    }

    /// Kills one process, and its group if that was not done in this round.
    pub(super) fn kill(&mut self, pid: Pid) {
        if let Ok(group) = getpgid(Some(pid))
            && self.groups.insert(group)
        {
            kill_group(group);
        }
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Kills a process group.
pub(super) fn kill_group(group: Pid) {
    // 0 and 1 would mean "my own group" and "everyone".
    if group.as_raw() > 1 {
        let _ = killpg(group, Signal::SIGKILL);
    }
}

/// Interrupts a process group, as a terminal does.
pub(super) fn interrupt_group(group: Pid) {
    if group.as_raw() > 1 {
        let _ = killpg(group, Signal::SIGINT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pids(raw: &[i32]) -> Vec<Pid> {
        raw.iter().copied().map(Pid::from_raw).collect()
    }

    #[test]
    fn the_parent_is_found_behind_any_name() {
        let parent = |stat: &str| parent_in_stat(stat.as_bytes()).map(Pid::as_raw);
        assert_eq!(parent("12 (sh) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent("12 (a) b ) (c) R 8 12"), Some(8));
        assert_eq!(parent("12 (sh"), None);
        assert_eq!(parent(""), None);
        let odd = b"12 (\xff\xfe) S 9 1".as_slice();
        assert_eq!(parent_in_stat(odd).map(Pid::as_raw), Some(9));
    }

    #[test]
    fn descendants_by_scanning_and_by_asking_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, parent) in [(10, 1), (11, 10), (12, 10), (13, 12), (14, 13), (20, 1), (21, 20)] {
            let task = dir.path().join(format!("{pid}/task/{pid}"));
            fs::create_dir_all(&task).unwrap();
            fs::write(dir.path().join(format!("{pid}/stat")), format!("{pid} (x y) S {parent} 0 0")).unwrap();
            fs::write(task.join("children"), "").unwrap();
        }
        // The children of 10 belong to two of its threads.
        fs::create_dir_all(dir.path().join("10/task/15")).unwrap();
        for (path, children) in [
            ("10/task/10", "11 "),
            ("10/task/15", "12 "),
            ("12/task/12", "13 "),
            ("13/task/13", "14 "),
            ("20/task/20", "21 "),
        ] {
            fs::write(dir.path().join(path).join("children"), children).unwrap();
        }
        for direct in [false, true] {
            let tree = Tree { proc: dir.path().to_owned(), direct };
            let sorted = |mut found: Vec<Pid>| {
                found.sort();
                found
            };
            let mut first = Vec::new();
            assert_eq!(
                sorted(tree.descendants(Pid::from_raw(10), |pid| first.push(pid))),
                pids(&[11, 12, 13, 14]),
                "{direct}"
            );
            assert_eq!(sorted(first), pids(&[11, 12]), "{direct}");
            assert_eq!(sorted(tree.children(Pid::from_raw(10))), pids(&[11, 12]), "{direct}");
            assert_eq!(tree.descendants(Pid::from_raw(14), drop), pids(&[]), "{direct}");
            assert_eq!(tree.descendants(Pid::from_raw(99), drop), pids(&[]), "{direct}");
        }
    }

    #[test]
    fn a_loop_in_the_table_ends() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, parent) in [(10, 11), (11, 10)] {
            fs::create_dir_all(dir.path().join(pid.to_string())).unwrap();
            fs::write(dir.path().join(format!("{pid}/stat")), format!("{pid} (x) S {parent} 0")).unwrap();
        }
        let tree = Tree { proc: dir.path().to_owned(), direct: false };
        assert_eq!(tree.descendants(Pid::from_raw(10), drop), pids(&[11]));
    }
}
