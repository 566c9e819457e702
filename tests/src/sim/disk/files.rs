//! What is on a disk beside the log: the state database, snapshots, and the snapshot that is being
//! gathered. Each file is written under another name and takes its own once it is durable, so it is
//! whole or not there; only the gathered parts are appended without a sync, and a crash keeps some
//! first part of those, the last one perhaps torn.

use std::collections::BTreeMap;
use std::sync::Arc;

use falconet_sync::{Resume, check_manifest, judge, keeping};
use falconet_types::Height;
use falconet_types::genesis::Genesis;
use falconet_types::signing::Verified;
use falconet_types::snapshot::{Chunk, Manifest};

use super::super::rng::Rng;
use super::state::{Snapshot, State};

/// See the module.
#[derive(Debug, Default)]
pub struct Files {
    state: Option<Arc<State>>,
    snapshots: BTreeMap<Height, Arc<Snapshot>>,
    manifest: Option<Manifest>,
    /// In the order in which they arrived.
    chunks: Vec<Chunk>,
    /// Of these, so many survive a crash for sure.
    synced: usize,
    /// Every chunk is there and durable.
    ready: bool,
}

impl Files {
    /// The durable state.
    #[must_use]
    pub fn state(&self) -> Option<&Arc<State>> {
        self.state.as_ref()
    }

    /// The height of the durable state.
    #[must_use]
    pub fn state_height(&self) -> Height {
        self.state
            .as_ref()
            .map_or(Height::ZERO, |state| state.height)
    }

    /// A state is durable.
    pub fn keep_state(&mut self, state: Arc<State>) {
        if state.height > self.state_height() {
            self.state = Some(state);
        }
    }

    /// A snapshot is durable.
    pub fn keep_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshots.insert(snapshot.height, snapshot);
    }

    /// Of the snapshots go those that need not stay, where this is the newest that can be proven.
    pub fn delete_old(&mut self, proven: Option<Height>) {
        let mut newer = self.snapshots.len();
        self.snapshots.retain(|height, _| {
            newer -= 1;
            keeping::stays(*height, newer, proven)
        });
    }

    /// The snapshots, newest first.
    pub fn snapshots(&self) -> impl Iterator<Item = &Arc<Snapshot>> {
        self.snapshots.values().rev()
    }

    /// The snapshot of a height.
    #[must_use]
    pub fn snapshot(&self, height: Height) -> Option<&Arc<Snapshot>> {
        self.snapshots.get(&height)
    }

    /// Begins to gather; the manifest is durable at once.
    pub fn begin(&mut self, manifest: Manifest) {
        self.abandon();
        self.manifest = Some(manifest);
    }

    /// Appends a part, without a sync.
    pub fn gather(&mut self, chunk: Chunk) {
        self.chunks.push(chunk);
    }

    /// Every part is there.
    pub fn complete(&mut self) {
        self.synced = self.chunks.len();
        self.ready = true;
    }

    /// Nothing is gathered any more.
    pub fn abandon(&mut self) {
        self.manifest = None;
        self.chunks.clear();
        (self.synced, self.ready) = (0, false);
    }

    /// True while a snapshot is being gathered.
    #[must_use]
    pub fn is_gathering(&self) -> bool {
        self.manifest.is_some() && !self.ready
    }

    /// The height of the snapshot that is being gathered.
    #[must_use]
    pub fn gathering(&self) -> Option<Height> {
        self.manifest.as_ref().map(Manifest::height)
    }

    /// Parts of it that are here.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.chunks.len()
    }

    /// What waits to be installed.
    #[must_use]
    pub fn ready(&self) -> Option<(&Manifest, &[Chunk])> {
        let manifest = self.manifest.as_ref().filter(|_| self.ready)?;
        Some((manifest, &self.chunks))
    }

    /// The machine dies.
    pub fn crash(&mut self, rng: &mut Rng) {
        if self.synced == self.chunks.len() {
            return;
        }
        let left = rng.between(self.synced as u64, self.chunks.len() as u64) as usize;
        let torn = self.chunks.get(left).cloned();
        self.chunks.truncate(left);
        if let Some(mut torn) = torn
            && !torn.rows.is_empty()
            && rng.chance(500)
        {
            let cut = rng.index(torn.rows.len());
            torn.rows.truncate(cut);
            self.chunks.push(torn);
        }
        // What a crash left is on the disk.
        self.synced = self.chunks.len();
    }

    /// What an earlier life gathered, as far as it is good.
    pub fn load(&mut self, genesis: &Genesis) -> Option<Resume> {
        let manifest = self.manifest.clone()?;
        check_manifest(genesis, &manifest).expect("it was checked before it was kept");
        let good = |chunk: &&Chunk| judge(manifest.tree_root, chunk).is_ok();
        let good = self.chunks.iter().take_while(good).count();
        self.chunks.truncate(good);
        self.synced = good;
        let held = self.chunks.iter().map(|chunk| (chunk.first, chunk.last));
        Some(Resume {
            held: held.collect(),
            manifest: Verified::trusted(manifest),
        })
    }
}
