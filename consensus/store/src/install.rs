//! Replacing the state by one that came from elsewhere, in one step that a crash cannot split.
//!
//! The new state is built in a file of its own, `state.redb.new`, and takes the old one's name
//! when it is whole and durable. Whoever installs keeps what the state is made of until
//! [`BuiltState::put_in_place`] returned, and begins again after a crash.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use falconet_types::stake::RowId;
use falconet_types::{AccountId, Height};

use crate::config::StoreConfig;
use crate::database::StateFile;
use crate::error::StoreError;
use crate::snapshot::SnapshotFiles;
use crate::state::{ACCOUNT_BYTES_MAX, BlockRow};

/// Rows that are written in one transaction, bytes: what the installation holds in memory.
pub const INSTALL_BYTES: usize = 16 << 20;

/// Name of the state while it is built.
const NEW: &str = "state.redb.new";

/// A file that is deleted unless it was put in place: a disk that is full must not stay so.
#[derive(Debug)]
struct NewFile {
    dir: PathBuf,
    files: Arc<dyn SnapshotFiles>,
    in_place: bool,
}

impl NewFile {
    fn path(&self) -> PathBuf {
        self.dir.join(NEW)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.in_place
            && let Err(error) = delete(&*self.files, &self.path())
        {
            let path = self.path();
            tracing::warn!(path = %path.display(), %error, "an unfinished state stays on the disk");
        }
    }
}

/// Deletes a file that need not be there.
fn delete(files: &dyn SnapshotFiles, path: &Path) -> io::Result<()> {
    match files.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Builds a state beside the present one.
#[derive(Debug)]
pub struct StateInstaller {
    /// Closed before the file is deleted.
    file: StateFile,
    new: NewFile,
    rows: Vec<(AccountId, Vec<u8>)>,
    keys: Vec<(AccountId, Vec<u8>)>,
    registry: Vec<(RowId, Bytes)>,
    bytes: usize,
}

/// A state that is whole and durable, under another name than the present one's. Dropping it
/// deletes it.
#[derive(Debug)]
pub struct BuiltState(NewFile);

impl BuiltState {
    /// Deletes what an interrupted installation left in a directory.
    ///
    /// # Errors
    /// The system refuses.
    pub fn discard(dir: &Path, files: &dyn SnapshotFiles) -> Result<(), StoreError> {
        let path = dir.join(NEW);
        delete(files, &path).map_err(|e| StoreError::io("delete", &path, e))
    }

    /// Puts it into the place of the old one, durably. Nothing may have the old one open.
    ///
    /// # Errors
    /// The system refuses: after a crash either of the two states is in place.
    pub fn put_in_place(mut self) -> Result<(), StoreError> {
        let path = self.0.dir.join("state.redb");
        let renamed = self.0.files.rename(&self.0.path(), &path);
        renamed.map_err(|e| StoreError::io("replace", &path, e))?;
        self.0.in_place = true;
        let synced = self.0.files.sync_dir(&self.0.dir);
        synced.map_err(|e| StoreError::io("sync directory", &self.0.dir, e))
    }
}

impl StateInstaller {
    /// Begins; what an interrupted installation left is deleted.
    ///
    /// # Errors
    /// The old file cannot be deleted or the new one not be made.
    pub fn create(
        dir: &Path,
        config: &StoreConfig,
        files: Arc<dyn SnapshotFiles>,
    ) -> Result<Self, StoreError> {
        BuiltState::discard(dir, &*files)?;
        let new = NewFile {
            dir: dir.to_owned(),
            files,
            in_place: false,
        };
        let (file, _) = StateFile::create(&new.path(), config, &new.files)?;
        Ok(Self {
            file,
            new,
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

    /// Makes the new state durable, as that of `height`.
    ///
    /// # Errors
    /// It cannot be written; nothing is left of it.
    pub fn finish(mut self, height: Height, row: &BlockRow) -> Result<BuiltState, StoreError> {
        self.write()?;
        self.file.begin_at(height, row)?;
        Ok(BuiltState(self.new))
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
