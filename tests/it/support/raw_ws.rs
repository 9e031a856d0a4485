//! WebSocket frames as bytes: what no well-behaved client sends, and every frame of the server as it came.

use super::PATIENCE;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Any mask will do; a fixed one makes failures repeatable.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame to be written, right or wrong.
#[derive(Debug, Clone)]
pub struct Frame {
    opcode: u8,
    last: bool,
    reserved: u8,
    masked: bool,
    declared: Option<u64>,
    payload: Vec<u8>,
}

impl Frame {
    /// A whole, masked frame of this opcode.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { opcode, last: true, reserved: 0, masked: true, declared: None, payload: payload.into() }
    }

    pub fn text(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(TEXT, payload)
    }

    /// A close frame with this code and reason.
    pub fn close(code: u16, reason: &[u8]) -> Self {
        Self::new(CLOSE, [&code.to_be_bytes(), reason].concat())
    }

    /// The same frame, but more of the message follows.
    pub fn open(mut self) -> Self {
        self.last = false;
        self
    }

    /// The same frame with reserved bits, the first being 4.
    pub fn reserved(mut self, bits: u8) -> Self {
        self.reserved = bits;
        self
    }

    pub fn unmasked(mut self) -> Self {
        self.masked = false;
        self
    }

    /// The same frame with another length in its head than it has.
    pub fn declaring(mut self, length: u64) -> Self {
        self.declared = Some(length);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mask_bit = u8::from(self.masked) << 7;
        let length = self.declared.unwrap_or(self.payload.len() as u64);
        let mut bytes = vec![u8::from(self.last) << 7 | self.reserved << 4 | self.opcode];
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..=125), _) => bytes.push(mask_bit | short),
            (_, Ok(short)) => {
                bytes.push(mask_bit | 0x7e);
                bytes.extend(short.to_be_bytes());
            }
            _ => {
                bytes.push(mask_bit | 0x7f);
                bytes.extend(length.to_be_bytes());
            }
        }
        if self.masked && self.payload.len() < 1 << 20 {
            bytes.extend(MASK);
            bytes.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            // A mask of zeros is one too, and costs a large frame no time.
            bytes.extend(&[0; 4][..if self.masked { 4 } else { 0 }]);
            bytes.extend(&self.payload);
        }
        bytes
    }
}

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A whole text message.
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// A close frame with its code, if it has one.
    Close(Option<u16>),
    /// The end of the connection.
    End,
}

/// A WebSocket without any rules on our side; what the server sends is checked against its own.
pub struct RawWs {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    /// Bytes behind the last frame taken.
    rest: Vec<u8>,
    /// The message whose fragments come.
    begun: Option<Vec<u8>>,
    /// How many frames the last whole message had.
    pub fragments: usize,
    /// The head of the answer to the upgrade.
    pub head: String,
}

impl RawWs {
    /// Upgrades a fresh connection.
    pub async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::connect_with(address, path, "").await.unwrap_or_else(|answer| panic!("no upgrade: {answer}"))
    }

    /// The same with more lines in the head. The whole answer if it is no upgrade.
    pub async fn connect_with(address: SocketAddr, path: &str, lines: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.expect("the port is open");
        stream.set_nodelay(true).unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let host = if lines.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
        let head = format!(
            "GET {path} HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
        );
        writer.write_all(head.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let end = loop {
            if let Some(at) = got.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let read = tokio::time::timeout(PATIENCE, reader.read_buf(&mut got)).await.expect("an answer in time");
            assert!(read.unwrap() > 0, "the connection ended after {:?}", String::from_utf8_lossy(&got));
        };
        let rest = got.split_off(end);
        let head = String::from_utf8(got).unwrap();
        if head.starts_with("HTTP/1.1 101 ") {
            // The answer to the key above in RFC 6455.
            assert!(head.to_ascii_lowercase().contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
            return Ok(Self { reader, writer, rest, begun: None, fragments: 0, head });
        }
        let mut answer = rest;
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        while answer.len() < length {
            let read = tokio::time::timeout(PATIENCE, reader.read_buf(&mut answer)).await.expect("a body in time");
            assert!(read.unwrap() > 0, "a body that is cut: {head}");
        }
        Err(head + &String::from_utf8_lossy(&answer))
    }

    pub async fn send(&mut self, frame: &Frame) {
        self.send_bytes(&frame.bytes()).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("the socket takes bytes");
    }

    /// For bytes during which the server may hang up.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        tokio::time::timeout(PATIENCE, self.writer.write_all(bytes)).await.expect("the socket takes bytes in time")
    }

    /// Ends the connection with a reset instead of an orderly end, when it is dropped next.
    pub fn reset(&self) {
        let stream: &TcpStream = self.writer.as_ref();
        socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// The next message or control frame.
    pub async fn next(&mut self) -> Heard {
        loop {
            let Some((first, payload)) = self.frame().await else { return Heard::End };
            let (last, opcode) = (first & 0x80 != 0, first & 0x0f);
            assert_eq!(first & 0x70, 0, "the server sets reserved bits");
            match opcode {
                TEXT | CONTINUATION => {
                    assert_eq!(opcode == CONTINUATION, self.begun.is_some(), "fragments in disorder");
                    if self.begun.is_none() {
                        self.fragments = 0;
                    }
                    self.fragments += 1;
                    let mut whole = self.begun.take().unwrap_or_default();
                    whole.extend(payload);
                    if last {
                        return Heard::Text(String::from_utf8(whole).expect("text in UTF-8"));
                    }
                    self.begun = Some(whole);
                }
                PING | PONG | CLOSE => {
                    assert!(last && payload.len() <= 125, "a control frame that is none");
                    return match opcode {
                        PING => Heard::Ping(payload),
                        PONG => Heard::Pong(payload),
                        _ => Heard::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
                    };
                }
                other => panic!("a frame of opcode {other}"),
            }
        }
    }

    /// The next text; control frames before it are passed over.
    pub async fn text(&mut self) -> String {
        loop {
            match self.next().await {
                Heard::Text(text) => return text,
                Heard::Ping(_) | Heard::Pong(_) => {}
                end => panic!("{end:?} where a text was due"),
            }
        }
    }

    /// The close frame, or the end without one; whatever comes before is passed over.
    pub async fn closed(&mut self) -> Heard {
        loop {
            if let end @ (Heard::Close(_) | Heard::End) = self.next().await {
                return end;
            }
        }
    }

    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((head, length)) = split(&self.rest)
                && self.rest.len() >= head + length
            {
                let first = self.rest[0];
                let after = self.rest.split_off(head + length);
                let payload = self.rest.split_off(head);
                self.rest = after;
                return Some((first, payload));
            }
            let read = tokio::time::timeout(PATIENCE, self.reader.read_buf(&mut self.rest)).await;
            match read.expect("a frame in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// The length of a server's frame head, and of the payload behind it.
fn split(bytes: &[u8]) -> Option<(usize, usize)> {
    let second = *bytes.get(1)?;
    assert_eq!(second & 0x80, 0, "a server's frame is not masked");
    match second {
        126 => Some((4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())))),
        127 => Some((10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap())).unwrap())),
        short => Some((2, usize::from(short))),
    }
}

/// A header's value in the text of a head.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
