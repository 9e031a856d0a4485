//! turnhost next to its floor and its peers, in turn on the same machine: `make bench`, or `cargo bench --bench compare`
//! with the names of some tables.
//!
//! The floor is bare actix-web; the peers are a FastAPI server as Dari's users write it and a Node.js server with `ws`. Every
//! figure is the median of alternating runs, and what counts are the ratios: machines differ, and have other things to do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot go on ends with a panic; programs are started here"
)]

mod floor;
mod load;
#[path = "../served/mod.rs"]
mod served;

use load::{Sample, Work, load};
use served::{Served, median};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const RUNS: usize = 5;
const RUN: Duration = Duration::from_millis(1500);
const STREAM: u64 = 10_000;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if wanted.iter().any(|arg| arg == "--floor") {
        return floor::serve();
    }
    let tables: [(&str, fn()); 8] = [
        ("start", starts),
        ("memory", memory),
        ("health", health),
        ("advance", || advance(1 << 10)),
        ("advance-large", || advance(100 << 10)),
        ("websocket", websocket),
        ("stream", streams),
        ("session", sessions),
    ];
    for (name, table) in tables {
        if wanted.is_empty() || wanted.iter().any(|one| one == name) {
            table();
        }
    }
}

/// A server that is measured. Each start is a fresh process; a store is a fresh folder on the disk of the build, since a
/// folder of the system may be in memory.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Floor,
    Memory,
    Stored,
    JavaScript,
    Python,
    Uvicorn,
    Node,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Floor => "bare actix",
            Self::Memory => "turnhost, echo, no store",
            Self::Stored => "turnhost, echo",
            Self::JavaScript => "turnhost, JavaScript handler",
            Self::Python => "turnhost, Python handler",
            Self::Uvicorn => "FastAPI on uvicorn",
            Self::Node => "Node.js with ws",
        }
    }

    fn start(self) -> (Served, Option<tempfile::TempDir>) {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let data = folder.path().to_str().expect("text").to_owned();
        let stored = |args: &[&str]| Served::turnhost(&[args, &["--data-dir", &data]].concat());
        let served = match self {
            Self::Floor => Served::start(Command::new(std::env::current_exe().expect("a path")).arg("--floor")),
            Self::Memory => Served::turnhost(&["--agent", "echo", "--data-dir", "memory"]),
            Self::Stored => stored(&["--agent", "echo"]),
            Self::JavaScript => stored(&["--handler", &file("benches/peers/handler.mjs")]),
            Self::Python => stored(&["--handler", &file("handlers/echo.py")]),
            Self::Uvicorn => {
                Served::start(Command::new(prepared("python/bin/python")).arg(file("benches/peers/fastapi_runtime.py")))
            }
            Self::Node => {
                let mut node = Command::new("node");
                node.arg(file("benches/peers/ws_runtime.cjs")).env("NODE_PATH", prepared("node/node_modules"));
                Served::start(&mut node)
            }
        };
        (served, Some(folder))
    }
}

fn file(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).to_str().expect("text").to_owned()
}

/// What `make bench` installs.
fn prepared(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/bench").join(path);
    assert!(path.exists(), "{} is not there: run it through `make bench`", path.display());
    path
}

/// Measures each in turn, several times. The first round warms the machine up.
fn alternating<T>(who: &[Who], measure: impl Fn(Who) -> T) -> Vec<Vec<T>> {
    let mut samples: Vec<Vec<T>> = who.iter().map(|_| Vec::new()).collect();
    for run in 0..=RUNS {
        for (who, samples) in who.iter().zip(&mut samples) {
            let sample = measure(*who);
            if run > 0 {
                samples.push(sample);
            }
        }
    }
    samples
}

fn title(text: &str, columns: &str) {
    println!("\n### {text}\n\n| {columns} |");
    println!("|{}", " --- |".repeat(columns.split('|').count()));
}

fn starts() {
    title("From the start of the program to its first answer to /health", "server | ms | of uvicorn");
    let who = [Who::Stored, Who::Uvicorn];
    let samples = alternating(&who, |who| load::start_ms(|| who.start().0));
    let of_uvicorn = median(samples[1].clone());
    for (who, samples) in who.iter().zip(samples) {
        let ms = median(samples);
        println!("| {} | {ms:.1} | {:.3} |", who.name(), ms / of_uvicorn);
    }
}

fn memory() {
    title("Memory at rest, and of 100 sockets that say nothing", "server | RSS MiB | of it private | 100 sockets MiB");
    let who = [Who::Memory, Who::Stored, Who::Uvicorn, Who::Node];
    let samples = alternating(&who, |who| {
        let (server, _folder) = who.start();
        std::thread::sleep(Duration::from_millis(700));
        let rest = server.status_kib("VmRSS:") as f64 / 1024.0;
        let private = server.status_kib("RssAnon:") as f64 / 1024.0;
        let sockets = if who == Who::Uvicorn { f64::NAN } else { load::idle_sockets(&server, 100) };
        (rest, private, sockets)
    });
    for (who, samples) in who.iter().zip(samples) {
        let of = |value: fn(&(f64, f64, f64)) -> f64| median(samples.iter().map(value).collect());
        println!("| {} | {:.1} | {:.1} | {:.1} |", who.name(), of(|s| s.0), of(|s| s.1), of(|s| s.2));
    }
    let binary = std::fs::metadata(served::turnhost()).expect("the binary").len();
    println!("\nThe binary has {:.1} MiB.", binary as f64 / f64::from(1 << 20));
}

/// A table of rates: who, next to the first of them.
fn rates(connections: &[usize], who: &[Who], work: &Work) {
    for &connections in connections {
        let samples = alternating(who, |who| {
            let (server, _folder) = who.start();
            load(&server, work, connections, RUN)
        });
        let mut floor = None;
        for (who, samples) in who.iter().zip(&samples) {
            let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value).collect());
            let per_second = of(|s| s.per_second);
            let ratio = per_second / *floor.get_or_insert(per_second);
            let (cpu, p50, p99) = (of(|s| s.cpu_us), of(|s| s.p50_us), of(|s| s.p99_us));
            let name = who.name();
            println!("| {connections} | {name} | {per_second:.0} | {ratio:.2} | {cpu:.1} | {p50:.0} | {p99:.0} |");
        }
    }
}

const RATES: &str = "connections | server | per second | of the first | CPU µs each | p50 µs | p99 µs";

fn health() {
    title("GET /health", RATES);
    rates(&[16], &[Who::Floor, Who::Stored], &Work::Health);
}

fn advance(bytes: usize) {
    title(&format!("POST /runtime/advance, {} KiB", bytes >> 10), RATES);
    let who = [Who::Floor, Who::Memory, Who::Stored, Who::JavaScript, Who::Python, Who::Uvicorn];
    rates(&[1, 16, 64], &who, &Work::Advance(bytes));
}

fn websocket() {
    title("Queries over a WebSocket, each with its result", RATES);
    rates(&[1, 16, 64], &[Who::Floor, Who::Memory, Who::Stored, Who::JavaScript, Who::Node], &Work::Query);
}

fn streams() {
    title(&format!("{STREAM} messages of one query"), "server | messages per second");
    let who = [Who::Stored, Who::JavaScript, Who::Node];
    let samples = alternating(&who, |who| load::stream(&who.start().0, STREAM));
    for (who, samples) in who.iter().zip(samples) {
        println!("| {} | {:.0} |", who.name(), median(samples));
    }
}

/// What agentruntime 0.8.0 and its sidecar were seen to use for the same on a machine of this kind, in CPU seconds: the
/// least. It cannot be run beside ours as it is installed.
const AGENTRUNTIME: [(u64, u64, f64); 2] = [(10_000, 1000, 3.1), (20_000, 100, 1.3)];

fn sessions() {
    title("Events of a session of agentruntime to one reader", "events | CPU s | of agentruntime 0.8.0 | events/s");
    for (events, bytes, theirs) in AGENTRUNTIME {
        let samples = alternating(&[Who::Stored], |who| load::session(&who.start().0, events, bytes));
        let (cpu, rate): (Vec<f64>, Vec<f64>) = samples.into_iter().flatten().unzip();
        let (cpu, rate) = (median(cpu), median(rate));
        println!("| {events} of {bytes} B | {cpu:.2} | {:.3} | {rate:.0} |", cpu / theirs);
    }
}
