//! Finds every occurrence of every pattern in one pass over the text: an Aho-Corasick automaton behind a skip filter.
//!
//! Owns the searching and nothing else: which patterns there are is `forms`' business, what becomes of a match is
//! `Redactor`'s and `Stream`'s.
//!
//! The automaton alone is linear but looks at every byte. Text rarely holds a secret, so a filter goes before it, after
//! the idea of Wu and Manber: it looks at the last bytes of a window as long as the shortest pattern, and where no
//! pattern's beginning holds those bytes at a suitable place, the window moves on by up to its own length. The filter
//! never passes over a place where a pattern may begin, so the result is that of the automaton.

use super::automaton::{Automaton, State};
use super::regions::Regions;

/// Searches for a fixed set of patterns.
pub(super) struct Matcher {
    automaton: Automaton,
    filter: Filter,
}

impl Matcher {
    /// Prepares a search for patterns that are sorted, all different, and not empty. `None` when there are none.
    pub(super) fn new(patterns: &[String]) -> Option<Self> {
        let shortest = patterns.iter().map(String::len).min()?;
        Some(Self { automaton: Automaton::new(patterns), filter: Filter::new(patterns, shortest) })
    }

    /// A text shorter than this holds no match.
    pub(super) fn shortest(&self) -> usize {
        self.filter.window
    }

    /// How many of the last bytes of the text may still become part of a match.
    pub(super) fn open(&self, state: State) -> usize {
        self.automaton.open(state)
    }

    /// Reads on in a text: `piece` begins at its byte number `base`. Every match that ends in the piece goes to `found`.
    ///
    /// Work is linear in the text: the automaton runs over a whole window before the filter takes over again, and reads
    /// again at most half a window of what the filter has seen.
    pub(super) fn scan(&self, state: State, piece: &[u8], base: usize, found: &mut Regions) -> State {
        let window = self.filter.window;
        let (mut state, mut at) = (state, 0);
        // How far the automaton runs before the filter may take over. The filter needs all that is open to lie in this
        // piece, so for the first time that is decided byte by byte.
        let mut least = 1;
        loop {
            let open = self.automaton.open(state);
            if open <= at && open <= window / 2 {
                state = State::ROOT;
                at = self.filter.next(piece, at - open);
                least = window;
            }
            let until = piece.len().min(at + least);
            for &byte in &piece[at..until] {
                state = self.automaton.step(state, byte);
                at += 1;
                if let Some(longest) = self.automaton.longest(state) {
                    found.add(base + at - longest, base + at);
                }
            }
            if at == piece.len() {
                return state;
            }
        }
    }
}

/// Finds the places where a pattern may begin.
struct Filter {
    /// Length of the window: that of the shortest pattern, but at most [`WIDEST`].
    window: usize,
    /// Length of a block.
    block: usize,
    /// By hash of a block: how far the window may move when it ends with that block; at 0 a pattern may begin. With
    /// [`BEGINS`] set where the block is the beginning of a pattern.
    table: Box<[u8]>,
    /// What a hash is shifted right by to become an index.
    hash_shift: u32,
}

/// A longer window skips more but fills the table.
const WIDEST: usize = 32;

/// The shortest window that is moved by more than one byte.
const WORTHWHILE: usize = 8;

/// Set in the table for a block that a pattern begins with.
const BEGINS: u8 = 0x80;

impl Filter {
    fn new(patterns: &[String], shortest: usize) -> Self {
        let block = shortest.min(4);
        // Short moves cost more than they save.
        let window = if shortest < WORTHWHILE { block } else { shortest.min(WIDEST) };
        let entries = patterns.len() * (window - block + 1);
        let bits = (entries * 64).max(1).ilog2().clamp(9, 15);
        let far = u8::try_from(window - block + 1).unwrap_or(1);
        let table = vec![far; 1 << bits].into_boxed_slice();
        let mut filter = Self { window, block, table, hash_shift: 32 - bits };
        for pattern in patterns {
            let start = &pattern.as_bytes()[..window];
            for (block, shift) in start.windows(block).rev().zip(0..) {
                let entry = &mut filter.table[filter.index(block)];
                *entry = shift.min(*entry & !BEGINS) | (*entry & BEGINS);
            }
            filter.table[filter.index(&start[..block])] |= BEGINS;
        }
        filter
    }

    /// The first place from `start` on where a pattern may begin, be it cut off by the end of the text.
    fn next(&self, text: &[u8], start: usize) -> usize {
        match self.block {
            1 => self.next_of::<1>(text, start),
            2 => self.next_of::<2>(text, start),
            3 => self.next_of::<3>(text, start),
            _ => self.next_of::<4>(text, start),
        }
    }

    fn next_of<const BLOCK: usize>(&self, text: &[u8], mut start: usize) -> usize {
        let lead = self.window - BLOCK;
        while lead > 0
            && let Some(block) = text.get(start + lead..).and_then(<[u8]>::first_chunk::<BLOCK>)
        {
            let shift = self.table[self.index(block)] & !BEGINS;
            if shift > 0 {
                start += usize::from(shift);
            } else if self.begins::<BLOCK>(text, start) {
                return start;
            } else {
                start += 1;
            }
        }
        // No window is left, or it is no longer than a block.
        while !self.begins::<BLOCK>(text, start) {
            start += 1;
        }
        start
    }

    /// Whether a pattern may begin here, as far as a block tells. Fewer bytes tell nothing.
    fn begins<const BLOCK: usize>(&self, text: &[u8], start: usize) -> bool {
        let block = text.get(start..).and_then(<[u8]>::first_chunk::<BLOCK>);
        block.is_none_or(|block| self.table[self.index(block)] & BEGINS != 0)
    }

    fn index(&self, block: &[u8]) -> usize {
        let mut four = [0; 4];
        four[..block.len()].copy_from_slice(block);
        // Fibonacci hashing: the upper bits of the product depend on all bits of the block.
        (u32::from_le_bytes(four).wrapping_mul(0x9E37_79B1) >> self.hash_shift) as usize
    }
}
