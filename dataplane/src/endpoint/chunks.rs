//! Frames on their way into a QUIC stream: small ones are joined in memory, large ones are not
//! copied.
//!
//! quinn-proto keeps a list of the pieces written to a stream until they are acknowledged and
//! walks it for every packet, so many small pieces cost more than copying them together once.

use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, StreamId, WriteError};

use super::sender::Failure;
use crate::{CloseCode, Payload, frame};

/// Payloads shorter than this are copied behind their headers, bytes.
const JOIN_BELOW_BYTES: usize = 4096;

/// Smallest and largest block of an arena, bytes.
const BLOCK_BYTES_MIN: usize = 1 << 10;
const BLOCK_BYTES_MAX: usize = 64 << 10;

/// Memory for headers and small payloads of one connection. Each connection has its own, so that
/// what a peer does not acknowledge pins no more than a block beyond its send window. Blocks grow
/// while they fill, and are used again once everything in them is acknowledged.
#[derive(Default)]
pub(super) struct Arena {
    block: BytesMut,
    next_bytes: usize,
}

impl Arena {
    /// Makes room for `len` bytes in one piece; false when what was appended before must be taken
    /// first.
    fn reserve(&mut self, len: usize) -> bool {
        if self.block.capacity() - self.block.len() >= len {
            return true;
        }
        if !self.block.is_empty() {
            return false;
        }
        if !self.block.try_reclaim(self.next_bytes.max(len)) {
            self.next_bytes = (self.next_bytes * 2).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
            self.block = BytesMut::with_capacity(self.next_bytes.max(len));
        }
        true
    }

    fn take(&mut self) -> Bytes {
        self.block.split().freeze()
    }
}

/// Pieces waiting to be written to one stream.
#[derive(Default)]
pub(super) struct Chunks {
    pieces: Vec<Bytes>,
    /// Pieces at the front that are written.
    done: usize,
    /// Bytes not yet written.
    bytes: usize,
}

/// How far writing came.
pub(super) enum Progress {
    All,
    Blocked,
    Stopped,
}

impl Chunks {
    /// Bytes not yet written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a piece as it is.
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Appends a frame. [`seal`](Self::seal) must follow before anything else uses the arena.
    pub(super) fn push_frame(&mut self, arena: &mut Arena, kind: u8, payload: Payload) {
        let len = u32::try_from(payload.len()).expect("frame lengths are checked before queueing");
        self.copy(arena, &frame::header(kind, len));
        match payload {
            Payload::One(bytes) => self.push_piece(arena, bytes),
            Payload::Many(pieces) => {
                for piece in pieces {
                    self.push_piece(arena, piece);
                }
            }
        }
    }

    /// Moves what was joined in the arena to the pieces.
    pub(super) fn seal(&mut self, arena: &mut Arena) {
        let joined = arena.take();
        self.push(joined);
    }

    /// Writes as much as QUIC takes.
    pub(super) fn write(
        &mut self,
        quic: &mut Connection,
        id: StreamId,
    ) -> Result<Progress, Failure> {
        while self.bytes > 0 {
            match quic
                .send_stream(id)
                .write_chunks(&mut self.pieces[self.done..])
            {
                Ok(written) => {
                    self.done += written.chunks;
                    self.bytes -= written.bytes;
                }
                Err(WriteError::Blocked) => return Ok(Progress::Blocked),
                Err(WriteError::Stopped(_)) => return Ok(Progress::Stopped),
                Err(WriteError::ClosedStream) => {
                    return Err((CloseCode::BadStream, "a stream of ours is closed".into()));
                }
            }
        }
        self.pieces.clear();
        self.done = 0;
        Ok(Progress::All)
    }

    fn push_piece(&mut self, arena: &mut Arena, piece: Bytes) {
        if piece.len() < JOIN_BELOW_BYTES {
            self.copy(arena, &piece);
        } else {
            self.seal(arena);
            self.push(piece);
        }
    }

    fn copy(&mut self, arena: &mut Arena, bytes: &[u8]) {
        if !arena.reserve(bytes.len()) {
            self.seal(arena);
            assert!(arena.reserve(bytes.len()), "an empty block takes anything");
        }
        arena.block.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(chunks: &Chunks) -> Vec<u8> {
        chunks.pieces.concat()
    }

    #[test]
    fn small_frames_become_one_piece_and_large_ones_are_not_copied() {
        let (mut chunks, mut arena) = (Chunks::default(), Arena::default());
        let large = Bytes::from(vec![7; JOIN_BELOW_BYTES]);
        let mut expected = Vec::new();
        let mut push = |payload: Payload, flat: &[u8], chunks: &mut Chunks, arena: &mut Arena| {
            expected.extend_from_slice(&frame::header(16, flat.len() as u32));
            expected.extend_from_slice(flat);
            chunks.push_frame(arena, 16, payload);
        };
        for i in 0..4 {
            push(vec![i; 100].into(), &[i; 100], &mut chunks, &mut arena);
        }
        push(large.clone().into(), &large, &mut chunks, &mut arena);
        let many = vec![Bytes::from_static(b"ab"), Bytes::new(), large.clone()];
        push(many.clone().into(), &many.concat(), &mut chunks, &mut arena);
        push(Bytes::new().into(), &[], &mut chunks, &mut arena);
        chunks.seal(&mut arena);
        assert_eq!(joined(&chunks), expected);
        assert_eq!(chunks.bytes(), expected.len());
        let lens: Vec<usize> = chunks.pieces.iter().map(Bytes::len).collect();
        let small = 4 * 108 + frame::HEADER_BYTES;
        assert_eq!(lens, [small, 4096, frame::HEADER_BYTES + 2, 4096, 8]);
        assert_eq!(chunks.pieces[1].as_ptr(), large.as_ptr());
    }

    #[test]
    fn blocks_grow_to_their_limit_and_are_used_again() {
        let mut arena = Arena::default();
        let mut chunks = Chunks::default();
        for _ in 0..1000 {
            chunks.push_frame(&mut arena, 16, vec![1; 992].into());
        }
        chunks.seal(&mut arena);
        assert_eq!(chunks.bytes(), 1_000_000);
        assert!(chunks.pieces.len() < 1_000_000 / BLOCK_BYTES_MAX + 10);
        assert!(chunks.pieces.iter().all(|p| p.len() <= BLOCK_BYTES_MAX));
        drop(chunks);
        assert!(arena.reserve(BLOCK_BYTES_MAX));
        let before = arena.block.as_ptr();
        for _ in 0..BLOCK_BYTES_MAX / 1000 * 3 {
            // Acknowledged at once, so the same memory serves.
            assert!(arena.reserve(1000));
            arena.block.extend_from_slice(&[0; 1000]);
            drop(arena.take());
        }
        arena.reserve(BLOCK_BYTES_MAX);
        assert_eq!(arena.block.as_ptr(), before);
    }
}
