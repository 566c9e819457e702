//! The file under the state: redb tables.
//!
//! Transactions are kept in buckets of [`BUCKET_HEIGHTS`] heights, one table each, so that
//! pruning drops whole tables and insertions stay in a tree of bounded size.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use falconet_types::receipt::Outcome;
use falconet_types::stake::RowId;
use falconet_types::wire::Wire;
use falconet_types::{AccountId, ChainId, Digest, Height, TxId};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};

use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::generation::Generation;
use crate::state::{BlockRow, TxLocation, pick};

/// Heights whose transactions share a table.
pub const BUCKET_HEIGHTS: u64 = 4_096;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ACCOUNTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accounts");
const REGISTRY: TableDefinition<'_, &[u8; RowId::LEN], &[u8]> = TableDefinition::new("registry");
const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
const CHAIN: &str = "chain";
const HEIGHT: &str = "height";
const OLDEST_BUCKET: &str = "oldest-bucket";

type TxRow = [u8; TxLocation::LEN];

/// The account rows of one height, unmoved by later blocks. As long as it lives, the database
/// cannot use again the pages that later blocks replace.
pub struct StateImage {
    tx: ReadTransaction,
    height: Height,
    path: PathBuf,
}

impl StateImage {
    /// Its height.
    #[must_use]
    pub fn height(&self) -> Height {
        self.height
    }

    /// Shows every row, in the order of ids, until `visit` breaks; what it broke with.
    pub fn for_each_account<B>(
        &self,
        mut visit: impl FnMut(AccountId, &[u8]) -> ControlFlow<B>,
    ) -> Result<Option<B>, StoreError> {
        let mut walk = || -> Result<Option<B>, redb::Error> {
            for row in self.tx.open_table(ACCOUNTS)?.iter()? {
                let (id, bytes) = row?;
                if let ControlFlow::Break(value) = visit(Digest(*id.value()), bytes.value()) {
                    return Ok(Some(value));
                }
            }
            Ok(None)
        };
        walk().map_err(|source| StoreError::State {
            path: self.path.clone(),
            source,
        })
    }
}

impl std::fmt::Debug for StateImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StateImage {{ height: {} }}", self.height)
    }
}

#[derive(Debug)]
pub(crate) struct StateFile {
    db: Database,
    path: PathBuf,
}

impl StateFile {
    /// Opens the file or makes one; says at which height it stands.
    pub(crate) fn open(path: &Path, config: &StoreConfig) -> Result<(Self, Height), StoreError> {
        let db = Database::builder()
            .set_cache_size(config.state_cache_bytes)
            .create(path)
            .map_err(|e| StoreError::State {
                path: path.to_owned(),
                source: e.into(),
            })?;
        let file = Self {
            db,
            path: path.to_owned(),
        };
        let (found, height) = file.update(|tx| {
            let mut meta = tx.open_table(META)?;
            tx.open_table(ACCOUNTS)?;
            tx.open_table(REGISTRY)?;
            tx.open_table(BLOCKS)?;
            let found = meta.get(CHAIN)?.map(|chain| chain.value().to_vec());
            if found.is_none() {
                meta.insert(CHAIN, config.chain_id.as_ref())?;
            }
            Ok((found, get_u64(&meta, HEIGHT)?))
        })?;
        let chain: &ChainId = &config.chain_id;
        if found.is_some_and(|found| found != chain.as_ref()) {
            return Err(file.bad_row("it belongs to another chain"));
        }
        Ok((file, Height(height)))
    }

    /// Writes a generation and its height in one durable transaction.
    pub(crate) fn write(&self, generation: &Generation) -> Result<(), StoreError> {
        self.update(|tx| {
            // In the order of keys: neighbours share pages.
            let mut changed: Vec<_> = generation.accounts.iter().collect();
            changed.sort_unstable_by_key(|(id, _)| **id);
            let mut accounts = tx.open_table(ACCOUNTS)?;
            for (id, row) in changed {
                match row {
                    Some(row) => accounts.insert(id.as_bytes(), &row[..])?,
                    None => accounts.remove(id.as_bytes())?,
                };
            }
            let mut changed: Vec<_> = generation.registry.iter().collect();
            changed.sort_unstable_by_key(|(id, _)| **id);
            let mut registry = tx.open_table(REGISTRY)?;
            for (id, row) in changed {
                match row {
                    Some(row) => registry.insert(&id.0, &row[..])?,
                    None => registry.remove(&id.0)?,
                };
            }
            write_txs(tx, generation)?;
            let mut blocks = tx.open_table(BLOCKS)?;
            for (height, row) in &generation.blocks {
                blocks.insert(height.0, &row.to_bytes()[..])?;
            }
            let mut meta = tx.open_table(META)?;
            if let Some((height, _)) = generation.blocks.last_key_value() {
                meta.insert(HEIGHT, &height.0.to_le_bytes()[..])?;
            }
            let oldest = get_u64(&meta, OLDEST_BUCKET)?;
            let keep = bucket(generation.prune_below);
            for gone in oldest..keep {
                let name = bucket_name(gone);
                tx.delete_table(TableDefinition::<&[u8; 32], &TxRow>::new(&name))?;
            }
            if keep > oldest {
                meta.insert(OLDEST_BUCKET, &keep.to_le_bytes()[..])?;
            }
            blocks.retain_in(..generation.prune_below.0, |_, _| false)?;
            Ok(())
        })
    }

    /// Writes rows of accounts and of the registry only.
    pub(crate) fn put_rows(
        &self,
        rows: &[(AccountId, Vec<u8>)],
        registry_rows: &[(RowId, Bytes)],
    ) -> Result<(), StoreError> {
        self.update(|tx| {
            let mut accounts = tx.open_table(ACCOUNTS)?;
            for (id, row) in rows {
                accounts.insert(id.as_bytes(), &row[..])?;
            }
            let mut registry = tx.open_table(REGISTRY)?;
            for (id, row) in registry_rows {
                registry.insert(&id.0, &row[..])?;
            }
            Ok(())
        })
    }

    /// Declares that the accounts are those after `height`, the first block with a row.
    pub(crate) fn begin_at(&self, height: Height, row: &BlockRow) -> Result<(), StoreError> {
        self.update(|tx| {
            let mut meta = tx.open_table(META)?;
            meta.insert(HEIGHT, &height.0.to_le_bytes()[..])?;
            meta.insert(OLDEST_BUCKET, &bucket(height).to_le_bytes()[..])?;
            tx.open_table(BLOCKS)?
                .insert(height.0, &row.to_bytes()[..])?;
            Ok(())
        })
    }

    /// The state as it stands, whatever is written afterwards.
    pub(crate) fn image(&self, height: Height) -> Result<StateImage, StoreError> {
        let image = || -> Result<StateImage, redb::Error> {
            let tx = self.db.begin_read()?;
            Ok(StateImage {
                tx,
                height,
                path: self.path.clone(),
            })
        };
        image().map_err(|source| StoreError::State {
            path: self.path.clone(),
            source,
        })
    }

    pub(crate) fn for_each_account(
        &self,
        mut visit: impl FnMut(AccountId, &[u8]),
    ) -> Result<(), StoreError> {
        self.read(|tx| {
            for row in tx.open_table(ACCOUNTS)?.iter()? {
                let (id, bytes) = row?;
                visit(Digest(*id.value()), bytes.value());
            }
            Ok(())
        })
    }

    pub(crate) fn for_each_registry_row(
        &self,
        mut visit: impl FnMut(RowId, &[u8]),
    ) -> Result<(), StoreError> {
        self.read(|tx| {
            for row in tx.open_table(REGISTRY)?.iter()? {
                let (id, bytes) = row?;
                visit(RowId(*id.value()), bytes.value());
            }
            Ok(())
        })
    }

    pub(crate) fn tx_location(&self, id: &TxId) -> Result<Option<TxLocation>, StoreError> {
        let rows = self.read(|tx| {
            let meta = tx.open_table(META)?;
            let oldest = get_u64(&meta, OLDEST_BUCKET)?;
            let newest = bucket(Height(get_u64(&meta, HEIGHT)?));
            let mut rows: Vec<TxRow> = Vec::new();
            for number in (oldest..=newest).rev() {
                let name = bucket_name(number);
                match tx.open_table(TableDefinition::<&[u8; 32], &TxRow>::new(&name)) {
                    Ok(table) => rows.extend(table.get(id.as_bytes())?.map(|row| *row.value())),
                    Err(TableError::TableDoesNotExist(_)) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(rows)
        })?;
        let parse = |row: &TxRow| TxLocation::from_bytes(row);
        let locations: Vec<_> = rows
            .iter()
            .map(parse)
            .collect::<Result<_, _>>()
            .map_err(|e| self.bad_row(&format!("row of transaction {id}: {e}")))?;
        Ok(pick(locations.into_iter().map(Some)))
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

    fn update<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || -> Result<T, redb::Error> {
            let mut tx = self.db.begin_write()?;
            // Saves the allocator's state, so that opening after a crash does not walk the whole
            // file.
            tx.set_quick_repair(true);
            let value = change(&tx)?;
            tx.commit()?;
            Ok(value)
        };
        run().map_err(|source| StoreError::State {
            path: self.path.clone(),
            source,
        })
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || query(&self.db.begin_read()?);
        run().map_err(|source| StoreError::State {
            path: self.path.clone(),
            source,
        })
    }

    fn bad_row(&self, what: &str) -> StoreError {
        StoreError::StateRow {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }
}

fn write_txs(tx: &WriteTransaction, generation: &Generation) -> Result<(), redb::Error> {
    let mut txs: Vec<_> = generation.txs.iter().collect();
    txs.sort_unstable_by_key(|(id, location)| (bucket(location.height), **id));
    for bucket_txs in txs.chunk_by(|a, b| bucket(a.1.height) == bucket(b.1.height)) {
        let name = bucket_name(bucket(bucket_txs[0].1.height));
        let mut table = tx.open_table(TableDefinition::<&[u8; 32], &TxRow>::new(&name))?;
        for (id, location) in bucket_txs {
            let refused = location.outcome != Outcome::Executed;
            if refused
                && table
                    .get(id.as_bytes())?
                    .is_some_and(|old| is_executed(old.value()))
            {
                continue;
            }
            let row = location.to_bytes();
            let row: &TxRow = row[..].try_into().expect("fixed length");
            table.insert(id.as_bytes(), row)?;
        }
    }
    Ok(())
}

fn bucket(height: Height) -> u64 {
    height.0 / BUCKET_HEIGHTS
}

fn bucket_name(number: u64) -> String {
    format!("transactions-{number}")
}

fn is_executed(row: &TxRow) -> bool {
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
