//! What a turn allocates: a change that costs every turn something is to be one that somebody meant. The numbers are what was
//! measured and some room; they do not depend on how busy the machine is.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on ends with a panic, and says what it measured"
)]

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use turnhost::{Cancel, DiskStore, Echo, Event, Failure, Handler, Keep, MemoryStore, Reply, Server, Sink, Store, Turn};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TURNS: usize = 500;
const DELTAS: usize = 10_000;

/// Says as many short deltas as it is asked to.
struct Says;

impl Handler for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    async fn run(&self, turn: Turn, sink: Sink, _cancel: Cancel) -> Result<Reply, Failure> {
        for _ in 0..turn.request.prompt.parse().unwrap_or(0) {
            let _ = sink.say(Event::TextDelta { block: None, text: "some words of an agent ".to_owned() }).await;
        }
        Ok(Reply::text("done"))
    }
}

/// A client that allocates nothing: what is counted is the server's.
struct Client {
    socket: TcpStream,
    answer: Vec<u8>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, answer: vec![0; 1 << 20] }
    }

    /// Sends a request that was written before, and reads its answer, which has a length.
    fn ask(&mut self, request: &[u8]) {
        self.socket.write_all(request).unwrap();
        let mut read = 0;
        loop {
            read += self.socket.read(&mut self.answer[read..]).unwrap();
            let text = &self.answer[..read];
            let Some(head) = text.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            assert!(text.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(text));
            let name = b"content-length: ";
            let length = text.windows(name.len()).position(|some| some == name).unwrap() + name.len();
            let digits = text[length..].iter().take_while(|byte| byte.is_ascii_digit());
            let length = digits.fold(0, |all, digit| all * 10 + usize::from(digit - b'0'));
            if read >= head + 4 + length {
                return;
            }
        }
    }
}

fn request(message: usize, input: &str) -> Vec<u8> {
    let body = format!(r#"{{"input":"{input}","session_id":"s","message_id":"m{message}","state":{{"v":1}}}}"#);
    let head = "POST /runtime/advance HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Allocations and bytes of each of `count`.
fn spent(count: usize, work: impl FnOnce()) -> (usize, usize) {
    let region = Region::new(ALLOCATOR);
    work();
    let spent = region.change();
    ((spent.allocations + spent.reallocations) / count, spent.bytes_allocated / count)
}

/// One test, since everything that runs in this process is counted.
#[test]
fn what_a_turn_allocates() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let folder = tempfile::tempdir().unwrap();
    let stored = || Arc::new(DiskStore::open(folder.path(), Keep::default()).unwrap()) as Arc<dyn Store>;
    let in_memory = || Arc::new(MemoryStore::default()) as Arc<dyn Store>;

    for (name, store, most) in [("no store", in_memory(), (66, 11_500)), ("stored", stored(), (72, 14_000))] {
        let server = Server::builder().handler(Echo).store(store).port(0).build().listen().unwrap();
        let mut client = Client::new(server.address());
        let requests: Vec<_> = (0..2 * TURNS).map(|n| request(n, "Hello")).collect();
        requests[..TURNS].iter().for_each(|request| client.ask(request));
        let spent = spent(TURNS, || requests[TURNS..].iter().for_each(|request| client.ask(request)));
        println!("a turn of /runtime/advance, {name}: {} allocations, {} bytes", spent.0, spent.1);
        assert!(spent.0 <= most.0 && spent.1 <= most.1, "{name}: {spent:?}, {most:?} at most");
        runtime.block_on(server.stop());
    }

    let server = Server::builder().handler(Says).port(0).build().listen().unwrap();
    let mut client = Client::new(server.address());
    client.ask(&request(0, "100"));
    let many = request(1, &DELTAS.to_string());
    let spent = spent(DELTAS, || client.ask(&many));
    println!("a delta of a handler: {} allocations, {} bytes", spent.0, spent.1);
    assert!(spent.0 <= 3 && spent.1 <= 600, "{spent:?}");
    runtime.block_on(server.stop());
}
