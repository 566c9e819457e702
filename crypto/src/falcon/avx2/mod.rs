//! The kernels for AVX2.

pub(super) mod decode;
mod key;
mod reject;
mod words;

use super::Scheme;
use super::prepared::Coefficients;
use super::simd::codeword::Rows;
use super::simd::point::{Points, Slot};
use super::simd::transform::{self, Work};
use super::simd::words::Polynomial;
use super::simd::{CHUNK, Kernels};
use crate::cpu::Avx2;
use crate::keccak::avx2::Lanes4;
use crate::keccak::lanes::{Blocks, LANES_MAX};
use words::Words16;

impl Kernels for Avx2 {
    type Lanes = Lanes4;

    fn lanes(self) -> Lanes4 {
        Lanes4::new(self)
    }

    fn decode(
        self,
        scheme: Scheme,
        rows: &mut Rows,
        count: usize,
        s2: &mut [Polynomial; CHUNK],
    ) -> u32 {
        // SAFETY: `self` proves the features.
        unsafe { decode::decode(scheme, rows, count, s2) }
    }

    fn reject(
        self,
        degree: usize,
        lanes: u32,
        blocks: &Blocks,
        slots: &mut [Slot; LANES_MAX],
        points: &mut Points,
    ) -> u32 {
        // SAFETY: `self` proves the features.
        unsafe { reject::reject(degree, lanes, blocks, slots, points) }
    }

    fn prepare_key(
        self,
        scheme: Scheme,
        bytes: &[u8],
        key: &mut Coefficients,
        work: &mut Work,
    ) -> bool {
        // SAFETY: `self` proves the features.
        unsafe { key::prepare(self, scheme, bytes, key, work) }
    }

    fn squared_norms(
        self,
        scheme: Scheme,
        s2: [&Polynomial; 2],
        key: [&Coefficients; 2],
        c: [&Polynomial; 2],
        work: &mut Work,
    ) -> [u64; 2] {
        // SAFETY: `self` proves the features.
        unsafe {
            match scheme {
                Scheme::Falcon512 => squared_norms_512(self, s2, key, c, work),
                Scheme::Falcon1024 => squared_norms_1024(self, s2, key, c, work),
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn squared_norms_512(
    cpu: Avx2,
    s2: [&Polynomial; 2],
    key: [&Coefficients; 2],
    c: [&Polynomial; 2],
    work: &mut Work,
) -> [u64; 2] {
    transform::squared_norms::<Words16, 512>(cpu, s2, key, c, work)
}

#[target_feature(enable = "avx2")]
fn squared_norms_1024(
    cpu: Avx2,
    s2: [&Polynomial; 2],
    key: [&Coefficients; 2],
    c: [&Polynomial; 2],
    work: &mut Work,
) -> [u64; 2] {
    transform::squared_norms::<Words16, 1024>(cpu, s2, key, c, work)
}
