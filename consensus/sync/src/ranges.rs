//! Which buckets are still missing and asked of nobody.

use std::collections::VecDeque;

/// Disjoint ranges of buckets, each with its first and last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Ranges(VecDeque<(u16, u16)>);

impl Ranges {
    /// All buckets.
    pub(crate) fn all() -> Self {
        Self(VecDeque::from([(0, u16::MAX)]))
    }

    /// Takes at most `width` buckets from the front.
    pub(crate) fn take(&mut self, width: u64) -> Option<(u16, u16)> {
        let (first, last) = self.0.pop_front()?;
        let end = (u64::from(first) + width.max(1) - 1).min(u64::from(last));
        let end = u16::try_from(end).expect("at most `last`");
        if end < last {
            self.0.push_front((end + 1, last));
        }
        Some((first, end))
    }

    /// Gives back what was taken and did not arrive; it is taken next.
    pub(crate) fn give_back(&mut self, first: u16, last: u16) {
        self.0.push_front((first, last));
    }

    /// Removes what is held already. What is not missing is left alone.
    pub(crate) fn remove(&mut self, first: u16, last: u16) {
        let old = std::mem::take(&mut self.0);
        for (a, b) in old {
            if b < first || a > last {
                self.0.push_back((a, b));
                continue;
            }
            if a < first {
                self.0.push_back((a, first - 1));
            }
            if b > last {
                self.0.push_back((last + 1, b));
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn fragments(&self) -> usize {
        self.0.len()
    }

    /// Number of buckets.
    pub(crate) fn len(&self) -> u64 {
        let len = |(a, b): &(u16, u16)| u64::from(*b) - u64::from(*a) + 1;
        self.0.iter().map(len).sum()
    }
}
