//! Old history goes, and nodes that slept or join get a snapshot instead, under random faults.
//! `FALCONET_SEEDS=N` runs N seeds, `FALCONET_SEED_FIRST=S` starts at S.

use falconet_tests::sim::campaign::{self, ActorKind, Byzantine, Campaign, Kind, Plan, Report};

/// Seeds that run without being asked for.
const SEEDS: u64 = 60;
/// The same with a Byzantine validator that tells small lies, about snapshots too.
const SEEDS_OF_LIES: u64 = 30;

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
        kind: Kind::Snapshots,
        ..Plan::default()
    }
}

#[track_caller]
fn many(plan: Plan, seeds: u64) -> Report {
    let campaign = Campaign {
        plan,
        first: number("FALCONET_SEED_FIRST", 1),
        seeds: number("FALCONET_SEEDS", seeds),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        replay: false,
        failures: None,
    };
    let report = campaign.run(|_| {}).expect("no files are written");
    for (seed, violation) in &report.failures {
        println!("seed {seed}: {violation}");
    }
    println!(
        "{} runs: {} snapshots, {} blocks, {} crashes, {} epochs, {} events in {} s",
        report.outcomes.len(),
        report.sum(|o| o.snapshots),
        report.sum(|o| o.height),
        report.sum(|o| o.crashes),
        report.sum(|o| o.epochs),
        report.sum(|o| o.events),
        report.elapsed.as_secs(),
    );
    assert!(report.failures.is_empty(), "{} fail", report.failures.len());
    report
}

#[test]
fn many_who_slept_too_long_catch_up_by_snapshot() {
    let report = many(plan(), SEEDS);
    // The seeds must do something, or they prove nothing.
    assert!(report.sum(|o| o.snapshots) > report.outcomes.len() as u64 / 4);
}

#[test]
fn liars_do_not_keep_anybody_from_catching_up() {
    let plan = Plan {
        byzantine: Some(Byzantine {
            count: 1,
            kind: Some(ActorKind::Mutator),
        }),
        ..plan()
    };
    many(plan, SEEDS_OF_LIES);
}

/// Everybody restarts at once, and the blocks that decide who leads had been deleted: nobody could
/// lead until the window was over.
#[test]
fn history_holds_what_decides_who_leads() {
    let outcome = campaign::run(&plan(), 7_001_182);
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 1..=3 {
        let first = campaign::run(&plan(), seed);
        assert!(first.is_ok(), "seed {seed}: {first:?}");
        assert_eq!(first, campaign::run(&plan(), seed), "seed {seed}");
    }
}
