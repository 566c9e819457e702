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
//! slice of it; any other frame is gathered by one copy. It is strict: there is one encoding for
//! one frame, and the length is checked against the channel's limit before a byte of payload is
//! kept.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// Version of the frame format, the first byte of every frame.
pub const FRAME_VERSION: u8 = 1;

/// Length of a frame header, bytes.
pub const HEADER_BYTES: usize = 8;

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is; `KIND_APPLICATION_MIN` and above belong to the application.
    pub kind: u8,
    /// The payload.
    pub payload: Bytes,
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
            state: IDLE,
            copied_bytes: 0,
        }
    }

    /// Takes bytes from the front of `chunk` until a frame is complete or `chunk` is empty.
    /// Call until it returns `None`; then `chunk` is empty. After an error the stream is
    /// unusable.
    pub fn next_frame(&mut self, chunk: &mut Bytes) -> Result<Option<Frame>, FrameError> {
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
                        Bytes::copy_from_slice(&slice)
                    } else {
                        slice
                    };
                    self.state = IDLE;
                    return Ok(Some(Frame { kind, payload }));
                }
                State::Start { kind, len } => {
                    if chunk.is_empty() {
                        return Ok(None);
                    }
                    self.state = State::Gather {
                        kind: *kind,
                        len: *len,
                        body: BytesMut::with_capacity(*len),
                    };
                }
                State::Gather { kind, len, body } => {
                    let take = chunk.len().min(*len - body.len());
                    body.extend_from_slice(&chunk[..take]);
                    chunk.advance(take);
                    self.copied_bytes += take as u64;
                    if body.len() < *len {
                        return Ok(None);
                    }
                    let kind = *kind;
                    let payload = std::mem::take(body).freeze();
                    self.state = IDLE;
                    return Ok(Some(Frame { kind, payload }));
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
