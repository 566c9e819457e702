//! A row of 32 words in one AVX-512 register.

use std::arch::x86_64::*;

use crate::cpu::Avx512;
use crate::falcon::field::{Q, Q_INVERSE};
use crate::falcon::simd::words::{FactorRow, Polynomial, Words};
use crate::keccak::avx512::transpose_quarters;

/// Exists only where AVX-512 does: every constructor asks for the token.
#[derive(Clone, Copy)]
pub(super) struct Words32(__m512i);

/// The high half of the product, word by word.
#[inline(always)]
fn high(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the arguments come from a `Words32`, so the CPU has AVX-512.
    unsafe { _mm512_mulhi_epi16(a, b) }
}

/// The low half of the product, word by word.
#[inline(always)]
fn low(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the arguments come from a `Words32`, so the CPU has AVX-512.
    unsafe { _mm512_mullo_epi16(a, b) }
}

#[inline(always)]
fn load(row: &[i16; 32]) -> __m512i {
    // SAFETY: the reference covers 64 bytes; callers have a token or a `Words32`.
    unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }
}

#[inline(always)]
fn splat(value: i16) -> __m512i {
    // SAFETY: callers have a token or a `Words32`.
    unsafe { _mm512_set1_epi16(value) }
}

impl Words for Words32 {
    type Cpu = Avx512;
    type Sum = __m512i;
    const PARTS: usize = 1;

    #[inline(always)]
    fn load(_: Avx512, row: &[i16; 32], _: usize) -> Self {
        Self(load(row))
    }

    #[inline(always)]
    fn load_halves(_: Avx512, left: &[i16; 16], right: &[i16; 16], _: usize) -> Self {
        // SAFETY: the references cover 32 bytes each; the token proves AVX-512.
        unsafe {
            let left = _mm256_loadu_si256(left.as_ptr().cast());
            let right = _mm256_loadu_si256(right.as_ptr().cast());
            Self(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(left), right))
        }
    }

    #[inline(always)]
    fn store(self, row: &mut [i16; 32], _: usize) {
        // SAFETY: the reference covers 64 bytes.
        unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn load_quarters(_: Avx512, rows: &Polynomial, at: usize, _: usize) -> [Self; 4] {
        let rows = [
            load(&rows.0[at]),
            load(&rows.0[at + 8]),
            load(&rows.0[at + 16]),
            load(&rows.0[at + 24]),
        ];
        // SAFETY: the token proves AVX-512.
        let [a, b, c, d] = unsafe { transpose_quarters(rows) };
        [Self(a), Self(b), Self(c), Self(d)]
    }

    #[inline(always)]
    fn store_quarters(vectors: [Self; 4], rows: &mut Polynomial, at: usize, part: usize) {
        // SAFETY: a `Words32` exists only where AVX-512 does.
        let [a, b, c, d] = unsafe {
            let [a, b, c, d] = vectors;
            transpose_quarters([a.0, b.0, c.0, d.0])
        };
        Self(a).store(&mut rows.0[at], part);
        Self(b).store(&mut rows.0[at + 8], part);
        Self(c).store(&mut rows.0[at + 16], part);
        Self(d).store(&mut rows.0[at + 24], part);
    }

    #[inline(always)]
    fn transpose(x: [Self; 8]) -> [Self; 8] {
        let [x0, x1, x2, x3, x4, x5, x6, x7] = x;
        // SAFETY: a `Words32` exists only where AVX-512 does.
        unsafe {
            // Interleave words, then pairs, then fours.
            let (a0, a1) = (
                _mm512_unpacklo_epi16(x0.0, x1.0),
                _mm512_unpackhi_epi16(x0.0, x1.0),
            );
            let (a2, a3) = (
                _mm512_unpacklo_epi16(x2.0, x3.0),
                _mm512_unpackhi_epi16(x2.0, x3.0),
            );
            let (a4, a5) = (
                _mm512_unpacklo_epi16(x4.0, x5.0),
                _mm512_unpackhi_epi16(x4.0, x5.0),
            );
            let (a6, a7) = (
                _mm512_unpacklo_epi16(x6.0, x7.0),
                _mm512_unpackhi_epi16(x6.0, x7.0),
            );
            let (b0, b1) = (_mm512_unpacklo_epi32(a0, a2), _mm512_unpackhi_epi32(a0, a2));
            let (b2, b3) = (_mm512_unpacklo_epi32(a1, a3), _mm512_unpackhi_epi32(a1, a3));
            let (b4, b5) = (_mm512_unpacklo_epi32(a4, a6), _mm512_unpackhi_epi32(a4, a6));
            let (b6, b7) = (_mm512_unpacklo_epi32(a5, a7), _mm512_unpackhi_epi32(a5, a7));
            [
                Self(_mm512_unpacklo_epi64(b0, b4)),
                Self(_mm512_unpackhi_epi64(b0, b4)),
                Self(_mm512_unpacklo_epi64(b1, b5)),
                Self(_mm512_unpackhi_epi64(b1, b5)),
                Self(_mm512_unpacklo_epi64(b2, b6)),
                Self(_mm512_unpackhi_epi64(b2, b6)),
                Self(_mm512_unpacklo_epi64(b3, b7)),
                Self(_mm512_unpackhi_epi64(b3, b7)),
            ]
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: a `Words32` exists only where AVX-512 does.
        unsafe {
            let sum = _mm512_add_epi16(self.0, other.0);
            debug_assert_eq!(
                _mm512_cmpneq_epi16_mask(sum, _mm512_adds_epi16(self.0, other.0)),
                0,
                "a lazy sum exceeds 16 bits"
            );
            Self(sum)
        }
    }

    #[inline(always)]
    fn subtract(self, other: Self) -> Self {
        // SAFETY: a `Words32` exists only where AVX-512 does.
        unsafe {
            let difference = _mm512_sub_epi16(self.0, other.0);
            debug_assert_eq!(
                _mm512_cmpneq_epi16_mask(difference, _mm512_subs_epi16(self.0, other.0)),
                0,
                "a lazy difference exceeds 16 bits"
            );
            Self(difference)
        }
    }

    #[inline(always)]
    fn multiply(self, factors: &FactorRow, _: usize) -> Self {
        let multiples = high(low(self.0, load(&factors.companions)), splat(Q));
        Self(high(self.0, load(&factors.values))).subtract(Self(multiples))
    }

    #[inline(always)]
    fn multiply_montgomery(self, other: Self) -> Self {
        let multiples = high(low(low(self.0, other.0), splat(Q_INVERSE)), splat(Q));
        Self(high(self.0, other.0)).subtract(Self(multiples))
    }

    #[inline(always)]
    fn reduce(self) -> Self {
        // 3 / 2^15 is about 1 / 10923: a rounded quotient that is at most one off.
        // SAFETY: a `Words32` exists only where AVX-512 does.
        let quotient = unsafe { _mm512_mulhrs_epi16(self.0, splat(3)) };
        // The product may leave 16 bits, the difference never does.
        // SAFETY: as above.
        Self(unsafe { _mm512_sub_epi16(self.0, low(quotient, splat(Q))) })
    }

    #[inline(always)]
    fn centre(self) -> Self {
        // As in `field::reduce`.
        // SAFETY: a `Words32` exists only where AVX-512 does.
        unsafe {
            let quotient = _mm512_add_epi16(high(self.0, splat(5461)), splat(512));
            let quotient = _mm512_srai_epi16::<10>(quotient);
            Self(_mm512_sub_epi16(self.0, low(quotient, splat(Q))))
        }
    }

    #[inline(always)]
    fn no_squares(_: Avx512) -> __m512i {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn add_squares(self, sum: __m512i) -> __m512i {
        // SAFETY: a `Words32` exists only where AVX-512 does.
        unsafe { _mm512_add_epi32(sum, _mm512_madd_epi16(self.0, self.0)) }
    }

    #[inline(always)]
    fn total(sum: __m512i) -> u64 {
        // SAFETY: a sum is made with a token.
        unsafe {
            let even = _mm512_and_si512(sum, _mm512_set1_epi64(0xffff_ffff));
            let odd = _mm512_srli_epi64::<32>(sum);
            _mm512_reduce_add_epi64(_mm512_add_epi64(even, odd)).cast_unsigned()
        }
    }
}
