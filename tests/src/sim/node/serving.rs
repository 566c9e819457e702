//! What is read back from the disk: for peers, and for the rules of epochs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use falconet_epochs::Chronicle;
use falconet_sync::{Archive, keeping, serving};
use falconet_types::batch::Batch;
use falconet_types::block::SignedHeader;
use falconet_types::certificate::Qc;
use falconet_types::message::{BLOCKS_PER_ANSWER_MAX, GetBlocks, PeerMessage};
use falconet_types::receipt::StateRoots;
use falconet_types::snapshot::{GetChunk, GetSnapshot, SnapshotOffer};
use falconet_types::{BlockId, Digest, Epoch, Height, Seq, ValidatorIndex};

use super::super::disk::Disk;
use super::super::disk::state::Snapshot;
use super::Node;

/// What a peer wants from the disk.
#[derive(Debug)]
pub enum History {
    /// Headers.
    Blocks(GetBlocks),
    /// The proof that an epoch is over.
    EpochProof(Epoch),
    /// What there is for a node that fell behind, and the manifest of a snapshot.
    Snapshot(GetSnapshot),
    /// A part of a snapshot.
    Chunk(GetChunk),
    /// Batches of an epoch's lane, from the newest, until so many bytes.
    Batches((Epoch, ValidatorIndex), Seq, Seq, u64),
}

/// The disk, and the roots of executed states, as the rules of epochs read them.
pub(super) struct Log<'a> {
    pub(super) disk: &'a Disk,
    pub(super) roots: &'a BTreeMap<Height, StateRoots>,
    pub(super) registry_roots: &'a BTreeMap<Height, Digest>,
}

impl Chronicle for Log<'_> {
    type Error = Infallible;

    fn header(&self, id: &BlockId) -> Result<Option<SignedHeader>, Infallible> {
        Ok(self.disk.header(id).cloned())
    }
    fn header_at(&self, height: Height) -> Result<Option<SignedHeader>, Infallible> {
        Ok(self.disk.header_at(height).cloned())
    }
    fn commit_proof(&self, height: Height) -> Result<Option<(SignedHeader, Qc)>, Infallible> {
        Ok(self.disk.commit_proof(height))
    }
    fn batch(&self, hash: &Digest) -> Result<Option<Batch>, Infallible> {
        Ok(self.disk.batch(hash).cloned())
    }
    fn lane_above(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        above: Seq,
    ) -> Result<Vec<Batch>, Infallible> {
        let last = Seq(u64::MAX);
        let mut batches: Vec<Batch> = self
            .disk
            .lane(epoch, lane, above.next(), last)
            .cloned()
            .collect();
        batches.reverse();
        Ok(batches)
    }
    fn roots_at(&self, height: Height) -> Result<Option<StateRoots>, Infallible> {
        Ok(self.roots.get(&height).copied())
    }
    fn registry_root_at(&self, height: Height) -> Result<Option<Digest>, Infallible> {
        Ok(self.registry_roots.get(&height).copied())
    }
}

impl Archive for Log<'_> {
    fn last_committed(&self) -> Option<Height> {
        Some(self.disk.last_committed()).filter(|height| *height > Height::ZERO)
    }
    fn has_batch_at(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        seq: Seq,
    ) -> Result<bool, Infallible> {
        Ok(self.disk.lane(epoch, lane, seq, seq).next().is_some())
    }
}

/// What a log that is always readable says.
pub(super) fn sure<T>(answer: Result<T, Infallible>) -> T {
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

impl Node {
    /// Answers a request for history from the disk.
    #[must_use]
    pub fn history(&self, request: &History) -> Vec<PeerMessage> {
        match request {
            History::Blocks(request) => {
                let mut headers = Vec::new();
                let mut id = request.from;
                while let Some(header) = self.disk.header(&id) {
                    let enough = headers.len() >= BLOCKS_PER_ANSWER_MAX.min(request.max.into());
                    if enough || header.height <= request.stop_height {
                        break;
                    }
                    id = header.parent_id;
                    headers.push(header.clone());
                }
                if headers.is_empty() {
                    Vec::new()
                } else {
                    vec![PeerMessage::Blocks(headers)]
                }
            }
            History::EpochProof(epoch) => {
                let proof = self.disk.proof(*epoch);
                let message = proof.map(|proof| PeerMessage::EpochProof(Box::new(proof.clone())));
                message.into_iter().collect()
            }
            History::Snapshot(request) => self.offer(request.height),
            History::Chunk(request) => match self.disk.files.snapshot(request.height) {
                Some(snapshot) => vec![PeerMessage::Chunk(snapshot.chunk(request))],
                None => self.offer(Height::ZERO),
            },
            History::Batches((epoch, lane), first, last, bytes_max) => {
                let mut bytes = 0;
                let mut batches = Vec::new();
                for batch in self.disk.lane(*epoch, *lane, *first, *last) {
                    if bytes >= *bytes_max {
                        break;
                    }
                    bytes += batch.bytes().len() as u64;
                    batches.push(PeerMessage::Batch(batch.bytes().clone()));
                }
                batches
            }
        }
    }

    /// The newest snapshot that it can prove.
    #[must_use]
    pub fn newest_proven(&self) -> Option<Height> {
        let log = Log {
            disk: &self.disk,
            roots: &BTreeMap::new(),
            registry_roots: &BTreeMap::new(),
        };
        let heights = self.disk.files.snapshots().map(|s| s.height);
        let is_proven = |height: &Height| serving::is_proven(&log, *height);
        sure(keeping::newest_proven(heights, is_proven))
    }

    /// Lets go of what lies below a height, as far as nobody may need it: how far that is.
    pub fn prune(&mut self, wanted: Height) -> Height {
        let height = keeping::prune_below(wanted, self.newest_proven());
        self.disk.prune(height);
        height
    }

    /// A snapshot is durable; of the older ones go those that need not stay.
    pub fn keep_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.disk.files.keep_snapshot(snapshot);
        let proven = self.newest_proven();
        self.disk.files.delete_old(proven);
    }

    /// What this node has to offer, with the manifest of `wanted`.
    fn offer(&self, wanted: Height) -> Vec<PeerMessage> {
        let log = Log {
            disk: &self.disk,
            roots: &BTreeMap::new(),
            registry_roots: &BTreeMap::new(),
        };
        let mut offer = SnapshotOffer {
            horizon: sure(serving::horizon(&log, self.disk.first_of_last_run())),
            heights: Vec::new(),
            manifest: None,
        };
        for snapshot in self.disk.files.snapshots() {
            let (height, proven) = (snapshot.height, (&snapshot.head, &snapshot.roots));
            let made = serving::manifest(&log, height, proven, snapshot.rows_bytes());
            let manifest = sure(made);
            if manifest.is_some() {
                offer.heights.push(height);
            }
            if height == wanted {
                offer.manifest = manifest;
            }
        }
        vec![PeerMessage::Snapshot(Box::new(offer))]
    }
}
