//! An Aho-Corasick automaton that knows how much of the text is undecided.
//!
//! Owns the states and the steps between them. Ours and not the `aho-corasick` crate's for two reasons: a redactor is
//! built for every request, and this one takes a fraction of the time to build; and a stream needs to know how much of
//! its text may still become a match, which the crate does not tell.

use std::ops::Range;

/// States and transitions for a set of patterns.
pub(super) struct Automaton {
    /// Breadth first, so that the children of a node lie side by side.
    nodes: Vec<Node>,
    /// By node: the byte that leads to it. Sorted among the children of one node.
    labels: Vec<u8>,
    /// Where each byte leads from the root.
    root: Box<[State; 256]>,
    /// The states where a pattern ends, in order, with the length of the longest one.
    matches: Vec<(State, u32)>,
}

/// A state: the longest end of the text that is the beginning of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State(u32);

impl State {
    /// Where a text begins.
    pub(super) const ROOT: Self = Self(0);

    fn number(number: usize) -> Self {
        // A state takes more than 16 bytes: memory ends before the numbers do.
        Self(u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Kept small: building is as fast as memory is touched for the first time.
#[derive(Clone, Copy)]
struct Node {
    /// The state of the longest shorter end of the text.
    shorter: State,
    /// The first child.
    first: State,
    /// Length of the longest end of the text that is a proper beginning of a pattern.
    open: u32,
    /// The number of children. Text knows fewer than 256 bytes.
    children: u8,
    /// The label of the first child.
    label: u8,
    /// Whether a pattern ends here.
    matches: bool,
}

/// What the building of an [`Automaton`] needs.
struct Builder<'p> {
    patterns: &'p [String],
    /// By node: the patterns that begin with it.
    spans: Vec<(u32, u32)>,
    new: Automaton,
}

impl Automaton {
    /// Builds the automaton of patterns that are sorted, all different, and not empty.
    pub(super) fn new(patterns: &[String]) -> Self {
        let most = patterns.iter().map(String::len).sum::<usize>() + 1;
        let new = Self {
            nodes: Vec::with_capacity(most),
            labels: Vec::with_capacity(most),
            root: Box::new([State::ROOT; 256]),
            matches: Vec::with_capacity(patterns.len()),
        };
        let mut builder = Builder { patterns, spans: Vec::with_capacity(most), new };
        builder.add(0, State::ROOT, 0..patterns.len());
        // All nodes of one depth lie side by side too.
        let (mut depth, mut level) = (0, 0..1);
        while !level.is_empty() {
            let next = level.end;
            for node in level {
                builder.expand(node, depth);
            }
            level = next..builder.new.nodes.len();
            depth += 1;
        }
        builder.new
    }

    /// The state after one more byte.
    pub(super) fn step(&self, from: State, byte: u8) -> State {
        let mut state = from;
        while state != State::ROOT {
            let node = &self.nodes[state.index()];
            if node.children > 0 && node.label == byte {
                return node.first;
            }
            if node.children > 1 {
                let first = node.first.index();
                if let Ok(nth) = self.labels[first..first + usize::from(node.children)].binary_search(&byte) {
                    return State::number(first + nth);
                }
            }
            state = node.shorter;
        }
        self.root[usize::from(byte)]
    }

    /// How many of the last bytes of the text may still become part of a match that is not complete.
    pub(super) fn open(&self, state: State) -> usize {
        self.nodes[state.index()].open as usize
    }

    /// Length of the longest match that ends here.
    pub(super) fn longest(&self, state: State) -> Option<usize> {
        if !self.nodes[state.index()].matches {
            return None;
        }
        let at = self.matches.binary_search_by_key(&state, |(state, _)| *state).ok()?;
        Some(self.matches[at].1 as usize)
    }
}

impl Builder<'_> {
    /// Adds a node without children.
    fn add(&mut self, label: u8, shorter: State, span: Range<usize>) {
        self.new.nodes.push(Node { shorter, first: State::ROOT, open: 0, children: 0, label: 0, matches: false });
        self.new.labels.push(label);
        self.spans.push((State::number(span.start).0, State::number(span.end).0));
    }

    /// Completes a node of this depth and adds its children. The nodes before it, all less deep ones among them, are
    /// complete.
    fn expand(&mut self, at: usize, depth: usize) {
        let (start, end) = self.spans[at];
        let (mut start, end) = (start as usize, end as usize);
        let shorter = self.new.nodes[at].shorter;
        let length = State::number(depth).0;
        let state = State::number(at);
        // Where a pattern ends here, it is the first of those that begin with it.
        let longest = if self.patterns[start].len() == depth {
            start += 1;
            Some(length)
        } else {
            self.new.longest(shorter).and_then(|longest| u32::try_from(longest).ok())
        };
        if let Some(longest) = longest {
            self.new.matches.push((state, longest));
        }
        let first = self.new.nodes.len();
        while start < end {
            let byte = self.patterns[start].as_bytes()[depth];
            let same = self.patterns[start..end].iter().take_while(|other| other.as_bytes()[depth] == byte).count();
            if at == 0 {
                self.new.root[usize::from(byte)] = State::number(self.new.nodes.len());
                self.add(byte, State::ROOT, start..start + same);
            } else {
                self.add(byte, self.new.step(shorter, byte), start..start + same);
            }
            start += same;
        }
        let children = self.new.nodes.len() - first;
        self.new.nodes[at] = Node {
            shorter,
            first: State::number(first),
            open: if children > 0 { length } else { self.new.nodes[shorter.index()].open },
            children: u8::try_from(children).unwrap_or(u8::MAX),
            label: self.new.labels.get(first).copied().unwrap_or(0),
            matches: longest.is_some(),
        };
    }
}
