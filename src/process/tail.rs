//! The last part of a stream.
//!
//! Owns a bounded number of bytes, for the end of what a program wrote to its standard error.

use std::collections::VecDeque;

/// Keeps the last bytes that were pushed.
#[derive(Debug, Clone)]
pub struct Tail {
    bytes: VecDeque<u8>,
    most: usize,
    total: u64,
}

impl Default for Tail {
    fn default() -> Self {
        Self::new(Self::USUAL)
    }
}

impl Tail {
    /// How much is kept by default: 16 KiB.
    pub const USUAL: usize = 16 * 1024;

    /// Keeps at most this many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { bytes: VecDeque::new(), most, total: 0 }
    }

    /// Adds bytes, and forgets as many of the earliest as are too many.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(self.most)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.most);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// How many bytes were pushed in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether something was forgotten.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.total > self.bytes.len() as u64
    }

    /// What is kept, as text. It starts at the border of a character, and what is no UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        let (front, back) = self.bytes.as_slices();
        let bytes = [front, back].concat();
        // A character has at most three bytes after its first.
        let halves = bytes.iter().take(3).take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000).count();
        let start = if self.is_cut() { halves } else { 0 };
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept() {
        let mut tail = Tail::new(5);
        assert_eq!((tail.text().as_str(), tail.is_cut()), ("", false));
        tail.push(b"abc");
        tail.push(b"de");
        assert_eq!((tail.text().as_str(), tail.is_cut()), ("abcde", false));
        tail.push(b"f");
        assert_eq!((tail.text().as_str(), tail.is_cut(), tail.total()), ("bcdef", true, 6));
        tail.push(b"0123456789");
        assert_eq!(tail.text(), "56789");
        tail.push(b"");
        assert_eq!(tail.text(), "56789");
    }

    #[test]
    fn a_cut_falls_on_the_border_of_a_character() {
        let text = "aä€😀z";
        for most in 0..=text.len() {
            let mut tail = Tail::new(most);
            for byte in text.as_bytes() {
                tail.push(&[*byte]);
            }
            assert!(text.ends_with(&tail.text()), "{most}: {:?}", tail.text());
            assert!(tail.text().len() + 3 >= most, "{most}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut tail = Tail::default();
        tail.push(b"\x80a\xffb");
        assert_eq!(tail.text(), "\u{fffd}a\u{fffd}b");
    }
}
