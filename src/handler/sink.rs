//! Where a handler speaks, and how it hears that it should stop, or that the user has more to say.
//!
//! Owns the handler's end of a turn's event stream. Numbering, redaction and storage are the engine's.

use crate::model::Event;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The turn has ended: what is said now goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the turn is over")]
pub struct TurnOver;

/// Whether the turn can take more events at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It can.
    Yes,
    /// What was said so far fills its bounds: wait before you say more.
    Full,
}

/// The engine's side of a [`Sink`].
pub trait Listener: Send + Sync {
    /// Takes one event. Never blocks.
    ///
    /// # Errors
    /// [`TurnOver`] when the turn has its outcome.
    fn take(&self, event: Event) -> Result<Room, TurnOver>;

    /// Resolves when there is room again or the turn is over. Cancel-safe.
    fn room(&self) -> BoxFuture<'_, ()>;

    /// Notes a sign of life that is no event.
    fn alive(&self);
}

/// A turn's ear: everything a handler says goes through it. Cloning gives another way to the same turn.
#[derive(Clone)]
pub struct Sink(Arc<dyn Listener>);

impl Sink {
    /// A sink that ends at `listener`.
    #[must_use]
    pub fn new(listener: Arc<dyn Listener>) -> Self {
        Self(listener)
    }

    /// Says one event; waits while the turn's bounds are full. Cancel-safe: the event is taken at the first poll.
    ///
    /// # Errors
    /// [`TurnOver`] when the turn has its outcome; a handler may ignore it.
    pub async fn say(&self, event: Event) -> Result<(), TurnOver> {
        match self.0.take(event)? {
            Room::Yes => Ok(()),
            Room::Full => {
                self.0.room().await;
                Ok(())
            }
        }
    }

    /// Says one message of plain text.
    ///
    /// # Errors
    /// As [`Sink::say`].
    pub async fn text(&self, text: impl Into<String>) -> Result<(), TurnOver> {
        self.say(Event::Text { block: None, parts: vec![text.into()] }).await
    }

    /// Says that the agent has taken in what the user said meanwhile.
    pub async fn heard(&self) {
        let _ = self.say(Event::Progress { kind: "heard".to_owned(), detail: None }).await;
    }

    /// Notes a sign of life that is no event.
    pub fn alive(&self) {
        self.0.alive();
    }
}

/// Fires when a turn is to stop.
#[derive(Debug, Clone)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// Wraps the engine's token.
    #[must_use]
    pub fn new(token: CancellationToken) -> Self {
        Self(token)
    }

    /// Resolves when the turn is to stop. Cancel-safe.
    pub async fn fired(&self) {
        self.0.cancelled().await;
    }

    /// Whether it fired.
    #[must_use]
    pub fn has_fired(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// What may wait for a handler that takes no input just now: this many texts, of so many bytes together.
const INPUTS: usize = 64;
const INPUT_BYTES: usize = 1 << 20;

/// What the user says while the turn runs. Cloning gives another way to the same turn.
#[derive(Debug, Clone, Default)]
pub struct Inputs(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    texts: Mutex<VecDeque<String>>,
    more: Notify,
    heard: AtomicBool,
}

/// Why a turn does not take what is said to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InputRefused {
    /// Its handler does not listen: it cannot, or has not begun.
    #[error("the agent takes no further messages while it works")]
    Unheard,
    /// Its handler has not taken what was said before.
    #[error("the agent has not taken in the messages before this one")]
    Full,
}

impl Inputs {
    /// Adds a text, for the handler to take when it can.
    ///
    /// # Errors
    /// When nobody listens, or too much waits already.
    pub fn push(&self, text: String) -> Result<(), InputRefused> {
        if !self.0.heard.load(Ordering::Acquire) {
            return Err(InputRefused::Unheard);
        }
        let mut texts = self.texts();
        let bytes: usize = texts.iter().map(String::len).sum();
        if texts.len() == INPUTS || bytes + text.len() > INPUT_BYTES {
            return Err(InputRefused::Full);
        }
        texts.push_back(text);
        drop(texts);
        self.0.more.notify_one();
        Ok(())
    }

    /// From now on texts are taken: a handler says so when it can pass them on.
    pub fn listen(&self) {
        self.0.heard.store(true, Ordering::Release);
    }

    /// Waits for the next text. Cancel-safe. To be called by one task at a time.
    pub async fn next(&self) -> String {
        loop {
            if let Some(text) = self.try_next() {
                return text;
            }
            self.0.more.notified().await;
        }
    }

    /// The next text, if one waits.
    #[must_use]
    pub fn try_next(&self) -> Option<String> {
        self.texts().pop_front()
    }

    fn texts(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
