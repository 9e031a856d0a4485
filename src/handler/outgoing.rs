//! The way of lines to a handler's process.
//!
//! Owns the pipe's writing end. A line is written by the task that has it, under a short lock; only what the pipe does
//! not take at once waits for the process's own task.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::net::unix::pipe;
use tokio::sync::Notify;

/// What may wait for a process that does not read, in bytes. Beyond it lines are refused.
const WAITING_BYTES: usize = 256 << 20;

/// Why a line was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSent {
    /// The process does not read its input.
    Full,
    /// The process has closed it.
    Closed,
}

pub struct Outgoing {
    pipe: pipe::Sender,
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Bytes>,
    bytes: usize,
    closed: bool,
}

impl Outgoing {
    pub fn new(pipe: pipe::Sender) -> Self {
        Self { pipe, waiting: Mutex::default(), more: Notify::new() }
    }

    /// Sends one line, with its line end. Never waits: what the pipe does not take now is sent later, in order.
    pub fn send(&self, line: Vec<u8>) -> Result<(), NotSent> {
        let mut line = Bytes::from(line);
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(NotSent::Closed);
        }
        if waiting.lines.is_empty() {
            match self.write(&mut line) {
                Ok(()) if line.is_empty() => return Ok(()),
                Ok(()) => {}
                Err(_) => {
                    waiting.closed = true;
                    return Err(NotSent::Closed);
                }
            }
        }
        // A line that is begun must be finished, whatever waits already.
        if waiting.bytes > 0 && waiting.bytes + line.len() > WAITING_BYTES {
            return Err(NotSent::Full);
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        drop(waiting);
        self.more.notify_one();
        Ok(())
    }

    /// Sends what waits, for as long as the process lives.
    pub async fn drain(&self) {
        loop {
            let empty = self.waiting().lines.is_empty();
            if empty {
                self.more.notified().await;
                continue;
            }
            let writable = self.pipe.writable().await;
            let mut waiting = self.waiting();
            while let Some(mut line) = waiting.lines.pop_front() {
                let before = line.len();
                let written = self.write(&mut line);
                waiting.bytes -= before - line.len();
                if writable.is_err() || written.is_err() {
                    *waiting = Waiting { closed: true, ..Waiting::default() };
                    return;
                }
                if !line.is_empty() {
                    waiting.lines.push_front(line);
                    break;
                }
            }
        }
    }

    /// Writes as much as the pipe takes now.
    fn write(&self, line: &mut Bytes) -> io::Result<()> {
        while !line.is_empty() {
            match self.pipe.try_write(line) {
                Ok(written) => line.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
