//! One counter a cause, summed over the cores.

use std::ops::Index;

use crate::{CAUSES, Cause, Fate};

/// Packets by cause since the filter was attached. The segments of a packet that the kernel had
/// not cut yet count each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters([u64; CAUSES]);

impl Counters {
    pub(crate) fn new(counts: [u64; CAUSES]) -> Self {
        Self(counts)
    }

    /// Causes with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        Cause::ALL.iter().map(|cause| (*cause, self[*cause]))
    }

    /// Packets of one fate.
    #[must_use]
    pub fn total(&self, fate: Fate) -> u64 {
        self.iter()
            .filter(|(cause, _)| cause.fate() == fate)
            .map(|(_, count)| count)
            .sum()
    }

    /// What was added since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|i| {
            self.0[i].saturating_sub(earlier.0[i])
        }))
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self([0; CAUSES])
    }
}

impl Index<Cause> for Counters {
    type Output = u64;

    fn index(&self, cause: Cause) -> &u64 {
        &self.0[cause.index()]
    }
}
