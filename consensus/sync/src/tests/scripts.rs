//! Any script of peers against the machine: it never panics, holds no more than its limits say, and
//! ends once one honest peer is there.

use std::sync::Arc;

use bytes::Bytes;
use falconet_types::Height;
use falconet_types::signing::Verified;
use falconet_types::snapshot::{Chunk, GetChunk, OFFERS_MAX, SnapshotOffer};
use falconet_types::time::Now;
use proptest::collection::vec;
use proptest::prelude::*;

use super::world::{Kind, State, World, v};
use crate::limits::{HEDGES_MAX, MANIFEST_REQUESTS_MAX, REQUESTS_MAX};
use crate::{Input, Resume};

/// Peers besides this node; messages also come from an index beyond them.
const PEERS: usize = 4;

/// What a peer says or does, whatever it was asked.
#[derive(Debug, Clone)]
enum Said {
    Up,
    Down,
    /// An offer of these heights, with the manifest of one of the states or none.
    Offer(Vec<u64>, u64, Option<usize>),
    /// A part of one of the states, said to be of a height, with a byte changed perhaps.
    Chunk {
        of: usize,
        told: u64,
        range: (u16, u16),
        bytes: usize,
        changed: bool,
    },
    /// An answer to what was asked last, as it should be, and once more.
    Answer,
    /// Time passes, microseconds.
    Wait(u64),
    /// This node executed so many more blocks, and is behind or not.
    Progress(u64, bool),
}

fn said() -> impl Strategy<Value = Said> {
    let height = || prop_oneof![Just(2_304u64), Just(2_560), Just(u64::MAX), 1..5_000u64];
    let range = (any::<u16>(), any::<u16>()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let offer = (
        vec(height(), 0..=OFFERS_MAX),
        height(),
        proptest::option::of(0usize..3),
    );
    let chunk = (0usize..2, height(), range, 0usize..50_000, any::<bool>());
    prop_oneof![
        1 => Just(Said::Up),
        1 => Just(Said::Down),
        4 => offer.prop_map(|(heights, horizon, manifest)| Said::Offer(heights, horizon, manifest)),
        4 => chunk.prop_map(|(of, told, range, bytes, changed)| Said::Chunk {
            of, told, range, bytes, changed,
        }),
        4 => Just(Said::Answer),
        2 => (0u64..4_000_000).prop_map(Said::Wait),
        1 => (0u64..500, any::<bool>()).prop_map(|(more, behind)| Said::Progress(more, behind)),
    ]
}

fn offer_of(states: &[Arc<State>; 2], said: (Vec<u64>, u64, Option<usize>)) -> SnapshotOffer {
    let (mut heights, horizon, manifest) = said;
    // As decoding demands.
    heights.sort_unstable_by(|a, b| b.cmp(a));
    heights.dedup();
    let manifest = manifest.map(|of| match of {
        0 | 1 => states[of].manifest(),
        _ => {
            let mut forged = states[0].manifest();
            forged.tree_root = states[1].manifest().tree_root;
            forged
        }
    });
    SnapshotOffer {
        horizon: Height(horizon),
        heights: heights.into_iter().map(Height).collect(),
        manifest,
    }
}

fn chunk_of(states: &[Arc<State>; 2], of: usize, range: (u16, u16), bytes: usize) -> Chunk {
    let request = GetChunk {
        height: states[of].height,
        first: range.0,
        last: range.1,
    };
    states[of].chunk(&request, bytes)
}

fn play(world: &mut World, states: &[Arc<State>; 2], from: usize, said: Said) {
    match said {
        Said::Up => world.input(Input::PeerUp(v(from))),
        Said::Down => world.input(Input::PeerDown(v(from))),
        Said::Offer(heights, horizon, manifest) => {
            let offer = offer_of(states, (heights, horizon, manifest));
            let offer = Verified::trusted(offer);
            world.input(Input::Offer {
                from: v(from),
                offer,
            });
        }
        Said::Chunk {
            of,
            told,
            range,
            bytes,
            changed,
        } => {
            let mut chunk = chunk_of(states, of, range, bytes);
            chunk.height = Height(told);
            if changed {
                let mut rows = chunk.rows.to_vec();
                rows.push(7);
                chunk.rows = Bytes::from(rows);
            }
            world.input(Input::Chunk {
                from: v(from),
                chunk,
            });
        }
        Said::Answer if from < PEERS => {
            let Some(asked) = world.asked[from].last().cloned() else {
                return;
            };
            // The second one was not asked for.
            for _ in 0..2 {
                if let Some(answer) = world.honest_answer(from, &asked, &states[0]) {
                    world.input(answer);
                }
            }
        }
        Said::Answer => {}
        Said::Wait(us) => {
            world.now = Now {
                mono_us: world.now.mono_us + us,
                ..world.now
            };
            world.input(Input::Tick);
        }
        Said::Progress(more, behind) => {
            let executed = Height(10 + more);
            world.input(Input::Progress { executed, behind });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_script_leaves_a_machine_that_one_honest_peer_can_serve(
        script in vec((0..=PEERS + 1, said()), 0..120),
        resumed in any::<bool>(),
    ) {
        let states = [2_560, 2_304].map(|height| Arc::new(State::new(height, 500)));
        let manifest = || Verified::trusted(states[0].manifest());
        let resume = resumed.then(|| Resume { manifest: manifest(), held: vec![] });
        // They say what the script has them say, and nothing else.
        let mut world = World::resumed(vec![Kind::Mute; PEERS], resume);
        if resumed {
            world.manifest = Some(states[0].manifest());
        }
        world.behind(10);
        for (from, said) in script {
            // The node itself may be named, and one that there is not.
            let from = if from > PEERS { 300 } else { from };
            play(&mut world, &states, from, said);
            let (parts, manifests) = world.machine.in_flight();
            prop_assert!(parts <= REQUESTS_MAX + HEDGES_MAX);
            prop_assert!(manifests <= MANIFEST_REQUESTS_MAX);
            prop_assert!(world.machine.fragments() <= 3 * REQUESTS_MAX + 1 + HEDGES_MAX);
            if world.complete {
                break;
            }
        }
        if !world.complete {
            // An honest peer is there from now on, and one that offers what it has. Five minutes are
            // what a peer that sent wrong bytes is not asked for.
            world.peers[0] = Kind::Honest(vec![states[0].clone()]);
            world.peers[1] = Kind::Withholds(states[0].clone());
            world.input(Input::PeerUp(v(0)));
            world.input(Input::PeerUp(v(1)));
            world.behind(10);
            world.run(700);
        }
        prop_assert!(world.complete);
        prop_assert_eq!(world.rows(), states[world.manifest.as_ref().map_or(0, |manifest| {
            usize::from(manifest.height() != states[0].height)
        })].rows.clone());
    }
}
