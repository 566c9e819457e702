//! Every way to verify, beside the oracles: all must give the same answer.

use falconet_crypto::falcon::{Backend, Bitmap, Job, Key, PreparedKey, Verifier};

use super::mutate::Corpus;
use super::{Case, oracle};

/// One verifier for each backend that this CPU has.
pub struct Judges(Vec<Verifier>);

impl Judges {
    pub fn new() -> Self {
        Self(Backend::available().map(Verifier::with_backend).collect())
    }

    /// The answers to a batch, which must be the same on every backend, with keys encoded or
    /// prepared.
    pub fn verdicts(&mut self, cases: &[Case]) -> Vec<bool> {
        let encoded: Vec<Job<'_>> = cases.iter().map(Case::job).collect();
        let keys: Vec<Option<PreparedKey>> = cases
            .iter()
            .map(|case| PreparedKey::from_bytes(case.scheme, &case.public_key).ok())
            .collect();
        // Every other key prepared, where it can be.
        let mut mixed = encoded.clone();
        for (job, key) in mixed.iter_mut().zip(&keys).step_by(2) {
            if let Some(key) = key {
                job.key = Key::Prepared(key);
            }
        }
        let mut valid = Bitmap::new();
        let mut first: Option<Vec<bool>> = None;
        for verifier in &mut self.0 {
            for jobs in [&encoded, &mixed] {
                verifier.verify_batch(jobs, &mut valid);
                let answers: Vec<bool> = valid.iter().collect();
                let expected = first.get_or_insert_with(|| answers.clone());
                if *expected != answers {
                    let at = (0..cases.len()).find(|&at| expected[at] != answers[at]);
                    panic!("{verifier:?} disagrees about number {at:?} of the batch");
                }
            }
        }
        first.expect("there is at least one backend")
    }
}

/// Checks the cases of `seeds`; `pqcrypto_every` says how many of them the slower oracle sees.
/// Returns how many were valid.
pub fn check(
    corpus: &Corpus,
    judges: &mut Judges,
    seeds: std::ops::Range<u64>,
    pqcrypto_every: usize,
) -> usize {
    let first = seeds.start;
    let cases: Vec<Case> = seeds.map(|seed| corpus.case(seed)).collect();
    let verdicts = judges.verdicts(&cases);
    for (at, (case, &verdict)) in cases.iter().zip(&verdicts).enumerate() {
        let seed = first + at as u64;
        assert_eq!(
            verdict,
            oracle::fn_dsa(case),
            "fn-dsa disagrees, seed {seed}"
        );
        if at % pqcrypto_every == 0 {
            assert_eq!(
                verdict,
                oracle::pqcrypto(case),
                "pqcrypto disagrees, seed {seed}"
            );
        }
    }
    verdicts.into_iter().filter(|&valid| valid).count()
}
