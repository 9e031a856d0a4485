//! Fetching one file: whole, checked, and never outside its directory.
//!
//! Owns the way of a file from its URL to its place: name, attempts, rename, unpacking. One attempt is in `fetch`.

mod fetch;
mod name;
#[cfg(test)]
mod tests;

use super::unpack::{self, Kind, Problem, UnpackLimits};
use crate::model::Download;
use fetch::Failed;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempPath;
use url::Url;

/// Names of files that are being fetched begin with this; they are never handed out.
pub const TEMPORARY_PREFIX: &str = ".turnhost-download-";

/// Pauses before the second attempt and those after it.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// Bounds of one download.
#[derive(Debug, Clone)]
pub struct DownloadLimits {
    /// Bytes of the file.
    pub max_bytes: u64,
    /// Bytes that an archive may unpack to.
    pub max_extracted: u64,
    /// Members that an archive may have.
    pub max_entries: u64,
    /// Time without a byte.
    pub silence: Duration,
    /// Time in all, with attempts and unpacking.
    pub whole: Duration,
    /// Further attempts after one that failed in passing.
    pub retries: usize,
}

impl Default for DownloadLimits {
    fn default() -> Self {
        Self {
            max_bytes: 10 << 30,
            max_extracted: 20 << 30,
            max_entries: 1_000_000,
            silence: Duration::from_mins(1),
            whole: Duration::from_mins(30),
            retries: 2,
        }
    }
}

/// Why a file was not fetched. The text is for the caller: it names the file and its host, never the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Download failed: {0}")]
pub struct DownloadError(String);

/// Fetches one file into its directory, which is made if it is missing, and unpacks it if it is an archive. What is
/// returned are warnings. Dropped before it returns, it stops within 100 ms and leaves no partial file.
///
/// # Errors
/// [`DownloadError`] with the sentence for the caller.
pub async fn download(
    http: &reqwest::Client,
    download: &Download,
    limits: &DownloadLimits,
) -> Result<Vec<String>, DownloadError> {
    let url = Url::parse(download.url.expose()).map_err(|_| DownloadError("download_url is not a URL".to_owned()))?;
    if !matches!(url.scheme(), "http" | "https" | "data") {
        let text = format!("download_url: expected http, https or data, got {}", url.scheme());
        return Err(DownloadError(text));
    }
    let name = name::file_name(&url).map_err(|name| DownloadError(format!("unsafe file name \"{name}\"")))?;
    let place = match url.host_str() {
        Some(host) => format!("{name} from {host}"),
        None => name.clone(),
    };
    let because = |reason: String| DownloadError(format!("{place}: {reason}"));
    let whole = download.timeout.map_or(limits.whole, |asked| asked.min(limits.whole));
    let doing = async {
        let made = tokio::fs::create_dir_all(&download.directory).await;
        made.map_err(|error| because(format!("working_dir {}: {error}", download.directory.display())))?;
        let temporary = attempts(http, &url, download, limits).await.map_err(|failed| told(failed, &because))?;
        put(temporary, &name, download, limits, &because).await
    };
    match tokio::time::timeout(whole, doing).await {
        Ok(result) => result,
        Err(_) => Err(because(format!("it took longer than {} ms", whole.as_millis()))),
    }
}

fn told(failed: Failed, because: &impl Fn(String) -> DownloadError) -> DownloadError {
    match failed {
        Failed::Fixed(text) => DownloadError(text),
        Failed::Because(reason) => because(reason),
        Failed::Passing(failed, _) => told(*failed, because),
    }
}

async fn attempts(
    http: &reqwest::Client,
    url: &Url,
    download: &Download,
    limits: &DownloadLimits,
) -> Result<TempPath, Failed> {
    let mut pauses = PAUSES.into_iter().chain(std::iter::repeat(PAUSES[1])).take(limits.retries);
    loop {
        match fetch::fetch(http, url, download, limits).await {
            Err(Failed::Passing(failed, asked)) => {
                let Some(pause) = pauses.next() else { return Err(*failed) };
                tokio::time::sleep(asked.unwrap_or(pause)).await;
            }
            result => return result,
        }
    }
}

/// Gives a fetched file its name, and unpacks it if it is an archive.
async fn put(
    temporary: TempPath,
    name: &str,
    download: &Download,
    limits: &DownloadLimits,
    because: &impl Fn(String) -> DownloadError,
) -> Result<Vec<String>, DownloadError> {
    let io = |error: std::io::Error| because(error.to_string());
    let kind = match download.extract {
        Some(false) => None,
        Some(true) => {
            let kind = unpack::kind_of_content(&temporary).map_err(io)?;
            Some(kind.ok_or_else(|| because("it is neither a zip nor a tar.gz archive".to_owned()))?)
        }
        None => Kind::of_name(name),
    };
    // Existing clients expect this kind, and only this one, to be gone when it is unpacked.
    let is_dropped = kind == Some(Kind::Zip) && name.as_bytes().ends_with(b".zip");
    let target = download.directory.join(name);
    let (archive, kept) = if is_dropped {
        (temporary.to_path_buf(), Some(temporary))
    } else {
        if target.is_dir() {
            return Err(because("working_dir has a directory of this name".to_owned()));
        }
        temporary.persist(&target).map_err(|error| io(error.error))?;
        (target, None)
    };
    let Some(kind) = kind else { return Ok(Vec::new()) };
    let unpacked = unpacked(kind, archive, &download.directory, limits).await;
    drop(kept);
    match unpacked {
        Ok(warnings) => Ok(warnings),
        Err(Problem::Unreadable(reason)) if !is_dropped && download.extract != Some(true) => {
            Ok(vec![format!("{name} was not unpacked and stays as it is: {reason}")])
        }
        Err(Problem::Unreadable(reason) | Problem::Refused(reason)) => Err(because(reason)),
    }
}

/// Unpacks on a thread that may block; dropped, it is told to stop.
async fn unpacked(
    kind: Kind,
    archive: std::path::PathBuf,
    directory: &Path,
    limits: &DownloadLimits,
) -> Result<Vec<String>, Problem> {
    let stop = StopOnDrop(Arc::default());
    let stopped = stop.0.clone();
    let directory = directory.to_owned();
    let limits = UnpackLimits { max_bytes: limits.max_extracted, max_entries: limits.max_entries };
    let unpacking = tokio::task::spawn_blocking(move || {
        let file = std::fs::File::open(&archive).map_err(|error| Problem::Refused(error.to_string()))?;
        unpack::unpack(kind, file, &directory, &limits, &|| stopped.load(Ordering::Relaxed))
    });
    unpacking.await.unwrap_or_else(|_| Err(Problem::Refused("unpacking it failed".to_owned())))
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
