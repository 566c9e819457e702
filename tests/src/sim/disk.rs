//! A model of the log on disk: records become durable by a sync; a crash loses what was not
//! synced, or all but some first part of it (torn writes keep a prefix: the log is checksummed and
//! read up to the first damage). Old records are deleted once nothing needs them any more, each of
//! them: a real log, which deletes whole segments, keeps more.
//!
//! | module | what |
//! |---|---|
//! | [`files`] | what is on the disk beside the log |
//! | [`state`] | the state database, and snapshots |

pub mod files;
pub mod state;

use std::collections::BTreeMap;

use falconet_hotstuff::{Record, Recovered, SafetyRecord};
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, SignedHeader};
use falconet_types::certificate::{Qc, Tc};
use falconet_types::epoch::EpochProof;
use falconet_types::{BlockId, Digest, Epoch, Height, Seq, ValidatorIndex};

use files::Files;

/// One record of the log.
#[derive(Debug, Clone)]
pub enum LogRecord {
    /// Of the HotStuff core.
    Consensus(Record),
    /// Of the mempool.
    Batch(Batch),
    /// The commit mark of the block at which a snapshot stands.
    Anchor(Box<Anchor>),
    /// In the place of the safety record: the key signs nothing through this epoch.
    Forfeit(Epoch),
}

/// See [`LogRecord::Anchor`].
#[derive(Debug, Clone)]
pub struct Anchor {
    /// The height.
    pub height: Height,
    /// The block.
    pub id: BlockId,
    /// The certified block that commits it.
    pub child: BlockId,
    /// Its certificate.
    pub qc: Qc,
}

/// A commit mark: the block, and the certified header above it with its certificate.
#[derive(Debug)]
struct Commit {
    id: BlockId,
    child: BlockId,
    qc: Qc,
}

/// The log of one node, and its files of epoch proofs.
#[derive(Debug, Default)]
pub struct Disk {
    pending: Vec<LogRecord>,
    /// Epoch proofs that are not durable yet: each becomes so before the pending record of that
    /// number.
    pending_proofs: Vec<(usize, EpochProof)>,
    proofs: BTreeMap<Epoch, EpochProof>,
    safety: Option<SafetyRecord>,
    forfeited: Option<Epoch>,
    headers: BTreeMap<BlockId, SignedHeader>,
    committed: BTreeMap<Height, Commit>,
    tc: Option<Tc>,
    /// In the order in which they were made durable.
    batches: BTreeMap<u64, Batch>,
    by_hash: BTreeMap<Digest, u64>,
    next_batch: u64,
    /// What is beside the log.
    pub files: Files,
}

impl Disk {
    /// Appends without sync.
    pub fn append(&mut self, records: impl IntoIterator<Item = LogRecord>) {
        self.pending.extend(records);
    }

    /// The proof that an epoch is over, which becomes durable before all that is appended later.
    pub fn append_proof(&mut self, proof: EpochProof) {
        self.pending_proofs.push((self.pending.len(), proof));
    }

    /// Makes the epoch proofs durable that come before the pending record of number `before`.
    pub fn sync_proofs(&mut self, before: usize) {
        while let Some((at, _)) = self.pending_proofs.first()
            && *at < before
        {
            let (_, proof) = self.pending_proofs.remove(0);
            self.keep_proof(proof);
        }
    }

    /// An epoch proof that is durable at once.
    pub fn keep_proof(&mut self, proof: EpochProof) {
        self.proofs.insert(proof.epoch(), proof);
    }

    /// The durable proof that an epoch is over.
    #[must_use]
    pub fn proof(&self, epoch: Epoch) -> Option<&EpochProof> {
        self.proofs.get(&epoch)
    }

    /// Records that are not durable yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Makes the first `count` records durable.
    pub fn sync(&mut self, count: usize) {
        self.sync_proofs(count);
        let durable: Vec<LogRecord> = self.pending.drain(..count).collect();
        for (at, _) in &mut self.pending_proofs {
            *at -= count;
        }
        for record in durable {
            self.keep(record);
        }
    }

    /// The machine dies; of what was not synced, the first `survive` records are on disk.
    pub fn crash(&mut self, survive: usize) {
        self.sync(survive.min(self.pending.len()));
        self.pending.clear();
        self.pending_proofs.clear();
    }

    /// The durable safety record.
    #[must_use]
    pub fn safety(&self) -> Option<&SafetyRecord> {
        self.safety.as_ref()
    }

    /// A durable header.
    #[must_use]
    pub fn header(&self, id: &BlockId) -> Option<&SignedHeader> {
        self.headers.get(id)
    }

    /// A durable batch.
    #[must_use]
    pub fn batch(&self, hash: &Digest) -> Option<&Batch> {
        self.by_hash.get(hash).map(|at| &self.batches[at])
    }

    /// The durable batches of a lane from `first` to `last`, newest first.
    pub fn lane(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        first: Seq,
        last: Seq,
    ) -> impl Iterator<Item = &Batch> {
        self.batches.values().rev().filter(move |batch| {
            let header = batch.header();
            header.epoch == epoch && header.lane == lane && (first..=last).contains(&header.seq)
        })
    }

    /// The durably committed blocks that are still here, in order. After a snapshot heights are
    /// missing.
    pub fn committed(&self) -> impl Iterator<Item = (Height, BlockId)> + '_ {
        self.committed
            .iter()
            .map(|(height, commit)| (*height, commit.id))
    }

    /// The last durably committed height; 0 when there is none.
    #[must_use]
    pub fn last_committed(&self) -> Height {
        let last = self.committed.last_key_value();
        last.map_or(Height::ZERO, |(height, _)| *height)
    }

    /// The first of the heights, up to the last one, of which none is missing; 1 when there are
    /// none.
    #[must_use]
    pub fn first_of_last_run(&self) -> Height {
        let mut first = None;
        for height in self.committed.keys().rev() {
            if first.is_some_and(|above: Height| above.prev() != *height) {
                break;
            }
            first = Some(*height);
        }
        first.unwrap_or(Height(1))
    }

    /// Deletes what is not needed above `height`: its header and commit mark stay, and everything
    /// above, and batches that no block below contains. Never beyond the durable state, from which
    /// a restart goes on.
    pub fn prune(&mut self, height: Height) {
        let height = height.min(self.files.state_height());
        let Some(header) = self.header_at(height).cloned() else {
            return;
        };
        self.committed = self.committed.split_off(&height);
        self.headers.retain(|_, other| other.height >= height);
        let (epoch, cut) = (header.epoch, &header.cut);
        self.batches.retain(|_, batch| {
            let batch = batch.header();
            let pending = || {
                cut.0
                    .get(batch.lane.at())
                    .is_none_or(|tip| batch.seq > tip.seq)
            };
            batch.epoch > epoch || (batch.epoch == epoch && pending())
        });
        let left = &self.batches;
        self.by_hash.retain(|_, at| left.contains_key(at));
    }

    /// The durably committed header at a height.
    #[must_use]
    pub fn header_at(&self, height: Height) -> Option<&SignedHeader> {
        self.header(&self.commit(height)?.id)
    }

    /// What commits the block at a height.
    #[must_use]
    pub fn commit_proof(&self, height: Height) -> Option<(SignedHeader, Qc)> {
        let commit = self.commit(height)?;
        Some((self.header(&commit.child)?.clone(), commit.qc.clone()))
    }

    fn commit(&self, height: Height) -> Option<&Commit> {
        self.committed.get(&height)
    }

    /// What the HotStuff core gets back after a restart.
    #[must_use]
    pub fn recover(&self) -> Recovered {
        let last = self.committed.last_key_value();
        let committed = last.map(|(height, commit)| (*height, commit.id));
        Recovered {
            safety: self.safety.clone(),
            committed,
            // All of them: a core ignores what it has no use for.
            headers: self.headers.values().cloned().collect(),
            qcs: last
                .map(|(_, commit)| commit.qc.clone())
                .into_iter()
                .collect(),
            tcs: self.tc.iter().cloned().collect(),
            safety_damage: None,
            forfeited: self.forfeited,
        }
    }

    /// Batches of an epoch above a cut, of all lanes, in the order in which they were persisted.
    #[must_use]
    pub fn batches_above(&self, epoch: Epoch, cut: &Cut) -> Vec<Batch> {
        let above = |batch: &&Batch| {
            let header = batch.header();
            header.epoch == epoch && header.seq > cut.0[header.lane.at()].seq
        };
        self.batches.values().filter(above).cloned().collect()
    }

    fn keep(&mut self, record: LogRecord) {
        match record {
            LogRecord::Batch(batch) => {
                self.by_hash.insert(batch.hash(), self.next_batch);
                self.batches.insert(self.next_batch, batch);
                self.next_batch += 1;
            }
            LogRecord::Forfeit(through) => (self.safety, self.forfeited) = (None, Some(through)),
            LogRecord::Anchor(anchor) => {
                let Anchor {
                    height,
                    id,
                    child,
                    qc,
                } = *anchor;
                let commit = Commit { id, child, qc };
                self.committed.entry(height).or_insert(commit);
            }
            LogRecord::Consensus(Record::Safety(safety)) => {
                (self.safety, self.forfeited) = (Some(*safety), None);
            }
            LogRecord::Consensus(Record::Header(header)) => {
                self.headers
                    .insert(header.id(), SignedHeader::clone(&header));
            }
            LogRecord::Consensus(Record::Tc(tc)) => self.tc = Some(Tc::clone(&tc)),
            LogRecord::Consensus(Record::Committed {
                height,
                block_id,
                proof,
            }) => {
                let last = self.last_committed();
                assert_eq!(height, last.next(), "commit marks go up by one");
                assert!(
                    self.headers.contains_key(&block_id),
                    "the header is logged first"
                );
                assert!(
                    self.headers.contains_key(&proof.child.id()),
                    "and so is the child"
                );
                let commit = Commit {
                    id: block_id,
                    child: proof.child.id(),
                    qc: Qc::clone(&proof.qc),
                };
                self.committed.insert(height, commit);
            }
        }
    }
}
