//! What goes into the mempool and what comes out.

use std::sync::Arc;

use bytes::Bytes;
pub use falconet_types::batch::SignedBatchHeader;
use falconet_types::batch::{Batch, BatchHeader, Watermark};
use falconet_types::block::{Cut, LaneTip, SignedHeader};
use falconet_types::genesis::Params;
use falconet_types::message::{GetBatches, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::validators::ValidatorSet;
use falconet_types::{AccountId, ChainId, Epoch, Height, Seq, TxId, ValidatorIndex};

/// What the mempool must know from the start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The chain; part of every signed batch.
    pub chain_id: ChainId,
    /// This validator; [`ValidatorIndex::NOBODY`] when its key is not in the set: then it has no
    /// lane, acknowledges nothing, and only fetches what is committed.
    pub me: ValidatorIndex,
    /// The validators of the epoch.
    pub set: Arc<ValidatorSet>,
    /// Parameters of genesis.
    pub params: Params,
}

/// What a restarted node knows from its disk.
///
/// The point of recovery is the last *executed* block, not the last committed one: the shell
/// hands the committed headers above it in as [`Input::Committed`], in order, and the mempool
/// delivers their payload again, from `batches` where it is there and from peers where it is not.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// Height up to which execution is durable; 0 on a fresh start.
    pub executed: Height,
    /// The cut of the block at that height; [`Cut::empty`] on a fresh start.
    pub cut: Cut,
    /// Every durable batch above that cut, of all lanes and all branches, in the order in which
    /// they were persisted. It must be complete for the own lane: this is what keeps the node
    /// from sealing a second batch for a sequence number.
    pub batches: Vec<Batch>,
    /// Transactions of epochs that are over which no block names and this node is to see to, see
    /// [`crate::takes_over`]: they were accepted, perhaps by this node, before it stopped.
    pub unsettled: Vec<Bytes>,
}

/// Why the mempool cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The index of this node is beyond the set and not [`ValidatorIndex::NOBODY`].
    #[error("validator {0} is not in the validator set of {1}; check the genesis file and the key")]
    NotInSet(ValidatorIndex, usize),
    /// The recovered cut belongs to another set.
    #[error(
        "the recovered cut has {found} lanes, the validator set has {expected}; the data directory belongs to another chain"
    )]
    Lanes {
        /// Lanes in the cut.
        found: usize,
        /// Validators in the set.
        expected: usize,
    },
    /// A recovered batch belongs to another epoch or to no lane.
    #[error(
        "a recovered batch (lane {0}, seq {1}) is of another epoch or of no validator; the data directory belongs to another chain"
    )]
    Batch(ValidatorIndex, Seq),
}

/// What the mempool is told.
#[derive(Debug, Clone)]
pub enum Input {
    /// A batch arrived: streamed by its owner, or in answer to a request.
    Batch {
        /// Who sent it.
        from: ValidatorIndex,
        /// The batch; parsed, signature checked against the lane's owner.
        batch: Verified<Batch>,
    },
    /// What a peer holds durably.
    Watermark {
        /// Whose it is, known from the channel.
        from: ValidatorIndex,
        /// The tips.
        watermark: Watermark,
    },
    /// A peer asks for batches.
    GetBatches {
        /// Who asks.
        from: ValidatorIndex,
        /// For what.
        request: GetBatches,
    },
    /// A block was committed. In height order, each height once, without gaps; at most
    /// [`crate::Mempool::committed_room`] more may follow.
    Committed {
        /// The block.
        header: Arc<SignedHeader>,
        /// The cut of its parent.
        parent_cut: Cut,
    },
    /// Blocks up to this height were executed. Their batches leave memory; the store keeps them
    /// until [`Effect::Prune`]. Execution need not be durable yet: after a crash the shell starts
    /// from the height that is ([`Recovered::executed`]).
    Executed {
        /// The height.
        height: Height,
    },
    /// An authenticated connection to a peer is up.
    PeerUp(ValidatorIndex),
    /// The connection to a peer is gone.
    PeerDown(ValidatorIndex),
    /// Time passed, or transactions were admitted.
    Tick,
}

/// A verified transaction that asks for a place in the own lane.
#[derive(Debug, Clone)]
pub struct Offered {
    /// Its identity.
    pub id: TxId,
    /// All its bytes.
    pub bytes: Bytes,
    /// Whose it is, for quotas; `None` where nobody can tell.
    pub sender: Option<AccountId>,
    /// What counts when not all can be sealed: the fee.
    pub priority: u64,
    /// Names the transaction in [`Effect::Sealed`] and among the evicted.
    pub ticket: u64,
}

/// A waiting transaction that made room for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Its identity.
    pub id: TxId,
    /// Its ticket.
    pub ticket: u64,
}

/// What the mempool wants done. Within one call the order matters only for the records.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Make the batch durable. A second branch of a forked lane is persisted beside the first: the
    /// store must not let one batch replace another of the same sequence number.
    Persist(Batch),
    /// These admitted transactions are in the own batch that is persisted next.
    Sealed {
        /// Their tickets.
        tickets: Vec<u64>,
    },
    /// Send to all connected peers.
    Broadcast(PeerMessage),
    /// Send to one peer.
    Send {
        /// The peer.
        to: ValidatorIndex,
        /// The message.
        message: PeerMessage,
    },
    /// Read batches from the store and send each as [`PeerMessage::Batch`], newest first, until
    /// `bytes_max` is reached or passed. What the store lacks is left out.
    Serve {
        /// The peer that asked.
        to: ValidatorIndex,
        /// Epoch of the lane: the current one or an earlier one.
        epoch: Epoch,
        /// The lane.
        lane: ValidatorIndex,
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number: where to begin.
        last: Seq,
        /// Bytes after which to stop.
        bytes_max: u64,
    },
    /// The next block with its whole payload, in height order. Every batch in it was handed out
    /// as [`Effect::Persist`] before, or recovered.
    Deliver(Payload),
    /// Batches at and below `cut` are older than the history kept for peers
    /// (`history_heights_min`) and may be deleted.
    Prune {
        /// The height whose block has this cut.
        height: Height,
        /// How far each lane may be deleted.
        cut: Cut,
    },
    /// `propose`, `has_work` or `available` may answer differently now.
    PayloadChanged,
    /// A lane's owner signed two batches that cannot both be in one lane.
    Evidence(Box<Evidence>),
}

/// A committed block and its transactions.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The block.
    pub header: Arc<SignedHeader>,
    /// Its batches: lanes in ascending order, each from its oldest batch to its newest.
    pub batches: Vec<Batch>,
}

/// Proof that a lane's owner forked its lane: two signed headers of one sequence number, or one
/// that does not name the other as its predecessor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The header seen first, on the branch that this node holds.
    pub first: SignedBatchHeader,
    /// The header that contradicts it.
    pub second: SignedBatchHeader,
}

impl Evidence {
    /// True when the two headers contradict each other. Signatures are not checked here.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let (a, b) = (&self.first.header, &self.second.header);
        if (a.epoch, a.lane) != (b.epoch, b.lane) {
            return false;
        }
        let gap = |low: &BatchHeader, high: &BatchHeader| {
            low.seq.0.checked_add(1) == Some(high.seq.0) && high.prev_hash != low.hash()
        };
        (a.seq == b.seq && a.hash() != b.hash()) || gap(a, b) || gap(b, a)
    }
}

/// Whether this node may seal batches, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnLaneState {
    /// Never: this node's key is not in the set, it has no lane.
    Absent,
    /// Not yet: a quorum must tell first how far it saw this lane, because the disk may be an old
    /// copy. Costs nothing: without a quorum no batch could be committed.
    Waiting,
    /// Yes.
    Open,
    /// The others know batches of this lane that the disk does not have: the disk was restored
    /// from an old copy. They are fetched first, up to this one.
    Behind {
        /// Highest batch of this lane that is known to exist.
        target: Seq,
    },
    /// A signed batch contradicts this node's own: the key is, or was, used by a second process.
    /// Sealing stays off until a restart.
    Forked,
}

/// What may be admitted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intake {
    /// Bytes of transactions for which there is room, length prefixes included.
    pub room_bytes: u64,
    /// Beyond the room a transaction of a higher priority than this may get the place of another;
    /// `None` when nothing waits, or nothing is taken at all.
    pub outbid: Option<u64>,
    /// What a transaction is told that finds no room, milliseconds.
    pub retry_after_ms: u32,
}

/// One lane, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneStatus {
    /// Last batch held durably and without gap.
    pub tip: LaneTip,
    /// Last batch that a quorum holds, as far as known here.
    pub quorum: Seq,
    /// Last committed batch.
    pub committed: Seq,
    /// Payload bytes held above the last committed batch.
    pub backlog_bytes: u64,
    /// True once the owner was caught forking the lane.
    pub forked: bool,
}

/// What happened since the start; every counter only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Transactions admitted to the own lane.
    pub admitted: u64,
    /// Transactions refused as duplicates.
    pub duplicates: u64,
    /// Transactions refused because the lane was busy.
    pub busy: u64,
    /// Waiting transactions that made room for others with a higher fee.
    pub evicted: u64,
    /// Batches sealed.
    pub sealed: u64,
    /// Batches of peers accepted and acknowledged.
    pub accepted: u64,
    /// Batches that were held already, or are no longer wanted.
    pub stale: u64,
    /// Batches dropped because the lane ran too far ahead, or too many arrived early.
    pub over_quota: u64,
    /// Contradicting batches.
    pub forks: u64,
    /// Committed lane ranges that do not continue the range committed before them.
    pub broken_links: u64,
    /// Watermarks that went backwards or named a lane or epoch that does not exist.
    pub watermarks_refused: u64,
    /// Requests for batches sent.
    pub requests: u64,
    /// Requests that ran out of time.
    pub requests_failed: u64,
    /// Batches received for committed blocks.
    pub fetched: u64,
    /// Answers that held another branch than the one that was asked for.
    pub wrong_branch: u64,
    /// Requests of peers answered.
    pub served: u64,
    /// Requests of peers refused: over the peer's rate, or malformed.
    pub serve_refused: u64,
    /// Blocks delivered.
    pub delivered: u64,
    /// Epochs started.
    pub epochs_started: u64,
}

/// A snapshot for status pages and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether this node may seal.
    pub own_lane: OwnLaneState,
    /// Transactions that wait to be sealed.
    pub pending_txs: usize,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Payload bytes that may be sealed and not executed now; shrinks when it takes long.
    pub window_bytes: u64,
    /// Time from sealing to commit of the own batches, milliseconds, smoothed.
    pub commit_latency_ms: u64,
    /// Time from sealing to execution of the own batches, milliseconds, smoothed.
    pub execution_latency_ms: u64,
    /// Highest committed height that was handed in.
    pub committed: Height,
    /// Highest delivered height.
    pub delivered: Height,
    /// Highest executed height.
    pub executed: Height,
    /// Batches of committed blocks that are still missing.
    pub fetch_debt_batches: u64,
    /// Committed payload that waits for execution, bytes.
    pub execution_debt_bytes: u64,
    /// Requests for batches in flight.
    pub requests: usize,
    /// Every lane, in order.
    pub lanes: Vec<LaneStatus>,
    /// What happened so far.
    pub counters: Counters,
}

impl Status {
    /// Lanes whose owners were caught forking them.
    #[must_use]
    pub fn evidence(&self) -> u64 {
        self.lanes.iter().filter(|lane| lane.forked).count() as u64
    }
}
