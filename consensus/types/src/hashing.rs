//! A hasher for tables that are keyed by digests.
//!
//! Ids of transactions and accounts are hashes, so two words of one are spread well enough for a
//! table; SipHash over all of it costs as much as the rest of the look-up. But whoever makes a
//! transaction chooses among as many ids as he cares to compute, so the words are mixed with two
//! that are drawn anew for each table: nobody outside knows which ids share a bucket.
//!
//! Such tables are looked up and never iterated: their order differs from run to run.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes [`DigestHasher`]s with the secret of one table.
#[derive(Debug, Clone)]
pub struct DigestState([u64; 2]);

impl Default for DigestState {
    fn default() -> Self {
        // The standard library's keys come from the operating system.
        let random = RandomState::new();
        Self([random.hash_one(0u64), random.hash_one(1u64)])
    }
}

impl BuildHasher for DigestState {
    type Hasher = DigestHasher;

    fn build_hasher(&self) -> DigestHasher {
        DigestHasher {
            secret: self.0,
            value: 0,
        }
    }
}

/// Folds sixteen bytes of a digest with the table's secret.
#[derive(Debug, Clone)]
pub struct DigestHasher {
    secret: [u64; 2],
    value: u64,
}

impl Hasher for DigestHasher {
    /// # Panics
    /// For fewer than sixteen bytes: this is for digests.
    fn write(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_first_chunk::<8>().expect("a digest");
        let second = rest.first_chunk::<8>().expect("a digest");
        let a = u64::from_le_bytes(*first) ^ self.secret[0];
        let b = u64::from_le_bytes(*second) ^ self.secret[1];
        let product = u128::from(a) * u128::from(b);
        self.value ^= (product as u64) ^ ((product >> 64) as u64);
    }

    /// A slice announces its length first; digests all have the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use falconet_crypto::hash::hash;

    use super::*;
    use crate::Digest;

    #[test]
    fn one_table_hashes_alike_and_another_differently() {
        let digest = hash("t", &[b"one"]);
        let (a, b) = (DigestState::default(), DigestState::default());
        assert_eq!(a.hash_one(digest), a.hash_one(digest));
        assert_ne!(a.hash_one(digest), b.hash_one(digest));
    }

    #[test]
    fn digests_spread_over_the_low_and_the_high_bits() {
        let state = DigestState::default();
        let count = 4_096u32;
        let hashes: Vec<u64> = (0..count)
            .map(|i| state.hash_one(hash("t", &[&i.to_le_bytes()])))
            .collect();
        for shift in [0, 52] {
            let buckets: HashSet<u64> = hashes.iter().map(|h| (h >> shift) & 0xfff).collect();
            // Balls in as many bins: 63 % of the bins are hit.
            let share = buckets.len() as f64 / f64::from(count);
            assert!((0.58..0.68).contains(&share), "{share}");
        }
    }

    #[test]
    fn digests_that_share_a_word_still_differ() {
        let state = DigestState::default();
        let digest = |i: u64| {
            let mut bytes = [7; 32];
            bytes[..8].copy_from_slice(&i.to_le_bytes());
            Digest(bytes)
        };
        let hashes: HashSet<u64> = (0..1_000).map(|i| state.hash_one(digest(i))).collect();
        assert_eq!(hashes.len(), 1_000);
    }
}
