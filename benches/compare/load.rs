//! The generators of load: HTTP requests and WebSocket queries, one after the other on each of several connections.
//!
//! Written by hand, since what a client costs is taken from the server's cores.

use crate::served::Served;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub struct Sample {
    pub per_second: f64,
    pub cpu_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// What each connection does again and again.
#[derive(Clone)]
pub enum Work {
    Health,
    /// Turns of `/runtime/advance` with bodies of so many bytes.
    Advance(usize),
    /// Queries over a WebSocket, until their result.
    Query,
}

/// Keeps so many connections busy for so long.
pub fn load(server: &Served, work: &Work, connections: usize, time: Duration) -> Sample {
    let before = server.cpu();
    let began = Instant::now();
    let port = server.port;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut latencies: Vec<f64> = runtime.block_on(async {
        let end = began + time;
        let spawn = |n| {
            let work = work.clone();
            tokio::spawn(async move {
                match work {
                    Work::Health => requests(port, end, |_| get("/health")).await,
                    Work::Advance(bytes) => requests(port, end, |message| advance(n, message, bytes)).await,
                    Work::Query => queries(port, end).await,
                }
            })
        };
        let connections: Vec<_> = (0..connections).map(spawn).collect();
        let mut all = Vec::new();
        for connection in connections {
            all.extend(connection.await.expect("a connection's run"));
        }
        all
    });
    let elapsed = began.elapsed();
    let cpu = server.cpu().saturating_sub(before);
    latencies.sort_by(f64::total_cmp);
    let count = latencies.len();
    Sample {
        per_second: count as f64 / elapsed.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / count as f64,
        p50_us: latencies[count / 2],
        p99_us: latencies[count * 99 / 100],
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
}

/// A turn of a session of this connection's own, with rising message ids: equal bodies are one turn by contract.
fn advance(session: usize, message: u64, bytes: usize) -> String {
    let start = format!(r#"{{"session_id":"s{session}","message_id":"m{message}","state":null,"input":""#);
    let body = format!("{start}{}\"}}", "x".repeat(bytes - start.len() - 2));
    let head = "POST /runtime/advance HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The next request goes out when the answer to the last is there.
async fn requests(port: u16, end: Instant, request: impl Fn(u64) -> String) -> Vec<f64> {
    let mut socket = connect(port).await;
    let mut latencies = Vec::new();
    let mut buffer = vec![0_u8; 256 << 10];
    for n in 0.. {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        socket.write_all(request(n).as_bytes()).await.expect("a request");
        read_answer(&mut socket, &mut buffer).await;
        latencies.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    latencies
}

async fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    socket.set_nodelay(true).expect("an option");
    socket
}

async fn read_answer(socket: &mut TcpStream, buffer: &mut [u8]) {
    let mut have = 0;
    let mut whole = None;
    loop {
        let read = socket.read(&mut buffer[have..]).await.expect("an answer");
        assert!(read > 0, "the server closed the connection");
        have += read;
        if whole.is_none() {
            let text = &buffer[..have];
            let Some(head) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let headers = std::str::from_utf8(&text[..head]).expect("a head in ASCII");
            assert!(headers.starts_with("HTTP/1.1 200"), "{headers}");
            let length = headers.split("\r\n").find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().expect("a length"))
            });
            whole = Some(head + 4 + length.expect("a length"));
        }
        if Some(have) >= whole {
            return;
        }
    }
}

/// A WebSocket of a client that hides nothing: its mask is all zeros, which the standard does not forbid.
pub struct Socket {
    reader: BufReader<TcpStream>,
    payload: Vec<u8>,
}

impl Socket {
    pub async fn connect(port: u16, path: &str) -> Self {
        let mut socket = connect(port).await;
        let upgrade = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(upgrade.as_bytes()).await.expect("a request");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.expect("a head"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Self { reader: BufReader::with_capacity(64 << 10, socket), payload: Vec::new() }
    }

    pub async fn ask(&mut self, prompt: &str) {
        let ask = format!(r#"{{"message_type":"invocation_message","user_prompt":"{prompt}","secrets_to_redact":[]}}"#);
        self.say(&ask).await;
    }

    async fn say(&mut self, text: &str) {
        let mut frame = vec![0x81, 0xfe];
        frame.extend(u16::try_from(text.len()).expect("a short text").to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.reader.get_mut().write_all(&frame).await.expect("a frame");
    }

    /// Reads to the end of the query; how many messages came before it.
    pub async fn result(&mut self) -> u64 {
        for said in 0.. {
            self.text().await;
            // Every server here writes its type first.
            let head = &self.payload[..self.payload.len().min(60)];
            if head.windows(14).any(|part| part == b"result_message") {
                return said;
            }
            assert!(head.windows(17).any(|part| part == b"assistant_message"), "{}", String::from_utf8_lossy(head));
        }
        0
    }

    /// One text, however many frames it comes in.
    async fn text(&mut self) {
        self.payload.clear();
        loop {
            let mut head = [0; 2];
            self.reader.read_exact(&mut head).await.expect("a frame");
            assert!([0x81, 0x01, 0x00, 0x80].contains(&head[0]), "a text, or a part of it: {:x}", head[0]);
            let length = match head[1] {
                126 => usize::from(self.reader.read_u16().await.expect("a length")),
                127 => usize::try_from(self.reader.read_u64().await.expect("a length")).expect("a length"),
                short => usize::from(short),
            };
            let before = self.payload.len();
            self.payload.resize(before + length, 0);
            self.reader.read_exact(&mut self.payload[before..]).await.expect("a text");
            if head[0] & 0x80 != 0 {
                break;
            }
        }
    }
}

async fn queries(port: u16, end: Instant) -> Vec<f64> {
    let mut socket = Socket::connect(port, "/").await;
    let mut latencies = Vec::new();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return latencies;
        }
        socket.ask("List the files.").await;
        socket.result().await;
        latencies.push(sent.elapsed().as_secs_f64() * 1e6);
    }
}

/// Messages a second of one query that says so many.
pub fn stream(server: &Served, messages: u64) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut socket = Socket::connect(server.port, "/").await;
        // What is loaded at the first use is not measured.
        socket.ask("warm up").await;
        socket.result().await;
        let began = Instant::now();
        socket.ask(&format!("@stream {messages}")).await;
        assert_eq!(socket.result().await, messages, "all of them");
        messages as f64 / began.elapsed().as_secs_f64()
    })
}

/// So many events of one session of agentruntime to one reader: the server's CPU seconds, and events a second.
pub fn session(server: &Served, events: u64, bytes: u64) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let body = r#"{"agent":"echo","interactive":true}"#;
        let head =
            "POST /sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let mut http = connect(server.port).await;
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        http.write_all(request.as_bytes()).await.expect("a request");
        let mut made = String::new();
        http.read_to_string(&mut made).await.expect("an answer");
        let id = made.split(r#""session_id":""#).nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
        let mut socket = Socket::connect(server.port, &format!("/ws/sessions/{id}")).await;
        // That it is connected.
        socket.text().await;
        let (before, began) = (server.cpu(), Instant::now());
        socket.say(&format!(r#"{{"type":"stdin","data":"@stream {events} {bytes}\n"}}"#)).await;
        let mut got = 0;
        loop {
            socket.text().await;
            got += socket.payload.len() as u64;
            if memchr::memmem::find(&socket.payload, br#"\"type\":\"result\""#).is_some() {
                break;
            }
        }
        assert!(got > events * bytes, "all of them: {got} bytes");
        (server.cpu().saturating_sub(before).as_secs_f64(), events as f64 / began.elapsed().as_secs_f64())
    })
}

/// How much larger the server is with so many sockets that say nothing, in MiB.
pub fn idle_sockets(server: &Served, sockets: usize) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // What the first one costs is the server's own.
        let _first = Socket::connect(server.port, "/").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = server.status_kib("VmRSS:");
        let mut open = Vec::new();
        for _ in 0..sockets {
            open.push(Socket::connect(server.port, "/").await);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.status_kib("VmRSS:").saturating_sub(before) as f64 / 1024.0
    })
}

/// From the start of a program to its first answer to `/health`, in ms.
pub fn start_ms(start: impl Fn() -> Served) -> f64 {
    let began = Instant::now();
    let server = start();
    loop {
        if let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", server.port)) {
            use std::io::{Read, Write};
            let mut answer = [0; 12];
            let asked = socket.write_all(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
            if asked.is_ok() && socket.read_exact(&mut answer).is_ok() && &answer == b"HTTP/1.1 200" {
                return began.elapsed().as_secs_f64() * 1e3;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it answers");
        std::thread::sleep(Duration::from_micros(200));
    }
}
