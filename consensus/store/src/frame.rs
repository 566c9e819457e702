//! The frame around each record of a segment.
//!
//! ```text
//! offset size field
//!      0    4 header checksum: CRC32C of the segment's nonce, this frame's offset (8 bytes)
//!             and bytes 4..16
//!      4    4 payload length
//!      8    1 kind
//!      9    3 zero
//!     12    4 payload checksum: CRC32C of the payload
//!     16    - payload, then zeros up to a multiple of 8
//! ```
//! The header has a checksum of its own so that the length can be trusted when the payload is
//! damaged. It covers nonce and offset, so a frame is valid only where it was written: neither
//! the rest of an older use of the disk nor bytes that a peer put into a batch are taken for a
//! record.

use crate::record::{Kind, RECORD_BYTES_MAX};

/// Frames start at multiples of this, bytes.
pub(crate) const ALIGN: u64 = 8;
/// Bytes of a frame before its payload.
pub(crate) const FRAME_HEADER_LEN: usize = 16;
/// Bytes of a segment's nonce.
pub(crate) const NONCE_LEN: usize = 16;
/// Largest table of a sealed segment, bytes.
pub(crate) const INDEX_BYTES_MAX: usize = 256 << 20;

/// Random bytes that make a segment's frames its own.
pub(crate) type Nonce = [u8; NONCE_LEN];

/// A frame's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub kind: Kind,
    pub len: u32,
    pub payload_crc: u32,
}

/// What stands where a frame's header should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A valid header.
    Frame(Frame),
    /// Nothing was written here.
    Blank,
    /// Neither; why.
    Bad(&'static str),
}

impl Frame {
    /// The frame for a payload. Panics when the payload is above its limit: callers make their
    /// payloads from values that are bounded.
    pub(crate) fn for_payload(kind: Kind, payload: &[u8]) -> Self {
        assert!(
            payload.len() <= len_max(kind),
            "{kind:?} of {} bytes",
            payload.len()
        );
        let len = u32::try_from(payload.len()).expect("limit");
        Self {
            kind,
            len,
            payload_crc: crc32c::crc32c(payload),
        }
    }

    pub(crate) fn encode(&self, nonce: &Nonce, offset: u64) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0; FRAME_HEADER_LEN];
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8] = self.kind as u8;
        out[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = header_crc(nonce, offset, &out);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(nonce: &Nonce, offset: u64, bytes: &[u8; FRAME_HEADER_LEN]) -> Found {
        if *bytes == [0; FRAME_HEADER_LEN] {
            return Found::Blank;
        }
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if word(0) != header_crc(nonce, offset, bytes) {
            return Found::Bad("the frame header's checksum does not match");
        }
        if bytes[9..12] != [0; 3] {
            return Found::Bad("reserved bytes are set");
        }
        let Ok(kind) = Kind::try_from(bytes[8]) else {
            return Found::Bad("unknown record kind");
        };
        if word(4) as usize > len_max(kind) {
            return Found::Bad("the record is longer than its kind allows");
        }
        Found::Frame(Self {
            kind,
            len: word(4),
            payload_crc: word(12),
        })
    }

    /// Bytes of the whole frame, padding included.
    pub(crate) fn framed_len(&self) -> u64 {
        framed_len(self.len as usize)
    }
}

/// Bytes of a frame with a payload of `len` bytes, padding included.
pub(crate) fn framed_len(len: usize) -> u64 {
    (FRAME_HEADER_LEN + len).next_multiple_of(ALIGN as usize) as u64
}

/// Zeros between the end of a payload and the next frame.
pub(crate) fn padding(len: usize) -> &'static [u8] {
    const ZEROS: [u8; ALIGN as usize] = [0; ALIGN as usize];
    &ZEROS[..(framed_len(len) as usize) - FRAME_HEADER_LEN - len]
}

fn len_max(kind: Kind) -> usize {
    if kind == Kind::Index {
        INDEX_BYTES_MAX
    } else {
        RECORD_BYTES_MAX
    }
}

fn header_crc(nonce: &Nonce, offset: u64, bytes: &[u8; FRAME_HEADER_LEN]) -> u32 {
    let crc = crc32c::crc32c(nonce);
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, &bytes[4..])
}
