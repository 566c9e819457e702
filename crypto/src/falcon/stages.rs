//! Single stages of a batch, to be timed by benchmarks.
//!
//! Where the time of a verification goes cannot be seen from outside; this runs one stage over
//! and over, on a chunk of 32 jobs that has gone through all stages once.

use super::simd::batch::Batch;
use super::{Backend, Job};
use crate::cpu::{Avx2, Avx512};

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Hashing of nonces and messages to points, with rejection.
    HashToPoint,
    /// Decompression of the signatures.
    Decode,
    /// Decoding and transforming the keys; skipped in a batch with prepared keys.
    PrepareKeys,
    /// Transform, product, inverse transform and norm.
    Norms,
}

impl Stage {
    /// All stages.
    pub const ALL: [Stage; 4] = [
        Stage::HashToPoint,
        Stage::Decode,
        Stage::PrepareKeys,
        Stage::Norms,
    ];
}

/// A chunk of 32 valid jobs in the scratch memory of a SIMD backend.
pub struct Stages<'a>(Chunk<'a>);

enum Chunk<'a> {
    Avx512(Batch<Avx512>, &'a [Job<'a>; 32]),
    Avx2(Batch<Avx2>, &'a [Job<'a>; 32]),
}

impl<'a> Stages<'a> {
    /// Takes 32 valid jobs of one scheme with encoded keys; `None` unless `backend` is a SIMD
    /// backend that this CPU has.
    pub fn new(backend: Backend, jobs: &'a [Job<'a>; 32]) -> Option<Self> {
        let mut stages = match backend {
            Backend::Avx512 => Self(Chunk::Avx512(Batch::new(Avx512::detect()?), jobs)),
            Backend::Avx2 => Self(Chunk::Avx2(Batch::new(Avx2::detect()?), jobs)),
            Backend::Portable => return None,
        };
        Stage::ALL.into_iter().for_each(|stage| stages.run(stage));
        Some(stages)
    }

    /// Runs `stage` once for all 32 jobs.
    pub fn run(&mut self, stage: Stage) {
        match &mut self.0 {
            Chunk::Avx512(batch, jobs) => batch.run_stage(jobs, stage),
            Chunk::Avx2(batch, jobs) => batch.run_stage(jobs, stage),
        }
    }
}
