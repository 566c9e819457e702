//! What came of a transaction, and how headers commit to it.
//!
//! After each block the application has an accounts root and a list of receipts. They are folded
//! into one *state commitment*:
//!
//! ```text
//! results(h)    = H("falconet/results", results(h-1) ‖ h ‖ merkle_root(receipt leaves of h))
//! commitment(h) = H("falconet/state", h ‖ accounts_root(h) ‖ validators_root(h) ‖ results(h))
//! results(0)    = zero
//! ```
//!
//! A header names the commitment of an executed ancestor, so a committed header proves every
//! receipt at or below that ancestor.

use falconet_crypto::hash::{self, Digest};

use crate::ids::{Height, Seq, TxId, ValidatorIndex};
use crate::wire::{Reader, Wire, WireError};

/// Domain of a leaf of the receipt tree.
const TAG_RECEIPT: &str = "falconet/receipt";

/// What came of a transaction. The numbers are part of the protocol.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Outcome {
    /// Took effect.
    Executed = 0,
    /// Not a transaction.
    Malformed = 1,
    /// Made for another chain.
    WrongChain = 2,
    /// The sender's account does not exist.
    UnknownSender = 3,
    /// The account exists, its key was never registered.
    UnknownKey = 4,
    /// The signature does not verify under the sender's key.
    BadSignature = 5,
    /// The block's time is after the transaction's limit.
    Expired = 6,
    /// The nonce was used, or is below the window.
    Replayed = 7,
    /// Fee below the chain's minimum.
    FeeTooLow = 8,
    /// The balance does not cover amount and fee.
    InsufficientFunds = 9,
    /// Amount plus fee, or the recipient's balance, would pass 2^64 - 1.
    Overflow = 10,
    /// The key of the account is registered already.
    AlreadyRegistered = 11,
    /// The chain has one epoch for ever: validators and their stake do not change.
    NoEpochs = 12,
    /// No validator has this id or key.
    UnknownValidator = 13,
    /// The validator's stake belongs to another account.
    NotOwner = 14,
    /// A key's proof of possession does not verify, or a commitment is not the ledger's.
    BadProof = 15,
    /// The bond would be below the chain's minimum, and not all of it is taken out.
    StakeTooLow = 16,
    /// The key or the name is another validator's, or was a short time ago.
    Taken = 17,
    /// The two messages do not prove misbehaviour.
    BadEvidence = 18,
    /// The same was reported before.
    AlreadyReported = 19,
    /// It happened in an epoch that is too old, or that has not come.
    OutsideWindow = 20,
    /// A table of the registry is full, or the block has all that it may have of this kind; the
    /// same may succeed later.
    LimitReached = 21,
}

impl Outcome {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Self; 22] = [
        Self::Executed,
        Self::Malformed,
        Self::WrongChain,
        Self::UnknownSender,
        Self::UnknownKey,
        Self::BadSignature,
        Self::Expired,
        Self::Replayed,
        Self::FeeTooLow,
        Self::InsufficientFunds,
        Self::Overflow,
        Self::AlreadyRegistered,
        Self::NoEpochs,
        Self::UnknownValidator,
        Self::NotOwner,
        Self::BadProof,
        Self::StakeTooLow,
        Self::Taken,
        Self::BadEvidence,
        Self::AlreadyReported,
        Self::OutsideWindow,
        Self::LimitReached,
    ];

    /// The name used in JSON, metrics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Malformed => "malformed",
            Self::WrongChain => "wrong_chain",
            Self::UnknownSender => "unknown_sender",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::FeeTooLow => "fee_too_low",
            Self::InsufficientFunds => "insufficient_funds",
            Self::Overflow => "overflow",
            Self::AlreadyRegistered => "already_registered",
            Self::NoEpochs => "no_epochs",
            Self::UnknownValidator => "unknown_validator",
            Self::NotOwner => "not_owner",
            Self::BadProof => "bad_proof",
            Self::StakeTooLow => "stake_too_low",
            Self::Taken => "taken",
            Self::BadEvidence => "bad_evidence",
            Self::AlreadyReported => "already_reported",
            Self::OutsideWindow => "outside_window",
            Self::LimitReached => "limit_reached",
        }
    }
}

impl TryFrom<u8> for Outcome {
    type Error = WireError;
    fn try_from(byte: u8) -> Result<Self, WireError> {
        Self::ALL
            .get(usize::from(byte))
            .copied()
            .ok_or(WireError::Value("outcome"))
    }
}

/// Where a committed transaction stands and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction. For bytes that are no transaction, the hash of the bytes.
    pub tx_id: TxId,
    /// Height of the block that executed it.
    pub height: Height,
    /// Lane of its batch.
    pub lane: ValidatorIndex,
    /// Position of the batch in the lane.
    pub seq: Seq,
    /// Position of the transaction in the batch.
    pub index: u32,
    /// What came of it.
    pub outcome: Outcome,
}

impl Receipt {
    /// Bytes of an encoded receipt.
    pub const LEN: usize = 32 + 8 + 2 + 8 + 4 + 1;

    /// Leaf of the block's receipt tree.
    #[must_use]
    pub fn leaf(&self) -> Digest {
        hash::hash(TAG_RECEIPT, &[&self.to_bytes()])
    }

    /// Leaves of many receipts, computed together.
    #[must_use]
    pub fn leaves(receipts: &[Self]) -> Vec<Digest> {
        let mut bytes = Vec::with_capacity(receipts.len() * Self::LEN);
        receipts
            .iter()
            .for_each(|receipt| receipt.encode(&mut bytes));
        let items: Vec<&[u8]> = bytes.chunks_exact(Self::LEN).collect();
        let mut leaves = vec![Digest::ZERO; items.len()];
        hash::hash_many(TAG_RECEIPT, &items, &mut leaves);
        leaves
    }
}

impl Wire for Receipt {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.tx_id.as_ref());
        self.height.encode(out);
        self.lane.encode(out);
        self.seq.encode(out);
        out.extend_from_slice(&self.index.to_le_bytes());
        out.push(self.outcome as u8);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            tx_id: r.digest()?,
            height: Height::decode(r)?,
            lane: ValidatorIndex::decode(r)?,
            seq: Seq::decode(r)?,
            index: r.u32()?,
            outcome: Outcome::try_from(r.u8()?)?,
        })
    }
}

/// The digests of one executed height, as execution yields them, the store keeps them and proofs
/// use them. All zero but `accounts` and `validators` at height 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateRoots {
    /// Merkle root over the receipts of this height's block.
    pub receipts: Digest,
    /// What the application commits to beside receipts: accounts of the ledger, zero when the
    /// application is opaque.
    pub accounts: Digest,
    /// The validators of the next epoch and the registry of stake, see
    /// [`crate::validators::validators_root`]; zero when the application has none.
    pub validators: Digest,
    /// Results digest, this height's receipts included.
    pub results: Digest,
}

impl StateRoots {
    /// Bytes of encoded roots.
    pub const LEN: usize = 4 * 32;

    /// The state commitment at `height`.
    #[must_use]
    pub fn commitment(&self, height: Height) -> Digest {
        commitment(height, self.accounts, self.validators, self.results)
    }
}

impl Wire for StateRoots {
    fn encode(&self, out: &mut Vec<u8>) {
        for root in [self.receipts, self.accounts, self.validators, self.results] {
            out.extend_from_slice(root.as_ref());
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            receipts: r.digest()?,
            accounts: r.digest()?,
            validators: r.digest()?,
            results: r.digest()?,
        })
    }
}

/// Folds one block's receipts into the running results digest.
#[must_use]
pub fn fold_results(before: Digest, height: Height, receipts_root: Digest) -> Digest {
    hash::hash(
        "falconet/results",
        &[
            before.as_ref(),
            &height.0.to_le_bytes(),
            receipts_root.as_ref(),
        ],
    )
}

/// The state commitment that headers carry.
#[must_use]
pub fn commitment(
    height: Height,
    accounts_root: Digest,
    validators_root: Digest,
    results: Digest,
) -> Digest {
    hash::hash(
        "falconet/state",
        &[
            &height.0.to_le_bytes(),
            accounts_root.as_ref(),
            validators_root.as_ref(),
            results.as_ref(),
        ],
    )
}
