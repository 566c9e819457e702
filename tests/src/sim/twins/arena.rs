//! The cores, the messages between them, and what must hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use falconet_hotstuff::{
    Config, Effect, Evidence, HotStuff, Input, Misbehaviour, Payload, Recovered,
};
use falconet_types::block::{Cut, Executed};
use falconet_types::epoch::EpochStart;
use falconet_types::genesis::Params;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Verified;
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, ChainId, Digest, Height, Round, ValidatorIndex};

use super::super::checkers::Eras;
use super::super::checkers::{Check, Justification, SelfConsistency, Violation};
use super::super::keys::{self, GENESIS_MS, SimSigner};
use super::super::node::Chain;
use super::{Cast, Leaders, Phase, state};

/// The round timer of these cores, microseconds.
const ROUND_US: u64 = 1_000_000;
/// All clocks go on by this much at the start of a phase, so that answers are not limited by the
/// rate of a phase that took no time; microseconds.
const PHASE_US: u64 = 300_000;
/// Short timers that fire in a row before a phase goes on.
const SHORT_TIMERS_MAX: usize = 32;
/// Messages of one phase.
const MESSAGES_MAX: usize = 100_000;
/// Length of the schedule of leaders; rounds beyond start over.
const SCHEDULE: usize = 64;
/// Rounds within which all must have committed after everything healed: the first may be lost to
/// a round that is under way, and of any n rounds those of twins may be lost as well; what remains
/// in a row must be three, the last of which brings the QC that commits.
const HEALED_ROUNDS_MAX: u64 = 12;

pub(super) struct Player {
    pub core: HotStuff,
    clock_us: u64,
    round: Round,
    entered_us: u64,
}

/// How a block came to be: the node that made it, its round and its parent.
pub(super) type Origin = (usize, Round, BlockId);

pub(super) struct Arena {
    pub cast: Cast,
    chain: ChainId,
    set: Arc<ValidatorSet>,
    eras: Arc<Eras>,
    leaders: Vec<ValidatorIndex>,
    pub players: Vec<Player>,
    pub origins: BTreeMap<BlockId, Origin>,
    /// Correct validators that voted to commit a block.
    committing: BTreeMap<BlockId, BTreeSet<usize>>,
    /// Messages of rounds to come.
    pub waiting: Vec<(usize, usize, PeerMessage)>,
    queue: VecDeque<(usize, usize, PeerMessage)>,
    group: u16,
    /// Number of the phase, from 1.
    pub number: u64,
    /// Inputs that cores were given so far.
    inputs: u64,
    /// The nodes in the order in which they take their turns.
    turns: Vec<usize>,
    /// That order in the phase after the one of this number, see [`state::order`].
    order: Option<(u64, Vec<usize>)>,
    committed: Vec<BlockId>,
    heights: Vec<u64>,
    consistency: SelfConsistency,
    justification: Justification,
    violation: Option<Violation>,
}

/// No payload: blocks are empty and nothing is executed.
struct Nothing;

impl Payload for Nothing {
    fn propose(&self, parent: &Cut) -> Cut {
        parent.clone()
    }
    fn has_work(&self, _: &Cut) -> bool {
        false
    }
    fn available(&self, _: &Cut, _: &Cut) -> bool {
        true
    }
    fn executed(&self) -> Executed {
        Executed {
            height: Height::ZERO,
            root: Digest::ZERO,
        }
    }
    fn commitment_at(&self, height: Height) -> Option<Digest> {
        (height == Height::ZERO).then_some(Digest::ZERO)
    }
}

impl Player {
    /// The timer of the present round has fired, so that no shorter one does any more.
    pub(super) fn is_over(&self) -> bool {
        self.clock_us >= self.entered_us + ROUND_US
    }
}

impl Arena {
    /// All cores started and connected; `first` leads round 1.
    pub fn new(cast: Cast, first: u8) -> Self {
        let params = Params {
            round_timeout_ms: ROUND_US / 1_000,
            round_timeout_ms_max: ROUND_US / 1_000,
            block_interval_ms_min: 0,
            block_interval_ms_idle: 0,
            clock_drift_ms_max: 1_000_000,
            commit_votes: cast.commit_votes,
            ..Params::default()
        };
        let genesis = keys::genesis(cast.chain, &vec![1; cast.n], params.clone());
        let chain = genesis.chain_id();
        let set = genesis.validator_set().expect("a valid set");
        let first = usize::from(first);
        let mut leaders: Vec<_> = (0..SCHEDULE).map(|i| index(i % cast.n)).collect();
        match cast.leaders {
            Leaders::First(_) => leaders[1] = index(first),
            Leaders::Rotation => {
                let turn = |i| index((first + i + SCHEDULE * cast.n - 1) % cast.n);
                leaders = (0..SCHEDULE).map(turn).collect();
            }
        }
        let set = Arc::new(set.with_leaders(leaders.clone()));
        let eras = Eras::new(&Chain {
            genesis: Arc::new(genesis),
            id: chain,
            set: Arc::clone(&set),
        });
        let players = (0..cast.nodes())
            .map(|node| {
                let validator = cast.validator_of(node);
                let config = Config {
                    chain_id: chain,
                    me: index(validator),
                    set: set.clone(),
                    start: EpochStart::genesis(chain, GENESIS_MS),
                    params: params.clone(),
                };
                let signer = Box::new(SimSigner(validator));
                let mut core = HotStuff::new(config, signer, Recovered::default())
                    .expect("a fresh core starts");
                // Timers fire at the end of a phase.
                core.wait_as_genesis_says();
                if validator < cast.twins {
                    core.misbehave(Misbehaviour::Twin);
                } else if let Some(flaw) = cast.flaw {
                    core.misbehave(flaw);
                }
                Player {
                    core,
                    clock_us: 0,
                    round: Round(1),
                    entered_us: 0,
                }
            })
            .collect();
        let mut arena = Self {
            cast,
            chain,
            set,
            eras: Arc::new(eras),
            leaders,
            players,
            committing: BTreeMap::new(),
            origins: BTreeMap::new(),
            waiting: Vec::new(),
            queue: VecDeque::new(),
            group: 0,
            number: 0,
            inputs: 0,
            turns: (0..cast.nodes()).collect(),
            order: None,
            committed: Vec::new(),
            heights: vec![0; cast.nodes()],
            consistency: SelfConsistency::default(),
            justification: Justification::default(),
            violation: None,
        };
        for node in 0..cast.nodes() {
            for peer in (0..cast.n).filter(|peer| *peer != cast.validator_of(node)) {
                arena.handle(node, Input::PeerUp(index(peer)));
            }
        }
        arena
    }

    /// A copy that goes on by itself, in which `leader` leads the round after the next phase.
    pub fn fork(&self, leader: u8) -> Self {
        let mut leaders = self.leaders.clone();
        leaders[(self.number as usize + 2) % SCHEDULE] = ValidatorIndex(leader.into());
        let set = Arc::new(ValidatorSet::clone(&self.set).with_leaders(leaders.clone()));
        let players = self
            .players
            .iter()
            .enumerate()
            .map(|(node, player)| Player {
                core: player.core.fork(
                    Box::new(SimSigner(self.cast.validator_of(node))),
                    set.clone(),
                ),
                clock_us: player.clock_us,
                round: player.round,
                entered_us: player.entered_us,
            });
        Self {
            cast: self.cast,
            chain: self.chain,
            players: players.collect(),
            set,
            eras: Arc::clone(&self.eras),
            leaders,
            origins: self.origins.clone(),
            committing: self.committing.clone(),
            waiting: self.waiting.clone(),
            queue: self.queue.clone(),
            group: self.group,
            number: self.number,
            inputs: self.inputs,
            turns: self.turns.clone(),
            order: self.order.clone(),
            committed: self.committed.clone(),
            heights: self.heights.clone(),
            consistency: self.consistency.clone(),
            justification: self.justification.clone(),
            violation: self.violation.clone(),
        }
    }

    /// Highest height that a correct core committed.
    pub fn height(&self) -> u64 {
        self.committed.len() as u64
    }

    /// The last block that all cores have committed.
    pub fn base(&self) -> BlockId {
        let roots = self.players.iter().map(|player| player.core.status());
        let lowest = roots.min_by_key(|status| status.committed_height);
        lowest.expect("there are players").committed_id
    }

    /// Leader of the round after the current phase.
    pub fn next_leader(&self) -> usize {
        self.set.leader(Round(self.number + 1)).at()
    }

    /// Who leads from the next round on, as far as that is settled.
    pub fn next_leaders(&self) -> impl Iterator<Item = ValidatorIndex> {
        let settled = match self.cast.leaders {
            Leaders::First(_) => 1,
            Leaders::Rotation => self.cast.n as u64,
        };
        (1..=settled).map(|ahead| self.set.leader(Round(self.number + ahead)))
    }

    /// Settles in which order nodes take their turns in the next phase, once for all forks.
    pub fn put_in_order(&mut self) -> Vec<usize> {
        match &self.order {
            Some((number, order)) if *number == self.number => order.clone(),
            _ => {
                let order = state::order(self);
                self.order = Some((self.number, order.clone()));
                order
            }
        }
    }

    /// Carries out a phase, whose leader [`Arena::fork`] has set.
    pub fn phase(&mut self, phase: Phase) -> Check {
        let order = self.put_in_order();
        self.turns.clone_from(&order);
        self.number += 1;
        assert_eq!(
            self.next_leader(),
            usize::from(phase.leader),
            "a fork has chosen the leader"
        );
        self.group = phase.group;
        for player in &mut self.players {
            player.clock_us += PHASE_US;
        }
        let turn = |node: &usize| order.iter().position(|other| other == node);
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_by_key(|(from, to, _)| (turn(from), turn(to)));
        for (from, to, message) in waiting {
            self.pass(from, to, message);
        }
        self.settle();
        let newest = Round(self.number);
        for node in order {
            self.give_up(node, newest);
        }
        self.settle();
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// No more groups, and correct leaders in turn: rounds until everybody correct has committed
    /// something new.
    pub fn heal(&mut self) -> Result<u64, Violation> {
        let before = self.committed.len() as u64;
        let start = self.number;
        let correct = self.cast.n - self.cast.twins;
        while self.number < start + HEALED_ROUNDS_MAX {
            let leader = self.cast.twins + (self.number as usize % correct);
            *self = self.fork(leader as u8);
            self.phase(Phase {
                group: 0,
                leader: leader as u8,
            })?;
            let nodes = self.cast.twins..self.cast.n;
            if nodes.into_iter().all(|node| self.heights[node] > before) {
                return Ok(self.number - start);
            }
        }
        Err(format!(
            "{HEALED_ROUNDS_MAX} rounds after everything healed not all have committed: {:?}",
            self.heights
        ))
    }

    fn correct(&self, node: usize) -> bool {
        self.cast.validator_of(node) >= self.cast.twins
    }

    /// Delivers what can be delivered and lets short timers fire, until nothing moves.
    fn settle(&mut self) {
        self.deliver();
        for _ in 0..SHORT_TIMERS_MAX {
            let due = self.turns.iter().find_map(|node| {
                let (node, player) = (*node, &self.players[*node]);
                let at = player.core.next_deadline_us()?;
                (at < player.entered_us + ROUND_US).then_some((node, at))
            });
            let Some((node, at)) = due else { return };
            let player = &mut self.players[node];
            player.clock_us = player.clock_us.max(at);
            self.handle(node, Input::Tick);
            self.deliver();
        }
    }

    /// The round timer fires, if the node has not gone beyond the phase's round.
    fn give_up(&mut self, node: usize, newest: Round) {
        let player = &mut self.players[node];
        if player.round > newest {
            return;
        }
        let at = player.core.next_deadline_us().unwrap_or(0);
        player.clock_us = player.clock_us.max(at).max(player.entered_us + ROUND_US);
        self.handle(node, Input::Tick);
    }

    fn deliver(&mut self) {
        let mut messages = 0;
        while let Some((from, to, message)) = self.queue.pop_front() {
            messages += 1;
            assert!(messages < MESSAGES_MAX, "a phase without end");
            let from = index(self.cast.validator_of(from));
            self.receive(to, from, message);
        }
    }

    fn receive(&mut self, to: usize, from: ValidatorIndex, message: PeerMessage) {
        let input = Input::from_message(from, Verified::trusted(message))
            .unwrap_or_else(|other| panic!("cores without payload do not send {other:?}"));
        self.handle(to, input);
    }

    fn handle(&mut self, node: usize, input: Input) {
        let mut effects = Vec::new();
        let player = &mut self.players[node];
        // One wall clock for all, which never shows a time twice: it is later than that of any block,
        // so a block has the time at which it was made, and no two are equal, of twins neither.
        self.inputs += 1;
        let now = Now {
            mono_us: player.clock_us,
            wall_ms: GENESIS_MS + self.inputs,
        };
        player.core.handle(now, input, &Nothing, &mut effects);
        let round = player.core.progress().round;
        if round > player.round {
            player.round = round;
            player.entered_us = player.clock_us;
        }
        for effect in effects {
            match effect {
                Effect::Broadcast(message) => self.send(node, None, message),
                Effect::Send { to, message } => self.send(node, Some(to), message),
                Effect::Commit(block) => {
                    self.commit(node, block.header.height, block.header.id());
                    self.proven(node, block.proof.child.id(), block.header.id());
                }
                Effect::Evidence(evidence) => self.evidence(node, &evidence),
                Effect::Alarm(alarm) if self.correct(node) => {
                    self.broken(format!("node {node} raises an alarm: {alarm:?}"));
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, from: usize, to: Option<ValidatorIndex>, message: PeerMessage) {
        if let PeerMessage::Header(header) = &message
            && header.author.at() == self.cast.validator_of(from)
        {
            let origin = (from, header.round, header.parent_id);
            self.origins.entry(header.id()).or_insert(origin);
        }
        if let PeerMessage::CommitVote(vote) = &message
            && self.correct(from)
            && vote.voter.at() == from
        {
            let voters = self.committing.entry(vote.block_id).or_default();
            voters.insert(from);
        }
        if self.correct(from) {
            let twins = self.cast.twins;
            let (correct, faulty) = (
                |validator| validator >= twins,
                |validator| validator < twins,
            );
            let said = self.consistency.sent(from, &message, &self.eras, correct);
            let why = self.justification.sent(from, &message, &self.eras, faulty);
            if let Err(violation) = said.and(why) {
                self.broken(violation);
            }
        }
        let me = self.cast.validator_of(from);
        for at in 0..self.turns.len() {
            let node = self.turns[at];
            let validator = self.cast.validator_of(node);
            if validator != me && to.is_none_or(|to| to.at() == validator) {
                self.pass(from, node, message.clone());
            }
        }
    }

    /// Into the queue, into the waiting room, or nowhere.
    fn pass(&mut self, from: usize, to: usize, message: PeerMessage) {
        let round = match &message {
            PeerMessage::Header(header) => header.round,
            PeerMessage::Vote(vote) => vote.round,
            PeerMessage::CommitVote(vote) => vote.round,
            PeerMessage::Timeout(timeout) => timeout.round,
            _ => Round::ZERO,
        };
        if round > Round(self.number) {
            self.waiting.push((from, to, message));
        } else if (self.group >> from & 1) == (self.group >> to & 1) {
            self.queue.push_back((from, to, message));
        }
    }

    fn commit(&mut self, node: usize, height: Height, id: BlockId) {
        if !self.correct(node) {
            return;
        }
        let expected = self.heights[node] + 1;
        if height.0 != expected {
            self.broken(format!("node {node} commits {height}, expected {expected}"));
            return;
        }
        self.heights[node] = expected;
        let at = expected as usize - 1;
        if at == self.committed.len() {
            self.committed.push(id);
        } else if self.committed[at] != id {
            let other = self.committed[at];
            self.broken(format!(
                "agreement: at height {height} node {node} commits {id}, another {other}"
            ));
        }
    }

    /// Between a committed block and what its proof certifies stand two blocks of consecutive
    /// rounds.
    fn proven(&mut self, node: usize, child: BlockId, committed: BlockId) {
        let mut at = child;
        let mut consecutive = self.voted(&committed);
        while at != committed {
            consecutive |= self.voted(&at);
            let Some((_, round, parent)) = self.origins.get(&at) else {
                self.broken(format!(
                    "node {node} commits with a proof of something else"
                ));
                return;
            };
            let below = self.origins.get(parent);
            consecutive |= below.is_some_and(|(_, below, _)| below.next() == *round);
            at = *parent;
        }
        if self.correct(node) && !consecutive {
            self.broken(format!("node {node} commits without consecutive rounds"));
        }
    }

    /// A quorum may have voted to commit the block, the twins among them.
    fn voted(&self, id: &BlockId) -> bool {
        let correct = self.committing.get(id).map_or(0, BTreeSet::len);
        (correct + self.cast.twins) * 3 > self.cast.n * 2
    }

    fn evidence(&mut self, node: usize, evidence: &Evidence) {
        let accused = evidence.accused();
        if self.correct(node) && accused.at() >= self.cast.twins {
            self.broken(format!("node {node} accuses {accused}, which is correct"));
        }
    }

    fn broken(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }
}

fn index(i: usize) -> ValidatorIndex {
    ValidatorIndex(u16::try_from(i).expect("few validators"))
}
