//! A look into `/proc`: who descends from whom, and who still lives.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// One process.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub state: char,
    pub command: String,
}

/// Every process of this machine.
pub fn all() -> Vec<Process> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may end at any moment: then it is not there.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut words = rest.split(' ');
        let state = words.next().and_then(|word| word.chars().next()).unwrap_or('?');
        let parent = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        found.push(Process { pid, parent, state, command });
    }
    found
}

/// Everything below a process that is not a zombie.
pub fn descendants(pid: u32) -> Vec<Process> {
    let mut children: HashMap<u32, Vec<Process>> = HashMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut next = vec![pid];
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            next.push(child.pid);
            found.push(child);
        }
    }
    found.retain(|process| process.state != 'Z');
    found
}

/// Every living process whose command line or environment holds this mark.
pub fn marked(mark: &str) -> Vec<Process> {
    let holds = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        process.command.contains(mark) || String::from_utf8_lossy(&environment).contains(mark)
    };
    let own = std::process::id();
    all().into_iter().filter(|process| process.pid != own && process.state != 'Z' && holds(process)).collect()
}

/// Resident memory of a process in KiB. Not for what work costs: a server gives the pages of its program back when it is quiet,
/// and has them again when it works.
pub fn resident_kib(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

/// The most resident memory that a process has had, in KiB.
pub fn peak_kib(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

/// Resident memory of a process that is no file's, in KiB: what it has asked for.
pub fn private_kib(pid: u32) -> u64 {
    status(pid, "RssAnon:")
}

/// Notes the most private memory that a process has, until it is stopped.
pub struct Watch {
    stop: Arc<AtomicBool>,
    most_kib: Arc<AtomicU64>,
}

impl Watch {
    pub fn start(pid: u32) -> Self {
        let watch = Self { stop: Arc::default(), most_kib: Arc::default() };
        let (stop, most) = (watch.stop.clone(), watch.most_kib.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // One that has just ended has no memory.
                let now = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let now = now.lines().find_map(|line| line.strip_prefix("RssAnon:"));
                let now = now.and_then(|kib| kib.split_whitespace().next()?.parse().ok()).unwrap_or(0);
                most.fetch_max(now, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        watch
    }

    pub fn most_kib(&self) -> u64 {
        self.most_kib.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Processor time that a process has spent, in ticks of 10 ms.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after.split(' ').skip(11).take(2).filter_map(|number| number.parse::<u64>().ok()).sum()
}

fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_else(|| panic!("no {field}"));
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// Waits until nothing with this mark lives. A stopped request is answered when its tree is gone, or a second after its
/// grace at the latest: on a machine that is busy with other things, killed processes may need that long to be gone.
pub async fn gone(mark: &str) {
    let what = format!("what is marked {mark} has ended");
    super::eventually_within(super::SOON, &what, || marked(mark).is_empty().then_some(())).await;
}
