//! Four Keccak states in AVX2 registers.

use std::arch::x86_64::*;

use super::RATE;
use super::lanes::{Blocks, Lanes};
use super::scalar::ROUND_CONSTANTS;
use crate::cpu::Avx2;

/// Four states: word i of all of them is one register.
pub(crate) struct Lanes4 {
    words: [__m256i; 25],
    _cpu: Avx2,
}

impl Lanes4 {
    pub(crate) fn new(cpu: Avx2) -> Self {
        // SAFETY: all-zero bytes are a valid __m256i.
        let words = unsafe { std::mem::zeroed() };
        Self { words, _cpu: cpu }
    }
}

impl Lanes for Lanes4 {
    const COUNT: usize = 4;

    fn clear(&mut self, lanes: u32) {
        // SAFETY: an `Avx2` exists only on a CPU with the feature.
        unsafe { clear(&mut self.words, lanes) }
    }

    fn absorb(&mut self, blocks: &Blocks) {
        // SAFETY: an `Avx2` exists only on a CPU with the feature.
        unsafe { absorb(&mut self.words, blocks) }
    }

    fn permute(&mut self) {
        // SAFETY: an `Avx2` exists only on a CPU with the feature.
        unsafe { permute(&mut self.words) }
    }

    fn squeeze(&self, blocks: &mut Blocks) {
        // SAFETY: an `Avx2` exists only on a CPU with the feature.
        unsafe { squeeze(&self.words, blocks) }
    }
}

#[target_feature(enable = "avx2")]
fn clear(words: &mut [__m256i; 25], lanes: u32) {
    let keep = |lane: u32| i64::from(lanes >> lane & 1) - 1;
    let kept = _mm256_set_epi64x(keep(3), keep(2), keep(1), keep(0));
    for word in words {
        *word = _mm256_and_si256(*word, kept);
    }
}

#[target_feature(enable = "avx2")]
fn absorb(words: &mut [__m256i; 25], blocks: &Blocks) {
    for quarter in 0..4 {
        let rows = std::array::from_fn(|lane| {
            let bytes: &[u8; 32] = blocks.0[lane][32 * quarter..]
                .first_chunk()
                .expect("32 bytes");
            // SAFETY: the reference covers the 32 bytes; the load needs no alignment.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        });
        for (word, column) in words[4 * quarter..].iter_mut().zip(transpose(rows)) {
            *word = _mm256_xor_si256(*word, column);
        }
    }
    let [a, b, c, d]: [i64; 4] = std::array::from_fn(|lane| {
        i64::from_le_bytes(*blocks.0[lane].last_chunk().expect("8 bytes"))
    });
    words[16] = _mm256_xor_si256(words[16], _mm256_set_epi64x(d, c, b, a));
}

#[target_feature(enable = "avx2")]
fn squeeze(words: &[__m256i; 25], blocks: &mut Blocks) {
    for quarter in 0..4 {
        let columns = *words[4 * quarter..].first_chunk().expect("4 words");
        for (lane, row) in transpose(columns).into_iter().enumerate() {
            let bytes: &mut [u8; 32] = blocks.0[lane][32 * quarter..]
                .first_chunk_mut()
                .expect("32 bytes");
            // SAFETY: the reference covers the 32 bytes; the store needs no alignment.
            unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), row) };
        }
    }
    let mut last = [0u64; 4];
    // SAFETY: `last` has 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(last.as_mut_ptr().cast(), words[16]) };
    for (block, word) in blocks.0.iter_mut().zip(last) {
        block[RATE - 8..].copy_from_slice(&word.to_le_bytes());
    }
}

/// Transposes 4 x 4 words of 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(r: [__m256i; 4]) -> [__m256i; 4] {
    let a = _mm256_unpacklo_epi64(r[0], r[1]);
    let b = _mm256_unpackhi_epi64(r[0], r[1]);
    let c = _mm256_unpacklo_epi64(r[2], r[3]);
    let d = _mm256_unpackhi_epi64(r[2], r[3]);
    [
        _mm256_permute2x128_si256::<0x20>(a, c),
        _mm256_permute2x128_si256::<0x20>(b, d),
        _mm256_permute2x128_si256::<0x31>(a, c),
        _mm256_permute2x128_si256::<0x31>(b, d),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor(a: __m256i, b: __m256i) -> __m256i {
    _mm256_xor_si256(a, b)
}

/// AVX2 has no rotation; by 8 and 56 bits it is a byte shuffle.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate<const LEFT: i32, const RIGHT: i32>(a: __m256i) -> __m256i {
    const { assert!(LEFT + RIGHT == 64) };
    match LEFT {
        8 => _mm256_shuffle_epi8(
            a,
            _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0e0d0c0b0a09080f, 0x0605040302010007)),
        ),
        56 => _mm256_shuffle_epi8(
            a,
            _mm256_broadcastsi128_si256(_mm_set_epi64x(0x080f0e0d0c0b0a09, 0x0007060504030201)),
        ),
        _ => _mm256_or_si256(_mm256_slli_epi64::<LEFT>(a), _mm256_srli_epi64::<RIGHT>(a)),
    }
}

/// One row of chi: b[i] ^ (!b[i + 1] & b[i + 2]).
#[inline]
#[target_feature(enable = "avx2")]
fn chi(b: [__m256i; 5]) -> [__m256i; 5] {
    std::array::from_fn(|i| xor(b[i], _mm256_andnot_si256(b[(i + 1) % 5], b[(i + 2) % 5])))
}

/// Keccak-f\[1600\] on four states; the steps are those of the scalar form.
#[target_feature(enable = "avx2")]
fn permute(words: &mut [__m256i; 25]) {
    let mut a = *words;
    for constant in ROUND_CONSTANTS {
        let c: [__m256i; 5] = std::array::from_fn(|x| {
            xor(
                xor(xor(a[x], a[x + 5]), xor(a[x + 10], a[x + 15])),
                a[x + 20],
            )
        });
        let d: [__m256i; 5] =
            std::array::from_fn(|x| xor(c[(x + 4) % 5], rotate::<1, 63>(c[(x + 1) % 5])));

        macro_rules! moved {
            ($i:literal, 0) => {
                xor(a[$i], d[$i % 5])
            };
            ($i:literal, $by:literal) => {
                rotate::<$by, { 64 - $by }>(moved!($i, 0))
            };
        }
        let row0 = [
            moved!(0, 0),
            moved!(6, 44),
            moved!(12, 43),
            moved!(18, 21),
            moved!(24, 14),
        ];
        let row1 = [
            moved!(3, 28),
            moved!(9, 20),
            moved!(10, 3),
            moved!(16, 45),
            moved!(22, 61),
        ];
        let row2 = [
            moved!(1, 1),
            moved!(7, 6),
            moved!(13, 25),
            moved!(19, 8),
            moved!(20, 18),
        ];
        let row3 = [
            moved!(4, 27),
            moved!(5, 36),
            moved!(11, 10),
            moved!(17, 15),
            moved!(23, 56),
        ];
        let row4 = [
            moved!(2, 62),
            moved!(8, 55),
            moved!(14, 39),
            moved!(15, 41),
            moved!(21, 2),
        ];

        a[0..5].copy_from_slice(&chi(row0));
        a[5..10].copy_from_slice(&chi(row1));
        a[10..15].copy_from_slice(&chi(row2));
        a[15..20].copy_from_slice(&chi(row3));
        a[20..25].copy_from_slice(&chi(row4));
        a[0] = xor(a[0], _mm256_set1_epi64x(constant.cast_signed()));
    }
    *words = a;
}
