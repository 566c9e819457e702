//! Groups 21 and 22: the validator set changes, under faults; what is proved costs stake and seat.

use falconet_adversary::Kind;
use falconet_tests::actors::Named;
use falconet_tests::sim::keys::STAKE_UNIT;
use falconet_tests::sim::scenario::CrashPoint;
use falconet_tests::sim::{Fault, Outcome, Scenario, World, keys};
use falconet_types::Epoch;
use falconet_types::epoch::HEADERS_MAX;
use falconet_types::message::PeerMessage;

use super::DEATHS;
use super::snapshots::{NoLeader, no_two_rounds_in_a_row};

/// A run of four seconds with epochs of sixteen heights, a few of which pass each second.
fn scripted(seed: u64, n: usize, joiners: usize) -> Scenario {
    Scenario::scripted(seed, n)
        .calm_at(4_000_000)
        .with_epochs(16, joiners)
        .with_params(|params| params.block_interval_ms_idle = 20)
}

#[track_caller]
fn run(world: &mut World) -> Outcome {
    match world.run_on() {
        Ok(outcome) => outcome,
        Err(violation) => panic!("at {} us: {violation}", world.now_us()),
    }
}

/// The nodes that are validators in the newest epoch.
fn newest(world: &World) -> Vec<usize> {
    let mut members = world.eras().members(Epoch(world.eras().changes())).to_vec();
    members.sort_unstable();
    members
}

#[test]
fn s21_a_chain_grows_from_one_validator_to_four_and_shrinks_back_to_one() {
    for seed in 1..=3 {
        let mut scenario = scripted(seed, 1, 3);
        for joiner in 1..=3 {
            let at = 200_000 * joiner as u64;
            scenario = scenario
                .at(at, Fault::Restart(Some(joiner)))
                .at(at + 50_000, Fault::Bond(joiner, STAKE_UNIT));
        }
        let mut world = World::new(scenario.calm_at(12_000_000), false);
        let grown = world.run_until(8_000_000, |world| newest(world).len() == 4);
        assert_eq!(grown, Ok(true), "all have joined");
        for leaver in [0, 1, 2] {
            world.apply(Fault::Unbond(leaver, 0)).unwrap();
        }
        let shrunk = world.run_until(11_900_000, |world| newest(world) == [3]);
        assert_eq!(shrunk, Ok(true), "only the last one stays");
        let outcome = run(&mut world);
        assert!(outcome.epochs >= 4, "{} epochs", outcome.epochs);
    }
}

#[test]
fn s21_members_die_at_the_boundary() {
    for seed in 1..=4 {
        for death in DEATHS {
            let mut world = World::new(scripted(seed, 4, 0), false);
            // Somebody has gone over, the others have not.
            let before = |world: &World| world.eras().changes() > seed % 3;
            assert_eq!(world.run_until(3_000_000, before), Ok(true));
            for node in [seed as usize % 4, (seed as usize + 1) % 4] {
                world.apply(Fault::Crash(node, death)).unwrap();
            }
            let later = world.now_us() + 300_000;
            world.run_until(later, |_| false).unwrap();
            world.apply(Fault::Restart(None)).unwrap();
            run(&mut world);
        }
    }
}

#[test]
fn s21_a_node_dies_after_each_effect_around_the_boundary() {
    let effects = |world: &World| world.effects(1);
    let mut world = World::new(scripted(5, 4, 0), false);
    let over = |world: &World| world.node(1).epoch() == Some(Epoch(1));
    assert_eq!(world.run_until(3_000_000, over), Ok(true));
    let boundary = effects(&world);
    for k in boundary - 6..boundary + 18 {
        let crash = Fault::Crash(1, CrashPoint::Effect(k));
        let mut world = World::new(scripted(5, 4, 0).at(0, crash), false);
        let died = world.run_until(3_500_000, |world| world.crashes() > 0);
        assert_eq!(died, Ok(true), "effect {k}");
        let later = world.now_us() + 40_000;
        world.run_until(later, |_| false).unwrap();
        world.apply(Fault::Restart(Some(1))).unwrap();
        run(&mut world);
    }
}

#[test]
fn s21_the_only_one_that_stays_slept_through_the_change() {
    for seed in 1..=3 {
        let mut world = World::new(scripted(seed, 4, 0), false);
        world.run_until(50_000, |_| false).unwrap();
        world.apply(Fault::Crash(3, CrashPoint::AfterSync)).unwrap();
        for leaver in 0..3 {
            world.apply(Fault::Unbond(leaver, 0)).unwrap();
        }
        // Those who leave serve it until it has caught up: nobody else can.
        let left = world.run_until(3_500_000, |world| newest(world) == [3]);
        assert_eq!(left, Ok(true), "the set is the sleeper alone");
        let outcome = run(&mut world);
        assert!(outcome.height > 20, "height {}", outcome.height);
    }
}

#[test]
fn s21_a_partition_over_several_changes() {
    for seed in 1..=4 {
        let scenario = scripted(seed, 4, 1)
            .at(100_000, Fault::Restart(Some(4)))
            .at(150_000, Fault::Bond(4, 2 * STAKE_UNIT))
            .at(600_000, Fault::Partition(vec![0, 0, 0, 1, 0]))
            .at(3_000_000, Fault::Heal);
        let mut world = World::new(scenario, false);
        let outcome = run(&mut world);
        assert!(outcome.epochs >= 3, "{} epochs", outcome.epochs);
    }
}

#[test]
fn s22_a_key_changes_hands_and_the_old_one_says_nothing_more() {
    for seed in 1..=4 {
        let scenario = scripted(seed, 4, 1)
            .at(50_000, Fault::Restart(Some(4)))
            .at(100_000, Fault::Rotate(2, 4));
        let mut world = World::new(scenario, false);
        let rotated = world.run_until(3_500_000, |world| newest(world) == [0, 1, 3, 4]);
        assert_eq!(rotated, Ok(true), "node 4 has the place of node 2");
        run(&mut world);
    }
}

#[test]
fn s22_an_equivocator_is_proved_slashed_and_out_at_the_next_epoch() {
    for (kind, seed) in [
        (Kind::Equivocator, 1),
        (Kind::Equivocator, 2),
        (Kind::LaneForker, 3),
        (Kind::TimeoutLiar, 4),
    ] {
        let scenario = scripted(seed, 4, 0).calm_at(8_000_000);
        let mut world = World::builder(scenario).actor(1, Named::new(kind)).build();
        let out = world.run_until(7_900_000, |world| newest(world) == [0, 2, 3]);
        assert_eq!(out, Ok(true), "{kind} is out of the set");
        let view = world.node(0).view().expect("it runs");
        let registry = view.registry();
        let punished: Vec<_> = registry.offences().map(|(_, id, _)| *id).collect();
        assert_eq!(punished, [keys::validator(1).id()], "{kind}");
        let stake = registry
            .candidate(&punished[0])
            .expect("some is left")
            .stake;
        assert!(stake < STAKE_UNIT, "{kind} has {stake} left");
        assert!(view.burned() >= STAKE_UNIT - stake);
        let outcome = run(&mut world);
        assert!(outcome.accusations > 0);
    }
}

#[test]
fn s22_every_actor_under_random_faults_while_the_set_changes() {
    use falconet_tests::sim::campaign::{self, ActorKind, Byzantine, Kind, Plan};
    for kind in ActorKind::all() {
        let plan = Plan {
            kind: Kind::Epochs,
            byzantine: Some(Byzantine {
                count: 1,
                kind: Some(kind),
            }),
            ..Plan::default()
        };
        for seed in 1..=2 {
            if let Err(violation) = campaign::run(&plan, seed) {
                panic!("{}, seed {seed}: {violation}", kind.name());
            }
        }
    }
}

/// One dies when the last block of the epoch is proposed and not committed, and another leads badly,
/// so that no two rounds in a row succeed: above the last block more blocks are certified than a
/// proof may have headers, and none is committed. When the dead one comes back, the epoch ends.
#[test]
fn s21_an_epoch_ends_however_many_blocks_lie_above_its_last_one() {
    let scenario = no_two_rounds_in_a_row(1)
        .with_epochs(24, 0)
        .calm_at(60_000_000);
    let mut world = World::builder(scenario).actor(1, NoLeader).record().build();
    let last_is_proposed = |world: &World| {
        world.sent().iter().any(|sent| {
            matches!(&sent.message, PeerMessage::Header(header) if header.executed.height.0 >= 24)
        })
    };
    assert_eq!(world.run_until(1_000_000, last_is_proposed), Ok(true));
    world.apply(Fault::Crash(3, CrashPoint::Soon(0))).unwrap();
    let highest = |world: &World| {
        let headers = world.sent().iter().filter_map(|sent| match &sent.message {
            PeerMessage::Header(header) => Some(header.height.0),
            _ => None,
        });
        headers.max().unwrap_or(0)
    };
    let rounds = 3 * HEADERS_MAX as u64;
    let grown = world.run_until(59_000_000, |world| world.highest_round().0 > rounds);
    assert_eq!(grown, Ok(true), "blocks are certified");
    assert!(highest(&world) > world.committed(0) + HEADERS_MAX as u64);
    assert_eq!(world.eras().changes(), 0, "and none ends the epoch");
    world.apply(Fault::Restart(Some(3))).unwrap();
    let over = world.run_until(59_900_000, |world| world.eras().changes() > 0);
    assert_eq!(over, Ok(true), "the epoch ends");
    run(&mut world);
}
