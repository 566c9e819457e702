//! What the stages hand to each other.
//!
//! ```text
//!  STOQ ─▶ inbound ─▶ verify ─▶ core ─▶ persist ─▶ peers, clients
//!                                          └─────▶ execute ─▶ clients, state
//! ```
//!
//! Every arrow is a bounded queue. Frames keep their share of the transport's event budget (a
//! lease) until the verify stage has dealt with them, so a slow stage makes the transport stop
//! reading and QUIC's flow control stops the sender.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use falconet_dataplane::{ConnId, FrameLease};
use falconet_mempool::Payload;
use falconet_store::Record;
use falconet_types::batch::Batch;
use falconet_types::epoch::EpochProof;
use falconet_types::message::{Admission, GetBlocks, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::snapshot::{GetChunk, GetSnapshot};
use falconet_types::validators::VALIDATORS_MAX;
use falconet_types::{AccountId, Digest, Epoch, Height, Seq, TxId, ValidatorIndex};
use tokio::sync::oneshot;

use crate::epochs::Ending;
use crate::room::Reserved;
use crate::shelf;

/// Inputs that may wait for the core.
pub const CORE_QUEUE_MAX: usize = 8192;
/// Turns that may wait for the log.
pub const TURN_QUEUE_MAX: usize = 64;
/// Blocks that may wait for execution. The mempool hands out at most one window ahead of
/// execution, so this queue never fills and the log never waits for the ledger.
pub const EXECUTE_QUEUE_MAX: usize = 2 * falconet_mempool::limits::PAYLOAD_WINDOW_BLOCKS as usize;
/// Requests for history that may wait.
pub const HISTORY_QUEUE_MAX: usize = 256;
/// Frames that may wait for verification, in each of its two queues. The transport's event
/// budget is the tighter bound.
pub const VERIFY_QUEUE_MAX: usize = 16_384;

/// A consensus message that waits for its signatures to be checked.
pub struct Unverified {
    /// The connection's validator when it arrived.
    pub from: ValidatorIndex,
    /// The connection. Indices change with the epoch, this does not.
    pub conn: ConnId,
    /// Parsed, signatures not checked.
    pub message: PeerMessage,
    /// Held until it is checked.
    pub lease: FrameLease,
}

/// Work for the verify stage that comes in bulk.
pub enum Bulk {
    /// Transactions of a client.
    Submission {
        /// Whom to answer.
        reply: ReplyTo,
        /// Whole transactions.
        txs: Vec<Bytes>,
        /// Held until they are checked; none for the HTTP API, which limits requests itself.
        lease: Option<FrameLease>,
    },
    /// A batch of a peer.
    Batch {
        /// The connection's validator when it arrived.
        from: ValidatorIndex,
        /// The connection.
        conn: ConnId,
        /// As received.
        bytes: Bytes,
        /// Held until it is checked.
        lease: FrameLease,
        /// Held until the core has it.
        arrival: Arrival,
    },
}

/// How many batches each validator sent that the core has not seen yet.
#[derive(Debug)]
pub struct Arrivals(Vec<Arc<AtomicU32>>);

/// One of them; it counts until it is dropped.
#[derive(Debug)]
pub struct Arrival(Option<Arc<AtomicU32>>);

impl Default for Arrivals {
    fn default() -> Self {
        Self((0..VALIDATORS_MAX).map(|_| Arc::default()).collect())
    }
}

impl Arrivals {
    /// A batch came from a validator. What others send counts for nothing.
    #[must_use]
    pub fn note(&self, from: ValidatorIndex) -> Arrival {
        let count = self.0.get(from.at());
        Arrival(count.map(|count| {
            count.fetch_add(1, Ordering::Relaxed);
            Arc::clone(count)
        }))
    }

    /// Whether batches from a validator are on their way to the core.
    #[must_use]
    pub fn any(&self, from: ValidatorIndex) -> bool {
        let count = self.0.get(from.at());
        count.is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whom to answer about a submission.
pub enum ReplyTo {
    /// A STOQ client.
    Stoq {
        /// Its connection.
        conn: ConnId,
        /// The submission's tag.
        tag: u64,
    },
    /// A request of the HTTP API.
    Http(oneshot::Sender<Vec<Admission>>),
    /// Nobody: this validator speaks for itself, or for one that waits to join.
    Nobody,
}

/// One transaction of a submission after the door: refused, or ready for the lane.
pub enum Checked {
    /// Valid as far as can be known now.
    Good {
        /// Its identity.
        id: TxId,
        /// All its bytes.
        bytes: Bytes,
        /// Whose it is, for quotas; `None` on an opaque chain.
        sender: Option<AccountId>,
        /// What counts when the queue is full: the fee.
        priority: u64,
    },
    /// Would not execute.
    Refused(Admission),
}

/// What reaches the core.
pub enum CoreInput {
    /// A message of a validator; its signatures, where it has any, were checked.
    Peer {
        /// The connection.
        conn: ConnId,
        /// The message.
        message: Verified<PeerMessage>,
    },
    /// A batch of a validator.
    Batch {
        /// The connection.
        conn: ConnId,
        /// Parsed, owner's signature checked.
        batch: Verified<Batch>,
        /// Held until the core has it.
        arrival: Arrival,
    },
    /// A message of the next epoch, not checked: this node does not know its validators yet.
    Early {
        /// The connection.
        conn: ConnId,
        /// The message.
        message: PeerMessage,
    },
    /// A message of another epoch arrived that is of no use in this one.
    OtherEpoch {
        /// The connection.
        conn: ConnId,
        /// Epoch of the message.
        epoch: Epoch,
    },
    /// Transactions that passed the door.
    Submission {
        /// Whom to answer.
        reply: ReplyTo,
        /// In the order of the submission.
        txs: Vec<Checked>,
        /// The room that they were given.
        reserved: Reserved,
    },
    /// Nothing but a reason for a turn: the watchdog wants to see one.
    Beat,
    /// A validator is connected.
    PeerUp(ConnId),
    /// A validator is no longer connected.
    PeerDown(ConnId),
}

/// Execution's word to the core. It has a channel of its own without a bound, so that core, log
/// and execution can never wait for each other in a circle; there is at most one for each block
/// of the mempool's window.
pub struct Executed {
    /// Height of the block.
    pub height: Height,
    /// State commitment after it.
    pub commitment: Digest,
    /// What the next epoch is made of, if the block is the last one of its epoch.
    pub ending: Option<Box<Ending>>,
}

/// Where a message goes.
pub enum To {
    /// Every connected validator.
    All,
    /// One validator.
    One(ValidatorIndex),
}

/// A request for history that the core does not hold in memory.
pub enum HistoryRequest {
    /// Headers from a block towards genesis.
    Blocks {
        /// Who asks.
        to: ValidatorIndex,
        /// What for.
        request: GetBlocks,
    },
    /// The proof that an epoch is over.
    EpochProof {
        /// Who asks, or lags.
        to: ValidatorIndex,
        /// The epoch.
        epoch: Epoch,
    },
    /// The same for a client.
    ClientEpochProof {
        /// Who asks.
        conn: ConnId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Batches of a lane, newest first.
    Batches {
        /// Who asks.
        to: ValidatorIndex,
        /// Epoch of the lane.
        epoch: Epoch,
        /// The lane.
        lane: ValidatorIndex,
        /// Lowest sequence number.
        first: Seq,
        /// Highest sequence number.
        last: Seq,
        /// Bytes after which to stop.
        bytes_max: u64,
    },
    /// Which snapshots there are.
    Snapshot {
        /// Who asks.
        to: ValidatorIndex,
        /// Whose manifest is wanted.
        request: GetSnapshot,
    },
    /// A part of a snapshot.
    Chunk {
        /// Who asks.
        to: ValidatorIndex,
        /// Which part.
        request: GetChunk,
    },
    /// The proof of a transaction, for a client.
    Proof {
        /// Who asks.
        conn: ConnId,
        /// The transaction.
        tx_id: TxId,
    },
}

/// Everything that one turn of the core wants done. Nothing of it leaves before the records of
/// this and all earlier turns are on disk.
#[derive(Default)]
pub struct Turn {
    /// For the log, in order.
    pub records: Vec<Record>,
    /// For validators.
    pub sends: Vec<(To, PeerMessage)>,
    /// For clients.
    pub replies: Vec<(ReplyTo, Vec<Admission>)>,
    /// For execution, in height order.
    pub payloads: Vec<Payload>,
    /// For the history server.
    pub history: Vec<HistoryRequest>,
    /// The proof that an epoch is over: it becomes durable before all else of the turn.
    pub epoch: Option<Arc<EpochProof>>,
    /// Evidence that is to be remembered or forgotten.
    pub evidence: Vec<shelf::Change>,
    /// Blocks and batches at and below this height may be deleted.
    pub prune: Option<Height>,
}

impl Turn {
    /// True when there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.sends.is_empty()
            && self.replies.is_empty()
            && self.payloads.is_empty()
            && self.history.is_empty()
            && self.epoch.is_none()
            && self.evidence.is_empty()
            && self.prune.is_none()
    }
}
