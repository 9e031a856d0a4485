//! Logging: where lines go, and what is taken out of them.
//!
//! Owns the one way to standard error. Every line passes the redactor; a reader that does not read costs lines, never
//! time.

use super::line::{JsonLine, TextFields};
use super::traces::{self, TracesConfig};
use crate::redact::{Redactor, Secret};
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A filter in the form of `tracing-subscriber`.
    pub filter: String,
    /// One JSON object per line instead of text.
    pub json: bool,
    /// Where traces go.
    pub traces: TracesConfig,
}

/// What was started. Dropped, it sends and writes what still waits.
#[derive(Debug)]
pub struct Running {
    // In this order: what sending has to tell is logged.
    _traces: traces::Flush,
    _lines: WorkerGuard,
}

/// Lines that may wait for a slow reader of standard error; more are dropped.
const WAITING_LINES: usize = 4096;

/// The lists that log lines are searched for: the server's own first, then those of running turns.
static LISTS: Mutex<Vec<(u64, Redactor)>> = Mutex::new(Vec::new());

/// Starts logging, and traces. Both go on as long as what is returned lives.
///
/// # Errors
/// One sentence when the filter cannot be read.
pub fn start(config: &LogConfig, own: Redactor) -> Result<Running, String> {
    let filter = filter(&config.filter).map_err(|why| format!("invalid log level \"{}\": {why}", config.filter))?;
    let (lines, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES).finish(io::stderr());
    lists().push((0, own));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours need a feature that is off; asked for, a debug build panics and a release says so at each start.
        .with_ansi(false)
        .with_writer(Redacting(lines));
    // A second start, as in a test of an embedder, keeps the first subscriber.
    let _ = if config.json {
        builder.json().map_event_format(JsonLine).try_init()
    } else {
        builder.fmt_fields(TextFields).try_init()
    };
    Ok(Running { _traces: traces::start(&config.traces), _lines: guard })
}

/// What programs of a turn say is logged under the first two names.
const PARTS: [&str; 3] = ["handler", "claude", env!("CARGO_PKG_NAME")];

/// Reads a filter. A word alone that is neither a level nor a part of ours is a misspelt level: taken for the name of a
/// part, as `EnvFilter` takes it, it would silence everything else.
fn filter(text: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_known = |word: &str| {
        let is_level = LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || word.parse::<u8>().is_ok();
        is_level || word.contains(['=', '[']) || PARTS.iter().any(|part| word.split("::").next() == Some(*part))
    };
    match text.split(',').map(str::trim).find(|word| !word.is_empty() && !is_known(word)) {
        Some(word) => Err(format!(
            "\"{word}\" is neither a level (error, warn, info, debug, trace, off) nor a part with its level, as in turnhost::engine=debug"
        )),
        None => EnvFilter::try_new(text).map_err(|error| error.to_string()),
    }
}

/// Takes these secrets out of log lines until the value is dropped.
#[must_use]
pub fn guard(secrets: &[Secret]) -> Option<ListGuard> {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    if secrets.is_empty() {
        return None;
    }
    let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    lists().push((id, Redactor::new(secrets)));
    Some(ListGuard(id))
}

/// See [`guard`].
#[derive(Debug)]
pub struct ListGuard(u64);

impl Drop for ListGuard {
    fn drop(&mut self) {
        lists().retain(|(id, _)| *id != self.0);
    }
}

fn lists() -> MutexGuard<'static, Vec<(u64, Redactor)>> {
    LISTS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Redacting(NonBlocking);

impl Write for Redacting {
    // The formatter writes each line with one call, so a secret is never split here.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut text = String::from_utf8_lossy(line);
        for (_, list) in lists().iter().filter(|(_, list)| !list.is_empty()) {
            text = list.text(&text).into_owned().into();
        }
        self.0.write_all(text.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<'a> MakeWriter<'a> for Redacting {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
