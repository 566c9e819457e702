//! The step function of `falconet-hotstuff` itself, explored: three real cores of four, and a
//! Byzantine validator whose messages are all there from the start.
//!
//! A state is what each core has taken so far, which messages are under way, and what the cores
//! committed. A step delivers one message, lets one core's next timer fire, or restarts one core
//! from what it logged. Messages may overtake one another in every way; those that carry no
//! signature (names of certificates and requests) are not delivered, because a certificate that
//! could be pulled forms as well from votes that are still under way.
//!
//! A core is rebuilt from its inputs when a step needs it, so it needs no clone for the check's
//! sake.

mod byzantine;
mod cluster;
mod node;

use falconet_hotstuff::HotStuff;
use stateright::{HasDiscoveries, UniformChooser};

pub use cluster::{Cluster, State, Step};

use crate::search::{Outcome, Search};

/// Bounds of a search.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in reports.
    pub name: &'static str,
    /// No core goes beyond this round.
    pub rounds: u64,
    /// Timers that may fire in each core.
    pub timers: u8,
    /// Restarts of all cores together.
    pub restarts: u8,
    /// Commit votes (rule C4).
    pub commit_votes: bool,
    /// Done to each core when it is made: nothing, or a rule switched off to see that the check
    /// notices.
    pub prepare: fn(&mut HotStuff),
}

/// What is searched.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "no timer, 3 rounds",
        rounds: 3,
        timers: 0,
        restarts: 0,
        commit_votes: false,
        prepare: |_| (),
    },
    Setting {
        name: "one timer each, 2 rounds",
        rounds: 2,
        timers: 1,
        restarts: 0,
        commit_votes: false,
        prepare: |_| (),
    },
    Setting {
        name: "one timer each, a restart, 3 rounds",
        rounds: 3,
        timers: 1,
        restarts: 1,
        commit_votes: false,
        prepare: |_| (),
    },
    Setting {
        name: "commit votes, one timer each, 2 rounds",
        rounds: 2,
        timers: 1,
        restarts: 0,
        commit_votes: true,
        prepare: |_| (),
    },
    Setting {
        name: "commit votes, one timer each, a restart, 3 rounds",
        rounds: 3,
        timers: 1,
        restarts: 1,
        commit_votes: true,
        prepare: |_| (),
    },
];

/// Committed chains agree.
pub const AGREEMENT: &str = "committed chains agree";
/// No core signs two votes for a round, or what contradicts its lock.
pub const BLAMELESS: &str = "no core signs what evidence could punish";
/// No core raises an alarm.
pub const NO_ALARM: &str = "no core raises an alarm";
/// Some block commits, so that the check says something.
pub const COMMITS: &str = "a core commits a block";

/// Searches. Breadth first says that nothing fails within so many steps; walks go to the end.
#[must_use]
pub fn check(setting: &Setting, search: Search) -> Outcome {
    let until = HasDiscoveries::AnyFailures;
    search.run(Cluster::new(*setting), UniformChooser, until, COMMITS)
}
