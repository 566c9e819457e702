//! Groups 1 to 9: nobody disagrees, whatever is signed twice, forged, lost or said too late.

use falconet_adversary::Kind;
use falconet_tests::actors::Named;
use falconet_tests::sim::scenario::CrashPoint;
use falconet_tests::sim::{Fault, Scenario, World, keys};
use falconet_types::message::PeerMessage;

use super::{DEATHS, order, run, scripted};

#[test]
fn s01_a_leader_that_equivocates_two_and_three_ways_forks_nobody_and_is_proved() {
    for seed in 1..=6 {
        let mut world = World::builder(scripted(seed, 4))
            .actor(0, Named::new(Kind::Equivocator))
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 20, "height {}", outcome.height);
        assert!(world.accusations().iter().any(|(_, whom)| *whom == 0));
        assert!(world.accusations().iter().all(|(_, whom)| *whom == 0));
    }
}

#[test]
fn s01_consecutive_leaders_that_equivocate_fork_nobody() {
    for seed in 1..=3 {
        let scenario = scripted(seed, 7);
        let order = order(&scenario);
        let mut world = World::builder(scenario)
            .actor(order[0], Named::new(Kind::Equivocator))
            .actor(order[1], Named::new(Kind::Equivocator))
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 10, "height {}", outcome.height);
        assert!(outcome.accusations > 0);
    }
}

#[test]
fn s02_a_node_that_dies_after_any_effect_signs_nothing_second() {
    // The leader of the first round: its proposals are among what it dies after.
    let scenario = scripted(1, 4).calm_at(400_000);
    let node = order(&scenario)[0];
    let mut world = World::new(scenario.clone(), false);
    world
        .run_until(300_000, |_| false)
        .expect("nothing is wrong yet");
    let effects = world.effects(node);
    assert!(effects > 50, "{effects} effects");
    for effect in 1..=effects {
        let crash = Fault::Crash(node, CrashPoint::Effect(effect));
        let mut world = World::new(scenario.clone().at(0, crash), false);
        let outcome = run(&mut world);
        assert_eq!(outcome.crashes, 1, "effect {effect}");
    }
}

#[test]
fn s02_each_death_of_each_node_is_survived() {
    for (k, death) in DEATHS.into_iter().enumerate() {
        for node in 0..4 {
            let at = 100_000 + 37_000 * k as u64;
            let scenario = scripted(k as u64, 4)
                .at(at, Fault::Crash(node, death))
                .at(at + 300_000, Fault::Restart(Some(node)))
                .at(at + 700_000, Fault::Crash((node + 1) % 4, death));
            let outcome = run(&mut World::new(scenario, false));
            assert_eq!(outcome.crashes, 2);
        }
    }
}

#[test]
fn s02_a_leader_that_dies_after_proposing_proposes_the_same_again() {
    // Every proposal that leaves is kept; the checkers compare what a node signs over restarts.
    let scenario = scripted(3, 4);
    let node = order(&scenario)[1];
    let scenario = scenario
        .at(1_000, Fault::Crash(node, CrashPoint::WhileSending))
        .at(200_000, Fault::Restart(Some(node)));
    let mut world = World::builder(scenario).record().build();
    run(&mut world);
    let mut proposals = std::collections::BTreeMap::new();
    for sent in world.sent().iter().filter(|sent| sent.from == node) {
        if let PeerMessage::Header(header) = &sent.message
            && header.author.at() == node
        {
            let first = proposals
                .entry((header.round, header.kind))
                .or_insert_with(|| header.id());
            assert_eq!(*first, header.id(), "round {}", header.round);
        }
    }
    assert!(!proposals.is_empty());
}

#[test]
fn s04_a_twin_in_two_partitions_that_heal_and_split_again() {
    for seed in 1..=4 {
        let mut scenario = scripted(seed, 4).with_twins(&[1]).calm_at(3_000_000);
        // Nodes 0 and 1 see one twin, 2 and 3 the other; then all; then the other way round.
        for (k, groups) in [vec![0, 0, 1, 1, 1], vec![1, 0, 0, 1, 1]]
            .into_iter()
            .cycle()
            .take(6)
            .enumerate()
        {
            let at = 100_000 + 400_000 * k as u64;
            scenario = scenario
                .at(at, Fault::Partition(groups))
                .at(at + 200_000, Fault::Heal);
        }
        run(&mut World::new(scenario, false));
    }
}

#[test]
fn s08_a_timeout_with_a_qc_that_does_not_exist_moves_nobody() {
    for seed in 1..=4 {
        let mut world = World::builder(scripted(seed, 4))
            .actor(2, Named::new(Kind::TimeoutLiar))
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 20, "height {}", outcome.height);
        // Votes and timeouts of three honest nodes suffice: its rounds need not fail.
        assert!(outcome.recovery_rounds <= 6);
    }
}

#[test]
fn s08_a_timeout_below_the_lock_is_proved_by_every_honest_node() {
    let mut world = World::builder(scripted(5, 4))
        .actor(2, Named::new(Kind::TimeoutLiar))
        .build();
    run(&mut world);
    for honest in [0, 1, 3] {
        assert!(
            world.accusations().contains(&(honest, 2)),
            "node {honest} found nothing"
        );
    }
}

#[test]
fn s08_unprovable_misbehaviour_accuses_nobody() {
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_provable()) {
        let mut world = World::builder(scripted(7, 4))
            .actor(3, Named::new(kind))
            .build();
        run(&mut world);
        let honest = world.accusations().iter().filter(|(_, whom)| *whom != 3);
        assert_eq!(honest.count(), 0, "{kind}: {:?}", world.accusations());
        if kind != Kind::Flooder {
            assert!(world.accusations().is_empty(), "{kind}");
        }
    }
}

#[test]
fn s08_what_is_provable_is_proved_by_everybody_within_a_second() {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_provable()) {
        for seed in 1..=3 {
            let mut world = World::builder(scripted(seed, 4))
                .actor(1, Named::new(kind))
                .build();
            // A fork of a lane needs something in it.
            for (nonce, at_us) in (900..).zip([0, 50_000, 100_000, 150_000]) {
                let reached = world.run_until(at_us, |_| false);
                reached.expect("nothing is wrong");
                let tx = keys::transfer(world.chain().id, 4, 5, nonce, 1);
                world.submit_now(1, tx);
            }
            let found = world.run_until(1_000_000, |world| {
                [0, 2, 3]
                    .into_iter()
                    .all(|i| world.accusations().contains(&(i, 1)))
            });
            assert_eq!(found, Ok(true), "{kind}, seed {seed}");
        }
    }
}

/// Who votes twice to commit, or gives up below what it voted to commit, is proved (E5, E6); random
/// faults, crashes and restarts besides. `FALCONET_SEEDS=N` runs N seeds of each kind.
#[test]
fn s09_commit_votes_under_random_faults_fork_nobody() {
    let seeds = std::env::var("FALCONET_SEEDS").map_or(10, |n| n.parse().expect("a number"));
    for kind in [None, Some(Kind::Equivocator), Some(Kind::TimeoutLiar)] {
        let mut accused = 0;
        for seed in 1..=seeds {
            let n = if seed % 3 == 0 { 7 } else { 4 };
            let scenario = Scenario::honest_from_seed(seed, n);
            let mut builder =
                World::builder(scenario.with_params(|params| params.commit_votes = true));
            if let Some(kind) = kind {
                builder = builder.actor(seed as usize % n, Named::new(kind));
            }
            match builder.build().run() {
                Ok(outcome) => accused += outcome.accusations,
                Err(violation) => panic!("{kind:?}, seed {seed}: {violation}"),
            }
        }
        assert_eq!(accused > 0, kind.is_some());
    }
}

/// `FALCONET_SEEDS=N` runs N seeds of each kind.
#[test]
fn s01_to_s18_every_actor_under_random_faults_forks_nobody_and_lets_blocks_go_on() {
    let seeds = std::env::var("FALCONET_SEEDS").map_or(6, |n| n.parse().expect("a number"));
    for kind in Kind::ALL {
        for seed in 1..=seeds {
            let n = if seed % 3 == 0 { 7 } else { 4 };
            let mut builder = World::builder(Scenario::honest_from_seed(seed, n));
            for k in 0..(n - 1) / 3 {
                let validator = (seed as usize + 2 * k) % n;
                builder = builder.actor(validator, Named::new(kind));
            }
            if let Err(violation) = builder.build().run() {
                panic!("{kind}: {violation}");
            }
        }
    }
}
