//! Batches: what a lane is made of. The owner of a lane seals transactions into batches, each
//! naming the one before; a batch is forwarded and stored exactly as its owner made it.
//!
//! Encoding: header, signature, payload. The payload is `tx_count` times a two-byte length and
//! that many bytes. `tx_root` is a Merkle root over hashes of the *whole* transactions (with
//! signatures), so two batches with one hash have equal bytes.

use bytes::Bytes;
use falconet_crypto::falcon::Signature;
use falconet_crypto::hash::{self, Digest, merkle};

use crate::block::LaneTip;
use crate::ids::{ChainId, Epoch, Seq, ValidatorIndex};
use crate::signing::{self, Claim, Invalid, Signed, Signer, Statement};
use crate::validators::{VALIDATORS_MAX, ValidatorSet};
use crate::wire::{Reader, Wire, WireError, put_count16, put_signature};

const VERSION: u8 = 1;
const TAG_BATCH: &str = "falconet/batch";
/// Domain of the hash of one whole transaction in a batch.
const TX_LEAF: &str = "falconet/tx-leaf";
/// Most payload bytes in a batch.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Most transactions in a batch.
pub const BATCH_TXS_MAX: usize = 16_384;
/// Least bytes of a transaction in a batch. Every transaction costs its receipt and some work
/// however short it is; without a least length a lane could buy millions of receipts with one
/// block's worth of bytes. The shortest real transaction has 798 bytes.
pub const TX_BYTES_MIN: usize = BATCH_BYTES_MAX / BATCH_TXS_MAX - TX_PREFIX_LEN;
/// Bytes before each transaction in the payload: its length.
pub const TX_PREFIX_LEN: usize = 2;

/// What the lane's owner signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// Epoch; lanes restart in each.
    pub epoch: Epoch,
    /// The lane: the owner's index.
    pub lane: ValidatorIndex,
    /// Position in the lane, from 1.
    pub seq: Seq,
    /// Hash of the batch before; zero for the first.
    pub prev_hash: Digest,
    /// Merkle root over the hashes of the whole transactions.
    pub tx_root: Digest,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// Number of transactions, at least 1.
    pub tx_count: u32,
}

impl BatchHeader {
    /// Bytes of an encoded header.
    pub const LEN: usize = 1 + 8 + 2 + 8 + 32 + 32 + 4 + 4;

    /// The batch's identity: the hash of its header.
    #[must_use]
    pub fn hash(&self) -> Digest {
        hash::hash("falconet/batch-id", &[&self.to_bytes()])
    }
}

impl Wire for BatchHeader {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        self.epoch.encode(out);
        self.lane.encode(out);
        self.seq.encode(out);
        out.extend_from_slice(self.prev_hash.as_ref());
        out.extend_from_slice(self.tx_root.as_ref());
        out.extend_from_slice(&self.payload_len.to_le_bytes());
        out.extend_from_slice(&self.tx_count.to_le_bytes());
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "batch",
                found: version,
            });
        }
        Ok(Self {
            epoch: Epoch::decode(r)?,
            lane: ValidatorIndex::decode(r)?,
            seq: Seq::decode(r)?,
            prev_hash: r.digest()?,
            tx_root: r.digest()?,
            payload_len: u32::try_from(r.count32("payload", BATCH_BYTES_MAX)?).expect("limit"),
            tx_count: u32::try_from(r.count32("transactions", BATCH_TXS_MAX)?).expect("limit"),
        })
    }
}

/// A sealed batch: one buffer with header, signature and payload, as received or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    hash: Digest,
    signature: Signature,
    bytes: Bytes,
    payload_at: usize,
}

impl Batch {
    /// Seals transactions into a batch. `txs` must not be empty and must respect
    /// [`BATCH_BYTES_MAX`] and [`BATCH_TXS_MAX`], each transaction [`TX_BYTES_MIN`].
    #[must_use]
    pub fn seal(
        epoch: Epoch,
        lane: ValidatorIndex,
        tip: LaneTip,
        txs: &[Bytes],
        chain: ChainId,
        signer: &dyn Signer,
    ) -> Self {
        assert!(
            !txs.is_empty() && txs.len() <= BATCH_TXS_MAX,
            "batch of {} txs",
            txs.len()
        );
        let payload_len: usize = txs.iter().map(|tx| TX_PREFIX_LEN + tx.len()).sum();
        assert!(
            payload_len <= BATCH_BYTES_MAX,
            "batch of {payload_len} bytes"
        );
        let slices: Vec<&[u8]> = txs.iter().map(Bytes::as_ref).collect();
        let header = BatchHeader {
            epoch,
            lane,
            seq: tip.seq.next(),
            prev_hash: tip.hash,
            tx_root: tx_root(&slices),
            payload_len: u32::try_from(payload_len).expect("limit"),
            tx_count: u32::try_from(txs.len()).expect("limit"),
        };
        let mut bytes = Vec::with_capacity(BatchHeader::LEN + 1 + 1280 + payload_len);
        header.encode(&mut bytes);
        let message = signing::message(TAG_BATCH, chain, signer.key_id(), &bytes);
        let signature = signer.sign(&message);
        put_signature(&mut bytes, &signature);
        let payload_at = bytes.len();
        for tx in txs {
            assert!(
                tx.len() >= TX_BYTES_MIN,
                "a transaction of {} bytes",
                tx.len()
            );
            put_count16(&mut bytes, tx.len());
            bytes.extend_from_slice(tx);
        }
        Self {
            hash: header.hash(),
            header,
            signature,
            bytes: bytes.into(),
            payload_at,
        }
    }

    /// Parses a batch without copying and checks that the payload is what the header says:
    /// lengths, number of transactions and root. The signature is checked as a [`Signed`].
    pub fn parse(bytes: Bytes) -> Result<Self, WireError> {
        let mut r = Reader::new(&bytes);
        let header = BatchHeader::decode(&mut r)?;
        let signature = r.signature()?;
        let payload_at = bytes.len() - r.remaining();
        if r.remaining() != header.payload_len as usize {
            return Err(WireError::Value("payload length"));
        }
        if header.tx_count == 0 || header.seq == Seq::ZERO {
            return Err(WireError::Value("empty batch"));
        }
        if (header.seq == Seq(1)) != (header.prev_hash == Digest::ZERO) {
            return Err(WireError::Value("previous hash"));
        }
        let mut txs = Vec::with_capacity((header.tx_count as usize).min(r.remaining() / 2));
        for _ in 0..header.tx_count {
            let len = usize::from(r.u16()?);
            if len < TX_BYTES_MIN {
                return Err(WireError::Value("transaction length"));
            }
            txs.push(r.bytes(len)?);
        }
        r.finish()?;
        if tx_root(&txs) != header.tx_root {
            return Err(WireError::Value("transaction root"));
        }
        Ok(Self {
            hash: header.hash(),
            header,
            signature,
            payload_at,
            bytes,
        })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The owner's signature over the header.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The batch's identity.
    #[must_use]
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// Sequence number and hash, as cuts and watermarks name the batch.
    #[must_use]
    pub fn tip(&self) -> LaneTip {
        LaneTip {
            seq: self.header.seq,
            hash: self.hash,
        }
    }

    /// All bytes: what is forwarded and stored.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The transactions, as slices that share the batch's buffer and keep it alive.
    pub fn transactions(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.ranges().map(|range| self.bytes.slice(range))
    }

    /// The transactions, borrowed.
    pub fn borrowed_transactions(&self) -> impl Iterator<Item = &[u8]> + '_ {
        self.ranges().map(|range| &self.bytes[range])
    }

    /// Where each transaction is.
    fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let mut at = self.payload_at;
        (0..self.header.tx_count).map(move |_| {
            let len = usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]));
            let start = at + TX_PREFIX_LEN;
            at = start + len;
            start..at
        })
    }
}

/// A batch without its transactions: enough to prove who sealed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBatchHeader {
    /// The signed content.
    pub header: BatchHeader,
    /// The owner's signature.
    pub signature: Signature,
}

impl From<&Batch> for SignedBatchHeader {
    fn from(batch: &Batch) -> Self {
        Self {
            header: batch.header().clone(),
            signature: batch.signature().clone(),
        }
    }
}

impl Wire for SignedBatchHeader {
    fn encode(&self, out: &mut Vec<u8>) {
        self.header.encode(out);
        put_signature(out, &self.signature);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            header: BatchHeader::decode(r)?,
            signature: r.signature()?,
        })
    }
}

impl Signed for SignedBatchHeader {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        let content = self.header.to_bytes();
        out.push(statement(&self.header, &content, &self.signature).claim(chain, set)?);
        Ok(())
    }
}

/// What the owner of a batch states by its header.
fn statement<'c, 's>(
    header: &BatchHeader,
    content: &'c [u8],
    signature: &'s Signature,
) -> Statement<'c, 's> {
    Statement {
        epoch: header.epoch,
        signer: header.lane,
        tag: TAG_BATCH,
        content,
        signature,
    }
}

impl Signed for Batch {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        let content = &self.bytes[..BatchHeader::LEN];
        out.push(statement(&self.header, content, &self.signature).claim(chain, set)?);
        Ok(())
    }
}

/// Hash of one whole transaction: a leaf under `tx_root`.
#[must_use]
pub fn tx_leaf(tx: &[u8]) -> Digest {
    hash::hash(TX_LEAF, &[tx])
}

/// Hashes of whole transactions, computed together.
#[must_use]
pub fn tx_leaves(txs: &[&[u8]]) -> Vec<Digest> {
    let mut leaves = vec![Digest::ZERO; txs.len()];
    hash::hash_many(TX_LEAF, txs, &mut leaves);
    leaves
}

/// Merkle root over whole transactions.
#[must_use]
pub fn tx_root(txs: &[&[u8]]) -> Digest {
    merkle::root(&tx_leaves(txs))
}

/// What a validator holds durably of each lane. Sent over an authenticated channel, not signed:
/// each receiver needs only its own conviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    /// Epoch of the lanes.
    pub epoch: Epoch,
    /// Tips of the lanes that changed since the last watermark; all of them on a new connection.
    pub tips: Vec<(ValidatorIndex, LaneTip)>,
}

impl Wire for Watermark {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        put_count16(out, self.tips.len());
        for (lane, tip) in &self.tips {
            lane.encode(out);
            tip.encode(out);
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let epoch = Epoch::decode(r)?;
        let n = r.count16("lanes", VALIDATORS_MAX)?;
        let mut tips = Vec::with_capacity(n);
        for _ in 0..n {
            tips.push((ValidatorIndex::decode(r)?, LaneTip::decode(r)?));
        }
        if !tips.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(WireError::Value("lane order"));
        }
        Ok(Self { epoch, tips })
    }
}
