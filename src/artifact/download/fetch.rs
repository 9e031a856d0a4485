//! One attempt to fetch a file into a temporary one.
//!
//! Owns the limits on bytes and time while it comes, and its digest. Whether it is tried again is the caller's business.

use super::DownloadLimits;
use super::TEMPORARY_PREFIX;
use crate::model::Download;
use data_url::DataUrl;
use reqwest::Response;
use reqwest::header::RETRY_AFTER;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tempfile::{NamedTempFile, TempPath};
use tokio::io::{AsyncWriteExt, BufWriter};
use url::Url;

/// What is written at once.
const BUFFER: usize = 256 << 10;
/// A server that asks for a longer pause is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why an attempt failed.
#[derive(Debug)]
pub enum Failed {
    /// One of the fixed texts, whole.
    Fixed(String),
    /// What is to be said after the file and its host.
    Because(String),
    /// As one of the others; another attempt may succeed, after this pause if the server named one.
    Passing(Box<Failed>, Option<Duration>),
}

fn because<T>(reason: impl Into<String>) -> Result<T, Failed> {
    Err(Failed::Because(reason.into()))
}

fn io<T>(result: std::io::Result<T>, what: &str) -> Result<T, Failed> {
    result.map_err(|error| Failed::Because(format!("{what}: {error}")))
}

/// Fetches into a temporary file in the download's directory. Dropped, it leaves nothing.
pub async fn fetch(
    http: &reqwest::Client,
    url: &Url,
    download: &Download,
    limits: &DownloadLimits,
) -> Result<TempPath, Failed> {
    let most = download.max_bytes.map_or(limits.max_bytes, |asked| asked.min(limits.max_bytes));
    let mut into = Incoming::new(&download.directory, most, download.sha256)?;
    if url.scheme() == "data" {
        let url = DataUrl::process(url.as_str()).map_err(|_| Failed::Because("not a valid data: URL".to_owned()))?;
        let (bytes, _) = url.decode_to_vec().map_err(|_| Failed::Because("not a valid data: URL".to_owned()))?;
        into.add(&bytes).await?;
        return into.finish().await;
    }
    let sent = within(limits.silence, http.get(url.clone()).send()).await?;
    let mut response = sent.map_err(|error| of_request(&error))?;
    check(&response)?;
    if let Some(length) = response.content_length().filter(|length| *length > most) {
        return because(format!("it has {length} bytes, more than the {most} that are allowed"));
    }
    while let Some(chunk) = within(limits.silence, response.chunk()).await?.map_err(|error| of_request(&error))? {
        into.add(&chunk).await?;
    }
    into.finish().await
}

async fn within<T>(silence: Duration, future: impl Future<Output = T>) -> Result<T, Failed> {
    let silent = || Failed::Because(format!("nothing came for {} ms", silence.as_millis()));
    tokio::time::timeout(silence, future).await.map_err(|_| silent())
}

fn check(response: &Response) -> Result<(), Failed> {
    let status = response.status();
    // No content, and reset content.
    if matches!(status.as_u16(), 204 | 205) {
        return Err(Failed::Fixed("no response body".to_owned()));
    }
    if status.is_success() {
        return Ok(());
    }
    let text = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let failed = Failed::Fixed(text.trim_end().to_owned());
    // It took the server too long, or too many ask.
    let passes = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
    if !passes {
        return Err(failed);
    }
    let pause = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = pause.map(Duration::from_secs);
    match pause {
        Some(pause) if pause > LONGEST_PAUSE => Err(failed),
        pause => Err(Failed::Passing(Box::new(failed), pause)),
    }
}

/// The innermost cause says what happened; the outer ones hold the URL.
fn of_request(error: &reqwest::Error) -> Failed {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let reason = if error.is_redirect() {
        "too many redirects".to_owned()
    } else if error.is_connect() {
        format!("cannot connect: {cause}")
    } else {
        format!("the connection was lost: {cause}")
    };
    let failed = Failed::Because(reason);
    if error.is_redirect() || error.is_builder() { failed } else { Failed::Passing(Box::new(failed), None) }
}

/// A temporary file that is being written.
struct Incoming {
    file: BufWriter<tokio::fs::File>,
    path: TempPath,
    digest: Sha256,
    wanted: Option<[u8; 32]>,
    bytes: u64,
    most: u64,
}

impl Incoming {
    fn new(directory: &Path, most: u64, wanted: Option<[u8; 32]>) -> Result<Self, Failed> {
        // As any new file would have it; the umask takes away what it does.
        let named: std::io::Result<NamedTempFile> = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory);
        let (file, path) = io(named, "cannot write in working_dir")?.into_parts();
        let file = BufWriter::with_capacity(BUFFER, tokio::fs::File::from_std(file));
        Ok(Self { file, path, digest: Sha256::new(), wanted, bytes: 0, most })
    }

    async fn add(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.most {
            return because(format!("it has more than the {} bytes that are allowed", self.most));
        }
        if self.wanted.is_some() {
            self.digest.update(bytes);
        }
        io(self.file.write_all(bytes).await, "cannot write the file")
    }

    async fn finish(mut self) -> Result<TempPath, Failed> {
        io(self.file.flush().await, "cannot write the file")?;
        if let Some(wanted) = self.wanted
            && self.digest.finalize().as_slice() != wanted
        {
            return because("its sha256 is not the one that was asked for");
        }
        Ok(self.path)
    }
}
