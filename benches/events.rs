//! What an event costs on its way to one reader over a WebSocket: `cargo bench --bench events`. As fast as it goes, and at a
//! steady 60,000 events of 100 bytes a second; without a store that lasts, and with one.
//!
//! The server is this program again, with a handler that keeps a pace; the reader is a plain socket, and counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot go on ends with a panic; programs are started here"
)]

mod served;

use served::{Served, median};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use turnhost::{Cancel, DiskStore, Failure, Handler, Reply, Server, Sink, Turn};

const RUNS: usize = 5;
/// How long one run says something, at a pace.
const SECONDS: u64 = 5;
const PACE: u64 = 60_000;
/// Events of a run that goes as fast as it can.
const MANY: u64 = 500_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|one| one == "--serve") {
        serve(arguments.get(at + 1).map(Path::new));
        return;
    }
    for (name, prompt, events) in [
        ("as fast as it goes", format!("{MANY} 0"), MANY),
        ("60,000/s", format!("{} {PACE}", SECONDS * PACE), SECONDS * PACE),
    ] {
        for stored in [false, true] {
            let mut runs: [Vec<f64>; 3] = Default::default();
            for _ in 0..RUNS {
                let folder = tempfile::tempdir().expect("a folder");
                let served = start(stored.then(|| folder.path()));
                let (rate, cost, grown) = measure(&served, &prompt, events);
                for (all, one) in runs.iter_mut().zip([rate, cost, grown]) {
                    all.push(one);
                }
            }
            let [rate, cost, grown] = runs.map(median);
            let store = if stored { "stored" } else { "in memory" };
            println!(
                "{name:<20} {store:<10} {rate:>8.0} events/s, {cost:>5.2} us of CPU each, {grown:>5.1} MiB more RSS"
            );
        }
    }
}

/// `COUNT PACE`: says so many messages, so many a second; 0 is as fast as it goes.
struct Paced;

impl Handler for Paced {
    #[expect(clippy::unnecessary_literal_bound, reason = "the trait's signature lends from self")]
    fn name(&self) -> &str {
        "paced"
    }

    async fn run(&self, turn: Turn, sink: Sink, _: Cancel) -> Result<Reply, Failure> {
        let mut numbers = turn.request.prompt.split(' ').map(|word| word.parse::<u64>().expect("a number"));
        let (count, pace) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let mut said = 0;
        let began = tokio::time::Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while said < count {
            let due = match pace {
                0 => (said + 256).min(count),
                pace => {
                    tick.tick().await;
                    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                    (micros * pace / 1_000_000).min(count)
                }
            };
            while said < due {
                let _ = sink.text("x".repeat(100)).await;
                said += 1;
            }
            if pace == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(Reply::text("done"))
    }
}

fn serve(folder: Option<&Path>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let folder = folder.map(Path::to_owned);
    let serving = runtime.spawn(async move {
        let server = Server::builder().handler(Paced).port(0);
        let server = match folder {
            Some(folder) => {
                server.store(Arc::new(DiskStore::open(&folder, turnhost::Keep::default()).expect("a store")))
            }
            None => server,
        };
        let mut listening = server.build().listen().expect("a port");
        println!("on port {} ", listening.address().port());
        listening.ended().await
    });
    runtime.block_on(serving).expect("the server").to_string();
}

fn start(folder: Option<&Path>) -> Served {
    Served::start(Command::new(std::env::current_exe().expect("this program")).arg("--serve").args(folder))
}

/// Events a second, microseconds of the server's CPU each, and MiB that it grew by.
fn measure(server: &Served, prompt: &str, events: u64) -> (f64, f64, f64) {
    let _ = ask(server, "1 0");
    let mut socket = connect(server);
    let upgrade = "GET /v1/sessions/s/events?after=3 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).expect("a request");
    let mut reader = BufReader::with_capacity(1 << 20, socket);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a head");
    }
    let (idle, spent, began) = (server.status_kib("VmRSS:"), server.cpu(), Instant::now());
    let _ = ask(server, prompt);
    let mut payload = Vec::new();
    for seq in 4..4 + events + 2 {
        let mut head = [0; 4];
        reader.read_exact(&mut head[..2]).expect("a frame");
        assert_eq!(head[0], 0x81, "one text");
        let length = match head[1] {
            126 => {
                reader.read_exact(&mut head[2..]).expect("a length");
                usize::from(u16::from_be_bytes([head[2], head[3]]))
            }
            short => usize::from(short),
        };
        payload.resize(length, 0);
        reader.read_exact(&mut payload).expect("a text");
        assert!(payload.starts_with(format!("{{\"seq\":{seq},").as_bytes()), "{seq} in order");
    }
    let took = began.elapsed().as_secs_f64();
    let cost = server.cpu().saturating_sub(spent).as_secs_f64() * 1e6 / events as f64;
    (events as f64 / took, cost, (server.status_kib("VmHWM:").saturating_sub(idle)) as f64 / 1024.0)
}

fn connect(server: &Served) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_mins(1))).expect("an option");
    socket
}

/// Begins a turn.
fn ask(server: &Served, prompt: &str) -> String {
    let wait = if prompt == "1 0" { "?wait=20" } else { "" };
    let body = format!(r#"{{"prompt":"{prompt}"}}"#);
    let mut socket = connect(server);
    let head = format!("POST /v1/sessions/s/turns{wait} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n");
    write!(socket, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    answer
}
