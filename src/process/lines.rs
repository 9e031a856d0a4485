//! Lines of what a program says, within bounds.
//!
//! Owns the splitting of one byte stream. Knows that a line which starts with `{` is meant for us and may be long, that
//! any other is a log line, and nothing more: no JSON is read here.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much is read at once, and what an idle reader holds.
const CHUNK: usize = 64 * 1024;

/// A buffer that grew beyond this for a long line is not kept.
const KEPT: usize = 4 * CHUNK;

/// How long a line may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A line that starts with `{`.
    pub json: usize,
    /// Any other line.
    pub log: usize,
}

impl Default for Limits {
    /// 72 MiB for JSON (a 64 MiB text and what it takes to escape it now and then), 8 KiB for log lines.
    fn default() -> Self {
        Self { json: 72 * 1024 * 1024, log: 8 * 1024 }
    }
}

/// One line, without its end.
///
/// The bytes share the memory of what was read together with them, up to 64 KiB: copy what is kept for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line whose first byte that is not blank is `{`.
    Json(Bytes),
    /// Any other line.
    Log {
        /// Its text, which need not be UTF-8.
        text: Bytes,
        /// Whether more of it was left out.
        cut: bool,
    },
    /// A JSON line beyond the limit. None of it is kept.
    TooLong,
}

/// What a line turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Only blanks so far.
    Open,
    Json,
    Log,
}

/// Splits a stream into lines.
#[derive(Debug)]
pub struct LineReader<R> {
    reader: R,
    limits: Limits,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    kind: Kind,
    /// The rest of the current line is thrown away.
    skipping: bool,
    ended: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// A reader of this stream.
    pub fn new(reader: R, limits: Limits) -> Self {
        let buffer = BytesMut::new();
        Self { reader, limits, buffer, searched: 0, kind: Kind::Open, skipping: false, ended: false }
    }

    /// The next line, `None` at the end of the stream. A last line without an end is a line too. Cancel-safe.
    ///
    /// # Errors
    ///
    /// What reading says. The stream can be read further if the error allows it.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.ready() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(self.rest());
            }
            self.make_room();
            // Bounded although the room may be larger: what is read beyond a long line has to be moved.
            if self.reader.read_buf(&mut (&mut self.buffer).limit(KEPT)).await? == 0 {
                self.ended = true;
            }
        }
    }

    /// The next line if it has been read already. Together with [`Self::next`] it takes all lines of one read without
    /// waiting in between.
    pub fn ready(&mut self) -> Option<Line> {
        loop {
            let Some(found) = memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return self.unfinished();
            };
            let mut line = self.buffer.split_to(self.searched + found + 1);
            self.searched = 0;
            line.truncate(line.len() - 1);
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            let long = line.len() > KEPT;
            let line = self.finished(line);
            if long || self.buffer.capacity() > KEPT {
                self.renew();
            }
            return Some(line);
        }
    }

    /// What the bytes of a whole line are.
    fn finished(&mut self, mut line: BytesMut) -> Line {
        let kind = std::mem::replace(&mut self.kind, Kind::Open);
        let kind = if kind == Kind::Open { self.kind_of(&line) } else { kind };
        match kind {
            Kind::Json if line.len() > self.limits.json => Line::TooLong,
            Kind::Json => Line::Json(line.freeze()),
            Kind::Open | Kind::Log => {
                let cut = line.len() > self.limits.log;
                if cut {
                    line.truncate(character_border(&line, self.limits.log));
                }
                Line::Log { text: line.freeze(), cut }
            }
        }
    }

    /// What can be said about a line whose end was not read yet. Only called when all of the buffer belongs to it.
    fn unfinished(&mut self) -> Option<Line> {
        if self.skipping {
            self.forget();
            return None;
        }
        if self.kind == Kind::Open {
            self.kind = self.kind_of(&self.buffer);
        }
        let most = if self.kind == Kind::Json { self.limits.json } else { self.limits.log };
        // A limit's worth and then `\r\n` is no line too long: the byte that may be a `\r` is waited for.
        if self.buffer.len() <= most + 1 {
            return None;
        }
        let line = if self.kind == Kind::Json {
            Line::TooLong
        } else {
            // Copied, so that the buffer stays the reader's own.
            let text = Bytes::copy_from_slice(&self.buffer[..character_border(&self.buffer, most)]);
            Line::Log { text, cut: true }
        };
        self.skipping = true;
        self.kind = Kind::Open;
        self.forget();
        Some(line)
    }

    /// Decided within a log line's worth, however much of the line is there: blanks without end are a log line.
    fn kind_of(&self, line: &[u8]) -> Kind {
        let start = &line[..line.len().min(self.limits.log + 1)];
        match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => Kind::Open,
            Some(b'{') => Kind::Json,
            Some(_) => Kind::Log,
        }
    }

    /// The last line, if it had no end.
    fn rest(&mut self) -> Option<Line> {
        if self.skipping || self.buffer.is_empty() {
            return None;
        }
        self.searched = 0;
        let line = std::mem::take(&mut self.buffer);
        Some(self.finished(line))
    }

    /// Throws the buffer's content away, and its memory if that is much.
    fn forget(&mut self) {
        self.searched = 0;
        if self.buffer.capacity() > KEPT {
            self.buffer = BytesMut::new();
        } else {
            self.buffer.clear();
        }
    }

    /// Moves what follows a long line to a buffer of its own: it would keep all of that line's memory alive.
    fn renew(&mut self) {
        let mut buffer = BytesMut::with_capacity(CHUNK.max(self.buffer.len()));
        buffer.extend_from_slice(&self.buffer);
        self.buffer = buffer;
    }

    /// Room for one read. A full buffer doubles, so a long line is copied a bounded number of times.
    fn make_room(&mut self) {
        if self.buffer.capacity() - self.buffer.len() < CHUNK / 8 {
            self.buffer.reserve(CHUNK.max(self.buffer.len()));
        }
    }
}

/// The last border of a character at or before `at`, if this is UTF-8.
fn character_border(text: &[u8], at: usize) -> usize {
    let continues = |at: usize| text.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    (at.saturating_sub(3)..=at).rev().find(|border| !continues(*border)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    const SMALL: Limits = Limits { json: 20, log: 8 };

    fn json(text: &str) -> Line {
        Line::Json(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn log(text: &str) -> Line {
        Line::Log { text: Bytes::copy_from_slice(text.as_bytes()), cut: false }
    }

    fn cut(text: &str) -> Line {
        Line::Log { text: Bytes::copy_from_slice(text.as_bytes()), cut: true }
    }

    /// Gives out a few bytes per read.
    struct Drip<'a>(&'a [u8], usize);

    impl AsyncRead for Drip<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let (now, later) = self.0.split_at(self.1.min(self.0.len()).min(buffer.remaining()));
            buffer.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    /// All lines, which must not depend on how the bytes arrive.
    async fn split(input: &[u8], limits: Limits) -> Vec<Line> {
        let mut all: Option<Vec<Line>> = None;
        for step in [1, 2, 3, 7, 64, usize::MAX] {
            let mut reader = LineReader::new(Drip(input, step), limits);
            let mut lines = Vec::new();
            while let Some(line) = reader.next().await.unwrap() {
                lines.push(line);
            }
            assert_eq!(reader.next().await.unwrap(), None);
            let all = all.get_or_insert_with(|| lines.clone());
            assert_eq!(*all, lines, "in steps of {step}");
        }
        all.unwrap()
    }

    #[tokio::test]
    async fn lines_are_told_apart() {
        let lines = split(b"{\"a\":1}\n  {x\r\nplain\n\n[1]\n\xff{\n \t\nlast", SMALL).await;
        let odd = Line::Log { text: Bytes::from_static(b"\xff{"), cut: false };
        assert_eq!(
            lines,
            [json("{\"a\":1}"), json("  {x"), log("plain"), log(""), log("[1]"), odd, log(" \t"), log("last")]
        );
        assert_eq!(split(b"", SMALL).await, []);
        assert_eq!(split(b"{\"last\":1}", SMALL).await, [json("{\"last\":1}")]);
        assert_eq!(split(b"\n", SMALL).await, [log("")]);
    }

    #[tokio::test]
    async fn long_lines_are_cut_at_the_limit() {
        assert_eq!(split(b"12345678\r\n12345678\n", SMALL).await, [log("12345678"), log("12345678")]);
        assert_eq!(split(b"123456789\nnext\n", SMALL).await, [cut("12345678"), log("next")]);
        assert_eq!(split(b"123456789abcdefghijklmnopqrstuvwxyz", SMALL).await, [cut("12345678")]);
        let blanks = [b" ".repeat(30), b"{}\n{}\n".to_vec()].concat();
        assert_eq!(split(&blanks, SMALL).await, [cut("        "), json("{}")]);
        let exact = format!("{{{}}}", "x".repeat(18));
        let input = format!("{exact}\n{{{exact}\n{exact}\r\nend");
        assert_eq!(split(input.as_bytes(), SMALL).await, [json(&exact), Line::TooLong, json(&exact), log("end")]);
        let endless = format!("{{{}", "y".repeat(500));
        assert_eq!(split(endless.as_bytes(), SMALL).await, [Line::TooLong]);
    }

    #[tokio::test]
    async fn a_cut_falls_on_the_border_of_a_character() {
        assert_eq!(split("123456€€€€\n".as_bytes(), SMALL).await, [cut("123456")]);
        assert_eq!(split("1234😀😀\n".as_bytes(), SMALL).await, [cut("1234😀")]);
    }

    #[tokio::test]
    async fn ready_takes_what_was_read() {
        let mut reader = LineReader::new(Cursor::new("a\nb\n{}\nrest"), Limits::default());
        assert_eq!(reader.ready(), None);
        assert_eq!(reader.next().await.unwrap(), Some(log("a")));
        assert_eq!([reader.ready(), reader.ready(), reader.ready()], [Some(log("b")), Some(json("{}")), None]);
        assert_eq!(reader.next().await.unwrap(), Some(log("rest")));
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn memory_is_given_back() {
        let long = format!("{{{}}}\n", "x".repeat(40 * CHUNK));
        let input = format!("{long}short\n{long}short\n{}\nshort\n", "y".repeat(40 * CHUNK));
        let mut reader = LineReader::new(Cursor::new(input), Limits { json: 50 * CHUNK, log: 100 });
        let mut count = 0;
        while let Some(line) = reader.next().await.unwrap() {
            count += 1;
            drop(line);
            assert!(reader.buffer.capacity() <= KEPT, "{}", reader.buffer.capacity());
        }
        assert_eq!(count, 6);
    }
}
