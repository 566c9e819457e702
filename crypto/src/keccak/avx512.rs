//! Eight Keccak states in AVX-512 registers.

use std::arch::x86_64::*;

use super::RATE;
use super::lanes::{Blocks, LANES_MAX, Lanes};
use super::scalar::ROUND_CONSTANTS;
use crate::cpu::Avx512;

/// Eight states: word i of all of them is one register.
pub(crate) struct Lanes8 {
    words: [__m512i; 25],
    _cpu: Avx512,
}

impl Lanes8 {
    pub(crate) fn new(cpu: Avx512) -> Self {
        // SAFETY: all-zero bytes are a valid __m512i.
        let words = unsafe { std::mem::zeroed() };
        Self { words, _cpu: cpu }
    }
}

impl Lanes for Lanes8 {
    const COUNT: usize = 8;

    fn clear(&mut self, lanes: u32) {
        // SAFETY: an `Avx512` exists only on a CPU with the features.
        unsafe { clear(&mut self.words, lanes) }
    }

    fn absorb(&mut self, blocks: &Blocks) {
        // SAFETY: an `Avx512` exists only on a CPU with the features.
        unsafe { absorb(&mut self.words, blocks) }
    }

    fn permute(&mut self) {
        // SAFETY: an `Avx512` exists only on a CPU with the features.
        unsafe { permute(&mut self.words) }
    }

    fn squeeze(&self, blocks: &mut Blocks) {
        // SAFETY: an `Avx512` exists only on a CPU with the features.
        unsafe { squeeze(&self.words, blocks) }
    }

    fn one_block(&mut self, blocks: &Blocks, digests: &mut [[u8; 32]; LANES_MAX]) {
        // SAFETY: an `Avx512` exists only on a CPU with the features.
        unsafe { one_block(blocks, digests) }
    }
}

#[target_feature(enable = "avx512f")]
fn one_block(blocks: &Blocks, digests: &mut [[u8; 32]; LANES_MAX]) {
    let mut words = [_mm512_setzero_si512(); 25];
    absorb(&mut words, blocks);
    permute(&mut words);
    // Rows of the transposed first eight words begin with the four words of a digest.
    let columns = *words.first_chunk().expect("8 words");
    for (digest, row) in digests.iter_mut().zip(transpose(columns)) {
        // SAFETY: the reference covers the 32 bytes; the store needs no alignment.
        unsafe {
            _mm256_storeu_si256(digest.as_mut_ptr().cast(), _mm512_castsi512_si256(row));
        }
    }
}

#[target_feature(enable = "avx512f")]
fn clear(words: &mut [__m512i; 25], lanes: u32) {
    let kept = !lanes as u8;
    for word in words {
        *word = _mm512_maskz_mov_epi64(kept, *word);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn absorb(words: &mut [__m512i; 25], blocks: &Blocks) {
    for half in 0..2 {
        let rows = std::array::from_fn(|lane| {
            let bytes: &[u8; 64] = blocks.0[lane][64 * half..].first_chunk().expect("64 bytes");
            // SAFETY: the reference covers the 64 bytes; the load needs no alignment.
            unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
        });
        for (word, column) in words[8 * half..].iter_mut().zip(transpose(rows)) {
            *word = _mm512_xor_si512(*word, column);
        }
    }
    let last: [i64; 8] = std::array::from_fn(|lane| {
        i64::from_le_bytes(*blocks.0[lane].last_chunk().expect("8 bytes"))
    });
    let [a, b, c, d, e, f, g, h] = last;
    words[16] = _mm512_xor_si512(words[16], _mm512_set_epi64(h, g, f, e, d, c, b, a));
}

#[target_feature(enable = "avx512f")]
fn squeeze(words: &[__m512i; 25], blocks: &mut Blocks) {
    for half in 0..2 {
        let columns = *words[8 * half..].first_chunk().expect("8 words");
        for (lane, row) in transpose(columns).into_iter().enumerate() {
            let bytes: &mut [u8; 64] = blocks.0[lane][64 * half..]
                .first_chunk_mut()
                .expect("64 bytes");
            // SAFETY: the reference covers the 64 bytes; the store needs no alignment.
            unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), row) };
        }
    }
    let mut last = [0u64; 8];
    // SAFETY: `last` has 64 bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(last.as_mut_ptr().cast(), words[16]) };
    for (block, word) in blocks.0.iter_mut().zip(last) {
        block[RATE - 8..].copy_from_slice(&word.to_le_bytes());
    }
}

/// Transposes 8 x 8 words of 64 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose(r: [__m512i; 8]) -> [__m512i; 8] {
    // Pairs of rows: words 0, 2, 4, 6 of both in `even`, the others in `odd`, as 128-bit parts.
    let even: [_; 4] = std::array::from_fn(|i| _mm512_unpacklo_epi64(r[2 * i], r[2 * i + 1]));
    let odd: [_; 4] = std::array::from_fn(|i| _mm512_unpackhi_epi64(r[2 * i], r[2 * i + 1]));
    // Then a 4 x 4 transpose of those parts.
    let [c0, c2, c4, c6] = transpose_quarters(even);
    let [c1, c3, c5, c7] = transpose_quarters(odd);
    [c0, c1, c2, c3, c4, c5, c6, c7]
}

/// Transposes 4 x 4 parts of 128 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose_quarters(r: [__m512i; 4]) -> [__m512i; 4] {
    let a = _mm512_shuffle_i64x2::<0x44>(r[0], r[1]);
    let b = _mm512_shuffle_i64x2::<0xee>(r[0], r[1]);
    let c = _mm512_shuffle_i64x2::<0x44>(r[2], r[3]);
    let d = _mm512_shuffle_i64x2::<0xee>(r[2], r[3]);
    [
        _mm512_shuffle_i64x2::<0x88>(a, c),
        _mm512_shuffle_i64x2::<0xdd>(a, c),
        _mm512_shuffle_i64x2::<0x88>(b, d),
        _mm512_shuffle_i64x2::<0xdd>(b, d),
    ]
}

/// The XOR of three words, in one instruction.
#[inline]
#[target_feature(enable = "avx512f")]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// One row of chi: b[i] ^ (!b[i + 1] & b[i + 2]), one instruction a word.
#[inline]
#[target_feature(enable = "avx512f")]
fn chi(b: [__m512i; 5]) -> [__m512i; 5] {
    std::array::from_fn(|i| _mm512_ternarylogic_epi64::<0xd2>(b[i], b[(i + 1) % 5], b[(i + 2) % 5]))
}

/// Keccak-f\[1600\] on eight states; the steps are those of the scalar form.
#[target_feature(enable = "avx512f")]
fn permute(words: &mut [__m512i; 25]) {
    let mut a = *words;
    for constant in ROUND_CONSTANTS {
        let c: [__m512i; 5] =
            std::array::from_fn(|x| xor3(xor3(a[x], a[x + 5], a[x + 10]), a[x + 15], a[x + 20]));
        let r: [__m512i; 5] = std::array::from_fn(|x| _mm512_rol_epi64::<1>(c[x]));

        // Theta's two terms are XORed in with the word they apply to; then rho and pi.
        macro_rules! moved {
            ($i:literal, 0) => {
                xor3(a[$i], c[($i + 4) % 5], r[($i + 1) % 5])
            };
            ($i:literal, $by:literal) => {
                _mm512_rol_epi64::<$by>(moved!($i, 0))
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
        a[0] = _mm512_xor_si512(a[0], _mm512_set1_epi64(constant.cast_signed()));
    }
    *words = a;
}
