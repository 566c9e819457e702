//! Shared by tests, benchmarks, examples and fuzz targets: the oracles and a forger.
//!
//! Nothing here uses the crate's own arithmetic, so that a mistake there cannot hide.
#![allow(
    dead_code,
    reason = "each program that includes this file uses another part of it"
)]

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

/// One of the choices, all as likely.
pub fn pick<T: Copy>(random: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[random.usize(..choices.len())]
}

/// That many bytes.
pub fn bytes(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.u8(..)).collect()
}
