//! Replacing the state by one that came from elsewhere, in one step that a crash cannot split.
//!
//! The new state is built in a file of its own, `state.redb.new`, and takes the old one's name
//! when it is whole and durable. Whoever installs keeps what the state is made of until
//! [`StateInstaller::replace`] returned, and begins again after a crash.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use falconet_types::stake::RowId;
use falconet_types::{AccountId, Height};

use crate::config::StoreConfig;
use crate::database::StateFile;
use crate::error::StoreError;
use crate::segment::sync_dir;
use crate::state::{ACCOUNT_BYTES_MAX, BlockRow};

/// Rows that are written in one transaction, bytes: what the installation holds in memory.
pub const INSTALL_BYTES: usize = 16 << 20;

/// Builds a state beside the present one.
#[derive(Debug)]
pub struct StateInstaller {
    file: StateFile,
    dir: PathBuf,
    rows: Vec<(AccountId, Vec<u8>)>,
    keys: Vec<(AccountId, Vec<u8>)>,
    registry: Vec<(RowId, Bytes)>,
    bytes: usize,
}

impl StateInstaller {
    /// Begins; what an interrupted installation left is deleted.
    pub fn create(dir: &Path, config: &StoreConfig) -> Result<Self, StoreError> {
        let path = dir.join("state.redb.new");
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("delete", &path, e));
            }
            _ => {}
        }
        let (file, _) = StateFile::open(&path, config)?;
        Ok(Self {
            file,
            dir: dir.to_owned(),
            rows: Vec::new(),
            keys: Vec::new(),
            registry: Vec::new(),
            bytes: 0,
        })
    }

    /// Adds an account, in its stored form, with its key.
    ///
    /// # Panics
    /// If one of them is longer than [`ACCOUNT_BYTES_MAX`].
    pub fn account(
        &mut self,
        id: AccountId,
        stored: &[u8],
        key: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        assert!(stored.len() <= ACCOUNT_BYTES_MAX, "a row of an account");
        self.bytes += stored.len();
        self.rows.push((id, stored.to_vec()));
        if let Some(key) = key {
            assert!(key.len() <= ACCOUNT_BYTES_MAX, "a key of an account");
            self.bytes += key.len();
            self.keys.push((id, key.to_vec()));
        }
        if self.bytes >= INSTALL_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Adds a row of the registry of validators.
    ///
    /// # Panics
    /// If it is longer than [`ACCOUNT_BYTES_MAX`].
    pub fn registry_row(&mut self, id: RowId, row: Bytes) -> Result<(), StoreError> {
        assert!(row.len() <= ACCOUNT_BYTES_MAX, "a row of the registry");
        self.bytes += row.len();
        self.registry.push((id, row));
        if self.bytes >= INSTALL_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Makes the new state durable, as that of `height`, and puts it in the place of the old one.
    /// Nothing may have the old one open.
    pub fn replace(mut self, height: Height, row: &BlockRow) -> Result<(), StoreError> {
        self.write()?;
        self.file.begin_at(height, row)?;
        let new = self.dir.join("state.redb.new");
        let path = self.dir.join("state.redb");
        drop(self.file);
        std::fs::rename(&new, &path).map_err(|e| StoreError::io("replace", &path, e))?;
        sync_dir(&self.dir)
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_unstable_by_key(|(id, _)| *id);
        let mut keys = std::mem::take(&mut self.keys);
        keys.sort_unstable_by_key(|(id, _)| *id);
        let registry = std::mem::take(&mut self.registry);
        self.file.put_rows(&rows, &keys, &registry)
    }
}
