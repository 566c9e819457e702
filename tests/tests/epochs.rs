//! Whole histories: validators come, go and change their keys, under random faults.
//! `FALCONET_SEEDS=N` runs N seeds, `FALCONET_SEED_FIRST=S` starts at S.

use falconet_hotstuff::Misbehaviour;
use falconet_tests::sim::campaign::{self, Kind, Plan};
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
    let outcome = campaign::run(&plan(), 5_001_359);
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// Who held a higher certificate than the one that ended its epoch never left it: of a block beside
/// that one, or of a block that nobody had any more (with most of the heads away, besides).
#[test]
fn who_holds_a_higher_certificate_than_that_of_the_end_gets_out_of_its_epoch() {
    for seed in [5_003_761, 5_003_866] {
        let outcome = campaign::run(&plan(), seed);
        assert!(outcome.is_ok(), "{seed}: {outcome:?}");
    }
}

/// An answer to a request of an epoch that was over was meant for an index that had become the node's
/// own.
#[test]
fn an_answer_to_an_index_of_an_old_epoch_goes_nowhere() {
    let outcome = campaign::run(&plan(), 5_002_386);
    assert!(outcome.is_ok(), "{outcome:?}");
}

/// All crashed between an epoch's last height and its last block, and what the registry was at that
/// height was on nobody's disk.
#[test]
fn all_prove_the_end_of_an_epoch_from_any_state_that_became_durable_after_it() {
    let outcome = campaign::run(&plan(), 701_384);
    assert!(outcome.is_ok(), "{outcome:?}");
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
