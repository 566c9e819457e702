//! Four or seven cores that talk to one another: the named liveness scenarios. Delivery is in
//! order after a millisecond; a filter decides what is lost. The simulator in `tests/` does the rest.

use std::collections::VecDeque;
use std::sync::Arc;

use falconet_types::block::SignedHeader;
use falconet_types::epoch::{EpochProof, EpochStart};
use falconet_types::genesis::Params;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Verified;
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, Round, ValidatorIndex};

use super::harness::{
    CHAIN, FakeSigner, GENESIS_MS, Log, Maker, Said, TestPayload, config, params, set_of, signer,
};
use crate::{Effect, HotStuff, Input, NextEpoch, Recovered};

/// One way, microseconds.
const LATENCY_US: u64 = 1_000;
/// Epochs have so many heights, in clusters that have epochs.
pub(super) const EPOCH_HEIGHTS: u64 = 16;

pub(super) struct Node {
    pub core: HotStuff,
    pub payload: TestPayload,
    pub log: Log,
    pub commits: Vec<(u64, BlockId)>,
    pub up: bool,
    /// Offset of its wall clock, milliseconds.
    pub skew_ms: i64,
    /// Does not execute: never starts the next epoch.
    pub stuck: bool,
    /// An epoch is over and the next one was not started yet.
    pub ended: Option<Arc<SignedHeader>>,
}

impl Node {
    pub(super) fn epoch(&self) -> usize {
        self.core.status().epoch.0 as usize
    }
}

type Filter = Box<dyn FnMut(usize, usize, &PeerMessage) -> bool>;

pub(super) struct Cluster {
    pub nodes: Vec<Node>,
    pub maker: Maker,
    pub now_us: u64,
    pub wire: VecDeque<(u64, usize, usize, PeerMessage)>,
    /// True lets a message pass.
    pub pass: Filter,
    /// Nodes that are members, for each epoch; the last entry stands for all later ones.
    pub members: Vec<Vec<usize>>,
    /// What the epochs turned out to start from.
    pub starts: Vec<(EpochStart, Arc<ValidatorSet>)>,
    params: Params,
}

impl Cluster {
    pub(super) fn new(n: usize) -> Self {
        Self::with_epochs(n, vec![(0..n).collect()], 0)
    }

    /// `n` nodes, of which `members[e]` are the validators of epoch e.
    pub(super) fn with_epochs(n: usize, members: Vec<Vec<usize>>, epoch_heights: u64) -> Self {
        let params = Params {
            epoch_heights,
            ..params()
        };
        Self::make(n, members, params)
    }

    /// `n` validators on a chain with these parameters.
    pub(super) fn with_params(n: usize, params: Params) -> Self {
        Self::make(n, vec![(0..n).collect()], params)
    }

    fn make(n: usize, members: Vec<Vec<usize>>, params: Params) -> Self {
        let set = set_of(0, &members[0]);
        let mut cluster = Self {
            nodes: Vec::new(),
            maker: Maker { set: set.clone() },
            now_us: 1_000_000,
            wire: VecDeque::new(),
            pass: Box::new(|_, _, _| true),
            members,
            starts: vec![(EpochStart::genesis(CHAIN, GENESIS_MS), set)],
            params,
        };
        for i in 0..n {
            let core = cluster.core(i, 0, Recovered::default());
            cluster.nodes.push(Node {
                core,
                payload: TestPayload {
                    work: true,
                    ..TestPayload::default()
                },
                log: Log::default(),
                commits: Vec::new(),
                up: true,
                skew_ms: 0,
                stuck: false,
                ended: None,
            });
        }
        cluster.connect_all();
        cluster
    }

    fn core(&self, i: usize, epoch: usize, recovered: Recovered) -> HotStuff {
        let (start, set) = self.starts[epoch].clone();
        let mut config = config(&set, self.member(epoch, i));
        config.start = start;
        config.params = self.params.clone();
        let key: Box<FakeSigner> = Box::new(signer(ValidatorIndex(i as u16)));
        HotStuff::new(config, key, recovered).unwrap()
    }

    fn members(&self, epoch: usize) -> &[usize] {
        &self.members[epoch.min(self.members.len() - 1)]
    }

    /// A node's own index in an epoch.
    fn member(&self, epoch: usize, i: usize) -> ValidatorIndex {
        let at = self.members(epoch).iter().position(|m| *m == i);
        at.map_or(ValidatorIndex::NOBODY, |at| ValidatorIndex(at as u16))
    }

    /// How a node in `epoch` calls node `j`.
    fn name(&self, epoch: usize, j: usize) -> ValidatorIndex {
        match self.member(epoch, j) {
            ValidatorIndex::NOBODY => ValidatorIndex::of_follower(j),
            member => member,
        }
    }

    /// The node that a node in `epoch` calls `name`.
    fn node(&self, epoch: usize, name: ValidatorIndex) -> usize {
        name.follower_slot()
            .unwrap_or_else(|| self.members(epoch)[name.at()])
    }

    fn connect_all(&mut self) {
        for i in 0..self.nodes.len() {
            self.peers_up(i);
        }
    }

    fn peers_up(&mut self, i: usize) {
        for j in (0..self.nodes.len()).filter(|j| *j != i) {
            if self.nodes[i].up && self.nodes[j].up {
                let name = self.name(self.nodes[i].epoch(), j);
                self.input(i, Input::PeerUp(name));
            }
        }
    }

    fn now(&self, node: usize) -> Now {
        let wall = (GENESIS_MS + self.now_us / 1_000) as i64 + self.nodes[node].skew_ms;
        Now {
            mono_us: self.now_us,
            wall_ms: wall as u64,
        }
    }

    pub(super) fn input(&mut self, i: usize, input: Input) {
        if !self.nodes[i].up {
            return;
        }
        let now = self.now(i);
        let node = &mut self.nodes[i];
        let mut out = Vec::new();
        node.core.handle(now, input, &node.payload, &mut out);
        self.effects(i, out);
        self.start_next(i);
    }

    fn effects(&mut self, i: usize, out: Vec<Effect>) {
        let epoch = self.nodes[i].epoch();
        let said = Said(out);
        let node = &mut self.nodes[i];
        said.records().for_each(|record| node.log.append(record));
        for effect in said.0 {
            match effect {
                Effect::Broadcast(message) => {
                    for j in (0..self.nodes.len()).filter(|j| *j != i) {
                        self.send(i, j, message.clone());
                    }
                }
                Effect::Send { to, message } => {
                    let to = self.node(epoch, to);
                    self.send(i, to, message);
                }
                Effect::Commit(c) => {
                    self.nodes[i]
                        .commits
                        .push((c.header.height.0, c.header.id()));
                    self.nodes[i].payload.executed = c.header.height;
                }
                Effect::ServeBlocks { to, request } => {
                    let mut headers = Vec::new();
                    let mut id = request.from;
                    while let Some(header) = self.nodes[i].log.header(&id) {
                        let enough = headers.len() >= usize::from(request.max);
                        if enough || header.height <= request.stop_height {
                            break;
                        }
                        headers.push(header.clone());
                        id = header.parent_id;
                    }
                    let to = self.node(epoch, to);
                    self.send(i, to, PeerMessage::Blocks(headers));
                }
                Effect::ServeEpochProof { to, epoch: of } => {
                    let proof = self.nodes[i].log.proofs.get(of.0 as usize).cloned();
                    if let Some(proof) = proof {
                        let to = self.node(epoch, to);
                        self.send(i, to, PeerMessage::EpochProof(Box::new(proof)));
                    }
                }
                Effect::EpochEnded { last } => self.nodes[i].ended = Some(last),
                Effect::Alarm(alarm) => panic!("node {i}: {alarm:?}"),
                Effect::Persist(_) | Effect::Evidence(_) => {}
            }
        }
    }

    /// Goes over to the next epoch, if one has ended.
    pub(super) fn start_next(&mut self, i: usize) {
        if self.nodes[i].stuck {
            return;
        }
        let Some(last) = self.nodes[i].ended.take() else {
            return;
        };
        let now = self.now(i);
        let next = self.next_epoch(i, &last);
        let proof = EpochProof::clone(&next.proof);
        let node = &mut self.nodes[i];
        let mut out = Vec::new();
        assert!(node.core.start_epoch(now, next.clone(), &mut out));
        // N7: once more changes nothing.
        assert!(!node.core.start_epoch(now, next, &mut Vec::new()));
        node.log.proofs.push(proof);
        self.effects(i, out);
        self.peers_up(i);
        self.input(i, Input::Tick);
    }

    pub(super) fn next_epoch(&mut self, i: usize, last: &SignedHeader) -> NextEpoch {
        let epoch = last.epoch.0 as usize + 1;
        let set = set_of(epoch as u64, self.members(epoch));
        let set = ValidatorSet::clone(&set);
        let (start, set) = EpochStart::after(CHAIN, last.header(), set);
        if self.starts.len() == epoch {
            self.starts.push((start, Arc::new(set)));
        }
        let (known, set) = self.starts[epoch].clone();
        assert_eq!(
            known, start,
            "everybody starts the epoch from the same block"
        );
        NextEpoch {
            me: self.member(epoch, i),
            set,
            start,
            proof: Arc::new(self.nodes[i].log.epoch_proof(last)),
        }
    }

    pub(super) fn hand_over(&mut self, from: usize, to: usize, message: PeerMessage) {
        if !(self.pass)(from, to, &message) {
            return;
        }
        let from = self.name(self.nodes[to].epoch(), from);
        let input = Input::from_message(from, Verified::trusted(message))
            .unwrap_or_else(|other| panic!("a core sends no {other:?}"));
        self.input(to, input);
    }

    /// Lets time pass, from event to event.
    pub(super) fn run_ms(&mut self, ms: u64) {
        let end = self.now_us + ms * 1_000;
        let mut events = 0u64;
        loop {
            events += 1;
            assert!(
                events < 10_000 * (ms + 1),
                "timers that are due and do nothing"
            );
            let timer = (0..self.nodes.len())
                .filter(|i| self.nodes[*i].up)
                .filter_map(|i| Some((self.nodes[i].core.next_deadline_us()?, i)))
                .min();
            let message = self.wire.front().map(|(at, ..)| *at);
            let next = timer.map(|(at, _)| at).into_iter().chain(message).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now_us = self.now_us.max(next);
            if message == Some(next) {
                let (_, from, to, message) = self.wire.pop_front().unwrap();
                self.hand_over(from, to, message);
            } else if let Some((_, i)) = timer {
                self.input(i, Input::Tick);
            }
        }
        self.now_us = end;
    }

    fn send(&mut self, from: usize, to: usize, message: PeerMessage) {
        self.wire
            .push_back((self.now_us + LATENCY_US, from, to, message));
    }

    /// Lowest committed height of the nodes that are up; all chains agree.
    pub(super) fn height(&self) -> u64 {
        let longest = self.nodes.iter().max_by_key(|node| node.commits.len());
        let longest = &longest.expect("there are nodes").commits;
        for node in &self.nodes {
            assert_eq!(node.commits[..], longest[..node.commits.len()], "one chain");
        }
        for (i, (height, _)) in longest.iter().enumerate() {
            assert_eq!(*height, i as u64 + 1, "in order, once, without gaps");
        }
        let up = self.nodes.iter().filter(|node| node.up);
        up.map(|node| node.commits.len() as u64).min().unwrap()
    }

    /// Asserts that everybody who is up commits at least `blocks` more in `ms`.
    #[track_caller]
    pub(super) fn progresses(&mut self, blocks: u64, ms: u64) {
        let before = self.height();
        self.run_ms(ms);
        let after = self.height();
        assert!(
            after >= before + blocks,
            "from {before} to {after} in {ms} ms"
        );
    }

    pub(super) fn crash(&mut self, i: usize) {
        self.nodes[i].up = false;
        self.nodes[i].ended = None;
        for j in (0..self.nodes.len()).filter(|j| *j != i) {
            let name = self.name(self.nodes[j].epoch(), i);
            self.input(j, Input::PeerDown(name));
        }
    }

    pub(super) fn restart(&mut self, i: usize) {
        let recovered = self.nodes[i].log.recovered();
        let epoch = self.nodes[i].log.proofs.len();
        self.nodes[i].core = self.core(i, epoch, recovered);
        if let Some(proof) = self.nodes[i].log.proofs.last() {
            let proof = Arc::new(proof.clone());
            self.nodes[i].core.remember_proof(proof);
        }
        self.nodes[i].up = true;
        for j in (0..self.nodes.len()).filter(|j| *j != i) {
            if self.nodes[j].up {
                let name = self.name(self.nodes[j].epoch(), i);
                self.input(j, Input::PeerUp(name));
            }
        }
        self.peers_up(i);
    }

    pub(super) fn leader(&self, round: u64) -> usize {
        self.maker.set.leader(Round(round)).at()
    }
}

#[test]
fn four_validators_commit() {
    let mut cluster = Cluster::new(4);
    cluster.progresses(100, 1_000);
    for node in &cluster.nodes {
        assert_eq!(node.core.status().counters.timeouts_signed, 0);
        assert_eq!(node.core.status().counters.certificates_pulled, 0);
    }
}

#[test]
fn an_idle_chain_ticks_at_the_idle_interval() {
    let mut cluster = Cluster::new(4);
    cluster
        .nodes
        .iter_mut()
        .for_each(|node| node.payload.work = false);
    cluster.run_ms(10_000);
    let height = cluster.height();
    assert!(
        (30..=45).contains(&height),
        "{height} blocks in 10 s at 250 ms"
    );
}

/// Scenario 1: the leader sends each half of the others another block; and three ways.
#[test]
fn scenario_1_an_equivocating_leader_forks_nobody() {
    for ways in [2u64, 3] {
        let mut cluster = Cluster::new(4);
        let liar = cluster.leader(1);
        cluster.nodes[liar].up = false;
        let victims: Vec<usize> = (0..4).filter(|i| *i != liar).collect();
        for (k, victim) in victims.iter().enumerate() {
            let mut draft = cluster.maker.draft(None, 1);
            draft.time_ms += k as u64 % ways;
            let header = cluster.maker.sign(draft);
            cluster.hand_over(liar, *victim, PeerMessage::Header(header));
        }
        cluster.progresses(8, 20_000);
    }
}

/// Scenario 10: one leader never speaks; rounds of the others commit.
#[test]
fn scenario_10_a_silent_validator_is_survived_and_then_skipped() {
    let mut cluster = Cluster::new(4);
    cluster.crash(2);
    cluster.progresses(4, 10_000);
    let before = cluster.height();
    cluster.run_ms(2_000);
    let after = cluster.height();
    assert!(
        after > before + 50,
        "skipped at once by now: {before} to {after} in 2 s"
    );
    cluster.restart(2);
    cluster.progresses(50, 10_000);
}

/// Scenario 10: two silent leaders of seven, one after the other.
#[test]
fn scenario_10_adjacent_silent_leaders_of_seven() {
    let mut cluster = Cluster::new(7);
    let (a, b) = (cluster.leader(3), cluster.leader(4));
    cluster.crash(a);
    cluster.crash(b);
    cluster.progresses(20, 30_000);
}

/// Scenario 10: a leader whose header reaches a quorum less one, or just F1.
#[test]
fn scenario_10_a_header_that_reaches_too_few() {
    for reached in [1usize, 2] {
        let mut cluster = Cluster::new(4);
        let liar = cluster.leader(5);
        let served: Vec<usize> = (0..4).filter(|i| *i != liar).take(reached).collect();
        cluster.pass = Box::new(move |from, to, message| {
            from != liar || !matches!(message, PeerMessage::Header(_)) || served.contains(&to)
        });
        cluster.progresses(10, 20_000);
    }
}

/// Scenario 11: one validator never gets votes or timeouts, only proposals and what it asks for.
#[test]
fn scenario_11_votes_withheld_from_one_are_replaced_by_pulled_certificates() {
    let mut cluster = Cluster::new(4);
    cluster.pass = Box::new(|_, to, message| {
        to != 3 || !matches!(message, PeerMessage::Vote(_) | PeerMessage::Timeout(_))
    });
    cluster.progresses(10, 20_000);
    assert!(cluster.nodes[3].core.status().counters.certificates_pulled > 0);
}

/// Scenario 12: half the nodes learn the QC of a round, half its TC; healed without help.
#[test]
fn scenario_12_split_knowledge_heals() {
    let mut cluster = Cluster::new(4);
    cluster.run_ms(50);
    // From here on votes reach only 0 and 1: they go ahead alone, the others time out.
    cluster.pass = Box::new(|_, to, message| {
        to < 2 || !matches!(message, PeerMessage::Vote(_) | PeerMessage::Qc(_))
    });
    cluster.run_ms(3_000);
    cluster.pass = Box::new(|_, _, _| true);
    cluster.progresses(20, 10_000);
}

/// Scenario 13: everybody crashes at once, again and again.
#[test]
fn scenario_13_all_crash_and_restart() {
    let mut cluster = Cluster::new(4);
    for k in 0..10 {
        cluster.run_ms(37 + k);
        cluster.wire.clear();
        (0..4).for_each(|i| cluster.crash(i));
        (0..4).for_each(|i| cluster.restart(i));
    }
    cluster.progresses(20, 10_000);
}

/// Scenario 13: a node that lost its blocks but kept its safety record gets them from peers.
#[test]
fn scenario_13_a_node_without_blocks_but_with_its_record_rejoins() {
    let mut cluster = Cluster::new(4);
    cluster.run_ms(500);
    cluster.crash(1);
    let recovered = cluster.nodes[1].log.recovered();
    cluster.nodes[1].log = Log::default();
    cluster.nodes[1].commits.clear();
    if let Some(record) = recovered.safety {
        cluster.nodes[1]
            .log
            .append(&crate::Record::Safety(Box::new(record)));
    }
    cluster.restart(1);
    cluster.progresses(20, 10_000);
    assert!(cluster.nodes[1].core.status().counters.votes_signed > 0);
}

/// Scenario 15: a clock that jumps an hour either way, on one node, and a stall of 30 s on all.
#[test]
fn scenario_15_clock_jumps_and_stalls() {
    let mut cluster = Cluster::new(4);
    for skew_ms in [3_600_000, -3_600_000, 1_500, -1_500, 0] {
        cluster.nodes[1].skew_ms = skew_ms;
        cluster.progresses(3, 20_000);
    }
    cluster.now_us += 30_000_000;
    cluster.progresses(20, 10_000);
}

/// A node that was away for thousands of blocks catches up from the others' stores and votes.
#[test]
fn a_node_that_was_away_long_catches_up_and_votes_again() {
    let mut cluster = Cluster::new(4);
    cluster.run_ms(100);
    cluster.crash(0);
    cluster.run_ms(30_000);
    let away = cluster.nodes[1].commits.len();
    assert!(away > 500, "{away}");
    cluster.restart(0);
    cluster.progresses(500, 20_000);
    let votes = cluster.nodes[0].core.status().counters.votes_signed;
    assert!(votes > 10, "{votes} votes since the restart");
}

/// A partition without a quorum on either side stops everything; healing starts it again.
#[test]
fn a_partition_heals() {
    let mut cluster = Cluster::new(4);
    cluster.run_ms(100);
    let before = cluster.height();
    cluster.pass = Box::new(|from, to, _| (from < 2) == (to < 2));
    cluster.run_ms(60_000);
    assert!(cluster.height() <= before + 2);
    cluster.pass = Box::new(|_, _, _| true);
    cluster.progresses(20, 30_000);
}
