//! Rule Z4: a manifest is had in a fraction of a second whoever stalls, and nobody leads a node to a
//! snapshot that it will not get.

use std::sync::Arc;

use falconet_types::Height;
use falconet_types::message::PeerMessage;

use super::world::{Kind, State, World};
use crate::Input;
use crate::limits::{DOUBTED_US, MANIFEST_REQUESTS_MAX};

fn state(height: u64) -> Arc<State> {
    Arc::new(State::new(height, 3_000))
}

fn honest(state: &Arc<State>) -> Kind {
    Kind::Honest(vec![state.clone()])
}

fn manifests_asked(world: &World, peer: usize) -> usize {
    let of_one = |message: &&PeerMessage| match message {
        PeerMessage::GetSnapshot(request) => request.height != Height::ZERO,
        _ => false,
    };
    world.asked[peer].iter().filter(of_one).count()
}

/// Virtual milliseconds from the first question to a manifest that is believed.
fn ms_until_begun(world: &mut World) -> u64 {
    world.behind(10);
    while world.asked.iter().all(Vec::is_empty) {
        assert!(world.step());
    }
    let start_us = world.now.mono_us;
    while world.begun == 0 {
        assert!(world.step());
    }
    (world.now.mono_us - start_us) / 1_000
}

#[test]
fn who_stalls_the_manifest_costs_a_fraction_of_a_second() {
    let state = state(2_560);
    let never = u64::MAX / 2;
    for stalls in [
        Kind::Dawdles(state.clone(), never),
        Kind::Dawdles(state.clone(), 2_900_000),
        Kind::Conceals(state.clone()),
    ] {
        let good = honest(&state);
        let mut world = World::new(vec![stalls.clone(), good.clone(), good.clone()]);
        let ms = ms_until_begun(&mut world);
        assert!(manifests_asked(&world, 0) > 0, "it was asked first");
        assert!(ms < 150, "{ms} ms");
        world.run(60);
        assert_eq!(world.rows(), state.rows);
        assert_eq!(world.misbehaved, vec![], "silence is not provable");

        // As many as may be faulty among seven.
        let mut peers = vec![stalls.clone(), stalls];
        peers.extend(vec![good; 4]);
        let ms = ms_until_begun(&mut World::new(peers));
        assert!(ms < 400, "{ms} ms");
    }
}

#[test]
fn who_answers_at_once_is_the_only_one_asked() {
    let state = state(2_560);
    let mut world = World::new(vec![honest(&state), honest(&state), honest(&state)]);
    assert!(ms_until_begun(&mut world) < 50);
    let asked: usize = (0..3).map(|peer| manifests_asked(&world, peer)).sum();
    assert_eq!(asked, 1);
}

/// However long nobody answers: few are asked at one time, and each again and again.
#[test]
fn few_are_asked_at_one_time() {
    let state = state(2_560);
    let never = Kind::Dawdles(state.clone(), u64::MAX / 2);
    let mut world = World::new(vec![never; 6]);
    world.behind(10);
    let end_us = world.now.mono_us + 5_000_000;
    while world.now.mono_us < end_us {
        assert!(world.step());
    }
    let asked = |peer| manifests_asked(&world, peer);
    let all: usize = (0..6).map(asked).sum();
    assert!((0..6).all(|peer| asked(peer) > 0), "everybody has a turn");
    // Who does not answer in three seconds makes room for another.
    assert!(all <= 2 * MANIFEST_REQUESTS_MAX, "{all}");
    world.peers = vec![honest(&state); 6];
    world.run(60);
    assert!(world.complete);
}

/// Had it been believed, nobody but its owner could have served it, who does not.
#[test]
fn the_manifest_of_another_height_is_not_taken() {
    let (right, other) = (state(2_560), state(2_816));
    let misleads = Kind::Misleads(right.clone(), other);
    let mut world = World::new(vec![misleads, honest(&right), honest(&right)]);
    assert!(ms_until_begun(&mut world) < 150);
    world.run(60);
    assert_eq!(world.rows(), right.rows);
    assert_eq!(world.begun, 1);
}

/// All others have replaced it by a newer one; who still offers it serves none of it, or a bucket at
/// a time.
#[test]
fn a_snapshot_that_only_few_offer_is_given_up_for_one_that_many_do() {
    let (old, new) = (state(2_560), state(2_816));
    let after_us = DOUBTED_US - 1_000_000;
    for holds in [
        Kind::Withholds(old.clone()),
        Kind::Stalls(old.clone(), after_us),
    ] {
        let mut world = World::new(vec![holds, honest(&old), honest(&old), honest(&old)]);
        world.behind(10);
        while world.stored.len() < 5 {
            assert!(world.step());
        }
        for peer in 1..4 {
            world.peers[peer] = honest(&new);
        }
        let start_us = world.now.mono_us;
        world.run(60);
        assert!(world.complete);
        assert_eq!(world.rows(), new.rows);
        let us = world.now.mono_us - start_us;
        assert!(us < DOUBTED_US + 5_000_000, "{us} us");
    }
}

/// Only its length says into how many parts to cut it, and that is not proven.
#[test]
fn a_length_that_is_made_up_makes_few_requests_more() {
    let state = state(2_560);
    let requests = |first: Kind| {
        let mut world = World::new(vec![first, honest(&state), honest(&state)]);
        world.chunk_bytes = falconet_types::snapshot::CHUNK_BYTES_TARGET;
        world.behind(10);
        world.run(60);
        assert_eq!(world.rows(), state.rows);
        world.stored.len()
    };
    let honest = requests(honest(&state));
    let inflated = requests(Kind::Inflates(state.clone()));
    // Doubled with each answer: as many as there are doublings, times those that are in flight.
    assert!(inflated <= honest + 12 * 8, "{inflated}, {honest}");
}

/// Whoever serves a bucket at a time is no faster, and does not slow the others down.
#[test]
fn who_drips_does_not_slow_others_down() {
    let state = state(2_560);
    let us = |first: Kind| {
        let mut world = World::new(vec![first, honest(&state), honest(&state)]);
        world.behind(10);
        world.run(600);
        assert_eq!(world.rows(), state.rows);
        world.now.mono_us
    };
    let (dripped, whole) = (us(Kind::Drips(state.clone())), us(honest(&state)));
    assert!(dripped < whole + 1_000_000, "{dripped}, {whole}");
}

/// An offer that comes late answers the question before: it neither measures nor costs anything.
#[test]
fn an_offer_without_manifest_costs_its_sender_nothing() {
    let state = state(2_560);
    let conceals = Kind::Conceals(state.clone());
    let mut world = World::new(vec![conceals, honest(&state), honest(&state)]);
    world.behind(10);
    world.run(60);
    assert_eq!(world.rows(), state.rows);
    assert_eq!(world.machine.status().demoted, 0);
    world.input(Input::Tick);
    assert_eq!(world.misbehaved, vec![]);
}
