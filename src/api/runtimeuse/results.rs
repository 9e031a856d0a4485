//! How the commands of a request ended, as one message that its client can take.
//!
//! Owns who gives way when it is too long: outputs share the room evenly, and one that fits its share is never cut.

use crate::model::{CommandEnd, CutBy, even_share};
use crate::wire::runtimeuse::CommandItem;
use std::time::Duration;

/// What an item may take besides its texts: the names of its fields, and its numbers.
const ITEM_BYTES: usize = 320;

/// The items of these commands, so that together they are written in at most `room` bytes, if that can be.
pub fn items(ends: &[CommandEnd], room: usize) -> Vec<CommandItem<'_>> {
    let mut room = room.saturating_sub(ends.len() * ITEM_BYTES);
    let mut items: Vec<CommandItem<'_>> = ends.iter().map(item).collect();

    // Commands have half of the room: they are what the caller knows already.
    let share = even_share(items.iter().map(|item| written(item.command)), room / 2);
    for item in &mut items {
        let whole = item.command;
        item.command = fitting(whole, share);
        item.command_truncated = item.command.len() < whole.len();
        room = room.saturating_sub(written(item.command));
    }

    // The ends of what a failed command said tell why it failed; there is one such command at most.
    for (item, end) in items.iter_mut().zip(ends).filter(|(_, end)| end.exit_code != 0) {
        item.stdout_tail = ending(&end.stdout_tail, room / 4);
        item.stderr_tail = ending(&end.stderr_tail, room / 4);
        room = room.saturating_sub(written(item.stdout_tail) + written(item.stderr_tail));
    }

    let share = even_share(items.iter().map(|item| item.stdout.map_or(0, written)), room);
    for (item, end) in items.iter_mut().zip(ends) {
        let Some(whole) = item.stdout else { continue };
        let cut = fitting(whole, share);
        if end.stdout_cut || cut.len() < whole.len() {
            item.stdout_truncated = true;
            item.stdout_total_bytes = Some(end.stdout_bytes);
        }
        item.stdout = Some(cut);
        room = room.saturating_sub(written(cut));
    }

    let errors = || ends.iter().filter(|end| end.exit_code == 0);
    let share = even_share(errors().map(|end| written(&end.stderr_tail)), room);
    for (item, end) in items.iter_mut().zip(ends).filter(|(_, end)| end.exit_code == 0) {
        item.stderr_tail = ending(&end.stderr_tail, share);
    }
    items
}

/// One command's end with all its texts but the tails.
pub fn item(end: &CommandEnd) -> CommandItem<'_> {
    let stdout = (end.exit_code == 0 && !end.stdout.is_empty()).then_some(end.stdout.as_str());
    let (exit_reason, signal) = match end.cut {
        None => (None, None),
        Some(CutBy::Signal(signal)) => (Some("signal"), Some(signal)),
        Some(CutBy::Timeout) => (Some("timeout"), None),
    };
    CommandItem {
        command: &end.command,
        exit_code: end.exit_code,
        stdout,
        exit_reason,
        signal,
        duration_ms: millis(end.took),
        ..CommandItem::default()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How many bytes a character takes within a JSON string.
fn cost(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

fn written(text: &str) -> usize {
    text.bytes().map(|byte| if byte < 0x80 { cost(char::from(byte)) } else { 1 }).sum()
}

/// The beginning of a text that takes at most `room` bytes.
fn fitting(text: &str, room: usize) -> &str {
    let mut left = room;
    for (at, c) in text.char_indices() {
        match left.checked_sub(cost(c)) {
            Some(less) => left = less,
            None => return &text[..at],
        }
    }
    text
}

/// The end of a text that takes at most `room` bytes.
fn ending(text: &str, room: usize) -> &str {
    let mut left = room;
    for (at, c) in text.char_indices().rev() {
        match left.checked_sub(cost(c)) {
            Some(less) => left = less,
            None => return &text[at + c.len_utf8()..],
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(command: &str, exit_code: i32, stdout: &str, stderr: &str) -> CommandEnd {
        CommandEnd {
            command: command.into(),
            exit_code,
            cut: None,
            took: Duration::from_millis(3),
            stdout: stdout.to_owned(),
            stdout_bytes: stdout.len() as u64,
            stdout_cut: false,
            stdout_tail: stdout.to_owned(),
            stderr_tail: stderr.to_owned(),
        }
    }

    #[test]
    fn small_outputs_are_whole_and_large_ones_share() {
        let large = "x".repeat(5000);
        let ends = [end("a", 0, "small", ""), end("b", 0, &large, "warned"), end("c", 0, &large, "")];
        let items = items(&ends, 4000);
        assert_eq!(items[0].stdout, Some("small"));
        assert!(!items[0].stdout_truncated);
        let [second, third] = [1, 2].map(|at| items[at].stdout.unwrap_or_default().len());
        assert!(second.abs_diff(third) <= 1 && second > 1200, "{second} {third}");
        assert!(items[1].stdout_truncated);
        assert_eq!(items[1].stdout_total_bytes, Some(5000));
        assert!(serde_json::to_string(&items).unwrap().len() <= 4000);
    }

    #[test]
    fn a_failed_command_shows_its_ends_and_no_output() {
        let ends = [end("a", 2, "out", "err")];
        let text = serde_json::to_string(&items(&ends, 100_000)).unwrap();
        assert_eq!(text, r#"[{"command":"a","exit_code":2,"duration_ms":3,"stdout_tail":"out","stderr_tail":"err"}]"#);
    }

    proptest! {
        #[test]
        fn the_message_is_never_too_long(
            ends in prop::collection::vec(("\\PC{0,300}", prop::bool::ANY, "[\\x00-\\x7f€😀]{0,900}", "\\PC{0,200}"), 0..12),
            room in 8_000usize..20_000,
        ) {
            let ends: Vec<_> = ends
                .iter()
                .map(|(command, ok, stdout, stderr)| end(command, i32::from(!ok), stdout, stderr))
                .collect();
            let items = items(&ends, room);
            let text = serde_json::to_string(&items).unwrap();
            prop_assert!(text.len() <= room, "{} > {}", text.len(), room);
            for (item, end) in items.iter().zip(&ends) {
                prop_assert!(end.stdout.starts_with(item.stdout.unwrap_or_default()));
                prop_assert!(end.stderr_tail.ends_with(item.stderr_tail));
                prop_assert_eq!(item.stdout_truncated, item.stdout.is_some_and(|cut| cut != end.stdout));
            }
        }
    }
}
