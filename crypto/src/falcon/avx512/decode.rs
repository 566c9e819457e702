//! Decompression of up to 32 signatures at a time, one in each 64-bit lane.
//!
//! Codewords have different lengths, so a single signature is a chain of dependent steps; but
//! chains of different signatures are independent. A lane holds the window of one signature:
//!
//! ```text
//!  gather 64 bits at the position ─▶ four times: count zeros, note, shift the codeword out
//!                                 ─▶ position += what the four codewords took
//! ```
//!
//! Two to four vectors of eight lanes are interleaved to hide the latency of the chain. After eight
//! windows the notes of 32 codewords are transposed, so that each signature has a row of its own,
//! and a row becomes coefficients at once.

use std::arch::x86_64::*;

use crate::falcon::Scheme;
use crate::falcon::avx2;
use crate::falcon::simd::CHUNK;
use crate::falcon::simd::codeword::{
    CANONICAL_COUNT_MAX, NOTE_BIAS, NOTE_LIMIT, NOTE_MINUS_ZERO, PARKING_ROW, ROW_LEN, Rows,
    WINDOW_CODEWORDS, WINDOW_COUNTS_MAX,
};
use crate::falcon::simd::words::Polynomial;
use crate::keccak::avx512::transpose;

/// Bit positions, in the bits of all rows.
const ROW_BITS: u64 = 8 * ROW_LEN as u64;
const PARKING: u64 = PARKING_ROW as u64 * ROW_BITS;

/// Up to this number, signatures are decoded as with AVX2.
const SCALAR_MAX: usize = 4;

/// Windows per row of 32 coefficients.
const ROW_WINDOWS: usize = 32 / WINDOW_CODEWORDS;

#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vbmi,avx512vbmi2,lzcnt,bmi1,bmi2"
)]
pub(super) fn decode(
    scheme: Scheme,
    rows: &mut Rows,
    count: usize,
    s2: &mut [Polynomial; CHUNK],
) -> u32 {
    match count.div_ceil(8) {
        // A vector that is mostly empty takes longer than general registers.
        _ if count <= SCALAR_MAX => avx2::decode::decode(scheme, rows, count, s2),
        1 => decode_groups::<1>(scheme, rows, count, s2),
        2 => decode_groups::<2>(scheme, rows, count, s2),
        3 => decode_groups::<3>(scheme, rows, count, s2),
        4 => decode_groups::<4>(scheme, rows, count, s2),
        _ => panic!("a chunk has at most 32 jobs"),
    }
}

/// What a window of each of eight lanes held.
#[derive(Clone, Copy)]
struct Codewords {
    /// Notes of the four codewords.
    notes: [__m512i; WINDOW_CODEWORDS],
    /// Sum of the four counts.
    counts: __m512i,
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx512vbmi,avx512vbmi2,lzcnt,bmi1,bmi2"
)]
fn decode_groups<const GROUPS: usize>(
    scheme: Scheme,
    rows: &Rows,
    count: usize,
    s2: &mut [Polynomial; CHUNK],
) -> u32 {
    let zero = _mm512_setzero_si512();
    // Where the next windows start, in bits.
    let mut positions = [zero; GROUPS];
    for (group, positions) in positions.iter_mut().enumerate() {
        let mut starts = [PARKING; 8];
        for (lane, start) in starts.iter_mut().enumerate() {
            if 8 * group + lane < count {
                *start = (8 * group + lane) as u64 * ROW_BITS;
            }
        }
        // SAFETY: `starts` has 64 bytes.
        *positions = unsafe { _mm512_loadu_si512(starts.as_ptr().cast()) };
    }
    let mut refused = 0u32;
    let mut checks = [[RowCheck {
        largest: zero,
        minus_zero: 0,
    }; 8]; GROUPS];

    for row in 0..scheme.degree() / 32 {
        let mut notes = [[zero; ROW_WINDOWS]; GROUPS];
        #[expect(
            clippy::needless_range_loop,
            reason = "the notes are indexed by group first"
        )]
        for window in 0..ROW_WINDOWS {
            let (mut codewords, wide) = read_windows(rows, &positions);
            if wide.iter().fold(0, |any, wide| any | wide) != 0 {
                for group in (0..GROUPS).filter(|&group| wide[group] != 0) {
                    let repaired = repair(rows, positions[group], codewords[group]);
                    (positions[group], codewords[group]) = (repaired.positions, repaired.codewords);
                    refused |= u32::from(repaired.refused) << (8 * group);
                }
            }
            for (group, codewords) in codewords.iter().enumerate() {
                let ones = _mm512_set1_epi64(WINDOW_CODEWORDS as i64);
                let bits = _mm512_add_epi64(codewords.counts, ones);
                positions[group] = _mm512_add_epi64(positions[group], bits);
                notes[group][window] = pack(codewords.notes);
            }
        }
        for (group, (notes, checks)) in notes.iter().zip(&mut checks).enumerate() {
            for (lane, notes) in transpose(*notes).into_iter().enumerate() {
                coefficients(notes, &mut s2[8 * group + lane].0[row], &mut checks[lane]);
            }
        }
    }

    let mut valid = 0;
    for (group, (lanes, checks)) in positions.iter().zip(&checks).enumerate() {
        let mut positions = [0u64; 8];
        // SAFETY: `positions` has 64 bytes.
        unsafe { _mm512_storeu_si512(positions.as_mut_ptr().cast(), *lanes) };
        for (lane, check) in checks.iter().enumerate() {
            let index = 8 * group + lane;
            if index >= count || refused >> index & 1 == 1 || !check.is_canonical() {
                continue;
            }
            let end = positions[lane] - index as u64 * ROW_BITS;
            valid |= u32::from(rows.ends_at(scheme, index, end as usize)) << index;
        }
    }
    valid
}

/// Reads four codewords in each lane. Also returns the lanes whose window was too short for them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512cd,avx512vbmi2")]
fn read_windows<const GROUPS: usize>(
    rows: &Rows,
    positions: &[__m512i; GROUPS],
) -> ([Codewords; GROUPS], [__mmask8; GROUPS]) {
    let zero = _mm512_setzero_si512();
    let mut windows = [zero; GROUPS];
    for (window, positions) in windows.iter_mut().zip(positions) {
        *window = open_window(rows, *positions);
    }
    let mut codewords = [Codewords {
        notes: [zero; WINDOW_CODEWORDS],
        counts: zero,
    }; GROUPS];
    for at in 0..WINDOW_CODEWORDS {
        for (window, codewords) in windows.iter_mut().zip(&mut codewords) {
            let count;
            (codewords.notes[at], count, *window) = take_codeword(*window);
            codewords.counts = if at == 0 {
                count
            } else {
                _mm512_add_epi64(codewords.counts, count)
            };
        }
    }
    let limit = _mm512_set1_epi64(WINDOW_COUNTS_MAX.cast_signed());
    let mut wide = [0; GROUPS];
    for (wide, codewords) in wide.iter_mut().zip(&codewords) {
        *wide = _mm512_cmpgt_epu64_mask(codewords.counts, limit);
    }
    (codewords, wide)
}

/// The 64 bits from each position on, the first in the top; the lowest seven may be missing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn open_window(rows: &Rows, positions: __m512i) -> __m512i {
    let big_endian = _mm512_broadcast_i32x4(_mm_set_epi8(
        8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7,
    ));
    let bytes = _mm512_srli_epi64::<3>(positions);
    // SAFETY: every position is in its row or in the parking row, at least eight bytes before the
    // end. A codeword ends with a one-bit, and behind a polynomial there are only zeros, so a
    // position never passes its end; a window that would is found too short, and its lane is sent
    // to the parking row by `repair`. Parked lanes take nine bits a codeword, at most 1024 times.
    let window = unsafe { _mm512_i64gather_epi64::<1>(bytes, rows.as_ptr().cast()) };
    let offset = _mm512_and_si512(positions, _mm512_set1_epi64(7));
    _mm512_sllv_epi64(_mm512_shuffle_epi8(window, big_endian), offset)
}

/// The note and the count of the first codeword of each window, and the window without it.
#[inline]
#[target_feature(enable = "avx512f,avx512cd,avx512vbmi2")]
fn take_codeword(window: __m512i) -> (__m512i, __m512i, __m512i) {
    let below_the_byte = _mm512_set1_epi64(0x00ff_ffff_ffff_ffff);
    let count = _mm512_lzcnt_epi64(_mm512_and_si512(window, below_the_byte));
    // The count above the byte.
    let note = _mm512_shldi_epi64::<8>(count, window);
    // One more than the count, in two steps of which the first does not wait for it.
    let rest = _mm512_sllv_epi64(_mm512_add_epi64(window, window), count);
    (note, count, rest)
}

/// Eight lanes of which some had a window that was too short.
struct Repaired {
    positions: __m512i,
    codewords: Codewords,
    /// Lanes whose polynomial is refused. They have moved to the parking row.
    refused: __mmask8,
}

/// Reads the third and the fourth codeword from a window of their own: canonical codewords have at
/// most 24 bits, so two always fit. Lanes with a longer one are refused.
///
/// This is right for all lanes, whether their window was too short or not. See
/// [`codeword`](crate::falcon::simd::codeword) for how seldom it happens.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512cd,avx512vbmi2")]
fn repair(rows: &Rows, positions: __m512i, codewords: Codewords) -> Repaired {
    let Codewords { mut notes, .. } = codewords;
    let longest = _mm512_set1_epi64(CANONICAL_COUNT_MAX);
    // A count is what a note has above its byte.
    let first = _mm512_srli_epi64::<8>(notes[0]);
    let second = _mm512_srli_epi64::<8>(notes[1]);
    let longer = _mm512_max_epu64(first, second);
    let mut refused = _mm512_cmpgt_epu64_mask(longer, longest);
    let parking = _mm512_set1_epi64(PARKING.cast_signed());
    let positions = _mm512_mask_mov_epi64(positions, refused, parking);

    let two = _mm512_add_epi64(first, second);
    let bits = _mm512_add_epi64(two, _mm512_set1_epi64(2));
    let next = _mm512_mask_mov_epi64(_mm512_add_epi64(positions, bits), refused, parking);
    let window = open_window(rows, next);
    let (third, fourth, rest);
    (notes[2], third, rest) = take_codeword(window);
    (notes[3], fourth, _) = take_codeword(rest);
    let longer = _mm512_max_epu64(third, fourth);
    refused |= _mm512_cmpgt_epu64_mask(longer, longest);
    let counts = _mm512_add_epi64(two, _mm512_add_epi64(third, fourth));

    // Refused lanes continue with what the parking row holds.
    let parked = _mm512_set1_epi64(i64::from(NOTE_BIAS | 0xff));
    for notes in &mut notes {
        *notes = _mm512_mask_mov_epi64(*notes, refused, parked);
    }
    let parked = _mm512_set1_epi64(8 * WINDOW_CODEWORDS as i64);
    let counts = _mm512_mask_mov_epi64(counts, refused, parked);
    let positions = _mm512_mask_mov_epi64(positions, refused, parking);
    Repaired {
        positions,
        codewords: Codewords { notes, counts },
        refused,
    }
}

/// Packs four notes of 16 bits into each 64-bit lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pack(notes: [__m512i; WINDOW_CODEWORDS]) -> __m512i {
    // In each quarter, for its lanes a and b: a0 b0 a1 b1 a2 b2 a3 b3.
    let pairs = [
        _mm512_packus_epi32(notes[0], notes[1]),
        _mm512_packus_epi32(notes[2], notes[3]),
    ];
    let all = _mm512_packus_epi32(pairs[0], pairs[1]);
    let by_lane = _mm512_broadcast_i32x4(_mm_set_epi8(
        15, 14, 11, 10, 7, 6, 3, 2, 13, 12, 9, 8, 5, 4, 1, 0,
    ));
    _mm512_shuffle_epi8(all, by_lane)
}

/// What has been seen in the rows of a signature.
#[derive(Clone, Copy)]
struct RowCheck {
    /// Largest note, column by column.
    largest: __m512i,
    /// Columns where "-0" was seen.
    minus_zero: __mmask32,
}

impl RowCheck {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn is_canonical(&self) -> bool {
        let limit = _mm512_set1_epi16(NOTE_LIMIT.cast_signed());
        self.minus_zero == 0 && _mm512_cmpge_epu16_mask(self.largest, limit) == 0
    }
}

/// Turns 32 notes into coefficients.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn coefficients(notes: __m512i, row: &mut [i16; 32], check: &mut RowCheck) {
    let notes = _mm512_sub_epi16(notes, _mm512_set1_epi16(NOTE_BIAS.cast_signed()));
    check.largest = _mm512_max_epu16(check.largest, notes);
    let minus_zero = _mm512_set1_epi16(NOTE_MINUS_ZERO.cast_signed());
    check.minus_zero |= _mm512_cmpeq_epi16_mask(notes, minus_zero);
    // The seven low bits stay, the zeros move next to them over the sign bit.
    let magnitude = _mm512_ternarylogic_epi64::<0xca>(
        _mm512_set1_epi16(0x7f),
        notes,
        _mm512_srli_epi16::<1>(notes),
    );
    let negative = _mm512_test_epi16_mask(notes, _mm512_set1_epi16(0x80));
    let value = _mm512_mask_sub_epi16(magnitude, negative, _mm512_setzero_si512(), magnitude);
    // SAFETY: a row has 64 bytes.
    unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), value) };
}
