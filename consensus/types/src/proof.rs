//! Proofs that a transaction was committed and what came of it, checked offline against genesis.
//!
//! A proof is two chains of hashes that end in one committed chain of headers:
//!
//! ```text
//!  where it stands                              what came of it
//!  transaction                                  receipt {tx id, height h, lane, seq, index, outcome}
//!    │ Merkle path                                │ Merkle path
//!  tx_root in the header of batch (lane, seq)   receipts root of height h
//!    │ prev_hash, ...                             │ fold, with the receipts roots of h+1 ..= e
//!  the lane's tip in the cut of ...             results(e) ── with other roots ── commitment(e)
//!    │                                            │ named as `executed` by ...
//!  header h ──parent_id── ... ──parent_id── header x ── ... ── header p ── header c ◀── QC
//! ```
//!
//! The QC of c, whose round is its parent's round + 1, commits p and all its ancestors
//! (`docs/protocol.md`, rule C2), so h and x are committed; x names the commitment of e with
//! h <= e < x. All headers are of one epoch: its last block names a state not below the last one
//! that carries payload. The QC is judged by that epoch's validators, to whom a chain of
//! [`EpochProof`]s leads from genesis.
//!
//! **What exactly is proven**, if in each epoch up to the block's less than a third of the weight of
//! its validators is Byzantine:
//! - The bytes of the transaction stand at (lane, seq, index), and the committed block h reaches
//!   at least that far in the lane. Header h alone does not say that the batch is new in h: the
//!   cut is cumulative, and the parent's cut is not part of the proof.
//! - Execution of block h gave this receipt. That settles the height: honest validators vote for
//!   x only if they computed the same commitment, and in their execution a batch is part of
//!   exactly one block.
//!
//! A receipt other than [`Outcome::Executed`] proves that this occurrence had no effect. The same
//! bytes may have been committed elsewhere with another outcome.

use bytes::Bytes;
use falconet_crypto::falcon::Verifier;
use falconet_crypto::hash::{Digest, merkle};

use crate::batch::{self, BATCH_TXS_MAX, Batch, BatchHeader};
use crate::block::{Header, LaneTip};
use crate::certificate::Qc;
use crate::epoch::{EpochProof, EpochProofError, EpochTrail};
use crate::genesis::{ApplicationKind, Genesis};
use crate::ids::{ChainId, Epoch, Height, Seq, TxId, ValidatorIndex};
use crate::receipt::{Outcome, Receipt, StateRoots, fold_results};
use crate::signing::{self, Invalid};
use crate::transaction::{SignedTransaction, opaque_id};
use crate::validators::{SetError, ValidatorSet};
use crate::wire::{Reader, Wire, WireError, put_count16, put_count32};

const VERSION: u8 = 1;
/// First byte of a proof that carries epoch proofs.
const PORTABLE_VERSION: u8 = 2;
/// Most epoch proofs beside a transaction's proof.
pub const PORTABLE_EPOCHS_MAX: usize = 65_536;
/// Most headers in a committed chain: how far execution may lag behind at the time of the proof.
pub const HEADERS_MAX: usize = 512;
/// Most batches from the transaction's to the tip of its lane in one block.
pub const LANE_BATCHES_MAX: usize = 4096;
/// Most siblings on a Merkle path of a proof: both trees have fewer than 2^32 leaves.
pub const SIBLINGS_MAX: usize = 32;

/// Why a proof does not prove what it claims, or why pieces make no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The genesis document has no valid validator set.
    #[error("genesis validators: {0}")]
    Genesis(#[from] SetError),
    /// A part is missing or longer than its limit.
    #[error("the proof has {len} {what}, between {min} and {max} are allowed")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        len: usize,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// The receipt speaks of another transaction.
    #[error("the receipt is for transaction {receipt}, the bytes are transaction {bytes}")]
    OtherTransaction {
        /// Id in the receipt.
        receipt: TxId,
        /// Id of the bytes.
        bytes: TxId,
    },
    /// The receipt speaks of another position than the batch or the block.
    #[error("the receipt's {0} is not that of the batch or block in the proof")]
    OtherPosition(&'static str),
    /// The transaction is not in the batch.
    #[error("the transaction is not at its index under the batch's root")]
    NotInBatch,
    /// Batches that do not follow one another.
    #[error("batch {0} does not follow the one before it in the lane")]
    LaneBroken(Seq),
    /// The block's cut names another tip.
    #[error("the block's cut does not name the lane's last batch in the proof")]
    NotInCut,
    /// Headers that do not follow one another.
    #[error("header {0} does not follow the one before it")]
    ChainBroken(Height),
    /// The last header and its certificate commit nothing.
    #[error("the last header and its certificate do not commit the header before it: {0}")]
    NotCommitted(&'static str),
    /// The certificate is not valid.
    #[error("certificate of the last header: {0}")]
    Certificate(#[from] Invalid),
    /// The receipt is not under its block's receipts root.
    #[error("the receipt is not at its index under the block's receipts root")]
    NotInReceipts,
    /// No committed header names the commitment that the receipt leads to.
    #[error(
        "no committed header names the state commitment of height {0} that the receipt leads to"
    )]
    NotInState(Height),
    /// Nobody has shown who the validators of the proof's epoch are.
    #[error(
        "the proof is of epoch {0}, whose validators are not known here: the proofs of the epochs \
         before it are missing"
    )]
    UnknownEpoch(Epoch),
    /// The epoch proofs beside it do not lead to its epoch.
    #[error("the proofs of epochs beside it: {0}")]
    Epochs(#[from] EpochProofError),
    /// The receipt is not among the receipts of its block (when a proof is made).
    #[error("the receipt is not among the receipts of its block")]
    NoReceipt,
}

/// Headers that a certificate commits: the last one is certified, and with it all others; those
/// below the last one whose round follows its parent's are committed (rule C2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedChain {
    /// By ascending height, each the parent of the next; at least two, at most [`HEADERS_MAX`].
    /// Without signatures: the ids below the certificate pin them.
    pub headers: Vec<Header>,
    /// The certificate of the last header.
    pub qc: Qc,
}

impl CommittedChain {
    /// Checks everything but signatures; the committed headers, at least one.
    pub fn check_links(&self) -> Result<&[Header], ProofError> {
        check_count("headers", self.headers.len(), 2, HEADERS_MAX)?;
        for pair in self.headers.windows(2) {
            let (parent, child) = (&pair[0], &pair[1]);
            let follows = child.parent_id == parent.id()
                && child.parent_round == parent.round
                && child.height.0.checked_sub(1) == Some(parent.height.0)
                && child.epoch == parent.epoch;
            if !follows {
                return Err(ProofError::ChainBroken(child.height));
            }
        }
        let last = self.headers.last().expect("at least two headers");
        let certified = self.qc.block_id == last.id()
            && self.qc.epoch == last.epoch
            && self.qc.round == last.round
            && self.qc.parent_round == last.parent_round;
        if !certified {
            return Err(ProofError::NotCommitted(
                "the certificate is for another block",
            ));
        }
        let commits = |h: &Header| h.parent_round.0.checked_add(1) == Some(h.round.0);
        let committing = self.headers.iter().rposition(commits).unwrap_or_default();
        if committing == 0 {
            return Err(ProofError::NotCommitted(
                "no header above the first has the round after its parent's",
            ));
        }
        Ok(&self.headers[..committing])
    }

    /// Checks links and certificate; the committed headers.
    pub fn verify(
        &self,
        chain: ChainId,
        set: &ValidatorSet,
        verifier: &mut Verifier,
    ) -> Result<&[Header], ProofError> {
        let committed = self.check_links()?;
        signing::verify(self.qc.clone(), chain, set, verifier)?;
        Ok(committed)
    }
}

impl Wire for CommittedChain {
    fn encode(&self, out: &mut Vec<u8>) {
        put_count16(out, self.headers.len());
        for header in &self.headers {
            header.encode(out);
        }
        self.qc.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let n = r.count16("headers", HEADERS_MAX)?;
        let mut headers = Vec::new();
        for _ in 0..n {
            headers.push(Header::decode(r)?);
        }
        Ok(Self {
            headers,
            qc: Qc::decode(r)?,
        })
    }
}

/// What a valid proof says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenReceipt {
    /// The transaction.
    pub tx_id: TxId,
    /// Height of the block that executed it.
    pub height: Height,
    /// That block's time, milliseconds since 1970.
    pub time_ms: u64,
    /// Lane of its batch.
    pub lane: ValidatorIndex,
    /// Position of the batch in the lane.
    pub seq: Seq,
    /// Position of the transaction in the batch.
    pub index: u32,
    /// What came of it.
    pub outcome: Outcome,
}

/// Proves a receipt to anybody who has the genesis document; see the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionProof {
    /// The whole transaction, with its signature.
    pub tx: Bytes,
    /// What came of it.
    pub receipt: Receipt,
    /// Siblings from the transaction to the batch's `tx_root`, lowest first.
    pub tx_path: Vec<Digest>,
    /// Headers of the lane's batches, from the transaction's to the tip that the block names.
    pub batches: Vec<BatchHeader>,
    /// Path from the receipt to the block's receipts root.
    pub receipt_path: ReceiptPath,
    /// Results digest before the block.
    pub results_before: Digest,
    /// Receipts roots of the block and of those after it, up to the height whose commitment is
    /// named; at least one, at most [`HEADERS_MAX`].
    pub receipts_roots: Vec<Digest>,
    /// Accounts root at the height whose commitment is named.
    pub accounts_root: Digest,
    /// Validators root at that height.
    pub validators_root: Digest,
    /// From the block's header to a certified child of a committed one; names the commitment.
    pub chain: CommittedChain,
}

/// Where a receipt stands in the tree of its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptPath {
    /// Position of the receipt among those of the block.
    pub index: u32,
    /// Number of receipts of the block.
    pub count: u32,
    /// Siblings, lowest first.
    pub siblings: Vec<Digest>,
}

/// What a proof is made of, as a node that executed the block finds it in its store.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    /// The receipt to prove.
    pub receipt: Receipt,
    /// The batch that holds the transaction.
    pub batch: &'a Batch,
    /// The lane's batches after it, up to the tip in the block's cut.
    pub later_batches: &'a [BatchHeader],
    /// All receipts of the block, in the order of execution.
    pub receipts: &'a [Receipt],
    /// Results digest of the height before the block's.
    pub results_before: Digest,
    /// Roots of the block's height and those after it, up to the one whose commitment is named by
    /// the first header of the chain with `executed.height` not below the block's height.
    pub roots: &'a [StateRoots],
    /// Headers from the block's to a committed one, not below the header that names the
    /// commitment, then a child of that with its certificate.
    pub chain: CommittedChain,
}

impl TransactionProof {
    /// Puts a proof together and checks all of it but the certificate's signatures.
    pub fn build(application: ApplicationKind, pieces: &Pieces<'_>) -> Result<Self, ProofError> {
        let receipt = pieces.receipt;
        let txs: Vec<Bytes> = pieces.batch.transactions().collect();
        let index = receipt.index as usize;
        let tx = txs.get(index).ok_or(ProofError::NotInBatch)?.clone();
        let slices: Vec<&[u8]> = txs.iter().map(Bytes::as_ref).collect();
        let tx_path = merkle::Proof::prove(&batch::tx_leaves(&slices), index)
            .expect("the index was looked up")
            .siblings;
        let at = pieces.receipts.iter().position(|r| *r == receipt);
        let at = at.ok_or(ProofError::NoReceipt)?;
        let path = merkle::Proof::prove(&Receipt::leaves(pieces.receipts), at)
            .expect("the receipt was found");
        let fits = |n: u64| u32::try_from(n).map_err(|_| ProofError::NoReceipt);
        let mut batches = vec![pieces.batch.header().clone()];
        batches.extend_from_slice(pieces.later_batches);
        let proof = Self {
            tx,
            receipt,
            tx_path,
            batches,
            receipt_path: ReceiptPath {
                index: fits(path.index)?,
                count: fits(path.count)?,
                siblings: path.siblings,
            },
            results_before: pieces.results_before,
            receipts_roots: pieces.roots.iter().map(|roots| roots.receipts).collect(),
            accounts_root: pieces
                .roots
                .last()
                .map_or(Digest::ZERO, |roots| roots.accounts),
            validators_root: pieces
                .roots
                .last()
                .map_or(Digest::ZERO, |roots| roots.validators),
            chain: pieces.chain.clone(),
        };
        proof.check_links(application)?;
        Ok(proof)
    }

    /// Epoch of the block; not checked.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.chain.qc.epoch
    }

    /// Checks a proof of epoch 0 against a genesis document that has passed its own checks.
    pub fn verify(&self, genesis: &Genesis) -> Result<ProvenReceipt, ProofError> {
        let proven = self.check_links(genesis.application)?;
        // The certificate's check refuses any other epoch.
        let set = genesis.validator_set()?;
        self.chain
            .verify(genesis.chain_id(), &set, &mut Verifier::new())?;
        Ok(proven)
    }

    /// Checks a proof of any epoch to which `trail` leads.
    pub fn verify_on(&self, trail: &EpochTrail) -> Result<ProvenReceipt, ProofError> {
        let proven = self.check_links(trail.genesis().application)?;
        let epoch = self.epoch();
        let info = trail.get(epoch).ok_or(ProofError::UnknownEpoch(epoch))?;
        self.chain
            .verify(trail.chain(), &info.set, &mut Verifier::new())?;
        Ok(proven)
    }

    /// Checks everything but the certificate's signers and signatures.
    fn check_links(&self, application: ApplicationKind) -> Result<ProvenReceipt, ProofError> {
        let committed = self.chain.check_links()?;
        let block = &committed[0];
        self.check_position(application, block)?;
        self.check_outcome(committed)?;
        let Receipt {
            tx_id,
            height,
            lane,
            seq,
            index,
            outcome,
        } = self.receipt;
        Ok(ProvenReceipt {
            tx_id,
            height,
            time_ms: block.time_ms,
            lane,
            seq,
            index,
            outcome,
        })
    }

    /// The left side of the drawing: transaction, batch, lane, cut.
    fn check_position(
        &self,
        application: ApplicationKind,
        block: &Header,
    ) -> Result<(), ProofError> {
        let tx_id = id_of(&self.tx, application);
        if tx_id != self.receipt.tx_id {
            let receipt = self.receipt.tx_id;
            return Err(ProofError::OtherTransaction {
                receipt,
                bytes: tx_id,
            });
        }
        check_count("batches", self.batches.len(), 1, LANE_BATCHES_MAX)?;
        let batch = &self.batches[0];
        for (same, what) in [
            (batch.lane == self.receipt.lane, "lane"),
            (batch.seq == self.receipt.seq, "sequence number"),
            (batch.epoch == block.epoch, "epoch"),
            (block.height == self.receipt.height, "height"),
        ] {
            if !same {
                return Err(ProofError::OtherPosition(what));
            }
        }
        let path = merkle::Proof {
            index: u64::from(self.receipt.index),
            count: u64::from(batch.tx_count),
            siblings: self.tx_path.clone(),
        };
        if !path.verify(&batch.tx_root, &batch::tx_leaf(&self.tx)) {
            return Err(ProofError::NotInBatch);
        }
        let mut tip = LaneTip {
            seq: batch.seq,
            hash: batch.hash(),
        };
        for next in &self.batches[1..] {
            let follows = next.prev_hash == tip.hash
                && next.seq.0.checked_sub(1) == Some(tip.seq.0)
                && next.lane == batch.lane
                && next.epoch == batch.epoch;
            if !follows {
                return Err(ProofError::LaneBroken(next.seq));
            }
            tip = LaneTip {
                seq: next.seq,
                hash: next.hash(),
            };
        }
        if block.cut.0.get(batch.lane.at()) != Some(&tip) {
            return Err(ProofError::NotInCut);
        }
        Ok(())
    }

    /// The right side of the drawing: receipt, results, commitment.
    fn check_outcome(&self, committed: &[Header]) -> Result<(), ProofError> {
        let ReceiptPath {
            index,
            count,
            ref siblings,
        } = self.receipt_path;
        let path = merkle::Proof {
            index: u64::from(index),
            count: u64::from(count),
            siblings: siblings.clone(),
        };
        check_count("receipts roots", self.receipts_roots.len(), 1, HEADERS_MAX)?;
        if !path.verify(&self.receipts_roots[0], &self.receipt.leaf()) {
            return Err(ProofError::NotInReceipts);
        }
        let mut results = self.results_before;
        let mut height = self.receipt.height;
        for (above, receipts) in (0u64..).zip(&self.receipts_roots) {
            let sum = self.receipt.height.0.checked_add(above);
            height = Height(sum.ok_or(ProofError::NotInState(height))?);
            results = fold_results(results, height, *receipts);
        }
        let roots = StateRoots {
            receipts: Digest::ZERO,
            accounts: self.accounts_root,
            validators: self.validators_root,
            results,
        };
        let root = roots.commitment(height);
        if !committed
            .iter()
            .any(|h| h.executed.height == height && h.executed.root == root)
        {
            return Err(ProofError::NotInState(height));
        }
        Ok(())
    }
}

impl Wire for TransactionProof {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        self.receipt.encode(out);
        put_count16(out, self.tx.len());
        out.extend_from_slice(&self.tx);
        put_digests(out, &self.tx_path);
        put_count16(out, self.batches.len());
        for batch in &self.batches {
            batch.encode(out);
        }
        out.extend_from_slice(&self.receipt_path.index.to_le_bytes());
        out.extend_from_slice(&self.receipt_path.count.to_le_bytes());
        put_digests(out, &self.receipt_path.siblings);
        out.extend_from_slice(self.results_before.as_ref());
        put_digests(out, &self.receipts_roots);
        out.extend_from_slice(self.accounts_root.as_ref());
        out.extend_from_slice(self.validators_root.as_ref());
        self.chain.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "transaction proof",
                found: version,
            });
        }
        let receipt = Receipt::decode(r)?;
        let tx_len = r.count16("transaction", usize::from(u16::MAX))?;
        let tx = Bytes::copy_from_slice(r.bytes(tx_len)?);
        let tx_path = digests(r, "siblings", SIBLINGS_MAX)?;
        let n = r.count16("batches", LANE_BATCHES_MAX)?;
        let mut batches = Vec::new();
        for _ in 0..n {
            batches.push(BatchHeader::decode(r)?);
        }
        let receipt_path = ReceiptPath {
            index: r.u32()?,
            count: r.u32()?,
            siblings: digests(r, "siblings", SIBLINGS_MAX)?,
        };
        Ok(Self {
            tx,
            receipt,
            tx_path,
            batches,
            receipt_path,
            results_before: r.digest()?,
            receipts_roots: digests(r, "receipts roots", HEADERS_MAX)?,
            accounts_root: r.digest()?,
            validators_root: r.digest()?,
            chain: CommittedChain::decode(r)?,
        })
    }
}

/// A transaction's proof with the epoch proofs that lead from genesis to its validators: all that
/// somebody needs who has the genesis document and no network. Without epoch proofs its bytes are
/// those of the bare proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortableProof {
    /// The ends of the epochs from 0 to the one before the transaction's, in order.
    pub epochs: Vec<EpochProof>,
    /// The proof.
    pub proof: TransactionProof,
}

impl PortableProof {
    /// Checks everything against a genesis document that has passed its own checks.
    pub fn verify(&self, genesis: &Genesis) -> Result<ProvenReceipt, ProofError> {
        let mut trail = EpochTrail::new(genesis)?;
        let mut verifier = Verifier::new();
        for proof in &self.epochs {
            trail.follow(proof, &mut verifier)?;
        }
        self.proof.verify_on(&trail)
    }
}

impl Wire for PortableProof {
    fn encode(&self, out: &mut Vec<u8>) {
        if !self.epochs.is_empty() {
            out.push(PORTABLE_VERSION);
            put_count32(out, self.epochs.len());
            self.epochs.iter().for_each(|proof| proof.encode(out));
        }
        self.proof.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut epochs = Vec::new();
        if r.peek() == Some(PORTABLE_VERSION) {
            r.u8()?;
            let n = r.count32("epoch proofs", PORTABLE_EPOCHS_MAX)?;
            if n == 0 {
                return Err(WireError::Value("epoch proofs"));
            }
            for _ in 0..n {
                epochs.push(EpochProof::decode(r)?);
            }
        }
        Ok(Self {
            epochs,
            proof: TransactionProof::decode(r)?,
        })
    }
}

/// The id that a receipt gives to bytes in a batch: of the transaction that they are, or of the
/// bytes when they are none or the application does not look into them.
#[must_use]
pub fn id_of(tx: &Bytes, application: ApplicationKind) -> TxId {
    match application {
        ApplicationKind::Opaque => opaque_id(tx),
        ApplicationKind::Ledger => {
            SignedTransaction::parse(tx.clone()).map_or_else(|_| opaque_id(tx), |tx| tx.id())
        }
    }
}

fn check_count(what: &'static str, len: usize, min: usize, max: usize) -> Result<(), ProofError> {
    if len < min || len > max {
        return Err(ProofError::Count {
            what,
            len,
            min,
            max,
        });
    }
    Ok(())
}

fn put_digests(out: &mut Vec<u8>, digests: &[Digest]) {
    put_count16(out, digests.len());
    for digest in digests {
        out.extend_from_slice(digest.as_ref());
    }
}

fn digests(r: &mut Reader<'_>, field: &'static str, max: usize) -> Result<Vec<Digest>, WireError> {
    let n = r.count16(field, max)?;
    let bytes = r.bytes(n * 32)?;
    let (chunks, _) = bytes.as_chunks::<32>();
    Ok(chunks.iter().map(|chunk| Digest(*chunk)).collect())
}

// A path to the root of a batch never needs more siblings than a proof may carry.
const _: () = assert!(BATCH_TXS_MAX < 1 << SIBLINGS_MAX);
