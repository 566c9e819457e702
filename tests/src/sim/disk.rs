//! A model of the log on disk: records become durable by a sync; a crash loses what was not
//! synced, or all but some first part of it (torn writes keep a prefix: the log is checksummed and
//! read up to the first damage).

use std::collections::BTreeMap;

use falconet_hotstuff::{Record, Recovered, SafetyRecord};
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, SignedHeader};
use falconet_types::certificate::{Qc, Tc};
use falconet_types::epoch::EpochProof;
use falconet_types::{BlockId, Digest, Epoch, Height, Seq, ValidatorIndex};

/// One record of the log.
#[derive(Debug, Clone)]
pub enum LogRecord {
    /// Of the HotStuff core.
    Consensus(Record),
    /// Of the mempool.
    Batch(Batch),
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
    headers: BTreeMap<BlockId, SignedHeader>,
    committed: Vec<Commit>,
    tc: Option<Tc>,
    /// In the order in which they were made durable.
    batches: Vec<Batch>,
    by_hash: BTreeMap<Digest, usize>,
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
        self.by_hash.get(hash).map(|at| &self.batches[*at])
    }

    /// The durable batches of a lane from `first` to `last`, newest first.
    pub fn lane(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        first: Seq,
        last: Seq,
    ) -> impl Iterator<Item = &Batch> {
        self.batches.iter().rev().filter(move |batch| {
            let header = batch.header();
            header.epoch == epoch && header.lane == lane && (first..=last).contains(&header.seq)
        })
    }

    /// Ids of the durably committed blocks; height 1 first.
    #[must_use]
    pub fn committed(&self) -> impl ExactSizeIterator<Item = BlockId> + '_ {
        self.committed.iter().map(|commit| commit.id)
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
        let at = usize::try_from(height.0.checked_sub(1)?).ok()?;
        self.committed.get(at)
    }

    /// What the HotStuff core gets back after a restart.
    #[must_use]
    pub fn recover(&self) -> Recovered {
        let height = Height(self.committed.len() as u64);
        let committed = self.committed.last().map(|commit| (height, commit.id));
        Recovered {
            safety: self.safety.clone(),
            committed,
            // All of them: a core ignores what it has no use for.
            headers: self.headers.values().cloned().collect(),
            qcs: self
                .committed
                .last()
                .map(|commit| commit.qc.clone())
                .into_iter()
                .collect(),
            tcs: self.tc.iter().cloned().collect(),
            safety_damage: None,
            forfeited: None,
        }
    }

    /// Batches of an epoch above a cut, of all lanes, in the order in which they were persisted.
    #[must_use]
    pub fn batches_above(&self, epoch: Epoch, cut: &Cut) -> Vec<Batch> {
        let above = |batch: &&Batch| {
            let header = batch.header();
            header.epoch == epoch && header.seq > cut.0[header.lane.at()].seq
        };
        self.batches.iter().filter(above).cloned().collect()
    }

    fn keep(&mut self, record: LogRecord) {
        match record {
            LogRecord::Batch(batch) => {
                self.by_hash.insert(batch.hash(), self.batches.len());
                self.batches.push(batch);
            }
            LogRecord::Consensus(Record::Safety(safety)) => self.safety = Some(*safety),
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
                assert_eq!(
                    height.0,
                    self.committed.len() as u64 + 1,
                    "commit marks go up by one"
                );
                assert!(
                    self.headers.contains_key(&block_id),
                    "the header is logged first"
                );
                assert!(
                    self.headers.contains_key(&proof.child.id()),
                    "and so is the child"
                );
                self.committed.push(Commit {
                    id: block_id,
                    child: proof.child.id(),
                    qc: Qc::clone(&proof.qc),
                });
            }
        }
    }
}
