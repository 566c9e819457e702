//! What travels in STOQ frames. A frame's kind byte says which message its payload is; the
//! payload is the message and nothing else.

use bytes::Bytes;

use crate::batch::Watermark;
use crate::block::SignedHeader;
use crate::certificate::{Qc, Tc, Timeout, Vote};
use crate::commit_vote::CommitVote;
use crate::epoch::EpochProof;
use crate::ids::{BlockId, ChainId, Epoch, Height, Round, Seq, TxId, ValidatorIndex};
use crate::receipt::{Outcome, Receipt};
use crate::signing::{Claim, Invalid, Signed};
use crate::snapshot::{Chunk, GetChunk, GetSnapshot, SnapshotOffer};
use crate::validators::ValidatorSet;
use crate::wire::{Reader, Wire, WireError, put_count16, put_count32};

/// Most headers in one answer to a request for blocks.
pub const BLOCKS_PER_ANSWER_MAX: usize = 64;
/// Most transactions in one submission frame.
pub const SUBMIT_TXS_MAX: usize = 1024;
/// Most receipts in one frame to a client; the sender splits longer lists.
pub const RECEIPTS_MAX: usize = 4096;

/// Kind bytes of frames. Values below 16 belong to the transport.
pub mod kind {
    /// [`super::PeerMessage::Header`]
    pub const HEADER: u8 = 16;
    /// [`super::PeerMessage::Vote`]
    pub const VOTE: u8 = 17;
    /// [`super::PeerMessage::Timeout`]
    pub const TIMEOUT: u8 = 18;
    /// [`super::PeerMessage::Qc`]
    pub const QC: u8 = 19;
    /// [`super::PeerMessage::Tc`]
    pub const TC: u8 = 20;
    /// [`super::PeerMessage::CertRefs`]
    pub const CERT_REFS: u8 = 21;
    /// [`super::PeerMessage::GetCert`]
    pub const GET_CERT: u8 = 22;
    /// [`super::PeerMessage::GetBlocks`]
    pub const GET_BLOCKS: u8 = 23;
    /// [`super::PeerMessage::Blocks`]
    pub const BLOCKS: u8 = 24;
    /// [`super::PeerMessage::Watermark`]
    pub const WATERMARK: u8 = 25;
    /// [`super::PeerMessage::GetBatches`]
    pub const GET_BATCHES: u8 = 26;
    /// [`super::PeerMessage::Batch`]
    pub const BATCH: u8 = 27;
    /// [`super::PeerMessage::GetSnapshot`]
    pub const GET_SNAPSHOT: u8 = 28;
    /// [`super::PeerMessage::Snapshot`]
    pub const SNAPSHOT: u8 = 29;
    /// [`super::PeerMessage::GetChunk`]
    pub const GET_CHUNK: u8 = 30;
    /// [`super::PeerMessage::Chunk`]
    pub const CHUNK: u8 = 31;
    /// [`super::PeerMessage::Follow`]
    pub const FOLLOW: u8 = 32;
    /// [`super::PeerMessage::GetEpochProof`]
    pub const GET_EPOCH_PROOF: u8 = 33;
    /// [`super::PeerMessage::EpochProof`]
    pub const EPOCH_PROOF: u8 = 34;
    /// [`super::PeerMessage::Relay`]
    pub const RELAY: u8 = 35;
    /// [`super::PeerMessage::CommitVote`]
    pub const COMMIT_VOTE: u8 = 36;
    /// [`super::ClientMessage::Submit`]
    pub const SUBMIT: u8 = 64;
    /// [`super::ClientMessage::Results`]
    pub const RESULTS: u8 = 65;
    /// [`super::ClientMessage::Receipts`]
    pub const RECEIPTS: u8 = 66;
    /// [`super::ClientMessage::GetProof`]
    pub const GET_PROOF: u8 = 67;
    /// [`super::ClientMessage::Proof`]
    pub const PROOF: u8 = 68;
    /// [`super::ClientMessage::GetEpochProof`]
    pub const CLIENT_GET_EPOCH_PROOF: u8 = 69;
    /// [`super::ClientMessage::EpochProof`]
    pub const CLIENT_EPOCH_PROOF: u8 = 70;
}

/// Names a certificate without carrying it (certificate elision).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertRef {
    /// The QC of a block.
    Qc {
        /// Epoch of the block.
        epoch: Epoch,
        /// Round of the block.
        round: Round,
        /// The block.
        block_id: BlockId,
    },
    /// A TC of a round.
    Tc {
        /// Epoch.
        epoch: Epoch,
        /// The round that was given up.
        round: Round,
    },
}

impl CertRef {
    /// The certificate's epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        let (Self::Qc { epoch, .. } | Self::Tc { epoch, .. }) = self;
        *epoch
    }
}

impl Wire for CertRef {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Qc {
                epoch,
                round,
                block_id,
            } => {
                out.push(1);
                epoch.encode(out);
                round.encode(out);
                out.extend_from_slice(block_id.as_ref());
            }
            Self::Tc { epoch, round } => {
                out.push(2);
                epoch.encode(out);
                round.encode(out);
            }
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        match r.u8()? {
            1 => Ok(Self::Qc {
                epoch: Epoch::decode(r)?,
                round: Round::decode(r)?,
                block_id: r.digest()?,
            }),
            2 => Ok(Self::Tc {
                epoch: Epoch::decode(r)?,
                round: Round::decode(r)?,
            }),
            _ => Err(WireError::Value("certificate kind")),
        }
    }
}

/// A request for headers: from `from` towards genesis, until `stop_height` (exclusive) or `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetBlocks {
    /// The newest header that is asked for.
    pub from: BlockId,
    /// The asker has everything at and below this height.
    pub stop_height: Height,
    /// Most headers wanted, at most [`BLOCKS_PER_ANSWER_MAX`].
    pub max: u16,
}

impl Wire for GetBlocks {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.from.as_ref());
        self.stop_height.encode(out);
        out.extend_from_slice(&self.max.to_le_bytes());
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let from = r.digest()?;
        let stop_height = Height::decode(r)?;
        let max = r.count16("max", BLOCKS_PER_ANSWER_MAX)?;
        Ok(Self {
            from,
            stop_height,
            max: u16::try_from(max).expect("limit"),
        })
    }
}

/// A request for batches of one lane, `first..=last`, newest hash pinned by the asker itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetBatches {
    /// Epoch of the lane.
    pub epoch: Epoch,
    /// The lane.
    pub lane: ValidatorIndex,
    /// First batch wanted.
    pub first: Seq,
    /// Last batch wanted, not below `first`.
    pub last: Seq,
}

impl Wire for GetBatches {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.lane.encode(out);
        self.first.encode(out);
        self.last.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let value = Self {
            epoch: Epoch::decode(r)?,
            lane: ValidatorIndex::decode(r)?,
            first: Seq::decode(r)?,
            last: Seq::decode(r)?,
        };
        if value.first == Seq::ZERO || value.last < value.first {
            return Err(WireError::Value("range"));
        }
        Ok(value)
    }
}

/// What validators say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerMessage {
    /// A proposal.
    Header(SignedHeader),
    /// A vote.
    Vote(Vote),
    /// A vote to commit a certified block.
    CommitVote(CommitVote),
    /// A timeout.
    Timeout(Timeout),
    /// A QC, asked for or volunteered.
    Qc(Qc),
    /// A TC, asked for or volunteered.
    Tc(Tc),
    /// Certificates that the sender holds (at most [`PeerMessage::CERT_REFS_MAX`]).
    CertRefs(Vec<CertRef>),
    /// Asks for a certificate.
    GetCert(CertRef),
    /// Asks for headers.
    GetBlocks(GetBlocks),
    /// Headers from newest to oldest, each the child of the next (at most
    /// [`BLOCKS_PER_ANSWER_MAX`]).
    Blocks(Vec<SignedHeader>),
    /// What the sender holds durably.
    Watermark(Watermark),
    /// Asks for batches.
    GetBatches(GetBatches),
    /// A batch, as its owner made it; parsed and checked by the receiver's verify stage.
    Batch(Bytes),
    /// Asks which snapshots the receiver has.
    GetSnapshot(GetSnapshot),
    /// The snapshots that the sender has.
    Snapshot(Box<SnapshotOffer>),
    /// Asks for a part of a snapshot.
    GetChunk(GetChunk),
    /// A part of a snapshot; judged by the manifest, whoever sent it.
    Chunk(Chunk),
    /// From a node that is in no validator set and shows no key: it wants to hear what is proposed
    /// and voted for, and to ask.
    Follow,
    /// Asks for the proof that an epoch is over.
    GetEpochProof(Epoch),
    /// An epoch is over; asked for, or told to a node that is still in it.
    EpochProof(Box<EpochProof>),
    /// A transaction that the sender has no lane for: it is not in the set, and says that it
    /// follows. Judged as a client's.
    Relay(Bytes),
}

impl PeerMessage {
    /// Most references in one message.
    pub const CERT_REFS_MAX: usize = 4;

    /// The frame's kind.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Header(_) => kind::HEADER,
            Self::Vote(_) => kind::VOTE,
            Self::CommitVote(_) => kind::COMMIT_VOTE,
            Self::Timeout(_) => kind::TIMEOUT,
            Self::Qc(_) => kind::QC,
            Self::Tc(_) => kind::TC,
            Self::CertRefs(_) => kind::CERT_REFS,
            Self::GetCert(_) => kind::GET_CERT,
            Self::GetBlocks(_) => kind::GET_BLOCKS,
            Self::Blocks(_) => kind::BLOCKS,
            Self::Watermark(_) => kind::WATERMARK,
            Self::GetBatches(_) => kind::GET_BATCHES,
            Self::Batch(_) => kind::BATCH,
            Self::GetSnapshot(_) => kind::GET_SNAPSHOT,
            Self::Snapshot(_) => kind::SNAPSHOT,
            Self::GetChunk(_) => kind::GET_CHUNK,
            Self::Chunk(_) => kind::CHUNK,
            Self::Follow => kind::FOLLOW,
            Self::Relay(_) => kind::RELAY,
            Self::GetEpochProof(_) => kind::GET_EPOCH_PROOF,
            Self::EpochProof(_) => kind::EPOCH_PROOF,
        }
    }

    /// The frame's payload.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        match self {
            Self::Header(m) => m.to_bytes().into(),
            Self::Vote(m) => m.to_bytes().into(),
            Self::CommitVote(m) => m.to_bytes().into(),
            Self::Timeout(m) => m.to_bytes().into(),
            Self::Qc(m) => m.to_bytes().into(),
            Self::Tc(m) => m.to_bytes().into(),
            Self::CertRefs(refs) => {
                let mut out = Vec::new();
                put_count16(&mut out, refs.len());
                for cert in refs {
                    cert.encode(&mut out);
                }
                out.into()
            }
            Self::GetCert(m) => m.to_bytes().into(),
            Self::GetBlocks(m) => m.to_bytes().into(),
            Self::Blocks(headers) => {
                let mut out = Vec::new();
                put_count16(&mut out, headers.len());
                for header in headers {
                    header.encode(&mut out);
                }
                out.into()
            }
            Self::Watermark(m) => m.to_bytes().into(),
            Self::GetBatches(m) => m.to_bytes().into(),
            Self::Batch(bytes) => bytes.clone(),
            Self::GetSnapshot(m) => m.to_bytes().into(),
            Self::Snapshot(m) => m.to_bytes().into(),
            Self::GetChunk(m) => m.to_bytes().into(),
            Self::Chunk(m) => m.to_payload(),
            Self::Follow => Bytes::new(),
            Self::GetEpochProof(epoch) => epoch.to_bytes().into(),
            Self::EpochProof(proof) => proof.to_bytes().into(),
            Self::Relay(tx) => tx.clone(),
        }
    }

    /// The epoch that the message belongs to. `None` for requests for headers, which name blocks
    /// of any epoch, for unparsed batches, for snapshots, and for what is said about epochs
    /// themselves.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Header(m) => Some(m.epoch),
            Self::Vote(m) => Some(m.epoch),
            Self::CommitVote(m) => Some(m.epoch),
            Self::Timeout(m) => Some(m.epoch),
            Self::Qc(m) => Some(m.epoch),
            Self::Tc(m) => Some(m.epoch),
            Self::CertRefs(refs) => refs.first().map(CertRef::epoch),
            Self::GetCert(m) => Some(m.epoch()),
            Self::Watermark(m) => Some(m.epoch),
            Self::Blocks(headers) => headers.first().map(|header| header.epoch),
            _ => None,
        }
    }

    /// Reads a frame.
    pub fn parse(kind: u8, payload: &Bytes) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        let message = match kind {
            kind::HEADER => Self::Header(SignedHeader::decode(&mut r)?),
            kind::VOTE => Self::Vote(Vote::decode(&mut r)?),
            kind::COMMIT_VOTE => Self::CommitVote(CommitVote::decode(&mut r)?),
            kind::TIMEOUT => Self::Timeout(Timeout::decode(&mut r)?),
            kind::QC => Self::Qc(Qc::decode(&mut r)?),
            kind::TC => Self::Tc(Tc::decode(&mut r)?),
            kind::CERT_REFS => {
                let n = r.count16("certificates", Self::CERT_REFS_MAX)?;
                let mut refs = Vec::with_capacity(n);
                for _ in 0..n {
                    refs.push(CertRef::decode(&mut r)?);
                }
                Self::CertRefs(refs)
            }
            kind::GET_CERT => Self::GetCert(CertRef::decode(&mut r)?),
            kind::GET_BLOCKS => Self::GetBlocks(GetBlocks::decode(&mut r)?),
            kind::BLOCKS => {
                let n = r.count16("headers", BLOCKS_PER_ANSWER_MAX)?;
                let mut headers = Vec::with_capacity(n);
                for _ in 0..n {
                    headers.push(SignedHeader::decode(&mut r)?);
                }
                Self::Blocks(headers)
            }
            kind::WATERMARK => Self::Watermark(Watermark::decode(&mut r)?),
            kind::GET_BATCHES => Self::GetBatches(GetBatches::decode(&mut r)?),
            kind::BATCH => return Ok(Self::Batch(payload.clone())),
            kind::GET_SNAPSHOT => Self::GetSnapshot(GetSnapshot::decode(&mut r)?),
            kind::SNAPSHOT => Self::Snapshot(Box::new(SnapshotOffer::decode(&mut r)?)),
            kind::GET_CHUNK => Self::GetChunk(GetChunk::decode(&mut r)?),
            kind::CHUNK => return Ok(Self::Chunk(Chunk::parse(payload)?)),
            kind::FOLLOW => Self::Follow,
            kind::GET_EPOCH_PROOF => Self::GetEpochProof(Epoch::decode(&mut r)?),
            kind::RELAY => return Ok(Self::Relay(payload.clone())),
            kind::EPOCH_PROOF => Self::EpochProof(Box::new(EpochProof::decode(&mut r)?)),
            _ => return Err(WireError::Value("frame kind")),
        };
        r.finish()?;
        Ok(message)
    }
}

impl Signed for PeerMessage {
    /// The claims of the message inside. Requests and watermarks stand on the channel's
    /// authentication alone; a batch is parsed and checked as a [`crate::batch::Batch`].
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        match self {
            Self::Header(m) => m.claims(chain, set, out),
            Self::Vote(m) => m.claims(chain, set, out),
            Self::CommitVote(m) => m.claims(chain, set, out),
            Self::Timeout(m) => m.claims(chain, set, out),
            Self::Qc(m) => m.claims(chain, set, out),
            Self::Tc(m) => m.claims(chain, set, out),
            Self::Snapshot(m) => m.claims(chain, set, out),
            Self::Blocks(headers) => headers
                .iter()
                .try_for_each(|header| header.claims(chain, set, out)),
            // Checked as a whole, with its certificate, by `EpochProof::verify`.
            Self::EpochProof(_) => Err(Invalid::Malformed("an epoch's proof is checked apart")),
            Self::CertRefs(_)
            | Self::GetCert(_)
            | Self::GetBlocks(_)
            | Self::Watermark(_)
            | Self::GetBatches(_)
            | Self::GetEpochProof(_)
            | Self::Batch(_)
            | Self::GetSnapshot(_)
            | Self::GetChunk(_)
            | Self::Chunk(_)
            | Self::Relay(_)
            | Self::Follow => Ok(()),
        }
    }
}

/// What came of a submission at the door.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// Verified and queued for this validator's lane.
    Accepted,
    /// Already queued or already executed.
    Duplicate,
    /// The validator is overloaded; try again after the given time, here or elsewhere.
    Busy {
        /// Milliseconds to wait.
        retry_after_ms: u32,
    },
    /// It would not execute; the outcome says why.
    Refused(Outcome),
}

impl Wire for Admission {
    fn encode(&self, out: &mut Vec<u8>) {
        let (code, value) = match self {
            Self::Accepted => (0, 0),
            Self::Duplicate => (1, 0),
            Self::Busy { retry_after_ms } => (2, *retry_after_ms),
            Self::Refused(outcome) => (3, u32::from(*outcome as u8)),
        };
        out.push(code);
        out.extend_from_slice(&value.to_le_bytes());
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let code = r.u8()?;
        let value = r.u32()?;
        match (code, value) {
            (0, 0) => Ok(Self::Accepted),
            (1, 0) => Ok(Self::Duplicate),
            (2, retry_after_ms) => Ok(Self::Busy { retry_after_ms }),
            (3, outcome) => {
                let byte = u8::try_from(outcome).map_err(|_| WireError::Value("outcome"))?;
                Ok(Self::Refused(Outcome::try_from(byte)?))
            }
            _ => Err(WireError::Value("admission")),
        }
    }
}

/// What client and validator say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// Client: transactions to commit. Each gets a result, in order, and later a receipt.
    Submit {
        /// Chosen by the client, repeated in the answer.
        tag: u64,
        /// Whole transactions, at least 1, at most [`SUBMIT_TXS_MAX`].
        txs: Vec<Bytes>,
    },
    /// Validator: what came of a submission, one entry a transaction.
    Results {
        /// The submission's tag.
        tag: u64,
        /// In the order of the submission.
        results: Vec<Admission>,
    },
    /// Validator: receipts of transactions that were submitted over this connection.
    Receipts(Vec<Receipt>),
    /// Client: asks for the proof of an executed transaction.
    GetProof(TxId),
    /// Validator: the proof ([`crate::wire::Wire`] bytes of a transaction proof), or nothing.
    Proof {
        /// The transaction.
        tx_id: TxId,
        /// The proof; empty when the validator has none.
        proof: Bytes,
    },
    /// Client: asks for the proof that an epoch is over.
    GetEpochProof(Epoch),
    /// Validator: the proof ([`crate::wire::Wire`] bytes of an epoch proof), or nothing.
    EpochProof {
        /// The epoch.
        epoch: Epoch,
        /// The proof; empty while the epoch goes on.
        proof: Bytes,
    },
}

impl ClientMessage {
    /// The frame's kind.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Submit { .. } => kind::SUBMIT,
            Self::Results { .. } => kind::RESULTS,
            Self::Receipts(_) => kind::RECEIPTS,
            Self::GetProof(_) => kind::GET_PROOF,
            Self::Proof { .. } => kind::PROOF,
            Self::GetEpochProof(_) => kind::CLIENT_GET_EPOCH_PROOF,
            Self::EpochProof { .. } => kind::CLIENT_EPOCH_PROOF,
        }
    }

    /// The frame's payload.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Submit { tag, txs } => {
                out.extend_from_slice(&tag.to_le_bytes());
                put_count16(&mut out, txs.len());
                for tx in txs {
                    put_count16(&mut out, tx.len());
                    out.extend_from_slice(tx);
                }
            }
            Self::Results { tag, results } => {
                out.extend_from_slice(&tag.to_le_bytes());
                put_count16(&mut out, results.len());
                for result in results {
                    result.encode(&mut out);
                }
            }
            Self::Receipts(receipts) => {
                put_count32(&mut out, receipts.len());
                for receipt in receipts {
                    receipt.encode(&mut out);
                }
            }
            Self::GetProof(tx_id) => out.extend_from_slice(tx_id.as_ref()),
            Self::Proof { tx_id, proof } => {
                out.extend_from_slice(tx_id.as_ref());
                out.extend_from_slice(proof);
            }
            Self::GetEpochProof(epoch) => epoch.encode(&mut out),
            Self::EpochProof { epoch, proof } => {
                epoch.encode(&mut out);
                out.extend_from_slice(proof);
            }
        }
        out.into()
    }

    /// Reads a frame; transactions and proofs share its buffer.
    pub fn parse(kind: u8, payload: &Bytes) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        let message = match kind {
            kind::SUBMIT => {
                let tag = r.u64()?;
                let n = r.count16("transactions", SUBMIT_TXS_MAX)?;
                if n == 0 {
                    return Err(WireError::Value("transactions"));
                }
                let mut txs = Vec::with_capacity(n);
                for _ in 0..n {
                    let len = usize::from(r.u16()?);
                    txs.push(payload.slice_ref(r.bytes(len)?));
                }
                Self::Submit { tag, txs }
            }
            kind::RESULTS => {
                let tag = r.u64()?;
                let n = r.count16("results", SUBMIT_TXS_MAX)?;
                let mut results = Vec::with_capacity(n);
                for _ in 0..n {
                    results.push(Admission::decode(&mut r)?);
                }
                Self::Results { tag, results }
            }
            kind::RECEIPTS => {
                let n = r.count32("receipts", RECEIPTS_MAX)?;
                let mut receipts = Vec::with_capacity(n.min(r.remaining() / Receipt::LEN + 1));
                for _ in 0..n {
                    receipts.push(Receipt::decode(&mut r)?);
                }
                Self::Receipts(receipts)
            }
            kind::GET_PROOF => Self::GetProof(r.digest()?),
            kind::PROOF => {
                let tx_id = r.digest()?;
                let rest = r.bytes(r.remaining())?;
                Self::Proof {
                    tx_id,
                    proof: payload.slice_ref(rest),
                }
            }
            kind::CLIENT_GET_EPOCH_PROOF => Self::GetEpochProof(Epoch::decode(&mut r)?),
            kind::CLIENT_EPOCH_PROOF => {
                let epoch = Epoch::decode(&mut r)?;
                let rest = r.bytes(r.remaining())?;
                Self::EpochProof {
                    epoch,
                    proof: payload.slice_ref(rest),
                }
            }
            _ => return Err(WireError::Value("frame kind")),
        };
        r.finish()?;
        Ok(message)
    }
}
