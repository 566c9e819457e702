//! Drives a batch through the stages, chunk by chunk.

use super::super::prepared::Coefficients;
use super::super::stages::Stage;
use super::super::{Job, Key, SIGNATURE_PREFIX_LEN, Scheme};
use super::codeword::Rows;
use super::point::{Point, PointSource, Points};
use super::transform::Work;
use super::words::Polynomial;
use super::{CHUNK, Kernels};
use crate::keccak::lanes::bits;

/// A verifier for one instruction set, with its scratch memory (about 180 KB).
pub(crate) struct Batch<K> {
    kernels: K,
    scratch: Box<Scratch>,
}

struct Scratch {
    rows: Rows,
    s2: [Polynomial; CHUNK],
    points: Points,
    /// Keys that were decoded for one job each; degree 512 needs two at a time.
    keys: [Coefficients; 2],
    work: Work,
}

impl<K: Kernels> Batch<K> {
    pub(crate) fn new(kernels: K) -> Self {
        let scratch = Box::new(Scratch {
            rows: Rows::new(),
            s2: [const { Polynomial::ZERO }; CHUNK],
            points: [const { Point::ZERO }; CHUNK],
            keys: [Coefficients::ZERO; 2],
            work: [Polynomial::ZERO; 2],
        });
        Self { kernels, scratch }
    }

    /// Calls `accept` with the index of every valid job.
    pub(crate) fn verify(&mut self, jobs: &[Job<'_>], mut accept: impl FnMut(usize)) {
        for scheme in Scheme::ALL {
            let mut chunk = [0; CHUNK];
            let mut count = 0;
            for (index, job) in jobs.iter().enumerate() {
                if job.key.scheme() != scheme || !is_well_formed(scheme, job) {
                    continue;
                }
                chunk[count] = index;
                count += 1;
                if count == CHUNK {
                    bits(self.verify_chunk(scheme, jobs, &chunk)).for_each(|at| accept(chunk[at]));
                    count = 0;
                }
            }
            if count > 0 {
                let valid = self.verify_chunk(scheme, jobs, &chunk[..count]);
                bits(valid).for_each(|at| accept(chunk[at]));
            }
        }
    }

    /// Verifies the jobs `chunk` of `jobs`, which are well formed and all of `scheme`.
    fn verify_chunk(&mut self, scheme: Scheme, jobs: &[Job<'_>], chunk: &[usize]) -> u32 {
        let kernels = self.kernels;
        let Scratch {
            rows,
            s2,
            points,
            keys,
            work,
        } = &mut *self.scratch;
        for (row, &index) in chunk.iter().enumerate() {
            rows.set(row, &jobs[index].signature[SIGNATURE_PREFIX_LEN..]);
        }
        let decoded = kernels.decode(scheme, rows, chunk.len(), s2);
        PointSource::new(kernels, scheme.degree(), jobs, chunk, decoded, points).run();

        let bound = scheme.squared_norm_max();
        let mut valid = 0;
        let mut pending = decoded;
        while pending != 0 {
            // Up to `at_once` jobs whose key is in order.
            let at_once = 1024 / scheme.degree();
            let mut ready = [0; 2];
            let mut found = 0;
            let mut prepared: [Option<&Coefficients>; 2] = [None; 2];
            let [first, second] = &mut *keys;
            let mut buffers = [Some(first), Some(second)];
            while pending != 0 && found < at_once {
                let at = pending.trailing_zeros() as usize;
                pending &= pending - 1;
                let key = match jobs[chunk[at]].key {
                    Key::Prepared(key) => Some(key.coefficients()),
                    Key::Encoded { scheme, bytes } => {
                        let buffer = buffers[found].take().expect("one buffer for each job");
                        if kernels.prepare_key(scheme, bytes, buffer, work) {
                            Some(&*buffer)
                        } else {
                            buffers[found] = Some(buffer);
                            None
                        }
                    }
                };
                if key.is_some() {
                    (prepared[found], ready[found]) = (key, at);
                    found += 1;
                }
            }
            let Some(first) = prepared[0] else { break };
            // A lone FALCON-512 signature fills both places.
            let other = if found == 2 { ready[1] } else { ready[0] };
            let norms = kernels.squared_norms(
                scheme,
                [&s2[ready[0]], &s2[other]],
                [first, prepared[1].unwrap_or(first)],
                [points[ready[0]].polynomial(), points[other].polynomial()],
                work,
            );
            for k in 0..found {
                valid |= u32::from(norms[k] <= bound) << ready[k];
            }
        }
        valid
    }
}

impl<K: Kernels> Batch<K> {
    /// Runs one stage for 32 valid jobs of one scheme with encoded keys. The results of the stages
    /// before it are what they were at the last call.
    pub(crate) fn run_stage(&mut self, jobs: &[Job<'_>; CHUNK], stage: Stage) {
        let kernels = self.kernels;
        let Scratch {
            rows,
            s2,
            points,
            keys,
            work,
        } = &mut *self.scratch;
        let scheme = jobs[0].key.scheme();
        match stage {
            Stage::Decode => {
                for (row, job) in jobs.iter().enumerate() {
                    rows.set(row, &job.signature[SIGNATURE_PREFIX_LEN..]);
                }
                assert_eq!(kernels.decode(scheme, rows, CHUNK, s2), u32::MAX);
            }
            Stage::HashToPoint => {
                let chunk: [usize; CHUNK] = std::array::from_fn(|at| at);
                PointSource::new(kernels, scheme.degree(), jobs, &chunk, u32::MAX, points).run();
            }
            Stage::PrepareKeys => {
                for job in jobs {
                    let Key::Encoded { bytes, .. } = job.key else {
                        panic!("keys are encoded")
                    };
                    assert!(kernels.prepare_key(scheme, bytes, &mut keys[0], work));
                }
            }
            Stage::Norms => {
                let at_once = 1024 / scheme.degree();
                for at in (0..CHUNK).step_by(at_once) {
                    let other = at + at_once - 1;
                    std::hint::black_box(kernels.squared_norms(
                        scheme,
                        [&s2[at], &s2[other]],
                        [&keys[0], &keys[0]],
                        [points[at].polynomial(), points[other].polynomial()],
                        work,
                    ));
                }
            }
        }
    }
}

/// Length and header of the signature, and of the key unless it is prepared.
fn is_well_formed(scheme: Scheme, job: &Job<'_>) -> bool {
    let signature = job.signature.len() == scheme.signature_len()
        && job.signature[0] == scheme.signature_header();
    signature
        && match job.key {
            Key::Prepared(_) => true,
            Key::Encoded { bytes, .. } => {
                bytes.len() == scheme.public_key_len() && bytes[0] == scheme.public_key_header()
            }
        }
}
