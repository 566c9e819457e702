//! Compressed polynomials on their way into the SIMD decoders.
//!
//! The decoders read four codewords at a time from a 64-bit window, of which at least 57 bits are
//! valid, and note each codeword in 16 bits: the number of leading zeros of the unary part
//! (counted from the top of the byte before it, so 8 more than its zeros) above the byte of sign
//! and low bits. Then whole rows of notes become coefficients at once.
//!
//! Four codewords usually take 39 bits. An attacker can make them longer than the window. Such a
//! group takes a detour (`repair` with AVX-512, else [`read_wide`]). But it has at least 22 zeros
//! in its unary parts, and all codewords of a polynomial together have at most 696 (FALCON-512:
//! 392), or the bytes would not suffice. So there are at most 31 (17) detours before a decoder runs
//! into the zeros at the end and refuses, and all of them cost less than the rest of the
//! verification. The benchmark `compare` shows by how much.

use super::super::Scheme;
use super::CHUNK;

/// Codewords read from one window.
pub(crate) const WINDOW_CODEWORDS: usize = 4;

/// Largest sum of the four noted counts for which all codewords were inside the window's 57 valid
/// bits: each codeword has one bit more than its count.
pub(crate) const WINDOW_COUNTS_MAX: u64 = 57 - WINDOW_CODEWORDS as u64;

/// Largest count of a canonical codeword: 15 zeros.
pub(crate) const CANONICAL_COUNT_MAX: i64 = 8 + 15;

/// Note of a codeword without zeros, before its byte.
pub(crate) const NOTE_BIAS: u16 = 8 << 8;

/// From here on a note without bias stands for a magnitude above 2047: 16 zeros and more.
pub(crate) const NOTE_LIMIT: u16 = 16 << 8;

/// Note of "-0" without bias: the sign bit alone.
pub(crate) const NOTE_MINUS_ZERO: u16 = 0x80;

/// Bytes between the starts of two rows.
pub(crate) const ROW_LEN: usize = 1280;

/// Zeros after the compressed bytes. A codeword ends with a one-bit, so none ends among them, and
/// a decoder that looks for one there finds its window too short. Windows start at the end of the
/// compressed bytes at the latest and reach eight bytes further.
const ZEROS_AFTER: usize = 16;

const _: () = assert!(Scheme::Falcon1024.compressed_len() + ZEROS_AFTER <= ROW_LEN);

/// The row of ones where lanes go that have no polynomial to decode or failed: one bit of every
/// nine is looked at, and 1024 codewords stay inside the row.
pub(crate) const PARKING_ROW: usize = CHUNK;

const _: () = assert!(1024 * 9 / 8 + 8 <= ROW_LEN);

/// The compressed polynomials of a chunk, each followed by zeros.
#[repr(C, align(64))]
pub(crate) struct Rows([[u8; ROW_LEN]; CHUNK + 1]);

impl Rows {
    /// Rows of zeros, and the parking row.
    pub(crate) const fn new() -> Self {
        let mut rows = [[0; ROW_LEN]; CHUNK + 1];
        rows[PARKING_ROW] = [0xff; ROW_LEN];
        Self(rows)
    }

    /// Copies a compressed polynomial into row `index`.
    pub(crate) fn set(&mut self, index: usize, compressed: &[u8]) {
        assert!(index < CHUNK);
        let (head, rest) = self.0[index].split_at_mut(compressed.len());
        head.copy_from_slice(compressed);
        rest[..ZEROS_AFTER].fill(0);
    }

    /// Row `index`.
    pub(crate) fn row(&self, index: usize) -> &[u8; ROW_LEN] {
        &self.0[index]
    }

    /// The first byte of all rows; row i starts at i · [`ROW_LEN`].
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    /// Whether all bits of row `index` from bit `end` on are zero, and `end` is not beyond the
    /// compressed bytes of `scheme`.
    pub(crate) fn ends_at(&self, scheme: Scheme, index: usize, end: usize) -> bool {
        let row = &self.0[index][..scheme.compressed_len()];
        if end > 8 * row.len() {
            return false;
        }
        let (byte, bit) = (end / 8, end % 8);
        let first = if bit == 0 { 0 } else { row[byte] << bit };
        // Mostly a handful of bytes; at most 87 (or 49) if every codeword has nine bits.
        first == 0 && row[end.div_ceil(8)..].iter().all(|&byte| byte == 0)
    }
}

/// The notes of four codewords that together exceed a window, and the sum of their counts. `None`
/// if a magnitude exceeds 2047: this polynomial is refused.
#[cold]
pub(crate) fn read_wide(
    row: &[u8; ROW_LEN],
    mut position: usize,
) -> Option<([u16; WINDOW_CODEWORDS], u64)> {
    let mut counts = 0;
    let mut notes = [0; WINDOW_CODEWORDS];
    for note in &mut notes {
        let byte = position / 8;
        let window = u64::from_be_bytes(*row[byte..].first_chunk().expect("inside the row"));
        let window = window << (position % 8);
        let count = u64::from((window & 0x00ff_ffff_ffff_ffff).leading_zeros());
        if count > CANONICAL_COUNT_MAX.cast_unsigned() {
            return None;
        }
        *note = (count << 8 | window >> 56) as u16;
        counts += count;
        position += count as usize + 1;
    }
    Some((notes, counts))
}
