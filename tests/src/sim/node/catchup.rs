//! A node that is behind by more than its peers keep: the product's machine ([`falconet_sync`]),
//! what becomes of its effects on the disk, and how a snapshot is installed.

use std::sync::Arc;

use falconet_ledger::Application;
use falconet_sync::Knowledge;
use falconet_sync::catchup::Input;
use falconet_sync::installing::{Found, Step, steps};
use falconet_types::epoch::{EpochInfo, EpochProof};
use falconet_types::signing;
use falconet_types::snapshot::SnapshotOffer;
use falconet_types::time::Now;
use falconet_types::{Epoch, Height};

use super::super::disk::state::{Snapshot, State};
use super::super::disk::{Anchor, LogRecord};
use super::super::keys;
use super::live::Live;
use super::{Chain, Node};

/// What becomes durable some time after a checkpoint: first the state, then the snapshot of it.
#[derive(Debug)]
pub struct Checkpoint {
    /// The state.
    pub state: Arc<State>,
    /// Its snapshot.
    pub snapshot: Arc<Snapshot>,
}

/// How far an installation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// No snapshot waits any more. The height of the one that was installed, if it was of use.
    Done(Option<Height>),
    /// The node died in it.
    Died,
}

impl Live {
    /// What is to be written after a block, if it is a checkpoint.
    pub(super) fn checkpoint(&self, height: Height) -> Option<Checkpoint> {
        let genesis = &self.chain.genesis;
        genesis.params.is_checkpoint(height).then(|| Checkpoint {
            state: Arc::new(self.state.clone()),
            snapshot: Arc::new(self.state.snapshot(genesis, self.ledger.head())),
        })
    }

    /// Something that concerns catching up.
    pub(super) fn catch_up(&mut self, now: Now, input: Input<usize>) {
        if let Some(catchup) = &mut self.catchup {
            catchup.handle(now, input, &mut self.catching);
        }
    }

    /// Several times a second: how far is this node?
    pub(super) fn look_around(&mut self, now: Now) {
        let due = |at: u64| at <= now.mono_us;
        if !self
            .catchup
            .as_ref()
            .is_some_and(|c| due(c.next_deadline_us()))
        {
            return;
        }
        let (hotstuff, mempool) = (self.hotstuff.status(), self.mempool.status());
        let known = Knowledge {
            executed: self.ledger.height(),
            committed: hotstuff.committed_height,
            syncing: hotstuff.syncing,
            lacks_batches: mempool.fetch_debt_batches > 0,
            current: self.info().start.epoch,
            newest: self.timeline.newest_known().start.epoch,
        };
        let me = keys::validator(self.number);
        let asked = Arc::clone(self.timeline.newest_with_others(me));
        let catchup = self.catchup.as_mut().expect("looked at above");
        catchup.progress(now, known, &asked, &mut self.catching);
        catchup.handle(now, Input::Tick, &mut self.catching);
    }

    /// What a peer has to offer: a manifest is judged by the validators of its own epoch, if they
    /// are known here (rule Z9).
    pub(super) fn offered(&mut self, now: Now, node: usize, offer: SnapshotOffer) {
        let epoch = offer.manifest.as_ref().map(|m| m.anchor().epoch);
        let known = epoch.map_or(Some(self.timeline.current()), |epoch| {
            self.timeline.info(epoch)
        });
        let Some(info) = known else { return };
        let mut verifier = keys::verifier();
        if let Ok(offer) = signing::verify(offer, self.chain.id, &info.set, &mut verifier) {
            self.catch_up(now, Input::Offer(node, offer));
        }
    }

    /// The end of the newest known epoch was proven by a peer.
    pub(super) fn learn(&mut self, now: Now, node: usize, proof: &EpochProof, next: EpochInfo) {
        let Some(catchup) = self.catchup.as_mut().filter(|c| c.wants_epochs(now)) else {
            return;
        };
        catchup.learned(now, node, &next, &mut self.catching);
        self.timeline.learn(next);
        self.learned.insert(proof.epoch(), Box::new(proof.clone()));
        self.to_keep.push(proof.clone());
        self.names = super::crossing::Names::new(&self.info().set, self.timeline.newest());
    }

    /// Proofs of epochs that a peer has shown, which become durable now.
    pub fn take_learned(&mut self) -> Vec<EpochProof> {
        std::mem::take(&mut self.to_keep)
    }

    /// What catching up wants done.
    pub fn take_catching(&mut self) -> Vec<falconet_sync::catchup::Effect<usize>> {
        std::mem::take(&mut self.catching)
    }
}

impl Node {
    /// Installs the snapshot that waits, if one does, in the order of the validator's
    /// installation; the node dies after `steps_max` steps.
    pub fn install(&mut self, chain: &Chain, steps_max: usize) -> Result<Installed, String> {
        let Some((manifest, chunks)) = self.disk.files.ready() else {
            return Ok(Installed::Done(None));
        };
        let height = manifest.height();
        let state = if self.disk.files.state_height() < height {
            State::of_chunks(manifest, chunks)?
        } else {
            None
        };
        let Some(state) = state else {
            self.disk.files.abandon();
            return Ok(Installed::Done(None));
        };
        let timeline = self.proven_epochs(chain);
        let epoch = timeline.info(manifest.anchor().epoch);
        let found = Found {
            committed: self.disk.last_committed() > Height::ZERO,
            safety: self.disk.safety(),
            newest: timeline.newest_known().start.epoch,
            ids: (chain.id, keys::validator(self.validator).id()),
        };
        let records: Vec<LogRecord> = steps(manifest, epoch.map(|e| &**e), found)
            .into_iter()
            .map(record_of)
            .collect();
        let count = records.len();
        self.disk.append(records);
        if steps_max < count {
            // Some of the log is on the disk.
            self.disk.crash(steps_max);
            return Ok(Installed::Died);
        }
        self.disk.sync(count);
        if steps_max == count {
            return Ok(Installed::Died);
        }
        self.disk.files.keep_state(Arc::new(state));
        if steps_max == count + 1 {
            return Ok(Installed::Died);
        }
        self.disk.files.abandon();
        Ok(Installed::Done(Some(height)))
    }

    /// The epoch in which a proof that was learned is kept.
    pub fn keep_learned(&mut self) -> Vec<Epoch> {
        let learned = self.live.as_mut().map(Live::take_learned);
        let learned = learned.unwrap_or_default();
        let epochs = learned.iter().map(EpochProof::epoch).collect();
        learned
            .into_iter()
            .for_each(|proof| self.disk.keep_proof(proof));
        epochs
    }
}

fn record_of(step: Step) -> LogRecord {
    use falconet_hotstuff::Record;
    match step {
        Step::Forfeit(through) => LogRecord::Forfeit(through),
        Step::Safety(record) => LogRecord::Consensus(Record::Safety(record)),
        Step::Header(header) => LogRecord::Consensus(Record::Header(Arc::new(*header))),
        Step::Committed {
            height,
            block_id,
            child,
            qc,
        } => LogRecord::Anchor(Box::new(Anchor {
            height,
            id: block_id,
            child: child.id(),
            qc: *qc,
        })),
    }
}
