//! A place on loopback to download from and to upload to, which can be as bad as the world's: slow, failing, cut.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct Shared {
    files: HashMap<String, Vec<u8>>,
    asked: Vec<Asked>,
    failed: HashMap<String, u32>,
}

/// The first part of a path says how a request is treated:
///
/// | part | treatment |
/// | --- | --- |
/// | `files` | as it should be |
/// | `twice` | 503 two times, then as it should be |
/// | `forbidden` | 403 |
/// | `nolength` | no length, the body ends with the connection |
/// | `cut` | the connection ends in the middle of the body |
/// | `silent` | the body stops in the middle, the connection stays |
/// | `redirect` | to the same name under `files` |
/// | `slow` | answered after 300 ms |
/// | `never` | not answered at all |
#[derive(Clone)]
pub struct FileServer {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl FileServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), shared: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move {
                    let _ = serving.serve(BufReader::new(socket)).await;
                });
            }
        });
        server
    }

    /// Puts a file in place, for every treatment.
    pub fn add(&self, name: &str, content: impl Into<Vec<u8>>) {
        self.shared.lock().unwrap().files.insert(name.to_owned(), content.into());
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Everything that came so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().unwrap().asked.clone()
    }

    /// Bodies that were uploaded, with what comes after the treatment in their paths.
    pub fn uploads(&self) -> Vec<(String, Vec<u8>)> {
        let name = |asked: &Asked| asked.path.splitn(3, '/').nth(2).unwrap_or_default().to_owned();
        self.asked().into_iter().filter(|a| a.method == "PUT").map(|asked| (name(&asked), asked.body)).collect()
    }

    async fn serve(&self, mut socket: BufReader<TcpStream>) -> std::io::Result<()> {
        while let Some(asked) = read(&mut socket).await? {
            let path = asked.path.split('?').next().unwrap_or_default().to_owned();
            let (treatment, name) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
            let content = {
                let mut shared = self.shared.lock().unwrap();
                shared.asked.push(asked.clone());
                shared.files.get(name).cloned()
            };
            let first_failures = || {
                let mut shared = self.shared.lock().unwrap();
                let count = shared.failed.entry(path.clone()).or_default();
                *count += 1;
                *count
            };
            let socket = socket.get_mut();
            match treatment {
                "twice" if first_failures() <= 2 => answer(socket, "503 Service Unavailable", b"").await?,
                "forbidden" => answer(socket, "403 Forbidden", b"no").await?,
                "redirect" => {
                    let to =
                        format!("HTTP/1.1 302 Found\r\nLocation: /files/{name}-elsewhere\r\nContent-Length: 0\r\n\r\n");
                    socket.write_all(to.as_bytes()).await?;
                }
                "never" => std::future::pending().await,
                _ if asked.method == "PUT" => {
                    if treatment == "slow" {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    answer(socket, "200 OK", b"").await?;
                }
                _ => {
                    let Some(content) = content else {
                        answer(socket, "404 Not Found", b"").await?;
                        continue;
                    };
                    if treatment == "slow" {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    let (length, half) = (content.len(), content.len() / 2);
                    match treatment {
                        "nolength" => {
                            socket.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
                            socket.write_all(&content).await?;
                            return socket.shutdown().await;
                        }
                        "cut" | "silent" => {
                            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                            socket.write_all(head.as_bytes()).await?;
                            socket.write_all(&content[..half]).await?;
                            if treatment == "cut" {
                                return socket.shutdown().await;
                            }
                            std::future::pending::<()>().await;
                        }
                        _ => answer(socket, "200 OK", &content).await?,
                    }
                }
            }
        }
        Ok(())
    }
}

async fn answer(socket: &mut TcpStream, status: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body).await
}

/// One request of HTTP/1.1. `None` when there is no further one.
pub async fn read(socket: &mut BufReader<TcpStream>) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if socket.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        socket.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        loop {
            let mut size = String::new();
            socket.read_line(&mut size).await?;
            let size = usize::from_str_radix(size.trim(), 16).expect("a size");
            let mut chunk = vec![0; size + 2];
            socket.read_exact(&mut chunk).await?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else {
        body.resize(headers.get("content-length").map_or(0, |length| length.parse().unwrap()), 0);
        socket.read_exact(&mut body).await?;
    }
    Ok(Some(Asked { method, path, headers, body }))
}
