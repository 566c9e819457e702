//! What a chain executes, as the validator sees it.

use bytes::Bytes;
use falconet_crypto::falcon::PublicKey;
use falconet_types::batch::Batch;
use falconet_types::receipt::{Receipt, StateRoots};
use falconet_types::stake::RowId;
use falconet_types::validators::Member;
use falconet_types::{AccountId, Digest, Epoch, Height, TxId};

use crate::account::Account;
use crate::snapshot::Head;
use crate::view::View;

/// Executes committed blocks. Equal blocks give equal results on every node.
pub trait Application: Send {
    /// State commitment at height 0.
    fn genesis_commitment(&self) -> Digest;

    /// Height of the last executed block; 0 before the first.
    fn height(&self) -> Height;

    /// State commitment after the last executed block.
    fn commitment(&self) -> Digest;

    /// Executes the block above [`Application::height`].
    ///
    /// # Panics
    /// If the block is not the next one, its batches are not in order, or verdicts do not match
    /// transactions: those are bugs of the caller, never a peer's doing.
    fn execute(&mut self, block: &Block<'_>) -> BlockResult;

    /// The validators of the epoch after the last one that an executed block ended, in the order
    /// of their indices, at least one: the validators of epoch 0 before any was ended. `None`: the
    /// application has no say, the same validators go on.
    fn next_validators(&self) -> Option<Vec<Member>> {
        None
    }

    /// What a snapshot of the present state says beside the accounts' rows.
    fn head(&self) -> Head;

    /// Root over the registry of stake after the last executed block, the other half of
    /// [`StateRoots::validators`] beside the digest of [`Application::next_validators`]; zero when
    /// the application has none.
    fn registry_root(&self) -> Digest {
        Digest::ZERO
    }

    /// What may be asked from other threads while blocks execute; `None` when the application
    /// has no accounts.
    fn view(&self) -> Option<View>;
}

/// A committed block with all of its data.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Its height.
    pub height: Height,
    /// Epoch of its header.
    pub epoch: Epoch,
    /// True for the block at the last height of its epoch: execution works out the validators of
    /// the next one. Blocks of the same epoch above it carry no batches.
    pub ends_epoch: bool,
    /// Its header's time, milliseconds since 1970.
    pub time_ms: u64,
    /// The batches between the parent's cut and the block's, in ascending order of lane, then of
    /// sequence number, with what is known of their signatures.
    pub batches: &'a [(Batch, Verdicts)],
}

/// What the verify stage found out about one transaction's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Verifies under the key whose id is the sender.
    Valid,
    /// Does not verify under that key.
    Invalid,
    /// Not verified: the key was not known then, or the bytes are no transaction. The
    /// application verifies itself if it must.
    Unknown,
}

/// What is known of the transactions of a batch before it is executed: one verdict each, in the
/// order of the batch, and their ids, if somebody has worked them out.
///
/// A verdict speaks about bytes and one key, the one whose id is the sender, an id about bytes; so
/// whether and when they were made changes what execution costs, never what it yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts {
    of: Vec<Verdict>,
    /// Empty, or one a transaction; whatever where the bytes are no transaction.
    ids: Vec<TxId>,
}

impl Verdicts {
    /// These verdicts, ids not known.
    #[must_use]
    pub fn new(of: Vec<Verdict>) -> Self {
        Self {
            of,
            ids: Vec::new(),
        }
    }

    /// These verdicts and ids; an id is ignored where the bytes are no transaction.
    ///
    /// # Panics
    /// If there are not as many ids as verdicts.
    #[must_use]
    pub fn with_ids(of: Vec<Verdict>, ids: Vec<TxId>) -> Self {
        assert_eq!(of.len(), ids.len(), "one id a transaction");
        Self { of, ids }
    }

    /// Nothing is known about any transaction of the batch.
    #[must_use]
    pub fn unknown(batch: &Batch) -> Self {
        Self::new(vec![Verdict::Unknown; batch.header().tx_count as usize])
    }

    /// The verdicts.
    #[must_use]
    pub fn of(&self) -> &[Verdict] {
        &self.of
    }

    /// The ids, one a transaction, or none at all.
    pub(crate) fn ids(&self) -> &[TxId] {
        &self.ids
    }
}

/// What came of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockResult {
    /// The block's height.
    pub height: Height,
    /// The digests that later headers commit to and proofs are made of.
    pub roots: StateRoots,
    /// One receipt a transaction, in the order of execution; leaves of `roots.receipts`.
    pub receipts: Vec<Receipt>,
    /// Every account that was written, once, with its state after the block, by ascending id.
    pub changes: Vec<(AccountId, Account)>,
    /// Every key that was registered, in the order of execution.
    pub keys: Vec<(AccountId, PublicKey)>,
    /// Every row of the registry of validators that was written, `None` for those that are gone;
    /// after the first block all rows, because nobody has written those of genesis.
    pub registry: Vec<(RowId, Option<Bytes>)>,
}

impl BlockResult {
    /// The state commitment after this block.
    #[must_use]
    pub fn commitment(&self) -> Digest {
        self.roots.commitment(self.height)
    }
}

/// Panics unless `block` is the one above `height`, its batches are in order and every
/// transaction has a verdict.
pub(crate) fn assert_next(block: &Block<'_>, height: Height) {
    assert_eq!(
        block.height,
        height.next(),
        "blocks are executed in height order"
    );
    let position = |batch: &Batch| (batch.header().lane, batch.header().seq);
    assert!(
        block
            .batches
            .is_sorted_by(|(a, _), (b, _)| position(a) < position(b)),
        "the batches of block {} are not in ascending order of lane and sequence number",
        block.height
    );
    for (batch, verdicts) in block.batches {
        assert_eq!(
            verdicts.of.len(),
            batch.header().tx_count as usize,
            "one verdict a transaction"
        );
    }
}
