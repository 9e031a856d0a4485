//! `turnhost mock`: a host with faults against the real server, and against servers that lose, repeat or invent turns.

use crate::chat::fed;
use crate::support::{Server, turnhost};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

const TURNS: usize = 200;

/// A number of the last line.
fn count(stdout: &str, what: &str) -> u64 {
    let line = stdout.lines().last().unwrap_or_default();
    let found = line.split(", ").find_map(|part| part.strip_prefix(what)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {what} in {line}"))
}

#[tokio::test]
async fn two_hundred_turns_with_faults_lose_and_repeat_nothing() {
    let server = Server::start(&["--agent", "echo"]);
    let ws = format!("ws://127.0.0.1:{}/", server.port);
    for (protocol, url, name, session) in [("dari", server.url("/"), "m1", "dari:m1"), ("runtimeuse", ws, "m2", "m2")] {
        let lines: Vec<String> = (1..=TURNS).map(|n| format!("turn number {n}\n")).collect();
        let lines = lines.concat();
        let chaos = "drop=0.2,dup=0.2,slow=0.2,seed=7";
        let args = ["mock", protocol, "--url", &url, "--session", name, "--expect-echo", "--chaos", chaos];
        let end = fed(&args, &lines).await;
        assert_eq!(end.code, Some(0), "{protocol}: {}\n{}", end.stderr, end.stdout.lines().last().unwrap());
        assert!(end.stdout.starts_with(&lines), "{protocol}: {}", end.stdout);
        for (what, at_least, at_most) in [
            ("turns", 200, 200),
            ("answered", 200, 200),
            ("dropped connections", 20, 100),
            ("retries", 20, 120),
            ("copies", 20, 80),
            ("read late", 20, 60),
            ("identical answers", 20, 200),
            ("lost", 0, 0),
            ("repeated", 0, 0),
            ("not as expected", 0, 0),
        ] {
            let n = count(&end.stdout, what);
            assert!((at_least..=at_most).contains(&n), "{protocol}: {what} {n}");
        }
        // The server's own log of the session: every turn was run once.
        server.idle().await;
        let (mut begun, mut after) = (0, 0);
        loop {
            let page = server.get(&format!("/v1/sessions/{session}/events?after={after}")).await.json();
            let entries = page["events"].as_array().unwrap_or_else(|| panic!("{page}")).clone();
            let Some(last) = entries.last() else { break };
            after = last["seq"].as_u64().unwrap();
            begun += entries.iter().filter(|entry| entry["type"] == "accepted").count();
        }
        assert_eq!(begun, TURNS, "{protocol}");
    }
}

/// An HTTP server of one request per connection; `None` ends the connection without an answer.
async fn stub(answer: impl Fn(Value) -> Option<(u16, String)> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/turn", listener.local_addr().unwrap());
    let answer = std::sync::Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move { serve(stream, &*answer).await });
        }
    });
    url
}

async fn serve(mut stream: TcpStream, answer: &(dyn Fn(Value) -> Option<(u16, String)> + Send + Sync)) {
    let mut read = Vec::new();
    let (head, length) = loop {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => read.extend_from_slice(&chunk[..n]),
        }
        let text = String::from_utf8_lossy(&read).to_lowercase();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let length = text[..end].lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        break (end + 4, length.unwrap_or(0));
    };
    while read.len() < head + length {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => read.extend_from_slice(&chunk[..n]),
        }
    }
    let body = serde_json::from_slice(&read[head..]).unwrap_or(Value::Null);
    // The look whether anybody is there.
    let answer = if body.is_null() { Some((200, "{}".to_owned())) } else { answer(body) };
    if let Some((status, text)) = answer {
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
        let _ = stream.write_all(text.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_server_that_runs_a_turn_again_is_found_out() {
    let runs = std::sync::atomic::AtomicU64::new(0);
    let url = stub(move |body| {
        let run = runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some((200, json!({"text": body["input"]["text"], "state": {"run": run}}).to_string()))
    })
    .await;
    let end = fed(&["mock", "dari", "--url", &url, "--chaos", "dup=1,seed=1"], "one\ntwo\nthree\n").await;
    assert_eq!((end.code, count(&end.stdout, "repeated")), (Some(4), 3), "{}", end.stderr);
    assert!(end.stderr.contains("turn 1 was run more than once: asked again, its answer was {"), "{}", end.stderr);
    // Without faults nobody sees it.
    let end = fed(&["mock", "dari", "--url", &url], "one\ntwo\n").await;
    assert_eq!((end.code, end.stdout.lines().next()), (Some(0), Some("one")), "{}", end.stderr);
}

#[tokio::test]
async fn a_server_that_loses_or_refuses_a_turn_is_found_out() {
    let url = stub(|body| match body["input"]["text"].as_str().unwrap() {
        "lost" => None,
        "refused" => Some((400, r#"{"detail":"no"}"#.to_owned())),
        "busy" => Some((503, r#"{"detail":"busy"}"#.to_owned())),
        "empty" => Some((200, r#"{"text":""}"#.to_owned())),
        "nonsense" => Some((200, "<html>".to_owned())),
        "wrong" => Some((200, r#"{"text":"something else"}"#.to_owned())),
        text => Some((200, json!({"text": text}).to_string())),
    })
    .await;
    let lines = "fine\nlost\nrefused\nbusy\nempty\nnonsense\nwrong\nfine\n";
    let end = fed(&["mock", "dari", "--url", &url, "--expect-echo", "--tries", "2"], lines).await;
    let counts = ["turns", "answered", "retries", "lost", "not as expected"].map(|what| count(&end.stdout, what));
    assert_eq!((end.code, counts), (Some(4), [8, 5, 2, 3, 3]), "{}\n{}", end.stderr, end.stdout);
    for problem in [
        "turn 2 is lost: ",
        "turn 3 is lost: the answer was 400 {\"detail\":\"no\"}",
        "turn 4 is lost: the answer was 503",
        "turn 5: the answer has no text: {\"text\":\"\"}",
        "turn 6: the answer is not one of the contract: ",
        "turn 7: the answer to wrong was something else",
    ] {
        assert!(end.stderr.contains(problem), "no {problem} in {}", end.stderr);
    }
}

/// The platform keeps, replaces and clears the state as the answers say.
#[tokio::test]
async fn the_state_is_kept_as_a_platform_keeps_it() {
    let server = Server::start(&["--agent", "echo"]);
    let lines = "@state {\"b\": 1,\"a\":[2]}\n/state\n@fail no luck\n/state\n@clear\n/state\n@show\n";
    let end = fed(&["mock", "dari", "--url", &server.url("/"), "--wire"], lines).await;
    assert_eq!(end.code, Some(0), "{}", end.stderr);
    let states: Vec<&str> = end.stderr.lines().filter(|line| !line.starts_with(['→', '←'])).collect();
    assert_eq!(states, [r#"{"b": 1,"a":[2]}"#, r#"{"b": 1,"a":[2]}"#, "no state"], "{}", end.stderr);
    assert!(end.stderr.contains("→ {\"input\":{\"text\":\"@show\"}"), "the wire is shown: {}", end.stderr);
    assert!(end.stdout.lines().nth(3).unwrap().contains("\"state\":null"), "{}", end.stdout);
}

#[tokio::test]
async fn a_server_that_answers_a_key_twice_is_found_out() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut seq = 0;
        while let Ok((stream, _)) = listener.accept().await {
            seq += 1;
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
                while let Some(Ok(Message::Text(text))) = socket.next().await {
                    let query: Value = serde_json::from_str(&text).unwrap();
                    let data = json!({"type": "text", "text": query["user_prompt"]});
                    let result = json!({"message_type": "result_message", "metadata": {"seq": seq}, "data": data});
                    let _ = socket.send(Message::text(result.to_string())).await;
                }
            });
        }
    });
    let args = ["mock", "runtimeuse", "--url", &url, "--expect-echo", "--chaos", "dup=1,seed=3"];
    let end = fed(&args, "one\ntwo\n").await;
    assert_eq!((end.code, count(&end.stdout, "repeated")), (Some(4), 2), "{}", end.stderr);
    assert_eq!(count(&end.stdout, "not as expected"), 0, "{}", end.stdout);
}

#[tokio::test]
async fn what_makes_no_sense_is_said() {
    for (args, code, sentence) in [
        (&["mock", "dari", "--url", "ftp://h"][..], 1, "--url ftp://h: expected http://HOST:PORT"),
        (&["mock", "runtimeuse", "--url", "http://h"], 1, "--url http://h: expected ws://HOST:PORT"),
        (&["mock", "dari", "--url", "http://h", "--chaos", "drop=2"], 1, "--chaos drop: expected a chance from 0 to 1"),
        (&["mock", "dari", "--url", "http://127.0.0.1:1"], 1, "no server answers at http://127.0.0.1:1/health: "),
        (&["mock", "runtimeuse", "--url", "ws://127.0.0.1:1"], 1, "ws://127.0.0.1:1/: "),
        (&["mock", "sessions", "--url", "http://h"], 2, "invalid value 'sessions'"),
        (&["mock", "dari"], 2, "--url <URL>"),
    ] {
        let end = turnhost(args).await;
        assert_eq!((end.code, &*end.stdout), (Some(code), ""), "{args:?}: {}", end.stderr);
        assert!(end.stderr.contains(sentence), "{args:?}: {}", end.stderr);
    }
}
