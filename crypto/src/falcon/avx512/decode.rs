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
use crate::falcon::simd::CHUNK;
use crate::falcon::simd::codeword::{
    NOTE_BIAS, NOTE_LIMIT, NOTE_MINUS_ZERO, PARKING_ROW, ROW_LEN, Rows, WINDOW_CODEWORDS,
    WINDOW_COUNTS_MAX, read_wide,
};
use crate::falcon::simd::words::Polynomial;
use crate::keccak::avx512::transpose;
use crate::keccak::lanes::bits;

/// Bit positions, in the bits of all rows.
const ROW_BITS: u64 = 8 * ROW_LEN as u64;
const PARKING: u64 = PARKING_ROW as u64 * ROW_BITS;

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
        0 => 0,
        1 => decode_groups::<1>(scheme, rows, count, s2),
        2 => decode_groups::<2>(scheme, rows, count, s2),
        3 => decode_groups::<3>(scheme, rows, count, s2),
        4 => decode_groups::<4>(scheme, rows, count, s2),
        _ => panic!("a chunk has at most 32 jobs"),
    }
}

/// The state of eight signatures.
#[derive(Clone, Copy)]
struct Lanes {
    /// Where the next window starts, in bits.
    positions: __m512i,
    /// Notes of the four codewords of this window.
    notes: [__m512i; WINDOW_CODEWORDS],
    /// Sum of the four counts.
    counts: __m512i,
    /// Lanes whose window was too short.
    wide: __mmask8,
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
    let mut lanes = [Lanes {
        positions: zero,
        notes: [zero; 4],
        counts: zero,
        wide: 0,
    }; GROUPS];
    for (group, lanes) in lanes.iter_mut().enumerate() {
        let start = |lane: usize| {
            let index = 8 * group + lane;
            (if index < count {
                index as u64 * ROW_BITS
            } else {
                PARKING
            })
            .cast_signed()
        };
        lanes.positions = _mm512_set_epi64(
            start(7),
            start(6),
            start(5),
            start(4),
            start(3),
            start(2),
            start(1),
            start(0),
        );
    }
    let mut refused = 0u32;
    let mut checks = [[RowCheck {
        largest: zero,
        minus_zero: 0,
    }; 8]; GROUPS];

    for row in 0..scheme.degree() / 32 {
        let mut notes = [[zero; ROW_WINDOWS]; GROUPS];
        for window in 0..ROW_WINDOWS {
            read_windows(rows, &mut lanes);
            if lanes.iter().fold(0, |any, lanes| any | lanes.wide) != 0 {
                refused |= repair(rows, &mut lanes);
            }
            for (lanes, notes) in lanes.iter_mut().zip(&mut notes) {
                let bits = _mm512_add_epi64(lanes.counts, _mm512_set1_epi64(4));
                lanes.positions = _mm512_add_epi64(lanes.positions, bits);
                notes[window] = pack(lanes.notes);
            }
        }
        for (group, (notes, checks)) in notes.iter().zip(&mut checks).enumerate() {
            for (lane, notes) in transpose(*notes).into_iter().enumerate() {
                coefficients(notes, &mut s2[8 * group + lane].0[row], &mut checks[lane]);
            }
        }
    }

    let mut valid = 0;
    for (group, (lanes, checks)) in lanes.iter().zip(&checks).enumerate() {
        let mut positions = [0u64; 8];
        // SAFETY: `positions` has 64 bytes.
        unsafe { _mm512_storeu_si512(positions.as_mut_ptr().cast(), lanes.positions) };
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

/// Reads four codewords in each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512cd,avx512vbmi2")]
fn read_windows<const GROUPS: usize>(rows: &Rows, lanes: &mut [Lanes; GROUPS]) {
    let big_endian = _mm512_broadcast_i32x4(_mm_set_epi8(
        8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7,
    ));
    let below_the_byte = _mm512_set1_epi64(0x00ff_ffff_ffff_ffff);
    let mut windows = [_mm512_setzero_si512(); GROUPS];
    for (window, lanes) in windows.iter_mut().zip(&*lanes) {
        let bytes = _mm512_srli_epi64::<3>(lanes.positions);
        // SAFETY: every position is in its row or in the parking row, at least eight bytes before
        // the end. A window that starts in the zeros behind a polynomial holds at most the rest of
        // a codeword, is found too short, and its lane is sent to the parking row by `repair`;
        // before that, a group of codewords takes at most 96 bits into the zeros. Parked lanes
        // take nine bits a codeword, at most 1024 times. See `codeword` for both.
        *window = unsafe { _mm512_i64gather_epi64::<1>(bytes, rows.as_ptr().cast()) };
    }
    for (window, lanes) in windows.iter_mut().zip(&*lanes) {
        let offset = _mm512_and_si512(lanes.positions, _mm512_set1_epi64(7));
        *window = _mm512_sllv_epi64(_mm512_shuffle_epi8(*window, big_endian), offset);
    }
    for codeword in 0..WINDOW_CODEWORDS {
        for (window, lanes) in windows.iter_mut().zip(&mut *lanes) {
            let count = _mm512_lzcnt_epi64(_mm512_and_si512(*window, below_the_byte));
            // The count above the byte.
            lanes.notes[codeword] = _mm512_shldi_epi64::<8>(count, *window);
            // One more than the count, in two steps of which the first does not wait for it.
            *window = _mm512_sllv_epi64(_mm512_add_epi64(*window, *window), count);
            lanes.counts = if codeword == 0 {
                count
            } else {
                _mm512_add_epi64(lanes.counts, count)
            };
        }
    }
    let limit = _mm512_set1_epi64(WINDOW_COUNTS_MAX.cast_signed());
    for lanes in lanes {
        lanes.wide = _mm512_cmpgt_epu64_mask(lanes.counts, limit);
    }
}

/// Reads the groups of codewords again that exceeded their windows. Returns the signatures that
/// are refused; their lanes are parked.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
fn repair<const GROUPS: usize>(rows: &Rows, lanes: &mut [Lanes; GROUPS]) -> u32 {
    let mut refused = 0;
    for (group, lanes) in lanes.iter_mut().enumerate() {
        let mut positions = [0u64; 8];
        // SAFETY: `positions` has 64 bytes.
        unsafe { _mm512_storeu_si512(positions.as_mut_ptr().cast(), lanes.positions) };
        for lane in bits(lanes.wide.into()) {
            let index = 8 * group + lane;
            let only = 1 << lane;
            // A parked lane never gets here: its codewords have nine bits.
            let position = positions[lane] - index as u64 * ROW_BITS;
            let (notes, counts) =
                read_wide(rows.row(index), position as usize).unwrap_or_else(|| {
                    refused |= 1 << index;
                    lanes.positions =
                        _mm512_mask_set1_epi64(lanes.positions, only, PARKING.cast_signed());
                    // What the parking row holds.
                    (
                        [NOTE_BIAS | 0xff; WINDOW_CODEWORDS],
                        8 * WINDOW_CODEWORDS as u64,
                    )
                });
            for (vector, note) in lanes.notes.iter_mut().zip(notes) {
                *vector = _mm512_mask_set1_epi64(*vector, only, note.into());
            }
            lanes.counts = _mm512_mask_set1_epi64(lanes.counts, only, counts.cast_signed());
        }
    }
    refused
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
