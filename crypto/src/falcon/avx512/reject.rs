//! Rejection sampling: from hash output to coefficients below q.

use std::arch::x86_64::*;

use crate::falcon::field::Q;
use crate::falcon::simd::point::{Point, Points, Slot};
use crate::keccak::RATE;
use crate::keccak::lanes::{Blocks, LANES_MAX, bits};

/// Words from here on are skipped: 5 q.
const WORD_LIMIT: u16 = 5 * Q as u16;

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
fn append(block: &[u8; RATE], point: &mut Point, mut count: usize) -> usize {
    let out = point.as_mut_ptr();
    let bytes = block.as_ptr();
    // SAFETY: the loads cover bytes 0 to 64, 64 to 128, and with a mask 128 to 136 of the block.
    let vectors = unsafe {
        [
            _mm512_loadu_si512(bytes.cast()),
            _mm512_loadu_si512(bytes.add(64).cast()),
            // The bytes that are masked out read as 0xff, which is rejected.
            _mm512_mask_loadu_epi64(_mm512_set1_epi8(-1), 1, bytes.add(128).cast()),
        ]
    };
    let swap = _mm512_broadcast_i32x4(_mm_set_epi8(
        14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1,
    ));
    let limit = _mm512_set1_epi16(WORD_LIMIT.cast_signed());
    for vector in vectors {
        let words = _mm512_shuffle_epi8(vector, swap);
        let accepted = _mm512_cmplt_epu16_mask(words, limit);
        // 5461 / 2^26 is just below 1 / q: exact for words below 5 q.
        let quotient = _mm512_mulhi_epu16(words, _mm512_set1_epi16(5461));
        let quotient = _mm512_srli_epi16::<10>(quotient);
        let reduced = _mm512_sub_epi16(words, _mm512_mullo_epi16(quotient, _mm512_set1_epi16(Q)));
        let packed = _mm512_maskz_compress_epi16(accepted, reduced);
        // SAFETY: the point was incomplete before this block, so at most 68 words of the block lie
        // between it and `count`; the room behind a point takes these and a vector.
        unsafe { _mm512_storeu_si512(out.add(count).cast(), packed) };
        count += accepted.count_ones() as usize;
    }
    count
}
