//! A stream of bytes as texts.
//!
//! Owns the borders of characters: a text never ends within one, wherever the bytes were cut.

use std::collections::VecDeque;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much is read at once, and how long a text is at most, in bytes.
const LONGEST: usize = 64 * 1024;

/// Reads texts from a stream.
#[derive(Debug)]
pub struct Texts<R> {
    reader: R,
    /// What was read and is not a text yet: at most the beginning of one character between two reads.
    bytes: Vec<u8>,
    /// Texts that were read with an earlier one.
    ready: VecDeque<String>,
    total: u64,
    is_open: bool,
}

impl<R: AsyncRead + Unpin> Texts<R> {
    /// Reads from this.
    pub fn new(reader: R) -> Self {
        Self { reader, bytes: Vec::new(), ready: VecDeque::new(), total: 0, is_open: true }
    }

    /// Whether more may come.
    pub fn is_open(&self) -> bool {
        self.is_open || !self.ready.is_empty()
    }

    /// How many bytes were read.
    pub fn bytes(&self) -> u64 {
        self.total
    }

    /// The reader itself; what was read and not taken is lost.
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// The next text, never empty; `None` at the end of the stream. A stream that cannot be read has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                return Some(text);
            }
            if !self.is_open {
                return None;
            }
            self.bytes.reserve_exact(LONGEST - self.bytes.len());
            let room = (LONGEST - self.bytes.len()) as u64;
            // Cancel-safe: nothing is read unless it returns.
            match (&mut self.reader).take(room).read_buf(&mut self.bytes).await {
                Ok(read @ 1..) => self.total += read as u64,
                _ => self.is_open = false,
            }
            self.decode();
        }
    }

    /// Turns what was read into texts.
    fn decode(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        match String::from_utf8(bytes) {
            Ok(text) if text.is_empty() => {}
            Ok(text) => self.ready.push_back(fit(text)),
            Err(error) => {
                let (valid, wrong) = (error.utf8_error().valid_up_to(), error.utf8_error().error_len());
                let mut bytes = error.into_bytes();
                if wrong.is_none() && self.is_open {
                    // Only the last character is incomplete.
                    self.bytes = bytes.split_off(valid);
                    if let Ok(text) = String::from_utf8(bytes)
                        && !text.is_empty()
                    {
                        self.ready.push_back(fit(text));
                    }
                    return;
                }
                self.replace(&bytes);
            }
        }
    }

    /// As [`Texts::decode`], where something is no UTF-8.
    fn replace(&mut self, bytes: &[u8]) {
        let mut text = String::with_capacity(bytes.len());
        let mut at = 0;
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            at += chunk.valid().len();
            let rest = chunk.invalid();
            let is_cut = at + rest.len() == bytes.len() && is_beginning(rest);
            if is_cut && self.is_open {
                self.bytes = rest.to_vec();
            } else if !rest.is_empty() {
                text.push('\u{fffd}');
            }
            at += rest.len();
        }
        let mut rest = text.as_str();
        while rest.len() > LONGEST {
            let (first, more) = rest.split_at(rest.floor_char_boundary(LONGEST));
            self.ready.push_back(first.to_owned());
            rest = more;
        }
        if !rest.is_empty() {
            self.ready.push_back(rest.to_owned());
        }
    }
}

/// Whether these bytes, the last that were read, may become a character with the next ones.
fn is_beginning(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Gives back most of what a short text does not fill: it may wait in a queue.
fn fit(mut text: String) -> String {
    if text.capacity() > 2 * text.len() {
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives its bytes in pieces of these sizes, over and over.
    struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: Vec<usize>,
        at: usize,
    }

    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            let size = self.sizes[self.at % self.sizes.len()].min(self.bytes.len()).min(into.remaining());
            let (piece, rest) = self.bytes.split_at(size);
            into.put_slice(piece);
            self.bytes = rest;
            self.at += 1;
            std::task::Poll::Ready(Ok(()))
        }
    }

    async fn texts(bytes: &[u8], sizes: Vec<usize>) -> Vec<String> {
        let mut texts = Texts::new(Pieces { bytes, sizes, at: 0 });
        let mut all = Vec::new();
        while let Some(text) = texts.next().await {
            all.push(text);
        }
        assert_eq!(texts.bytes(), bytes.len() as u64);
        assert!(!texts.is_open());
        all
    }

    #[tokio::test]
    async fn a_long_stream_of_wrong_bytes_stays_in_bounds() {
        let bytes = vec![0xff; 200_000];
        let all = texts(&bytes, vec![usize::MAX]).await;
        assert!(all.iter().all(|text| text.len() <= LONGEST));
        assert_eq!(all.concat(), String::from_utf8_lossy(&bytes));
    }

    proptest! {
        #[test]
        fn the_texts_together_are_the_whole(
            parts in prop::collection::vec(prop_oneof![
                "\\PC{0,8}".prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..6),
                Just("€😀".as_bytes()[..5].to_vec()),
            ], 0..20),
            sizes in prop::collection::vec(1usize..9, 1..6),
        ) {
            let bytes = parts.concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let all = runtime.block_on(texts(&bytes, sizes));
            prop_assert!(all.iter().all(|text| !text.is_empty()));
            prop_assert_eq!(all.concat(), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
