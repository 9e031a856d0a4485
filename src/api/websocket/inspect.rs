//! Looks at the bytes of a connection before they become messages: what never can ends the connection here.
//!
//! Owns the rules of RFC 6455 for the head of a frame, the limit of a message, and the limit of all messages that are on
//! their way at once. The library behind it holds a frame
//! until its last byte before it looks at the length, so without this a peer could fill the memory with one frame; and
//! it tells some mistakes too coarsely to answer them with the right close code.

use actix_web::error::PayloadError;
use actix_ws::CloseCode;
use bytes::Bytes;
use futures_util::Stream;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::time::Instant;

/// What was seen of a connection's bytes so far. Shared with whoever reads its messages.
#[derive(Clone)]
pub struct Seen(Rc<Inner>);

struct Inner {
    wrong: Cell<Option<CloseCode>>,
    last: Cell<Instant>,
}

impl Seen {
    pub fn new() -> Self {
        Self(Rc::new(Inner { wrong: Cell::new(None), last: Cell::new(Instant::now()) }))
    }

    /// What the connection is to be closed with, once a frame was wrong. The messages end before that frame.
    pub fn wrong(&self) -> Option<CloseCode> {
        self.0.wrong.get()
    }

    /// The peer's silence begins anew.
    pub fn forgive(&self) {
        self.0.last.set(Instant::now());
    }

    /// When the peer last sent anything: a message that takes long to arrive is a sign of life too.
    pub fn last(&self) -> Instant {
        self.0.last.get()
    }
}

/// The bytes of a connection up to the first frame that is wrong.
pub struct Inspected<S> {
    bytes: S,
    frames: Frames,
    seen: Seen,
}

impl<S> Inspected<S> {
    /// Lets messages of at most `limit` bytes pass, as long as there is room for them.
    pub fn new(bytes: S, limit: usize, room: Room, seen: Seen) -> Self {
        Self { bytes, frames: Frames::new(limit as u64, room), seen }
    }
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Stream for Inspected<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.seen.wrong().is_some() {
            return Poll::Ready(None);
        }
        let Some(mut chunk) = ready!(Pin::new(&mut this.bytes).poll_next(cx)?) else { return Poll::Ready(None) };
        this.seen.0.last.set(Instant::now());
        if let Err((at, code)) = this.frames.pass(&chunk) {
            this.seen.0.wrong.set(Some(code));
            chunk.truncate(at);
            return Poll::Ready((at > 0).then_some(Ok(chunk)));
        }
        Poll::Ready(Some(Ok(chunk)))
    }
}

/// How many bytes of unfinished messages all connections together may hold. Clones share it.
#[derive(Debug, Clone)]
pub struct Room {
    most: u64,
    taken: Arc<AtomicU64>,
}

impl Room {
    /// Room for this many bytes.
    pub fn new(most: u64) -> Self {
        Self { most, taken: Arc::default() }
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.taken.fetch_add(bytes, Ordering::Relaxed);
        let fits = taken.saturating_add(bytes) <= self.most;
        if !fits {
            self.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Where in the stream of frames we are.
struct Frames {
    limit: u64,
    /// The head of the frame that begins, as far as it came, without the mask.
    head: [u8; 10],
    have: usize,
    /// Bytes of the mask and the payload that are still to come.
    left: u64,
    /// Bytes of the message that its fragments have so far.
    message: u64,
    in_message: bool,
    room: Room,
    /// Of the room, what this connection's message has.
    taken: u64,
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.room.give_back(self.taken);
    }
}

impl Frames {
    fn new(limit: u64, room: Room) -> Self {
        Self { limit, head: [0; 10], have: 0, left: 0, message: 0, in_message: false, room, taken: 0 }
    }

    /// Goes over the next bytes. On a wrong frame: where it begins in them (0 if it began earlier), and the close code.
    fn pass(&mut self, chunk: &[u8]) -> Result<(), (usize, CloseCode)> {
        let mut at = 0;
        let mut began = 0;
        while at < chunk.len() {
            if self.left > 0 {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(chunk.len() - at);
                self.left -= step as u64;
                at += step;
                if self.left == 0 && !self.in_message && self.taken > 0 {
                    // The message is whole: from here on it is its reader's.
                    self.room.give_back(std::mem::take(&mut self.taken));
                }
                continue;
            }
            if self.have == 0 {
                began = at;
            }
            self.head[self.have] = chunk[at];
            self.have += 1;
            at += 1;
            if let Some(length) = self.length().map_err(|code| (began, code))? {
                self.count(length).map_err(|code| (began, code))?;
                self.have = 0;
                self.left = length + 4;
            }
        }
        Ok(())
    }

    /// The payload's length, once the head is there.
    fn length(&self) -> Result<Option<u64>, CloseCode> {
        let (opcode, is_last) = (self.head[0] & 0x0f, self.head[0] & 0x80 != 0);
        let is_control = opcode >= 8;
        let in_order = match opcode {
            0 => self.in_message,
            1 | 2 => !self.in_message,
            8..=10 => is_last,
            _ => false,
        };
        if !in_order || self.head[0] & 0x70 != 0 {
            return Err(CloseCode::Protocol);
        }
        if self.have < 2 {
            return Ok(None);
        }
        let (is_masked, short) = (self.head[1] & 0x80 != 0, self.head[1] & 0x7f);
        if !is_masked || (is_control && short > 125) {
            return Err(CloseCode::Protocol);
        }
        let long = || self.head[2..self.have].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
        match short {
            126 if self.have == 4 => Ok(Some(long())),
            127 if self.have == 10 => {
                let length = long();
                if length >> 63 == 0 { Ok(Some(length)) } else { Err(CloseCode::Protocol) }
            }
            126 | 127 => Ok(None),
            short => Ok(Some(u64::from(short))),
        }
    }

    /// Adds a frame to its message; controls belong to none.
    fn count(&mut self, length: u64) -> Result<(), CloseCode> {
        if self.head[0] & 0x08 != 0 {
            return Ok(());
        }
        self.message = self.message.saturating_add(length);
        if self.message > self.limit {
            return Err(CloseCode::Size);
        }
        if !self.room.take(length) {
            return Err(CloseCode::Size);
        }
        self.taken += length;
        self.in_message = self.head[0] & 0x80 == 0;
        if !self.in_message {
            self.message = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame of zeros.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            126..0x1_0000 => {
                bytes.push(0xfe);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0xff);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.resize(bytes.len() + 4 + length, 0);
        bytes
    }

    /// What comes of bytes that arrive in pieces of this size: bytes passed before the wrong frame, and its code.
    fn pass(bytes: &[u8], piece: usize) -> Result<(), (usize, CloseCode)> {
        let mut frames = Frames::new(70_000, Room::new(u64::MAX));
        let mut passed = 0;
        for chunk in bytes.chunks(piece) {
            frames.pass(chunk).map_err(|(at, code)| (passed + at, code))?;
            passed += chunk.len();
        }
        Ok(())
    }

    #[test]
    fn right_frames_pass_however_they_are_cut() {
        let bytes: Vec<u8> = [
            frame(0x81, 0),
            frame(0x82, 125),
            frame(0x81, 126),
            frame(0x81, 70_000),
            frame(0x89, 125),
            frame(0x01, 35_000),
            frame(0x8a, 0),
            frame(0x00, 0),
            frame(0x80, 35_000),
            frame(0x88, 2),
        ]
        .concat();
        for piece in [1, 2, 3, 7, 100, 4096, bytes.len()] {
            assert_eq!(pass(&bytes, piece), Ok(()), "{piece}");
        }
    }

    #[test]
    fn all_messages_together_have_a_limit() {
        let room = Room::new(1000);
        let mut connections = [(); 4].map(|()| Frames::new(70_000, room.clone()));
        let whole = frame(0x81, 600);
        assert_eq!(connections[0].pass(&whole[..300]), Ok(()));
        assert_eq!(connections[1].pass(&frame(0x01, 300)), Ok(()));
        assert_eq!(connections[2].pass(&frame(0x81, 101)), Err((0, CloseCode::Size)));
        assert_eq!(connections[3].pass(&frame(0x89, 101)), Ok(()), "controls take none");
        assert_eq!(connections[0].pass(&whole[300..]), Ok(()));
        assert_eq!(room.taken.load(Ordering::Relaxed), 300);
        drop(connections);
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_wrong_frame_is_cut_off_where_it_begins() {
        let good = frame(0x81, 300);
        let huge = [&[0x81, 0xff][..], &(1u64 << 40).to_be_bytes()].concat();
        let wrong = [
            (frame(0xc1, 0), CloseCode::Protocol),
            (frame(0x83, 0), CloseCode::Protocol),
            (frame(0x09, 0), CloseCode::Protocol),
            (frame(0x80, 0), CloseCode::Protocol),
            (frame(0x89, 126), CloseCode::Protocol),
            (vec![0x81, 0x05], CloseCode::Protocol),
            (huge, CloseCode::Size),
            (frame(0x81, 70_001), CloseCode::Size),
        ];
        for (wrong, code) in wrong {
            let bytes = [&good[..], &wrong].concat();
            assert_eq!(pass(&bytes, bytes.len()), Err((good.len(), code)), "{wrong:02x?}");
            let (at, found) = pass(&bytes, 1).unwrap_err();
            assert!(found == code && (good.len()..good.len() + 10).contains(&at), "{at}");
        }
        let together = [frame(0x01, 40_000), frame(0x00, 30_000), frame(0x80, 1)].concat();
        assert_eq!(pass(&together, 1 << 20), Err((together.len() - 7, CloseCode::Size)));
    }
}
