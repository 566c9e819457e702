//! Signature verdicts of batches, from the verify stage to execution.
//!
//! A verdict that is missing costs time, never correctness: execution checks such signatures
//! itself. So the table may forget, and it is bounded.

use std::collections::{HashMap, VecDeque};

use falconet_ledger::Verdicts;
use falconet_types::Digest;
use falconet_types::hashing::DigestState;
use parking_lot::Mutex;

/// Batches whose verdicts are remembered.
pub const VERDICT_BATCHES_MAX: usize = 8192;

/// Verdicts by batch hash; the oldest are forgotten first.
#[derive(Default)]
pub struct VerdictTable(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// `None` once they were taken.
    by_hash: HashMap<Digest, Option<Verdicts>, DigestState>,
    order: VecDeque<Digest>,
}

impl VerdictTable {
    /// Remembers the verdicts of a batch, one a transaction.
    pub fn put(&self, batch: Digest, verdicts: Verdicts) {
        let mut inner = self.0.lock();
        if inner.by_hash.insert(batch, Some(verdicts)).is_none() {
            inner.order.push_back(batch);
            if inner.order.len() > VERDICT_BATCHES_MAX
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.by_hash.remove(&oldest);
            }
        }
    }

    /// The verdicts of a batch, which are asked for once: its block executes once.
    #[must_use]
    pub fn take(&self, batch: &Digest) -> Option<Verdicts> {
        self.0.lock().by_hash.get_mut(batch)?.take()
    }

    /// Whether a batch was verified lately, executed meanwhile or not.
    #[must_use]
    pub fn knows(&self, batch: &Digest) -> bool {
        self.0.lock().by_hash.contains_key(batch)
    }
}

#[cfg(test)]
mod tests {
    use falconet_ledger::Verdict;

    use super::*;

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let table = VerdictTable::default();
        let name = |i: usize| falconet_crypto::hash::hash("t", &[&i.to_le_bytes()]);
        for i in 0..=VERDICT_BATCHES_MAX {
            table.put(name(i), Verdicts::new(vec![Verdict::Valid]));
        }
        assert!(table.take(&name(0)).is_none());
        assert!(!table.knows(&name(0)));
        assert!(table.take(&name(1)).is_some());
        assert!(table.take(&name(1)).is_none(), "asked for once");
        assert!(table.knows(&name(1)), "and need not be verified again");
        assert!(table.take(&name(VERDICT_BATCHES_MAX)).is_some());
        let inner = table.0.lock();
        assert_eq!(
            (inner.by_hash.len(), inner.order.len()),
            (VERDICT_BATCHES_MAX, VERDICT_BATCHES_MAX)
        );
    }
}
