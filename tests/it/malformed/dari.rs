//! Bodies that are no turn: `dari-runtime-v1` 2.8.

use super::{digits, nested};
use crate::support::{HttpAnswer, Server, raw_http};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const NOT_JSON: (u16, &str) = (400, r#"{"detail":"request body is not valid JSON"}"#);
const NOT_AN_OBJECT: (u16, &str) = (400, r#"{"detail":"request body must be a JSON object"}"#);
const NO_INPUT: (u16, &str) = (422, r#"{"detail":"no user input found"}"#);
const TOO_LARGE: (u16, &str) = (413, r#"{"detail":"request body is too large"}"#);
const HI: (u16, &str) = (200, r#"{"text":"hi","state":{"v":1,"turn":1}}"#);
const NOTHING_SAID: (u16, &str) = (200, "{}");

const MIB: usize = 1 << 20;

type DariRow = (&'static str, Vec<u8>, (u16, &'static str));

/// `dari-runtime-v1` 2.8: M1 to M4.
fn dari_rows() -> Vec<DariRow> {
    let utf16: Vec<u8> = r#"{"input":"hi"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("empty", text(""), NOT_JSON),
        ("only blanks", text(" \t\r\n "), NOT_JSON),
        ("a NUL", text("\0"), NOT_JSON),
        ("only a byte order mark", text("\u{feff}"), NOT_JSON),
        ("two byte order marks", text("\u{feff}\u{feff}{\"input\":\"hi\"}"), NOT_JSON),
        ("cut in a key", text(r#"{"inp"#), NOT_JSON),
        ("cut in a string", text(r#"{"input":"h"#), NOT_JSON),
        ("cut behind the value", text(r#"{"input":"hi""#), NOT_JSON),
        ("bytes after the value", text(r#"{"input":"hi"} x"#), NOT_JSON),
        ("two values", text(r#"{"input":"hi"}{"input":"hi"}"#), NOT_JSON),
        ("a NUL after the value", text("{\"input\":\"hi\"}\0"), NOT_JSON),
        ("a byte that UTF-8 has not", b"{\"input\":\"\xff\"}".to_vec(), NOT_JSON),
        ("a character that is cut", b"{\"input\":\"\xf0\x9f\x98\"}".to_vec(), NOT_JSON),
        ("an overlong character", b"{\"input\":\"\xc0\x80\"}".to_vec(), NOT_JSON),
        ("a surrogate in UTF-8", b"{\"input\":\"\xed\xa0\x80\"}".to_vec(), NOT_JSON),
        ("UTF-16", utf16, NOT_JSON),
        ("129 levels", text(&nested("[", "]", 129)), NOT_JSON),
        ("129 levels in the state", text(&format!(r#"{{"state":{}}}"#, nested("[", "]", 128))), NOT_JSON),
        ("100,000 arrays", text(&nested("[", "]", 100_000)), NOT_JSON),
        ("100,000 arrays never closed", text(&"[".repeat(100_000)), NOT_JSON),
        ("100,000 objects", text(&nested("{\"a\":", "}", 100_000)), NOT_JSON),
        ("single quotes", text("{'input':'hi'}"), NOT_JSON),
        ("a key without quotes", text(r#"{input:"hi"}"#), NOT_JSON),
        ("a comma too many", text(r#"{"input":"hi",}"#), NOT_JSON),
        ("a comment", text(r#"{"input":"hi"/**/}"#), NOT_JSON),
        ("NaN", text(r#"{"input":NaN}"#), NOT_JSON),
        ("Infinity", text(r#"{"input":-Infinity}"#), NOT_JSON),
        ("a leading zero", text(r#"{"input":007}"#), NOT_JSON),
        ("a line break in a string", text("{\"input\":\"h\ni\"}"), NOT_JSON),
        ("a NUL in a string", text("{\"input\":\"h\0i\"}"), NOT_JSON),
        ("an escape that is none", text(r#"{"input":"\x41"}"#), NOT_JSON),
        ("an escape that is cut", text(r#"{"input":"\u12"}"#), NOT_JSON),
        ("an array", text(r#"[{"input":"hi"}]"#), NOT_AN_OBJECT),
        ("a string", text(r#""hi""#), NOT_AN_OBJECT),
        ("a number", text("42"), NOT_AN_OBJECT),
        ("a number beyond every float", text("1e999"), NOT_AN_OBJECT),
        ("a number of 400 digits", text(&digits()), NOT_AN_OBJECT),
        ("a boolean", text("true"), NOT_AN_OBJECT),
        ("null", text("null"), NOT_AN_OBJECT),
        ("half a surrogate pair alone", text(r#""\ud83d""#), NOT_AN_OBJECT),
        ("an empty input", text(r#"{"input":""}"#), NO_INPUT),
        ("an input of blanks", text(r#"{"input":" \t\n "}"#), NO_INPUT),
        ("an input without keys", text(r#"{"input":{}}"#), NO_INPUT),
        ("an input without items", text(r#"{"input":[]}"#), NO_INPUT),
        ("a number as input", text(r#"{"input":42}"#), NO_INPUT),
        ("a number beyond every float as input", text(r#"{"input":1e999}"#), NO_INPUT),
        ("400 digits as input", text(&format!(r#"{{"input":{}}}"#, digits())), NO_INPUT),
        ("a boolean as input", text(r#"{"input":true}"#), NO_INPUT),
        ("empty text", text(r#"{"text":""}"#), NO_INPUT),
        (
            "only the assistant's words",
            text(r#"{"input":{"messages":[{"role":"assistant","content":"hi"}]}}"#),
            NO_INPUT,
        ),
        ("a number as text", text(r#"{"input":[{"type":"text","text":5}]}"#), NO_INPUT),
        (
            "text below level 6",
            text(&format!(r#"{{"input":{}"hi"{}}}"#, r#"{"content":"#.repeat(7), "}".repeat(7))),
            NO_INPUT,
        ),
        ("a string as state", text(r#"{"input":"hi","state":"no object"}"#), HI),
        ("a number as state", text(r#"{"input":"hi","state":5}"#), HI),
        ("an array as state", text(r#"{"input":"hi","state":[1]}"#), HI),
        ("a foreign object as state", text(r#"{"input":"hi","state":{"v":9,"turn":"x"}}"#), HI),
        ("400 digits as state", text(&format!(r#"{{"input":"hi","state":{}}}"#, digits())), HI),
        ("ids of wrong types", text(r#"{"input":"hi","session_id":[],"message_id":{},"sessionId":1.5}"#), HI),
        (
            "a block nobody knows beside text",
            text(r#"{"input":[{"type":"text","text":"hi"},{"type":"hologram"}]}"#),
            (200, r#"{"text":"hi\n[attached hologram]","state":{"v":1,"turn":1}}"#),
        ),
        ("a byte order mark", text("\u{feff}{\"input\":\"hi\"}"), HI),
        ("a key twice", text(r#"{"input":5,"input":"hi"}"#), HI),
        ("huge numbers where nobody looks", text(&format!(r#"{{"x":[1e999,-1e999,{}],"input":"hi"}}"#, digits())), HI),
        ("128 levels", text(&format!(r#"{{"input":"hi","x":{}}}"#, nested("[", "]", 127))), HI),
        (
            "half a surrogate pair",
            text(r#"{"input":"hi\ud83d"}"#),
            (200, "{\"text\":\"hi\u{fffd}\",\"state\":{\"v\":1,\"turn\":1}}"),
        ),
        ("an escaped NUL", text(r#"{"input":"\u0000hi"}"#), (200, r#"{"text":"\u0000hi","state":{"v":1,"turn":1}}"#)),
        ("no keys at all", text("{}"), NOTHING_SAID),
        ("null as input", text(r#"{"input":null}"#), NOTHING_SAID),
    ]
}

fn short(answer: &HttpAnswer) -> (u16, &str) {
    (answer.status, &answer.body)
}

async fn every_dari_row(server: &Server) {
    for (name, body, expected) in dari_rows() {
        let answer = server.advance_raw(body).await;
        assert_eq!(short(&answer), expected, "{name}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{name}");
        assert_eq!(short(&server.advance_raw(r#"{"input":"hi"}"#).await), HI, "after {name}");
    }
}

#[tokio::test]
async fn dari_answers_every_malformed_body() {
    let mut server = Server::start(&["--agent", "echo"]);
    every_dari_row(&server).await;
    assert!(server.is_running());
}

#[tokio::test]
async fn dari_answers_every_malformed_body_while_a_turn_runs() {
    let mut server = Server::start(&["--agent", "echo"]);
    let asleep = server.request(reqwest::Method::POST, "/runtime/advance");
    let asleep = tokio::spawn(asleep.body(r#"{"input":"@sleep 600000","session_id":"other"}"#).send());
    server.busy().await;
    every_dari_row(&server).await;
    assert_eq!(server.get("/health").await.json()["turns"], 1, "the turn goes on");
    assert!(!asleep.is_finished() && server.is_running());
    asleep.abort();
}

#[tokio::test]
async fn dari_takes_64_mib_and_no_more() {
    let mut server = Server::start(&["--agent", "echo"]);
    let body = |size: usize| {
        let (start, end) = (r#"{"input":"hi","x":""#, r#""}"#);
        [start, &" ".repeat(size - start.len() - end.len()), end].concat().into_bytes()
    };
    let chunked = async |size: usize| {
        let chunks = raw_http::chunked(&body(size), MIB);
        raw_http::request(server.address(), "POST /runtime/advance", "Transfer-Encoding: chunked\r\n", &chunks).await
    };
    assert_eq!(short(&server.advance_raw(body(64 * MIB)).await), HI, "declared, 64 MiB");
    assert_eq!(short(&server.advance_raw(body(64 * MIB + 1)).await), TOO_LARGE, "declared, one more");
    assert_eq!(short(&chunked(64 * MIB).await), HI, "chunked, 64 MiB");
    assert_eq!(short(&chunked(64 * MIB + 1).await), TOO_LARGE, "chunked, one more");
    assert_eq!(short(&server.advance_raw(r#"{"input":"hi"}"#).await), HI);
    assert!(server.is_running());
}

/// M6, M7, M8 and M10.
#[tokio::test]
async fn dari_refuses_requests_whose_body_never_matters() {
    let mut server = Server::start(&["--agent", "echo", "--body-timeout", "300ms"]);
    let part = async |lines: &str, body: &[u8]| {
        raw_http::request(server.address(), "POST /runtime/advance", lines, body).await
    };
    let late = part("Content-Length: 100\r\n", b"{\"input\":").await;
    assert_eq!(short(&late), (408, r#"{"detail":"request body timed out"}"#));
    let late = part("Transfer-Encoding: chunked\r\n", b"5\r\n{\"inp\r\n").await;
    assert_eq!(short(&late), (408, r#"{"detail":"request body timed out"}"#));
    for coding in ["gzip", "br", "identity, gzip"] {
        let coded = part(&format!("Content-Encoding: {coding}\r\nContent-Length: 2\r\n"), b"{}").await;
        assert_eq!(short(&coded), (415, r#"{"detail":"unsupported content encoding"}"#), "{coding}");
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let refused = raw_http::request(server.address(), &format!("{method} /runtime/advance"), "", b"").await;
        assert_eq!(short(&refused), (405, r#"{"detail":"method not allowed"}"#), "{method}");
        assert_eq!(refused.header("allow"), Some("POST"), "{method}");
    }
    // Cut before the body is complete: no turn starts. The state would show it.
    let mut cut = TcpStream::connect(server.address()).await.unwrap();
    let head = format!("POST /runtime/advance HTTP/1.1\r\nHost: {}\r\nContent-Length: 40\r\n\r\n", server.address());
    cut.write_all(format!("{head}{{\"input\":\"@sleep 600000\"}}").as_bytes()).await.unwrap();
    drop(cut);
    assert_eq!(short(&server.advance_raw(r#"{"input":"hi"}"#).await), HI);
    assert_eq!(server.get("/health").await.json()["turns"], 0);
    assert!(server.is_running());
}

/// The answer is there before the body is: the caller gets it all the same, and the connection ends.
#[tokio::test]
async fn a_refusal_arrives_though_the_body_is_still_on_its_way() {
    let mut server = Server::start(&["--agent", "echo"]);
    let body = vec![b' '; 20 * MIB];
    let declared = format!("Content-Length: {}\r\n", body.len());
    let chunked = raw_http::chunked(&body, MIB);
    for (lines, body) in [(&*declared, &body), ("Transfer-Encoding: chunked\r\n", &chunked)] {
        for (first, more, status) in [
            ("POST /runtime/advance", "Content-Encoding: gzip\r\n", 415),
            ("PUT /runtime/advance", "", 405),
            ("POST /health", "", 405),
            ("POST /nope", "", 404),
            ("POST /", "", 426),
            ("POST /nope", "Host: evil.example\r\n", 403),
        ] {
            let host = if more.is_empty() || more.starts_with("Content") { "Host: localhost\r\n" } else { "" };
            let request = format!("{first} HTTP/1.1\r\n{host}{more}{lines}\r\n");
            let answer = raw_http::exchange(server.address(), &[request.as_bytes(), body].concat()).await;
            assert_eq!(raw_http::parse(&answer).status, status, "{first} {lines}");
        }
    }
    // A chunked body that never ends does not keep the connection.
    let head = "POST /nope HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let answer = raw_http::exchange(server.address(), head.as_bytes()).await;
    assert_eq!(raw_http::parse(&answer).status, 404);
    // And one that has come whole does not end it.
    let twice = "POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    let twice = [twice, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"].concat();
    let answer = raw_http::exchange(server.address(), twice.as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("HTTP/1.1 404 ") && answer.contains("HTTP/1.1 200 "), "{answer}");
    assert!(server.is_running());
}
