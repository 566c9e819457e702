//! What some consecutive blocks changed, gathered in memory until it is written in one step.
//!
//! Gathering is on the way of every transaction, so it allocates nothing once a generation has been
//! through the writer and is filled again.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use falconet_types::hashing::DigestState;
use falconet_types::stake::RowId;
use falconet_types::{AccountId, Digest, Height};

use crate::places::Places;
use crate::state::{ACCOUNT_BYTES_MAX, BlockRow, StateUpdate};

#[derive(Debug, Default)]
pub(crate) struct Generation {
    /// Newest row of each account that changed.
    pub accounts: NewestRows,
    /// Keys that were registered.
    pub keys: Vec<(AccountId, Bytes)>,
    /// Newest row of the registry of validators that changed; `None` for one that was deleted.
    pub registry: HashMap<RowId, Option<Bytes>>,
    /// Where the transactions are.
    pub places: Places,
    pub blocks: BTreeMap<Height, BlockRow>,
    /// Transactions and blocks below this height go with the same step.
    pub prune_below: Height,
    /// An image of the state is wanted as it is after this step.
    pub checkpoint: bool,
}

impl Generation {
    pub(crate) fn add(&mut self, update: &StateUpdate<'_>) {
        for (id, row) in update.accounts.iter() {
            self.accounts.put(id, row);
        }
        for (id, key) in update.keys {
            let len = key.len();
            assert!(len <= ACCOUNT_BYTES_MAX, "key of {len} bytes");
            self.keys.push((*id, key.clone()));
        }
        for (id, row) in update.registry {
            let len = row.as_ref().map_or(0, Bytes::len);
            assert!(len <= ACCOUNT_BYTES_MAX, "registry row of {len} bytes");
            self.registry.insert(*id, row.clone());
        }
        update.receipts.iter().for_each(|r| self.places.add(r));
        let row = BlockRow {
            commitment: update.commitment,
            accounts_root: update.accounts_root,
            validators_root: update.validators_root,
            results: update.results,
            receipts_root: update.receipts_root,
            outcomes: update
                .receipts
                .iter()
                .map(|receipt| receipt.outcome)
                .collect(),
            registry_root: update.registry_root,
        };
        self.blocks.insert(update.height, row);
    }

    /// Rows that writing this costs.
    pub(crate) fn rows(&self) -> usize {
        let accounts = self.accounts.len() + self.keys.len();
        accounts + self.registry.len() + self.places.len() + self.blocks.len()
    }

    /// Empties it and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.accounts.clear();
        self.keys.clear();
        self.registry.clear();
        self.places.clear();
        self.blocks.clear();
        (self.prune_below, self.checkpoint) = (Height::ZERO, false);
    }
}

/// Rows of accounts, one behind the other in one buffer.
#[derive(Debug, Clone, Default)]
pub struct AccountRows {
    /// The account, and where its row ends.
    ends: Vec<(AccountId, usize)>,
    bytes: Vec<u8>,
}

impl AccountRows {
    /// Adds the row that `encode` appends. An account has one row at most.
    ///
    /// # Panics
    /// If it is longer than [`ACCOUNT_BYTES_MAX`].
    pub fn push(&mut self, id: AccountId, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        encode(&mut self.bytes);
        let len = self.bytes.len() - start;
        assert!(len <= ACCOUNT_BYTES_MAX, "account row of {len} bytes");
        self.ends.push((id, self.bytes.len()));
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
    }

    /// The rows, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (AccountId, &[u8])> + '_ {
        let mut start = 0;
        self.ends.iter().map(move |(id, end)| {
            let row = &self.bytes[start..*end];
            start = *end;
            (*id, row)
        })
    }
}

/// The newest row of each account.
#[derive(Debug, Default)]
pub(crate) struct NewestRows {
    /// Where in `bytes`.
    index: HashMap<AccountId, Row, DigestState>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    start: usize,
    len: usize,
}

impl NewestRows {
    fn put(&mut self, id: AccountId, row: &[u8]) {
        let (start, len) = (self.bytes.len(), row.len());
        let place = self.index.entry(id).or_insert(Row { start, len });
        if place.start < start && place.len == len {
            self.bytes[place.start..][..len].copy_from_slice(row);
        } else {
            *place = Row { start, len };
            self.bytes.extend_from_slice(row);
        }
    }

    fn len(&self) -> usize {
        self.index.len()
    }

    fn clear(&mut self) {
        self.index.clear();
        self.bytes.clear();
    }

    /// All rows, in the order of ids: neighbours share pages of the database.
    pub(crate) fn sorted(&self) -> impl Iterator<Item = (AccountId, &[u8])> + '_ {
        let mut order: Vec<(u64, AccountId, Row)> = self
            .index
            .iter()
            .map(|(id, row)| (prefix(id), *id, *row))
            .collect();
        order.sort_unstable_by(|(a, x, _), (b, y, _)| a.cmp(b).then_with(|| x.cmp(y)));
        order
            .into_iter()
            .map(|(_, id, row)| (id, &self.bytes[row.start..][..row.len]))
    }
}

/// The first bytes of an id as a number: in the order of ids, except between those that share it.
pub(crate) fn prefix(id: &Digest) -> u64 {
    u64::from_be_bytes(*id.0.first_chunk().expect("eight of 32 bytes"))
}
