//! The scenarios that an adversary would choose, group by group, as `docs/scenarios.md` lists them.
//! Those that concern one core alone are tests of that core; here whole nodes meet them, in the
//! simulator, in virtual time.

mod data;
mod epochs;
mod liveness;
mod safety;
mod snapshots;
mod table;

use falconet_tests::sim::scenario::CrashPoint;
use falconet_tests::sim::{Outcome, Scenario, World};
use falconet_types::message::PeerMessage;
use falconet_types::{Round, ValidatorIndex};

/// Rounds within which everybody has committed something new after the last fault.
const RECOVERY_ROUNDS_MAX: u64 = 24;

/// Runs to the end; agreement, order, promises and recovery are checked on the way.
#[track_caller]
fn run(world: &mut World) -> Outcome {
    let outcome = match world.run_on() {
        Ok(outcome) => outcome,
        Err(violation) => panic!("at {} us: {violation}", world.now_us()),
    };
    assert!(
        outcome.recovery_rounds <= RECOVERY_ROUNDS_MAX,
        "{} rounds until everybody committed again",
        outcome.recovery_rounds
    );
    outcome
}

/// A run of two seconds in which nothing happens but what the test adds.
fn scripted(seed: u64, n: usize) -> Scenario {
    Scenario::scripted(seed, n).calm_at(2_000_000)
}

/// The validator that leads a round, in the network of this scenario.
fn leader(world: &World, round: u64) -> usize {
    world.chain().set.leader(Round(round)).at()
}

/// Validators in the order in which they lead, from round 1.
fn order(scenario: &Scenario) -> Vec<usize> {
    let world = World::new(scenario.clone(), false);
    (1..=scenario.n as u64).map(|r| leader(&world, r)).collect()
}

/// The round that a message speaks about.
fn round_of(message: &PeerMessage) -> Option<u64> {
    match message {
        PeerMessage::Header(header) => Some(header.round.0),
        PeerMessage::Vote(vote) => Some(vote.round.0),
        PeerMessage::Timeout(timeout) => Some(timeout.round.0),
        _ => None,
    }
}

fn index(i: usize) -> ValidatorIndex {
    ValidatorIndex(u16::try_from(i).expect("few validators"))
}

/// Every way to die inside a turn that does not count effects.
const DEATHS: [CrashPoint; 4] = [
    CrashPoint::BeforeSync,
    CrashPoint::SyncFails,
    CrashPoint::AfterSync,
    CrashPoint::WhileSending,
];
