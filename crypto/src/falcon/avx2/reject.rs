//! Rejection sampling: from hash output to coefficients below q.

use std::arch::x86_64::*;

use crate::falcon::field::Q;
use crate::falcon::simd::point::{Point, Points, Slot};
use crate::keccak::RATE;
use crate::keccak::lanes::{Blocks, LANES_MAX, bits};

/// Words from here on are skipped: 5 q.
const WORD_LIMIT: u16 = 5 * Q as u16;

/// `PACK[mask]` moves the words of a 128-bit vector whose bits are set to the front.
static PACK: [[u8; 16]; 256] = {
    let mut table = [[0; 16]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut word, mut to) = (0, 0);
        while word < 8 {
            if mask >> word & 1 == 1 {
                table[mask][to] = 2 * word;
                table[mask][to + 1] = 2 * word + 1;
                to += 2;
            }
            word += 1;
        }
        mask += 1;
    }
    table
};

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn reject(
    degree: usize,
    lanes: u32,
    blocks: &Blocks,
    slots: &mut [Slot; LANES_MAX],
    points: &mut Points,
) -> u32 {
    let mut done = 0;
    for lane in bits(lanes) {
        let slot = &mut slots[lane];
        assert!(slot.count < degree, "a complete point takes no more words");
        slot.count = append(&blocks.0[lane], &mut points[slot.point], slot.count);
        done |= u32::from(slot.count >= degree) << lane;
    }
    done
}

/// Appends the accepted words of `block` behind the first `count` words; returns the new count.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn append(block: &[u8; RATE], point: &mut Point, mut count: usize) -> usize {
    let out = point.as_mut_ptr();
    let swap = _mm_set_epi8(14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1);
    let (vectors, last) = block.as_chunks::<16>();
    // The four words at the end, and four that are rejected.
    let mut rest = [0xff; 16];
    rest[..last.len()].copy_from_slice(last);
    for bytes in vectors.iter().chain([&rest]) {
        // SAFETY: the reference covers 16 bytes.
        let words = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        let words = _mm_shuffle_epi8(words, swap);
        // AVX2 compares signed words only; the minimum tells the same.
        let limit = _mm_set1_epi16((WORD_LIMIT - 1).cast_signed());
        let accepted = _mm_cmpeq_epi16(_mm_min_epu16(words, limit), words);
        let mask = _mm_movemask_epi8(_mm_packs_epi16(accepted, _mm_setzero_si128()));
        // 5461 / 2^26 is just below 1 / q: exact for words below 5 q.
        let quotient = _mm_srli_epi16::<10>(_mm_mulhi_epu16(words, _mm_set1_epi16(5461)));
        let reduced = _mm_sub_epi16(words, _mm_mullo_epi16(quotient, _mm_set1_epi16(Q)));
        // SAFETY: an entry has 16 bytes.
        let order = unsafe { _mm_loadu_si128(PACK[mask as usize].as_ptr().cast()) };
        let packed = _mm_shuffle_epi8(reduced, order);
        // SAFETY: the point was incomplete before this block, so at most 68 words of the block lie
        // between it and `count`; the room behind a point takes these and a vector.
        unsafe { _mm_storeu_si128(out.add(count).cast(), packed) };
        count += mask.count_ones() as usize;
    }
    count
}
