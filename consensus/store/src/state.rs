//! The state after execution: account rows, where transactions are, what each block yielded.
//!
//! Blocks gather in memory, visible to readers at once, and a thread writes them to the database
//! some hundred at a time, in one transaction each. So executing a block never waits for the
//! disk, rows that change in many blocks are written once, and the database stands at a whole
//! height whenever it is opened. Heights that a crash takes away are executed again from the log.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::stake::RowId;
use falconet_types::wire::{Reader, Wire, WireError, put_count32};
use falconet_types::{AccountId, Digest, Height, Seq, TxId, ValidatorIndex};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::config::StoreConfig;
use crate::database::{StateFile, StateImage};
use crate::error::StoreError;
use crate::generation::{AccountRows, Generation};

/// Most transactions in a block that a row can describe.
const BLOCK_TXS_MAX: usize = 1 << 20;
/// Largest row of an account or of the registry, and largest key, bytes.
pub const ACCOUNT_BYTES_MAX: usize = 4_096;
/// Rows that gather before they are written, even if they are of few blocks. While so many are
/// being written as many again may gather; then [`StateDb::apply`] waits. About 100 MB of memory.
pub const STATE_ROWS_MAX: usize = 1 << 18;

/// Generations that may wait for the writer: one, and one that ends at a checkpoint.
const GENERATIONS_MAX: usize = 2;

/// What executing one block changed.
#[derive(Debug, Clone)]
pub struct StateUpdate<'a> {
    /// The block; one above the state's height.
    pub height: Height,
    /// State commitment after the block.
    pub commitment: Digest,
    /// Accounts root after the block.
    pub accounts_root: Digest,
    /// Validators root after the block.
    pub validators_root: Digest,
    /// Running results digest after the block.
    pub results: Digest,
    /// Root over the block's receipts.
    pub receipts_root: Digest,
    /// Root of the registry after the block, where a later block may have to name it.
    pub registry_root: Option<Digest>,
    /// An image of the state after this block is wanted, see [`StateDb::take_images`].
    pub checkpoint: bool,
    /// Rows of accounts to write.
    pub accounts: &'a AccountRows,
    /// Keys that accounts have registered; each is written once.
    pub keys: &'a [(AccountId, Bytes)],
    /// Rows of the registry of validators to write, or to delete.
    pub registry: &'a [(RowId, Option<Bytes>)],
    /// The block's receipts, in the order of `receipts_root`.
    pub receipts: &'a [Receipt],
}

/// What executing the block at a height yielded: with the block's batches, enough to build the
/// proof of any of its receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRow {
    /// State commitment after the block.
    pub commitment: Digest,
    /// Accounts root after the block.
    pub accounts_root: Digest,
    /// Validators root after the block.
    pub validators_root: Digest,
    /// Running results digest after the block.
    pub results: Digest,
    /// Root over the block's receipts.
    pub receipts_root: Digest,
    /// Outcomes of the block's transactions, in the order of `receipts_root`.
    pub outcomes: Vec<Outcome>,
    /// Root of the registry after the block, if it was noted.
    pub registry_root: Option<Digest>,
}

impl Wire for BlockRow {
    fn encode(&self, out: &mut Vec<u8>) {
        for root in [
            self.commitment,
            self.accounts_root,
            self.validators_root,
            self.results,
            self.receipts_root,
        ] {
            out.extend_from_slice(root.as_ref());
        }
        put_count32(out, self.outcomes.len());
        out.extend(self.outcomes.iter().map(|outcome| *outcome as u8));
        if let Some(root) = self.registry_root {
            out.extend_from_slice(root.as_ref());
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (commitment, accounts_root) = (r.digest()?, r.digest()?);
        let validators_root = r.digest()?;
        let (results, receipts_root) = (r.digest()?, r.digest()?);
        let n = r.count32("outcomes", BLOCK_TXS_MAX)?;
        let outcomes = r
            .bytes(n)?
            .iter()
            .map(|byte| Outcome::try_from(*byte))
            .collect::<Result<_, _>>()?;
        let registry_root = match r.remaining() {
            0 => None,
            _ => Some(r.digest()?),
        };
        Ok(Self {
            commitment,
            accounts_root,
            validators_root,
            results,
            receipts_root,
            outcomes,
            registry_root,
        })
    }
}

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxLocation {
    /// Height of the block.
    pub height: Height,
    /// Lane of the batch.
    pub lane: ValidatorIndex,
    /// Position of the batch in the lane.
    pub seq: Seq,
    /// Position of the transaction in the batch.
    pub index: u32,
    /// What came of it.
    pub outcome: Outcome,
}

impl TxLocation {
    pub(crate) const LEN: usize = 8 + 2 + 8 + 4 + 1;

    pub(crate) fn of(receipt: &Receipt) -> Self {
        let Receipt {
            height,
            lane,
            seq,
            index,
            outcome,
            ..
        } = *receipt;
        Self {
            height,
            lane,
            seq,
            index,
            outcome,
        }
    }
}

impl Wire for TxLocation {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
        self.lane.encode(out);
        self.seq.encode(out);
        out.extend_from_slice(&self.index.to_le_bytes());
        out.push(self.outcome as u8);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            height: Height::decode(r)?,
            lane: ValidatorIndex::decode(r)?,
            seq: Seq::decode(r)?,
            index: r.u32()?,
            outcome: Outcome::try_from(r.u8()?)?,
        })
    }
}

/// The state's writer. Belongs to one thread.
///
/// Dropping it without [`Self::flush`] loses what was not written yet, as a crash would.
#[derive(Debug)]
pub struct StateDb {
    view: StateView,
    height: Height,
    flush_blocks: u64,
    images: Option<Receiver<StateImage>>,
    /// `None` only while dropping.
    to_writer: Option<SyncSender<Arc<Generation>>>,
    writer: Option<JoinHandle<()>>,
}

/// Reads the state as of the last applied block, from any thread.
#[derive(Debug, Clone)]
pub(crate) struct StateView {
    file: Arc<StateFile>,
    recent: Arc<Recent>,
}

/// What the database does not hold yet, newest last.
#[derive(Debug)]
struct Recent {
    layers: RwLock<Layers>,
    /// A generation that was written, to be filled again.
    spare: Mutex<Option<Generation>>,
    /// Whether the writer is at work or has failed.
    writer: Mutex<WriterState>,
    done: Condvar,
    durable: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Layers {
    /// Being written, or next in turn; oldest first.
    writing: VecDeque<Arc<Generation>>,
    /// Gathering.
    current: Generation,
}

#[derive(Debug, Default)]
struct WriterState {
    /// Generations that were handed over and are not in the file.
    pending: usize,
    failed: Option<String>,
}

impl Layers {
    fn newest_first(&self) -> impl Iterator<Item = &Generation> {
        let written = self.writing.iter().rev().map(|layer| &**layer);
        std::iter::once(&self.current).chain(written)
    }
}

impl StateDb {
    pub(crate) fn open(
        path: &Path,
        config: &StoreConfig,
        durable: Arc<AtomicU64>,
    ) -> Result<Self, StoreError> {
        let (file, height) = StateFile::open(path, config)?;
        durable.store(height.0, Ordering::Release);
        let recent = Recent {
            layers: RwLock::default(),
            spare: Mutex::default(),
            writer: Mutex::default(),
            done: Condvar::new(),
            durable,
        };
        let view = StateView {
            file: Arc::new(file),
            recent: Arc::new(recent),
        };
        let (to_writer, generations) = sync_channel(GENERATIONS_MAX);
        let (to_images, images) = sync_channel(1);
        let of_writer = view.clone();
        let writer = std::thread::Builder::new()
            .name("state-writer".into())
            .spawn(move || of_writer.write_all(&generations, &to_images))
            .map_err(|e| StoreError::io("start the thread that writes", path, e))?;
        let flush_blocks = config.state_flush_blocks.max(1);
        Ok(Self {
            view,
            height,
            flush_blocks,
            images: Some(images),
            to_writer: Some(to_writer),
            writer: Some(writer),
        })
    }

    /// Height of the state: the last block that was applied; 0 is genesis, with no rows.
    #[must_use]
    pub fn height(&self) -> Height {
        self.height
    }

    /// Height up to which the state survives a crash.
    #[must_use]
    pub fn durable_height(&self) -> Height {
        Height(self.view.recent.durable.load(Ordering::Acquire))
    }

    /// Takes what a block changed. Readers see it when the call returns; it becomes durable with
    /// the next [`STATE_FLUSH_BLOCKS`](crate::STATE_FLUSH_BLOCKS) blocks or [`STATE_ROWS_MAX`]
    /// rows. Waits only when the disk is a whole such step behind.
    pub fn apply(&mut self, update: &StateUpdate<'_>) -> Result<(), StoreError> {
        if update.height != self.height.next() {
            return Err(StoreError::StateHeight {
                at: self.height,
                update: update.height,
            });
        }
        self.view.recent.check()?;
        let (blocks, rows) = {
            let mut layers = self.view.recent.layers.write();
            layers.current.add(update);
            (layers.current.blocks.len() as u64, layers.current.rows())
        };
        self.height = update.height;
        if update.checkpoint {
            // The step ends here, so that the database stands at this very height for a moment.
            self.hand_over(true)?;
        } else if blocks >= self.flush_blocks || rows >= STATE_ROWS_MAX {
            let idle = self.view.recent.writer.lock().pending == 0;
            if idle || rows >= 2 * STATE_ROWS_MAX || blocks >= 2 * self.flush_blocks {
                self.hand_over(false)?;
            }
        }
        Ok(())
    }

    /// Makes everything that was applied durable.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.hand_over(false)?;
        self.view.recent.wait_below(1)
    }

    /// Drops transactions and block rows below a height with the next step that is written;
    /// transactions in steps of [`BUCKET_HEIGHTS`](crate::BUCKET_HEIGHTS) heights.
    pub fn prune(&mut self, height: Height) {
        self.view.recent.layers.write().current.prune_below = height.min(self.height);
    }

    /// Every account row, in the order of ids, with the key if it is stored. Call it before the
    /// first [`Self::apply`]: rows that are not in the database yet are not visited.
    pub fn for_each_account(
        &self,
        visit: impl FnMut(AccountId, &[u8], Option<&[u8]>),
    ) -> Result<(), StoreError> {
        assert_eq!(
            self.height,
            self.durable_height(),
            "rows are waiting to be written"
        );
        self.view.file.for_each_account(visit)
    }

    /// Where images of the state arrive, one for each update that asked for it; an image that is
    /// not taken before the next one is there stays the only one.
    ///
    /// # Panics
    /// When called twice.
    pub fn take_images(&mut self) -> Receiver<StateImage> {
        self.images.take().expect("images are taken once")
    }

    /// Every row of the registry of validators, in the order of ids; on the same condition.
    pub fn for_each_registry_row(&self, visit: impl FnMut(RowId, &[u8])) -> Result<(), StoreError> {
        assert_eq!(
            self.height,
            self.durable_height(),
            "rows are waiting to be written"
        );
        self.view.file.for_each_registry_row(visit)
    }

    /// Runs of places in the database: last height and length.
    #[cfg(test)]
    pub(crate) fn runs(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        self.view.file.runs()
    }

    pub(crate) fn view(&self) -> StateView {
        self.view.clone()
    }

    /// Gives what gathered to the writer, once it is idle; at a checkpoint already while one
    /// other generation is being written.
    fn hand_over(&mut self, checkpoint: bool) -> Result<(), StoreError> {
        let recent = &self.view.recent;
        recent.wait_below(if checkpoint { GENERATIONS_MAX } else { 1 })?;
        let generation = {
            let mut layers = recent.layers.write();
            if layers.current.blocks.is_empty() {
                return Ok(());
            }
            layers.current.checkpoint = checkpoint;
            let next = recent.spare.lock().take().unwrap_or_default();
            let generation = Arc::new(std::mem::replace(&mut layers.current, next));
            layers.writing.push_back(Arc::clone(&generation));
            generation
        };
        recent.writer.lock().pending += 1;
        let to_writer = self.to_writer.as_ref().expect("set until dropped");
        to_writer
            .send(generation)
            .expect("the writer lives as long as its sender");
        Ok(())
    }
}

impl Drop for StateDb {
    fn drop(&mut self) {
        drop(self.to_writer.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes the state has panicked");
        }
    }
}

impl StateView {
    pub(crate) fn tx_location(&self, id: &TxId) -> Result<Option<TxLocation>, StoreError> {
        let newest = {
            let layers = self.recent.layers.read();
            pick(layers.newest_first().map(|layer| layer.places.get(id)))
        };
        if newest.is_some_and(|location| location.outcome == Outcome::Executed) {
            return Ok(newest);
        }
        Ok(pick([newest, self.file.tx_location(id)?].into_iter()))
    }

    pub(crate) fn block_row(&self, height: Height) -> Result<Option<BlockRow>, StoreError> {
        {
            let layers = self.recent.layers.read();
            let row = layers
                .newest_first()
                .find_map(|layer| layer.blocks.get(&height));
            if row.is_some() {
                return Ok(row.cloned());
            }
        }
        self.file.block_row(height)
    }

    /// The writer's thread.
    fn write_all(&self, generations: &Receiver<Arc<Generation>>, images: &SyncSender<StateImage>) {
        while let Ok(generation) = generations.recv() {
            let (last, _) = generation.blocks.last_key_value().expect("never empty");
            let last = *last;
            // After a failure nothing may be written: the database would skip what failed.
            let result = self
                .recent
                .check()
                .and_then(|()| self.file.write(&generation));
            let result = result.and_then(|()| {
                if generation.checkpoint {
                    // An error means that the one before was not taken yet, or nobody takes any.
                    let _ = images.try_send(self.file.image(last)?);
                }
                Ok(())
            });
            drop(generation);
            let mut state = self.recent.writer.lock();
            state.pending -= 1;
            match result {
                Ok(()) => {
                    // Readers look into the layers first: the rows are in the file by now.
                    let written = self.recent.layers.write().writing.pop_front();
                    // Readers hold layers only under the lock: this is the last one.
                    if let Some(mut written) = written.and_then(Arc::into_inner) {
                        written.clear();
                        *self.recent.spare.lock() = Some(written);
                    }
                    self.recent.durable.store(last.0, Ordering::Release);
                }
                Err(error) => {
                    tracing::error!(%error, "the state cannot be written");
                    state.failed.get_or_insert_with(|| error.to_string());
                }
            }
            self.recent.done.notify_all();
        }
    }
}

impl Recent {
    fn check(&self) -> Result<(), StoreError> {
        match &self.writer.lock().failed {
            Some(cause) => Err(StoreError::Poisoned {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Waits until fewer than `max` generations are left to write.
    fn wait_below(&self, max: usize) -> Result<(), StoreError> {
        let mut state = self.writer.lock();
        self.done.wait_while(&mut state, |state| {
            state.pending >= max && state.failed.is_none()
        });
        drop(state);
        self.check()
    }
}

/// Of several locations of one transaction, newest first: where it was executed, else the newest.
pub(crate) fn pick(locations: impl Iterator<Item = Option<TxLocation>>) -> Option<TxLocation> {
    let mut refused = None;
    for location in locations.flatten() {
        if location.outcome == Outcome::Executed {
            return Some(location);
        }
        refused = refused.or(Some(location));
    }
    refused
}
