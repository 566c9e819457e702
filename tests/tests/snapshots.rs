//! Old history goes, and nodes that slept or join get a snapshot instead, under random faults.
//! `FALCONET_SEEDS=N` runs N seeds, `FALCONET_SEED_FIRST=S` starts at S.

use falconet_tests::sim::campaign::{ActorKind, Byzantine, Kind, Plan};
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
    share::holds(&plan(), 7_001_182);
}

/// The others left while it slept: the newest epoch has nobody to ask but itself.
#[test]
fn the_only_validator_of_an_epoch_gets_a_snapshot_from_those_who_left() {
    share::holds(&plan(), 7_001_010);
}

/// What a node accepted in an epoch that was over was lost when a snapshot of the next one took the
/// place of the rest.
#[test]
fn what_a_sleeper_accepted_before_its_snapshot_is_executed() {
    share::holds(&plan(), 7_000_043);
}

/// The only validator crashed when its state was durable at the epoch's last height, and could not
/// prove the epoch's end.
#[test]
fn who_is_alone_proves_the_end_of_an_epoch_from_the_state_that_it_starts_with() {
    share::holds(&plan(), 900_097);
}

/// A validator died before it had a block, and so had to begin with a snapshot and to sign nothing
/// for a while; the faulty one was punished and lost its place, or owners gave most of the weight to
/// the one that could not sign.
#[test]
fn nobody_who_is_needed_begins_without_a_block() {
    let with_a = |name: &str, kind| {
        let all = ActorKind::all();
        let actor = all.iter().find(|actor| actor.name() == name);
        let byzantine = Some(Byzantine {
            count: 1,
            kind: Some(*actor.expect("it is one of them")),
        });
        Plan {
            kind,
            byzantine,
            ..Plan::default()
        }
    };
    share::holds(&with_a("stale-leader", Kind::Snapshots), 40_110_251);
    share::holds(&with_a("withholder", Kind::Epochs), 30_030_102);
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 1..=3 {
        let first = share::holds(&plan(), seed);
        assert_eq!(first, share::holds(&plan(), seed), "seed {seed}");
    }
}
