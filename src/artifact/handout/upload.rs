//! Sending one announced file to where the client wants it.
//!
//! Owns the request, its retries, and what counts as success. Knows one file at a time; how many are sent at once is
//! decided elsewhere.

use super::beneath::{self, Version};
use super::files::Sent;
use crate::redact::Secret;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// What one read takes: few enough reads for a large file, little memory for many.
const CHUNK: usize = 256 << 10;
/// Pauses before the second and the third attempt.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// One upload.
pub(super) struct Upload {
    pub(super) directory: PathBuf,
    pub(super) relative: PathBuf,
    pub(super) version: Version,
    pub(super) url: Secret,
    pub(super) content_type: String,
    /// How long one attempt may take.
    pub(super) patience: Duration,
}

enum Attempt {
    Over(Sent),
    /// Worth another attempt.
    Again(String),
}

impl Upload {
    /// Sends it, with retries. Dropping the future breaks the connection.
    pub(super) async fn run(&self, http: &reqwest::Client) -> Sent {
        let Ok(url) = reqwest::Url::parse(self.url.expose()) else {
            return Sent::Failed("the answer's presigned_url is not a URL".to_owned());
        };
        let Ok(content_type) = HeaderValue::from_str(&self.content_type) else {
            return Sent::Failed("the answer's content_type is not a header value".to_owned());
        };
        let mut pauses = PAUSES.iter();
        loop {
            let attempt = tokio::time::timeout(self.patience, self.attempt(http, &url, &content_type)).await;
            let why = match attempt {
                Ok(Attempt::Over(sent)) => return sent,
                Ok(Attempt::Again(why)) => why,
                // Another attempt would take as long again.
                Err(_) => return Sent::Failed(format!("PUT took longer than {:?}", self.patience)),
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Sent::Failed(format!("{why}, three times")),
            }
        }
    }

    async fn attempt(&self, http: &reqwest::Client, url: &reqwest::Url, content_type: &HeaderValue) -> Attempt {
        let (directory, relative) = (self.directory.clone(), self.relative.clone());
        let opened = tokio::task::spawn_blocking(move || beneath::open(&directory, &relative)).await;
        let file = match opened {
            Ok(Ok((file, version))) if version == self.version => file,
            // Gone, replaced by something else, or changed: whoever watches sees what became of it.
            Ok(Ok(_)) => return Attempt::Over(Sent::Void),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Attempt::Over(Sent::Void),
            Ok(Err(error)) => return Attempt::Over(Sent::Failed(format!("cannot open the file: {error}"))),
            Err(_) => return Attempt::Over(Sent::Failed("the server is stopping".to_owned())),
        };
        let Ok(again) = file.try_clone() else {
            return Attempt::Again("no descriptor is left for the upload".to_owned());
        };
        let body = contents(tokio::fs::File::from_std(file), self.version.size);
        let sending = http
            .put(url.clone())
            .header(CONTENT_TYPE, content_type)
            .header(CONTENT_LENGTH, self.version.size)
            .body(reqwest::Body::wrap_stream(body));
        let answer = sending.send().await;
        if again.metadata().map(|now| Version::of(&now)).ok() != Some(self.version) {
            return Attempt::Over(Sent::Void);
        }
        match answer {
            Ok(answer) if answer.status().is_success() => Attempt::Over(Sent::Done),
            Ok(answer) => {
                let status = answer.status();
                let why = format!("PUT answered {status}");
                if status.is_server_error() || [408, 429].contains(&status.as_u16()) {
                    Attempt::Again(why)
                } else {
                    Attempt::Over(Sent::Failed(why))
                }
            }
            Err(error) if error.is_builder() => {
                Attempt::Over(Sent::Failed("the answer's presigned_url cannot be used".to_owned()))
            }
            Err(error) => Attempt::Again(explain(&error)),
        }
    }
}

/// What went wrong, without the URL, which is a secret.
fn explain(error: &reqwest::Error) -> String {
    let what = if error.is_connect() { "PUT could not connect" } else { "PUT broke off" };
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(kind) = inner.downcast_ref::<io::Error>().map(io::Error::kind)
            && kind != io::ErrorKind::Other
        {
            return format!("{what}: {kind}");
        }
        source = inner.source();
    }
    what.to_owned()
}

/// Exactly that many bytes of a file, or an error: a file that shrinks must not look complete.
fn contents(file: tokio::fs::File, size: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((file, size), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = BytesMut::with_capacity(room);
        let read = (&mut file).take(left).read_buf(&mut chunk).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = left.saturating_sub(u64::try_from(read).unwrap_or(left));
        Ok(Some((chunk.freeze(), (file, left))))
    })
}
