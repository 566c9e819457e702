//! The application that executes nothing: it orders bytes. For benchmarks of ordering alone;
//! genesis chooses it, never a default.

use falconet_crypto::hash::merkle;
use falconet_types::receipt::{Outcome, Receipt, StateRoots, fold_results};
use falconet_types::transaction::opaque_ids;
use falconet_types::{Digest, Height};

use crate::application::{Application, Block, BlockResult, assert_next};
use crate::snapshot::Head;
use crate::view::View;

/// Orders bytes. Every transaction counts as executed; there are no accounts, and the root over
/// them is zero.
#[derive(Debug, Clone)]
pub struct Opaque {
    height: Height,
    results: Digest,
}

impl Opaque {
    /// Before the first block.
    #[must_use]
    pub fn from_genesis() -> Self {
        Self {
            height: Height::ZERO,
            results: Digest::ZERO,
        }
    }

    /// After the block at `height`, whose results digest was `results`.
    #[must_use]
    pub fn restore(height: Height, results: Digest) -> Self {
        Self { height, results }
    }
}

impl Application for Opaque {
    fn genesis_commitment(&self) -> Digest {
        StateRoots::default().commitment(Height::ZERO)
    }

    fn height(&self) -> Height {
        self.height
    }

    fn commitment(&self) -> Digest {
        StateRoots {
            results: self.results,
            ..StateRoots::default()
        }
        .commitment(self.height)
    }

    fn execute(&mut self, block: &Block<'_>) -> BlockResult {
        assert_next(block, self.height);
        let mut receipts = Vec::new();
        for (batch, _) in block.batches {
            // Together: the hash computes several as fast as one.
            let txs: Vec<&[u8]> = batch.borrowed_transactions().collect();
            for (index, tx_id) in (0u32..).zip(opaque_ids(&txs)) {
                receipts.push(Receipt {
                    tx_id,
                    height: block.height,
                    lane: batch.header().lane,
                    seq: batch.header().seq,
                    index,
                    outcome: Outcome::Executed,
                });
            }
        }
        let receipts_root = merkle::root(&Receipt::leaves(&receipts));
        self.results = fold_results(self.results, block.height, receipts_root);
        self.height = block.height;
        let roots = StateRoots {
            receipts: receipts_root,
            accounts: Digest::ZERO,
            validators: Digest::ZERO,
            results: self.results,
        };
        BlockResult {
            height: block.height,
            roots,
            receipts,
            changes: Vec::new(),
            keys: Vec::new(),
            registry: Vec::new(),
        }
    }

    fn head(&self) -> Head {
        Head::default()
    }

    fn view(&self) -> Option<View> {
        None
    }
}
