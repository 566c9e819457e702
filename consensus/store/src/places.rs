//! Where transactions are: gathered in memory, then written as sorted runs.
//!
//! A row for each transaction would be the largest part of what the database does: ids are hashes,
//! so neighbours in time are nowhere near each other in a tree, and each step would write nearly
//! every page of it again. So a step writes its transactions as one *run*, sorted by id and cut
//! into rows of [`CHUNK_PLACES`], and touches no other page. A lookup asks run after run, the newest
//! first. A run that is not longer than the next one of the same table is merged into it, so a table
//! has few short runs, however little happens between two steps.

use std::cmp::Ordering;

use falconet_types::TxId;
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::wire::{Reader, Wire, WireError};

use crate::generation::prefix;
use crate::state::TxLocation;

/// Places in a row: as many as leave it below a page of 4 KiB.
pub(crate) const CHUNK_PLACES: usize = 64;
/// Longest run that merging makes.
pub(crate) const MERGED_PLACES_MAX: usize = 1 << 17;
/// Bytes of a place.
const PLACE_LEN: usize = 32 + TxLocation::LEN;
/// Parts in which places gather, by the first bits of their ids. Whoever makes transactions may
/// choose these bits by trying; then a lookup in memory looks through more of them, at most all of
/// two generations.
const PARTS: usize = 1 << PART_BITS;
const PART_BITS: u32 = 10;

/// A transaction and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub id: TxId,
    pub location: TxLocation,
}

impl Place {
    fn order(&self, other: &Self) -> Ordering {
        let by_prefix = prefix(&self.id).cmp(&prefix(&other.id));
        by_prefix.then_with(|| self.id.cmp(&other.id))
    }

    /// Of two places of one transaction: a replay must not hide where it was executed.
    fn or_newer(self, newer: Self) -> Self {
        let executed = |place: &Self| place.location.outcome == Outcome::Executed;
        if executed(&self) && !executed(&newer) {
            self
        } else {
            newer
        }
    }
}

/// Places of the blocks of one generation.
#[derive(Debug)]
pub(crate) struct Places {
    /// In the order of execution.
    parts: Vec<Vec<Place>>,
    len: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            parts: vec![Vec::new(); PARTS],
            len: 0,
        }
    }
}

impl Places {
    pub(crate) fn add(&mut self, receipt: &Receipt) {
        self.parts[part(&receipt.tx_id)].push(Place {
            id: receipt.tx_id,
            location: TxLocation::of(receipt),
        });
        self.len += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn clear(&mut self) {
        self.parts.iter_mut().for_each(Vec::clear);
        self.len = 0;
    }

    /// Where a transaction is: where it was executed, else where it was refused last.
    pub(crate) fn get(&self, id: &TxId) -> Option<TxLocation> {
        let same = self.parts[part(id)].iter().filter(|place| place.id == *id);
        let place = same.copied().reduce(Place::or_newer)?;
        Some(place.location)
    }

    /// Every transaction once, in the order of ids, whose location `includes`.
    pub(crate) fn sorted(&self, includes: impl Fn(&TxLocation) -> bool) -> Vec<Place> {
        let mut sorted = Vec::with_capacity(self.len);
        for places in &self.parts {
            let start = sorted.len();
            let included = places.iter().filter(|place| includes(&place.location));
            sorted.extend(included);
            // Keeps the order of execution between places of one transaction.
            sorted[start..].sort_by(Place::order);
        }
        join(&mut sorted);
        sorted
    }
}

/// Leaves one of neighbours of the same transaction; the newer one comes second.
fn join(sorted: &mut Vec<Place>) {
    sorted.dedup_by(|newer, older| {
        let same = newer.id == older.id;
        if same {
            *older = older.or_newer(*newer);
        }
        same
    });
}

/// One run out of two.
pub(crate) fn merge(mut older: Vec<Place>, newer: &[Place]) -> Vec<Place> {
    older.extend_from_slice(newer);
    // Stable, and quick with two sorted parts.
    older.sort_by(Place::order);
    join(&mut older);
    older
}

fn part(id: &TxId) -> usize {
    (prefix(id) >> (u64::BITS - PART_BITS)) as usize
}

/// Writes the places of a row over `out`.
pub(crate) fn encode(places: &[Place], out: &mut Vec<u8>) {
    out.clear();
    for place in places {
        out.extend_from_slice(place.id.as_ref());
        place.location.encode(out);
    }
}

/// Reads the places of a row.
pub(crate) fn decode(row: &[u8]) -> Result<Vec<Place>, WireError> {
    let mut places = Vec::with_capacity(row.len() / PLACE_LEN);
    let mut r = Reader::new(row);
    while r.remaining() > 0 {
        places.push(Place {
            id: r.digest()?,
            location: TxLocation::decode(&mut r)?,
        });
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use falconet_types::{Height, Seq, ValidatorIndex};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    use super::*;

    fn receipt(id: u8, height: u64, executed: bool) -> Receipt {
        Receipt {
            tx_id: falconet_crypto::hash::hash("test", &[&[id]]),
            height: Height(height),
            lane: ValidatorIndex(1),
            seq: Seq(height),
            index: 0,
            outcome: match executed {
                true => Outcome::Executed,
                false => Outcome::Replayed,
            },
        }
    }

    #[test]
    fn a_row_fits_into_a_page_and_comes_back() {
        let places: Vec<Place> = (0..CHUNK_PLACES)
            .map(|i| {
                let receipt = receipt(i as u8, i as u64, i % 3 == 0);
                let location = TxLocation::of(&receipt);
                let id = receipt.tx_id;
                Place { id, location }
            })
            .collect();
        let mut row = vec![9];
        encode(&places, &mut row);
        assert!(row.len() + 100 < 4096);
        assert_eq!(decode(&row), Ok(places));
        assert!(decode(&row[..row.len() - 1]).is_err());
    }

    proptest! {
        /// The reference: a map. Two runs merged are one run over all blocks.
        #[test]
        fn each_transaction_is_where_it_was_executed_or_refused_last(
            steps in proptest::collection::vec((0u8..20, any::<bool>()), 0..60),
            cut in 0usize..60,
        ) {
            let mut expected: BTreeMap<TxId, TxLocation> = BTreeMap::new();
            let (mut before, mut after, mut all) =
                (Places::default(), Places::default(), Places::default());
            for (height, (id, executed)) in steps.into_iter().enumerate() {
                let receipt = receipt(id, height as u64, executed);
                if height < cut { before.add(&receipt) } else { after.add(&receipt) }
                all.add(&receipt);
                let location = TxLocation::of(&receipt);
                let old = expected.get(&receipt.tx_id);
                if executed || old.is_none_or(|old| old.outcome != Outcome::Executed) {
                    expected.insert(receipt.tx_id, location);
                }
            }
            for (id, location) in &expected {
                prop_assert_eq!(all.get(id), Some(*location));
            }
            let expected: Vec<Place> =
                expected.into_iter().map(|(id, location)| Place { id, location }).collect();
            prop_assert_eq!(&all.sorted(|_| true), &expected);
            let merged = merge(before.sorted(|_| true), &after.sorted(|_| true));
            prop_assert_eq!(&merged, &expected);
            let even = all.sorted(|location| location.height.0 % 2 == 0);
            prop_assert!(even.iter().all(|place| place.location.height.0 % 2 == 0));
        }
    }
}
