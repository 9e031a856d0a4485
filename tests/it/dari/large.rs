//! Check 20: large inputs, whole and within bounds; too large ones are refused, declared or not.

use super::{ADVANCE, Dari, Mode, holds_the_contract, turn_body};
use crate::support::http;
use crate::support::proc;
use crate::support::stub::script;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;

const MAX_BODY: usize = 64 << 20;
/// What such a body may take on a busy machine, with neither side's code optimised.
const LONG: Duration = Duration::from_mins(2);

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// A prompt of this many bytes that asks for its own digest, and whose JSON is longer than itself.
fn prompt(bytes: usize) -> String {
    let mut prompt = script(&["sha256", "end", ""]);
    let piece = "Zeile für Zeile \"anders\"\t— 10 MB 🙂\\\n";
    while prompt.len() + piece.len() <= bytes {
        prompt.push_str(piece);
    }
    prompt.extend(std::iter::repeat_n('x', bytes - prompt.len()));
    prompt
}

pub async fn large_input(mode: Mode) {
    let dari = Dari::start(mode);
    for round in 0..2 {
        let prompt = prompt(10_000_000 + round);
        let body = dari.turn(&json!({"input": prompt, "state": {"v": 1}})).await;
        assert_eq!(body.text, sha256(&prompt));
        let peak = proc::peak_kib(dari.server.pid()) / 1024;
        assert!(peak < 512, "{peak} MiB at most are taken");
    }
    assert_eq!(dari.calls(), 2);
}

/// A body of exactly so many bytes.
fn body_of(bytes: usize) -> Vec<u8> {
    let (start, end) = (format!("{{\"input\":{}", json!(script(&["sha256", "end", ""]))), "\"}");
    let mut body = start.trim_end_matches('"').as_bytes().to_vec();
    body.resize(bytes - end.len(), b'x');
    body.extend_from_slice(end.as_bytes());
    assert_eq!(body.len(), bytes);
    body
}

/// Sends a body in chunks of this size; the server may end the connection before it has taken all.
async fn post_chunked(dari: &Dari, body: &[u8], size: usize) -> crate::support::HttpAnswer {
    let mut connection = dari.connect().await;
    let headers = [("Transfer-Encoding", "chunked"), ("Connection", "close")];
    connection.send(&http::head("POST", ADVANCE, &headers)).await;
    for chunk in body.chunks(size) {
        let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
        connection.send(&framed).await;
    }
    connection.send(b"0\r\n\r\n").await;
    connection.answer_within("POST", LONG).await
}

pub async fn too_large(mode: Mode) {
    let dari = Dari::start(mode);
    let most = body_of(MAX_BODY);
    let expected = sha256(serde_json::from_slice::<serde_json::Value>(&most).unwrap()["input"].as_str().unwrap());
    assert_eq!(turn_body(&dari.post_raw(&most).await).text, expected, "64 MiB are taken");
    assert_eq!(turn_body(&post_chunked(&dari, &most, 1 << 20).await).text, expected, "64 MiB are taken in chunks");
    assert_eq!(dari.calls(), 2);
    drop(most);

    let much = body_of(MAX_BODY + 1);
    let refusal = json!({"detail": "request body is too large"});
    let mut connection = dari.connect().await;
    connection.send(&http::request("POST", ADVANCE, &[], &much)).await;
    let declared = connection.answer_within("POST", LONG).await;
    holds_the_contract(&declared);
    assert_eq!((declared.status, declared.json()), (413, refusal.clone()), "declared");
    dari.is_healthy().await;
    let counted = post_chunked(&dari, &much, 1 << 20).await;
    holds_the_contract(&counted);
    assert_eq!((counted.status, counted.json()), (413, refusal.clone()), "counted");
    dari.is_healthy().await;

    // A caller that waits for "100 Continue" may be told at once, or after its body.
    let length = much.len().to_string();
    let mut connection = dari.connect().await;
    connection.send(&http::head("POST", ADVANCE, &[("Content-Length", &length), ("Expect", "100-continue")])).await;
    assert!(connection.read_some().await > 0);
    let _ = connection.try_send(&much).await;
    let expecting = connection.answer_within("POST", LONG).await;
    assert_eq!((expecting.status, expecting.json()), (413, refusal), "after 100 Continue");
    assert_eq!(dari.calls(), 2);
    dari.turn(&json!({"input": "small again"})).await;
}

#[tokio::test]
async fn check_20_large_input() {
    large_input(Mode::Close).await;
    too_large(Mode::Close).await;
}
