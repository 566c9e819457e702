//! The directory of snapshots, and what is done to its files, behind a trait: so that a test knows
//! each step of taking, gathering, installing and deleting a snapshot, and what a crash after it may
//! leave.

use std::fmt::Debug;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use falconet_types::{ChainId, Height};

use crate::error::StoreError;

use super::{SnapshotFile, SnapshotWriter};

/// Whatever changes a directory of snapshots, taken or gathered, a file in it, or the state that is
/// made of one. Reading goes past this.
pub trait SnapshotFiles: Debug + Send + Sync {
    /// Makes a directory, and those above it, if it is not there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes an empty file, or empties the one that is there.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Opens a file that is there, to append to it.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Appends all of `bytes` to a file that was just made or opened.
    fn append(&self, path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()>;
    /// Writes all of `bytes` at an offset.
    fn write_at(&self, path: &Path, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts a file, or makes it longer by zeros.
    fn set_len(&self, path: &Path, file: &File, len: u64) -> io::Result<()>;
    /// Makes a file's content durable.
    fn sync(&self, path: &Path, file: &File) -> io::Result<()>;
    /// Gives a file another name in its directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The real thing.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemFiles;

impl SnapshotFiles for SystemFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }
    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        File::options().append(true).open(path)
    }
    fn append(&self, _: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }
    fn write_at(&self, _: &Path, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }
    fn set_len(&self, _: &Path, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }
    fn sync(&self, _: &Path, file: &File) -> io::Result<()> {
        file.sync_all()
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        crate::disk::sync_dir(dir)
    }
}

/// Where the snapshots of one chain are.
#[derive(Debug, Clone)]
pub struct SnapshotDir {
    path: PathBuf,
    pub(super) chain: ChainId,
    pub(super) files: Arc<dyn SnapshotFiles>,
}

impl SnapshotDir {
    /// The directory `snapshots` below a data directory; it need not be there yet.
    #[must_use]
    pub fn new(data: &Path, chain: ChainId) -> Self {
        Self::with_files(data, chain, Arc::new(SystemFiles))
    }

    /// The same, with something between the store and the system's calls.
    #[must_use]
    pub fn with_files(data: &Path, chain: ChainId, files: Arc<dyn SnapshotFiles>) -> Self {
        let path = data.join("snapshots");
        Self { path, chain, files }
    }

    /// Heights of the snapshots, oldest first; files that were not finished are deleted.
    ///
    /// # Errors
    /// The directory cannot be read, or an unfinished file not deleted.
    pub fn heights(&self) -> Result<Vec<Height>, StoreError> {
        let unreadable = |e| StoreError::io("list", &self.path, e);
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(unreadable(e)),
        };
        let mut heights = Vec::new();
        for entry in entries {
            let path = entry.map_err(unreadable)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let height = stem.and_then(|stem| stem.parse().ok()).map(Height);
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("snap") => {
                    // Whatever has another name is nobody's snapshot.
                    heights.extend(height.filter(|height| self.path_of(*height) == path));
                }
                Some("tmp") => self.remove(&path)?,
                _ => {}
            }
        }
        heights.sort_unstable();
        Ok(heights)
    }

    /// Begins the snapshot of a height; the directory is made when it is missing.
    ///
    /// # Errors
    /// The directory or the file cannot be made.
    pub fn create(&self, height: Height) -> Result<SnapshotWriter, StoreError> {
        let made = || -> io::Result<()> {
            self.files.create_dir(&self.path)?;
            // Or a power failure would take it, with snapshots that were finished. Each time: the
            // process that made it may have been killed before this line.
            let parent = self.path.parent().expect("it is below a data directory");
            self.files.sync_dir(parent)
        };
        made().map_err(|e| StoreError::io("create", &self.path, e))?;
        SnapshotWriter::create(self.clone(), height)
    }

    /// Opens the snapshot of a height and checks everything but the rows.
    ///
    /// # Errors
    /// The file is not there, or damaged, or of another chain.
    pub fn open(&self, height: Height) -> Result<SnapshotFile, StoreError> {
        SnapshotFile::open(&self.path_of(height), self.chain, height)
    }

    /// Deletes a snapshot. Whoever has it open goes on reading it.
    ///
    /// # Errors
    /// The file is not there, or the system refuses.
    pub fn delete(&self, height: Height) -> Result<(), StoreError> {
        self.remove(&self.path_of(height))
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        let removed = self.files.remove(path);
        removed.map_err(|e| StoreError::io("delete", path, e))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn path_of(&self, height: Height) -> PathBuf {
        self.path.join(format!("{:020}.snap", height.0))
    }
}
