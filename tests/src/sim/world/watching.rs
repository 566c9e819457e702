//! What a test sees of a world, and how it interferes.

use falconet_hotstuff::Status;
use falconet_types::message::PeerMessage;
use falconet_types::transaction::SignedTransaction;
use falconet_types::{Epoch, Round, ValidatorIndex};

use super::super::checkers::{Check, Eras, Moment, Violation, rounds_max};
use super::super::node::{Chain, Node};
use super::super::scenario::{Fault, Scenario};
use super::super::workload::Submission;
use super::{Event, Telling, World};

/// A message that a correct node handed to its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Virtual time, microseconds.
    pub at_us: u64,
    /// The node.
    pub from: usize,
    /// The validator that it is for; `None` for all.
    pub to: Option<usize>,
    /// The message.
    pub message: PeerMessage,
}

impl World {
    /// Virtual time, microseconds.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// What was asked for.
    #[must_use]
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Genesis, chain id, validators.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// A node, with its disk and its cores.
    #[must_use]
    pub fn node(&self, i: usize) -> &Node {
        &self.nodes[i]
    }

    /// The condition of a node's HotStuff core, while it runs.
    #[must_use]
    pub fn status(&self, i: usize) -> Option<Status> {
        Some(self.nodes[i].live.as_ref()?.hotstuff.status())
    }

    /// Height that a correct node committed.
    #[must_use]
    pub fn committed(&self, i: usize) -> u64 {
        self.agreement.heights_of(i).0
    }

    /// Height that a correct node executed.
    #[must_use]
    pub fn executed_height(&self, i: usize) -> u64 {
        self.agreement.heights_of(i).1
    }

    /// Nodes that keep to the rules.
    pub fn correct(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|i| self.scenario.correct(*i))
    }

    /// The highest epoch, and the highest round in it, of correct nodes that run.
    #[must_use]
    pub fn highest_place(&self) -> (Epoch, Round) {
        let live = self.correct().filter_map(|i| self.nodes[i].live.as_ref());
        let places = live.map(|live| (live.info().start.epoch, live.hotstuff.progress().round));
        places.max().unwrap_or((Epoch::ZERO, Round::ZERO))
    }

    /// All correct nodes now.
    pub(super) fn moment(&self) -> Moment {
        let place = self.highest_place();
        let heights = self.correct().map(|i| self.agreement.heights_of(i));
        Moment {
            place,
            rounds_max: self
                .eras
                .set(place.0)
                .map_or(u64::MAX, |set| rounds_max(set)),
            together: self
                .correct()
                .all(|i| self.nodes[i].epoch() == Some(place.0)),
            everybody: heights
                .map(|(committed, executed)| committed.min(executed))
                .min()
                .unwrap_or(0),
            somebody: self.agreement.highest(),
        }
    }

    /// The epochs that have begun.
    #[must_use]
    pub fn eras(&self) -> &Eras {
        &self.eras
    }

    /// The node that has an index in an epoch.
    pub(super) fn who(&self, epoch: Epoch, index: ValidatorIndex) -> Option<usize> {
        self.eras.who(epoch, index)
    }

    /// The highest round of correct nodes that run.
    #[must_use]
    pub fn highest_round(&self) -> Round {
        let live = self.correct().filter_map(|i| self.nodes[i].live.as_ref());
        let rounds = live.map(|live| live.hotstuff.progress().round);
        rounds.max().unwrap_or(Round::ZERO)
    }

    /// Evidence found by correct nodes: the node, and the validator that it convicts.
    #[must_use]
    pub fn accusations(&self) -> &[(usize, usize)] {
        &self.accusations
    }

    /// Messages of a faulty validator that verify stages refused.
    #[must_use]
    pub fn refused(&self, validator: usize) -> u64 {
        self.refused[validator]
    }

    /// Crashes so far.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        self.crashes
    }

    /// Effects that a node carried out so far, see
    /// [`CrashPoint::Effect`](super::super::scenario::CrashPoint::Effect).
    #[must_use]
    pub fn effects(&self, i: usize) -> u64 {
        self.effects[i]
    }

    /// What correct nodes sent, if the builder was told to record it.
    #[must_use]
    pub fn sent(&self) -> &[Sent] {
        self.sent.as_deref().unwrap_or_default()
    }

    /// The lines of the run's log, if the builder was told to keep them.
    #[must_use]
    pub fn told(&self) -> &str {
        match &self.telling {
            Telling::Keep(all) => all,
            Telling::Nothing | Telling::Print => "",
        }
    }

    /// Lets something go wrong, or right, now.
    pub fn apply(&mut self, fault: Fault) -> Check {
        self.begin()?;
        self.fault(fault)
            .map_err(|violation| self.placed(&violation))
    }

    /// Sends a message in the name of a faulty validator, to one validator or to all others.
    pub fn inject(&mut self, from: usize, to: Option<usize>, message: PeerMessage) -> Check {
        assert!(
            !self.scenario.correct(from),
            "correct nodes speak for themselves"
        );
        self.begin()?;
        self.send_to(from, to, message)
    }

    /// A client sends a transaction now.
    pub fn submit_now(&mut self, to: usize, tx: SignedTransaction) {
        let at_us = self.now_us;
        let submission = Submission { at_us, to, tx };
        self.schedule(at_us, Event::Submit(Box::new(submission)));
    }

    /// Everybody who is correct committed and executed up to a height, and owes no client
    /// anything.
    #[must_use]
    pub fn in_order(&self, height: u64) -> bool {
        self.correct().all(|i| {
            let (committed, executed) = self.agreement.heights_of(i);
            let open = || match self.nodes[i].view() {
                Some(view) if self.scenario.has_epochs() => {
                    self.promises.lost(i, &view, self.now(i).wall_ms)
                }
                _ => self.promises.open(i),
            };
            committed >= height && executed >= height && open() == 0
        })
    }

    pub(super) fn placed(&self, violation: &str) -> Violation {
        let Scenario { seed, .. } = self.scenario;
        format!(
            "seed {seed}: at {} us: {violation}\n  {:?}\n  told step by step: falconet sim --seed {seed} --tell",
            self.now_us, self.scenario
        )
    }
}
