//! Public keys: from 14-bit coefficients to the prepared form.

use std::arch::x86_64::*;

use super::words::Words32;
use crate::cpu::Avx512;
use crate::falcon::Scheme;
use crate::falcon::field::Q;
use crate::falcon::prepared::Coefficients;
use crate::falcon::simd::transform::{self, Work};
use crate::falcon::simd::words::Polynomial;

/// Bytes of 32 coefficients.
const ROW_BYTES: usize = 32 * 14 / 8;

/// For each 64-bit lane, the seven bytes of four coefficients, the last byte lowest.
const FOURS: [u8; 64] = {
    let mut index = [0; 64];
    let mut lane = 0;
    while lane < 8 {
        let mut byte = 0;
        while byte < 7 {
            index[8 * lane + byte] = (7 * lane + 6 - byte) as u8;
            byte += 1;
        }
        index[8 * lane + 7] = 63;
        lane += 1;
    }
    index
};

/// For each byte of four words, the bit of the lane where its eight bits start.
const STARTS: i64 = i64::from_le_bytes([42, 50, 28, 36, 14, 22, 0, 8]);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
pub(super) fn prepare(
    cpu: Avx512,
    scheme: Scheme,
    bytes: &[u8],
    key: &mut Coefficients,
    work: &mut Work,
) -> bool {
    assert_eq!(bytes.len(), scheme.public_key_len());
    let mut h = Polynomial::ZERO;
    // SAFETY: `FOURS` has 64 bytes.
    let fours = unsafe { _mm512_loadu_si512(FOURS.as_ptr().cast()) };
    let q = _mm512_set1_epi16(Q);
    let mut too_large = 0;
    for (row, bytes) in h.0.iter_mut().zip(bytes[1..].chunks_exact(ROW_BYTES)) {
        // SAFETY: the mask lets 56 bytes through, which the chunk has.
        let packed =
            unsafe { _mm512_maskz_loadu_epi8(u64::MAX >> (64 - ROW_BYTES), bytes.as_ptr().cast()) };
        let lanes = _mm512_permutexvar_epi8(fours, packed);
        let words = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(STARTS), lanes);
        let words = _mm512_and_si512(words, _mm512_set1_epi16(0x3fff));
        too_large |= _mm512_cmpge_epi16_mask(words, q);
        let upper = _mm512_cmpgt_epi16_mask(words, _mm512_set1_epi16(6144));
        let centred = _mm512_mask_sub_epi16(words, upper, words, q);
        // SAFETY: a row has 64 bytes.
        unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), centred) };
    }
    match scheme {
        Scheme::Falcon512 => {
            // The same key in both places; see `Coefficients::set`.
            let (left, right) = h.0.split_at_mut(16);
            right.copy_from_slice(left);
            transform::prepare::<Words32, 512>(cpu, &h, key, work);
        }
        Scheme::Falcon1024 => transform::prepare::<Words32, 1024>(cpu, &h, key, work),
    }
    too_large == 0
}
