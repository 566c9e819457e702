//! Shared by tests, benchmarks, examples and fuzz targets: the oracles and a forger.
//!
//! Nothing here uses the crate's own arithmetic, so that a mistake there cannot hide.
// Each program that includes this file uses another part of it.
#![allow(dead_code)]

pub mod agree;
pub mod encode;
pub mod forge;
pub mod mutate;
pub mod oracle;
pub mod peers;

use falconet_crypto::Scheme;
use falconet_crypto::falcon::{Job, Key};

/// One signature with what it is checked against; anything may be wrong with it.
#[derive(Clone, Debug)]
pub struct Case {
    pub scheme: Scheme,
    pub public_key: Vec<u8>,
    pub message: Vec<u8>,
    pub signature: Vec<u8>,
}

impl Case {
    /// The job, with its key encoded.
    pub fn job(&self) -> Job<'_> {
        Job {
            key: Key::Encoded {
                scheme: self.scheme,
                bytes: &self.public_key,
            },
            message: &self.message,
            signature: &self.signature,
        }
    }
}

/// A small deterministic generator (SplitMix64): a failing case is found again by its seed.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}
