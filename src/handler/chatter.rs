//! What a process says that is only log.
//!
//! Owns how it gets into ours: in lines, each within a bound, and as part of the work that the process does.

use crate::telemetry::Whose;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Whose work a process does, as far as it is one turn's at a time; nobody's for one that several share. What is said
/// behind a turn's end counts as the turn's until the next begins. Cloning gives another way to the same.
#[derive(Debug, Clone, Default)]
pub struct Serving(Arc<Mutex<Whose>>);

impl Serving {
    /// From now on it works for these.
    pub fn set(&self, whose: Whose) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = whose;
    }

    /// For whom it works.
    pub fn now(&self) -> Whose {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads a stream that is only log, in lines, and shows every byte to `note`.
pub async fn log_lines(mut stream: impl AsyncRead + Unpin, name: &str, serving: &Serving, mut note: impl FnMut(&[u8])) {
    const LONGEST: usize = 8192;
    let mut chunk = [0_u8; 8192];
    let mut line = Vec::new();
    let log_line = |line: &[u8], cut| serving.now().calls(|| log_line(name, line, cut));
    loop {
        let Ok(read) = stream.read(&mut chunk).await else { return };
        if read == 0 {
            break;
        }
        note(&chunk[..read]);
        for piece in chunk[..read].split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = LONGEST.saturating_sub(line.len());
            line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                log_line(&line, line.len() == LONGEST);
                line.clear();
            }
        }
    }
    if !line.is_empty() {
        log_line(&line, false);
    }
}

/// One line of log.
pub fn log_line(stream: &str, text: &[u8], cut: bool) {
    let more = if cut { " [cut]" } else { "" };
    tracing::info!(target: "handler", stream, "{}{more}", String::from_utf8_lossy(text).trim_end());
}

/// A line of log that says how much it matters.
pub fn log_text(level: tracing::Level, text: &str) {
    match level {
        tracing::Level::DEBUG => tracing::debug!(target: "handler", "{text}"),
        tracing::Level::WARN => tracing::warn!(target: "handler", "{text}"),
        tracing::Level::ERROR => tracing::error!(target: "handler", "{text}"),
        _ => tracing::info!(target: "handler", "{text}"),
    }
}
