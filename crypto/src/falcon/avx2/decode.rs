//! Decompression: several signatures at a time in general registers, then rows with AVX2.
//!
//! AVX2 cannot count leading zeros, so the codewords are found by scalar instructions. Four
//! signatures are interleaved, because each is a chain of dependent steps. See
//! [`crate::falcon::simd::codeword`] for windows and notes.

use std::arch::x86_64::*;

use crate::falcon::Scheme;
use crate::falcon::simd::CHUNK;
use crate::falcon::simd::codeword::{
    NOTE_BIAS, NOTE_LIMIT, NOTE_MINUS_ZERO, PARKING_ROW, ROW_LEN, Rows, WINDOW_CODEWORDS,
    WINDOW_COUNTS_MAX, read_wide,
};
use crate::falcon::simd::words::Polynomial;

/// Signatures that are decoded together, if there are so many.
const STREAMS: usize = 4;

#[target_feature(enable = "avx2,lzcnt,bmi1,bmi2")]
pub(in crate::falcon) fn decode(
    scheme: Scheme,
    rows: &Rows,
    count: usize,
    s2: &mut [Polynomial; CHUNK],
) -> u32 {
    let mut valid = 0;
    for first in (0..count).step_by(STREAMS) {
        valid |= match count - first {
            1 => decode_streams::<1>(scheme, rows, first, s2),
            2 => decode_streams::<2>(scheme, rows, first, s2),
            3 => decode_streams::<3>(scheme, rows, first, s2),
            _ => decode_streams::<STREAMS>(scheme, rows, first, s2),
        };
    }
    valid
}

/// Decodes `STREAMS` signatures from row `first` on.
#[inline]
#[target_feature(enable = "avx2,lzcnt,bmi1,bmi2")]
fn decode_streams<const STREAMS: usize>(
    scheme: Scheme,
    rows: &Rows,
    first: usize,
    s2: &mut [Polynomial; CHUNK],
) -> u32 {
    let mut streams = [Stream {
        row: 0,
        position: 0,
    }; STREAMS];
    for (k, stream) in streams.iter_mut().enumerate() {
        stream.row = first + k;
    }
    let s2 = s2[first..]
        .first_chunk_mut()
        .expect("the rows are inside the chunk");
    read_notes(scheme, rows, &mut streams, s2);
    let mut valid = 0;
    for (k, stream) in streams.iter().enumerate() {
        let canonical = coefficients(scheme, &mut s2[k]);
        let index = first + k;
        // A refused stream has moved to the parking row.
        if canonical && stream.row == index {
            valid |= u32::from(rows.ends_at(scheme, index, stream.position)) << index;
        }
    }
    valid
}

/// One signature.
#[derive(Clone, Copy)]
struct Stream {
    row: usize,
    /// Where the next window starts, in bits.
    position: usize,
}

/// Writes the notes of all codewords where the coefficients will be.
#[inline]
#[target_feature(enable = "avx2,lzcnt,bmi1,bmi2")]
fn read_notes<const STREAMS: usize>(
    scheme: Scheme,
    rows: &Rows,
    streams: &mut [Stream; STREAMS],
    notes: &mut [Polynomial; STREAMS],
) {
    for at in (0..scheme.degree()).step_by(WINDOW_CODEWORDS) {
        let mut windows = [0u64; STREAMS];
        for k in 0..STREAMS {
            let Stream { row, position } = streams[k];
            debug_assert!(position / 8 + 8 <= ROW_LEN);
            // SAFETY: every position is at least eight bytes before the end of its row. A codeword
            // ends with a one-bit, and behind a polynomial there are only zeros, so a position
            // never passes its end; a window that would is too short, and the stream is parked.
            // A parked stream takes nine bits a codeword, at most 1024 times.
            let bytes = unsafe {
                rows.as_ptr()
                    .add(row * ROW_LEN + position / 8)
                    .cast::<u64>()
                    .read_unaligned()
            };
            windows[k] = u64::from_be(bytes) << (position % 8);
        }
        let mut counts = [0u64; STREAMS];
        // Four notes of 16 bits each, the first lowest.
        let mut packed = [0u64; STREAMS];
        for codeword in 0..WINDOW_CODEWORDS {
            for k in 0..STREAMS {
                let window = windows[k];
                let count = (window & 0x00ff_ffff_ffff_ffff).leading_zeros();
                packed[k] |= (u64::from(count) << 8 | window >> 56) << (16 * codeword);
                // One more than the count. A count of 64 makes the window garbage, and too short.
                windows[k] = (window << 1).wrapping_shl(count);
                counts[k] += u64::from(count);
            }
        }
        for k in 0..STREAMS {
            if counts[k] > WINDOW_COUNTS_MAX {
                (packed[k], counts[k]) = read_again(rows, &mut streams[k]);
            }
            streams[k].position += counts[k] as usize + WINDOW_CODEWORDS;
            let to: &mut [i16; WINDOW_CODEWORDS] = notes[k].0[at / 32][at % 32..]
                .first_chunk_mut()
                .expect("32 is a multiple of 4");
            let packed = packed[k];
            *to = [
                packed as i16,
                (packed >> 16) as i16,
                (packed >> 32) as i16,
                (packed >> 48) as i16,
            ];
        }
    }
}

/// Reads a group of codewords that exceeds its window; the notes, packed, and their counts. If the
/// group is refused, the stream is parked, and the result is what the parking row holds.
#[cold]
fn read_again(rows: &Rows, stream: &mut Stream) -> (u64, u64) {
    let read = read_wide(rows.row(stream.row), stream.position);
    let (notes, counts) = read.unwrap_or_else(|| {
        *stream = Stream {
            row: PARKING_ROW,
            position: 0,
        };
        (
            [NOTE_BIAS | 0xff; WINDOW_CODEWORDS],
            8 * WINDOW_CODEWORDS as u64,
        )
    });
    (
        notes
            .into_iter()
            .rev()
            .fold(0, |packed, note| packed << 16 | u64::from(note)),
        counts,
    )
}

/// Turns notes into coefficients, in place; false if a magnitude exceeds 2047 or "-0" is there.
#[inline]
#[target_feature(enable = "avx2")]
fn coefficients(scheme: Scheme, polynomial: &mut Polynomial) -> bool {
    let mut largest = _mm256_setzero_si256();
    let mut minus_zero = _mm256_setzero_si256();
    let (halves, _) = polynomial.0.as_flattened_mut().as_chunks_mut::<16>();
    for words in &mut halves[..scheme.degree() / 16] {
        // SAFETY: the reference covers 32 bytes.
        let notes = unsafe { _mm256_loadu_si256(words.as_ptr().cast()) };
        let notes = _mm256_sub_epi16(notes, _mm256_set1_epi16(NOTE_BIAS.cast_signed()));
        largest = _mm256_max_epu16(largest, notes);
        let lone_sign = _mm256_set1_epi16(NOTE_MINUS_ZERO.cast_signed());
        minus_zero = _mm256_or_si256(minus_zero, _mm256_cmpeq_epi16(notes, lone_sign));
        // The seven low bits stay, the zeros move next to them over the sign bit.
        let low = _mm256_and_si256(notes, _mm256_set1_epi16(0x7f));
        let zeros = _mm256_andnot_si256(_mm256_set1_epi16(0x7f), _mm256_srli_epi16::<1>(notes));
        let magnitude = _mm256_or_si256(low, zeros);
        // All ones where the sign bit is set; then the two's complement.
        let sign = _mm256_srai_epi16::<15>(_mm256_slli_epi16::<8>(notes));
        let value = _mm256_sub_epi16(_mm256_xor_si256(magnitude, sign), sign);
        // SAFETY: the reference covers 32 bytes.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), value) };
    }
    let limit = _mm256_set1_epi16(NOTE_LIMIT.cast_signed());
    let too_large = _mm256_cmpeq_epi16(_mm256_max_epu16(largest, limit), largest);
    let wrong = _mm256_or_si256(too_large, minus_zero);
    _mm256_testz_si256(wrong, wrong) == 1
}
