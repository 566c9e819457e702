//! Our verifier beside pqcrypto-falcon and fn-dsa, on honest, mutated and extreme inputs.
//!
//! More cases: `cargo run --release --example differential -- <count>`.

mod support;

use falconet_crypto::falcon::{Backend, Bitmap, Job, Key, Verifier};
use support::mutate::Corpus;
use support::{Case, oracle};

fn job(case: &Case) -> Job<'_> {
    Job {
        key: Key::Encoded {
            scheme: case.scheme,
            bytes: &case.public_key,
        },
        message: &case.message,
        signature: &case.signature,
    }
}

#[test]
fn every_backend_agrees_with_both_oracles() {
    let corpus = Corpus::new(4, 8);
    let cases: Vec<Case> = (0..4000).map(|seed| corpus.case(seed)).collect();
    let jobs: Vec<Job<'_>> = cases.iter().map(job).collect();
    let expected: Vec<bool> = cases.iter().map(oracle::fn_dsa).collect();
    let accepted = expected.iter().filter(|&&valid| valid).count();
    assert!(
        (800..3200).contains(&accepted),
        "{accepted} of 4000: the mix is off"
    );
    for (seed, case) in cases.iter().enumerate() {
        assert_eq!(
            oracle::pqcrypto(case),
            expected[seed],
            "the oracles disagree, seed {seed}"
        );
    }
    for backend in Backend::available() {
        let mut valid = Bitmap::new();
        Verifier::with_backend(backend).verify_batch(&jobs, &mut valid);
        for (seed, &expected) in expected.iter().enumerate() {
            assert_eq!(valid.get(seed), expected, "{backend:?}, seed {seed}");
        }
    }
}
