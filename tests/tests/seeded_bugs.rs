//! Mutation of the code under test: each rule of the core that a test can switch off is switched
//! off in every core, and the simulator must notice within a bounded number of seeds. The correct
//! core passes the same seeds.

use falconet_hotstuff::Misbehaviour;
use falconet_tests::sim::campaign::{self, ActorKind, Byzantine, Kind, Plan};

/// Seeds within which each flaw must be found.
const TRIES: u64 = 200;

fn find(flaw: Misbehaviour, plan: &Plan) {
    let broken = Plan {
        flaw: Some(flaw),
        ..plan.clone()
    };
    find_broken(&format!("{flaw:?}"), plan, &broken);
}

fn find_broken(flaw: &str, plan: &Plan, broken: &Plan) {
    for seed in 1..=TRIES {
        if let Err(violation) = campaign::run(plan, seed) {
            panic!("the correct core fails seed {seed}: {violation}");
        }
        if let Err(violation) = campaign::run(broken, seed) {
            let what = violation.lines().next().unwrap_or_default();
            println!("{flaw}: seed {seed}: {what}");
            return;
        }
    }
    panic!("{flaw} was not found in {TRIES} seeds");
}

/// Random faults, twins, weights.
fn random() -> Plan {
    Plan::default()
}

/// A Byzantine validator that tells small lies.
fn lies() -> Plan {
    byzantine(ActorKind::Mutator)
}

/// A Byzantine leader that proposes on old blocks.
fn stale_leader() -> Plan {
    byzantine(ActorKind::StaleLeader)
}

fn byzantine(kind: ActorKind) -> Plan {
    Plan {
        byzantine: Some(Byzantine {
            count: 1,
            kind: Some(kind),
        }),
        ..Plan::default()
    }
}

/// Validators come, go and change their keys.
fn epochs() -> Plan {
    Plan {
        kind: Kind::Epochs,
        ..Plan::default()
    }
}

/// Little history is kept, and nodes sleep for longer.
fn snapshots() -> Plan {
    Plan {
        kind: Kind::Snapshots,
        ..Plan::default()
    }
}

#[test]
fn an_unchecked_part_of_a_snapshot_is_found() {
    let plan = Plan {
        byzantine: lies().byzantine,
        ..snapshots()
    };
    let broken = Plan {
        unchecked_snapshots: true,
        ..plan.clone()
    };
    find_broken("SnapshotRootUnchecked", &plan, &broken);
}

/// Twins that never stop.
fn twins() -> Plan {
    Plan {
        kind: Kind::Twins,
        ..Plan::default()
    }
}

macro_rules! found {
    ($($name:ident: $flaw:ident by $plan:ident;)+) => {
        $(#[test]
        fn $name() {
            find(Misbehaviour::$flaw, &$plan());
        })+
    };
}

found! {
    a_commit_without_consecutive_rounds_is_found: CommitAcrossGaps by random;
    a_vote_after_a_timeout_is_found: VoteAfterTimeout by random;
    an_unchecked_maximum_of_a_tc_is_found: TcMaxUnchecked by stale_leader;
    a_lock_that_is_not_written_is_found: LostLock by random;
    a_second_vote_after_a_restart_is_found: ForgetVotes by random;
    a_timeout_below_the_lock_is_found: ForgetLock by random;
    a_vote_without_the_parents_qc_is_found: VoteWithoutParentQc by lies;
    a_quorum_of_heads_is_found: QuorumByHeads by random;
    a_signer_that_counts_twice_is_found: DuplicateSigner by random;
    a_commit_vote_after_a_timeout_is_found: CommitVoteAfterTimeout by random;
    a_commit_vote_without_a_lock_is_found: CommitVoteWithoutLock by random;
    a_record_that_is_written_after_the_send_is_found: LateRecord by random;
    a_quorum_of_the_epoch_before_is_found: QuorumOfLastEpoch by epochs;
    a_record_that_is_not_switched_with_the_epoch_is_found: RecordOfLastEpoch by epochs;
    a_validator_that_keeps_its_seat_is_found: SeatOfLastEpoch by epochs;
    a_joiner_that_votes_before_it_is_synced_is_found: VoteBeforeSynced by snapshots;
    twins_find_a_commit_without_consecutive_rounds: CommitAcrossGaps by twins;
}
