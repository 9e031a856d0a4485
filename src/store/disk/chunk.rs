//! The form of one row of the log: what one batch of a session holds, piece behind piece.
//!
//! Owns the bytes around the records; what is in a record is `wire::stored`'s. Entries of a row have numbers without
//! holes, so only the first one's is kept, beside the row.

use crate::model::TurnId;
use smallvec::SmallVec;

/// Room for the length of a record: seven bits a byte, 32 GiB.
const LENGTH: usize = 5;
/// A longer record stays behind all of that room; a shorter one is moved to where its length ends.
const LONGEST_MOVED: usize = 4096;
/// What is kept of the room for a row.
const KEPT: usize = 256 << 10;

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Accepted,
    Said,
    Ended,
    /// No entry and without a number: a caller has the whole answer of this turn.
    Delivered,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Accepted, Self::Said, Self::Ended, Self::Delivered];
}

/// One piece of a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) kind: Kind,
    pub(super) at_ms: u64,
    pub(super) turn: &'a str,
    pub(super) record: &'a [u8],
}

/// Puts pieces together.
#[derive(Debug, Default)]
pub(super) struct ChunkWriter {
    bytes: Vec<u8>,
    /// The turn of the piece before: most pieces of a row belong to one turn, which is named once.
    turn: Option<TurnId>,
}

impl ChunkWriter {
    /// Adds a piece. `record` writes what is in it behind what is there.
    pub(super) fn push(&mut self, kind: Kind, at_ms: u64, turn: &TurnId, record: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.push(kind as u8);
        number(&mut self.bytes, at_ms);
        if self.turn.as_ref() == Some(turn) {
            number(&mut self.bytes, 0);
        } else {
            number(&mut self.bytes, turn.as_str().len() as u64);
            self.bytes.extend_from_slice(turn.as_str().as_bytes());
            self.turn = Some(turn.clone());
        }
        self.with_length(record);
    }

    /// Adds what `write` writes, with its length before it, which turns out when it is there.
    fn with_length(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH]);
        write(&mut self.bytes);
        let length = self.bytes.len() - at - LENGTH;
        if length > LONGEST_MOVED {
            for (n, byte) in self.bytes[at..at + LENGTH].iter_mut().enumerate() {
                let is_last = n + 1 == LENGTH;
                *byte = (length >> (7 * n)).to_le_bytes()[0] & 0x7f | if is_last { 0 } else { 0x80 };
            }
            return;
        }
        let mut short = SmallVec::<[u8; LENGTH]>::new();
        number(&mut short, length as u64);
        let start = at + short.len();
        self.bytes[at..start].copy_from_slice(&short);
        self.bytes.copy_within(at + LENGTH.., start);
        self.bytes.truncate(start + length);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins the next row in the same room.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        // One large row must not be paid for ever after.
        self.bytes.shrink_to(KEPT);
        self.turn = None;
    }
}

/// Takes pieces apart again, to the first one that is none.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    rest: &'a [u8],
    turn: &'a str,
}

impl<'a> Chunk<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, turn: "" }
    }

    fn piece(&mut self) -> Option<Piece<'a>> {
        let (kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        let kind = *Kind::ALL.get(usize::from(*kind))?;
        let at_ms = read_number(&mut self.rest)?;
        let turn = take(&mut self.rest)?;
        if !turn.is_empty() {
            self.turn = std::str::from_utf8(turn).ok()?;
        }
        let record = take(&mut self.rest)?;
        Some(Piece { kind, at_ms, turn: self.turn, record })
    }
}

impl<'a> Iterator for Chunk<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.piece();
        if piece.is_none() {
            self.rest = &[];
        }
        piece
    }
}

/// Seven bits a byte, the lowest first.
fn number(bytes: &mut impl Extend<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.extend([number.to_le_bytes()[0] | 0x80]);
        number >>= 7;
    }
    bytes.extend([number.to_le_bytes()[0]]);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(read_number(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Sample = (usize, u64, String, Vec<u8>);

    fn write(pieces: &[Sample]) -> ChunkWriter {
        let mut chunk = ChunkWriter::default();
        for (kind, at_ms, turn, record) in pieces {
            chunk
                .push(Kind::ALL[*kind], *at_ms, &TurnId::from_drawn(turn.clone()), |out| out.extend_from_slice(record));
        }
        chunk
    }

    /// Short ones, and such that are not moved.
    fn records() -> impl Strategy<Value = Vec<u8>> {
        let long = (LONGEST_MOVED - 1..LONGEST_MOVED + 3, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
        prop_oneof![9 => any::<Vec<u8>>(), 1 => long]
    }

    proptest! {
        #[test]
        fn pieces_come_back_as_they_were(
            pieces in prop::collection::vec((0..4_usize, any::<u64>(), "[a-c]{1,3}", records()), 0..9)
        ) {
            let chunk = write(&pieces);
            let read: Vec<Sample> = Chunk::new(chunk.bytes())
                .map(|piece| (piece.kind as usize, piece.at_ms, piece.turn.to_owned(), piece.record.to_vec()))
                .collect();
            prop_assert_eq!(&read, &pieces);
            // Cut anywhere, what is whole is read and nothing else.
            for end in 0..chunk.bytes().len() {
                let whole = Chunk::new(&chunk.bytes()[..end]).count();
                prop_assert!(whole < pieces.len());
            }
        }

        #[test]
        fn any_bytes_come_to_an_end(bytes: Vec<u8>) {
            prop_assert!(Chunk::new(&bytes).count() <= bytes.len());
        }
    }
}
