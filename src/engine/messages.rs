//! Messages whose end may be the beginning of a secret.
//!
//! Owns what waits for the next message because of that, and in which order it goes out. A message that ends with only a
//! few bytes of a secret does not wait: it is the next one's beginning that is hidden then.

use crate::model::Event;
use crate::redact::Redactor;
use std::collections::VecDeque;

/// Shorter beginnings of a secret tell nothing of it, and many a message ends like that by chance.
const TELLING: usize = 4;
/// More than this does not wait: what may be the beginning of a secret is hidden then.
const MOST_EVENTS: usize = 256;
const MOST_BYTES: usize = 1 << 20;

/// The messages of one turn.
#[derive(Default)]
pub(super) struct Messages {
    /// As they were said; the first is a message.
    waiting: VecDeque<Event>,
    bytes: usize,
    /// The end of the last message that went out, which may be the beginning of a secret.
    carried: String,
}

impl Messages {
    /// Whether nothing waits, so that an event that is no message may pass.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the next event. What is returned goes out now: messages are clean, other events are as they were said.
    pub(super) fn push(&mut self, event: Event, redactor: &Redactor) -> Vec<Event> {
        let is_message = matches!(event, Event::Text { .. });
        self.bytes += event.weight();
        self.waiting.push_back(event);
        if self.waiting.len() > MOST_EVENTS || self.bytes > MOST_BYTES {
            return self.release(redactor, true);
        }
        if is_message { self.release(redactor, false) } else { Vec::new() }
    }

    /// What still waits, at the end of the turn.
    pub(super) fn finish(&mut self, redactor: &Redactor) -> Vec<Event> {
        let all = self.waiting.len();
        self.take(all, redactor, false)
    }

    /// Lets go of everything before the first message that a secret may begin in.
    fn release(&mut self, redactor: &Redactor, hide_open: bool) -> Vec<Event> {
        let texts = self.texts();
        let whole = redactor.across(&texts, false);
        let open = whole.open;
        if open < TELLING || hide_open {
            let mut end: Vec<char> = Vec::new();
            if !hide_open {
                // Borders of characters: a secret begins at one.
                let mut left = open;
                for c in texts.iter().rev().flat_map(|text| text.chars().rev()) {
                    if left == 0 {
                        break;
                    }
                    left = left.saturating_sub(c.len_utf8());
                    end.push(c);
                }
            }
            let carried = end.into_iter().rev().collect();
            let ready = self.take(self.waiting.len(), redactor, hide_open);
            self.carried = carried;
            return ready;
        }
        let end: usize = texts.iter().map(|text| text.len()).sum();
        let (mut keep, mut border) = (self.waiting.len(), end);
        // A secret that ends in a message that stays must stay whole: only together the two are known to be one.
        while keep > 0 && (border > end - open || whole.found.iter().any(|(from, to)| *from < border && border < *to)) {
            keep -= 1;
            border -= length(&self.waiting[keep]);
        }
        self.take(keep, redactor, false)
    }

    /// The first events, clean as far as they are messages.
    fn take(&mut self, count: usize, redactor: &Redactor, hide_open: bool) -> Vec<Event> {
        if count == 0 {
            return Vec::new();
        }
        // All texts are looked at: a secret may go on into one that stays.
        let mut clean = redactor.across(&self.texts(), hide_open).clean.into_iter().skip(1);
        let mut ready: Vec<Event> = self.waiting.drain(..count).collect();
        for event in &mut ready {
            self.bytes -= event.weight();
            if let Event::Text { parts, .. } = event {
                for part in parts {
                    if let Some(Some(clean)) = clean.next() {
                        *part = clean;
                    }
                }
            }
        }
        self.carried.clear();
        ready
    }

    /// What was carried over, then the texts of all that waits.
    fn texts(&self) -> Vec<&str> {
        let parts = self.waiting.iter().filter_map(|event| match event {
            Event::Text { parts, .. } => Some(parts),
            _ => None,
        });
        std::iter::once(self.carried.as_str()).chain(parts.flatten().map(String::as_str)).collect()
    }
}

fn length(event: &Event) -> usize {
    if let Event::Text { parts, .. } = event { parts.iter().map(String::len).sum() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::Secret;
    use proptest::prelude::*;

    fn message(parts: &[&str]) -> Event {
        Event::Text { block: None, parts: parts.iter().map(|part| (*part).to_owned()).collect() }
    }

    fn text(event: &Event) -> String {
        match event {
            Event::Text { parts, .. } => parts.join("|"),
            Event::Thinking { text } => format!("({text})"),
            other => format!("{other:?}"),
        }
    }

    fn redactor() -> Redactor {
        Redactor::new(&[Secret::new("s3cr3t-value")])
    }

    /// What goes out after each event, and at the end.
    fn said(events: Vec<Event>) -> Vec<Vec<String>> {
        let (redactor, mut messages) = (redactor(), Messages::default());
        let mut said: Vec<Vec<String>> =
            events.into_iter().map(|event| messages.push(event, &redactor).iter().map(text).collect()).collect();
        said.push(messages.finish(&redactor).iter().map(text).collect());
        said
    }

    #[test]
    fn only_what_may_be_a_secret_waits() {
        let none: [&str; 0] = [];
        assert_eq!(said(vec![message(&["one s"]), message(&["two"])]), [vec!["one s"], vec!["two"], none.into()]);
        // Three bytes do not wait; the rest of the secret is hidden.
        assert_eq!(
            said(vec![message(&["one s3c"]), message(&["r3t-value two"])]),
            [vec!["one s3c"], vec!["[REDACTED] two"], none.into()]
        );
        assert_eq!(
            said(vec![message(&["one s3cr3"]), message(&["t-value two"])]),
            [none.into(), vec!["one [REDACTED]", "[REDACTED] two"], none.into()]
        );
        assert_eq!(
            said(vec![message(&["one s3cr3"]), Event::Thinking { text: "hm".into() }, message(&["no"])]),
            [none.into(), none.into(), vec!["one s3cr3", "(hm)", "no"], none.into()]
        );
        assert_eq!(said(vec![message(&["a", "s3cr3t"])]), [none.into(), vec!["a|s3cr3t"]]);
        assert_eq!(said(vec![message(&["s3cr3t-", "value"])]), [vec!["[REDACTED]|[REDACTED]"], none.into()]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let redactor = redactor();
        let mut messages = Messages::default();
        let mut out = messages.push(message(&["x s3cr3t"]), &redactor);
        for _ in 0..MOST_EVENTS {
            out.extend(messages.push(Event::Thinking { text: "t".into() }, &redactor));
        }
        assert_eq!((out.len(), text(&out[0]).as_str()), (MOST_EVENTS + 1, "x [REDACTED]"));
    }

    proptest! {
        /// However a text is cut into messages, it comes out without secrets, in as many messages.
        #[test]
        fn no_secret_comes_through(
            cuts in prop::collection::vec(0usize..60, 0..9),
            pieces in prop::collection::vec(prop::sample::select(vec!["s3cr3t-value", "s3cr3t", "-value", "s3", "x", "é "]), 0..8),
        ) {
            let whole = pieces.concat();
            let mut borders: Vec<_> = cuts.iter().map(|cut| whole.floor_char_boundary(*cut)).collect();
            borders.extend([0, whole.len()]);
            borders.sort_unstable();
            let events: Vec<Event> = borders.windows(2).map(|pair| message(&[&whole[pair[0]..pair[1]]])).collect();
            let count = events.len();
            let out: Vec<String> = said(events).concat();
            prop_assert_eq!(out.len(), count);
            let together = out.concat();
            prop_assert!(!together.contains("s3cr3t-value"));
            prop_assert!(whole.contains("s3cr3t-value") || together == whole);
        }

        /// Nor does more than three bytes of one.
        #[test]
        fn no_part_of_a_secret_comes_through(
            cuts in prop::collection::vec(0usize..60, 0..9),
            pieces in prop::collection::vec(prop::sample::select(vec!["s3cr3t-value", "x", "é "]), 0..8),
        ) {
            let whole = pieces.concat();
            let mut borders: Vec<_> = cuts.iter().map(|cut| whole.floor_char_boundary(*cut)).collect();
            borders.extend([0, whole.len()]);
            borders.sort_unstable();
            let events: Vec<Event> = borders.windows(2).map(|pair| message(&[&whole[pair[0]..pair[1]]])).collect();
            let together = said(events).concat().concat();
            for part in "s3cr3t-value".as_bytes().windows(TELLING) {
                prop_assert!(!together.contains(std::str::from_utf8(part).unwrap()), "{together}");
            }
        }
    }
}
