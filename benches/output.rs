//! 200 MB of a command's output through the WebSocket, next to the same pipeline into a file that keeps nothing:
//! `cargo bench --bench output`. And the same with fifty secrets to redact, next to none, on text that varies.
//!
//! Every byte is counted. The server's memory is looked at while it streams.

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
use std::process::Command;
use std::time::{Duration, Instant};

const RUNS: usize = 5;
const PIPELINE: &str = "head -c 200000000 /dev/zero | tr '\\0' x | fold -w 100";
const PIPELINE_BYTES: u64 = 202_000_000 - 1;
const VARIED_BYTES: u64 = 45_000_000;

fn main() {
    let mut rates = Vec::new();
    let mut bare = Vec::new();
    let mut grown = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        let status = Command::new("/bin/sh").args(["-c", &format!("{PIPELINE} >/dev/null")]).status().expect("a shell");
        assert!(status.success());
        bare.push(PIPELINE_BYTES as f64 / 1e6 / began.elapsed().as_secs_f64());
        let server = Served::turnhost(&["--agent", "echo"]);
        let idle = server.status_kib("VmRSS:");
        let began = Instant::now();
        let bytes = stream(&server, PIPELINE, "[]");
        assert_eq!(bytes, PIPELINE_BYTES, "every byte arrives once");
        rates.push(bytes as f64 / 1e6 / began.elapsed().as_secs_f64());
        grown.push((server.status_kib("VmHWM:") - idle) as f64 / 1024.0);
    }
    let (ours, floor) = (median(rates), median(bare));
    println!("200 MB of command output, median of {RUNS} alternating runs");
    println!("  into /dev/null      {floor:>6.0} MB/s");
    println!(
        "  through turnhost    {ours:>6.0} MB/s, {:.2} of it; memory grew by {:.1} MiB",
        ours / floor,
        median(grown)
    );

    let file = std::env::temp_dir().join(format!("turnhost-bench-{}", std::process::id()));
    std::fs::write(&file, varied()).expect("a file");
    let secrets: Vec<String> =
        (0..50).map(|n| format!("\"sk-{:016x}{:016x}\"", hash(n + 7), hash(n * 3 + 1))).collect();
    let secrets = format!("[{}]", secrets.join(","));
    let command = format!("cat {}", file.display());
    let mut costs = [Vec::new(), Vec::new()];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for (which, list) in ["[]", &secrets].into_iter().enumerate() {
            let server = Served::turnhost(&["--agent", "echo"]);
            let began = Instant::now();
            let bytes = stream(&server, &command, list);
            times[which].push(began.elapsed().as_secs_f64() * 1e3);
            assert_eq!(bytes, VARIED_BYTES);
            costs[which].push(server.cpu().as_secs_f64() * 1e3);
        }
    }
    let [without, with] = costs.map(median);
    let [quick, slow] = times.map(median);
    println!("45 MB of varied text, no secrets and fifty");
    println!("  CPU of the server {without:.0} ms and {with:.0} ms: {:.2}", with / without);
    println!("  until it has arrived {quick:.0} ms and {slow:.0} ms: {:.2}", slow / quick);
    let _ = std::fs::remove_file(file);
}

fn hash(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (n ^ (n >> 27)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (n >> 33)
}

/// Lines of words that come from a small vocabulary in no order.
fn varied() -> Vec<u8> {
    let words =
        ["error", "warning: unused", "fn main()", "secret", "https://example.com/a", "0x7ffe", "Grüße", "token="];
    let mut text = Vec::with_capacity(usize::try_from(VARIED_BYTES).unwrap() + 64);
    let mut n = 0;
    while (text.len() as u64) < VARIED_BYTES {
        let word = words[usize::try_from(hash(n) % 8).unwrap()];
        write!(text, "{word} {:x}{}", hash(n) >> 40, if n % 9 == 0 { '\n' } else { ' ' }).unwrap();
        n += 1;
    }
    text.truncate(usize::try_from(VARIED_BYTES).unwrap());
    while std::str::from_utf8(&text).is_err() {
        text.pop();
    }
    text.resize(usize::try_from(VARIED_BYTES).unwrap(), b'.');
    text
}

fn array<const N: usize>(reader: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Runs a command and counts what it says on its standard output.
fn stream(server: &Served, command: &str, secrets: &str) -> u64 {
    let mut socket = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_mins(1))).expect("an option");
    let upgrade = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).expect("a request");
    let command = command.replace('\\', "\\\\");
    let message = format!(
        r#"{{"message_type":"command_execution_message","secrets_to_redact":{secrets},"commands":[{{"command":"{command}"}}]}}"#
    );
    let mut frame = vec![0x81, 0xfe];
    frame.extend(u16::try_from(message.len()).expect("a short message").to_be_bytes());
    // A mask of zeros changes nothing.
    frame.extend([0; 4]);
    frame.extend(message.as_bytes());
    socket.write_all(&frame).expect("a message");
    let mut reader = BufReader::with_capacity(1 << 20, socket);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a head");
    }
    let (mut payload, mut bytes) = (Vec::new(), 0);
    loop {
        payload.clear();
        let mut is_last = false;
        while !is_last {
            let mut head = [0; 2];
            reader.read_exact(&mut head).expect("a frame");
            is_last = head[0] & 0x80 != 0;
            let length = match head[1] {
                126 => u64::from(array::<2>(&mut reader).map(u16::from_be_bytes).expect("a length")),
                127 => array::<8>(&mut reader).map(u64::from_be_bytes).expect("a length"),
                short => u64::from(short),
            };
            let from = payload.len();
            payload.resize(from + usize::try_from(length).expect("a length"), 0);
            reader.read_exact(&mut payload[from..]).expect("a payload");
        }
        if !payload.starts_with(br#"{"message_type":"command_output_message","stream":"stdout","text":""#) {
            let text = String::from_utf8_lossy(&payload);
            assert!(text.contains(r#""exit_code":0"#), "{}", &text[..text.len().min(300)]);
            return bytes;
        }
        let text = &payload[67..];
        let end = text.windows(12).rposition(|window| window == br#"","command":"#).expect("the end of the text");
        // Only line breaks are written with an escape.
        let escapes = memchr::memchr_iter(b'\\', &text[..end]).count();
        bytes += (end - escapes) as u64;
    }
}
