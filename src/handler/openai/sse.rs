//! Server-sent events.
//!
//! Owns where one event ends, wherever the bytes were cut, and how long one may be.

/// A longer event is no event.
const LONGEST: usize = 64 << 20;

/// The bytes of a stream that are not a whole event yet.
#[derive(Debug, Default)]
pub struct Events {
    bytes: Vec<u8>,
    /// Up to here there is no empty line.
    looked: usize,
}

/// An event is longer than any can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl Events {
    /// Takes bytes.
    ///
    /// # Errors
    /// When an event gets too long.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > LONGEST { Err(TooLong) } else { Ok(()) }
    }

    /// The data of the next whole event that has some.
    pub fn next(&mut self) -> Option<String> {
        loop {
            let (end, after) = self.empty_line()?;
            let rest = self.bytes.split_off(after);
            let event = std::mem::replace(&mut self.bytes, rest);
            self.looked = 0;
            let text = String::from_utf8_lossy(&event[..end]);
            let lines = text.split(['\n', '\r']).filter_map(|line| line.strip_prefix("data:"));
            let data: Vec<&str> = lines.map(|data| data.strip_prefix(' ').unwrap_or(data)).collect();
            if !data.is_empty() {
                return Some(data.join("\n"));
            }
        }
    }

    /// Where the first event ends, and where the next begins.
    fn empty_line(&mut self) -> Option<(usize, usize)> {
        let from = self.looked.saturating_sub(3);
        for (at, byte) in self.bytes.iter().enumerate().skip(from) {
            if *byte != b'\n' && *byte != b'\r' {
                continue;
            }
            let rest = &self.bytes[at..];
            for border in [b"\r\n\r\n".as_slice(), b"\n\n", b"\r\r", b"\n\r\n"] {
                if rest.starts_with(border) {
                    return Some((at, at + border.len()));
                }
            }
        }
        self.looked = self.bytes.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], size: usize) -> Vec<String> {
        let mut events = Events::default();
        let mut all = Vec::new();
        for chunk in bytes.chunks(size) {
            events.push(chunk).unwrap();
            all.extend(std::iter::from_fn(|| events.next()));
        }
        all
    }

    #[test]
    fn events_end_at_empty_lines() {
        let text = "event: a\ndata: {\"é\":1}\n\n: comment\n\ndata:2\r\ndata: 3\r\n\r\ndata: unfinished";
        for size in 1..text.len() {
            assert_eq!(read(text.as_bytes(), size), ["{\"é\":1}", "2\n3"], "{size}");
        }
    }

    proptest! {
        #[test]
        fn data_comes_whole(data in prop::collection::vec("[a-z€{}: ]{1,20}", 0..8), size in 1usize..9) {
            let text: String = data.iter().flat_map(|data| ["event: x\ndata: ", data, "\n\n"]).collect();
            prop_assert_eq!(read(text.as_bytes(), size), data);
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..20) {
            read(&bytes, size);
        }
    }
}
