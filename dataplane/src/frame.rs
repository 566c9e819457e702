//! The frame codec: an eight-byte header, then the payload. See `docs/stoq.md`, "Frames".
//!
//! ```text
//!  byte 0    1     2..4          4..8
//! +--------+------+-------------+----------------+=========+
//! | version| kind | reserved = 0| length, LE u32 | payload |
//! +--------+------+-------------+----------------+=========+
//! ```
//!
//! The decoder takes stream data in any cut. A frame that lies within one piece comes out as a
//! slice of it; any other frame is gathered by one copy, or handed on in the pieces in which it came
//! where the consumer wants that. It is strict: there is one encoding for one frame, and the length
//! is checked against the channel's limit before a byte of payload is kept.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

pub use crate::pool::SmallCopies;

/// Version of the frame format, the first byte of every frame.
pub const FRAME_VERSION: u8 = 1;

/// Length of a frame header, bytes.
pub const HEADER_BYTES: usize = 8;

/// A piece of a frame shorter than this is copied behind the one before, bytes: so that a peer that
/// sends byte by byte does not make a list out of a frame that takes many times its memory.
pub const PIECE_BYTES_MIN: usize = 512;

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is; `KIND_APPLICATION_MIN` and above belong to the application.
    pub kind: u8,
    /// The payload; empty when it is in `pieces`.
    pub payload: Bytes,
    /// The payload in pieces, in order, none of them empty. Empty when the payload is in one piece,
    /// and always without [`FrameDecoder::in_pieces`].
    pub pieces: Vec<Bytes>,
}

impl Frame {
    fn whole(kind: u8, payload: Bytes) -> Self {
        Frame {
            kind,
            payload,
            pieces: Vec::new(),
        }
    }
}

/// Why stream data is not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The version byte is unknown.
    #[error("frame version {0}, expected {FRAME_VERSION}")]
    Version(u8),
    /// The reserved bytes are not zero.
    #[error("reserved bytes of a frame header are {0:#06x}, expected 0")]
    Reserved(u16),
    /// The payload is longer than the channel permits.
    #[error("a frame announces {len} bytes, the channel permits {max}")]
    TooLong {
        /// Announced payload length, bytes.
        len: u32,
        /// The channel's limit, bytes.
        max: u32,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
}

/// Header of a frame with `len` payload bytes.
pub fn header(kind: u8, len: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = len.to_le_bytes();
    [FRAME_VERSION, kind, 0, 0, a, b, c, d]
}

/// Incremental decoder of one stream's frames.
#[derive(Debug)]
pub struct FrameDecoder {
    payload_bytes_max: u32,
    copy_below_bytes: usize,
    in_pieces: bool,
    state: State,
    copied_bytes: u64,
}

#[derive(Debug)]
enum State {
    /// Between frames, or within a header of which `have` bytes came.
    Header {
        bytes: [u8; HEADER_BYTES],
        have: usize,
    },
    /// The header is complete, of the payload nothing came yet.
    Start { kind: u8, len: usize },
    /// Part of the payload came.
    Gather {
        kind: u8,
        len: usize,
        body: BytesMut,
    },
    /// Part of the payload came, and is kept as it came.
    Pieces {
        kind: u8,
        /// Bytes that are still to come.
        left: usize,
        pieces: Vec<Bytes>,
        /// Short pieces that follow the last of `pieces`, joined.
        tail: BytesMut,
        copied: usize,
    },
}

const IDLE: State = State::Header {
    bytes: [0; HEADER_BYTES],
    have: 0,
};

impl FrameDecoder {
    /// A decoder for a stream whose frames carry at most `payload_bytes_max` bytes. Payloads
    /// shorter than `copy_below_bytes` are copied out of the receive buffer.
    pub fn new(payload_bytes_max: u32, copy_below_bytes: usize) -> Self {
        FrameDecoder {
            payload_bytes_max,
            copy_below_bytes,
            in_pieces: false,
            state: IDLE,
            copied_bytes: 0,
        }
    }

    /// Frames that come in several pieces of at least [`PIECE_BYTES_MIN`] are not gathered.
    #[must_use]
    pub fn in_pieces(mut self) -> Self {
        self.in_pieces = true;
        self
    }

    /// Takes bytes from the front of `chunk` until a frame is complete or `chunk` is empty.
    /// Call until it returns `None`; then `chunk` is empty. Small payloads are copied into memory
    /// of `copies`. After an error the stream is unusable.
    pub fn next_frame(
        &mut self,
        chunk: &mut Bytes,
        copies: &mut SmallCopies,
    ) -> Result<Option<Frame>, FrameError> {
        loop {
            match &mut self.state {
                State::Header { bytes, have } => {
                    let take = chunk.len().min(HEADER_BYTES - *have);
                    chunk.copy_to_slice(&mut bytes[*have..*have + take]);
                    *have += take;
                    if *have < HEADER_BYTES {
                        return Ok(None);
                    }
                    let (kind, len) = parse_header(bytes, self.payload_bytes_max)?;
                    self.state = State::Start { kind, len };
                }
                State::Start { kind, len } if chunk.len() >= *len => {
                    let (kind, len) = (*kind, *len);
                    let slice = chunk.split_to(len);
                    let payload = if len < self.copy_below_bytes {
                        self.copied_bytes += len as u64;
                        copies.copy(&slice)
                    } else {
                        slice
                    };
                    self.state = IDLE;
                    return Ok(Some(Frame::whole(kind, payload)));
                }
                State::Start { kind, len } => {
                    if chunk.is_empty() {
                        return Ok(None);
                    }
                    self.state = if self.in_pieces {
                        State::Pieces {
                            kind: *kind,
                            left: *len,
                            pieces: Vec::new(),
                            tail: BytesMut::new(),
                            copied: 0,
                        }
                    } else {
                        State::Gather {
                            kind: *kind,
                            len: *len,
                            body: BytesMut::with_capacity(*len),
                        }
                    };
                }
                State::Gather { kind, len, body } => {
                    let take = chunk.len().min(*len - body.len());
                    body.extend_from_slice(&chunk[..take]);
                    chunk.advance(take);
                    if body.len() < *len {
                        return Ok(None);
                    }
                    // Counted with the frame: what never becomes one is not delivered either.
                    self.copied_bytes += *len as u64;
                    let kind = *kind;
                    let payload = std::mem::take(body).freeze();
                    self.state = IDLE;
                    return Ok(Some(Frame::whole(kind, payload)));
                }
                State::Pieces {
                    kind,
                    left,
                    pieces,
                    tail,
                    copied,
                } => {
                    let piece = chunk.split_to(chunk.len().min(*left));
                    *left -= piece.len();
                    let is_short = piece.len() < PIECE_BYTES_MIN;
                    if is_short {
                        *copied += piece.len();
                        tail.extend_from_slice(&piece);
                    }
                    if !tail.is_empty() && (!is_short || *left == 0) {
                        pieces.push(tail.split().freeze());
                    }
                    if !is_short {
                        pieces.push(piece);
                    }
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.copied_bytes += *copied as u64;
                    let (kind, mut pieces) = (*kind, std::mem::take(pieces));
                    self.state = IDLE;
                    let frame = match pieces.as_mut_slice() {
                        [whole] => Frame::whole(kind, std::mem::take(whole)),
                        _ => Frame {
                            kind,
                            payload: Bytes::new(),
                            pieces,
                        },
                    };
                    return Ok(Some(frame));
                }
            }
        }
    }

    /// Whether no frame is begun and unfinished.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Header { have: 0, .. })
    }

    /// To be called at the end of the stream: an error when it ended within a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.is_idle() {
            Ok(())
        } else {
            Err(FrameError::Truncated)
        }
    }

    /// Payload bytes copied since the last call.
    pub fn take_copied_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.copied_bytes)
    }
}

fn parse_header(
    bytes: &[u8; HEADER_BYTES],
    payload_bytes_max: u32,
) -> Result<(u8, usize), FrameError> {
    let [version, kind, r0, r1, l0, l1, l2, l3] = *bytes;
    if version != FRAME_VERSION {
        return Err(FrameError::Version(version));
    }
    let reserved = u16::from_le_bytes([r0, r1]);
    if reserved != 0 {
        return Err(FrameError::Reserved(reserved));
    }
    let len = u32::from_le_bytes([l0, l1, l2, l3]);
    if len > payload_bytes_max {
        return Err(FrameError::TooLong {
            len,
            max: payload_bytes_max,
        });
    }
    Ok((kind, len as usize))
}

#[cfg(test)]
mod tests;
