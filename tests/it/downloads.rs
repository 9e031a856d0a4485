//! Files fetched before a request's commands: RuntimeUse sections 11 and 17.7, by the built server.

use crate::support::files::FileServer;
use crate::support::{Server, WsClient, proc};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use zip::write::SimpleFileOptions;

fn zip(names: impl IntoIterator<Item = String>) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for name in names {
        writer.start_file(&name, SimpleFileOptions::default()).unwrap();
        writer.write_all(name.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Fetches, then runs a command; the terminal comes back.
async fn fetch(client: &mut WsClient, url: &str, folder: &Path, more: Value, command: &str) -> Value {
    let mut download = json!({"download_url": url, "working_dir": folder});
    for (name, value) in more.as_object().unwrap() {
        download[name] = value.clone();
    }
    let message = json!({"message_type": "command_execution_message", "commands": [{"command": command, "cwd": folder}],
                         "pre_execution_downloadables": [download]});
    client.send(&message).await;
    client.terminal().await
}

fn stdout(terminal: &Value) -> &str {
    terminal["results"][0]["stdout"].as_str().unwrap_or_else(|| panic!("{terminal}"))
}

#[tokio::test]
async fn a_bad_world_is_coped_with() {
    let (server, files) = (Server::start(&["--agent", "echo"]), FileServer::start().await);
    let mut client = server.connect("/").await;
    files.add("a file.txt", "hello");
    files.add("a%20file.txt", "hello");
    files.add("a%20file.txt-elsewhere", "hello");
    for treatment in ["files", "slow", "twice", "nolength", "redirect"] {
        let folder = tempfile::tempdir().unwrap();
        let url = files.url(&format!("{treatment}/a%20file.txt?sig=1"));
        let terminal = fetch(&mut client, &url, folder.path(), json!({}), "cat 'a file.txt'; ls -A | wc -l").await;
        assert_eq!(stdout(&terminal), "hello1\n", "{treatment}");
    }
    for (treatment, expected) in [
        ("forbidden", "Download failed: 403 Forbidden"),
        ("missing", "Download failed: 404 Not Found"),
        ("cut", "Download failed: a file.txt from 127.0.0.1: the connection was lost"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let url = files.url(&format!("{treatment}/{}", if treatment == "missing" { "x" } else { "a%20file.txt" }));
        let terminal = fetch(&mut client, &format!("{url}?sig=hidden"), folder.path(), json!({}), "true").await;
        let text = terminal["error"].as_str().unwrap_or_else(|| panic!("{terminal}"));
        assert!(text.starts_with(expected) && !terminal.to_string().contains("hidden"), "{terminal}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{treatment}");
    }
}

#[tokio::test]
async fn what_a_request_may_ask_of_a_download() {
    let (server, files) = (Server::start(&["--agent", "echo"]), FileServer::start().await);
    let mut client = server.connect("/").await;
    files.add("abc", "abc");
    files.add("office.docx", zip(["inner.xml".to_owned()]));
    let folder = tempfile::tempdir().unwrap();
    let url = files.url("files/abc");
    // The digest of `abc`, as the standard gives it.
    let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let terminal = fetch(&mut client, &url, folder.path(), json!({"sha256": right}), "cat abc").await;
    assert_eq!(stdout(&terminal), "abc");
    let wrong = right.replace('b', "c");
    for (more, expected) in [
        (json!({"sha256": wrong}), "its sha256 is not the one that was asked for"),
        (json!({"max_bytes": 2}), "it has 3 bytes, more than the 2 that are allowed"),
        (json!({"extract": true}), "it is neither a zip nor a tar.gz archive"),
    ] {
        let terminal = fetch(&mut client, &url, folder.path(), more, "true").await;
        assert_eq!(terminal["error"], format!("Download failed: abc from 127.0.0.1: {expected}"));
    }
    let url = files.url("files/office.docx");
    assert_eq!(stdout(&fetch(&mut client, &url, folder.path(), json!({}), "ls").await), "abc\noffice.docx\n");
    let more = json!({"extract": true});
    assert_eq!(stdout(&fetch(&mut client, &url, folder.path(), more, "ls").await), "abc\ninner.xml\noffice.docx\n");
}

/// A cancel stops a download at once, and leaves nothing of it.
#[tokio::test]
async fn a_cancel_does_not_wait_for_a_download() {
    let (server, files) = (Server::start(&["--agent", "echo"]), FileServer::start().await);
    let mut client = server.connect("/").await;
    files.add("half", vec![b'x'; 1 << 20]);
    let folder = tempfile::tempdir().unwrap();
    let message = json!({"message_type": "command_execution_message", "commands": [],
                         "pre_execution_downloadables": [{"download_url": files.url("silent/half"),
                                                          "working_dir": folder.path()}]});
    client.send(&message).await;
    let half_there = || (std::fs::read_dir(folder.path()).unwrap().count() == 1).then_some(());
    crate::support::eventually("the beginning of the download", half_there).await;
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(client.terminal().await["error"], "Request cancelled");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // The name of what is unfinished is never announced, and a limit of the request's own ends it too.
    let terminal =
        fetch(&mut client, &files.url("silent/half"), folder.path(), json!({"timeout_ms": 200}), "true").await;
    assert_eq!(terminal["error"], "Download failed: half from 127.0.0.1: it took longer than 200 ms");
}

#[tokio::test]
async fn thirty_thousand_members_are_unpacked_while_others_are_served() {
    let (server, files) = (Server::start(&["--agent", "echo"]), FileServer::start().await);
    files.add("many.zip", zip((0..30_000).map(|n| format!("d{}/f{n}", n % 100))));
    let folder = tempfile::tempdir().unwrap();
    let (mut client, mut other) = (server.connect("/").await, server.connect("/").await);
    let before = proc::private_kib(server.pid());
    let watch = proc::Watch::start(server.pid());
    let mut longest = Duration::ZERO;
    let url = files.url("files/many.zip");
    let unpacking = fetch(&mut client, &url, folder.path(), json!({}), "find . -type f | wc -l");
    let echoing = async {
        loop {
            let began = Instant::now();
            other.query("hi").await;
            other.terminal().await;
            longest = longest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let terminal = tokio::select! {
        terminal = unpacking => terminal,
        () = echoing => unreachable!(),
    };
    assert_eq!(stdout(&terminal).trim(), "30000");
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    let grown = watch.most_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB");
}
