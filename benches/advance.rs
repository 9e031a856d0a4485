//! `/runtime/advance` next to a bare actix-web handler built with the same flags: `cargo bench --bench advance`.
//!
//! Both servers run as processes of their own, in turn, on the same machine; the generator keeps 1, 16 and 64 connections busy,
//! each with its own session and rising message ids (equal bodies are one turn by contract). What counts is the ratio.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a test that cannot go on ends with a panic; programs under test are started, and their environment is set, here"
)]

use actix_web::{App, HttpResponse, HttpServer, web};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECTIONS: [usize; 3] = [1, 16, 64];
const RUNS: usize = 5;
const RUN: Duration = Duration::from_secs(2);
const BODY_BYTES: usize = 1024;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--floor") {
        return floor();
    }
    let us = std::env::current_exe().expect("a path");
    let turnhost = std::path::Path::new(env!("CARGO_BIN_EXE_turnhost"));
    println!("{BODY_BYTES}-byte bodies, median of {RUNS} alternating runs of {RUN:?}");
    println!("connections               requests/s   ratio   CPU µs/request   p50 µs   p99 µs");
    for connections in CONNECTIONS {
        let mut samples: [Vec<Sample>; 3] = [Vec::new(), Vec::new(), Vec::new()];
        for run in 0..=RUNS {
            for (which, samples) in samples.iter_mut().enumerate() {
                // On the disk of the build, since a folder of the system may be in memory.
                let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
                let folder = folder.path().to_str().expect("text");
                let ours = ["--agent", "echo", "--port", "0", "--log-level", "error", "--data-dir"];
                let mut server = match which {
                    0 => Served::start(&us, &["--floor"]),
                    1 => Served::start(turnhost, &[&ours[..], &["memory"]].concat()),
                    _ => Served::start(turnhost, &[&ours[..], &[folder]].concat()),
                };
                let sample = server.load(connections);
                // The first round warms the machine up.
                if run > 0 {
                    samples.push(sample);
                }
            }
        }
        let mut floor = None;
        for (name, samples) in ["bare actix", "turnhost, memory", "turnhost, stored"].iter().zip(&samples) {
            let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value).collect());
            let per_second = of(|s| s.per_second);
            let ratio = per_second / *floor.get_or_insert(per_second);
            let (cpu, p50, p99) = (of(|s| s.cpu_us), of(|s| s.p50_us), of(|s| s.p99_us));
            println!("{connections:>11} {name:<18} {per_second:>6.0} {ratio:>7.2} {cpu:>16.1} {p50:>8.0} {p99:>8.0}");
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The floor: reads the body, answers a fixed one.
fn floor() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        println!("bare actix listening on port {} ()", listener.local_addr().expect("an address").port());
        let answer = |body: web::Bytes| async move {
            let text = if body.is_empty() { "" } else { r#"{"text":"List the files.","state":{"v":1,"turn":1}}"# };
            HttpResponse::Ok().content_type("application/json").body(text)
        };
        let server = HttpServer::new(move || App::new().route("/runtime/advance", web::post().to(answer)));
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
        server.workers(cores).listen(listener).expect("a listener").run().await.expect("a server");
    });
}

struct Sample {
    per_second: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

struct Served {
    child: Child,
    port: u16,
}

impl Served {
    fn start(program: &std::path::Path, args: &[&str]) -> Self {
        let mut child =
            Command::new(program).args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let port = line.split("on port ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a port in the line");
        Self { child, port: port.parse().expect("a number") }
    }

    fn load(&mut self, connections: usize) -> Sample {
        let before = self.cpu();
        let began = Instant::now();
        let port = self.port;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut latencies: Vec<f64> = runtime.block_on(async {
            let connections: Vec<_> = (0..connections).map(|session| tokio::spawn(generate(port, session))).collect();
            let mut all = Vec::new();
            for connection in connections {
                all.extend(connection.await.expect("a connection's run"));
            }
            all
        });
        let elapsed = began.elapsed();
        let cpu = self.cpu().saturating_sub(before);
        latencies.sort_by(f64::total_cmp);
        let count = latencies.len();
        Sample {
            per_second: count as f64 / elapsed.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / count as f64,
            p50_us: latencies[count / 2],
            p99_us: latencies[count * 99 / 100],
        }
    }

    /// What the process has used of the processor so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it lives");
        let after = stat.rsplit_once(") ").expect("a name in brackets").1;
        let ticks: Vec<u64> = after.split(' ').skip(11).take(2).map(|word| word.parse().expect("a number")).collect();
        // A tick is a hundredth of a second on every Linux that turnhost runs on.
        Duration::from_millis((ticks[0] + ticks[1]) * 10)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps one connection busy: the next request goes out when the answer to the last is there.
async fn generate(port: u16, session: usize) -> Vec<f64> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    socket.set_nodelay(true).expect("an option");
    let mut latencies = Vec::new();
    let end = Instant::now() + RUN;
    let mut buffer = [0_u8; 4096];
    for message in 0_u64.. {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        socket.write_all(request(session, message).as_bytes()).await.expect("a request");
        read_answer(&mut socket, &mut buffer).await;
        latencies.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    latencies
}

fn request(session: usize, message: u64) -> String {
    let start = format!(r#"{{"session_id":"s{session}","message_id":"m{message}","state":null,"input":""#);
    let body = format!("{start}{}\"}}", "x".repeat(BODY_BYTES - start.len() - 2));
    format!("POST /runtime/advance HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn read_answer(socket: &mut TcpStream, buffer: &mut [u8]) {
    let mut have = 0;
    loop {
        let read = socket.read(&mut buffer[have..]).await.expect("an answer");
        assert!(read > 0, "the server closed the connection");
        have += read;
        let text = &buffer[..have];
        let Some(head) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let headers = std::str::from_utf8(&text[..head]).expect("a head in ASCII");
        assert!(headers.starts_with("HTTP/1.1 200"), "{headers}");
        let length = headers.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
        if have >= head + 4 + length {
            return;
        }
    }
}
