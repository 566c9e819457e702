//! A million cases: the backends beside each other, pqcrypto-falcon and fn-dsa.
//!
//! More: `cargo run --release --example differential -- 100000000`.

mod support;

use rayon::prelude::*;
use support::agree::{self, Judges};
use support::mutate::Corpus;

const CASES: u64 = 1_000_000;

/// Not a multiple of a chunk of the verifier.
const BATCH: u64 = 500;

#[test]
fn all_backends_and_both_oracles_agree_on_a_million_cases() {
    let corpus = Corpus::new(4, 2000);
    let valid: usize = (0..CASES / BATCH)
        .into_par_iter()
        .map_init(Judges::new, |judges, batch| {
            agree::check(&corpus, judges, batch * BATCH..(batch + 1) * BATCH, 20)
        })
        .sum();
    // Otherwise the mix has lost its point.
    assert!(
        (CASES / 8..CASES / 2).contains(&(valid as u64)),
        "{valid} of {CASES} were valid"
    );
}
