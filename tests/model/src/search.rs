//! How a model is searched, and what a search yields.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::num::NonZeroUsize;

use stateright::{Checker, Chooser, Expectation, HasDiscoveries, Model};

/// How a model is searched.
#[derive(Debug, Clone, Copy)]
pub enum Search {
    /// Every state, breadth first, until so many were generated.
    Exhaustive(usize),
    /// Random walks from this seed until so many states were generated.
    Walks {
        /// The seed.
        seed: u64,
        /// States.
        states: usize,
    },
}

/// What a search yielded.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Properties that failed, with the steps that lead there.
    pub failures: BTreeMap<&'static str, Vec<String>>,
    /// Whether anything committed.
    pub commits: bool,
    /// States generated.
    pub generated: usize,
    /// Different states seen; equals `generated` for walks.
    pub unique: usize,
    /// Steps of the longest path.
    pub depth: usize,
    /// Every reachable state was seen.
    pub complete: bool,
}

impl Search {
    /// Searches until `until`; walks choose their steps by `chooser`. `commits` is the property
    /// that something happens at all.
    pub(crate) fn run<M, C>(
        self,
        model: M,
        chooser: C,
        until: HasDiscoveries,
        commits: &str,
    ) -> Outcome
    where
        M: Model + Send + Sync + 'static,
        M::Action: Clone + Debug + PartialEq + Send + Sync,
        M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
        C: Chooser<M>,
    {
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let checker = model.checker().threads(threads).finish_when(until);
        match self {
            Self::Exhaustive(states) => {
                let done = checker.target_state_count(states).spawn_bfs().join();
                let complete = done.state_count() < states;
                Outcome::of(&done, commits, complete)
            }
            Self::Walks { seed, states } => {
                let checker = checker.target_state_count(states);
                let done = checker.spawn_simulation(seed, chooser).join();
                Outcome::of(&done, commits, false)
            }
        }
    }
}

impl Outcome {
    /// What a checker found; `commits` is the property that something happens at all.
    fn of<M>(checker: &impl Checker<M>, commits: &str, complete: bool) -> Self
    where
        M: Model,
        M::Action: Clone + Debug + PartialEq,
        M::State: Clone + Debug + Hash + PartialEq,
    {
        let discoveries = checker.discoveries();
        let properties = checker.model().properties();
        let must_hold = |name: &str| {
            properties
                .iter()
                .any(|p| p.name == name && matches!(p.expectation, Expectation::Always))
        };
        let failures = discoveries
            .iter()
            .filter(|(name, _)| must_hold(name))
            .map(|(name, path)| {
                let steps = path.clone().into_actions();
                (
                    *name,
                    steps.iter().map(|step| format!("{step:?}")).collect(),
                )
            })
            .collect();
        Self {
            failures,
            commits: discoveries.contains_key(commits),
            generated: checker.state_count(),
            unique: checker.unique_state_count(),
            depth: checker.max_depth(),
            complete,
        }
    }
}
