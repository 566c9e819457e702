//! The file under the state: redb tables.
//!
//! Places of transactions are kept in buckets of [`BUCKET_HEIGHTS`] heights, one table each, so that
//! pruning drops whole tables; inside a table in runs, see [`crate::places`].

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use falconet_types::stake::RowId;
use falconet_types::wire::Wire;
use falconet_types::{AccountId, ChainId, Digest, Height, TxId};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};

use crate::backend::Backend;
use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::generation::Generation;
use crate::places::{self, CHUNK_PLACES, MERGED_PLACES_MAX, Place};
use crate::snapshot::SnapshotFiles;
use crate::state::{BlockRow, TxLocation, pick};

/// Heights whose transactions share a table.
pub const BUCKET_HEIGHTS: u64 = 4_096;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ACCOUNTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accounts");
const KEYS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("keys");
const REGISTRY: TableDefinition<'_, &[u8; RowId::LEN], &[u8]> = TableDefinition::new("registry");
const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
/// Runs of places: height of the last block, and how many places.
const RUNS: TableDefinition<'_, u64, u64> = TableDefinition::new("runs");
const FORMAT: &str = "format";
const CHAIN: &str = "chain";
const HEIGHT: &str = "height";
const OLDEST_BUCKET: &str = "oldest-bucket";

/// What the tables mean. 1 had keys inside the rows of accounts, and a row for each transaction.
const FORMAT_VERSION: u64 = 2;

/// Key of a row of places: the run, big-endian, and the first id.
type ChunkKey = [u8; 8 + 32];
type Chunks<'a> = TableDefinition<'a, &'static ChunkKey, &'static [u8]>;

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

    /// Shows every row, in the order of ids, with the key if it is stored, until `visit` breaks;
    /// what it broke with.
    pub fn for_each_account<B>(
        &self,
        visit: impl FnMut(AccountId, &[u8], Option<&[u8]>) -> ControlFlow<B>,
    ) -> Result<Option<B>, StoreError> {
        walk_accounts(&self.tx, visit).map_err(|source| StoreError::State {
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
        let mut builder = Database::builder();
        builder.set_cache_size(config.state_cache_bytes);
        Self::of(builder.create(path), path, config)
    }

    /// Makes the file by way of `files`.
    pub(crate) fn create(
        path: &Path,
        config: &StoreConfig,
        files: &Arc<dyn SnapshotFiles>,
    ) -> Result<(Self, Height), StoreError> {
        let backend = Backend::create(path, files);
        let backend = backend.map_err(|e| StoreError::io("create", path, e))?;
        let mut builder = Database::builder();
        builder.set_cache_size(config.state_cache_bytes);
        Self::of(builder.create_with_backend(backend), path, config)
    }

    fn of(
        db: Result<Database, redb::DatabaseError>,
        path: &Path,
        config: &StoreConfig,
    ) -> Result<(Self, Height), StoreError> {
        let db = db.map_err(|e| StoreError::State {
            path: path.to_owned(),
            source: e.into(),
        })?;
        let file = Self {
            db,
            path: path.to_owned(),
        };
        let (found, format, height) = file.update(|tx| {
            let mut meta = tx.open_table(META)?;
            tx.open_table(ACCOUNTS)?;
            tx.open_table(KEYS)?;
            tx.open_table(RUNS)?;
            tx.open_table(REGISTRY)?;
            tx.open_table(BLOCKS)?;
            let found = meta.get(CHAIN)?.map(|chain| chain.value().to_vec());
            if found.is_none() {
                meta.insert(CHAIN, config.chain_id.as_ref())?;
                meta.insert(FORMAT, &FORMAT_VERSION.to_le_bytes()[..])?;
            }
            // The first format did not say its number.
            let format = get_u64(&meta, FORMAT)?.max(1);
            Ok((found, format, get_u64(&meta, HEIGHT)?))
        })?;
        if format != FORMAT_VERSION {
            return Err(StoreError::StateFormat {
                path: file.path,
                found: format,
                expected: FORMAT_VERSION,
            });
        }
        let chain: &ChainId = &config.chain_id;
        if found.is_some_and(|found| found != chain.as_ref()) {
            return Err(file.bad_row("it belongs to another chain"));
        }
        Ok((file, Height(height)))
    }

    /// Writes a generation and its height in one durable transaction.
    pub(crate) fn write(&self, generation: &Generation) -> Result<(), StoreError> {
        self.update(|tx| {
            let mut accounts = tx.open_table(ACCOUNTS)?;
            for (id, row) in generation.accounts.sorted() {
                accounts.insert(id.as_bytes(), row)?;
            }
            let mut keys = tx.open_table(KEYS)?;
            for (id, key) in &generation.keys {
                keys.insert(id.as_bytes(), &key[..])?;
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
            write_places(tx, generation)?;
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
                tx.delete_table(Chunks::new(&name))?;
            }
            if keep > oldest {
                let mut runs = tx.open_table(RUNS)?;
                runs.retain_in(..keep * BUCKET_HEIGHTS, |_, _| false)?;
                meta.insert(OLDEST_BUCKET, &keep.to_le_bytes()[..])?;
            }
            blocks.retain_in(..generation.prune_below.0, |_, _| false)?;
            Ok(())
        })
    }

    /// Writes rows of accounts, keys and rows of the registry only.
    pub(crate) fn put_rows(
        &self,
        rows: &[(AccountId, Vec<u8>)],
        keys: &[(AccountId, Vec<u8>)],
        registry_rows: &[(RowId, Bytes)],
    ) -> Result<(), StoreError> {
        self.update(|tx| {
            let mut accounts = tx.open_table(ACCOUNTS)?;
            for (id, row) in rows {
                accounts.insert(id.as_bytes(), &row[..])?;
            }
            let mut table = tx.open_table(KEYS)?;
            for (id, key) in keys {
                table.insert(id.as_bytes(), &key[..])?;
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
        mut visit: impl FnMut(AccountId, &[u8], Option<&[u8]>),
    ) -> Result<(), StoreError> {
        self.read(|tx| {
            let all: Option<()> = walk_accounts(tx, |id, row, key| {
                visit(id, row, key);
                ControlFlow::Continue(())
            })?;
            assert!(all.is_none(), "the visit never ends early");
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
        let chunks = self.read(|tx| {
            let mut found = Vec::new();
            // The table of the run before, which is nearly always that of the next one.
            let mut table = None;
            for run in tx.open_table(RUNS)?.iter()?.rev() {
                let run = Height(run?.0.value());
                if !matches!(table, Some((of, _)) if of == bucket(run)) {
                    let chunks = tx.open_table(Chunks::new(&bucket_name(bucket(run))))?;
                    table = Some((bucket(run), chunks));
                }
                let (_, chunks) = table.as_ref().expect("just set");
                let mut range = chunks.range::<&ChunkKey>(..=&chunk_key(run, id))?;
                if let Some(chunk) = range.next_back() {
                    let (key, row) = chunk?;
                    let of_run = key.value()[..8] == run.0.to_be_bytes();
                    found.extend(of_run.then(|| row.value().to_vec()));
                }
            }
            Ok(found)
        })?;
        let mut locations = Vec::new();
        for chunk in chunks {
            let places = places::decode(&chunk)
                .map_err(|e| self.bad_row(&format!("place of transaction {id}: {e}")))?;
            let place = places.iter().find(|place| place.id == *id);
            locations.push(place.map(|place| place.location));
        }
        Ok(pick(locations.into_iter()))
    }

    #[cfg(test)]
    pub(crate) fn runs(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        self.read(|tx| {
            let runs = tx.open_table(RUNS)?;
            let rows = runs.iter()?;
            rows.map(|row| row.map(|(end, len)| (end.value(), len.value())))
                .collect::<Result<_, _>>()
                .map_err(Into::into)
        })
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

/// Every account with its key. Both tables are in the order of ids; all keys are accounts'.
fn walk_accounts<B>(
    tx: &ReadTransaction,
    mut visit: impl FnMut(AccountId, &[u8], Option<&[u8]>) -> ControlFlow<B>,
) -> Result<Option<B>, redb::Error> {
    let keys = tx.open_table(KEYS)?;
    let mut keys = keys.iter()?;
    let mut next_key = keys.next().transpose()?;
    for row in tx.open_table(ACCOUNTS)?.iter()? {
        let (id, row) = row?;
        while let Some((of, _)) = &next_key
            && of.value() < id.value()
        {
            next_key = keys.next().transpose()?;
        }
        let key = next_key
            .as_ref()
            .filter(|(of, _)| of.value() == id.value())
            .map(|(_, key)| key.value());
        if let ControlFlow::Break(value) = visit(Digest(*id.value()), row.value(), key) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Writes the places of a generation as runs: one, or one in each bucket that its heights are in.
fn write_places(tx: &WriteTransaction, generation: &Generation) -> Result<(), redb::Error> {
    let heights = || generation.blocks.keys().copied();
    let (Some(first), Some(last)) = (heights().next(), heights().next_back()) else {
        return Ok(());
    };
    let mut runs = tx.open_table(RUNS)?;
    for number in bucket(first)..=bucket(last) {
        let mut run = generation
            .places
            .sorted(|location| bucket(location.height) == number);
        if run.is_empty() {
            continue;
        }
        let end = last.0.min((number + 1) * BUCKET_HEIGHTS - 1);
        let name = bucket_name(number);
        let mut chunks = tx.open_table(Chunks::new(&name))?;
        // Shorter runs before it become part of it, so that there are few to look into.
        loop {
            let before = runs.range(number * BUCKET_HEIGHTS..end)?.next_back();
            let Some((before, len)) = before.transpose()?.map(|(k, v)| (k.value(), v.value()))
            else {
                break;
            };
            let joined = usize::try_from(len).map_or(usize::MAX, |len| len + run.len());
            if len > run.len() as u64 || joined > MERGED_PLACES_MAX {
                break;
            }
            run = places::merge(take_run(&mut chunks, Height(before))?, &run);
            runs.remove(before)?;
        }
        let mut row = Vec::new();
        for places in run.chunks(CHUNK_PLACES) {
            places::encode(places, &mut row);
            chunks.insert(&chunk_key(Height(end), &places[0].id), &row[..])?;
        }
        runs.insert(end, run.len() as u64)?;
    }
    Ok(())
}

/// Removes a run; its places.
fn take_run(
    chunks: &mut Table<'_, &'static ChunkKey, &'static [u8]>,
    run: Height,
) -> Result<Vec<Place>, redb::Error> {
    let all = chunk_key(run, &TxId::ZERO)..=chunk_key(run, &Digest([u8::MAX; 32]));
    let mut taken = Vec::new();
    for row in chunks.extract_from_if::<&ChunkKey, _>(&all.start()..=&all.end(), |_, _| true)? {
        let (_, row) = row?;
        let places = places::decode(row.value());
        taken.extend(places.map_err(|e| redb::Error::Corrupted(format!("places: {e}")))?);
    }
    Ok(taken)
}

fn chunk_key(run: Height, first: &TxId) -> ChunkKey {
    let mut key = [0; 8 + 32];
    key[..8].copy_from_slice(&run.0.to_be_bytes());
    key[8..].copy_from_slice(first.as_ref());
    key
}

fn bucket(height: Height) -> u64 {
    height.0 / BUCKET_HEIGHTS
}

fn bucket_name(number: u64) -> String {
    format!("transactions-{number}")
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
