//! The two calls on which durability stands, behind a trait, so that tests can make them fail.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;

use crate::error::StoreError;

/// Writes and syncs segment files. Shared by the writer and by recovery.
pub trait Disk: Send + Sync {
    /// `pwritev`: writes at an offset, returns how many bytes were taken; may be short.
    fn write_at(&self, file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// `fdatasync`: returns once everything written to the file is durable.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The real thing.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn write_at(&self, file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(file, bufs, offset)?)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(file)?)
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The same, for whoever has nothing to add to an error but the directory.
pub(crate) fn make_names_durable(dir: &Path) -> Result<(), StoreError> {
    sync_dir(dir).map_err(|e| StoreError::io("sync directory", dir, e))
}

/// Writes all of `bufs`, however often the system writes short.
pub(crate) fn write_all_at(
    disk: &dyn Disk,
    file: &File,
    bufs: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    let mut rest = bufs;
    IoSlice::advance_slices(&mut rest, 0); // drops leading empty slices
    while !rest.is_empty() {
        match disk.write_at(file, rest, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                offset += n as u64;
                IoSlice::advance_slices(&mut rest, n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
