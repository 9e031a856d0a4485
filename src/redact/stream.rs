//! Redaction of a text that comes in pieces.
//!
//! Owns what is held back between two pieces. What comes out, put together, is [`Redactor::text`] of the whole text,
//! wherever it was cut.

use super::automaton::State;
use super::regions::Regions;
use super::{MARK, Redactor};
use std::fmt;
use std::ops::Range;

/// One text stream on its way out.
///
/// Holds back the end of the text as long as it may be the beginning of a secret: never more than the longest form of a
/// secret less one byte, and never by time.
pub struct Stream {
    redactor: Redactor,
    state: State,
    /// The undecided end of the text.
    held: String,
    /// How many bytes of the text are decided; `held` begins there.
    decided: usize,
    /// Up to where the text is covered by the last mark that went out. A match that begins there or before is part of it.
    marked: Option<usize>,
    /// Matches among the undecided.
    found: Regions,
}

impl Stream {
    pub(super) fn new(redactor: Redactor) -> Self {
        Self { redactor, state: State::ROOT, held: String::new(), decided: 0, marked: None, found: Regions::default() }
    }

    /// Takes the next piece and returns what is decided now.
    #[must_use = "what is returned does not come again"]
    pub fn push(&mut self, piece: &str) -> String {
        let mut out = String::new();
        self.push_into(piece, &mut out);
        out
    }

    /// As [`Stream::push`]; a piece that holds nothing to hide comes back without being copied.
    #[must_use = "what is returned does not come again"]
    pub fn pass(&mut self, mut piece: String) -> String {
        let Some(matcher) = self.redactor.matcher() else { return piece };
        if !self.held.is_empty() {
            return self.push(&piece);
        }
        // Nothing is held, so nothing is undecided: what is found lies in this piece.
        let piece_at = self.decided;
        self.state = matcher.scan(self.state, piece.as_bytes(), piece_at, &mut self.found);
        let limit = piece.len() - matcher.open(self.state);
        if self.found.is_empty() {
            self.held.push_str(&piece[limit..]);
            piece.truncate(limit);
            self.decided += limit;
            return piece;
        }
        let mut out = String::with_capacity(piece.len());
        self.decide(piece_at + limit, &piece, &mut out);
        out
    }

    /// Takes the next piece and appends what is decided now to `out`.
    pub fn push_into(&mut self, piece: &str, out: &mut String) {
        let Some(matcher) = self.redactor.matcher() else {
            out.push_str(piece);
            return;
        };
        let piece_at = self.decided + self.held.len();
        self.state = matcher.scan(self.state, piece.as_bytes(), piece_at, &mut self.found);
        let end = piece_at + piece.len();
        let open = matcher.open(self.state);
        out.reserve(end - open - self.decided);
        self.decide(end - open, piece, out);
    }

    /// Ends the stream and returns the rest.
    #[must_use = "the end of the text"]
    pub fn finish(mut self) -> String {
        let mut out = String::new();
        self.decide(self.decided + self.held.len(), "", &mut out);
        out
    }

    /// How many bytes are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Writes what comes before `limit`, where the earliest match that is not known yet may begin.
    fn decide(&mut self, limit: usize, piece: &str, out: &mut String) {
        let mut from = self.decided.max(self.marked.unwrap_or(0));
        // A match that begins right at the limit is marked at once: what follows can only make it longer.
        for (start, end) in self.found.take_up_to(limit) {
            if self.marked.is_none_or(|marked| start > marked) {
                copy(&self.held, piece, self.decided, from..start, out);
                out.push_str(MARK);
            }
            from = end;
            self.marked = Some(from);
        }
        copy(&self.held, piece, self.decided, from..limit, out);

        let piece_at = self.decided + self.held.len();
        if let Some(rest) = limit.checked_sub(piece_at) {
            self.held.clear();
            self.held.push_str(&piece[rest..]);
        } else {
            self.held.drain(..limit - self.decided);
            self.held.push_str(piece);
        }
        self.decided = limit;
    }
}

/// Appends a range of the text of which `held` and then `piece` are the last parts; `held` begins at its byte `held_at`.
fn copy(held: &str, piece: &str, held_at: usize, range: Range<usize>, out: &mut String) {
    let piece_at = held_at + held.len();
    let (from, to) = (range.start, range.end.min(piece_at));
    if from < to {
        out.push_str(&held[from - held_at..to - held_at]);
    }
    let (from, to) = (range.start.max(piece_at), range.end);
    if from < to {
        out.push_str(&piece[from - piece_at..to - piece_at]);
    }
}

impl fmt::Debug for Stream {
    // What is held may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({} bytes held, {:?})", self.held.len(), self.redactor)
    }
}
