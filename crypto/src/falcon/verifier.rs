//! The verifier: batches of jobs in, one bit per job out.

use rayon::prelude::*;

use super::{Bitmap, PreparedKey, Scheme, portable};

/// Which code path verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// Plain Rust, on any CPU.
    Portable,
}

impl Backend {
    /// The backends that this CPU can run, the fastest first.
    pub fn available() -> impl Iterator<Item = Backend> {
        [Backend::Portable].into_iter()
    }
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
pub struct Verifier {
    backend: Backend,
}

/// Verifies one signature. For many, a [`Verifier`] is several times faster.
pub fn verify(key: &PreparedKey, message: &[u8], signature: &[u8]) -> bool {
    portable::verify(key, message, signature)
}

impl Verifier {
    /// A verifier with the fastest backend that this CPU has.
    pub fn new() -> Self {
        Self::with_backend(Backend::Portable)
    }

    /// A verifier with the given backend.
    pub fn with_backend(backend: Backend) -> Self {
        Self { backend }
    }

    /// The backend in use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Verifies every job; afterwards bit i of `valid` says whether `jobs[i]` is valid.
    ///
    /// Exact for each job: there is no probabilistic shortcut, and no job affects another.
    pub fn verify_batch(&mut self, jobs: &[Job<'_>], valid: &mut Bitmap) {
        valid.reset(jobs.len());
        for (word, jobs) in valid.words_mut().iter_mut().zip(jobs.chunks(64)) {
            *word = self.verify_word(jobs);
        }
    }

    /// Verifies up to 64 jobs; bit i of the result is the answer for `jobs[i]`.
    fn verify_word(&mut self, jobs: &[Job<'_>]) -> u64 {
        assert!(jobs.len() <= 64);
        let mut word = 0;
        for (at, job) in jobs.iter().enumerate() {
            let valid = match job.key {
                Key::Prepared(key) => portable::verify(key, job.message, job.signature),
                Key::Encoded { scheme, bytes } => PreparedKey::from_bytes(scheme, bytes)
                    .is_ok_and(|key| portable::verify(&key, job.message, job.signature)),
            };
            word |= u64::from(valid) << at;
        }
        word
    }
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new()
    }
}

/// [`Verifier::verify_batch`] on the threads of `pool`, 64 jobs at a time. Every thread of the
/// pool keeps a verifier of its own.
pub fn verify_batch_parallel(pool: &rayon::ThreadPool, jobs: &[Job<'_>], valid: &mut Bitmap) {
    thread_local! {
        static VERIFIER: std::cell::RefCell<Verifier> = std::cell::RefCell::new(Verifier::new());
    }
    valid.reset(jobs.len());
    let words = valid.words_mut();
    pool.install(|| {
        words
            .par_iter_mut()
            .zip(jobs.par_chunks(64))
            .for_each(|(word, jobs)| {
                *word = VERIFIER.with_borrow_mut(|verifier| verifier.verify_word(jobs));
            });
    });
}
