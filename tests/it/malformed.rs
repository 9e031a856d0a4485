//! Malformed input: tables of what each wrong input is answered with, alone and while something runs.
//!
//! After every row the same connection, or a new one where the row ends it, gets a correct answer from the same process.
//! A file each for bodies, for messages and for frames.

mod dari;
mod frames;
mod messages;

/// So many levels of arrays or objects.
fn nested(open: &str, close: &str, levels: usize) -> String {
    open.repeat(levels) + &close.repeat(levels)
}

/// A number that no machine type holds.
fn digits() -> String {
    "7".repeat(400)
}
