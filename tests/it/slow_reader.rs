//! A turn does not wait for its reader, and the server does not grow with what the reader leaves untaken; RuntimeUse
//! section 17.2.

use crate::support::raw_ws::{Frame, RawWs};
use crate::support::{PATIENCE, Server, WsClient, eventually, proc};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The most the server may grow over idle: 16 MiB.
const GROWTH_KIB: u64 = 16 << 10;

fn stream(count: usize, size: usize) -> Frame {
    let message = json!({"message_type": "invocation_message", "user_prompt": format!("@stream {count} {size}")});
    Frame::text(message.to_string())
}

/// Reads `message FIRST` up to the result of the turn: each once, in order.
async fn read_on(client: &mut RawWs, first: usize, count: usize) {
    for n in first..=count {
        let text = client.text().await;
        let message: Value = serde_json::from_str(&text).unwrap();
        let said = message["text_blocks"][0].as_str().unwrap_or_else(|| panic!("{text} where message {n} was due"));
        assert_eq!(said.trim_end_matches('.'), format!("message {n}"));
    }
    let result = client.text().await;
    assert!(result.contains("result_message") && result.contains(&format!("streamed {count}")), "{result}");
}

/// Bytes in the deleted files that a process holds open.
fn in_spill_files(server: &Server) -> u64 {
    let Ok(open) = std::fs::read_dir(format!("/proc/{}/fd", server.pid())) else { return 0 };
    let deleted = open
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().ends_with(" (deleted)")));
    deleted.filter_map(|path| std::fs::metadata(path).ok()).filter(|file| file.is_file()).map(|file| file.len()).sum()
}

#[tokio::test]
async fn a_client_that_stops_reading_costs_little_and_loses_nothing() {
    // The full million is measured with an optimised build; this much is beyond every buffer between the two.
    let count = 250_000;
    let server = Server::start(&["--agent", "echo", "--heartbeat", "10m"]);
    let mut other = WsClient::connect(server.address(), "/").await;
    other.query("warm").await;
    other.next().await.expect("an answer");
    let idle = proc::private_kib(server.pid());
    let watch = proc::Watch::start(server.pid());
    let mut client = RawWs::connect(server.address(), "/").await;
    client.send(&stream(count, 0)).await;
    assert!(client.text().await.contains("\"message 1\""));
    let stopped = Instant::now();
    let mut answers = Vec::new();
    let mut ended = None;
    while stopped.elapsed() < Duration::from_secs(5) || ended.is_none() {
        let asked = Instant::now();
        other.query("quick").await;
        let answer = other.next().await.expect("an answer");
        answers.push(asked.elapsed());
        assert_eq!(answer["data"]["text"], "quick");
        let health = server.get("/health").await.json();
        if health["turns"] == 0 && ended.is_none() {
            ended = Some(stopped.elapsed());
            assert!(in_spill_files(&server) > 0, "what is not read is in a file");
        }
        assert!(stopped.elapsed() < PATIENCE, "the turn waits for its reader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answers.sort();
    // The median: this machine may be busy with other tests.
    assert!(answers[answers.len() / 2] < Duration::from_millis(100), "another session waits: {answers:?}");
    read_on(&mut client, 2, count).await;
    let grown = watch.most_kib().saturating_sub(idle);
    println!("turn ended after {ended:?}; echoes {:?}; {grown} KiB over idle", answers.last());
    assert!(grown <= GROWTH_KIB, "{grown} KiB over {idle} KiB");
    eventually("the file's end", || (in_spill_files(&server) == 0).then_some(())).await;
}

/// Large messages cost no more than many small ones.
#[tokio::test]
async fn the_size_of_messages_does_not_matter() {
    for (count, size) in [(20_000, 5_000), (1_000, 100_000), (100, 1_000_000)] {
        let server = Server::start(&["--agent", "echo", "--heartbeat", "10m"]);
        let mut client = RawWs::connect(server.address(), "/").await;
        let idle = proc::private_kib(server.pid());
        let watch = proc::Watch::start(server.pid());
        client.send(&stream(count, size)).await;
        assert!(client.text().await.contains("message 1"));
        server.idle().await;
        read_on(&mut client, 2, count).await;
        let grown = watch.most_kib().saturating_sub(idle);
        println!("{count} messages of {size} bytes: {grown} KiB over idle");
        assert!(grown <= GROWTH_KIB, "{count} messages of {size} bytes: {grown} KiB over {idle} KiB");
    }
}

#[tokio::test]
async fn a_spill_file_that_is_full_holds_the_turn_back() {
    let server = Server::start(&["--agent", "echo", "--heartbeat", "10m", "--spill-max", "1MiB"]);
    let mut client = RawWs::connect(server.address(), "/").await;
    client.send(&stream(20_000, 2000)).await;
    assert!(client.text().await.contains("\"message 1."));
    eventually("a full file", || (in_spill_files(&server) > 900 << 10).then_some(())).await;
    let more = eventually("more than that", || (in_spill_files(&server) > 1 << 20).then_some(()));
    assert!(tokio::time::timeout(Duration::from_millis(500), more).await.is_err(), "the file is beyond its limit");
    assert_eq!(server.get("/health").await.json()["turns"], 1, "the turn is held back");
    read_on(&mut client, 2, 20_000).await;
}

#[tokio::test]
async fn without_a_folder_for_the_file_the_turn_is_held_back_and_it_is_said_once() {
    let server = Server::start_with(&["--agent", "echo", "--heartbeat", "10m"], |command| {
        command.env("TMPDIR", "/proc/nowhere");
    });
    for _ in 0..2 {
        let mut client = RawWs::connect(server.address(), "/").await;
        client.send(&stream(10_000, 2000)).await;
        assert!(client.text().await.contains("\"message 1."));
        eventually("the warning", || server.log().contains("no spill file").then_some(())).await;
        read_on(&mut client, 2, 10_000).await;
    }
    assert_eq!(server.log().matches("no spill file").count(), 1, "{}", server.log());
    assert!(server.log().contains("/proc/nowhere"), "{}", server.log());
}
