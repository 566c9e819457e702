//! Half a row, 16 words, in one AVX2 register.

use std::arch::x86_64::*;

use crate::cpu::Avx2;
use crate::falcon::field::{Q, Q_INVERSE};
use crate::falcon::simd::words::{FactorRow, Polynomial, Words};

/// Exists only where AVX2 does: every constructor asks for the token.
#[derive(Clone, Copy)]
pub(super) struct Words16(__m256i);

/// The high half of the product, word by word.
#[inline(always)]
fn high(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the arguments come from a `Words16`, so the CPU has AVX2.
    unsafe { _mm256_mulhi_epi16(a, b) }
}

/// The low half of the product, word by word.
#[inline(always)]
fn low(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the arguments come from a `Words16`, so the CPU has AVX2.
    unsafe { _mm256_mullo_epi16(a, b) }
}

#[inline(always)]
fn load(words: &[i16; 16]) -> __m256i {
    // SAFETY: the reference covers 32 bytes; callers have a token or a `Words16`.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline(always)]
fn half(row: &[i16; 32], part: usize) -> &[i16; 16] {
    row[16 * part..].first_chunk().expect("two halves")
}

#[inline(always)]
fn splat(value: i16) -> __m256i {
    // SAFETY: callers have a token or a `Words16`.
    unsafe { _mm256_set1_epi16(value) }
}

/// Quarter `k` of two of the rows `at`, `at` + 8, `at` + 16, `at` + 24. Callers have a token.
#[inline(always)]
fn load_quarter(rows: &Polynomial, at: usize, k: usize, part: usize) -> Words16 {
    let left: &[i16; 8] = rows.0[at + 16 * part][8 * k..]
        .first_chunk()
        .expect("four quarters");
    let right: &[i16; 8] = rows.0[at + 16 * part + 8][8 * k..]
        .first_chunk()
        .expect("four quarters");
    // SAFETY: the references cover 16 bytes each; callers have a token.
    unsafe {
        let left = _mm_loadu_si128(left.as_ptr().cast());
        let right = _mm_loadu_si128(right.as_ptr().cast());
        Words16(_mm256_inserti128_si256::<1>(
            _mm256_castsi128_si256(left),
            right,
        ))
    }
}

impl Words for Words16 {
    type Cpu = Avx2;
    type Sum = __m256i;
    const PARTS: usize = 2;

    #[inline(always)]
    fn load(_: Avx2, row: &[i16; 32], part: usize) -> Self {
        Self(load(half(row, part)))
    }

    #[inline(always)]
    fn load_halves(_: Avx2, left: &[i16; 16], right: &[i16; 16], part: usize) -> Self {
        Self(load(if part == 0 { left } else { right }))
    }

    #[inline(always)]
    fn store(self, row: &mut [i16; 32], part: usize) {
        let words: &mut [i16; 16] = row[16 * part..].first_chunk_mut().expect("two halves");
        // SAFETY: the reference covers 32 bytes.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn load_quarters(_: Avx2, rows: &Polynomial, at: usize, part: usize) -> [Self; 4] {
        [
            load_quarter(rows, at, 0, part),
            load_quarter(rows, at, 1, part),
            load_quarter(rows, at, 2, part),
            load_quarter(rows, at, 3, part),
        ]
    }

    #[inline(always)]
    fn store_quarters(vectors: [Self; 4], rows: &mut Polynomial, at: usize, part: usize) {
        for (k, vector) in vectors.into_iter().enumerate() {
            // SAFETY: a `Words16` exists only where AVX2 does.
            let quarters = unsafe {
                [
                    _mm256_castsi256_si128(vector.0),
                    _mm256_extracti128_si256::<1>(vector.0),
                ]
            };
            for (side, quarter) in quarters.into_iter().enumerate() {
                let to: &mut [i16; 8] = rows.0[at + 8 * (2 * part + side)][8 * k..]
                    .first_chunk_mut()
                    .expect("four quarters");
                // SAFETY: the reference covers 16 bytes.
                unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), quarter) };
            }
        }
    }

    #[inline(always)]
    fn transpose(x: [Self; 8]) -> [Self; 8] {
        let [x0, x1, x2, x3, x4, x5, x6, x7] = x;
        // SAFETY: a `Words16` exists only where AVX2 does.
        unsafe {
            // Interleave words, then pairs, then fours.
            let (a0, a1) = (
                _mm256_unpacklo_epi16(x0.0, x1.0),
                _mm256_unpackhi_epi16(x0.0, x1.0),
            );
            let (a2, a3) = (
                _mm256_unpacklo_epi16(x2.0, x3.0),
                _mm256_unpackhi_epi16(x2.0, x3.0),
            );
            let (a4, a5) = (
                _mm256_unpacklo_epi16(x4.0, x5.0),
                _mm256_unpackhi_epi16(x4.0, x5.0),
            );
            let (a6, a7) = (
                _mm256_unpacklo_epi16(x6.0, x7.0),
                _mm256_unpackhi_epi16(x6.0, x7.0),
            );
            let (b0, b1) = (_mm256_unpacklo_epi32(a0, a2), _mm256_unpackhi_epi32(a0, a2));
            let (b2, b3) = (_mm256_unpacklo_epi32(a1, a3), _mm256_unpackhi_epi32(a1, a3));
            let (b4, b5) = (_mm256_unpacklo_epi32(a4, a6), _mm256_unpackhi_epi32(a4, a6));
            let (b6, b7) = (_mm256_unpacklo_epi32(a5, a7), _mm256_unpackhi_epi32(a5, a7));
            [
                Self(_mm256_unpacklo_epi64(b0, b4)),
                Self(_mm256_unpackhi_epi64(b0, b4)),
                Self(_mm256_unpacklo_epi64(b1, b5)),
                Self(_mm256_unpackhi_epi64(b1, b5)),
                Self(_mm256_unpacklo_epi64(b2, b6)),
                Self(_mm256_unpackhi_epi64(b2, b6)),
                Self(_mm256_unpacklo_epi64(b3, b7)),
                Self(_mm256_unpackhi_epi64(b3, b7)),
            ]
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: a `Words16` exists only where AVX2 does.
        unsafe {
            let sum = _mm256_add_epi16(self.0, other.0);
            debug_assert!(
                all_equal(sum, _mm256_adds_epi16(self.0, other.0)),
                "a lazy sum exceeds 16 bits"
            );
            Self(sum)
        }
    }

    #[inline(always)]
    fn subtract(self, other: Self) -> Self {
        // SAFETY: a `Words16` exists only where AVX2 does.
        unsafe {
            let difference = _mm256_sub_epi16(self.0, other.0);
            debug_assert!(
                all_equal(difference, _mm256_subs_epi16(self.0, other.0)),
                "a lazy difference exceeds 16 bits"
            );
            Self(difference)
        }
    }

    #[inline(always)]
    fn multiply(self, factors: &FactorRow, part: usize) -> Self {
        let companions = load(half(&factors.companions, part));
        let values = load(half(&factors.values, part));
        let multiples = high(low(self.0, companions), splat(Q));
        Self(high(self.0, values)).subtract(Self(multiples))
    }

    #[inline(always)]
    fn multiply_montgomery(self, other: Self) -> Self {
        let multiples = high(low(low(self.0, other.0), splat(Q_INVERSE)), splat(Q));
        Self(high(self.0, other.0)).subtract(Self(multiples))
    }

    #[inline(always)]
    fn reduce(self) -> Self {
        // 3 / 2^15 is about 1 / 10923: a rounded quotient that is at most one off.
        // SAFETY: a `Words16` exists only where AVX2 does.
        let quotient = unsafe { _mm256_mulhrs_epi16(self.0, splat(3)) };
        // The product may leave 16 bits, the difference never does.
        // SAFETY: as above.
        Self(unsafe { _mm256_sub_epi16(self.0, low(quotient, splat(Q))) })
    }

    #[inline(always)]
    fn centre(self) -> Self {
        // As in `field::reduce`.
        // SAFETY: a `Words16` exists only where AVX2 does.
        unsafe {
            let quotient = _mm256_add_epi16(high(self.0, splat(5461)), splat(512));
            let quotient = _mm256_srai_epi16::<10>(quotient);
            Self(_mm256_sub_epi16(self.0, low(quotient, splat(Q))))
        }
    }

    #[inline(always)]
    fn no_squares(_: Avx2) -> __m256i {
        // SAFETY: the token proves AVX2.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn add_squares(self, sum: __m256i) -> __m256i {
        // SAFETY: a `Words16` exists only where AVX2 does.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(self.0, self.0)) }
    }

    #[inline(always)]
    fn total(sum: __m256i) -> u64 {
        let mut lanes = [0u32; 8];
        // SAFETY: `lanes` has 32 bytes.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
        lanes.into_iter().map(u64::from).sum()
    }
}

/// Whether all words are equal.
#[inline(always)]
fn all_equal(a: __m256i, b: __m256i) -> bool {
    // SAFETY: the arguments come from a `Words16`, so the CPU has AVX2.
    unsafe { _mm256_movemask_epi8(_mm256_cmpeq_epi16(a, b)) == -1 }
}
