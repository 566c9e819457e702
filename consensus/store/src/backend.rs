//! A file of the state database that is written by way of [`SnapshotFiles`]: the one that is built of a
//! snapshot. So a test knows each write of it, and what a crash leaves of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::StorageBackend;

use crate::snapshot::SnapshotFiles;

/// A new file. Nobody else opens it as long as it has this name, so nothing is locked.
#[derive(Debug)]
pub(crate) struct Backend {
    path: PathBuf,
    file: File,
    files: Arc<dyn SnapshotFiles>,
}

impl Backend {
    pub(crate) fn create(path: &Path, files: &Arc<dyn SnapshotFiles>) -> io::Result<Self> {
        // What is written is read again.
        drop(files.create(path)?);
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            files: Arc::clone(files),
        })
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.files.set_len(&self.path, &self.file, len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.files.sync(&self.path, &self.file)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.files.write_at(&self.path, &self.file, data, offset)
    }
}
