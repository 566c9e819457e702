//! Snapshots of the own state: taken at checkpoints from an image of the database, while blocks go
//! on, and served to peers in parts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use falconet_ledger::Account;
use falconet_ledger::snapshot::{BUCKET_COUNT, Head, LeafBuilder, LeafTree, bucket_of, put_row};
use falconet_store::{
    SNAPSHOT_BUCKETS, SnapshotDir, SnapshotFile, SnapshotWriter, StateImage, StoreError,
};
use falconet_types::genesis::GenesisAccount;
use falconet_types::receipt::StateRoots;
use falconet_types::snapshot::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_TARGET, Chunk, GetChunk, REGISTRY_BYTES_MAX,
};
use falconet_types::wire::{Reader, Wire, WireError, put_count32};
use falconet_types::{AccountId, Digest, Height, PublicKey};
use parking_lot::{Mutex, RwLock};

use crate::chain::Chain;

mod keeping;
#[cfg(test)]
mod tests;

/// Heads of states whose image has not arrived yet.
const HEADS_MAX: usize = 4;
/// A snapshot is written at most so fast, bytes a second: the log's disk is the same.
const WRITE_BYTES_PER_S: u64 = 64 << 20;
/// Bytes between two looks at the clock and at the order to stop.
const WRITE_STEP_BYTES: u64 = 4 << 20;

const _: () = assert!(SNAPSHOT_BUCKETS == BUCKET_COUNT, "one kind of buckets");

/// What a state is beside its rows, as a snapshot file carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateHead {
    /// The application's part.
    pub head: Head,
    /// The digests of the height.
    pub roots: StateRoots,
}

impl Wire for StateHead {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head.tree_root.as_ref());
        out.extend_from_slice(&self.head.burned.to_le_bytes());
        put_count32(out, self.head.registry.len());
        out.extend_from_slice(&self.head.registry);
        self.roots.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (tree_root, burned) = (r.digest()?, r.u64()?);
        let len = r.count32("registry", REGISTRY_BYTES_MAX)?;
        Ok(Self {
            head: Head {
                tree_root,
                burned,
                registry: Bytes::copy_from_slice(r.bytes(len)?),
            },
            roots: StateRoots::decode(r)?,
        })
    }
}

/// A snapshot that is ready to be served.
pub struct Served {
    /// What it is.
    pub head: StateHead,
    file: SnapshotFile,
    tree: LeafTree,
    /// A committed header was seen to prove it.
    proven: AtomicBool,
}

impl Served {
    fn open(dir: &SnapshotDir, height: Height) -> Result<Self, SnapshotError> {
        Self::of(dir.open(height)?)
    }

    fn of(file: SnapshotFile) -> Result<Self, SnapshotError> {
        let head = StateHead::from_bytes(file.head())?;
        let tree = LeafTree::new(file.leaves()?);
        if head.head.tree_root != Digest::ZERO && tree.root() != head.head.tree_root {
            return Err(SnapshotError::Root {
                height: file.height(),
                found: tree.root(),
                expected: head.head.tree_root,
            });
        }
        Ok(Self {
            head,
            file,
            tree,
            proven: AtomicBool::new(false),
        })
    }

    /// Its height.
    #[must_use]
    pub fn height(&self) -> Height {
        self.file.height()
    }

    /// Bytes of its rows.
    #[must_use]
    pub fn rows_bytes(&self) -> u64 {
        self.file.rows_bytes()
    }

    /// A part of it.
    pub fn chunk(&self, request: &GetChunk) -> Result<Chunk, StoreError> {
        let first = request.first;
        let last = self
            .file
            .fill(first, request.last, CHUNK_BYTES_TARGET as u64);
        let (left, right) = self.tree.beside(first, last);
        Ok(Chunk {
            height: self.height(),
            first,
            last,
            left,
            right,
            rows: self.file.rows(first, last)?.into(),
        })
    }
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row or the head cannot be read.
    #[error("the state database or a snapshot is damaged: {0}")]
    Row(#[from] WireError),
    /// The rows are not the state that was executed.
    #[error("the snapshot of height {height} has root {found}, {expected} was executed")]
    Root {
        /// The height.
        height: Height,
        /// Root of the rows.
        found: Digest,
        /// Root that execution had.
        expected: Digest,
    },
    /// A bucket does not fit into a chunk.
    #[error(
        "the accounts of bucket {0} are longer than a chunk may be ({CHUNK_BYTES_MAX} bytes): the \
         state is too large for snapshots of this format"
    )]
    Bucket(u16),
    /// The registry does not fit into a manifest.
    #[error(
        "the registry of validators has {0} bytes, a manifest takes {REGISTRY_BYTES_MAX}: the \
         state is too large for snapshots of this format"
    )]
    Registry(usize),
    /// The process stops.
    #[error("the validator stops")]
    Stopping,
}

/// All snapshots of this node, shared by the threads that take and serve them.
pub struct Snapshots {
    dir: SnapshotDir,
    chain: Arc<Chain>,
    /// What execution knows of states that are about to be written.
    heads: Mutex<BTreeMap<Height, StateHead>>,
    /// Newest first.
    served: RwLock<Vec<Arc<Served>>>,
    stopping: AtomicBool,
    /// The last attempt to take a snapshot failed.
    failing: AtomicBool,
    /// The log, once it is recovered.
    reader: OnceLock<falconet_store::Reader>,
}

impl Snapshots {
    /// Finds the snapshots below a data directory. A damaged one is deleted; which of the others
    /// go is decided once there is a log ([`Snapshots::attach`]).
    pub fn open(data: &Path, chain: Arc<Chain>) -> Result<Self, StoreError> {
        Self::open_in(SnapshotDir::new(data, chain.id), chain)
    }

    fn open_in(dir: SnapshotDir, chain: Arc<Chain>) -> Result<Self, StoreError> {
        let mut served = Vec::new();
        for height in dir.heights()?.into_iter().rev() {
            match Served::open(&dir, height) {
                Ok(snapshot) => served.push(Arc::new(snapshot)),
                Err(error) => {
                    tracing::warn!(height = height.0, %error, "a snapshot is deleted");
                    dir.delete(height)?;
                }
            }
        }
        Ok(Self {
            dir,
            chain,
            heads: Mutex::default(),
            served: RwLock::new(served),
            stopping: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            reader: OnceLock::new(),
        })
    }

    /// Execution stands at a checkpoint.
    pub fn expect(&self, height: Height, head: StateHead) {
        let mut heads = self.heads.lock();
        heads.insert(height, head);
        while heads.len() > HEADS_MAX {
            heads.pop_first();
        }
    }

    /// The snapshots, newest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Served>> {
        self.served.read().clone()
    }

    /// The snapshot of a height.
    #[must_use]
    pub fn at(&self, height: Height) -> Option<Arc<Served>> {
        let served = self.served.read();
        served.iter().find(|s| s.height() == height).cloned()
    }

    /// Ends the writing of a snapshot early.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// As [`Snapshots::take`]. A failure costs this node nothing: others have their snapshots.
    fn take_and_note(&self, image: &StateImage) {
        let taken = self.take(image);
        let failed = !matches!(taken, Ok(()) | Err(SnapshotError::Stopping));
        self.failing.store(failed, Ordering::Relaxed);
        if let Err(error) = taken
            && failed
        {
            tracing::error!(height = image.height().0, %error, "no snapshot was taken");
        }
    }

    /// Writes the snapshot of an image and serves it from then on.
    fn take(&self, image: &StateImage) -> Result<(), SnapshotError> {
        let height = image.height();
        let Some(head) = self.heads.lock().remove(&height) else {
            return Ok(()); // a block that was executed again, long ago
        };
        if head.head.registry.len() > REGISTRY_BYTES_MAX {
            return Err(SnapshotError::Registry(head.head.registry.len()));
        }
        let start = Instant::now();
        let mut writing = Writing {
            writer: self.dir.create(height)?,
            builder: LeafBuilder::default(),
            bucket: Vec::new(),
            row: Vec::new(),
            number: 0,
            stopping: &self.stopping,
            start,
            looked_at: 0,
        };
        // Genesis accounts that no block wrote have no row in the database, and no key of genesis
        // is there.
        let mut genesis: Vec<_> = self.chain.genesis.accounts.iter().collect();
        genesis.sort_unstable_by_key(|account| account.id);
        let mut genesis = genesis.into_iter().peekable();
        let broke = image.for_each_account(|id, stored, key| {
            let mut step = || -> Result<(), SnapshotError> {
                let mut of_genesis = None;
                while let Some(account) = genesis.next_if(|account| account.id <= id) {
                    if account.id < id {
                        writing.genesis_row(account)?;
                    } else {
                        of_genesis = account.key.as_ref();
                    }
                }
                let key = key.or(of_genesis.map(PublicKey::as_bytes));
                writing.row(&id, stored, key)
            };
            match step() {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        })?;
        if let Some(error) = broke {
            return Err(error);
        }
        for account in genesis {
            writing.genesis_row(account)?;
        }
        while writing.number < SNAPSHOT_BUCKETS {
            writing.end_bucket()?;
        }
        let file = writing.writer.finish(&head.to_bytes())?;
        let rows_bytes = file.rows_bytes();
        let snapshot = match Served::of(file) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.dir.delete(height)?;
                return Err(error);
            }
        };
        {
            let mut served = self.served.write();
            // One that has its name already: the new file has just taken its place.
            served.retain(|other| other.height() != height);
            served.insert(0, Arc::new(snapshot));
        }
        match self.newest_proven() {
            Ok(proven) => self.tidy(proven),
            Err(error) => tracing::error!(%error, "which snapshots can go is unknown: all stay"),
        }
        tracing::info!(
            height = height.0,
            rows_bytes,
            time_ms = start.elapsed().as_millis() as u64,
            "took a snapshot"
        );
        Ok(())
    }
}

/// A snapshot on its way to the disk.
struct Writing<'a> {
    writer: SnapshotWriter,
    builder: LeafBuilder,
    /// Rows of the present bucket.
    bucket: Vec<u8>,
    /// The row that was added last: stored form and key.
    row: Vec<u8>,
    /// Number of the present bucket.
    number: usize,
    stopping: &'a AtomicBool,
    start: Instant,
    /// Bytes at the last look at the clock.
    looked_at: u64,
}

impl Writing<'_> {
    fn genesis_row(&mut self, account: &GenesisAccount) -> Result<(), SnapshotError> {
        let stored = Account::of_genesis(account).to_bytes();
        let key = account.key.as_ref().map(PublicKey::as_bytes);
        self.row(&account.id, &stored, key)
    }

    fn row(
        &mut self,
        id: &AccountId,
        stored: &[u8],
        key: Option<&[u8]>,
    ) -> Result<(), SnapshotError> {
        while self.number < usize::from(bucket_of(id)) {
            self.end_bucket()?;
        }
        self.row.clear();
        self.row.extend_from_slice(stored);
        self.row.extend_from_slice(key.unwrap_or_default());
        self.builder.add(id, &self.row)?;
        put_row(&mut self.bucket, id, &self.row);
        Ok(())
    }

    fn end_bucket(&mut self) -> Result<(), SnapshotError> {
        if self.bucket.len() > CHUNK_BYTES_MAX {
            let number = u16::try_from(self.number).expect("below the number of buckets");
            return Err(SnapshotError::Bucket(number));
        }
        self.writer.rows(&self.bucket)?;
        self.writer.end_bucket(self.builder.finish());
        self.bucket.clear();
        self.number += 1;
        let written = self.writer.rows_bytes();
        if written >= self.looked_at + WRITE_STEP_BYTES {
            self.looked_at = written;
            if self.stopping.load(Ordering::Relaxed) {
                return Err(SnapshotError::Stopping);
            }
            let due = Duration::from_micros(written * 1_000_000 / WRITE_BYTES_PER_S);
            std::thread::sleep(due.saturating_sub(self.start.elapsed()));
        }
        Ok(())
    }
}

/// The thread that takes snapshots. It ends with the state database.
pub struct SnapshotThread {
    /// Images of the state at checkpoints.
    pub images: Receiver<StateImage>,
    /// Where snapshots go.
    pub snapshots: Arc<Snapshots>,
}

impl SnapshotThread {
    /// Runs until the state database is closed.
    pub fn run(self) {
        while let Ok(image) = self.images.recv() {
            self.snapshots.take_and_note(&image);
        }
    }
}
