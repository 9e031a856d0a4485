//! Checks 1 and 2: how the server starts, and its health from the first moment on.

use super::{Dari, Mode, command};
use crate::support::http;
use crate::support::network::{in_own_network, listening};
use crate::support::stub::{Stub, script};
use crate::support::{PATIENCE, Server};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The platform's way to start the command: no shell, no variable but `PORT`, a folder that has nothing to do with us.
fn platform_command(stub: &Stub, port: Option<&str>) -> Command {
    let folder = stub.path("elsewhere");
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = command(stub, Some("0.0.0.0"), &[]);
    command.env_clear().current_dir(folder);
    stub.environment(&mut command);
    if let Some(port) = port {
        command.env("PORT", port);
    }
    command
}

fn is_open(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Starts the command, and wants the port open within a second.
fn start(stub: Stub, port: Option<&str>, expected: u16) -> Dari {
    let began = Instant::now();
    let opened = std::thread::scope(|scope| {
        // The thread that watches must be in the network that the server is in: threads inherit it.
        let watching = scope.spawn(|| {
            while !is_open(expected) {
                assert!(began.elapsed() < PATIENCE, "port {expected} was never opened");
                std::thread::sleep(Duration::from_millis(2));
            }
            began.elapsed()
        });
        let server = Server::spawn(platform_command(&stub, port));
        (watching.join().expect("the port was opened"), server)
    });
    let (after, server) = opened;
    assert!(after < Duration::from_secs(1), "listening took {after:?}");
    assert_eq!(server.port, expected);
    Dari::of(Mode::Close, server, stub)
}

/// A health check and a turn as they come through a proxy that keeps the caller's `Host`.
fn serves(dari: &Dari) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        dari.is_healthy().await;
        let body = json!({"input": "hello"}).to_string();
        let headers = [("Host", "8787-sandbox.example.app")];
        let answer = dari.request("POST", super::ADVANCE, &headers, body.as_bytes()).await;
        assert!(super::turn_body(&answer).text.starts_with("done "), "{answer:?}");
        assert_eq!(dari.calls(), 1);
    });
}

#[test]
fn check_01_start() {
    in_own_network("dari::start::check_01_start", || {
        let dari = start(Stub::new(), Some("8787"), 8787);
        assert_eq!(listening(), [format!("00000000:{:04X}", 8787)], "all addresses, one port");
        assert!(!is_open(8080));
        serves(&dari);
        drop(dari);

        // An empty one counts as unset.
        for port in [None, Some("")] {
            let dari = start(Stub::new(), port, 8080);
            assert_eq!(listening(), [format!("00000000:{:04X}", 8080)]);
            serves(&dari);
        }

        for wrong in ["abc", "65536", "-1", "80 80"] {
            let stub = Stub::new();
            let ended = platform_command(&stub, Some(wrong)).stdin(Stdio::null()).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(!ended.status.success() && ended.status.code().is_some(), "{wrong}: {:?}", ended.status);
            assert!(said.contains("PORT"), "{wrong}: {said}");
            assert_eq!(said.trim().lines().count(), 1, "one sentence: {said}");
            assert_eq!(listening(), Vec::<String>::new());
        }
    });
}

/// What one health check came to.
#[derive(Debug, PartialEq, Eq)]
enum Health {
    Refused,
    Answered(u16, String),
}

/// One health check on a connection of its own.
fn ask(port: u16) -> Health {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return Health::Refused };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&http::request("GET", "/health", &[("Connection", "close")], b"")).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    Health::Answered(status.unwrap_or_else(|| panic!("no status: {answer:?}")), body.to_owned())
}

/// Asks every 100 ms until told to end: what came, and how long each took.
fn poll(port: u16, end: &AtomicBool) -> Vec<(Health, Duration)> {
    let mut seen = Vec::new();
    while !end.load(Ordering::Acquire) {
        let began = Instant::now();
        let health = ask(port);
        let took = began.elapsed();
        seen.push((health, took));
        std::thread::sleep(Duration::from_millis(100).saturating_sub(took));
    }
    seen
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Polls a server's health from before it starts until a talkative turn has ended.
async fn polled() -> Vec<(Health, Duration)> {
    let (stub, port) = (Stub::new(), free_port());
    let end = Arc::new(AtomicBool::new(false));
    let poller = std::thread::spawn({
        let end = end.clone();
        move || poll(port, &end)
    });
    let mut starting = command(&stub, None, &[]);
    starting.env("PORT", port.to_string());
    let dari = Dari::of(Mode::Close, Server::spawn(starting), stub);
    dari.is_healthy().await;
    let delta = r#"raw {"type":"delta","id":"{{id}}","text":"word "}"#;
    let mut steps = vec!["delay 0.5"];
    steps.extend(std::iter::repeat_n(delta, 2000));
    steps.push("delay 1");
    assert_eq!(dari.calls(), 0, "a health check is no turn");
    dari.turn(&json!({"input": script(&steps)})).await;
    end.store(true, Ordering::Release);
    assert_eq!(dari.calls(), 1);
    poller.join().unwrap()
}

#[tokio::test]
async fn check_02_health_poll() {
    // A machine that has other things to do may hold a test up for 100 ms, a server that blocks does so every time.
    let mut slowest = Vec::new();
    for _ in 0..3 {
        let seen = polled().await;
        assert!(seen.len() > 10, "{seen:?}");
        let first = seen.iter().position(|(health, _)| *health != Health::Refused).expect("an answer");
        for (health, _) in &seen[first..] {
            let ready = *health == Health::Answered(200, r#"{"ok":true}"#.to_owned());
            let not_ready = *health == Health::Answered(503, r#"{"ok":false}"#.to_owned());
            assert!(ready || not_ready, "{health:?}");
        }
        let slow = seen.into_iter().map(|(_, took)| took).max().unwrap();
        slowest.push(slow);
        if slow < Duration::from_millis(100) {
            break;
        }
    }
    assert!(slowest.last().unwrap() < &Duration::from_millis(100), "the slowest of each round: {slowest:?}");

    let dari = Dari::start(Mode::Close);
    let get = dari.request("GET", "/health", &[], b"").await;
    assert_eq!(get.header("content-type"), Some("application/json"));
    let mut connection = dari.connect().await;
    connection.send(&http::head("HEAD", "/health", &[("Connection", "close")])).await;
    let head = connection.answer("HEAD").await;
    assert!(connection.is_ended_by_server().await, "a body came after {head:?}");
    assert_eq!(head.status, 200);
    let described = |name: &str| (get.header(name).map(str::to_owned), head.header(name).map(str::to_owned));
    for name in ["content-type", "content-length", "cache-control"] {
        let (of_get, of_head) = described(name);
        assert_eq!(of_get, of_head, "HEAD answers the same as GET: {name}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = dari.request(method, "/health", &[], b"").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    // With a slash, with a query, and whoever seems to ask.
    for path in ["/health/", "/health?x=1"] {
        assert_eq!(dari.request("GET", path, &[], b"").await.status, 200, "{path}");
    }
    let stranger = [("Host", "sandbox.example"), ("Origin", "https://elsewhere.example")];
    assert_eq!(dari.request("GET", "/health", &stranger, b"").await.status, 200);
    assert_eq!(dari.calls(), 0);
}
