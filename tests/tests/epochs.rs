//! Whole histories: validators come, go and change their keys, under random faults.
//! `FALCONET_SEEDS=N` runs N seeds, `FALCONET_SEED_FIRST=S` starts at S.

use falconet_adversary::Kind as Named;
use falconet_hotstuff::Misbehaviour;
use falconet_tests::sim::campaign::{self, ActorKind, Byzantine, Kind, Plan};
use falconet_tests::sim::share;

/// Seeds that run without being asked for.
const SEEDS: u64 = 60;

fn plan() -> Plan {
    Plan {
        kind: Kind::Epochs,
        ..Plan::default()
    }
}

#[test]
fn many_histories_agree_and_go_on() {
    let report = share::run(plan(), SEEDS);
    // The seeds must do something, or they prove nothing.
    assert!(report.sum(|o| o.epochs) > 3 * report.outcomes.len() as u64);
}

/// What a node carried over into an epoch that was over before it could seal anything was lost when
/// it had no seat in the epoch after.
#[test]
fn what_a_sleeper_accepted_survives_the_loss_of_its_seat_some_epochs_later() {
    share::holds(&plan(), 5_001_359);
}

/// Who held a higher certificate than the one that ended its epoch never left it: of a block beside
/// that one, or of a block that nobody had any more (with most of the heads away, besides).
#[test]
fn who_holds_a_higher_certificate_than_that_of_the_end_gets_out_of_its_epoch() {
    for seed in [5_003_761, 5_003_866] {
        share::holds(&plan(), seed);
    }
}

/// An answer to a request of an epoch that was over was meant for an index that had become the node's
/// own.
#[test]
fn an_answer_to_an_index_of_an_old_epoch_goes_nowhere() {
    share::holds(&plan(), 5_002_386);
}

/// All crashed between an epoch's last height and its last block, and what the registry was at that
/// height was on nobody's disk.
#[test]
fn all_prove_the_end_of_an_epoch_from_any_state_that_became_durable_after_it() {
    share::holds(&plan(), 701_384);
}

fn with_a(kind: ActorKind) -> Plan {
    Plan {
        byzantine: Some(Byzantine {
            count: 1,
            kind: Some(kind),
        }),
        ..plan()
    }
}

/// Owners bonded so much to the faulty validator that it weighed more than a third, and nothing was
/// promised any more.
#[test]
fn owners_give_the_faulty_less_than_a_third() {
    let some = Plan {
        byzantine: Some(Byzantine {
            count: 1,
            kind: None,
        }),
        ..plan()
    };
    for seed in [6_000_090, 6_000_269, 6_000_585] {
        share::holds(&some, seed);
    }
}

/// One slept, another led badly, and sat so that no two rounds in a row succeeded: commit votes alone
/// committed, no newer snapshot could be proven, and history was deleted up to a height above the
/// last that could. The sleeper could not come back, and without it nothing changed. When it could,
/// what the registry was at the epoch's end had been forgotten too.
#[test]
fn who_slept_while_only_commit_votes_committed_comes_back() {
    share::holds(&with_a(ActorKind::Named(Named::Equivocator)), 30_050_258);
}

/// One of four dies before its first block and comes back with a snapshot: it may not sign in the
/// epochs that it finds. Meanwhile another took its stake away, and of the three that are left the
/// chain needed each.
#[test]
fn nobody_leaves_a_third_to_who_may_not_sign() {
    share::holds(&plan(), 65_000_899);
}

#[test]
fn equal_seeds_give_equal_histories() {
    for seed in 1..=4 {
        let first = share::holds(&plan(), seed);
        assert_eq!(first, share::holds(&plan(), seed), "seed {seed}");
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
