//! The stretches of a text that matches cover.

/// Stretches that neither overlap nor touch, in order.
#[derive(Default)]
pub(super) struct Regions(Vec<(usize, usize)>);

impl Regions {
    /// Adds the match from `start` up to `end`. Matches come in the order of their ends.
    pub(super) fn add(&mut self, start: usize, end: usize) {
        let mut merged = (start, end);
        while let Some(last) = self.0.pop_if(|last| last.1 >= merged.0) {
            merged = (merged.0.min(last.0), merged.1.max(last.1));
        }
        self.0.push(merged);
    }

    /// Whether nothing was found.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The stretches in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.iter().copied()
    }

    /// Takes out the leading stretches that begin at `limit` or before.
    pub(super) fn take_up_to(&mut self, limit: usize) -> impl Iterator<Item = (usize, usize)> {
        let count = self.0.partition_point(|region| region.0 <= limit);
        self.0.drain(..count)
    }
}
