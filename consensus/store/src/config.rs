//! What the store is told when it opens, and what it says it found.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use falconet_types::block::SignedHeader;
use falconet_types::certificate::{Qc, Tc};
use falconet_types::{ChainId, Digest, Height};

use crate::disk::{Disk, SystemDisk};
use crate::record::{Committed, RECORD_BYTES_MAX};

/// Size of a segment file unless told otherwise, bytes.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Smallest segment that is accepted: the largest record and as much again, bytes.
pub const SEGMENT_BYTES_MIN: u64 = 2 * RECORD_BYTES_MAX as u64;
/// Largest segment that is accepted, bytes: offsets inside a segment have four bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Memory that the state database may use for its cache unless told otherwise, bytes.
pub const STATE_CACHE_BYTES: usize = 256 << 20;
/// The state is made durable after this many blocks, so a restart replays at most so many and
/// those that were committed but not executed yet.
pub const STATE_FLUSH_BLOCKS: u64 = 256;

/// How to open a store. `StoreConfig::new(chain, key)` is right for a validator.
#[derive(Clone)]
pub struct StoreConfig {
    /// The chain that the directory must belong to.
    pub chain_id: ChainId,
    /// Id of the validator's key, which the directory must belong to.
    pub key_id: Digest,
    /// Size of a segment file, bytes; existing segments keep theirs.
    pub segment_bytes: u64,
    /// Memory for the cache of the state database, bytes.
    pub state_cache_bytes: usize,
    /// Blocks between two durable commits of the state.
    pub state_flush_blocks: u64,
    /// How files are written and synced. Anything but [`SystemDisk`] is for tests.
    pub disk: Arc<dyn Disk>,
}

impl StoreConfig {
    /// The configuration of a validator.
    #[must_use]
    pub fn new(chain_id: ChainId, key_id: Digest) -> Self {
        Self {
            chain_id,
            key_id,
            segment_bytes: SEGMENT_BYTES,
            state_cache_bytes: STATE_CACHE_BYTES,
            state_flush_blocks: STATE_FLUSH_BLOCKS,
            disk: Arc::new(SystemDisk),
        }
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("chain_id", &self.chain_id)
            .field("key_id", &self.key_id)
            .field("segment_bytes", &self.segment_bytes)
            .field("state_cache_bytes", &self.state_cache_bytes)
            .field("state_flush_blocks", &self.state_flush_blocks)
            .finish_non_exhaustive()
    }
}

/// What became of the newest safety record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Safety {
    /// None was ever written: the validator may start from nothing if the log is empty too.
    Absent,
    /// The newest record that was written durably.
    Intact(Bytes),
    /// The newest record was durable and is damaged. The validator must not sign.
    Corrupt {
        /// Which bytes of which file, and what is wrong with them.
        why: String,
    },
}

/// What the log held when it was opened.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// True when the directory was made by this call.
    pub fresh: bool,
    /// The newest safety record.
    pub safety: Safety,
    /// The highest commit mark.
    pub committed: Option<Committed>,
    /// Headers from the last committed block upward, that block's own included, in the order of
    /// their heights. All headers when nothing is committed.
    pub headers: Vec<SignedHeader>,
    /// QCs from the round of the last committed block upward, in the order of rounds.
    pub qcs: Vec<Qc>,
    /// TCs from the round of the last committed block upward, in the order of rounds.
    pub tcs: Vec<Tc>,
    /// Height of the state. Committed blocks above it must be executed again.
    pub state_height: Height,
    /// Complete records in the segment that was being written.
    pub tail_records: u64,
    /// Bytes of an incomplete tail that were dropped: writes that no sync had confirmed.
    pub tail_bytes_dropped: u64,
}
