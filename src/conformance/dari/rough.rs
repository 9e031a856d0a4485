//! Checks of what should not happen and does: large and broken bodies, strange paths, connections that end early.

use super::talk::Host;
use super::{ALIVE, BAD_BODY, BIG_BODY, CONNECTIONS, HANG_UP, PATHS, Stage};
use reqwest::Method;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TEXT: &str = "Say hello in one short sentence.";

/// The size of a large input.
const BIG: usize = 10 << 20;

/// How long a connection is listened to for what should not come.
const QUIET: Duration = Duration::from_millis(300);

pub(super) async fn all(stage: &mut Stage<'_>) {
    let host = stage.host;
    let work = async {
        let text = "All work and no play. ".repeat(BIG / 22);
        let spoken = host.turn(host.body("big", "1", &text, None)).await?;
        Ok(format!("{} bytes came back", spoken.answer.body.len()))
    };
    stage.check(&BIG_BODY, work).await;
    stage.check(&BAD_BODY, bad_bodies(host)).await;
    stage.check(&PATHS, paths(host)).await;
    if host.target.base.starts_with("http://") {
        stage.check(&CONNECTIONS, connections(host)).await;
        stage.check(&HANG_UP, hang_up(host)).await;
    } else {
        stage.report.skip(&CONNECTIONS, "an encrypted connection is not looked into");
        stage.report.skip(&HANG_UP, "an encrypted connection is not looked into");
    }
    let work = async {
        host.turn(host.body("alive", "1", TEXT, None)).await?;
        let (health, _) = host.health().await?;
        if health.status == 200 { Ok(String::new()) } else { Err(health.shown()) }
    };
    stage.check(&ALIVE, work).await;
}

async fn bad_bodies(host: &Host<'_>) -> Result<String, String> {
    let bodies: [(&str, &[u8]); 6] = [
        ("an empty body", b""),
        ("no JSON", b"not json"),
        ("JSON that ends early", br#"{"input":{"text":"Hel"#),
        ("a list", b"[]"),
        ("bytes that are no UTF-8", b"{\"input\":\"\xff\xfe\"}"),
        ("more than one value", br#"{"input":"a"}{"input":"b"}"#),
    ];
    let mut wrong = Vec::new();
    for (name, body) in bodies {
        match host.post(body.to_vec()).await {
            Ok(answer) if (400..500).contains(&answer.status) => {}
            Ok(answer) => wrong.push(format!("{name} gets {}", answer.shown())),
            Err(seen) => wrong.push(format!("{name}: {seen}")),
        }
    }
    match host.health().await {
        Ok((health, _)) if health.status == 200 => {}
        Ok((health, _)) => wrong.push(format!("the health is then {}", health.shown())),
        Err(seen) => wrong.push(format!("the health is then asked for in vain: {seen}")),
    }
    if wrong.is_empty() { Ok(format!("{} bodies", bodies.len())) } else { Err(wrong.join("\n")) }
}

async fn paths(host: &Host<'_>) -> Result<String, String> {
    let advance = host.target.advance_path.as_str();
    let mut wrong = Vec::new();
    for (method, path) in [(Method::GET, "/no/such/path"), (Method::POST, "/no/such/path"), (Method::GET, advance)] {
        let answer = host.send(host.request(method.clone(), path), host.target.turn_within).await?;
        if !(400..500).contains(&answer.status) {
            wrong.push(format!("{method} {path} gives {}", answer.shown()));
        }
    }
    if wrong.is_empty() { Ok(String::new()) } else { Err(wrong.join("; ")) }
}

/// A request as bytes; it says nothing about the kind of its body.
fn bytes(host: &Host<'_>, body: &str, more: &str) -> Vec<u8> {
    let (path, length) = (&host.target.advance_path, body.len());
    let token = host
        .target
        .token
        .as_ref()
        .map_or(String::new(), |token| format!("Authorization: Bearer {}\r\n", token.expose()));
    format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{token}Content-Length: {length}\r\n{more}\r\n{body}", address(host))
        .into_bytes()
}

fn address(host: &Host<'_>) -> String {
    let url = url::Url::parse(&host.target.base).ok();
    let port = url.as_ref().and_then(|url| url.port_or_known_default()).unwrap_or(80);
    format!("{}:{port}", url.as_ref().and_then(|url| url.host_str()).unwrap_or("127.0.0.1"))
}

async fn connect(host: &Host<'_>) -> Result<TcpStream, String> {
    TcpStream::connect(address(host)).await.map_err(|error| error.to_string())
}

/// Two requests on connections of their own, each to the last byte.
async fn connections(host: &Host<'_>) -> Result<String, String> {
    let body = host.body("closing", "1", TEXT, None);
    let mut stream = connect(host).await?;
    let sent = stream.write_all(&bytes(host, &body, "Connection: close\r\n")).await;
    sent.map_err(|error| error.to_string())?;
    let mut closing = Vec::new();
    let read = timeout(host.target.turn_within, stream.read_to_end(&mut closing)).await;
    match read {
        Err(_) => return Err("a connection with `Connection: close` is not closed behind its answer".to_owned()),
        Ok(Err(error)) => return Err(format!("a connection with `Connection: close` broke off: {error}")),
        Ok(Ok(_)) => status_is_200(&closing)?,
    }
    let body = host.body("open", "1", TEXT, None);
    let mut stream = connect(host).await?;
    stream.write_all(&bytes(host, &body, "")).await.map_err(|error| error.to_string())?;
    let mut open = Vec::new();
    let mut ended = false;
    let whole = async {
        while length(&open).is_none_or(|length| open.len() < length) && !ended {
            ended = stream.read_buf(&mut open).await.map_err(|error| error.to_string())? == 0;
        }
        Ok::<(), String>(())
    };
    timeout(host.target.turn_within, whole).await.map_err(|_| "no whole answer on an open connection".to_owned())??;
    status_is_200(&open)?;
    // Whatever comes now belongs to no request.
    while !ended && let Ok(Ok(read)) = timeout(QUIET, stream.read_buf(&mut open)).await {
        ended = read == 0;
    }
    match length(&open) {
        Some(length) if open.len() > length => {
            let text = String::from_utf8_lossy(&open[length..]).into_owned();
            let text: String = text.chars().take(80).collect();
            Err(format!("behind the answer comes more, which the next request would take for its own: {text:?}"))
        }
        _ => Ok(String::new()),
    }
}

fn status_is_200(answer: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().next().unwrap_or_default();
    if line.split(' ').nth(1) == Some("200") {
        Ok(())
    } else {
        Err(format!("a request without Content-Type gets {line:?}"))
    }
}

/// Where an answer ends, once that is known. One without a length ends with its connection or its last chunk.
fn length(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    if text.contains("transfer-encoding: chunked") {
        let last = answer[head..].windows(5).position(|bytes| bytes == b"0\r\n\r\n")?;
        return Some(head + last + 5);
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    Some(head + length.trim().parse::<usize>().ok()?)
}

async fn hang_up(host: &Host<'_>) -> Result<String, String> {
    let body = host.body("gone", "1", TEXT, None);
    let mut stream = connect(host).await?;
    stream.write_all(&bytes(host, &body, "")).await.map_err(|error| error.to_string())?;
    drop(stream);
    let spoken = host.turn(body).await.map_err(|seen| format!("the retry: {seen}"))?;
    let (health, _) = host.health().await?;
    if health.status == 200 { Ok(format!("the retry: {}", spoken.answer.status)) } else { Err(health.shown()) }
}
