//! What the SIMD backends share: the batch driver, the transform, and the traits they implement.
//!
//! A batch goes through in chunks of up to [`CHUNK`] jobs of one scheme:
//!
//! ```text
//!  signatures ─▶ decode ─▶ s2 ─────────────────────────┐
//!  nonces, messages ─▶ Keccak lanes ─▶ reject ─▶ c ────┼─▶ |c - s2 · h|² + |s2|² ─▶ bit
//!  keys ─▶ decode, transform (unless prepared) ─▶ h ───┘
//! ```
//!
//! [`batch`] drives a chunk and is safe code. What depends on the instruction set is behind
//! [`Kernels`]; the transform is written once, over [`words::Words`].

pub(super) mod batch;
pub(super) mod codeword;
pub(super) mod point;
pub(super) mod tables;
pub(super) mod transform;
pub(super) mod words;

#[cfg(test)]
mod interval;
#[cfg(test)]
mod tests;

use super::Scheme;
use super::prepared::Coefficients;
use crate::keccak::lanes::{Blocks, LANES_MAX, Lanes};
use codeword::Rows;
use point::{Points, Slot};
use transform::Work;
use words::Polynomial;

/// Most jobs that go through the stages together; an answer is a bit in a `u32`.
pub(super) const CHUNK: usize = 32;

/// The stages that depend on the instruction set.
pub(super) trait Kernels: Copy {
    /// Keccak states, as many as fit the registers.
    type Lanes: Lanes;

    /// Fresh Keccak states.
    fn lanes(self) -> Self::Lanes;

    /// Decodes the first `count` compressed polynomials into `s2`; bit i of the result says
    /// whether number i is canonically encoded.
    fn decode(
        self,
        scheme: Scheme,
        rows: &mut Rows,
        count: usize,
        s2: &mut [Polynomial; CHUNK],
    ) -> u32;

    /// Appends the accepted words of each lane's block to the lane's point; returns the lanes
    /// whose points are complete.
    fn reject(
        self,
        degree: usize,
        lanes: u32,
        blocks: &Blocks,
        slots: &mut [Slot; LANES_MAX],
        points: &mut Points,
    ) -> u32;

    /// Decodes a public key of the right length and header and transforms it; false if a
    /// coefficient is not below q.
    fn prepare_key(
        self,
        scheme: Scheme,
        bytes: &[u8],
        key: &mut Coefficients,
        work: &mut Work,
    ) -> bool;

    /// |s1|² + |s2|² for one FALCON-1024 signature (the first of each pair) or for two FALCON-512
    /// signatures.
    fn squared_norms(
        self,
        scheme: Scheme,
        s2: [&Polynomial; 2],
        key: [&Coefficients; 2],
        c: [&Polynomial; 2],
        work: &mut Work,
    ) -> [u64; 2];
}
