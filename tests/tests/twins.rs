//! Twins: all scenarios of a few phases, and samples of longer ones.

use falconet_hotstuff::Misbehaviour;
use falconet_tests::sim::twins::{Cast, FOUR, FOUR_COMMIT_VOTES, Leaders, SEVEN, explore, sample};

/// Phases that are explored without being asked for; `falconet sim --scenario twins --depth 7`
/// goes deeper.
const DEPTH: usize = 3;
/// Random scenarios of each size.
const RUNS: u64 = 150;

#[test]
fn four_validators_with_one_twin_exhaustively() {
    let explored = explore(FOUR, DEPTH, 2, |_, _| {});
    println!("{explored:?}");
    assert_eq!(explored.broken, None);
    assert!(explored.states.iter().all(|states| *states > 1));
    assert!(explored.height > 0, "nothing was committed in any state");
}

#[test]
fn four_validators_that_lead_in_turn_exhaustively() {
    for sound in [FOUR, FOUR_COMMIT_VOTES] {
        let cast = Cast {
            leaders: Leaders::Rotation,
            ..sound
        };
        let explored = explore(cast, DEPTH, 2, |_, _| {});
        println!("{explored:?}");
        assert_eq!(explored.broken, None);
        assert!(explored.height > 0, "nothing was committed in any state");
    }
}

#[test]
fn four_validators_with_commit_votes_exhaustively() {
    let explored = explore(FOUR_COMMIT_VOTES, DEPTH, 2, |_, _| {});
    println!("{explored:?}");
    assert_eq!(explored.broken, None);
    assert!(explored.height > 0, "nothing was committed in any state");
}

#[test]
fn twins_with_commit_votes_sampled() {
    let seven = Cast {
        commit_votes: true,
        ..SEVEN
    };
    for cast in [FOUR_COMMIT_VOTES, seven] {
        let sampled = sample(cast, 10, 1, RUNS);
        println!("{sampled:?}");
        assert_eq!(sampled.broken, None);
        assert!(sampled.height > RUNS, "hardly anything was committed");
    }
}

#[test]
fn an_exploration_is_the_same_on_one_thread_and_on_two() {
    let cast = Cast {
        leaders: Leaders::Rotation,
        ..FOUR
    };
    let counts = |jobs| explore(cast, DEPTH, jobs, |_, _| {});
    assert_eq!(counts(1), counts(2));
}

#[test]
fn four_validators_with_one_twin_sampled() {
    let sampled = sample(FOUR, 12, 1, RUNS);
    println!("{sampled:?}");
    assert_eq!(sampled.broken, None);
    assert!(sampled.height > RUNS, "hardly anything was committed");
}

#[test]
fn seven_validators_with_two_twins_sampled() {
    let sampled = sample(SEVEN, 9, 1, RUNS);
    println!("{sampled:?}");
    assert_eq!(sampled.broken, None);
    assert!(sampled.height > RUNS, "hardly anything was committed");
}

/// Within so many random scenarios each flaw must show; the correct core passes as many.
const TRIES: u64 = 3_000;

fn finds(flaw: Misbehaviour) {
    finds_among(FOUR, flaw);
}

fn finds_among(sound: Cast, flaw: Misbehaviour) {
    let cast = Cast {
        flaw: Some(flaw),
        ..sound
    };
    let sampled = sample(cast, 9, 1, TRIES);
    let broken = sampled.broken.expect("nothing broke");
    println!("{flaw:?}: run {}: {}", sampled.runs + 1, broken.violation);
    assert_eq!(sample(sound, 9, 1, sampled.runs + 1).broken, None);
}

#[test]
fn a_commit_without_consecutive_rounds_is_found() {
    finds(Misbehaviour::CommitAcrossGaps);
}

#[test]
fn a_vote_after_a_timeout_is_found() {
    finds(Misbehaviour::VoteAfterTimeout);
}

#[test]
fn a_commit_vote_after_a_timeout_is_found() {
    finds_among(FOUR_COMMIT_VOTES, Misbehaviour::CommitVoteAfterTimeout);
}

#[test]
fn a_timeout_below_the_lock_is_found() {
    finds(Misbehaviour::ForgetLock);
}
