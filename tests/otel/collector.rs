//! A collector on loopback that speaks OTLP over HTTP, in protobuf and in JSON, and keeps the spans it was sent.

use crate::support::files::{Asked, read};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A span, whatever it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty for the first of its trace.
    pub parent: String,
    pub name: String,
    /// 1: internal, 3: client.
    pub kind: u64,
    pub attributes: BTreeMap<String, String>,
    /// What it says of the service that made it.
    pub resource: BTreeMap<String, String>,
    /// 0: unset, 2: an error; and its description.
    pub status: (u64, String),
}

impl Span {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

/// The collector.
pub struct Collector {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Collector {
    pub async fn start() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let kept = asked.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, kept.clone()));
            }
        });
        Self { address, asked }
    }

    /// What came: path, headers and body.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Every span that came.
    pub fn spans(&self) -> Vec<Span> {
        let of = |asked: &Asked| match asked.headers["content-type"].as_str() {
            "application/x-protobuf" => of_protobuf(&asked.body),
            "application/json" => of_json(&asked.body),
            other => panic!("spans in {other}"),
        };
        self.asked().iter().flat_map(of).collect()
    }
}

async fn serve(stream: TcpStream, kept: Arc<Mutex<Vec<Asked>>>) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(asked)) = read(&mut stream).await {
        let kind = asked.headers["content-type"].clone();
        kept.lock().unwrap().push(asked);
        let body = if kind == "application/json" { "{}" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A field of a protobuf message: what its number stands for is its reader's business.
#[derive(Debug, Clone, Copy)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn number(self) -> u64 {
        let Self::Number(number) = self else { panic!("{self:?} is no number") };
        number
    }

    fn bytes(self) -> &'a [u8] {
        let Self::Bytes(bytes) = self else { panic!("{self:?} are no bytes") };
        bytes
    }

    fn text(self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn hex(self) -> String {
        self.bytes().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("the rest of a number");
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return number;
        }
    }
    panic!("a number without an end");
}

/// The fields of a message, each with its number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let fixed = |bytes: &mut &[u8], length: usize| {
            let (number, rest) = bytes.split_at(length);
            *bytes = rest;
            number.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Number(fixed(&mut bytes, 8)),
            5 => Field::Number(fixed(&mut bytes, 4)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (field, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(field)
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

/// The messages in the fields with this number.
fn inner(message: &[u8], number: u64) -> Vec<&[u8]> {
    fields(message).into_iter().filter(|(found, _)| *found == number).map(|(_, field)| field.bytes()).collect()
}

fn attributes_of_protobuf(pairs: Vec<&[u8]>) -> BTreeMap<String, String> {
    let pair = |pair: &[u8]| {
        let (mut key, mut value) = (String::new(), String::new());
        for (number, field) in fields(pair) {
            match number {
                1 => key = field.text(),
                2 => {
                    value = match fields(field.bytes()).first() {
                        Some((1, text)) => text.text(),
                        Some((2 | 3, number)) => number.number().to_string(),
                        other => panic!("{key}: {other:?}"),
                    }
                }
                other => panic!("field {other} of an attribute"),
            }
        }
        (key, value)
    };
    pairs.into_iter().map(pair).collect()
}

fn of_protobuf(body: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in inner(body, 1) {
        let resource = inner(of_resource, 1).into_iter().flat_map(|resource| inner(resource, 1)).collect();
        let resource = attributes_of_protobuf(resource);
        for span in inner(of_resource, 2).into_iter().flat_map(|scope| inner(scope, 2)) {
            let mut made = Span {
                trace: String::new(),
                id: String::new(),
                parent: String::new(),
                name: String::new(),
                kind: 0,
                attributes: attributes_of_protobuf(inner(span, 9)),
                resource: resource.clone(),
                status: (0, String::new()),
            };
            let (mut began, mut ended) = (0, 0);
            for (number, field) in fields(span) {
                match number {
                    1 => made.trace = field.hex(),
                    2 => made.id = field.hex(),
                    4 => made.parent = field.hex(),
                    5 => made.name = field.text(),
                    6 => made.kind = field.number(),
                    7 => began = field.number(),
                    8 => ended = field.number(),
                    15 => {
                        for (number, field) in fields(field.bytes()) {
                            match number {
                                2 => made.status.1 = field.text(),
                                3 => made.status.0 = field.number(),
                                other => panic!("field {other} of a status"),
                            }
                        }
                    }
                    _ => {}
                }
            }
            assert!(0 < began && began <= ended, "from {began} to {ended}");
            spans.push(made);
        }
    }
    spans
}

fn attributes_of_json(pairs: &Value) -> BTreeMap<String, String> {
    let pair = |pair: &Value| {
        let value = &pair["value"];
        let text = value["stringValue"].as_str().or(value["intValue"].as_str()).map(str::to_owned);
        (pair["key"].as_str().unwrap().to_owned(), text.unwrap_or_else(|| value["intValue"].to_string()))
    };
    pairs.as_array().into_iter().flatten().map(pair).collect()
}

fn of_json(body: &[u8]) -> Vec<Span> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut spans = Vec::new();
    for of_resource in list(&body["resourceSpans"]) {
        for span in list(&of_resource["scopeSpans"]).iter().flat_map(|scope| list(&scope["spans"])) {
            spans.push(Span {
                trace: text(&span["traceId"]),
                id: text(&span["spanId"]),
                parent: text(&span["parentSpanId"]),
                name: text(&span["name"]),
                kind: span["kind"].as_u64().unwrap(),
                attributes: attributes_of_json(&span["attributes"]),
                resource: attributes_of_json(&of_resource["resource"]["attributes"]),
                status: (span["status"]["code"].as_u64().unwrap_or_default(), text(&span["status"]["message"])),
            });
        }
    }
    spans
}
