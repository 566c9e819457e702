//! Twins (Bano et al., OPODIS 2021): Byzantine validators are validators that run twice.
//!
//! Bare cores, no data layer, no disk. A scenario is a list of *phases*. Phase k decides who
//! reaches whom while round k is the newest that may be spoken of (messages of later rounds wait),
//! and who leads round k + 1:
//!
//! ```text
//! phase k:  send what waited for round k ─▶ deliver inside the groups until nothing moves
//!           ─▶ short timers (pulls) ─▶ whoever is still in round k or below gives it up
//!           ─▶ deliver ─▶ short timers          (what crosses a border of groups is lost)
//! ```
//!
//! One group always holds a quorum of distinct validators, or no round would ever end. After the
//! last phase everything heals, correct validators lead in turn and all must commit.
//!
//! [`explore`] goes through *all* scenarios up to a depth, for four validators of which one runs
//! twice. Two states that differ only in the names of correct validators, or in which twin is which,
//! are one, and a state that was seen is not continued again; what a core's timers, counters and
//! rate limits say is not part of a state. [`sample`] takes random scenarios of any size.

mod arena;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use falconet_hotstuff::Misbehaviour;

use super::checkers::Violation;
use super::rng::Rng;
use arena::Arena;

/// Who can reach whom, and who leads the next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Bit i set: node i is in the second group.
    pub group: u16,
    /// Leader of the round after.
    pub leader: u8,
}

/// What explores or samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    /// Validators.
    pub n: usize,
    /// How many of them, from 0, run twice; the second selves are nodes n, n + 1, ….
    pub twins: usize,
    /// Who leads while phases are chosen.
    pub leaders: Leaders,
    /// Commit votes (rule C4).
    pub commit_votes: bool,
    /// Stands in the chain's name, so that all ids depend on it, and nothing else should.
    pub chain: u64,
    /// A rule that correct validators break: to see that it is noticed.
    pub flaw: Option<Misbehaviour>,
}

/// Who leads while phases are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaders {
    /// In each round any of the first so many: those that run twice come first, and do most harm
    /// when they lead.
    First(usize),
    /// Everybody in turn, as in the protocol's own schedule, from each possible start.
    Rotation,
}

/// Four validators, one of which runs twice.
pub const FOUR: Cast = Cast {
    n: 4,
    twins: 1,
    leaders: Leaders::First(4),
    commit_votes: false,
    chain: 0,
    flaw: None,
};

/// The same with commit votes.
pub const FOUR_COMMIT_VOTES: Cast = Cast {
    commit_votes: true,
    ..FOUR
};

/// Seven validators, two of which run twice.
pub const SEVEN: Cast = Cast {
    n: 7,
    twins: 2,
    leaders: Leaders::First(7),
    commit_votes: false,
    chain: 0,
    flaw: None,
};

/// A scenario in which something broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Leader of round 1.
    pub first: u8,
    /// The phases.
    pub phases: Vec<Phase>,
    /// What broke.
    pub violation: Violation,
}

/// What an exploration came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Explored {
    /// Distinct states after each phase.
    pub states: Vec<usize>,
    /// Phases carried out.
    pub phases: u64,
    /// Scenarios that those states stand for: all sequences of choices.
    pub scenarios: f64,
    /// The highest committed height of any state.
    pub height: u64,
    /// The first scenario that broke a promise.
    pub broken: Option<Broken>,
}

/// What a sample came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Scenarios run to the end.
    pub runs: u64,
    /// Blocks committed before the healing.
    pub height: u64,
    /// Rounds from the healing until all had committed something new, at most.
    pub rounds_max: u64,
    /// The first scenario that broke a promise.
    pub broken: Option<Broken>,
}

impl Cast {
    fn nodes(&self) -> usize {
        self.n + self.twins
    }

    fn validator_of(&self, node: usize) -> usize {
        if node < self.n { node } else { node - self.n }
    }

    /// Leaders of the first round from which all others follow by symmetry: correct validators are
    /// alike before anything happened, but not their distances from the twin in a rotation.
    fn firsts(&self) -> std::ops::Range<u8> {
        match self.leaders {
            Leaders::First(leaders) => 0..leaders.min(self.twins + 1) as u8,
            Leaders::Rotation => 0..self.n as u8,
        }
    }

    /// Who may lead the round after phase `number`, where `first` led round 1.
    fn leaders_after(&self, number: usize, first: u8) -> std::ops::Range<u8> {
        match self.leaders {
            Leaders::First(leaders) => 0..leaders as u8,
            Leaders::Rotation => {
                let leader = ((usize::from(first) + number) % self.n) as u8;
                leader..leader + 1
            }
        }
    }

    /// All ways to split the nodes into two groups, one of which has a quorum of distinct
    /// validators. The first node is always in the first group: the groups have no names.
    fn groups(&self) -> Vec<u16> {
        let quorum = self.n - (self.n - 1) / 3;
        let all = (0..1u16 << self.nodes()).filter(|mask| mask & 1 == 0);
        all.filter(|mask| {
            [true, false].into_iter().any(|side| {
                let members = (0..self.nodes()).filter(|i| (mask >> i & 1 == 1) == side);
                let distinct: BTreeSet<_> = members.map(|i| self.validator_of(i)).collect();
                distinct.len() >= quorum
            })
        })
        .collect()
    }
}

/// A state that is to be continued.
type Path = (u8, Vec<Phase>);

/// Goes through all scenarios of so many phases, on `jobs` threads. `progress` hears of each depth:
/// its number and the distinct states after it.
pub fn explore(
    cast: Cast,
    depth: usize,
    jobs: usize,
    mut progress: impl FnMut(usize, usize),
) -> Explored {
    let groups = cast.groups();
    let mut frontier: Vec<Path> = cast.firsts().map(|first| (first, Vec::new())).collect();
    let (starts, leaders) = match cast.leaders {
        Leaders::First(leaders) => (leaders, leaders),
        Leaders::Rotation => (cast.n, 1),
    };
    let mut explored = Explored {
        scenarios: starts as f64 * ((groups.len() * leaders) as f64).powi(depth as i32),
        ..Explored::default()
    };
    // A state that was seen earlier has been continued further than it would be now.
    let mut seen: HashSet<u128> = HashSet::new();
    for level in 1..=depth {
        let steps = Level {
            cast,
            groups: &groups,
            // The leader after the last phase changes nothing any more.
            last: level == depth,
            seen: &seen,
        };
        // In the order of the frontier, so that the same states are continued whoever came first.
        let found = Mutex::new(BTreeMap::new());
        let next = AtomicUsize::new(0);
        let (steps, frontier_now) = (&steps, &frontier);
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(path) = frontier_now.get(at) else {
                            break;
                        };
                        let after = steps.after(path);
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        found.insert(at, after);
                    }
                });
            }
        });
        let mut paths: Vec<Path> = Vec::new();
        for (at, after) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            explored.phases += after.phases;
            explored.height = explored.height.max(after.height);
            if explored.broken.is_none() {
                explored.broken = after.broken;
            }
            let (first, path) = &frontier[at];
            for (state, phase) in after.new {
                if seen.insert(state) {
                    let mut longer = path.clone();
                    longer.push(phase);
                    paths.push((*first, longer));
                }
            }
        }
        explored.states.push(paths.len());
        progress(level, paths.len());
        if explored.broken.is_some() {
            return explored;
        }
        frontier = paths;
    }
    explored
}

/// One more phase after each state of a level.
struct Level<'a> {
    cast: Cast,
    groups: &'a [u16],
    last: bool,
    /// States of the levels before.
    seen: &'a HashSet<u128>,
}

/// What comes after one state.
#[derive(Default)]
struct After {
    /// States that no level before has, and the phase that led there.
    new: Vec<(u128, Phase)>,
    phases: u64,
    height: u64,
    broken: Option<Broken>,
}

impl Level<'_> {
    fn after(&self, (first, path): &Path) -> After {
        let mut before = Arena::new(self.cast, *first);
        for phase in path {
            before = before.fork(phase.leader);
            before.phase(*phase).expect("it held a level ago");
        }
        let _ = before.put_in_order();
        let mut after = After::default();
        let mut here = HashSet::new();
        let mut leaders = self.cast.leaders_after(path.len() + 1, *first);
        if self.last {
            leaders.end = leaders.start + 1;
        }
        for (group, leader) in self
            .groups
            .iter()
            .flat_map(|group| leaders.clone().map(move |leader| (*group, leader)))
        {
            let phase = Phase { group, leader };
            let mut arena = before.fork(leader);
            let result = arena.phase(phase);
            after.phases += 1;
            if let Err(violation) = result {
                let mut phases = path.clone();
                phases.push(phase);
                after.broken = Some(Broken {
                    first: *first,
                    phases,
                    violation,
                });
                break;
            }
            after.height = after.height.max(arena.height());
            let state = state::of(&arena);
            if !self.seen.contains(&state) && here.insert(state) {
                after.new.push((state, phase));
            }
        }
        after
    }
}

/// Runs random scenarios of so many phases; all heal afterwards and must commit.
#[must_use]
pub fn sample(cast: Cast, depth: usize, seed: u64, runs: u64) -> Sampled {
    let groups = cast.groups();
    // A sample chooses leaders at random, whatever the cast's schedule.
    let (cast, leaders) = match cast.leaders {
        Leaders::First(leaders) => (cast, leaders),
        Leaders::Rotation => {
            let leaders = Leaders::First(cast.n);
            (Cast { leaders, ..cast }, cast.n)
        }
    };
    let mut sampled = Sampled::default();
    for run in 0..runs {
        let mut rng = Rng::new(seed.wrapping_add(run));
        let leader = |rng: &mut Rng| {
            // Twins do most harm when they lead.
            if rng.chance(500) {
                rng.index(cast.twins) as u8
            } else {
                rng.index(leaders) as u8
            }
        };
        let first = leader(&mut rng);
        let mut phases = Vec::new();
        let mut arena = Arena::new(cast, first);
        let mut result = Ok(());
        for _ in 0..depth {
            let phase = Phase {
                group: groups[rng.index(groups.len())],
                leader: leader(&mut rng),
            };
            phases.push(phase);
            arena = arena.fork(phase.leader);
            result = arena.phase(phase);
            if result.is_err() {
                break;
            }
        }
        sampled.height += arena.height();
        match result.and_then(|()| arena.heal()) {
            Ok(rounds) => sampled.rounds_max = sampled.rounds_max.max(rounds),
            Err(violation) => {
                sampled.broken = Some(Broken {
                    first,
                    phases,
                    violation,
                });
                return sampled;
            }
        }
        sampled.runs += 1;
    }
    sampled
}
