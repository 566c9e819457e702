//! A small cluster in virtual time: whole mempools, their disks, a lossy network with seeded
//! delays, and in place of HotStuff an oracle that commits a leader's cut when a quorum of
//! validators finds it available.
//!
//! After every step it checks what must always hold: an acknowledged batch is on the disk of who
//! acknowledged it, a delivered batch is too, and no honest owner ever makes two batches for one
//! sequence number, across restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, LaneTip, SignedHeader};
use falconet_types::genesis::Params;
use falconet_types::message::{Admission, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::validators::ValidatorSet;
use falconet_types::{Digest, Height, Seq, ValidatorIndex};

use super::fixtures::*;
use crate::limits::*;
use crate::{Effect, Evidence, Input, Mempool, OwnLaneState, Recovered};

enum Event {
    Message {
        from: usize,
        to: usize,
        message: Box<PeerMessage>,
    },
    Commit {
        to: usize,
    },
    Execute {
        to: usize,
        height: Height,
    },
    Tick {
        to: usize,
    },
    Round,
}

/// What survives a crash, and what the checks remember.
#[derive(Default)]
pub struct Node {
    pub core: Option<Mempool>,
    pub disk: Vec<Batch>,
    on_disk: BTreeSet<Digest>,
    /// Batches of each delivered block, from height 1.
    pub delivered: Vec<Vec<Digest>>,
    /// Committed heights handed in.
    fed: u64,
    executed: u64,
    pub evidence: Vec<Evidence>,
    /// Hash of each batch that this node sealed.
    sealed: BTreeMap<Seq, Digest>,
    tick_us: Option<u64>,
    /// Stops execution while set.
    pub stuck: bool,
}

/// Changes what a node sends: the messages that go out instead.
pub type Tamper = Box<dyn FnMut(usize, usize, PeerMessage) -> Vec<PeerMessage>>;

/// Makes a cut on a parent's cut.
pub type Proposer = Box<dyn FnMut(&Cut) -> Cut>;

pub struct Net {
    pub set: Arc<ValidatorSet>,
    pub params: Params,
    pub nodes: Vec<Node>,
    pub blocks: Vec<Arc<SignedHeader>>,
    pub rng: fastrand::Rng,
    pub now_us: u64,
    events: BTreeMap<(u64, u64), Event>,
    event_number: u64,
    round: usize,
    pub loss_per_mille: u64,
    pub delay_us_max: u64,
    /// Pairs that cannot talk to each other.
    pub cut_links: BTreeSet<(usize, usize)>,
    pub tamper: Option<Tamper>,
    admitted: u64,
    /// Leaders that propose something else than what the core says.
    pub bad_leader: Option<(usize, Proposer)>,
}

impl Net {
    /// `n` validators, of which those in `absent` run no code of ours.
    pub fn new(n: usize, absent: &[usize], params: Params, seed: u64) -> Self {
        let mut net = Self {
            set: set(n),
            params,
            nodes: (0..n).map(|_| Node::default()).collect(),
            blocks: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            now_us: 1_000_000,
            events: BTreeMap::new(),
            event_number: 0,
            round: 0,
            loss_per_mille: 0,
            delay_us_max: 5_000,
            cut_links: BTreeSet::new(),
            tamper: None,
            admitted: 0,
            bad_leader: None,
        };
        for node in 0..n {
            if !absent.contains(&node) {
                net.start(node);
            }
        }
        net.push(20_000, Event::Round);
        net
    }

    /// Starts a node from its disk.
    pub fn start(&mut self, node: usize) {
        let n = self.nodes.len();
        let state = &mut self.nodes[node];
        assert!(state.core.is_none(), "it runs already");
        let executed = state.executed;
        let cut = match executed {
            0 => Cut::empty(n),
            height => self.blocks[height as usize - 1].cut.clone(),
        };
        let above = |batch: &&Batch| batch.header().seq > cut.0[batch.header().lane.at()].seq;
        let batches = state.disk.iter().filter(above).cloned().collect();
        let recovered = Recovered {
            executed: Height(executed),
            cut,
            batches,
            unsettled: Vec::new(),
        };
        let config = config(node, &self.set, self.params.clone());
        let signer = Box::new(FakeSigner(v(node)));
        state.core = Some(Mempool::new(config, signer, recovered).expect("it starts"));
        state.delivered.truncate(executed as usize);
        state.fed = executed;
        for _ in executed..self.blocks.len() as u64 {
            self.push(1, Event::Commit { to: node });
        }
        for peer in 0..n {
            if peer != node && self.nodes[peer].core.is_some() {
                self.step(node, Input::PeerUp(v(peer)));
                self.step(peer, Input::PeerUp(v(node)));
            }
        }
        self.step(node, Input::Tick);
    }

    /// Kills a node: all that is not on its disk is gone.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].core = None;
        self.nodes[node].tick_us = None;
        self.events.retain(|_, event| {
            !matches!(event,
                Event::Commit { to } | Event::Execute { to, .. } | Event::Tick { to }
                    | Event::Message { to, .. } if *to == node)
        });
        for peer in 0..self.nodes.len() {
            if self.nodes[peer].core.is_some() {
                self.step(peer, Input::PeerDown(v(node)));
            }
        }
    }

    /// Lifts the partition; the connections that it broke come up again.
    pub fn heal(&mut self) {
        for (from, to) in std::mem::take(&mut self.cut_links) {
            if self.nodes[from].core.is_some() && self.nodes[to].core.is_some() && from != to {
                self.step(to, Input::PeerDown(v(from)));
                self.step(to, Input::PeerUp(v(from)));
            }
        }
    }

    pub fn admit(&mut self, node: usize, bytes: usize) -> Admission {
        self.admitted += 1;
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.admitted.to_le_bytes());
        let mut tx = vec![0; bytes.max(8)];
        tx[..8].copy_from_slice(&self.admitted.to_le_bytes());
        let now = at(self.now_us);
        let core = self.nodes[node].core.as_mut().expect("it runs");
        let admission = core.admit(now, Digest(id), Bytes::from(tx));
        self.schedule_tick(node);
        admission
    }

    /// Sends a message as if `from` had made it.
    pub fn inject(&mut self, from: usize, to: usize, message: PeerMessage) {
        let delay_us = 1 + self.rng.u64(..self.delay_us_max);
        let message = Box::new(message);
        self.push(delay_us, Event::Message { from, to, message });
    }

    pub fn run(&mut self, us: u64) {
        let end_us = self.now_us + us;
        while let Some(((at_us, _), _)) = self.events.first_key_value() {
            if *at_us > end_us {
                break;
            }
            let ((at_us, _), event) = self.events.pop_first().expect("it is the first");
            self.now_us = at_us;
            self.dispatch(event);
        }
        self.now_us = end_us;
    }

    /// Runs with a load of `per_node` transactions of `bytes` each, spread over `us`.
    pub fn run_loaded(&mut self, us: u64, per_node: u64, bytes: usize) -> u64 {
        let mut accepted = 0;
        for _ in 0..per_node {
            for node in 0..self.nodes.len() {
                if self.nodes[node].core.is_some() {
                    accepted += u64::from(self.admit(node, bytes) == Admission::Accepted);
                }
            }
            self.run(us / per_node);
        }
        accepted
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Message { from, to, message } => {
                if self.nodes[to].core.is_none() || self.cut_links.contains(&(from, to)) {
                    return;
                }
                let from = v(from);
                let input = match *message {
                    PeerMessage::Batch(bytes) => {
                        let batch = Batch::parse(bytes).expect("tampering keeps the form");
                        Input::Batch {
                            from,
                            batch: Verified::trusted(batch),
                        }
                    }
                    PeerMessage::Watermark(watermark) => Input::Watermark { from, watermark },
                    PeerMessage::GetBatches(request) => Input::GetBatches { from, request },
                    other => panic!("not a mempool message: {other:?}"),
                };
                self.step(to, input);
            }
            Event::Commit { to } => {
                let Some(core) = &self.nodes[to].core else {
                    return;
                };
                if core.committed_room() == 0 {
                    return self.push(1_000, Event::Commit { to });
                }
                let height = self.nodes[to].fed;
                self.nodes[to].fed += 1;
                let header = self.blocks[height as usize].clone();
                let parent_cut = self.cut_at(height);
                self.step(to, Input::Committed { header, parent_cut });
            }
            Event::Execute { to, height } => {
                if self.nodes[to].stuck {
                    return self.push(10_000, Event::Execute { to, height });
                }
                self.nodes[to].executed = height.0;
                self.step(to, Input::Executed { height });
            }
            Event::Tick { to } => {
                self.nodes[to].tick_us = None;
                self.step(to, Input::Tick);
            }
            Event::Round => {
                self.propose();
                self.push(20_000, Event::Round);
            }
        }
    }

    /// One round of the oracle.
    fn propose(&mut self) {
        self.round += 1;
        let leader = self.round % self.nodes.len();
        let parent = self.cut_at(self.blocks.len() as u64);
        let cut = match (&mut self.bad_leader, &self.nodes[leader].core) {
            (Some((bad, make)), _) if *bad == leader => make(&parent),
            (_, Some(core)) => core.propose(&parent),
            (_, None) => return,
        };
        if cut == parent && !self.round.is_multiple_of(5) {
            return;
        }
        let votes = self.nodes.iter().enumerate().filter_map(|(i, node)| {
            let core = node.core.as_ref();
            // A Byzantine validator votes for everything.
            core.is_none_or(|core| core.available(&parent, &cut))
                .then_some(v(i))
        });
        let running = |i: &ValidatorIndex| {
            self.nodes[i.at()].core.is_some()
                || self
                    .bad_leader
                    .as_ref()
                    .is_some_and(|(bad, _)| *bad == i.at())
        };
        let votes: Vec<ValidatorIndex> = votes.filter(running).collect();
        if self.set.weight_of(votes) < self.set.quorum_weight() {
            return;
        }
        self.blocks.push(header(self.blocks.len() as u64 + 1, cut));
        for to in 0..self.nodes.len() {
            if self.nodes[to].core.is_some() {
                let delay_us = 1 + self.rng.u64(..2 * self.delay_us_max);
                self.push(delay_us, Event::Commit { to });
            }
        }
    }

    pub fn cut_at(&self, height: u64) -> Cut {
        match height {
            0 => Cut::empty(self.nodes.len()),
            height => self.blocks[height as usize - 1].cut.clone(),
        }
    }

    fn push(&mut self, delay_us: u64, event: Event) {
        self.event_number += 1;
        self.events
            .insert((self.now_us + delay_us, self.event_number), event);
    }

    fn step(&mut self, index: usize, input: Input) {
        let now = at(self.now_us);
        let mut out = Vec::new();
        let node = &mut self.nodes[index];
        node.core
            .as_mut()
            .expect("it runs")
            .handle(now, input, &mut out);
        // The turn's records first: nothing leaves before.
        for batch in persisted(&out) {
            if batch.header().lane == v(index) && batch.header().seq > Seq::ZERO {
                let known = node
                    .sealed
                    .entry(batch.header().seq)
                    .or_insert(batch.hash());
                assert_eq!(*known, batch.hash(), "node {index} sealed a second branch");
            }
            if node.on_disk.insert(batch.hash()) {
                node.disk.push(batch);
            }
        }
        for effect in out {
            self.apply(index, effect);
        }
        self.check_bounds(index);
        self.schedule_tick(index);
    }

    fn apply(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Persist(_)
            | Effect::PayloadChanged
            | Effect::Prune { .. }
            | Effect::Sealed { .. } => {}
            Effect::Broadcast(message) => {
                for to in 0..self.nodes.len() {
                    self.send(index, to, message.clone());
                }
            }
            Effect::Send { to, message } => self.send(index, to.at(), message),
            Effect::Serve {
                to,
                epoch: _,
                lane,
                first,
                last,
                bytes_max,
            } => {
                let mut bytes = 0;
                for seq in (first.0..=last.0).rev() {
                    let here = |b: &&Batch| (b.header().lane, b.header().seq.0) == (lane, seq);
                    let found: Vec<Batch> = self.nodes[index]
                        .disk
                        .iter()
                        .filter(here)
                        .cloned()
                        .collect();
                    for batch in found {
                        bytes += batch.bytes().len() as u64;
                        self.send(index, to.at(), PeerMessage::Batch(batch.bytes().clone()));
                    }
                    if bytes >= bytes_max {
                        break;
                    }
                }
            }
            Effect::Deliver(payload) => {
                let node = &mut self.nodes[index];
                let height = payload.header.height;
                assert_eq!(height.0, node.delivered.len() as u64 + 1, "in height order");
                for batch in &payload.batches {
                    assert!(
                        node.on_disk.contains(&batch.hash()),
                        "delivered, not durable"
                    );
                }
                node.delivered.push(hashes(&payload.batches));
                let delay_us = 1 + self.rng.u64(..self.delay_us_max);
                self.push(delay_us, Event::Execute { to: index, height });
            }
            Effect::Evidence(evidence) => {
                assert!(evidence.is_conflict());
                self.nodes[index].evidence.push(*evidence);
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: PeerMessage) {
        if from == to {
            return;
        }
        if let PeerMessage::Watermark(watermark) = &message {
            for (_, tip) in &watermark.tips {
                let durable = self.nodes[from].on_disk.contains(&tip.hash);
                assert!(durable, "node {from} acknowledged what is not on its disk");
            }
        }
        let messages = match &mut self.tamper {
            Some(tamper) => tamper(from, to, message),
            None => vec![message],
        };
        for message in messages {
            if self.rng.u64(..1_000) >= self.loss_per_mille {
                self.inject(from, to, message);
            }
        }
    }

    fn check_bounds(&self, index: usize) {
        let status = self.nodes[index].core.as_ref().expect("it runs").status();
        let backlog_max = self.params.lane_backlog_bytes_max;
        for lane in &status.lanes {
            // Batches of committed blocks are taken whatever the quota says.
            assert!(
                lane.backlog_bytes <= 2 * backlog_max + backlog_max / 2,
                "{lane:?}"
            );
        }
        assert!(status.requests <= REQUESTS_MAX);
        assert!(status.pending_bytes <= PENDING_BYTES_MAX);
        assert!(status.delivered.0 <= status.executed.0 + PAYLOAD_WINDOW_BLOCKS);
    }

    fn schedule_tick(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let deadline_us = node.core.as_ref().and_then(Mempool::next_deadline_us);
        let Some(at_us) = deadline_us else { return };
        let at_us = at_us.max(self.now_us + 1);
        if node.tick_us.is_none_or(|tick_us| at_us < tick_us) {
            node.tick_us = Some(at_us);
            self.push(at_us - self.now_us, Event::Tick { to: index });
        }
    }

    /// Stops proposing, lets everything arrive, and checks that every running node delivered every
    /// block, and all the same. Returns the number of batches.
    pub fn assert_agreement(&mut self) -> usize {
        self.events
            .retain(|_, event| !matches!(event, Event::Round));
        self.run(3_000_000);
        let reference = self
            .nodes
            .iter()
            .find(|node| node.core.is_some())
            .expect("one runs");
        for (index, node) in self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, n)| n.core.is_some())
        {
            let status = node.core.as_ref().expect("it runs").status();
            assert_eq!(
                node.delivered.len(),
                self.blocks.len(),
                "node {index}: {status:?}"
            );
            assert_eq!(node.delivered, reference.delivered, "node {index}");
        }
        reference.delivered.iter().map(Vec::len).sum()
    }

    /// Everything that was sealed by running nodes is committed.
    pub fn assert_drained(&self) {
        let cut = self.cut_at(self.blocks.len() as u64);
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some(core) = &node.core {
                let status = core.status();
                assert_eq!(status.own_lane, OwnLaneState::Open, "node {index}");
                assert_eq!((status.pending_txs, status.fetch_debt_batches), (0, 0));
                assert_eq!(
                    cut.0[index], status.lanes[index].tip,
                    "lane {index} is stuck"
                );
            }
        }
    }

    pub fn tip_of(&self, node: usize, lane: usize) -> LaneTip {
        self.nodes[node]
            .core
            .as_ref()
            .expect("it runs")
            .status()
            .lanes[lane]
            .tip
    }
}
