//! One segment file: its header, its frames, its seal.
//!
//! ```text
//! offset size field of the header
//!      0    8 "FALCNLOG"
//!      8    4 version: 1 in a new file, 2 in one that served before
//!     12    4 CRC32C of the header's other bytes
//!     16   32 chain id
//!     48    8 number of the segment, from 1
//!     56    8 where the records of the segment before end; 0 in the first
//!     64   16 nonce
//!     80    - frames
//! ```
//! A sealed segment ends with a frame of kind *index* and a trailer: "FALCSEAL", nonce, offset of
//! the index frame (8), CRC32C of these 32 bytes (4), zero (4).
//!
//! A segment is sealed only after its successor exists, and the successor is made only after all
//! of the segment is durable. So the last segment is never sealed, and everything in a segment
//! that is not the last was durable.
//!
//! A segment that nobody needs any more gives its file to a later one. Space that was written
//! before needs no entry in the file system's journal when it is written again, so `fdatasync`
//! waits for its own bytes only; and deleting a file, whose blocks many disks are told to discard,
//! holds up every other sync meanwhile. What stands behind the records of such a segment may be of
//! its predecessor. It is not taken for a record, because the checksum of each frame's header
//! covers the nonce.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use falconet_types::{ChainId, Digest};
use rustix::fs::FallocateFlags;

use crate::disk::{Disk, make_names_durable, write_all_at};
use crate::error::StoreError;
use crate::frame::{FRAME_HEADER_LEN, Found, Frame, NONCE_LEN, Nonce, padding};
use crate::record::Kind;

const MAGIC: &[u8; 8] = b"FALCNLOG";
const SEAL_MAGIC: &[u8; 8] = b"FALCSEAL";
const VERSION: u32 = 1;
/// Version of a segment in the file of an older one.
const VERSION_REUSED: u32 = 2;
/// Files of old segments that wait for reuse.
pub(crate) const SPARES_MAX: usize = 8;
/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER_LEN: usize = 64 + NONCE_LEN;
/// Bytes of a sealed segment's trailer.
pub(crate) const SEAL_LEN: usize = 8 + NONCE_LEN + 8 + 4 + 4;

/// An open segment. Reading is safe from any thread, also after the file was unlinked.
#[derive(Debug)]
pub(crate) struct Segment {
    pub number: u64,
    pub path: PathBuf,
    pub nonce: Nonce,
    pub prev_end: u64,
    pub file: File,
    /// What stands behind the records may be of an older segment.
    pub reused: bool,
}

impl Segment {
    /// Makes an empty, preallocated, durable segment, in the file of an old one if there is one.
    pub(crate) fn create(
        log_dir: &Path,
        chain: ChainId,
        number: u64,
        prev_end: u64,
        bytes: u64,
        spare: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        let path = log_dir.join(file_name(number));
        let temporary = path.with_extension("tmp");
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)
            .map_err(|e| StoreError::io("getrandom for", &path, io::Error::from(e)))?;
        // A spare that somebody deleted is no loss.
        let reused = spare.is_some_and(|spare| std::fs::rename(spare, &temporary).is_ok());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(!reused)
            .truncate(!reused)
            .mode(0o600)
            .open(&temporary)
            .map_err(|e| StoreError::io("create", &temporary, e))?;
        if reused {
            file.set_len(bytes)
                .map_err(|e| StoreError::io("resize", &temporary, e))?;
        }
        preallocate(&file, &temporary, bytes)?;
        let header = encode_header(chain, number, prev_end, &nonce, reused);
        file.write_all_at(&header, 0)
            .map_err(|e| StoreError::io("write", &temporary, e))?;
        file.sync_all()
            .map_err(|e| StoreError::io("sync", &temporary, e))?;
        std::fs::rename(&temporary, &path).map_err(|e| StoreError::io("rename", &path, e))?;
        make_names_durable(log_dir)?;
        Ok(Self {
            number,
            path,
            nonce,
            prev_end,
            file,
            reused,
        })
    }

    /// Opens an existing segment and checks its header.
    pub(crate) fn open(log_dir: &Path, chain: ChainId, number: u64) -> Result<Self, StoreError> {
        let path = log_dir.join(file_name(number));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| StoreError::io("open", &path, e))?;
        let mut header = [0; SEGMENT_HEADER_LEN];
        file.read_exact_at(&mut header, 0)
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => {
                    StoreError::corrupt(&path, 0, "the segment header is cut off")
                }
                _ => StoreError::io("read", &path, e),
            })?;
        let bad = |what: &str| StoreError::corrupt(&path, 0, what);
        if &header[..8] != MAGIC {
            return Err(bad("not a segment of a Falconet log"));
        }
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4"));
        let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8"));
        if ![VERSION, VERSION_REUSED].contains(&word(8)) {
            let (found, expected) = (word(8), VERSION);
            return Err(StoreError::Version {
                path,
                found,
                expected,
            });
        }
        if word(12) != header_crc(&header) {
            return Err(bad("the segment header's checksum does not match"));
        }
        if header[16..48] != chain.as_ref()[..] || long(48) != number {
            return Err(bad(
                "the segment belongs to another chain or has another number",
            ));
        }
        let nonce = header[64..].try_into().expect("length of the nonce");
        Ok(Self {
            number,
            nonce,
            prev_end: long(56),
            file,
            path,
            reused: word(8) == VERSION_REUSED,
        })
    }

    /// Writes a frame at `offset` without copying the payload. The caller accounts for offsets.
    pub(crate) fn write_frame(
        &self,
        disk: &dyn Disk,
        offset: u64,
        kind: Kind,
        payload: &[u8],
    ) -> Result<Frame, StoreError> {
        let frame = Frame::for_payload(kind, payload);
        let header = frame.encode(&self.nonce, offset);
        let mut slices = [
            IoSlice::new(&header),
            IoSlice::new(payload),
            IoSlice::new(padding(payload.len())),
        ];
        write_all_at(disk, &self.file, &mut slices, offset)
            .map_err(|e| StoreError::io("write", &self.path, e))?;
        Ok(frame)
    }

    /// Reads the payload of the frame at `offset` and checks that it is what was written.
    pub(crate) fn read_frame(
        &self,
        offset: u64,
        kind: Kind,
        len: u32,
    ) -> Result<Bytes, StoreError> {
        let mut bytes = vec![0; FRAME_HEADER_LEN + len as usize];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => self.corrupt(offset, "the record is cut off"),
                _ => StoreError::io("read", &self.path, e),
            })?;
        let header = bytes[..FRAME_HEADER_LEN]
            .try_into()
            .expect("length of the header");
        let frame = match Frame::decode(&self.nonce, offset, header) {
            Found::Frame(frame) => frame,
            Found::Blank => return Err(self.corrupt(offset, "there is no record")),
            Found::Bad(why) => return Err(self.corrupt(offset, why)),
        };
        if frame.kind != kind || frame.len != len {
            return Err(self.corrupt(offset, "there is another record than the index says"));
        }
        let payload = Bytes::from(bytes).slice(FRAME_HEADER_LEN..);
        if crc32c::crc32c(&payload) != frame.payload_crc {
            return Err(self.corrupt(
                offset,
                format!("the checksum of a {kind:?} record does not match"),
            ));
        }
        Ok(payload)
    }

    pub(crate) fn sync(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        disk.sync(&self.file)
            .map_err(|e| StoreError::io("sync", &self.path, e))
    }

    /// Ends the segment: writes its table behind the records, cuts the file, makes both durable.
    pub(crate) fn seal(&self, disk: &dyn Disk, end: u64, index: &[u8]) -> Result<(), StoreError> {
        let frame = self.write_frame(disk, end, Kind::Index, index)?;
        let trailer_at = end + frame.framed_len();
        let trailer = self.encode_seal(end);
        write_all_at(disk, &self.file, &mut [IoSlice::new(&trailer)], trailer_at)
            .map_err(|e| StoreError::io("write", &self.path, e))?;
        self.file
            .set_len(trailer_at + SEAL_LEN as u64)
            .map_err(|e| StoreError::io("truncate", &self.path, e))?;
        self.sync(disk)
    }

    /// The table of a sealed segment and where its records end. `None` when there is no intact
    /// seal.
    pub(crate) fn sealed_index(&self) -> Result<Option<(u64, Bytes)>, StoreError> {
        let len = self.len()?;
        let Some(trailer_at) = len.checked_sub(SEAL_LEN as u64) else {
            return Ok(None);
        };
        let mut trailer = [0; SEAL_LEN];
        self.file
            .read_exact_at(&mut trailer, trailer_at)
            .map_err(|e| StoreError::io("read", &self.path, e))?;
        let end = u64::from_le_bytes(trailer[24..32].try_into().expect("8"));
        if trailer != self.encode_seal(end) {
            return Ok(None);
        }
        let mut header = [0; FRAME_HEADER_LEN];
        if end + FRAME_HEADER_LEN as u64 > trailer_at
            || self.file.read_exact_at(&mut header, end).is_err()
        {
            return Ok(None);
        }
        let Found::Frame(frame) = Frame::decode(&self.nonce, end, &header) else {
            return Ok(None);
        };
        if frame.kind != Kind::Index || end + frame.framed_len() != trailer_at {
            return Ok(None);
        }
        Ok(self
            .read_frame(end, Kind::Index, frame.len)
            .ok()
            .map(|index| (end, index)))
    }

    /// Drops everything from `end` on and makes the file `bytes` long again, filled with zeros,
    /// so that nothing of an incomplete tail can ever be taken for a record.
    pub(crate) fn reset_tail(&self, end: u64, bytes: u64) -> Result<(), StoreError> {
        self.file
            .set_len(end)
            .map_err(|e| StoreError::io("truncate", &self.path, e))?;
        preallocate(&self.file, &self.path, bytes)?;
        self.file
            .sync_all()
            .map_err(|e| StoreError::io("sync", &self.path, e))
    }

    pub(crate) fn len(&self) -> Result<u64, StoreError> {
        Ok(self
            .file
            .metadata()
            .map_err(|e| StoreError::io("stat", &self.path, e))?
            .len())
    }

    pub(crate) fn corrupt(&self, offset: u64, what: impl Into<String>) -> StoreError {
        StoreError::corrupt(&self.path, offset, what)
    }

    fn encode_seal(&self, end: u64) -> [u8; SEAL_LEN] {
        let mut out = [0; SEAL_LEN];
        out[..8].copy_from_slice(SEAL_MAGIC);
        out[8..24].copy_from_slice(&self.nonce);
        out[24..32].copy_from_slice(&end.to_le_bytes());
        let crc = crc32c::crc32c(&out[..32]);
        out[32..36].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// Name of a segment's file.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:010}.seg")
}

/// Number of the segment with this file name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// Name of the file of an old segment that waits for reuse.
pub(crate) fn spare_name(number: u64) -> String {
    format!("{number:010}.old")
}

/// Reserves space, so that appending changes no file size and cannot run out of space.
fn preallocate(file: &File, path: &Path, bytes: u64) -> Result<(), StoreError> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        // Some filesystems have no fallocate. A sparse file serves, only slower.
        Err(rustix::io::Errno::OPNOTSUPP) => file
            .set_len(bytes)
            .map_err(|e| StoreError::io("extend", path, e)),
        Err(e) => Err(StoreError::io("reserve space for", path, e.into())),
    }
}

fn encode_header(
    chain: ChainId,
    number: u64,
    prev_end: u64,
    nonce: &Nonce,
    reused: bool,
) -> [u8; SEGMENT_HEADER_LEN] {
    let mut out = [0; SEGMENT_HEADER_LEN];
    out[..8].copy_from_slice(MAGIC);
    let version = if reused { VERSION_REUSED } else { VERSION };
    out[8..12].copy_from_slice(&version.to_le_bytes());
    out[16..48].copy_from_slice(Digest::as_bytes(&chain));
    out[48..56].copy_from_slice(&number.to_le_bytes());
    out[56..64].copy_from_slice(&prev_end.to_le_bytes());
    out[64..].copy_from_slice(nonce);
    let crc = header_crc(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

fn header_crc(header: &[u8; SEGMENT_HEADER_LEN]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}
