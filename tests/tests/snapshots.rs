//! Old history goes, and nodes that slept or join get a snapshot instead, under random faults.
//! `FALCONET_SEEDS=N` runs N seeds, `FALCONET_SEED_FIRST=S` starts at S.

use falconet_tests::sim::campaign::{self, ActorKind, Byzantine, Kind, Plan};
use falconet_tests::sim::share;

/// Seeds that run without being asked for.
const SEEDS: u64 = 60;
/// The same with a Byzantine validator that tells small lies, about snapshots too.
const SEEDS_OF_LIES: u64 = 30;

fn plan() -> Plan {
    Plan {
        kind: Kind::Snapshots,
        ..Plan::default()
    }
}

#[test]
fn many_who_slept_too_long_catch_up_by_snapshot() {
    let report = share::run(plan(), SEEDS);
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
    let _ = share::run(plan, SEEDS_OF_LIES);
}

/// Everybody restarts at once, and the blocks that decide who leads had been deleted: nobody could
/// lead until the window was over.
#[test]
fn history_holds_what_decides_who_leads() {
    let outcome = campaign::run(&plan(), 7_001_182);
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// The others left while it slept: the newest epoch has nobody to ask but itself.
#[test]
fn the_only_validator_of_an_epoch_gets_a_snapshot_from_those_who_left() {
    let outcome = campaign::run(&plan(), 7_001_010);
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// What a node accepted in an epoch that was over was lost when a snapshot of the next one took the
/// place of the rest.
#[test]
fn what_a_sleeper_accepted_before_its_snapshot_is_executed() {
    let outcome = campaign::run(&plan(), 7_000_043);
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// The only validator crashed when its state was durable at the epoch's last height, and could not
/// prove the epoch's end.
#[test]
fn who_is_alone_proves_the_end_of_an_epoch_from_the_state_that_it_starts_with() {
    let outcome = campaign::run(&plan(), 900_097);
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
