//! The way to standard output and standard error.
//!
//! Owns the one thread that writes both, in order. Nobody else waits for a slow reader, so that signals are heard.

use std::io::Write;
use tokio::sync::{mpsc, oneshot};

/// Pieces that wait for the reader.
const WAITING: usize = 4;

/// Where a text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// Nobody reads standard output any more.
#[derive(Debug)]
pub struct Unread;

/// Texts on their way.
pub type Pieces = Vec<(Stream, String)>;

/// The way.
pub struct Output {
    pieces: mpsc::Sender<Pieces>,
    ended: oneshot::Receiver<()>,
}

impl Output {
    pub fn start() -> Self {
        let (pieces, taken) = mpsc::channel(WAITING);
        let (end, ended) = oneshot::channel();
        let writing = move || {
            write(taken);
            let _ = end.send(());
        };
        if std::thread::Builder::new().name("attach-output".to_owned()).spawn(writing).is_err() {
            tracing::debug!("no thread for the output");
        }
        Self { pieces, ended }
    }

    /// Hands texts over; waits while too many wait.
    pub async fn write(&self, pieces: Pieces) -> Result<(), Unread> {
        self.pieces.send(pieces).await.map_err(|_| Unread)
    }

    /// Waits until everything is written.
    pub async fn finish(self) {
        drop(self.pieces);
        let _ = self.ended.await;
    }
}

fn write(mut taken: mpsc::Receiver<Pieces>) {
    let mut is_read = true;
    while let Some(pieces) = taken.blocking_recv() {
        for (stream, text) in pieces {
            match stream {
                Stream::Out if is_read => {
                    let mut out = std::io::stdout().lock();
                    is_read = out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok();
                }
                Stream::Out => {}
                // A message that nobody sees is no reason to end.
                Stream::Err => {
                    let _ = std::io::stderr().lock().write_all(text.as_bytes());
                }
            }
        }
        if !is_read {
            // Whoever closed our output does not want the rest.
            taken.close();
        }
    }
}
