//! An HTTP/1.1 client that does nothing by itself: the test decides about every byte and about how a connection ends.

use super::{HttpAnswer, PATIENCE, eventually};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection.
pub struct Http {
    stream: TcpStream,
    /// What was read and belongs to no answer yet.
    buffer: Vec<u8>,
}

/// A request with a body and its length. `Host` names this machine unless the headers name another.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    // A method without a body says nothing about one.
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        all.push(("Content-Length", &length));
    }
    let mut bytes = head(method, path, &all);
    bytes.extend_from_slice(body);
    bytes
}

/// Only the head of a request, exactly as given but for `Host`.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("Host: 127.0.0.1\r\n");
    }
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    head.into_bytes()
}

impl Http {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the port is open");
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Writes bytes, all of them.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("the connection takes bytes");
    }

    /// The same for bytes that the server may not want to have.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("bytes are taken in time")
    }

    /// Reads the answer to a request of this method.
    pub async fn answer(&mut self, method: &str) -> HttpAnswer {
        self.answer_within(method, PATIENCE).await
    }

    /// The same for an answer that takes its time.
    pub async fn answer_within(&mut self, method: &str, within: Duration) -> HttpAnswer {
        let answer = tokio::time::timeout(within, self.read_answer(method)).await;
        answer.unwrap_or_else(|_| panic!("no answer within {within:?}; so far {:?}", self.text()))
    }

    /// Whether the server has ended the connection, without a byte more.
    pub async fn is_ended_by_server(&mut self) -> bool {
        matches!(tokio::time::timeout(PATIENCE, self.more()).await, Ok(false)) && self.buffer.is_empty()
    }

    /// Reads one chunk of whatever comes; the number of bytes read so far.
    pub async fn read_some(&mut self) -> usize {
        tokio::time::timeout(PATIENCE, self.more()).await.expect("some bytes in time");
        self.buffer.len()
    }

    /// Closes with a FIN. (The system sends a reset instead if there are bytes that nobody has read.)
    pub async fn close(self) {
        let connection = (self.stream.peer_addr().unwrap(), self.stream.local_addr().unwrap());
        drop(self.stream);
        // A program that another test is just starting has a copy of every socket for a moment: as long as it has, the
        // connection lives.
        eventually("the end of the connection", || (!is_established(connection)).then_some(())).await;
    }

    /// Closes with a reset.
    pub async fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
        self.close().await;
    }

    async fn read_answer(&mut self, method: &str) -> HttpAnswer {
        loop {
            let (status, headers, length) = self.read_head().await;
            self.buffer.drain(..length);
            // "100 Continue" and its like come before the answer.
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let mut answer = HttpAnswer { status, headers, body: String::new() };
            if method != "HEAD" && status != 101 {
                answer.body = self.read_body(&answer).await;
            }
            return answer;
        }
    }

    async fn read_head(&mut self) -> (u16, Vec<(String, String)>, usize) {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            assert!(self.more().await, "the connection ended before the answer's head: {:?}", self.text());
        };
        let head = String::from_utf8(self.buffer[..end].to_vec()).expect("a head in UTF-8");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let status = status.and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let headers = lines.map(|line| line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}")));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        (status.unwrap_or_else(|| panic!("no status: {head:?}")), headers, end + 4)
    }

    async fn read_body(&mut self, answer: &HttpAnswer) -> String {
        let body = if answer.header("transfer-encoding") == Some("chunked") {
            self.read_chunks().await
        } else {
            let length = answer.header("content-length").unwrap_or_else(|| panic!("no length: {answer:?}"));
            self.take(length.parse().expect("a length")).await
        };
        String::from_utf8(body).expect("a body in UTF-8")
    }

    async fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n") {
                    break at;
                }
                assert!(self.more().await, "the connection ended in a chunked body: {:?}", self.text());
            };
            let size = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
            let chunk = self.take(end + 2 + size + 2).await;
            if size == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[end + 2..end + 2 + size]);
        }
    }

    async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.more().await, "the connection ended {} bytes too early", length - self.buffer.len());
        }
        self.buffer.drain(..length).collect()
    }

    /// Reads what is there; false at the end of the connection, however it ended.
    async fn more(&mut self) -> bool {
        self.buffer.reserve(64 << 10);
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(read) if read > 0)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

/// Whether the system takes the server's end of a connection, `(server, client)`, for open on both sides.
fn is_established((server, client): (SocketAddr, SocketAddr)) -> bool {
    let (local, remote) = (format!(":{:04X}", server.port()), format!(":{:04X}", client.port()));
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.into_iter().any(|row| row[1].ends_with(&local) && row[2].ends_with(&remote) && row[3] == "01")
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
