//! Public keys: from 14-bit coefficients to the prepared form.

use std::arch::x86_64::*;

use super::words::Words16;
use crate::cpu::Avx2;
use crate::falcon::Scheme;
use crate::falcon::field::Q;
use crate::falcon::prepared::Coefficients;
use crate::falcon::simd::transform::{self, Work};
use crate::falcon::simd::words::Polynomial;

/// Bytes of eight coefficients.
const EIGHT_BYTES: usize = 8 * 14 / 8;

#[target_feature(enable = "avx2")]
pub(super) fn prepare(
    cpu: Avx2,
    scheme: Scheme,
    bytes: &[u8],
    key: &mut Coefficients,
    work: &mut Work,
) -> bool {
    assert_eq!(bytes.len(), scheme.public_key_len());
    let mut h = Polynomial::ZERO;
    let q = _mm256_set1_epi16(Q);
    let mut too_large = _mm256_setzero_si256();
    let (eights, _) = h.0.as_flattened_mut().as_chunks_mut::<16>();
    for (words, bytes) in eights
        .iter_mut()
        .zip(bytes[1..].chunks_exact(2 * EIGHT_BYTES))
    {
        let (first, second) = bytes.split_at(EIGHT_BYTES);
        let halves = [unpack(first), unpack(second)];
        let values = _mm256_set_m128i(halves[1], halves[0]);
        // Above q - 1, that is: not below q.
        too_large = _mm256_or_si256(
            too_large,
            _mm256_cmpgt_epi16(values, _mm256_set1_epi16(Q - 1)),
        );
        let upper = _mm256_cmpgt_epi16(values, _mm256_set1_epi16(6144));
        let centred = _mm256_sub_epi16(values, _mm256_and_si256(upper, q));
        // SAFETY: the reference covers 32 bytes.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), centred) };
    }
    match scheme {
        Scheme::Falcon512 => {
            // The same key in both places; see `Coefficients::set`.
            let (left, right) = h.0.split_at_mut(16);
            right.copy_from_slice(left);
            transform::prepare::<Words16, 512>(cpu, &h, key, work);
        }
        Scheme::Falcon1024 => transform::prepare::<Words16, 1024>(cpu, &h, key, work),
    }
    _mm256_testz_si256(too_large, too_large) == 1
}

/// Eight coefficients from 14 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack(bytes: &[u8]) -> __m128i {
    let mut padded = [0; 16];
    padded[..EIGHT_BYTES].copy_from_slice(bytes);
    // SAFETY: `padded` has 16 bytes.
    let packed = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(padded.as_ptr().cast())) };
    // Coefficient i starts at bit 14 i; three bytes from there hold it. As big-endian numbers, the
    // four of each half start at the bytes 0, 1, 3 and 5 (7, 8, 10 and 12).
    let triples = _mm256_shuffle_epi8(
        packed,
        _mm256_setr_epi8(
            2, 1, 0, -1, 3, 2, 1, -1, 5, 4, 3, -1, 7, 6, 5, -1, 9, 8, 7, -1, 10, 9, 8, -1, 12, 11,
            10, -1, 14, 13, 12, -1,
        ),
    );
    // 24 bits, minus the bits before the coefficient (0, 6, 4, 2), minus its own 14.
    let shifted = _mm256_srlv_epi32(triples, _mm256_setr_epi32(10, 4, 6, 8, 10, 4, 6, 8));
    let words = _mm256_and_si256(shifted, _mm256_set1_epi32(0x3fff));
    _mm_packus_epi32(
        _mm256_castsi256_si128(words),
        _mm256_extracti128_si256::<1>(words),
    )
}
