//! What a validator says of itself, as the HTTP API and the command line show it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use falconet_types::Digest;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The answer of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Chain id, hexadecimal.
    pub chain_id: String,
    /// The chain's name.
    pub name: String,
    /// `ledger` or `opaque`.
    pub application: String,
    /// Signature scheme of this validator's key.
    pub scheme: String,
    /// This validator's index.
    pub validator: u16,
    /// This validator's name.
    pub validator_name: String,
    /// Version of the software.
    pub version: String,
    /// Epoch.
    pub epoch: u64,
    /// Current round.
    pub round: u64,
    /// Leader of the current round.
    pub leader: u16,
    /// Round of the highest QC.
    pub high_qc_round: u64,
    /// Height of the last committed block.
    pub height: u64,
    /// Id of the last committed block, hexadecimal.
    pub committed_block: String,
    /// Height of the last executed block.
    pub executed_height: u64,
    /// State commitment after the last executed block, hexadecimal.
    pub state_commitment: String,
    /// Transactions that took effect, since the process started.
    pub transactions_committed: u64,
    /// Transactions that were ordered and failed, since the process started.
    pub transactions_failed: u64,
    /// Transactions that wait in this validator's lane for a batch.
    pub transactions_pending: u64,
    /// False when this validator must not sign.
    pub signing: bool,
    /// Why it must not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_signing_reason: Option<String>,
    /// True for a node whose key is in no validator's place: it follows, and signs nothing.
    #[serde(default)]
    pub follower: bool,
    /// While the state is fetched from peers: the snapshot's height.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_height: Option<u64>,
    /// Parts of 65,536 of it that are still missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_buckets_missing: Option<u64>,
    /// True while it fetches blocks that others have committed.
    pub syncing: bool,
    /// Always true: votes, proposals, batches and commits are on disk before they count.
    pub fsync: bool,
    /// Every validator of the epoch.
    pub peers: Vec<PeerStatus>,
    /// Clients that are connected.
    pub clients: usize,
    /// Address prefixes of clients that are turned away now.
    #[serde(default)]
    pub prefixes_banned: usize,
    /// Rounds that ended by a timeout certificate, since the process started.
    pub rounds_timed_out: u64,
    /// Blocks committed, since the process started.
    #[serde(default)]
    pub blocks_committed: u64,
    /// Those of them that commit votes committed, before the 2-chain above them could.
    #[serde(default)]
    pub blocks_committed_by_votes: u64,
    /// Pieces of evidence of misbehaviour seen, since the process started.
    pub evidence: u64,
    /// Signature verification code in use.
    pub verifier_backend: String,
}

/// One validator as another sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Index.
    pub index: u16,
    /// Name in genesis.
    pub name: String,
    /// True for a connected peer, and for the validator itself.
    pub connected: bool,
    /// How it behaves: 100 is spotless, 0 during a ban.
    #[serde(default = "spotless")]
    pub score: u8,
    /// While it is throttled: until when, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub banned_until_ms: Option<u64>,
    /// The path to a connected peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathStatus>,
}

fn spotless() -> u8 {
    crate::peers::score::SCORE_MAX
}

/// The network path to a peer, as its connection measures it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// `loopback`, `lan`, `metro` or `wide`: what the connection is tuned to.
    pub tier: String,
    /// Least round-trip time, microseconds.
    pub rtt_min_us: u64,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u64,
    /// Largest UDP payload that passes, bytes.
    pub mtu_bytes: u16,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets lost.
    pub packets_lost: u64,
}

impl From<falconet_dataplane::PathInfo> for PathStatus {
    fn from(path: falconet_dataplane::PathInfo) -> Self {
        Self {
            tier: path.tier.name().into(),
            rtt_min_us: path.rtt_min.as_micros() as u64,
            rtt_us: path.rtt.as_micros() as u64,
            mtu_bytes: path.mtu,
            packets_sent: path.packets_sent,
            packets_lost: path.packets_lost,
        }
    }
}

/// Executed blocks that are remembered for the live view.
pub const RECENT_BLOCKS_MAX: usize = 32;

/// One executed block at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSummary {
    /// Height.
    pub height: u64,
    /// Id, hexadecimal.
    pub id: String,
    /// Round.
    pub round: u64,
    /// Index of the leader who proposed it.
    pub author: u16,
    /// The leader's clock, milliseconds since 1970.
    pub time_ms: u64,
    /// Transactions in it, whatever their outcome.
    pub transactions: u64,
    /// Bytes of its batches.
    pub bytes: u64,
}

/// What the core thread last said.
#[derive(Debug, Clone)]
pub struct CoreStatus {
    /// The HotStuff core.
    pub hotstuff: falconet_hotstuff::Status,
    /// The mempool core.
    pub mempool: falconet_mempool::Status,
}

/// What the executor last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutionStatus {
    /// Height of the last executed block.
    pub height: u64,
    /// State commitment after it.
    pub commitment: Digest,
}

/// Where the stages leave their condition for whoever asks.
pub struct StatusBoard {
    /// The core's.
    pub core: Mutex<CoreStatus>,
    /// The executor's.
    pub execution: Mutex<ExecutionStatus>,
    /// Turns of the core since the process started; the watchdog looks at it.
    pub turns: Arc<AtomicU64>,
    /// The snapshot that is being fetched.
    pub catchup: Mutex<falconet_sync::Status>,
    /// Told when the stages must start again, because a snapshot waits for its installation.
    restart: tokio::sync::Notify,
    recent: Mutex<VecDeque<BlockSummary>>,
    fatal: Mutex<Option<Arc<str>>>,
}

impl StatusBoard {
    /// A board with first entries.
    #[must_use]
    pub fn new(core: CoreStatus, execution: ExecutionStatus) -> Self {
        Self {
            core: Mutex::new(core),
            execution: Mutex::new(execution),
            turns: Arc::default(),
            catchup: Mutex::default(),
            restart: tokio::sync::Notify::new(),
            recent: Mutex::new(VecDeque::with_capacity(RECENT_BLOCKS_MAX)),
            fatal: Mutex::new(None),
        }
    }

    /// The stages must start again.
    pub fn ask_for_restart(&self) {
        self.restart.notify_one();
    }

    /// Returns when somebody asked for a restart of the stages.
    pub async fn restart_asked(&self) {
        self.restart.notified().await;
    }

    /// Remembers an executed block.
    pub fn block(&self, block: BlockSummary) {
        let mut recent = self.recent.lock();
        if recent.len() == RECENT_BLOCKS_MAX {
            recent.pop_front();
        }
        recent.push_back(block);
    }

    /// The blocks executed last, newest first.
    #[must_use]
    pub fn recent_blocks(&self) -> Vec<BlockSummary> {
        self.recent.lock().iter().rev().cloned().collect()
    }

    /// Records why this validator can no longer take part. The first reason stays.
    pub fn fail(&self, reason: String) {
        self.fatal.lock().get_or_insert_with(|| reason.into());
    }

    /// Why this validator can no longer take part.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<str>> {
        self.fatal.lock().clone()
    }
}
