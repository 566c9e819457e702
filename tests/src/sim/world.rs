//! Virtual time and everything in it.
//!
//! A test that only wants a seed calls [`World::new`] and [`World::run`]. A scripted one builds a
//! world, lets it run until something holds, looks, changes things, and lets it finish:
//!
//! ```
//! use falconet_tests::sim::{Fault, Pass, Scenario, World};
//! use falconet_types::message::kind;
//!
//! let scenario = Scenario::scripted(1, 4).at(500_000, Fault::Partition(vec![0, 0, 0, 1]));
//! let mut world = World::builder(scenario)
//!     .filter(|passing| match (passing.from, passing.message.kind()) {
//!         (2, kind::VOTE) => Pass::Drop,
//!         _ => Pass::On,
//!     })
//!     .build();
//! assert!(world.run_until(2_000_000, |world| world.committed(0) >= 5)?);
//! let outcome = world.run()?; // heals at `calm_us` and must then recover
//! assert!(outcome.height >= 5);
//! # Ok::<(), String>(())
//! ```

mod building;
mod catchup;
mod delivery;
mod lifecycle;
mod report;
mod staking;
mod watching;

use std::collections::BTreeMap;
use std::sync::Arc;

use falconet_crypto::hash::Hasher;
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::{Digest, Epoch, Round};

pub use building::Builder;
pub use watching::Sent;

use super::actor::{Actor, Sending};
use super::checkers::{
    Agreement, Availability, Check, Eras, Justification, Liveness, Locks, Moment, Promises,
    SelfConsistency, Sight, Violation, conservation, rounds_max,
};
use super::disk::state::Snapshot;
use super::keys::GENESIS_MS;
use super::network::Network;
use super::node::{Chain, Checkpoint, Node, Setup};
use super::rng::Rng;
use super::scenario::{CrashPoint, Fault, Scenario};
use super::workload::{Submission, Workload};

/// Events in one run; a run that needs more goes round in circles.
const EVENTS_MAX: u64 = 3_000_000;
/// Blocks that every correct node must commit after the last fault.
const BLOCKS_AFTER_CALM: u64 = 5;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of the run's log: equal for equal seeds.
    pub log: Digest,
    /// Events handled.
    pub events: u64,
    /// Highest committed height.
    pub height: u64,
    /// Transactions acknowledged, all of them executed everywhere.
    pub acknowledged: usize,
    /// Crashes that happened.
    pub crashes: u64,
    /// Changes of epoch.
    pub epochs: u64,
    /// Snapshots that were installed.
    pub snapshots: u64,
    /// Pieces of evidence that correct nodes found; only against faulty validators.
    pub accusations: usize,
    /// Messages of faulty validators that a verify stage refused.
    pub refused: u64,
    /// From the last fault until all was in order, virtual microseconds.
    pub recovery_us: u64,
    /// Rounds from the last fault until every correct node had committed a block above the
    /// highest that anybody had committed before.
    pub recovery_rounds: u64,
}

/// What a filter sees of a message that leaves a node.
#[derive(Debug)]
pub struct Passing<'a> {
    /// Virtual time, microseconds.
    pub now_us: u64,
    /// The sending node.
    pub from: usize,
    /// The receiving node.
    pub to: usize,
    /// The message.
    pub message: &'a PeerMessage,
}

/// What a filter decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// As if there were no filter.
    On,
    /// Lost.
    Drop,
    /// So many microseconds later than otherwise.
    Later(u64),
}

type Filter = Box<dyn FnMut(&Passing<'_>) -> Pass>;

#[derive(Debug)]
enum Event {
    Deliver {
        from: usize,
        to: usize,
        generation: u64,
        message: Box<PeerMessage>,
    },
    Synced {
        node: usize,
        life: u64,
    },
    Executed {
        node: usize,
        life: u64,
    },
    StateSaved {
        node: usize,
        life: u64,
        checkpoint: Box<Checkpoint>,
    },
    SnapshotSaved {
        node: usize,
        life: u64,
        snapshot: Arc<Snapshot>,
    },
    Link {
        node: usize,
        life: u64,
        peer: usize,
        up: bool,
    },
    ActorSends {
        node: usize,
        sending: Box<Sending>,
    },
    Submit(Box<Submission>),
    Fault(Fault),
    Calm,
}

/// Where the run's log goes, besides into its hash.
#[derive(Debug)]
enum Telling {
    Nothing,
    Print,
    Keep(String),
}

/// Recovery after the last fault, being measured.
#[derive(Debug, Clone, Copy)]
struct Calm {
    /// Height that every correct node must reach.
    target: u64,
    /// Highest committed height, and highest round, when calm began.
    height: u64,
    round: Round,
    /// The highest round that was seen since.
    seen: Round,
    /// The epoch of that round, and rounds of it and of later ones that are counted already.
    epoch: Epoch,
    before: u64,
    /// Changes of epoch when calm began.
    changes: u64,
    /// Rounds until everybody had committed something new.
    rounds: Option<u64>,
}

/// A run under way.
pub struct World {
    scenario: Scenario,
    rng: Rng,
    chain: Chain,
    nodes: Vec<Node>,
    actors: Vec<Option<Box<dyn Actor>>>,
    filter: Option<Filter>,
    network: Network,
    workload: Workload,
    now_us: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    started: bool,
    events: u64,
    calm: Option<Calm>,
    /// A node handles nothing before.
    stalled_until_us: Vec<u64>,
    cpu_us: Vec<u64>,
    sync_us: Vec<(u64, u64)>,
    crash_points: Vec<Option<CrashPoint>>,
    /// Effects carried out by each node since the beginning.
    effects: Vec<u64>,
    crashes: u64,
    /// Snapshots that were installed.
    installed: u64,
    /// Who accused which validator.
    accusations: Vec<(usize, usize)>,
    /// Refused messages, by the validator that sent them.
    refused: Vec<u64>,
    sent: Option<Vec<Sent>>,
    /// Nonce of the last transaction about stake.
    stake_nonce: u64,
    /// All that faulty validators have at stake, or ever had.
    faulty_stake: u64,
    log: Hasher,
    telling: Telling,
    setup: Setup,
    eras: Eras,
    agreement: Agreement,
    consistency: SelfConsistency,
    justification: Justification,
    locks: Locks,
    availability: Availability,
    promises: Promises,
    sight: Sight,
    liveness: Liveness,
}

impl World {
    /// The world of a scenario at time 0. With `tell`, every event is printed.
    #[must_use]
    pub fn new(scenario: Scenario, tell: bool) -> Self {
        let builder = Self::builder(scenario);
        if tell { builder.tell() } else { builder }.build()
    }

    /// A world with something added.
    #[must_use]
    pub fn builder(scenario: Scenario) -> Builder {
        Builder::new(scenario)
    }

    /// Runs to the end, or to the first broken promise.
    pub fn run(mut self) -> Result<Outcome, Violation> {
        self.run_on().map_err(|violation| self.placed(&violation))
    }

    /// As [`World::run`]; the world can be looked at afterwards.
    pub fn run_on(&mut self) -> Result<Outcome, Violation> {
        while !self.step()? {}
        self.finish()
    }

    /// Runs until something holds, at the latest until `until_us`: whether it held.
    pub fn run_until(
        &mut self,
        until_us: u64,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Result<bool, Violation> {
        self.begin()?;
        loop {
            if holds(self) {
                return Ok(true);
            }
            match self.next() {
                Some((at, _)) if at <= until_us => {
                    if self.step().map_err(|violation| self.placed(&violation))? {
                        return Ok(holds(self));
                    }
                }
                _ => {
                    self.now_us = self.now_us.max(until_us);
                    return Ok(false);
                }
            }
        }
    }

    fn begin(&mut self) -> Check {
        if !std::mem::replace(&mut self.started, true) {
            for i in 0..self.nodes.len() {
                if !self.scenario.joins_later(i) {
                    self.start(i)?;
                }
            }
        }
        Ok(())
    }

    /// One event. True when the run is over and all is in order.
    fn step(&mut self) -> Result<bool, Violation> {
        self.begin()?;
        let Some((at, due)) = self.next() else {
            return Err("nothing will ever happen again".into());
        };
        if at > self.scenario.end_us {
            return Err(self.stuck());
        }
        self.now_us = self.now_us.max(at);
        match due {
            None => {
                let event = self.queue.pop_first().expect("it was there").1;
                self.handle(event)?;
            }
            Some(node) => self.tick(node)?,
        }
        self.events += 1;
        if self.events > EVENTS_MAX {
            return Err(format!("{EVENTS_MAX} events and no end"));
        }
        self.measure_recovery()
    }

    fn measure_recovery(&mut self) -> Result<bool, Violation> {
        let Some(mut calm) = self.calm else {
            return Ok(false);
        };
        let now = self.moment();
        if self.liveness.saw(now).is_err() {
            // A node may be ahead of its disk, in commits as in rounds.
            let live = self.correct().filter_map(|i| self.nodes[i].live.as_ref());
            let commits = live.map(|live| live.hotstuff.status().committed_height.0);
            let somebody = commits.max().unwrap_or(0).max(now.somebody);
            self.liveness.saw(Moment { somebody, ..now })?;
        }
        if calm.rounds.is_none() {
            let (epoch, round) = self.highest_place();
            if epoch > calm.epoch {
                // Rounds begin again.
                calm.before += calm.seen.0.saturating_sub(calm.round.0);
                (calm.epoch, calm.round) = (epoch, Round::ZERO);
            }
            calm.seen = round;
            self.calm = Some(calm);
            let rounds = calm.before + round.0.saturating_sub(calm.round.0);
            let bound = rounds_max(&self.chain.set);
            // Who slept through epochs takes them one at a time, however fast the others are.
            // The same goes for who slept longer than history is kept.
            let bounded = !self.scenario.has_epochs() && !self.scenario.prunes();
            if rounds > bound && bounded {
                return Err(format!(
                    "{bound} rounds after the last fault not everybody has committed\n{}",
                    self.stuck()
                ));
            }
            let everybody = self.correct().all(|i| self.committed(i) > calm.height);
            if everybody {
                calm.rounds = Some(rounds);
                self.calm = Some(calm);
            }
        }
        // Where there are epochs, everybody goes through one more.
        let changed = !self.scenario.has_epochs()
            || self.correct().all(|i| {
                let epoch = self.nodes[i].epoch();
                epoch.is_some_and(|epoch| epoch.0 > calm.changes)
            });
        Ok(calm.rounds.is_some() && changed && self.in_order(calm.target))
    }

    fn finish(&mut self) -> Result<Outcome, Violation> {
        for (i, node) in self.nodes.iter().enumerate() {
            if let Some(view) = node.view().filter(|_| self.scenario.correct(i)) {
                conservation(i, &view, &self.chain.genesis)?;
                self.promises.conflicts(i, &self.workload.conflicts)?;
            }
        }
        let log = std::mem::replace(&mut self.log, Hasher::new("simulation/log"));
        Ok(Outcome {
            log: log.finish(),
            events: self.events,
            height: self.agreement.highest(),
            acknowledged: self.promises.count(),
            crashes: self.crashes,
            epochs: self.eras.changes(),
            snapshots: self.installed,
            accusations: self.accusations.len(),
            refused: self.refused.iter().sum(),
            recovery_us: self.now_us.saturating_sub(self.scenario.calm_us),
            recovery_rounds: self.calm.and_then(|calm| calm.rounds).unwrap_or(0),
        })
    }

    /// The next thing to happen: an event of the queue, or a node's timer.
    fn next(&self) -> Option<(u64, Option<usize>)> {
        let event = self.queue.first_key_value().map(|((at, _), _)| *at);
        let timer = self
            .nodes
            .iter()
            .zip(&self.actors)
            .filter_map(|(node, actor)| {
                let actor = actor.as_ref().and_then(|actor| actor.next_tick_us());
                let at = node.deadline_us().into_iter().chain(actor).min()?;
                Some((at.max(self.stalled_until_us[node.index]), node.index))
            })
            .min();
        match (event, timer) {
            (Some(event), Some((timer, node))) if timer < event => Some((timer, Some(node))),
            (None, Some((timer, node))) => Some((timer, Some(node))),
            (Some(event), _) => Some((event, None)),
            (None, None) => None,
        }
    }

    fn tick(&mut self, i: usize) -> Check {
        let now = self.now(i);
        if self.actor_due(i) {
            self.act(i, |actor, stage| actor.on_tick(stage))?;
            assert!(
                !self.actor_due(i),
                "after a tick an actor's next one lies in the future"
            );
        }
        if self.nodes[i]
            .deadline_us()
            .is_some_and(|at| at <= self.now_us)
        {
            self.nodes[i].tick(now);
        }
        self.after_turns(i)
    }

    fn actor_due(&self, i: usize) -> bool {
        let due = self.actors[i]
            .as_ref()
            .and_then(|actor| actor.next_tick_us());
        due.is_some_and(|at| at <= self.now_us)
    }

    fn handle(&mut self, event: Event) -> Check {
        match event {
            Event::Deliver {
                from,
                to,
                generation,
                message,
            } => self.deliver(from, to, generation, message),
            Event::Synced { node, life } => self.synced(node, life),
            Event::Executed { node, life } => self.executed(node, life),
            Event::StateSaved {
                node,
                life,
                checkpoint,
            } => self.state_saved(node, life, *checkpoint),
            Event::SnapshotSaved {
                node,
                life,
                snapshot,
            } => self.snapshot_saved(node, life, snapshot),
            Event::Link {
                node,
                life,
                peer,
                up,
            } => self.link(node, life, peer, up),
            Event::ActorSends { node, sending } => self.actor_sends(node, *sending),
            Event::Submit(submission) => self.submit(*submission),
            Event::Fault(fault) => self.fault(fault),
            Event::Calm => self.calm_down(),
        }
    }

    fn postpone(&self, i: usize) -> bool {
        self.stalled_until_us[i] > self.now_us
    }

    fn now(&self, i: usize) -> Now {
        let wall = GENESIS_MS + 1 + self.now_us / 1_000;
        Now {
            mono_us: self.now_us,
            wall_ms: wall.saturating_add_signed(self.nodes[i].skew_ms),
        }
    }

    fn schedule(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at_us, self.sequence), event);
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let line = format!("{} {}\n", self.now_us, text());
        match &mut self.telling {
            Telling::Nothing => {}
            Telling::Print => print!("{line}"),
            Telling::Keep(all) => all.push_str(&line),
        }
        self.log.update(line.as_bytes());
    }
}
