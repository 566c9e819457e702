//! The readers' half: any number of threads find records by what names them.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use falconet_types::batch::Batch;
use falconet_types::block::{LaneTip, SignedHeader};
use falconet_types::certificate::{Qc, Tc};
use falconet_types::wire::Wire;
use falconet_types::{BlockId, ChainId, Digest, Epoch, Height, Round, Seq, TxId, ValidatorIndex};
use parking_lot::RwLock;

use crate::error::StoreError;
use crate::index::{Index, Location};
use crate::record::{Committed, Kind};
use crate::state::{BlockRow, StateView, TxLocation};

/// What writer and readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub log_dir: PathBuf,
    pub chain: ChainId,
    pub index: RwLock<Index>,
    /// Height up to which the state is durable.
    pub state_durable: Arc<AtomicU64>,
    /// Locked as long as anything of the store lives.
    pub _lock: File,
}

impl Shared {
    pub(crate) fn state_durable(&self) -> Height {
        Height(self.state_durable.load(Ordering::Acquire))
    }

    /// Reads a record and checks its checksums.
    pub(crate) fn payload(&self, kind: Kind, location: Location) -> Result<Bytes, StoreError> {
        // The segment is fetched under the lock and read without it: pruning may unlink the file
        // meanwhile, which an open file survives.
        let segment = self.index.read().segment(location);
        segment.read_frame(u64::from(location.at), kind, location.len)
    }

    pub(crate) fn value<T: Wire>(&self, kind: Kind, location: Location) -> Result<T, StoreError> {
        let payload = self.payload(kind, location)?;
        T::from_bytes(&payload).map_err(|e| self.unreadable(location, &e))
    }

    fn unreadable(&self, location: Location, why: &dyn std::fmt::Display) -> StoreError {
        let segment = self.index.read().segment(location);
        segment.corrupt(
            u64::from(location.at),
            format!("the record cannot be parsed: {why}"),
        )
    }
}

/// Finds records. Cheap to clone; may be used from any thread.
///
/// Records are visible as soon as they were appended, durable or not. A record of which the
/// medium damaged a byte is reported as [`StoreError::Corrupt`], never returned.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
    pub(crate) state: StateView,
}

/// What proves to others that a block is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitProof {
    /// The commit mark with the child's QC.
    pub committed: Committed,
    /// The child's header.
    pub child: SignedHeader,
}

impl Reader {
    /// True when the batch is in the log.
    #[must_use]
    pub fn has_batch(&self, hash: &Digest) -> bool {
        self.shared.index.read().batches.contains_key(hash)
    }

    /// A batch as it was received: to be sent to a peer, who checks it.
    pub fn batch_bytes(&self, hash: &Digest) -> Result<Option<Bytes>, StoreError> {
        let Some(location) = self.shared.index.read().batches.get(hash).copied() else {
            return Ok(None);
        };
        self.shared.payload(Kind::Batch, location).map(Some)
    }

    /// A batch.
    pub fn batch(&self, hash: &Digest) -> Result<Option<Batch>, StoreError> {
        let Some(location) = self.shared.index.read().batches.get(hash).copied() else {
            return Ok(None);
        };
        let payload = self.shared.payload(Kind::Batch, location)?;
        Batch::parse(payload)
            .map(Some)
            .map_err(|e| self.shared.unreadable(location, &e))
    }

    /// Hash of the batch at a position of a lane; of the newest one, should the lane's owner have
    /// made several.
    #[must_use]
    pub fn batch_hash_at(&self, epoch: Epoch, lane: ValidatorIndex, seq: Seq) -> Option<Digest> {
        self.shared
            .index
            .read()
            .lanes
            .get(&(epoch, lane, seq))
            .copied()
    }

    /// The batch at a position of a lane, see [`Self::batch_hash_at`].
    pub fn batch_at(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        seq: Seq,
    ) -> Result<Option<Batch>, StoreError> {
        self.batch_hash_at(epoch, lane, seq)
            .map_or(Ok(None), |hash| self.batch(&hash))
    }

    /// The batches of a lane above a position, in order; positions may be missing.
    #[must_use]
    pub fn lane_above(&self, epoch: Epoch, lane: ValidatorIndex, above: Seq) -> Vec<LaneTip> {
        let index = self.shared.index.read();
        let range = (epoch, lane, above.next())..=(epoch, lane, Seq(u64::MAX));
        index
            .lanes
            .range(range)
            .map(|((_, _, seq), hash)| LaneTip {
                seq: *seq,
                hash: *hash,
            })
            .collect()
    }

    /// A header.
    pub fn header(&self, id: &BlockId) -> Result<Option<SignedHeader>, StoreError> {
        let Some((_, location)) = self.shared.index.read().headers.get(id).copied() else {
            return Ok(None);
        };
        self.shared.value(Kind::Header, location).map(Some)
    }

    /// Id of the committed block at a height.
    #[must_use]
    pub fn block_at(&self, height: Height) -> Option<BlockId> {
        self.shared
            .index
            .read()
            .committed
            .get(&height)
            .map(|(id, _)| *id)
    }

    /// Header of the committed block at a height.
    pub fn header_at(&self, height: Height) -> Result<Option<SignedHeader>, StoreError> {
        self.block_at(height)
            .map_or(Ok(None), |id| self.header(&id))
    }

    /// The commit mark of a height.
    pub fn committed(&self, height: Height) -> Result<Option<Committed>, StoreError> {
        let Some((_, location)) = self.shared.index.read().committed.get(&height).copied() else {
            return Ok(None);
        };
        self.shared.value(Kind::Committed, location).map(Some)
    }

    /// What proves that the block at a height is committed.
    pub fn commit_proof(&self, height: Height) -> Result<Option<CommitProof>, StoreError> {
        let Some(committed) = self.committed(height)? else {
            return Ok(None);
        };
        let child = self.header(&committed.child_id)?;
        Ok(child.map(|child| CommitProof { committed, child }))
    }

    /// Lowest and highest committed height in the log.
    #[must_use]
    pub fn heights(&self) -> Option<(Height, Height)> {
        let index = self.shared.index.read();
        let first = index.committed.first_key_value()?;
        let last = index.committed.last_key_value()?;
        Some((*first.0, *last.0))
    }

    /// Lowest height from which the commit marks go up to the highest without a gap. (A state that
    /// came from elsewhere leaves a gap below it.)
    #[must_use]
    pub fn first_of_last_run(&self) -> Option<Height> {
        let index = self.shared.index.read();
        let mut heights = index.committed.keys().rev().copied();
        let mut first = heights.next()?;
        for height in heights {
            if height != first.prev() {
                break;
            }
            first = height;
        }
        Some(first)
    }

    /// The QC of a round.
    pub fn qc(&self, epoch: Epoch, round: Round) -> Result<Option<Qc>, StoreError> {
        let Some(location) = self.shared.index.read().qcs.get(&(epoch, round)).copied() else {
            return Ok(None);
        };
        self.shared.value(Kind::Qc, location).map(Some)
    }

    /// The TC of a round.
    pub fn tc(&self, epoch: Epoch, round: Round) -> Result<Option<Tc>, StoreError> {
        let Some(location) = self.shared.index.read().tcs.get(&(epoch, round)).copied() else {
            return Ok(None);
        };
        self.shared.value(Kind::Tc, location).map(Some)
    }

    /// Where a transaction was executed, or refused last.
    pub fn tx_location(&self, id: &TxId) -> Result<Option<TxLocation>, StoreError> {
        self.state.tx_location(id)
    }

    /// What executing the block at a height yielded.
    pub fn block_row(&self, height: Height) -> Result<Option<BlockRow>, StoreError> {
        self.state.block_row(height)
    }
}
