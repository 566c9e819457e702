//! Snapshot files: the account rows of one height in the order of their ids, made to be read in
//! ranges of buckets.
//!
//! ```text
//! data/snapshots/HEIGHT.snap
//!   header (64)    magic "FALCSNAP", version, 0, chain id, height, 0
//!   rows           as they travel in chunks, bucket after bucket
//!   offsets        65,537 × u64: where each bucket begins in the rows, and where the last ends
//!   leaves         65,536 × 32: the leaf of each bucket
//!   head           opaque to the store
//!   footer (32)    position of the offsets, length of the head, CRC-32C of everything from the
//!                  offsets to here, magic "FALCEND1"
//! ```
//!
//! A file is written under another name and gets its own once it is durable, so a file that is
//! there is whole. Rows carry no checksum of their own: who receives them judges them by the
//! leaves.

mod directory;
mod writer;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use falconet_types::{ChainId, Digest, Height};

use crate::error::StoreError;

pub use directory::{SnapshotDir, SnapshotFiles, SystemFiles};
pub use writer::SnapshotWriter;

/// Buckets of a snapshot.
pub const SNAPSHOT_BUCKETS: usize = 1 << 16;
/// Longest head of a snapshot, bytes.
pub const SNAPSHOT_HEAD_BYTES_MAX: usize = 4 << 20;

const MAGIC: &[u8; 8] = b"FALCSNAP";
const END: &[u8; 8] = b"FALCEND1";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 64;
const FOOTER_LEN: usize = 32;
const OFFSETS_LEN: usize = (SNAPSHOT_BUCKETS + 1) * 8;
const LEAVES_LEN: usize = SNAPSHOT_BUCKETS * 32;

fn header(chain: ChainId, height: Height) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..48].copy_from_slice(chain.as_ref());
    out[48..56].copy_from_slice(&height.0.to_le_bytes());
    out
}

/// A finished snapshot. Reads from any thread.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
    height: Height,
    offsets: Vec<u64>,
    head: Vec<u8>,
    leaves_at: u64,
}

impl SnapshotFile {
    fn open(path: &Path, chain: ChainId, height: Height) -> Result<Self, StoreError> {
        let unreadable = |e| StoreError::io("read", path, e);
        let file = File::open(path).map_err(unreadable)?;
        let len = file.metadata().map_err(unreadable)?.len();
        let fixed = (HEADER_LEN + OFFSETS_LEN + LEAVES_LEN + FOOTER_LEN) as u64;
        let damaged = |what: &str| StoreError::corrupt(path, 0, what.to_owned());
        if len < fixed {
            return Err(damaged("the file is too short"));
        }
        let mut found = [0; HEADER_LEN];
        file.read_exact_at(&mut found, 0).map_err(unreadable)?;
        if found != header(chain, height) {
            return Err(damaged("it is not this chain's snapshot of this height"));
        }
        let mut footer = [0; FOOTER_LEN];
        let footer_at = len - FOOTER_LEN as u64;
        file.read_exact_at(&mut footer, footer_at)
            .map_err(unreadable)?;
        let word = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().expect("8"));
        let (at, head_len) = (word(0), word(8));
        let expected = at
            .checked_add((OFFSETS_LEN + LEAVES_LEN) as u64)
            .and_then(|end| end.checked_add(head_len));
        if &footer[24..] != END
            || head_len > SNAPSHOT_HEAD_BYTES_MAX as u64
            || expected != Some(footer_at)
            || at < HEADER_LEN as u64
        {
            return Err(damaged("the end of the file is damaged"));
        }
        let tail_len = usize::try_from(footer_at - at).expect("bounded above");
        let mut tail = vec![0; tail_len + 16];
        file.read_exact_at(&mut tail, at).map_err(unreadable)?;
        let crc = u32::from_le_bytes(footer[16..20].try_into().expect("4"));
        if crc32c::crc32c(&tail) != crc {
            return Err(damaged("the checksum does not match"));
        }
        let offsets: Vec<u64> = tail[..OFFSETS_LEN]
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8")))
            .collect();
        let rows_bytes = at - HEADER_LEN as u64;
        if !offsets.is_sorted() || offsets[0] != 0 || offsets[SNAPSHOT_BUCKETS] != rows_bytes {
            return Err(damaged("the offsets of buckets are damaged"));
        }
        let head = tail[OFFSETS_LEN + LEAVES_LEN..tail_len].to_vec();
        Ok(Self {
            path: path.to_owned(),
            file,
            height,
            offsets,
            head,
            leaves_at: at + OFFSETS_LEN as u64,
        })
    }

    /// Its height.
    #[must_use]
    pub fn height(&self) -> Height {
        self.height
    }

    /// What the writer said about the state.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn rows_bytes(&self) -> u64 {
        self.offsets[SNAPSHOT_BUCKETS]
    }

    /// The last bucket of a range that begins with `first` and ends with `last` at the latest:
    /// the one with which its rows reach `bytes`.
    #[must_use]
    pub fn fill(&self, first: u16, last: u16, bytes: u64) -> u16 {
        let full = self.offsets[usize::from(first)].saturating_add(bytes);
        let ends = &self.offsets[usize::from(first) + 1..=usize::from(last) + 1];
        let more = ends.partition_point(|end| *end < full).min(ends.len() - 1);
        first + u16::try_from(more).expect("below the number of buckets")
    }

    /// The rows of a range of buckets.
    pub fn rows(&self, first: u16, last: u16) -> Result<Vec<u8>, StoreError> {
        let start = self.offsets[usize::from(first)];
        let end = self.offsets[usize::from(last) + 1];
        let len = usize::try_from(end - start).expect("a part of a file fits memory");
        let mut rows = vec![0; len];
        self.file
            .read_exact_at(&mut rows, HEADER_LEN as u64 + start)
            .map_err(|e| StoreError::io("read", &self.path, e))?;
        Ok(rows)
    }

    /// The leaves of all buckets.
    pub fn leaves(&self) -> Result<Vec<Digest>, StoreError> {
        let mut bytes = vec![0; LEAVES_LEN];
        self.file
            .read_exact_at(&mut bytes, self.leaves_at)
            .map_err(|e| StoreError::io("read", &self.path, e))?;
        let leaf = |bytes: &[u8]| Digest(bytes.try_into().expect("32 bytes"));
        Ok(bytes.chunks_exact(32).map(leaf).collect())
    }
}
