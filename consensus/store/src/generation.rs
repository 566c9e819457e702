//! What some consecutive blocks changed, gathered in memory until it is written in one step.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use falconet_types::receipt::Outcome;
use falconet_types::stake::RowId;
use falconet_types::{AccountId, Height, TxId};

use crate::state::{ACCOUNT_BYTES_MAX, BlockRow, StateUpdate, TxLocation};

#[derive(Debug, Default)]
pub(crate) struct Generation {
    /// Newest row of each account that changed; `None` for one that was deleted.
    pub accounts: HashMap<AccountId, Option<Bytes>>,
    /// The same for rows of the registry of validators.
    pub registry: HashMap<RowId, Option<Bytes>>,
    pub txs: HashMap<TxId, TxLocation>,
    pub blocks: BTreeMap<Height, BlockRow>,
    /// Transactions and blocks below this height go with the same step.
    pub prune_below: Height,
    /// An image of the state is wanted as it is after this step.
    pub checkpoint: bool,
}

impl Generation {
    pub(crate) fn add(&mut self, update: &StateUpdate<'_>) {
        for (id, row) in update.accounts {
            let len = row.as_ref().map_or(0, Bytes::len);
            assert!(len <= ACCOUNT_BYTES_MAX, "account row of {len} bytes");
            self.accounts.insert(*id, row.clone());
        }
        for (id, row) in update.registry {
            let len = row.as_ref().map_or(0, Bytes::len);
            assert!(len <= ACCOUNT_BYTES_MAX, "registry row of {len} bytes");
            self.registry.insert(*id, row.clone());
        }
        for receipt in update.receipts {
            // A replay of an executed transaction must not hide where it was executed.
            let executed = receipt.outcome == Outcome::Executed;
            let old = self.txs.get(&receipt.tx_id);
            if executed || old.is_none_or(|old| old.outcome != Outcome::Executed) {
                self.txs.insert(receipt.tx_id, TxLocation::of(receipt));
            }
        }
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
        };
        self.blocks.insert(update.height, row);
    }

    /// Rows that writing this costs.
    pub(crate) fn rows(&self) -> usize {
        self.accounts.len() + self.registry.len() + self.txs.len() + self.blocks.len()
    }
}
