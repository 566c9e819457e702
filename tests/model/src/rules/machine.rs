//! The machine: which steps the rules allow in a state, and what must hold in every state.

use stateright::{Model, Property};

use super::blocks::{Blocks, END_HEIGHT, Shape};
use super::flaws::Flaw;
use super::state::{HONEST, HONEST_PER_EPOCH, Node, State, bit, members};

/// What is modelled.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bounds.
    pub shape: Shape,
    /// Commit votes (rules C4, C5).
    pub commit_votes: bool,
    /// Leaders: round 1 belongs to the Byzantine validator, the rounds after it to honest ones in
    /// turn, who propose optimistically (extension 2). Without it anybody proposes anything.
    pub leaders: bool,
    /// The two blocks of round 1 carry payload that must be available (rules D2, D4, V5).
    pub payload: bool,
    /// The rule that is broken, if any.
    pub flaw: Option<Flaw>,
}

/// What an honest validator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Propose a block.
    Propose(usize, usize),
    /// Vote for a block.
    Vote(usize, usize),
    /// Send a commit vote for a block.
    CommitVote(usize, usize),
    /// Give up a round, naming a QC's block.
    TimeOut(usize, u8, usize),
    /// Make a block's payload durable.
    Store(usize, usize),
    /// Say so.
    Acknowledge(usize, usize),
    /// Go on to the second epoch.
    Enter(usize),
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// All blocks.
    pub blocks: Blocks,
    /// What is modelled.
    pub options: Options,
}

/// Honest validators that must sign so that the Byzantine one completes a quorum of four.
const HONEST_IN_QUORUM: usize = 2;

/// What a state implies, computed once for all of its steps.
struct Facts {
    certified: u64,
    /// Tips of what is committed.
    committed: u64,
}

impl Machine {
    /// A machine.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            blocks: Blocks::new(options.shape),
            options,
        }
    }

    fn flawed(&self, flaw: Flaw) -> bool {
        self.options.flaw == Some(flaw)
    }

    fn two_epochs(&self) -> bool {
        self.options.shape.rounds_after > 0
    }

    fn is_member(&self, node: usize, epoch: u8) -> bool {
        if epoch == 0 {
            node < HONEST_PER_EPOCH
        } else {
            node >= HONEST - HONEST_PER_EPOCH
        }
    }

    /// Members of an epoch.
    fn members_of<'a>(&self, state: &'a State, epoch: u8) -> &'a [Node] {
        if epoch == 0 {
            &state.0[..HONEST_PER_EPOCH]
        } else {
            &state.0[HONEST - HONEST_PER_EPOCH..]
        }
    }

    /// Honest signatures that make a quorum of an epoch.
    fn quorum(&self, epoch: u8) -> usize {
        if epoch == 1 && self.flawed(Flaw::LeaversCount) {
            // The validator that has left signs with the Byzantine one.
            HONEST_IN_QUORUM - 1
        } else {
            HONEST_IN_QUORUM
        }
    }

    fn facts(&self, state: &State) -> Facts {
        let mut facts = Facts {
            certified: bit(0),
            committed: 0,
        };
        // Blocks come after their parents, a second epoch after the whole first.
        let mut first_epoch_done = false;
        for (b, block) in self.blocks.all.iter().enumerate().skip(1) {
            if block.epoch == 1 && !first_epoch_done {
                self.commit(state, 0, &mut facts);
                first_epoch_done = true;
            }
            let certified = if self.blocks.is_genesis(b) {
                let end = block.parent;
                let early = self.flawed(Flaw::EnterEarly) && facts.certified & bit(end) != 0;
                early || members(facts.committed).any(|tip| self.blocks.extends(tip, end))
            } else {
                let voters = self.members_of(state, block.epoch).iter();
                voters.filter(|node| node.votes & bit(b) != 0).count() >= self.quorum(block.epoch)
            };
            if certified {
                facts.certified |= bit(b);
            }
        }
        if !first_epoch_done {
            self.commit(state, 0, &mut facts);
        }
        if self.two_epochs() {
            self.commit(state, 1, &mut facts);
        }
        facts
    }

    /// Rule C2, commit votes, and the end of an epoch.
    fn commit(&self, state: &State, epoch: u8, facts: &mut Facts) {
        for b in self.blocks.of_epoch(epoch) {
            if facts.certified & bit(b) == 0 {
                continue;
            }
            let block = self.blocks.all[b];
            let parent = block.parent;
            let consecutive = self.blocks.all[parent].round + 1 == block.round
                || self.flawed(Flaw::CommitAcrossGaps);
            if !self.blocks.is_genesis(parent) && facts.certified & bit(parent) != 0 && consecutive
            {
                facts.committed |= bit(self.within_epoch(parent));
            }
            if self.options.commit_votes {
                let voters = self.members_of(state, epoch).iter();
                let votes = voters
                    .filter(|node| node.commit_votes & bit(b) != 0)
                    .count();
                if votes >= self.quorum(epoch) {
                    facts.committed |= bit(self.within_epoch(b));
                }
            }
        }
    }

    /// The highest block at or below `b` that its epoch may commit.
    fn within_epoch(&self, mut b: usize) -> usize {
        if self.two_epochs() && self.blocks.all[b].epoch == 0 && !self.flawed(Flaw::CommitPastEnd) {
            while self.blocks.all[b].height > END_HEIGHT {
                b = self.blocks.all[b].parent;
            }
        }
        b
    }

    /// Whether some TC of the round before allows a parent of round `parent_round` (rule V4). The
    /// Byzantine validator adds a timeout that names genesis.
    fn tc_allows(&self, state: &State, epoch: u8, round: u8, parent_round: u8) -> bool {
        if round < 2 {
            return false;
        }
        let slot = self.blocks.slot(epoch, round - 1);
        let fits = |node: &&Node| {
            let named = node.timeouts[slot];
            named != 0
                && (self.flawed(Flaw::TcMaximumUnchecked)
                    || self.blocks.all[usize::from(named) - 1].round <= parent_round)
        };
        self.members_of(state, epoch).iter().filter(fits).count() >= self.quorum(epoch)
    }

    /// Whether a round may be entered by anybody (rule P1).
    fn entered(&self, state: &State, facts: &Facts, epoch: u8, round: u8) -> bool {
        let by_qc = || {
            self.blocks
                .of_epoch(epoch)
                .any(|b| facts.certified & bit(b) != 0 && self.blocks.all[b].round + 1 == round)
        };
        let by_tc = || {
            let slot = self.blocks.slot(epoch, round - 1);
            let given_up = |node: &&Node| node.timeouts[slot] != 0;
            self.members_of(state, epoch)
                .iter()
                .filter(given_up)
                .count()
                >= self.quorum(epoch)
        };
        round == 1 || by_qc() || by_tc()
    }

    fn last_voted(&self, node: &Node, epoch: u8) -> u8 {
        members(node.votes)
            .filter(|&b| self.blocks.all[b].epoch == epoch)
            .map(|b| self.blocks.all[b].round)
            .max()
            .unwrap_or(0)
    }

    fn last_given_up(&self, node: &Node, epoch: u8) -> u8 {
        (1..=self.rounds(epoch))
            .rev()
            .find(|&round| node.timeouts[self.blocks.slot(epoch, round)] != 0)
            .unwrap_or(0)
    }

    fn rounds(&self, epoch: u8) -> u8 {
        if epoch == 0 {
            self.options.shape.rounds
        } else {
            self.options.shape.rounds_after
        }
    }

    /// Round of the lock (rule S6).
    fn lock(&self, node: &Node, epoch: u8) -> u8 {
        let of_epoch = |&b: &usize| self.blocks.all[b].epoch == epoch;
        let by_votes = members(node.votes)
            .filter(of_epoch)
            .map(|b| self.blocks.parent_round(b));
        let by_commit_votes = members(node.commit_votes)
            .filter(|_| !self.flawed(Flaw::CommitVoteWithoutLock))
            .filter(of_epoch)
            .map(|b| self.blocks.all[b].round);
        by_votes.chain(by_commit_votes).max().unwrap_or(0)
    }

    /// The honest leader of a round; `None` for the Byzantine one.
    fn leader(&self, round: u8) -> Option<usize> {
        (round > 1).then(|| usize::from(round - 2) % HONEST_PER_EPOCH)
    }

    fn is_normal(&self, b: usize) -> bool {
        self.blocks.parent_round(b) + 1 == self.blocks.all[b].round
    }

    fn may_propose(&self, state: &State, facts: &Facts, i: usize, b: usize) -> bool {
        let block = self.blocks.all[b];
        let node = &state.0[i];
        if self.leader(block.round) != Some(i) || node.proposals & bit(b) != 0 {
            return false;
        }
        let same_kind = |&other: &usize| {
            self.blocks.all[other].round == block.round
                && self.is_normal(other) == self.is_normal(b)
        };
        if members(node.proposals).any(|other| same_kind(&other))
            && !self.flawed(Flaw::ProposeTwice)
        {
            return false;
        }
        if self.last_given_up(node, block.epoch) >= block.round {
            return false;
        }
        let certified = facts.certified & bit(block.parent) != 0;
        if self.is_normal(b) {
            certified || node.votes & bit(block.parent) != 0
        } else {
            certified
                && self.tc_allows(state, block.epoch, block.round, self.blocks.parent_round(b))
        }
    }

    fn may_vote(&self, state: &State, facts: &Facts, i: usize, b: usize) -> bool {
        let block = self.blocks.all[b];
        let node = &state.0[i];
        let parent_round = self.blocks.parent_round(b);
        let proposed = !self.options.leaders
            || self
                .leader(block.round)
                .is_none_or(|leader| state.0[leader].proposals & bit(b) != 0);
        let v2 = (block.round > self.last_voted(node, block.epoch) || self.flawed(Flaw::Amnesia))
            && (block.round > self.last_given_up(node, block.epoch)
                || self.flawed(Flaw::VoteAfterTimeout));
        let v3 = facts.certified & bit(block.parent) != 0 || self.flawed(Flaw::ParentUncertified);
        let v4 = parent_round + 1 == block.round
            || self.tc_allows(state, block.epoch, block.round, parent_round);
        proposed
            && node.votes & bit(b) == 0
            && v2
            && v3
            && v4
            && (!self.has_payload(b) || self.available(state, i, b))
    }

    fn has_payload(&self, b: usize) -> bool {
        let block = self.blocks.all[b];
        self.options.payload && block.epoch == 0 && block.round == 1
    }

    /// Rule D4: held, or covered by watermarks of a weak quorum, the Byzantine one's among them.
    fn available(&self, state: &State, i: usize, b: usize) -> bool {
        let acknowledged = state
            .0
            .iter()
            .filter(|node| node.acknowledged & bit(b) != 0);
        let honest_needed = usize::from(!self.flawed(Flaw::OneWatermark));
        state.0[i].holds & bit(b) != 0 || acknowledged.count() >= honest_needed
    }

    /// Nodes that may change places without changing anything are kept in order.
    fn canonical(&self, mut state: State) -> State {
        if self.options.leaders {
            return state;
        }
        let alike = if self.two_epochs() {
            HONEST - HONEST_PER_EPOCH..HONEST_PER_EPOCH
        } else {
            0..HONEST_PER_EPOCH
        };
        state.0[alike].sort_unstable();
        state
    }

    /// Nothing that a correct validator signs can be used against it (rules E1 to E3, E5, E6).
    fn slashable(&self, node: &Node) -> bool {
        let round_of = |b: usize| (self.blocks.all[b].epoch, self.blocks.all[b].round);
        let votes: Vec<usize> = members(node.votes).collect();
        let proposals: Vec<usize> = members(node.proposals).collect();
        let twice = |blocks: &[usize], kinds: bool| {
            blocks.iter().enumerate().any(|(at, &a)| {
                blocks[..at].iter().any(|&b| {
                    round_of(a) == round_of(b) && (!kinds || self.is_normal(a) == self.is_normal(b))
                })
            })
        };
        let lock_violated = votes.iter().any(|&b| {
            let (epoch, round) = round_of(b);
            (round..=self.rounds(epoch)).any(|later| {
                let named = node.timeouts[self.blocks.slot(epoch, later)];
                named != 0
                    && self.blocks.all[usize::from(named) - 1].round < self.blocks.parent_round(b)
            })
        });
        let commit_votes: Vec<usize> = members(node.commit_votes).collect();
        let commit_violated = commit_votes.iter().any(|&b| {
            let (epoch, round) = round_of(b);
            (round..=self.rounds(epoch)).any(|later| {
                let named = node.timeouts[self.blocks.slot(epoch, later)];
                named != 0 && self.blocks.all[usize::from(named) - 1].round < round
            })
        });
        twice(&votes, false)
            || twice(&proposals, true)
            || lock_violated
            || twice(&commit_votes, false)
            || commit_violated
    }
}

/// Committed blocks stand on one chain.
pub const AGREEMENT: &str = "agreement";
/// No honest validator signs what evidence could punish.
pub const BLAMELESS: &str = "no honest validator is slashable";
/// The payload of a certified block is held by an honest validator.
pub const AVAILABLE: &str = "certified payload is held";
/// Something commits at all, so that the check says something.
pub const COMMITS: &str = "a block commits";
/// A block of the second epoch commits.
pub const COMMITS_AFTER: &str = "a block of the second epoch commits";

impl Model for Machine {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let facts = self.facts(state);
        for i in 0..HONEST {
            let node = &state.0[i];
            let epoch = node.epoch;
            if epoch == 0 && self.two_epochs() {
                let begun = (0..self.blocks.all.len()).any(|b| {
                    self.blocks.all[b].epoch == 1
                        && self.blocks.is_genesis(b)
                        && facts.certified & bit(b) != 0
                });
                if begun && self.is_member(i, 1) {
                    actions.push(Action::Enter(i));
                }
            }
            if !self.is_member(i, epoch) {
                continue;
            }
            for b in self.blocks.of_epoch(epoch) {
                if self.options.leaders && self.may_propose(state, &facts, i, b) {
                    actions.push(Action::Propose(i, b));
                }
                if self.may_vote(state, &facts, i, b) {
                    actions.push(Action::Vote(i, b));
                }
                let round = self.blocks.all[b].round;
                if self.options.commit_votes
                    && !self.blocks.is_genesis(b)
                    && (facts.certified & bit(b) != 0 || self.flawed(Flaw::CommitVoteUncertified))
                    && node.commit_votes & bit(b) == 0
                    && (self.last_given_up(node, epoch) < round
                        || self.flawed(Flaw::CommitVoteAfterTimeout))
                {
                    actions.push(Action::CommitVote(i, b));
                }
                if self.has_payload(b) {
                    if node.holds & bit(b) == 0 {
                        actions.push(Action::Store(i, b));
                    }
                    let durable = node.holds & bit(b) != 0 || self.flawed(Flaw::AcknowledgeEarly);
                    if node.acknowledged & bit(b) == 0 && durable {
                        actions.push(Action::Acknowledge(i, b));
                    }
                }
            }
            let lock = self.lock(node, epoch);
            for round in 1..=self.rounds(epoch) {
                let allowed = round > self.last_given_up(node, epoch)
                    && round >= self.last_voted(node, epoch)
                    && self.entered(state, &facts, epoch, round);
                if !allowed {
                    continue;
                }
                for (b, block) in self.blocks.all.iter().enumerate() {
                    let named = block.epoch == epoch
                        && facts.certified & bit(b) != 0
                        && block.round < round
                        && (block.round >= lock || self.flawed(Flaw::LostLock));
                    if named {
                        actions.push(Action::TimeOut(i, round, b));
                    }
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Propose(i, b) => next.0[i].proposals |= bit(b),
            Action::Vote(i, b) => next.0[i].votes |= bit(b),
            Action::CommitVote(i, b) => next.0[i].commit_votes |= bit(b),
            Action::TimeOut(i, round, b) => {
                let slot = self.blocks.slot(next.0[i].epoch, round);
                next.0[i].timeouts[slot] = u8::try_from(b).expect("BLOCKS_MAX") + 1;
            }
            Action::Store(i, b) => next.0[i].holds |= bit(b),
            Action::Acknowledge(i, b) => next.0[i].acknowledged |= bit(b),
            Action::Enter(i) => next.0[i].epoch = 1,
        }
        Some(self.canonical(next))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(AGREEMENT, |machine: &Self, state: &State| {
                let committed: Vec<usize> = members(machine.facts(state).committed).collect();
                committed.iter().enumerate().all(|(at, &a)| {
                    committed[..at]
                        .iter()
                        .all(|&b| machine.blocks.extends(a, b) || machine.blocks.extends(b, a))
                })
            }),
            Property::always(BLAMELESS, |machine: &Self, state: &State| {
                !state.0.iter().any(|node| machine.slashable(node))
            }),
            Property::sometimes(COMMITS, |machine: &Self, state: &State| {
                machine.facts(state).committed != 0
            }),
        ];
        if self.options.payload {
            properties.push(Property::always(
                AVAILABLE,
                |machine: &Self, state: &State| {
                    members(machine.facts(state).certified).all(|b| {
                        !machine.has_payload(b)
                            || state.0.iter().any(|node| node.holds & bit(b) != 0)
                    })
                },
            ));
        }
        if self.two_epochs() {
            properties.push(Property::sometimes(
                COMMITS_AFTER,
                |machine: &Self, state: &State| {
                    members(machine.facts(state).committed)
                        .any(|b| machine.blocks.all[b].epoch == 1)
                },
            ));
        }
        properties
    }
}
