//! Whole histories: validators come, go and change their keys, under random faults.
//! `FALCONET_SEEDS=N` runs N seeds, `FALCONET_SEED_FIRST=S` starts at S.

use falconet_hotstuff::Misbehaviour;
use falconet_tests::sim::campaign::{self, Campaign, Kind, Plan};

/// Seeds that run without being asked for.
const SEEDS: u64 = 60;

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => otherwise,
    }
}

fn plan() -> Plan {
    Plan {
        kind: Kind::Epochs,
        ..Plan::default()
    }
}

#[test]
fn many_histories_agree_and_go_on() {
    let campaign = Campaign {
        plan: plan(),
        first: number("FALCONET_SEED_FIRST", 1),
        seeds: number("FALCONET_SEEDS", SEEDS),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        replay: false,
        failures: None,
    };
    let report = campaign.run(|_| {}).expect("no files are written");
    for (seed, violation) in &report.failures {
        println!("seed {seed}: {violation}");
    }
    println!(
        "{} histories: {} epochs, {} blocks, {} crashes, {} events in {} s",
        report.outcomes.len(),
        report.sum(|o| o.epochs),
        report.sum(|o| o.height),
        report.sum(|o| o.crashes),
        report.sum(|o| o.events),
        report.elapsed.as_secs(),
    );
    assert!(report.failures.is_empty(), "{} fail", report.failures.len());
    // The seeds must do something, or they prove nothing.
    assert!(report.sum(|o| o.epochs) > 3 * report.outcomes.len() as u64);
}

#[test]
fn equal_seeds_give_equal_histories() {
    for seed in 1..=4 {
        let first = campaign::run(&plan(), seed);
        assert!(first.is_ok(), "seed {seed}: {first:?}");
        assert_eq!(first, campaign::run(&plan(), seed), "seed {seed}");
    }
}

/// What goes wrong and who comes and goes are entries of one list: a failing history is shrunk to
/// those that matter, and the plan that is left fails in the same way.
#[test]
fn a_failing_history_is_shrunk() {
    let plan = Plan {
        flaw: Some(Misbehaviour::QuorumOfLastEpoch),
        ..plan()
    };
    let shrunk = (1..=20).find_map(|seed| Some((seed, campaign::shrink(&plan, seed)?)));
    let (seed, shrunk) = shrunk.expect("the flaw is found");
    let (all, left) = shrunk.faults;
    assert!(left < all, "{left} of {all} faults are left");
    assert!(shrunk.plan.options().contains("--scenario epochs"));
    let again = campaign::run(&shrunk.plan, seed).expect_err("it still fails");
    assert_eq!(again, shrunk.violation);
}
