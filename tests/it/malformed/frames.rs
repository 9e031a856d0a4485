//! What is wrong below the messages: frames, their order, their bytes, their size.

use crate::support::Server;
use crate::support::raw_ws::{BINARY, CLOSE, CONTINUATION, Frame, Heard, PING, PONG, RawWs, TEXT};
use serde_json::json;
use std::time::{Duration, Instant};

/// The largest message of the server under test.
const LIMIT: usize = 1000;

/// Close codes of RFC 6455.
const PROTOCOL: u16 = 1002;
const NOT_TEXT: u16 = 1007;
const TOO_BIG: u16 = 1009;

fn query(prompt: &str) -> Vec<u8> {
    json!({"message_type": "invocation_message", "user_prompt": prompt}).to_string().into_bytes()
}

fn answer(text: &str) -> String {
    format!(r#"{{"message_type":"result_message","metadata":{{}},"data":{{"type":"text","text":"{text}"}}}}"#)
}

/// What ends the connection, and the code it ends with.
fn rows() -> Vec<(String, Vec<Frame>, u16)> {
    let hi = || Frame::text(query("hi"));
    let mut rows = vec![
        ("an unmasked text".to_owned(), vec![hi().unmasked()], PROTOCOL),
        ("an unmasked ping".to_owned(), vec![Frame::new(PING, "x").unmasked()], PROTOCOL),
        ("an unmasked close".to_owned(), vec![Frame::close(1000, b"").unmasked()], PROTOCOL),
        ("a continuation of nothing".to_owned(), vec![Frame::new(CONTINUATION, query("hi"))], PROTOCOL),
        ("more of nothing".to_owned(), vec![Frame::new(CONTINUATION, query("hi")).open()], PROTOCOL),
        ("a text within a text".to_owned(), vec![Frame::text("{").open(), hi()], PROTOCOL),
        ("a text begun twice".to_owned(), vec![Frame::text("{").open(), hi().open()], PROTOCOL),
        ("a binary within a text".to_owned(), vec![Frame::text("{").open(), Frame::new(BINARY, "}")], PROTOCOL),
        ("a length of 64 bits and a sign".to_owned(), vec![Frame::text("").declaring(1 << 63)], PROTOCOL),
        ("a ping of 2^40 bytes".to_owned(), vec![Frame::new(PING, "x").declaring(1 << 40)], PROTOCOL),
        ("a close with half a code".to_owned(), vec![Frame::new(CLOSE, "x")], PROTOCOL),
        ("a close whose reason is not UTF-8".to_owned(), vec![Frame::close(1000, b"\xff")], PROTOCOL),
        ("a text that is not UTF-8".to_owned(), vec![Frame::text(b"\"\xff\"")], NOT_TEXT),
        ("a text that ends in half a character".to_owned(), vec![Frame::text(b"\"\xf0\x9f\x98")], NOT_TEXT),
        (
            "fragments that are not UTF-8 together".to_owned(),
            vec![Frame::text(b"\"\xf0\x9f").open(), Frame::new(CONTINUATION, b"\x98\"")],
            NOT_TEXT,
        ),
        ("a text over the limit".to_owned(), vec![Frame::text(vec![b' '; LIMIT + 1])], TOO_BIG),
        ("a binary over the limit".to_owned(), vec![Frame::new(BINARY, vec![b' '; LIMIT + 1])], TOO_BIG),
        ("a length over the limit and no byte of it".to_owned(), vec![Frame::text("").declaring(1001)], TOO_BIG),
        ("a length of 2^40".to_owned(), vec![Frame::text("{").declaring(1 << 40)], TOO_BIG),
        ("a length of 2^63 less one".to_owned(), vec![Frame::new(BINARY, "{").declaring((1 << 63) - 1)], TOO_BIG),
        (
            "fragments over the limit together".to_owned(),
            vec![Frame::text(vec![b' '; LIMIT]).open(), Frame::new(CONTINUATION, " ")],
            TOO_BIG,
        ),
        (
            "fragments that would be over the limit".to_owned(),
            vec![Frame::text(vec![b' '; 600]).open(), Frame::new(CONTINUATION, "").declaring(401).open()],
            TOO_BIG,
        ),
    ];
    for bits in [1, 2, 4, 7] {
        rows.push((format!("reserved bits {bits:03b}"), vec![hi().reserved(bits)], PROTOCOL));
        rows.push((
            format!("a ping with reserved bits {bits:03b}"),
            vec![Frame::new(PING, "").reserved(bits)],
            PROTOCOL,
        ));
    }
    for opcode in (3..8).chain(11..16) {
        rows.push((format!("opcode {opcode}"), vec![Frame::new(opcode, query("hi"))], PROTOCOL));
    }
    for (name, opcode) in [("ping", PING), ("pong", PONG), ("close", CLOSE)] {
        rows.push((format!("a {name} in fragments"), vec![Frame::new(opcode, "").open()], PROTOCOL));
        rows.push((format!("a {name} of 126 bytes"), vec![Frame::new(opcode, vec![3; 126])], PROTOCOL));
        rows.push((
            format!("a {name} that says 65,536 bytes"),
            vec![Frame::new(opcode, "").declaring(65_536)],
            PROTOCOL,
        ));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1999, 5000, 65_535] {
        rows.push((format!("a close with code {code}"), vec![Frame::close(code, b"")], PROTOCOL));
    }
    rows
}

async fn works(server: &Server, after: &str) {
    let mut client = RawWs::connect(server.address(), "/").await;
    client.send(&Frame::text(query("still there"))).await;
    assert_eq!(client.text().await, answer("still there"), "after {after}");
}

#[tokio::test]
async fn a_wrong_frame_ends_its_connection_with_the_right_code() {
    let mut server = Server::start(&["--agent", "echo", "--max-message-bytes", "1000"]);
    let rows = rows();
    assert!(rows.len() >= 40, "{} rows", rows.len());
    for (name, frames, code) in rows {
        let mut client = RawWs::connect(server.address(), "/").await;
        // What came before the wrong frame counts.
        client.send(&Frame::text(query("first"))).await;
        assert_eq!(client.text().await, answer("first"), "before {name}");
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        client.send_bytes(&bytes).await;
        assert_eq!(client.next().await, Heard::Close(Some(code)), "{name}");
        assert_eq!(client.next().await, Heard::End, "{name}");
        works(&server, &name).await;
    }
    assert!(server.is_running());
}

#[tokio::test]
async fn a_wrong_frame_ends_the_request_that_runs() {
    let mut server = Server::start(&["--agent", "echo", "--max-message-bytes", "1000"]);
    for (name, frames, code) in rows() {
        let mut client = RawWs::connect(server.address(), "/").await;
        client.send(&Frame::text(query("@sleep 600000"))).await;
        server.busy().await;
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        client.send_bytes(&bytes).await;
        // The request may have ended already, by the loss of its connection: then its terminal may come first.
        assert_eq!(client.closed().await, Heard::Close(Some(code)), "{name}");
        server.idle().await;
    }
    works(&server, "all of them").await;
    assert!(server.is_running());
}

/// Each byte of a wrong frame may come alone.
#[tokio::test]
async fn a_wrong_frame_is_seen_byte_by_byte() {
    let server = Server::start(&["--agent", "echo", "--max-message-bytes", "1000"]);
    for (name, frames, code) in rows().into_iter().step_by(4) {
        let mut client = RawWs::connect(server.address(), "/").await;
        for byte in frames.iter().flat_map(Frame::bytes).take(150) {
            // It hangs up at the first byte that tells.
            if client.try_send(&[byte]).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if frames.iter().map(|frame| frame.bytes().len()).sum::<usize>() <= 150 {
            assert_eq!(client.closed().await, Heard::Close(Some(code)), "{name}");
        }
    }
    works(&server, "all of them").await;
}

#[tokio::test]
async fn a_close_is_answered_with_the_same_code() {
    let server = Server::start(&["--agent", "echo"]);
    let began = Instant::now();
    for code in [1000, 1001, 1011, 3000, 4999] {
        let mut client = RawWs::connect(server.address(), "/").await;
        client.send(&Frame::close(code, "bye".as_bytes())).await;
        assert_eq!(client.next().await, Heard::Close(Some(code)));
        assert_eq!(client.next().await, Heard::End);
    }
    let mut client = RawWs::connect(server.address(), "/").await;
    client.send(&Frame::new(CLOSE, "")).await;
    assert_eq!(client.next().await, Heard::Close(None));
    assert_eq!(client.next().await, Heard::End);
    // Clients wait for the end of the connection, so it comes right behind the frame.
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn fragments_are_one_message_with_controls_in_between() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = RawWs::connect(server.address(), "/").await;
    // Cut everywhere, also within characters; some fragments are empty; a ping and a pong after each.
    let whole = query("grüße 😀");
    let mut pongs = 0;
    for (opcode, kind) in [(TEXT, "text"), (BINARY, "binary")] {
        client.send(&Frame::new(opcode, "").open()).await;
        for byte in &whole {
            client.send(&Frame::new(CONTINUATION, [*byte]).open()).await;
            client.send(&Frame::new(CONTINUATION, "").open()).await;
            client.send(&Frame::new(PING, [*byte])).await;
            client.send(&Frame::new(PONG, "unasked")).await;
        }
        client.send(&Frame::new(CONTINUATION, "")).await;
        let said = loop {
            match client.next().await {
                Heard::Pong(payload) => {
                    assert_eq!(payload, [whole[pongs % whole.len()]], "{kind}");
                    pongs += 1;
                }
                Heard::Text(text) => break text,
                other => panic!("{kind}: {other:?}"),
            }
        };
        assert_eq!(said, answer("grüße 😀"), "{kind}");
    }
    assert_eq!(pongs, 2 * whole.len());
    // A binary message in fragments that is not UTF-8 is mended as a whole.
    client.send(&Frame::new(BINARY, &query("hi")[..query("hi").len() - 2]).open()).await;
    client.send(&Frame::new(CONTINUATION, b"\xf0\x9f\"}")).await;
    assert_eq!(client.text().await, answer("hi\u{fffd}"));
}

#[tokio::test]
async fn a_message_of_exactly_the_limit_is_taken() {
    let server = Server::start(&["--agent", "echo", "--max-message-bytes", "1000"]);
    let mut client = RawWs::connect(server.address(), "/").await;
    let prompt = "x".repeat(LIMIT - query("").len());
    client.send(&Frame::text(query(&prompt))).await;
    assert_eq!(client.text().await, answer(&prompt));
    // As fragments too, and the count begins anew with each message.
    for _ in 0..3 {
        client.send(&Frame::text(&query(&prompt)[..500]).open()).await;
        client.send(&Frame::new(CONTINUATION, &query(&prompt)[500..])).await;
        assert_eq!(client.text().await, answer(&prompt));
    }
}

/// The limit as it is: 104,857,600 bytes are read, one more is not, and nobody else is kept waiting.
#[tokio::test]
async fn the_limit_is_100_mib() {
    let mut server = Server::start(&["--agent", "echo"]);
    let mut client = RawWs::connect(server.address(), "/").await;
    let whole = vec![b' '; 104_857_600];
    client.send(&Frame::new(BINARY, whole.clone())).await;
    let empty =
        r#"{"message_type":"error_message","error":"Invalid JSON: empty","metadata":{"error_name":"ValidationError"}}"#;
    assert_eq!(client.text().await, empty);
    for fragments in [1, 5] {
        let mut client = RawWs::connect(server.address(), "/").await;
        let mut bytes = Vec::new();
        for (index, part) in whole.chunks(whole.len() / fragments).enumerate() {
            bytes.extend(Frame::new(if index == 0 { BINARY } else { CONTINUATION }, part).open().bytes());
        }
        bytes.extend(Frame::new(CONTINUATION, " ").bytes());
        let bytes = if fragments == 1 { Frame::new(BINARY, [&whole[..], b" "].concat()).bytes() } else { bytes };
        // A client that writes it all before it looks still finds the close frame, not a reset.
        client.send_bytes(&bytes).await;
        assert_eq!(client.next().await, Heard::Close(Some(TOO_BIG)), "{fragments} fragments");
        works(&server, "a message over 100 MiB").await;
    }
    assert!(server.is_running());
}
