//! The long differential run: `cargo run --release --example differential -- <cases> [<first>]`.
//!
//! As the test of the same name, for as many cases as you like, on all CPUs. Stops at the first
//! disagreement and names its seed.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use support::agree::{self, Judges};
use support::mutate::Corpus;

const BATCH: u64 = 1000;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut number = |default| match numbers.next() {
        None => default,
        Some(Ok(number)) => number,
        Some(Err(error)) => panic!("usage: differential <cases> [<first seed>]: {error}"),
    };
    let (cases, first) = (number(10_000_000), number(1 << 32));
    let corpus = Corpus::new(16, 20_000);
    let done = AtomicU64::new(0);
    let valid: usize = (0..cases.div_ceil(BATCH))
        .into_par_iter()
        .map_init(Judges::new, |judges, batch| {
            let start = first + batch * BATCH;
            let valid = agree::check(&corpus, judges, start..start + BATCH, 10);
            let done = done.fetch_add(BATCH, Ordering::Relaxed) + BATCH;
            if done.is_multiple_of(1_000_000) {
                eprintln!("{done} cases");
            }
            valid
        })
        .sum();
    println!(
        "{} cases from seed {first} on agree; {valid} were valid",
        done.into_inner()
    );
}
