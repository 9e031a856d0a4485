//! A place that files are uploaded to, as a presigned URL names one.
//!
//! Owns one listening socket of this machine, and what was put there.

use bytes::BytesMut;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The longest request that is read.
const LONGEST: usize = 1 << 20;
/// How long one may take.
const WITHIN: Duration = Duration::from_secs(10);

/// What was put.
pub struct Put {
    pub head: String,
    pub body: Vec<u8>,
}

pub struct Place {
    listener: TcpListener,
    pub url: String,
}

impl Place {
    pub async fn open() -> Result<Self, String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        Ok(Self { listener, url: format!("http://{address}/put/file.txt?signature=x%2By") })
    }

    /// Takes the next upload.
    pub async fn take(&self) -> Result<Put, String> {
        let taken = async {
            let (stream, _) = self.listener.accept().await.map_err(|error| error.to_string())?;
            read(stream).await
        };
        tokio::time::timeout(WITHIN, taken).await.unwrap_or_else(|_| Err("no upload came".to_owned()))
    }
}

async fn read(mut stream: TcpStream) -> Result<Put, String> {
    let mut bytes = BytesMut::new();
    let mut wanted = None;
    loop {
        if wanted.is_none()
            && let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let Some(length) = length else { return Err(format!("the upload has no Content-Length: {head}")) };
            wanted = Some((head, end + 4, length));
        }
        if let Some((head, start, length)) = &wanted
            && bytes.len() >= start + length
        {
            let put = Put { head: head.clone(), body: bytes[*start..start + length].to_vec() };
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.map_err(|error| error.to_string())?;
            return Ok(put);
        }
        if bytes.len() > LONGEST {
            return Err("the upload is too long".to_owned());
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) => return Err("the upload broke off".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}
