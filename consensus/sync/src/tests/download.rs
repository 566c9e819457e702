//! Rules Z3 to Z7.

use std::sync::Arc;

use falconet_types::Height;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Verified;
use proptest::prelude::*;

use super::world::{Kind, State, World, v};
use crate::limits::{HEDGES_MAX, PATIENCE_US, REQUESTS_MAX};
use crate::{Input, Resume};

fn state(height: u64) -> Arc<State> {
    Arc::new(State::new(height, 3_000))
}

fn honest(state: &Arc<State>) -> Kind {
    Kind::Honest(vec![state.clone()])
}

fn chunks_asked(world: &World, peer: usize) -> usize {
    let asked = world.asked[peer].iter();
    asked
        .filter(|m| matches!(m, PeerMessage::GetChunk(_)))
        .count()
}

#[test]
fn a_state_is_fetched_from_several_peers_at_once() {
    let state = state(2_560);
    let mut world = World::new(vec![honest(&state), honest(&state), honest(&state)]);
    world.behind(10);
    world.run(60);
    assert!(world.complete);
    assert_eq!(world.rows(), state.rows);
    assert_eq!(world.manifest.as_ref().unwrap().height(), Height(2_560));
    for peer in 0..3 {
        assert!(chunks_asked(&world, peer) > 3, "peer {peer} had work");
    }
    assert_eq!(world.misbehaved, vec![]);
    assert_eq!(world.begun, 1);
}

#[test]
fn a_node_that_keeps_up_asks_nobody() {
    let state = state(2_560);
    let mut world = World::new(vec![honest(&state), honest(&state), honest(&state)]);
    for executed in 0..100 {
        world.behind(executed);
        world.now.mono_us += 500_000;
    }
    world.input(Input::Progress {
        executed: Height(100),
        behind: false,
    });
    world.now.mono_us += 60_000_000;
    world.input(Input::Tick);
    assert!(world.asked.iter().all(Vec::is_empty));
}

/// While peers of weight F1 do not say otherwise, blocks and batches are the way.
#[test]
fn one_liar_cannot_make_a_node_take_a_snapshot() {
    let state = state(2_560);
    let mut world = World::new(vec![honest(&state), Kind::Claims, Kind::Claims]);
    world.behind(10);
    world.run(PATIENCE_US / 1_000_000 - 5);
    assert!(!world.complete && world.begun == 0);
    world.run(30);
    assert!(world.complete, "those who claim to have history serve none");
}

/// A node that weighs so much that the others together do not weigh F1 asks all of them: one that
/// claims to have history is enough to wait, none of them is left to say otherwise.
#[test]
fn all_others_are_enough_where_they_weigh_little() {
    let state = state(2_560);
    let mut world = World::weighing(5, vec![honest(&state), honest(&state)]);
    world.behind(10);
    world.run(PATIENCE_US / 1_000_000 - 5);
    assert!(world.complete, "both say that history is gone");

    let mut world = World::weighing(5, vec![honest(&state), Kind::Claims]);
    world.behind(10);
    world.run(PATIENCE_US / 1_000_000 - 5);
    assert!(!world.complete && world.begun == 0);
}

#[test]
fn wrong_bytes_demote_and_cost_nothing_else() {
    let (right, other) = (state(2_560), state(2_304));
    for bad in [
        Kind::Garbles(right.clone()),
        Kind::Swaps(right.clone(), other.clone()),
        Kind::Forges(right.clone(), other.clone()),
    ] {
        let mut world = World::new(vec![bad.clone(), bad, honest(&right)]);
        world.behind(10);
        world.run(120);
        assert!(world.complete);
        assert_eq!(world.rows(), right.rows);
        assert!(world.misbehaved.iter().all(|peer| *peer != v(2)));
        assert!(!world.misbehaved.is_empty());
        let status = world.machine.status();
        assert_eq!(status.demoted as usize, world.misbehaved.len());
    }
}

#[test]
fn withholding_only_costs_time() {
    let right = state(2_560);
    let withholds = Kind::Withholds(right.clone());
    let mut world = World::new(vec![withholds.clone(), withholds, honest(&right)]);
    world.behind(10);
    world.run(120);
    assert!(world.complete);
    assert_eq!(world.rows(), right.rows);
    assert_eq!(world.misbehaved, vec![], "silence is not provable");
}

/// Virtual seconds until a state is fetched of these peers.
fn seconds_of(peers: Vec<Kind>, state: &Arc<State>) -> f64 {
    let mut world = World::new(peers);
    // A request is answered by one chunk of many buckets.
    world.chunk_bytes = 20_000;
    world.behind(10);
    let start_us = world.now.mono_us;
    world.run(300);
    assert!(world.complete);
    assert_eq!(world.rows(), state.rows);
    assert_eq!(world.misbehaved, vec![], "silence is not provable");
    let most = world.in_flight_max;
    assert!(most <= REQUESTS_MAX + HEDGES_MAX, "{most} requests at once");
    (world.now.mono_us - start_us) as f64 / 1e6
}

/// Rule Z5: a server that stalls costs less than a second, not three for each part.
#[test]
fn what_takes_long_is_asked_of_somebody_else_too() {
    let state = state(2_560);
    let nobody = seconds_of(vec![honest(&state), honest(&state), honest(&state)], &state);
    let never = Kind::Withholds(state.clone());
    let stalls = |us| Kind::Stalls(state.clone(), us);
    for slow in [never, stalls(1_000_000), stalls(2_900_000)] {
        let seconds = seconds_of(vec![honest(&state), slow.clone(), honest(&state)], &state);
        assert!(
            seconds < nobody + 1.0,
            "{seconds} s, {nobody} s with nobody"
        );
        let seconds = seconds_of(vec![slow.clone(), slow, honest(&state)], &state);
        assert!(
            seconds < nobody + 2.0,
            "{seconds} s, {nobody} s with nobody"
        );
    }
}

/// A network that is slow for everybody: nothing is fetched twice.
#[test]
fn what_takes_long_everywhere_is_asked_once() {
    let state = state(2_560);
    let slow = Kind::Stalls(state.clone(), 1_500_000);
    let mut world = World::new(vec![slow.clone(), slow.clone(), slow]);
    world.behind(10);
    world.run(300);
    assert!(world.complete);
    let mut parts: Vec<_> = world.asked.iter().flatten().cloned().collect();
    parts.retain(|message| matches!(message, PeerMessage::GetChunk(_)));
    let all = parts.len();
    parts.sort_by_key(|part| format!("{part:?}"));
    parts.dedup();
    assert_eq!(parts.len(), all);
}

/// Peers have taken their snapshots at different heights.
#[test]
fn the_height_that_most_peers_have_is_taken() {
    let (old, new) = (state(2_560), state(2_816));
    let both = Kind::Honest(vec![new.clone(), old.clone()]);
    let mut world = World::new(vec![honest(&old), both, honest(&old)]);
    world.behind(10);
    world.run(60);
    assert!(world.complete);
    assert_eq!(world.rows(), old.rows);
}

/// Scenario 19: peers replace the snapshot by a newer one while it is being fetched.
#[test]
fn a_snapshot_that_nobody_has_any_more_is_given_up_for_a_newer_one() {
    let (old, new) = (state(2_560), state(2_816));
    let mut world = World::new(vec![honest(&old), honest(&old), honest(&old)]);
    world.behind(10);
    while world.stored.len() < 5 {
        assert!(world.step());
    }
    world.peers = vec![honest(&new), honest(&new), honest(&new)];
    world.run(120);
    assert!(world.complete);
    assert_eq!(world.rows(), new.rows);
    assert_eq!((world.begun, world.abandoned), (2, 1));
    assert_eq!(world.misbehaved, vec![], "having nothing is no fault");
}

#[test]
fn a_node_that_caught_up_by_blocks_lets_go() {
    let old = state(2_560);
    let mut world = World::new(vec![honest(&old), honest(&old), honest(&old)]);
    world.behind(10);
    while world.stored.len() < 5 {
        assert!(world.step());
    }
    world.behind(2_560);
    assert_eq!((world.begun, world.abandoned), (1, 1));
    assert_eq!(world.machine.status().height, Height::ZERO);
}

#[test]
fn a_restart_goes_on_where_it_stopped() {
    let state = state(2_560);
    let peers = vec![honest(&state), honest(&state), honest(&state)];
    let mut world = World::new(peers.clone());
    world.behind(10);
    while world.stored.len() < 20 {
        assert!(world.step());
    }
    let held: Vec<_> = world.stored.iter().map(|c| (c.first, c.last)).collect();
    let manifest = Verified::trusted(world.manifest.clone().unwrap());
    let mut again = World::resumed(peers, Some(Resume { manifest, held }));
    again.run(60);
    assert!(again.complete);
    assert_eq!(again.begun, 0, "the same snapshot");
    let mut rows = again.rows();
    for (id, stored) in world.rows() {
        assert!(rows.insert(id, stored).is_none(), "fetched twice");
    }
    assert_eq!(rows, state.rows);
}

/// The process was killed after the last chunk and before its installation.
#[test]
fn a_restart_with_everything_is_complete_at_once() {
    let state = state(2_560);
    let manifest = Verified::trusted(state.manifest());
    let held = vec![(0, 30_000), (30_001, u16::MAX)];
    let world = World::resumed(vec![Kind::Mute; 3], Some(Resume { manifest, held }));
    assert!(world.complete);
}

#[test]
fn an_application_without_accounts_needs_no_chunks() {
    use falconet_types::{Digest, receipt};
    let state = State::new(2_560, 0);
    let mut manifest = state.manifest();
    manifest.tree_root = Digest::ZERO;
    manifest.burned = 0;
    let commitment = receipt::commitment(
        Height(2_560),
        Digest::ZERO,
        manifest.validators,
        manifest.results,
    );
    assert!(manifest.check(commitment).is_err(), "headers name another");
    let manifest = Verified::trusted(manifest);
    let resume = Some(Resume {
        manifest,
        held: vec![],
    });
    assert!(World::resumed(vec![Kind::Mute; 3], resume).complete);
}

#[test]
fn what_was_not_asked_for_is_ignored() {
    let state = state(2_560);
    let mut world = World::new(vec![honest(&state), honest(&state), Kind::Mute]);
    let request = falconet_types::snapshot::GetChunk {
        height: state.height,
        first: 0,
        last: 100,
    };
    let chunk = state.chunk(&request, 1_000);
    let from = v(2);
    world.input(Input::Chunk {
        from,
        chunk: chunk.clone(),
    });
    world.behind(10);
    while world.stored.is_empty() {
        assert!(world.step());
    }
    let stored = world.stored.len();
    for from in [2, 3, 300] {
        let from = v(from);
        let mut bad = chunk.clone();
        bad.rows = vec![1, 2, 3].into();
        world.input(Input::Chunk { from, chunk: bad });
        world.input(Input::PeerUp(v(300)));
        world.input(Input::PeerDown(v(301)));
    }
    assert_eq!(world.stored.len(), stored);
    assert_eq!(world.misbehaved, vec![]);
    world.run(60);
    assert_eq!(world.rows(), state.rows);
}

#[test]
fn a_peer_that_goes_away_loses_its_requests_to_others() {
    let state = state(2_560);
    let mut world = World::new(vec![
        honest(&state),
        Kind::Withholds(state.clone()),
        Kind::Mute,
    ]);
    world.behind(10);
    while chunks_asked(&world, 1) == 0 {
        assert!(world.step());
    }
    world.input(Input::PeerDown(v(1)));
    world.run(60);
    assert!(world.complete);
    assert_eq!(world.rows(), state.rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever six peers are, as long as one that is honest has a state that others offer too.
    #[test]
    fn one_honest_peer_is_enough(kinds in proptest::collection::vec(0u8..7, 5), at in 0usize..6,
            bytes in 500usize..20_000) {
        let (right, other) = (state(2_560), state(2_304));
        let kind = |k: &u8| match k {
            0 => honest(&right),
            1 => Kind::Garbles(right.clone()),
            2 => Kind::Swaps(right.clone(), other.clone()),
            3 => Kind::Forges(right.clone(), other.clone()),
            4 => Kind::Withholds(right.clone()),
            5 => Kind::Stalls(right.clone(), 700_000),
            _ => Kind::Mute,
        };
        let mut peers: Vec<Kind> = kinds.iter().map(kind).collect();
        peers.insert(at, honest(&right));
        let mut world = World::new(peers);
        world.chunk_bytes = bytes;
        world.behind(10);
        world.run(600);
        prop_assert!(world.complete);
        prop_assert_eq!(world.rows(), right.rows.clone());
        let status = world.machine.status();
        prop_assert_eq!(status.buckets_missing, 0);
    }
}
