//! The state after execution: account rows, where transactions are, what each block yielded.
//!
//! One transaction a block, without waiting for the disk: blocks and height change together, and
//! a crash takes the state back to the last height that was made durable, never to half a block.
//! Lost heights are executed again from the log.
//!
//! Transactions are kept in buckets of [`BUCKET_HEIGHTS`] heights, one table each, so that
//! pruning drops whole tables and insertions stay in a small tree.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::wire::{Reader, Wire, WireError, put_count32};
use falconet_types::{AccountId, ChainId, Digest, Height, Seq, TxId, ValidatorIndex};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use crate::config::StoreConfig;
use crate::error::StoreError;

/// Heights whose transactions share a table.
pub const BUCKET_HEIGHTS: u64 = 4_096;
/// Most transactions in a block that a row can describe.
const BLOCK_TXS_MAX: usize = 1 << 20;
/// Largest account row, bytes.
pub const ACCOUNT_BYTES_MAX: usize = 4_096;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ACCOUNTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accounts");
const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
const CHAIN: &str = "chain";
const HEIGHT: &str = "height";
const OLDEST_BUCKET: &str = "oldest-bucket";

/// What executing one block changed.
#[derive(Debug, Clone)]
pub struct StateUpdate<'a> {
    /// The block; one above the state's height.
    pub height: Height,
    /// State commitment after the block.
    pub commitment: Digest,
    /// Accounts root after the block.
    pub accounts_root: Digest,
    /// Running results digest after the block.
    pub results: Digest,
    /// Root over the block's receipts.
    pub receipts_root: Digest,
    /// Rows to write, or to delete.
    pub accounts: &'a [(AccountId, Option<Bytes>)],
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
    /// Running results digest after the block.
    pub results: Digest,
    /// Root over the block's receipts.
    pub receipts_root: Digest,
    /// Outcomes of the block's transactions, in the order of `receipts_root`.
    pub outcomes: Vec<Outcome>,
}

impl Wire for BlockRow {
    fn encode(&self, out: &mut Vec<u8>) {
        for root in [
            self.commitment,
            self.accounts_root,
            self.results,
            self.receipts_root,
        ] {
            out.extend_from_slice(root.as_ref());
        }
        put_count32(out, self.outcomes.len());
        out.extend(self.outcomes.iter().map(|outcome| *outcome as u8));
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (commitment, accounts_root) = (r.digest()?, r.digest()?);
        let (results, receipts_root) = (r.digest()?, r.digest()?);
        let n = r.count32("outcomes", BLOCK_TXS_MAX)?;
        let outcomes = r
            .bytes(n)?
            .iter()
            .map(|byte| Outcome::try_from(*byte))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            commitment,
            accounts_root,
            results,
            receipts_root,
            outcomes,
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
    const LEN: usize = 8 + 2 + 8 + 4 + 1;

    fn of(receipt: &Receipt) -> Self {
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
#[derive(Debug)]
pub struct StateDb {
    view: StateView,
    height: Height,
    durable: Arc<AtomicU64>,
    flush_blocks: u64,
}

/// Reads the state as of the last applied block, from any thread.
#[derive(Debug, Clone)]
pub(crate) struct StateView {
    db: Arc<Database>,
    path: Arc<PathBuf>,
}

impl StateDb {
    pub(crate) fn open(
        path: &Path,
        config: &StoreConfig,
        durable: Arc<AtomicU64>,
    ) -> Result<Self, StoreError> {
        let failed = |e: redb::Error| StoreError::State {
            path: path.to_owned(),
            source: e,
        };
        let db = Database::builder()
            .set_cache_size(config.state_cache_bytes)
            .create(path)
            .map_err(|e| failed(e.into()))?;
        let view = StateView {
            db: Arc::new(db),
            path: Arc::new(path.to_owned()),
        };
        let height = view.initialise(config.chain_id)?;
        durable.store(height.0, Ordering::Release);
        Ok(Self {
            view,
            height,
            durable,
            flush_blocks: config.state_flush_blocks.max(1),
        })
    }

    /// Height of the state: the last block that was applied; 0 is genesis, with no rows.
    #[must_use]
    pub fn height(&self) -> Height {
        self.height
    }

    /// Writes what a block changed; block and height change together. Every
    /// [`STATE_FLUSH_BLOCKS`](crate::STATE_FLUSH_BLOCKS)-th block it is made durable as well.
    pub fn apply(&mut self, update: &StateUpdate<'_>) -> Result<(), StoreError> {
        if update.height != self.height.next() {
            return Err(StoreError::StateHeight {
                at: self.height,
                update: update.height,
            });
        }
        let flush = update
            .height
            .0
            .saturating_sub(self.durable.load(Ordering::Acquire))
            >= self.flush_blocks;
        self.view.write(flush, |tx| write_block(tx, update))?;
        self.height = update.height;
        if flush {
            self.durable.store(self.height.0, Ordering::Release);
        }
        Ok(())
    }

    /// Makes everything that was applied durable.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        if self.durable.load(Ordering::Acquire) < self.height.0 {
            self.view.write(true, |_| Ok(()))?;
            self.durable.store(self.height.0, Ordering::Release);
        }
        Ok(())
    }

    /// Every account row, in the order of ids.
    pub fn for_each_account(
        &self,
        mut visit: impl FnMut(AccountId, &[u8]),
    ) -> Result<(), StoreError> {
        self.view.read(|tx| {
            for row in tx.open_table(ACCOUNTS)?.iter()? {
                let (id, bytes) = row?;
                visit(Digest(*id.value()), bytes.value());
            }
            Ok(())
        })
    }

    /// Drops transactions and block rows below a height; transactions in whole buckets.
    pub fn prune(&mut self, height: Height) -> Result<(), StoreError> {
        let height = height.min(self.height);
        self.view.write(false, |tx| {
            let mut meta = tx.open_table(META)?;
            let oldest = get_u64(&meta, OLDEST_BUCKET)?;
            let keep = bucket(height);
            for gone in oldest..keep {
                tx.delete_table(TableDefinition::<&[u8; 32], &[u8; TxLocation::LEN]>::new(
                    &bucket_name(gone),
                ))?;
            }
            if keep > oldest {
                meta.insert(OLDEST_BUCKET, &keep.to_le_bytes()[..])?;
            }
            tx.open_table(BLOCKS)?.retain_in(..height.0, |_, _| false)?;
            Ok(())
        })
    }

    pub(crate) fn view(&self) -> StateView {
        self.view.clone()
    }
}

fn write_block(tx: &redb::WriteTransaction, update: &StateUpdate<'_>) -> Result<(), redb::Error> {
    let mut accounts = tx.open_table(ACCOUNTS)?;
    for (id, row) in update.accounts {
        match row {
            Some(row) => {
                assert!(
                    row.len() <= ACCOUNT_BYTES_MAX,
                    "account row of {} bytes",
                    row.len()
                );
                accounts.insert(id.as_bytes(), &row[..])?;
            }
            None => {
                accounts.remove(id.as_bytes())?;
            }
        }
    }
    let name = bucket_name(bucket(update.height));
    let mut txs = tx.open_table(TableDefinition::<&[u8; 32], &[u8; TxLocation::LEN]>::new(
        &name,
    ))?;
    for receipt in update.receipts {
        // A replay of an executed transaction must not hide where it was executed.
        let executed = receipt.outcome == Outcome::Executed;
        if !executed
            && txs
                .get(receipt.tx_id.as_bytes())?
                .is_some_and(|old| is_executed(old.value()))
        {
            continue;
        }
        let bytes = TxLocation::of(receipt).to_bytes();
        let bytes: &[u8; TxLocation::LEN] = bytes[..].try_into().expect("fixed length");
        txs.insert(receipt.tx_id.as_bytes(), bytes)?;
    }
    let row = BlockRow {
        commitment: update.commitment,
        accounts_root: update.accounts_root,
        results: update.results,
        receipts_root: update.receipts_root,
        outcomes: update
            .receipts
            .iter()
            .map(|receipt| receipt.outcome)
            .collect(),
    };
    tx.open_table(BLOCKS)?
        .insert(update.height.0, &row.to_bytes()[..])?;
    tx.open_table(META)?
        .insert(HEIGHT, &update.height.0.to_le_bytes()[..])?;
    Ok(())
}

impl StateView {
    /// Creates the tables of a new database; checks that an old one is of this chain.
    fn initialise(&self, chain: ChainId) -> Result<Height, StoreError> {
        let mut height = 0;
        let mut found = None;
        self.write(true, |tx| {
            let mut meta = tx.open_table(META)?;
            tx.open_table(ACCOUNTS)?;
            tx.open_table(BLOCKS)?;
            found = meta.get(CHAIN)?.map(|chain| chain.value().to_vec());
            height = get_u64(&meta, HEIGHT)?;
            if found.is_none() {
                meta.insert(CHAIN, &chain.as_ref()[..])?;
            }
            Ok(())
        })?;
        match found {
            Some(found) if found != chain.as_ref() => {
                Err(self.bad_row("it belongs to another chain"))
            }
            _ => Ok(Height(height)),
        }
    }

    pub(crate) fn tx_location(&self, id: &TxId) -> Result<Option<TxLocation>, StoreError> {
        let bytes = self.read(|tx| {
            let meta = tx.open_table(META)?;
            let oldest = get_u64(&meta, OLDEST_BUCKET)?;
            let newest = bucket(Height(get_u64(&meta, HEIGHT)?));
            let mut refused = None;
            for number in (oldest..=newest).rev() {
                let name = bucket_name(number);
                let definition = TableDefinition::<&[u8; 32], &[u8; TxLocation::LEN]>::new(&name);
                let table = match tx.open_table(definition) {
                    Ok(table) => table,
                    Err(TableError::TableDoesNotExist(_)) => continue,
                    Err(e) => return Err(e.into()),
                };
                let Some(row) = table.get(id.as_bytes())?.map(|row| *row.value()) else {
                    continue;
                };
                if is_executed(&row) {
                    return Ok(Some(row));
                }
                refused = refused.or(Some(row));
            }
            Ok(refused)
        })?;
        let parsed = bytes
            .map(|bytes| TxLocation::from_bytes(&bytes))
            .transpose();
        parsed.map_err(|e| self.bad_row(&format!("row of transaction {id}: {e}")))
    }

    pub(crate) fn block_row(&self, height: Height) -> Result<Option<BlockRow>, StoreError> {
        let bytes = self.read(|tx| {
            Ok(tx
                .open_table(BLOCKS)?
                .get(height.0)?
                .map(|row| row.value().to_vec()))
        })?;
        let parsed = bytes.map(|bytes| BlockRow::from_bytes(&bytes)).transpose();
        parsed.map_err(|e| self.bad_row(&format!("row of block {height}: {e}")))
    }

    fn write(
        &self,
        durable: bool,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let run = || -> Result<(), redb::Error> {
            let mut tx = self.db.begin_write()?;
            if durable {
                // Saves the allocator's state, so that opening after a crash does not walk the
                // whole database.
                tx.set_quick_repair(true);
            } else {
                tx.set_durability(Durability::None)?;
            }
            change(&tx)?;
            tx.commit()?;
            Ok(())
        };
        run().map_err(|source| StoreError::State {
            path: self.path.to_path_buf(),
            source,
        })
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || query(&self.db.begin_read()?);
        run().map_err(|source| StoreError::State {
            path: self.path.to_path_buf(),
            source,
        })
    }

    fn bad_row(&self, what: &str) -> StoreError {
        StoreError::StateRow {
            path: self.path.to_path_buf(),
            what: what.to_owned(),
        }
    }
}

fn bucket(height: Height) -> u64 {
    height.0 / BUCKET_HEIGHTS
}

fn bucket_name(number: u64) -> String {
    format!("transactions-{number}")
}

fn is_executed(row: &[u8; TxLocation::LEN]) -> bool {
    row[TxLocation::LEN - 1] == Outcome::Executed as u8
}

fn get_u64(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<u64, redb::Error> {
    let value = table.get(key)?;
    Ok(value.map_or(0, |v| {
        u64::from_le_bytes(v.value().try_into().expect("written with eight bytes"))
    }))
}
