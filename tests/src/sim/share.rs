//! The share of the seeds that tests run.

use super::campaign::{self, Campaign, Plan, Report};
use super::world::Outcome;

/// The first seed and their number: as many as `FALCONET_SEEDS` says, from `FALCONET_SEED_FIRST`
/// on; without being asked `otherwise`, from 1.
///
/// # Panics
/// If one of the variables is not a number.
#[must_use]
pub fn seeds(otherwise: u64) -> (u64, u64) {
    (
        number("FALCONET_SEED_FIRST", 1),
        number("FALCONET_SEEDS", otherwise),
    )
}

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => otherwise,
    }
}

/// Runs the [`seeds`] of a plan on all cores.
///
/// # Panics
/// If one of them fails; what fails is printed.
#[track_caller]
#[must_use]
pub fn run(plan: Plan, otherwise: u64) -> Report {
    let (first, seeds) = seeds(otherwise);
    let campaign = Campaign {
        plan,
        first,
        seeds,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        replay: false,
        failures: None,
    };
    let report = campaign.run(|_| {}).expect("no files are written");
    for (seed, violation) in &report.failures {
        println!("seed {seed}: {violation}");
    }
    println!(
        "{} runs: {} blocks, {} crashes, {} epochs, {} snapshots, {} transactions, {} events in \
         {} s; slowest recovery {} ms",
        report.outcomes.len(),
        report.sum(|o| o.height),
        report.sum(|o| o.crashes),
        report.sum(|o| o.epochs),
        report.sum(|o| o.snapshots),
        report.sum(|o| o.acknowledged as u64),
        report.sum(|o| o.events),
        report.elapsed.as_secs(),
        report.rank(1_000, |o| o.recovery_us) / 1_000,
    );
    assert!(report.failures.is_empty(), "{} fail", report.failures.len());
    report
}

/// Runs one seed of a plan: what came of it.
///
/// # Panics
/// If it fails.
#[track_caller]
pub fn holds(plan: &Plan, seed: u64) -> Outcome {
    match campaign::run(plan, seed) {
        Ok(outcome) => outcome,
        Err(violation) => panic!("seed {seed}: {violation}"),
    }
}
