//! The verifier: batches of jobs in, one bit per job out.

use std::cell::RefCell;
use std::fmt;

use rayon::prelude::*;

use super::prepared::{self, Coefficients};
#[cfg(target_arch = "x86_64")]
use super::simd::{Kernels, batch::Batch, words::Polynomial};
use super::{Bitmap, PreparedKey, Scheme, portable};
#[cfg(target_arch = "x86_64")]
use crate::cpu::{Avx2, Avx512};

/// Jobs that a thread of [`verify_batch_parallel`] takes at a time: a few chunks of each scheme.
const PARALLEL_JOBS: usize = 128;

/// Which code path verifies. All give the same answer to every input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// 32 signatures at a time with AVX-512 (F, BW, VL, DQ, CD, VBMI, VBMI2).
    Avx512,
    /// Batches with AVX2.
    Avx2,
    /// Plain Rust, on any CPU, one signature at a time.
    Portable,
}

impl Backend {
    /// The backends that this CPU can run, the fastest first.
    pub fn available() -> impl Iterator<Item = Backend> {
        [Backend::Avx512, Backend::Avx2, Backend::Portable]
            .into_iter()
            .filter(|backend| match backend {
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512 => Avx512::detect().is_some(),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx2 => Avx2::detect().is_some(),
                #[cfg(not(target_arch = "x86_64"))]
                Backend::Avx512 | Backend::Avx2 => false,
                Backend::Portable => true,
            })
    }

    /// The fastest backend of this CPU.
    pub fn best() -> Backend {
        Self::available()
            .next()
            .expect("the portable backend is always there")
    }

    /// Decodes and transforms a key of the right length and header; false if it is not canonical.
    pub(super) fn prepare_key(self, scheme: Scheme, bytes: &[u8], key: &mut Coefficients) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => prepare_simd(avx512(), scheme, bytes, key),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => prepare_simd(avx2(), scheme, bytes, key),
            _ => prepared::prepare_portable(scheme, bytes, key),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Avx512 => "avx512",
            Backend::Avx2 => "avx2",
            Backend::Portable => "portable",
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn prepare_simd<K: Kernels>(
    kernels: K,
    scheme: Scheme,
    bytes: &[u8],
    key: &mut Coefficients,
) -> bool {
    let mut work = [Polynomial::ZERO, Polynomial::ZERO];
    kernels.prepare_key(scheme, bytes, key, &mut work)
}

#[cfg(target_arch = "x86_64")]
fn avx512() -> Avx512 {
    Avx512::detect().expect("this CPU has AVX-512 (see Backend::available)")
}

#[cfg(target_arch = "x86_64")]
fn avx2() -> Avx2 {
    Avx2::detect().expect("this CPU has AVX2 (see Backend::available)")
}

/// The key of a job.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// The canonical encoding, decoded (strictly) for this one job.
    Encoded {
        /// The parameter set.
        scheme: Scheme,
        /// The key, without the scheme byte.
        bytes: &'a [u8],
    },
    /// A key that has been prepared before.
    Prepared(&'a PreparedKey),
}

impl Key<'_> {
    /// The parameter set.
    pub fn scheme(&self) -> Scheme {
        match self {
            Key::Encoded { scheme, .. } => *scheme,
            Key::Prepared(key) => key.scheme(),
        }
    }
}

/// One signature to verify.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The key; it also says which scheme the signature must have.
    pub key: Key<'a>,
    /// What was signed.
    pub message: &'a [u8],
    /// The signature, without the scheme byte. Anything is allowed here.
    pub signature: &'a [u8],
}

/// Verifies batches. Owns its scratch memory: one verifier per thread.
pub struct Verifier(Engine);

enum Engine {
    #[cfg(target_arch = "x86_64")]
    Avx512(Batch<Avx512>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Batch<Avx2>),
    Portable,
    #[cfg(feature = "simulation")]
    Simulated(Accepts),
}

/// Says whether a signature in a simulation is good, without the mathematics.
#[cfg(feature = "simulation")]
pub type Accepts = fn(key: &PreparedKey, message: &[u8], signature: &[u8]) -> bool;

thread_local! {
    /// The verifier of this thread.
    static VERIFIER: RefCell<Verifier> = RefCell::new(Verifier::new());
}

/// Verifies one signature, with the verifier of this thread. For many, a batch is several times
/// faster.
pub fn verify(key: &PreparedKey, message: &[u8], signature: &[u8]) -> bool {
    let job = Job {
        key: Key::Prepared(key),
        message,
        signature,
    };
    let mut word = [0];
    VERIFIER.with_borrow_mut(|verifier| verifier.verify_words(&[job], &mut word));
    word[0] == 1
}

impl Verifier {
    /// A verifier with the fastest backend that this CPU has.
    pub fn new() -> Self {
        Self::with_backend(Backend::best())
    }

    /// A verifier with the given backend.
    ///
    /// # Panics
    /// If this CPU cannot run the backend ([`Backend::available`]).
    pub fn with_backend(backend: Backend) -> Self {
        Self(match backend {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => Engine::Avx512(Batch::new(avx512())),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => Engine::Avx2(Batch::new(avx2())),
            #[cfg(not(target_arch = "x86_64"))]
            Backend::Avx512 | Backend::Avx2 => panic!("this CPU has no {backend}"),
            Backend::Portable => Engine::Portable,
        })
    }

    /// A verifier for simulations, in which signatures are a function of key and message: it asks
    /// `accepts`.
    #[cfg(feature = "simulation")]
    pub fn simulated(accepts: Accepts) -> Self {
        Self(Engine::Simulated(accepts))
    }

    /// The backend in use.
    pub fn backend(&self) -> Backend {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512(_) => Backend::Avx512,
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2(_) => Backend::Avx2,
            Engine::Portable => Backend::Portable,
            #[cfg(feature = "simulation")]
            Engine::Simulated(_) => Backend::Portable,
        }
    }

    /// Verifies every job; afterwards bit i of `valid` says whether `jobs[i]` is valid.
    ///
    /// Exact for each job: there is no probabilistic shortcut, and no job affects another.
    /// Allocates only if `valid` has to grow.
    pub fn verify_batch(&mut self, jobs: &[Job<'_>], valid: &mut Bitmap) {
        valid.reset(jobs.len());
        self.verify_words(jobs, valid.words_mut());
    }

    /// Sets bit i of `words`, which are zero, for every valid `jobs[i]`.
    fn verify_words(&mut self, jobs: &[Job<'_>], words: &mut [u64]) {
        let accept = |index: usize| words[index / 64] |= 1 << (index % 64);
        match &mut self.0 {
            #[cfg(target_arch = "x86_64")]
            Engine::Avx512(batch) => batch.verify(jobs, accept),
            #[cfg(target_arch = "x86_64")]
            Engine::Avx2(batch) => batch.verify(jobs, accept),
            Engine::Portable => verify_one_by_one(jobs, portable::verify, accept),
            #[cfg(feature = "simulation")]
            Engine::Simulated(accepts) => verify_one_by_one(jobs, *accepts, accept),
        }
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.backend())
    }
}

fn verify_one_by_one(
    jobs: &[Job<'_>],
    verify: impl Fn(&PreparedKey, &[u8], &[u8]) -> bool,
    mut accept: impl FnMut(usize),
) {
    for (index, job) in jobs.iter().enumerate() {
        let valid = match job.key {
            Key::Prepared(key) => verify(key, job.message, job.signature),
            Key::Encoded { scheme, bytes } => {
                PreparedKey::with_backend(Backend::Portable, scheme, bytes)
                    .is_ok_and(|key| verify(&key, job.message, job.signature))
            }
        };
        if valid {
            accept(index);
        }
    }
}

/// [`Verifier::verify_batch`] on the threads of `pool`, 128 jobs at a time. Every thread of the
/// pool keeps a verifier of its own.
pub fn verify_batch_parallel(pool: &rayon::ThreadPool, jobs: &[Job<'_>], valid: &mut Bitmap) {
    valid.reset(jobs.len());
    let words = valid.words_mut().par_chunks_mut(PARALLEL_JOBS / 64);
    let pieces = words.zip(jobs.par_chunks(PARALLEL_JOBS));
    pool.install(|| {
        pieces.for_each(|(words, jobs)| {
            VERIFIER.with_borrow_mut(|verifier| verifier.verify_words(jobs, words));
        });
    });
}
