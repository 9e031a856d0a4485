//! One session: how it stands, what it is told, and its log.
//!
//! Owns what is shared between its task (`conduct`), the requests about it and its readers. Nothing here waits.

use super::times::now;
use crate::model::SessionId;
use crate::store::{LineLog, LogEnd};
use crate::wire::sessions::SessionRecord;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What may wait to be told to an agent.
const INPUTS: usize = 1024;
const INPUT_BYTES: usize = 32 << 20;

/// A session.
pub struct Session {
    pub uuid: Uuid,
    /// Its name among all sessions of the server.
    pub engine_id: SessionId,
    /// What is kept of it besides its log.
    pub folder: PathBuf,
    pub log: LineLog,
    /// Whether it takes more than its first prompt.
    pub interactive: bool,
    record: Mutex<SessionRecord>,
    inbox: Mutex<Inbox>,
    more: Notify,
    /// Somebody wants its end.
    pub kill: CancellationToken,
    /// Its task has ended: the record and the log are what they will be.
    pub over: CancellationToken,
    deleted: AtomicBool,
    /// Odd while a result is being written.
    results: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    inputs: VecDeque<Input>,
    bytes: usize,
    /// What its task has taken from here and the agent has not: how much, and how many bytes.
    held: (usize, usize),
    /// Prompts without a result, here or with its task.
    unanswered: usize,
    is_closed: bool,
}

/// What a client tells a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    Prompt(String),
    Steer(String),
    Interrupt,
    /// Something to know with the next message.
    Context(String),
}

impl Input {
    fn weight(&self) -> usize {
        match self {
            Self::Prompt(text) | Self::Steer(text) | Self::Context(text) => text.len(),
            Self::Interrupt => 0,
        }
    }
}

/// Why a session is told nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Deaf {
    /// It had its one prompt, or has ended.
    #[error("session does not accept input")]
    Closed,
    /// Too much waits already.
    #[error("too many messages wait for the agent")]
    Full,
}

impl Session {
    pub fn new(uuid: Uuid, record: SessionRecord, folder: PathBuf, log: LineLog) -> Result<Self, String> {
        let id = uuid.hyphenated().to_string();
        let over = CancellationToken::new();
        if record.state != "running" {
            over.cancel();
        }
        Ok(Self {
            uuid,
            engine_id: SessionId::new(&id).map_err(|error| error.to_string())?,
            folder,
            log,
            interactive: record.interactive,
            inbox: Mutex::new(Inbox { is_closed: record.state != "running", ..Inbox::default() }),
            record: Mutex::new(record),
            more: Notify::new(),
            kill: CancellationToken::new(),
            over,
            deleted: AtomicBool::new(false),
            results: AtomicU64::new(0),
        })
    }

    /// How it stands.
    pub fn record(&self) -> SessionRecord {
        self.locked().clone()
    }

    /// One look at how it stands, without a copy of all of it.
    pub fn look<T>(&self, look: impl FnOnce(&SessionRecord) -> T) -> T {
        look(&self.locked())
    }

    pub fn change(&self, change: impl FnOnce(&mut SessionRecord)) {
        change(&mut self.locked());
    }

    pub fn is_live(&self) -> bool {
        !self.over.is_cancelled()
    }

    /// Whether the caller is the one that deletes it.
    pub fn delete(&self) -> bool {
        !self.deleted.swap(true, Ordering::AcqRel)
    }

    /// Tells it something.
    pub fn tell(&self, input: Input) -> Result<(), Deaf> {
        let mut inbox = self.inbox();
        if inbox.is_closed || (!self.interactive && input != Input::Interrupt) {
            return Err(Deaf::Closed);
        }
        let weight = input.weight();
        let (held, held_bytes) = inbox.held;
        if input == Input::Interrupt {
            // However much waits, it can be interrupted, and once is enough.
            if inbox.inputs.back() == Some(&input) {
                return Ok(());
            }
        } else if inbox.inputs.len() + held >= INPUTS || inbox.bytes + held_bytes + weight > INPUT_BYTES {
            return Err(Deaf::Full);
        }
        inbox.bytes += weight;
        inbox.unanswered += usize::from(matches!(input, Input::Prompt(_)));
        inbox.inputs.push_back(input);
        drop(inbox);
        self.more.notify_one();
        Ok(())
    }

    /// What it was told next. Cancel-safe; to be called by its task alone.
    pub async fn told(&self) -> Input {
        loop {
            let next = {
                let mut inbox = self.inbox();
                let next = inbox.inputs.pop_front();
                inbox.bytes -= next.as_ref().map_or(0, Input::weight);
                next
            };
            if let Some(next) = next {
                return next;
            }
            self.more.notified().await;
        }
    }

    /// What its task has taken and the agent has not: it counts as waiting still.
    pub fn holds(&self, count: usize, bytes: usize) {
        self.inbox().held = (count, bytes);
    }

    /// Its task has so many prompts that have no result.
    pub fn asked(&self, unanswered: usize) {
        let mut inbox = self.inbox();
        let waiting = inbox.inputs.iter().filter(|input| matches!(input, Input::Prompt(_))).count();
        inbox.unanswered = unanswered + waiting;
    }

    /// A result is about to be written; `answered` says that it is.
    pub fn answering(&self) {
        self.results.fetch_add(1, Ordering::SeqCst);
    }

    pub fn answered(&self, unanswered: usize) {
        self.asked(unanswered);
        self.results.fetch_add(1, Ordering::SeqCst);
    }

    /// The end of the log, and how many prompts have no result before it; `None` while that changes.
    pub fn standing(&self) -> Option<(LogEnd, usize)> {
        let before = self.results.load(Ordering::SeqCst);
        let (end, unanswered) = (self.log.end(), self.inbox().unanswered);
        let is_settled = before.is_multiple_of(2) && before == self.results.load(Ordering::SeqCst);
        is_settled.then_some((end, unanswered))
    }

    /// From now on it takes nothing.
    pub fn close(&self) {
        *self.inbox() = Inbox { is_closed: true, ..Inbox::default() };
    }

    /// Its task is gone: it ends as it is.
    pub fn lose(&self) {
        self.close();
        self.change(|record| {
            "failed".clone_into(&mut record.state);
            record.exit_code = Some(-1);
            record.ended_at = Some(now());
            record.error_detail = Some("internal error".to_owned());
        });
        self.log.finish();
        self.over.cancel();
    }

    fn locked(&self) -> MutexGuard<'_, SessionRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
