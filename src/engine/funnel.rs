//! The one way of an event from a handler to its readers: redact, number, store, fan out.
//!
//! Owns the order of those steps. Numbering and storing are the log's, when a turn last gave a sign of life is `signs`'s.

use super::log::SessionLog;
use super::messages::Messages;
use super::signs::{Busy, Signs};
use crate::failpoint;
use crate::handler::{Listener, Room, TurnOver};
use crate::model::{
    Answer, BlockId, ERROR_METADATA_KEYS, Event, Fault, RawJson, ToolCall, ToolResult, TurnId, Usage, What,
};
use crate::redact::{Redactor, Stream};
use crate::telemetry::metrics::metrics;
use crate::telemetry::traces::TurnTrace;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Answer text kept for a turn that a limit cuts, in bytes.
const PARTIAL_BYTES: usize = 64 << 10;

/// Input and output of tools kept for the outcome, in bytes; what is beyond is cut.
const TOOL_BYTES: usize = 1 << 20;

/// Blocks of deltas that may be open at once. Secrets that are split between the deltas of more are not found.
const OPEN_BLOCKS: usize = 4096;

/// The engine's end of a turn's sink.
pub(super) struct Funnel {
    log: Arc<SessionLog>,
    turn: TurnId,
    redactor: Redactor,
    signs: Arc<Signs>,
    partial: Mutex<Partial>,
    /// Blocks of deltas, each with the end of its text that may be the beginning of a secret.
    open: Mutex<HashMap<Option<BlockId>, Stream>>,
    /// Messages that wait because their end may be the beginning of a secret.
    messages: Mutex<Messages>,
    /// The tools that were used, if somebody wants to know.
    tools: Option<Mutex<Tools>>,
    trace: TurnTrace,
}

/// The calls of tools so far.
#[derive(Default)]
struct Tools {
    calls: Vec<ToolCall>,
    bytes: usize,
}

impl Tools {
    fn note(&mut self, event: &Event) {
        let room = TOOL_BYTES.saturating_sub(self.bytes);
        match event {
            Event::ToolUse { id, name, input } => {
                let input = if input.as_str().len() > room { RawJson::from_valid("null") } else { input.clone() };
                self.calls.push(ToolCall { id: id.clone(), name: name.clone(), input, result: None });
            }
            Event::ToolResult { id, output, is_error, .. } => {
                let open = |call: &&mut ToolCall| call.id == *id && call.result.is_none();
                let Some(call) = self.calls.iter_mut().rev().find(open) else { return };
                let end = output.floor_char_boundary(room);
                let mut text = output[..end].to_owned();
                if end < output.len() {
                    text.push_str("… [cut]");
                }
                call.result = Some(ToolResult { output: text, is_error: *is_error });
            }
            _ => return,
        }
        self.bytes = self.calls.iter().map(ToolCall::weight).sum();
    }
}

/// What was said so far, as far as it counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// How long it took to the first event.
    pub first: Option<Duration>,
    /// What the turn has used, where its agent tells.
    pub usage: Option<Usage>,
    /// The tools that were used.
    pub tools: u64,
}

/// What the user would have read so far.
#[derive(Default)]
struct Partial {
    whole: String,
    /// Deltas of the block that is not complete yet.
    open: String,
    tally: Tally,
}

impl Funnel {
    pub(super) fn new(log: Arc<SessionLog>, turn: TurnId, redactor: Redactor, tells_tools: bool) -> Arc<Self> {
        Arc::new(Self {
            log,
            turn,
            redactor,
            signs: Signs::new(),
            partial: Mutex::default(),
            open: Mutex::default(),
            messages: Mutex::default(),
            tools: tells_tools.then(Mutex::default),
            trace: TurnTrace::here(),
        })
    }

    /// When the turn last said something or gave a sign of life.
    pub(super) fn signs(&self) -> &Arc<Signs> {
        &self.signs
    }

    /// The answer text said so far, cut to a bound.
    pub(super) fn partial(&self) -> String {
        let partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = partial.whole.clone();
        if !text.is_empty() && !partial.open.is_empty() {
            text.push('\n');
        }
        text + &partial.open
    }

    /// What was said so far, in numbers.
    pub(super) fn tally(&self) -> Tally {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner).tally
    }

    /// The calls of tools, in order.
    pub(super) fn tools(&self) -> Vec<ToolCall> {
        let Some(tools) = &self.tools else { return Vec::new() };
        std::mem::take(&mut tools.lock().unwrap_or_else(PoisonError::into_inner).calls)
    }

    pub(super) fn redact_answer(&self, answer: Answer) -> Answer {
        match answer {
            Answer::Text(text) => Answer::Text(self.string(text)),
            Answer::Structured(json) => Answer::Structured(self.json(json)),
            // Made of what went through `streams` already.
            Answer::Commands(ends) => Answer::Commands(ends),
        }
    }

    pub(super) fn redact_fault(&self, mut fault: Fault) -> Fault {
        fault.message = self.string(fault.message);
        fault.detail = fault.detail.map(|detail| self.string(detail));
        fault.metadata = fault.metadata.map(|json| self.redactor.json_except(&json, &ERROR_METADATA_KEYS));
        if let Some(process) = &mut fault.process {
            process.stderr_tail = self.string(std::mem::take(&mut process.stderr_tail));
        }
        // A command's end was made of clean text; what the handler answered was not said yet.
        fault.answered = fault.answered.map(|answered| {
            let (answer, metadata) = *answered;
            Box::new((self.redact_answer(answer), self.redact_metadata(metadata)))
        });
        fault
    }

    pub(super) fn redact_metadata(&self, metadata: Option<RawJson>) -> Option<RawJson> {
        metadata.map(|json| self.json(json))
    }

    /// Redacts what comes in pieces and is then said with [`Funnel::take_clean`].
    pub(super) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// From now until what is returned is dropped, something goes on that counts as life though nothing is said.
    pub(super) fn busy(&self) -> Busy {
        self.signs.busy()
    }

    /// As [`Listener::take`], for an event that holds no secret any more.
    pub(super) fn take_clean(&self, event: Event) -> Result<Room, TurnOver> {
        self.note(&event);
        failpoint::reach("event-redacted");
        let said = self.log.append(&self.turn, What::Said(event));
        failpoint::reach("event-said");
        if said.is_none() {
            tracing::debug!(turn = %self.turn, "an event came after the turn's end and was dropped");
            return Err(TurnOver);
        }
        Ok(if self.log.is_full() { Room::Full } else { Room::Yes })
    }

    /// As [`Funnel::take_clean`]; waits while the turn's bounds are full. Cancel-safe: taken at the first poll.
    pub(super) async fn say_clean(&self, event: Event) {
        if let Ok(Room::Full) = self.take_clean(event) {
            self.log.room(&self.turn).await;
        }
    }

    fn string(&self, text: String) -> String {
        match self.redactor.text(&text) {
            std::borrow::Cow::Borrowed(_) => text,
            std::borrow::Cow::Owned(clean) => clean,
        }
    }

    fn json(&self, json: RawJson) -> RawJson {
        if self.redactor.is_empty() { json } else { self.redactor.json(&json) }
    }

    /// The event as it may be known; none while all of it is held back.
    fn redact(&self, event: Event) -> Option<Event> {
        if self.redactor.is_empty() {
            return Some(event);
        }
        Some(match event {
            // Clean already: `messages` looks at several together.
            Event::Text { block, parts } => {
                self.open().remove(&block);
                Event::Text { block, parts }
            }
            Event::TextDelta { block, text } => return self.piece(block, &text),
            Event::Thinking { text } => Event::Thinking { text: self.string(text) },
            Event::ToolUse { id, name, input } => {
                Event::ToolUse { id, name: self.string(name), input: self.json(input) }
            }
            Event::ToolResult { id, output, is_error, exit_code } => {
                Event::ToolResult { id, output: self.string(output), is_error, exit_code }
            }
            Event::Progress { kind, detail } => {
                Event::Progress { kind: self.string(kind), detail: self.redact_metadata(detail) }
            }
            Event::CommandOutput { stream, text, command } => Event::CommandOutput {
                stream,
                text: self.string(text),
                command: self.string(command.to_string()).into(),
            },
            Event::Warning { text, field } => {
                Event::Warning { text: self.string(text), field: field.map(|field| self.string(field)) }
            }
            Event::Discarded { block } => {
                self.open().remove(&Some(block.clone()));
                Event::Discarded { block }
            }
            // Ids, numbers and the paths of the artifact handshake are never altered.
            Event::Usage(_) | Event::Artifact { .. } => event,
        })
    }

    /// What may be said of a delta by now: its end may be the beginning of a secret, and then has to wait.
    fn piece(&self, block: Option<BlockId>, text: &str) -> Option<Event> {
        let mut open = self.open();
        let text = if open.len() < OPEN_BLOCKS || open.contains_key(&block) {
            open.entry(block.clone()).or_insert_with(|| self.redactor.stream()).push(text)
        } else {
            self.redactor.text(text).into_owned()
        };
        (!text.is_empty()).then_some(Event::TextDelta { block, text })
    }

    /// Says what was held back of the deltas. To be called when the handler is done.
    pub(super) fn finish(&self) {
        let waiting = self.messages().finish(&self.redactor);
        for event in waiting {
            // The turn is not over yet, and it is too late to wait for room.
            let _ = self.take_redacted(event);
        }
        let open = std::mem::take(&mut *self.open());
        for (block, stream) in open {
            let text = stream.finish();
            if !text.is_empty() {
                let rest = Event::TextDelta { block, text };
                self.note(&rest);
                self.log.append(&self.turn, What::Said(rest));
            }
        }
    }

    /// Takes an event that is clean as far as it is a message.
    fn take_redacted(&self, event: Event) -> Result<Room, TurnOver> {
        match self.redact(event) {
            Some(event) => self.take_clean(event),
            None => Ok(Room::Yes),
        }
    }

    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Option<BlockId>, Stream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: &Event) {
        if let Some(tools) = &self.tools {
            tools.lock().unwrap_or_else(PoisonError::into_inner).note(event);
        }
        metrics().event(event.kind());
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        if partial.tally.first.is_none() {
            partial.tally.first = Some(self.signs.age());
        }
        match event {
            Event::Usage(usage) => partial.tally.usage = Some(*usage),
            Event::ToolUse { id, name, .. } => {
                partial.tally.tools += 1;
                self.trace.tool_used(id, name);
            }
            Event::ToolResult { id, is_error, .. } => self.trace.tool_ended(id, *is_error),
            Event::Text { parts, .. } => {
                partial.open.clear();
                for part in parts {
                    partial.add_whole(part);
                }
            }
            Event::TextDelta { text, .. } => {
                let room = PARTIAL_BYTES.saturating_sub(partial.whole.len() + partial.open.len());
                partial.open.push_str(&text[..text.floor_char_boundary(room)]);
            }
            Event::Discarded { .. } => partial.open.clear(),
            _ => {}
        }
    }
}

impl Partial {
    fn add_whole(&mut self, part: &str) {
        let room = PARTIAL_BYTES.saturating_sub(self.whole.len());
        if room == 0 {
            return;
        }
        if !self.whole.is_empty() {
            self.whole.push('\n');
        }
        self.whole.push_str(&part[..part.floor_char_boundary(room)]);
    }
}

impl Listener for Funnel {
    fn take(&self, event: Event) -> Result<Room, TurnOver> {
        self.alive();
        if self.redactor.is_empty() {
            return self.take_clean(event);
        }
        let mut messages = self.messages();
        if messages.is_empty() && !matches!(event, Event::Text { .. }) {
            drop(messages);
            return self.take_redacted(event);
        }
        let ready = messages.push(event, &self.redactor);
        let mut room = Ok(Room::Yes);
        // Under the lock, so that nothing overtakes what waited.
        for event in ready {
            room = self.take_redacted(event);
        }
        room
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.log.room(&self.turn))
    }

    fn alive(&self) {
        self.signs.alive();
    }
}
