//! One snapshot on its way to the disk.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use falconet_types::{Digest, Height};

use crate::error::StoreError;

use super::directory::SnapshotDir;
use super::{
    END, FOOTER_LEN, HEADER_LEN, LEAVES_LEN, OFFSETS_LEN, SNAPSHOT_BUCKETS,
    SNAPSHOT_HEAD_BYTES_MAX, SnapshotFile, header,
};

/// Bytes that gather before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes one snapshot. Dropping it unfinished deletes what was written: a disk that is full must
/// not stay so, for the log is on the same one.
#[derive(Debug)]
pub struct SnapshotWriter {
    dir: SnapshotDir,
    /// Its present name.
    path: PathBuf,
    height: Height,
    file: File,
    buffer: Vec<u8>,
    offsets: Vec<u64>,
    leaves: Vec<Digest>,
    rows_bytes: u64,
    /// It is whole and durable under its own name.
    finished: bool,
}

impl SnapshotWriter {
    pub(super) fn create(dir: SnapshotDir, height: Height) -> Result<Self, StoreError> {
        let path = dir.path_of(height).with_extension("tmp");
        let file = dir.files.create(&path);
        let file = file.map_err(|e| StoreError::io("create", &path, e))?;
        let mut writer = Self {
            path,
            height,
            file,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            offsets: Vec::with_capacity(SNAPSHOT_BUCKETS + 1),
            leaves: Vec::with_capacity(SNAPSHOT_BUCKETS),
            rows_bytes: 0,
            finished: false,
            dir,
        };
        writer.offsets.push(0);
        let header = header(writer.dir.chain, height);
        writer.write(&header)?;
        Ok(writer)
    }

    /// Appends rows to the present bucket.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn rows(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.rows_bytes += bytes.len() as u64;
        self.write(bytes)
    }

    /// Ends the present bucket; the next one begins.
    pub fn end_bucket(&mut self, leaf: Digest) {
        self.offsets.push(self.rows_bytes);
        self.leaves.push(leaf);
    }

    /// Bytes of rows so far.
    #[must_use]
    pub fn rows_bytes(&self) -> u64 {
        self.rows_bytes
    }

    /// The leaves of the buckets that were ended.
    #[must_use]
    pub fn leaves(&self) -> &[Digest] {
        &self.leaves
    }

    /// Makes the snapshot durable and gives it its name.
    ///
    /// # Errors
    /// The file cannot be written, synced or renamed.
    ///
    /// # Panics
    /// If not exactly [`SNAPSHOT_BUCKETS`] buckets were ended.
    pub fn finish(mut self, head: &[u8]) -> Result<SnapshotFile, StoreError> {
        assert_eq!(self.leaves.len(), SNAPSHOT_BUCKETS, "every bucket is ended");
        assert!(head.len() <= SNAPSHOT_HEAD_BYTES_MAX, "a head is small");
        let mut tail = Vec::with_capacity(OFFSETS_LEN + LEAVES_LEN + head.len() + FOOTER_LEN);
        for offset in &self.offsets {
            tail.extend_from_slice(&offset.to_le_bytes());
        }
        for leaf in &self.leaves {
            tail.extend_from_slice(leaf.as_ref());
        }
        tail.extend_from_slice(head);
        let at = HEADER_LEN as u64 + self.rows_bytes;
        tail.extend_from_slice(&at.to_le_bytes());
        tail.extend_from_slice(&(head.len() as u64).to_le_bytes());
        tail.extend_from_slice(&crc32c::crc32c(&tail).to_le_bytes());
        tail.extend_from_slice(&[0; 4]);
        tail.extend_from_slice(END);
        self.write(&tail)?;
        self.flush()?;
        let path = self.dir.path_of(self.height);
        let end = || -> io::Result<()> {
            let files = &*self.dir.files;
            files.sync(&self.path, &self.file)?;
            files.rename(&self.path, &path)?;
            self.path = path;
            files.sync_dir(self.dir.path())
        };
        end().map_err(|e| StoreError::io("write", &self.path, e))?;
        let file = self.dir.open(self.height)?;
        self.finished = true;
        Ok(file)
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while self.buffer.len() + bytes.len() >= BUFFER_BYTES {
            let (now, later) = bytes.split_at(BUFFER_BYTES - self.buffer.len());
            self.buffer.extend_from_slice(now);
            self.flush()?;
            bytes = later;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let files = &*self.dir.files;
        let written = files.append(&self.path, &mut self.file, &self.buffer);
        self.buffer.clear();
        written.map_err(|e| StoreError::io("write", &self.path, e))
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.dir.files.remove(&self.path)
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "an unfinished snapshot stays until the next start");
        }
    }
}
