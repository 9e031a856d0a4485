//! Downloads from a server that answers as it is told.

use super::*;
use crate::outbound;
use crate::redact::Secret;
use std::io::Write;
use std::time::Instant;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers each request with the next of these and closes; the last one again and again.
async fn server(answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for at in 0.. {
            let Ok((mut socket, _)) = listener.accept().await else { return };
            let answer = answers[at.min(answers.len() - 1)].clone();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                let _ = socket.write_all(&answer).await;
                if answer.ends_with(b"...") {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    format!("http://{address}")
}

fn ok(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

fn wanted(url: &str, folder: &TempDir) -> Download {
    let directory = folder.path().join("made/for/it");
    Download { url: Secret::new(url), directory, sha256: None, max_bytes: None, timeout: None, extract: None }
}

fn limits() -> DownloadLimits {
    DownloadLimits { silence: Duration::from_millis(400), ..DownloadLimits::default() }
}

async fn fetch(wanted: &Download) -> Result<Vec<String>, String> {
    let http = outbound::builder().unwrap().no_proxy().build().unwrap();
    download(&http, wanted, &limits()).await.map_err(|error| error.to_string())
}

/// What lies in the directory afterwards.
fn files(wanted: &Download) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(&wanted.directory).into_iter().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let content = String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default()).into_owned();
            (entry.file_name().to_string_lossy().into_owned(), content)
        })
        .collect();
    files.sort();
    files
}

fn zip(name: &str) -> Vec<u8> {
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file(name, ::zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(b"zipped").unwrap();
    writer.finish().unwrap().into_inner()
}

#[tokio::test]
async fn what_comes_is_put_in_place() {
    let redirect = b"HTTP/1.1 302 Found\r\nLocation: /other-name\r\nContent-Length: 0\r\n\r\n".to_vec();
    let no_length = b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec();
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhel".to_vec();
    for answers in [
        vec![ok(b"hello")],
        vec![no_length],
        vec![redirect, ok(b"hello")],
        vec![status("503 Service Unavailable"), status("429 Too Many Requests\r\nRetry-After: 0"), ok(b"hello")],
        vec![cut, ok(b"hello")],
    ] {
        let folder = TempDir::new().unwrap();
        let wanted = wanted(&format!("{}/dir/a%20file?sig=hidden", server(answers).await), &folder);
        assert_eq!(fetch(&wanted).await, Ok(vec![]));
        assert_eq!(files(&wanted), [("a file".to_owned(), "hello".to_owned())]);
    }
    let folder = TempDir::new().unwrap();
    let wanted = wanted("data:text/plain;base64,aGVsbG8=", &folder);
    assert_eq!(fetch(&wanted).await, Ok(vec![]));
    assert_eq!(files(&wanted), [("plain;base64,aGVsbG8=".to_owned(), "hello".to_owned())]);
}

#[tokio::test]
async fn what_fails_leaves_nothing_and_says_why() {
    let silent = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhel...".to_vec();
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhel".to_vec();
    let wrong = wrong_downloads();
    for (answers, change, expected) in [
        (vec![status("404 Not Found")], None, "Download failed: 404 Not Found"),
        (vec![status("403 Forbidden")], None, "Download failed: 403 Forbidden"),
        (vec![status("500 Internal Server Error")], None, "Download failed: 500 Internal Server Error"),
        (vec![b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()], None, "Download failed: no response body"),
        (vec![silent], None, "nothing came for 400 ms"),
        (vec![cut], None, "the connection was lost"),
        (vec![ok(b"hello")], Some(wrong[0]), "more than the 3 that are allowed"),
        (vec![ok(b"hello")], Some(wrong[1]), "its sha256 is not the one that was asked for"),
        (vec![ok(b"hello")], Some(wrong[2]), "it is neither a zip nor a tar.gz archive"),
    ] {
        let folder = TempDir::new().unwrap();
        let mut wanted = wanted(&format!("{}/file?sig=hidden", server(answers).await), &folder);
        if let Some(change) = change {
            change(&mut wanted);
        }
        let error = fetch(&wanted).await.unwrap_err();
        assert!(error.starts_with("Download failed: ") && error.contains(expected), "{error}");
        assert!(!error.contains("hidden"), "{error}");
        let is_fixed = error.len() == expected.len();
        assert!(is_fixed || error.starts_with("Download failed: file from 127.0.0.1: "), "{error}");
        assert_eq!(files(&wanted), []);
    }
    for (url, expected) in [
        ("http://127.0.0.1:1/x?sig=hidden", "Download failed: x from 127.0.0.1: cannot connect: "),
        ("http://127.0.0.1:1/a%2Fb", "Download failed: unsafe file name \"a/b\""),
        ("http://127.0.0.1:1/", "Download failed: unsafe file name \"\""),
        ("file:///etc/passwd", "Download failed: download_url: expected http, https or data, got file"),
        ("nonsense", "Download failed: download_url is not a URL"),
    ] {
        let folder = TempDir::new().unwrap();
        let error = fetch(&wanted(url, &folder)).await.unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

fn wrong_downloads() -> [fn(&mut Download); 3] {
    [|wanted| wanted.max_bytes = Some(3), |wanted| wanted.sha256 = Some([7; 32]), |wanted| wanted.extract = Some(true)]
}

#[tokio::test]
async fn archives_are_unpacked_by_their_names() {
    let name = |name: &str| (name.to_owned(), "zipped".to_owned());
    for (file, extract, unpacked, stays) in [
        ("a.zip", None, true, false),
        ("a.ZIP", None, true, true),
        ("a.docx", None, false, true),
        ("a.docx", Some(true), true, true),
        ("a.zip", Some(false), false, true),
    ] {
        let folder = TempDir::new().unwrap();
        let mut wanted = wanted(&format!("{}/{file}", server(vec![ok(&zip("inner"))]).await), &folder);
        wanted.extract = extract;
        assert_eq!(fetch(&wanted).await, Ok(vec![]), "{file} {extract:?}");
        let files = files(&wanted);
        assert_eq!(files.contains(&name("inner")), unpacked, "{file} {extract:?}: {files:?}");
        assert_eq!(files.iter().any(|(name, _)| name == file), stays, "{file} {extract:?}: {files:?}");
        assert_eq!(files.len(), usize::from(unpacked) + usize::from(stays));
    }
    // No archive at all: an error for the kind that is dropped, a warning for the others.
    for (file, is_error) in [("a.zip", true), ("a.tgz", false), ("a.Tar.Gz", false)] {
        let folder = TempDir::new().unwrap();
        let wanted = wanted(&format!("{}/{file}", server(vec![ok(b"no archive")]).await), &folder);
        let result = fetch(&wanted).await;
        assert_eq!(result.is_err(), is_error, "{file}: {result:?}");
        assert_eq!(files(&wanted).len(), usize::from(!is_error));
        assert!(is_error || result.unwrap()[0].contains("was not unpacked"));
    }
    let folder = TempDir::new().unwrap();
    let wanted = wanted(&format!("{}/a.zip", server(vec![ok(&zip("../evil"))]).await), &folder);
    assert!(fetch(&wanted).await.unwrap_err().contains("member \"../evil\""));
}

#[tokio::test]
async fn a_download_that_is_dropped_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let silent = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhel...".to_vec();
    let wanted = wanted(&format!("{}/file", server(vec![silent]).await), &folder);
    let began = Instant::now();
    let dropped = tokio::time::timeout(Duration::from_millis(150), fetch(&wanted)).await;
    assert!(dropped.is_err() && began.elapsed() < Duration::from_millis(300));
    assert_eq!(files(&wanted), []);
}
