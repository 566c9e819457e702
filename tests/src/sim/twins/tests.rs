//! What is one state must be one: whichever of two histories that lead to it is continued, the same
//! states follow. Otherwise counts would depend on which of them is met first, and something that no
//! name mentions would decide what is explored.

use std::collections::BTreeMap;

use falconet_types::message::PeerMessage;
use falconet_types::{BlockId, Round};

use super::arena::Arena;
use super::*;

/// Rounds to which states are compared.
const DEPTH: usize = 3;
/// Of the pairs of histories that lead to one state, one in so many is compared.
const COMPARED_ONE_IN: usize = 8;

const IN_TURN: Cast = Cast {
    leaders: Leaders::Rotation,
    ..FOUR
};

fn arena(cast: Cast, (first, path): &Path) -> Arena {
    let mut arena = Arena::new(cast, *first);
    for phase in path {
        arena = arena.fork(phase.leader);
        arena.phase(*phase).expect("nothing breaks");
    }
    arena
}

/// The states after one more phase, all choices, each with the choice.
fn after(cast: Cast, path: &Path) -> Vec<(u128, Path)> {
    let mut before = arena(cast, path);
    let _ = before.put_in_order();
    let mut found = Vec::new();
    for leader in cast.leaders_after(path.1.len() + 1, path.0) {
        for group in cast.groups() {
            let phase = Phase { group, leader };
            let mut after = before.fork(leader);
            after.phase(phase).expect("nothing breaks");
            let mut longer = path.clone();
            longer.1.push(phase);
            found.push((state::of(&after), longer));
        }
    }
    found
}

fn futures(cast: Cast, path: &Path) -> Vec<u128> {
    let mut names: Vec<u128> = after(cast, path)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn equal_states_have_equal_futures() {
    for sound in [
        IN_TURN,
        Cast {
            commit_votes: true,
            ..IN_TURN
        },
    ] {
        let mut known: BTreeMap<u128, Path> = BTreeMap::new();
        let mut frontier: Vec<Path> = sound.firsts().map(|first| (first, Vec::new())).collect();
        let (mut met, mut compared) = (0, 0);
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for (name, path) in frontier.iter().flat_map(|path| after(sound, path)) {
                let Some(other) = known.get(&name) else {
                    known.insert(name, path.clone());
                    next.push(path);
                    continue;
                };
                met += 1;
                if met % COMPARED_ONE_IN == 0 {
                    compared += 1;
                    let (one, two) = (futures(sound, other), futures(sound, &path));
                    assert!(one == two, "{other:?} and {path:?} are one, and are not");
                }
            }
            frontier = next;
        }
        println!("{} states, {compared} compared", known.len());
        assert!(compared > 100);
    }
}

/// Ids are hashes, and the chain's name is in all of them: which of two is smaller must decide
/// nothing.
#[test]
fn ids_decide_nothing() {
    let counts = |chain| explore(Cast { chain, ..IN_TURN }, DEPTH, 2, |_, _| {});
    let first = counts(0);
    assert_eq!(first.broken, None);
    assert_eq!(counts(1), first);
    assert_eq!(counts(2), first);
}

/// Twins that lead propose two blocks, whatever their clocks and their parent's time are.
#[test]
fn both_selves_of_a_twin_propose() {
    let mut two = 0;
    let mut frontier: Vec<Path> = IN_TURN.firsts().map(|first| (first, Vec::new())).collect();
    for _ in 0..2 {
        frontier = frontier
            .iter()
            .flat_map(|path| after(IN_TURN, path))
            .map(|(_, path)| path)
            .collect();
        for path in &frontier {
            let arena = arena(IN_TURN, path);
            let mut proposals: BTreeMap<(usize, Round), BTreeSet<BlockId>> = BTreeMap::new();
            for (from, _, message) in &arena.waiting {
                if let PeerMessage::Header(header) = message {
                    let of = proposals.entry((*from, header.round)).or_default();
                    of.insert(header.id());
                }
            }
            let by = |node, round| proposals.get(&(node, round));
            for round in (1..8).map(Round) {
                if let (Some(first), Some(second)) = (by(0, round), by(FOUR.n, round)) {
                    assert!(first.is_disjoint(second), "{path:?}");
                    two += 1;
                }
            }
        }
    }
    assert!(two > 10, "they hardly ever led together");
}
