//! What the system knows of this process, under Prometheus' usual names.
//!
//! Owns reading it from `/proc`, when somebody asks. What cannot be read is left out.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge};
use std::fs;

/// Clock ticks of a second in `/proc`: fixed at 100 on every Linux that has a stable interface.
const TICKS: f64 = 100.0;

/// The process's own numbers.
pub(super) struct OwnProcess;

impl OwnProcess {
    pub(super) const fn new() -> Self {
        Self
    }
}

struct Read {
    cpu_seconds: f64,
    threads: i64,
    started: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

impl Collector for OwnProcess {
    fn desc(&self) -> Vec<&Desc> {
        // Unchecked, as the registry calls it: the names are of nobody else's.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut all = Vec::new();
        let mut gauge = |name: &str, help: &str, value: i64| {
            if let Ok(gauge) = IntGauge::new(name, help) {
                gauge.set(value);
                all.extend(gauge.collect());
            }
        };
        if let Some(count) = fs::read_dir("/proc/self/fd").ok().map(Iterator::count) {
            // Less the one that looks.
            gauge("process_open_fds", "Open file descriptors.", i64::try_from(count).unwrap_or(i64::MAX) - 1);
        }
        if let Some(most) = most_files() {
            gauge("process_max_fds", "The most file descriptors that may be open.", most);
        }
        let Some(read) = read() else { return all };
        gauge("process_threads", "Threads.", read.threads);
        gauge("process_virtual_memory_bytes", "Virtual memory.", read.virtual_bytes);
        gauge("process_resident_memory_bytes", "Resident memory.", read.resident_bytes);
        if let Ok(started) = prometheus::Gauge::new("process_start_time_seconds", "When it started, since 1970.") {
            started.set(read.started);
            all.extend(started.collect());
        }
        if let Ok(cpu) = Counter::new("process_cpu_seconds_total", "Time spent in user and system mode.") {
            cpu.inc_by(read.cpu_seconds);
            all.extend(cpu.collect());
        }
        all
    }
}

fn read() -> Option<Read> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in the second field may hold blanks and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let resident: i64 = resident.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of some centuries fit")]
    let seconds = |ticks: i64| ticks as f64 / TICKS;
    Some(Read {
        cpu_seconds: seconds(field(14)? + field(15)?),
        threads: field(20)?,
        started: boot + seconds(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: resident * 1024,
    })
}

fn most_files() -> Option<i64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
