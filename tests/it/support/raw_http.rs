//! HTTP as bytes: heads and bodies that no client library would write.

use super::{HttpAnswer, PATIENCE};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends bytes on a fresh connection and reads what comes until it ends. The request should ask for the end.
pub async fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.expect("the port is open");
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        // The server may refuse what it has not read to the end.
        let _ = writer.write_all(request).await;
    };
    let read = async {
        let mut answer = Vec::new();
        let _ = reader.read_to_end(&mut answer).await;
        answer
    };
    let both = async { tokio::join!(write, read).1 };
    tokio::time::timeout(PATIENCE * 2, both).await.expect("an end of the connection in time")
}

/// The same for a connection that goes on: only the head of the answer is read.
pub async fn head(address: SocketAddr, request: &[u8]) -> HttpAnswer {
    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("a head in time");
        assert!(read.unwrap() > 0, "no head: {:?}", String::from_utf8_lossy(&answer));
    }
    parse(&answer)
}

/// One request that closes its connection: the answer to it, taken apart. `lines` end with a line break each.
pub async fn request(address: SocketAddr, first: &str, lines: &str, body: &[u8]) -> HttpAnswer {
    let host = if lines.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
    let head = format!("{first} HTTP/1.1\r\n{host}Connection: close\r\n{lines}\r\n");
    parse(&exchange(address, &[head.as_bytes(), body].concat()).await)
}

/// Takes the bytes of one answer apart. A body that is chunked stays so.
pub fn parse(bytes: &[u8]) -> HttpAnswer {
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {:?}", shown()));
    let head = std::str::from_utf8(&bytes[..end]).expect("a head in ASCII");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    HttpAnswer {
        status: status.unwrap_or_else(|| panic!("no status: {:?}", shown())),
        headers: lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
        body: String::from_utf8_lossy(&bytes[end + 4..]).into_owned(),
    }
}

/// A body in chunks of this size.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 64);
    for chunk in body.chunks(size) {
        out.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

/// Sends `POST /runtime/advance` and gives the connection on which the answer will come.
pub async fn begin_advance(address: SocketAddr, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the port is open");
    let head = format!("POST /runtime/advance HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream
}
