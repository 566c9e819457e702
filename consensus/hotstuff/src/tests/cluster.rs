//! Four or seven cores that talk to one another: the named liveness scenarios. Delivery is in
//! order after a millisecond; a filter decides what is lost. The simulator in `tests/` does the rest.

use std::collections::VecDeque;

use falconet_types::message::PeerMessage;
use falconet_types::signing::Verified;
use falconet_types::time::Now;
use falconet_types::{BlockId, Round, ValidatorIndex};

use super::harness::{FakeSigner, GENESIS_MS, Log, Maker, Said, TestPayload, config, set, signer};
use crate::{Effect, HotStuff, Input, Recovered};

/// One way, microseconds.
const LATENCY_US: u64 = 1_000;

struct Node {
    core: HotStuff,
    payload: TestPayload,
    log: Log,
    commits: Vec<(u64, BlockId)>,
    up: bool,
    /// Offset of its wall clock, milliseconds.
    skew_ms: i64,
}

type Filter = Box<dyn FnMut(usize, usize, &PeerMessage) -> bool>;

struct Cluster {
    nodes: Vec<Node>,
    maker: Maker,
    now_us: u64,
    wire: VecDeque<(u64, usize, usize, PeerMessage)>,
    /// True lets a message pass.
    pass: Filter,
}

impl Cluster {
    fn new(n: usize) -> Self {
        let set = set(n);
        let nodes = (0..n)
            .map(|i| {
                let me = ValidatorIndex(i as u16);
                let key: Box<FakeSigner> = Box::new(signer(me));
                Node {
                    core: HotStuff::new(config(&set, me), key, Recovered::default()).unwrap(),
                    payload: TestPayload {
                        work: true,
                        ..TestPayload::default()
                    },
                    log: Log::default(),
                    commits: Vec::new(),
                    up: true,
                    skew_ms: 0,
                }
            })
            .collect();
        let mut cluster = Self {
            nodes,
            maker: Maker { set },
            now_us: 1_000_000,
            wire: VecDeque::new(),
            pass: Box::new(|_, _, _| true),
        };
        cluster.connect_all();
        cluster
    }

    fn connect_all(&mut self) {
        for i in 0..self.nodes.len() {
            for j in 0..self.nodes.len() {
                if i != j && self.nodes[i].up && self.nodes[j].up {
                    self.input(i, Input::PeerUp(ValidatorIndex(j as u16)));
                }
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

    fn input(&mut self, i: usize, input: Input) {
        if !self.nodes[i].up {
            return;
        }
        let now = self.now(i);
        let node = &mut self.nodes[i];
        let mut out = Vec::new();
        node.core.handle(now, input, &node.payload, &mut out);
        let said = Said(out);
        said.records().for_each(|record| node.log.append(record));
        for effect in said.0 {
            match effect {
                Effect::Broadcast(message) => {
                    for j in (0..self.nodes.len()).filter(|j| *j != i) {
                        self.send(i, j, message.clone());
                    }
                }
                Effect::Send { to, message } => self.send(i, to.at(), message),
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
                    self.send(i, to.at(), PeerMessage::Blocks(headers));
                }
                Effect::Alarm(alarm) => panic!("node {i}: {alarm:?}"),
                Effect::Persist(_) | Effect::Evidence(_) => {}
            }
        }
    }

    fn hand_over(&mut self, from: usize, to: usize, message: PeerMessage) {
        if !(self.pass)(from, to, &message) {
            return;
        }
        let from = ValidatorIndex(from as u16);
        let input = match message {
            PeerMessage::Header(m) => Input::Header {
                from,
                header: Verified::trusted(m),
            },
            PeerMessage::Vote(m) => Input::Vote {
                from,
                vote: Verified::trusted(m),
            },
            PeerMessage::Timeout(m) => Input::Timeout {
                from,
                timeout: Verified::trusted(m),
            },
            PeerMessage::Qc(m) => Input::Qc {
                from,
                qc: Verified::trusted(m),
            },
            PeerMessage::Tc(m) => Input::Tc {
                from,
                tc: Verified::trusted(m),
            },
            PeerMessage::CertRefs(refs) => Input::CertRefs { from, refs },
            PeerMessage::GetCert(cert) => Input::GetCert { from, cert },
            PeerMessage::GetBlocks(request) => Input::GetBlocks { from, request },
            PeerMessage::Blocks(headers) => Input::Blocks {
                from,
                headers: headers.into_iter().map(Verified::trusted).collect(),
            },
            other => panic!("a core sends no {other:?}"),
        };
        self.input(to, input);
    }

    /// Lets time pass, from event to event.
    fn run_ms(&mut self, ms: u64) {
        let end = self.now_us + ms * 1_000;
        loop {
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
    fn height(&self) -> u64 {
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
    fn progresses(&mut self, blocks: u64, ms: u64) {
        let before = self.height();
        self.run_ms(ms);
        let after = self.height();
        assert!(
            after >= before + blocks,
            "from {before} to {after} in {ms} ms"
        );
    }

    fn crash(&mut self, i: usize) {
        self.nodes[i].up = false;
        for j in 0..self.nodes.len() {
            self.input(j, Input::PeerDown(ValidatorIndex(i as u16)));
        }
    }

    fn restart(&mut self, i: usize) {
        let me = ValidatorIndex(i as u16);
        let key: Box<FakeSigner> = Box::new(signer(me));
        let recovered = self.nodes[i].log.recovered();
        let config = config(&self.maker.set, me);
        self.nodes[i].core = HotStuff::new(config, key, recovered).unwrap();
        self.nodes[i].up = true;
        for j in (0..self.nodes.len()).filter(|j| *j != i) {
            if self.nodes[j].up {
                self.input(j, Input::PeerUp(me));
                self.input(i, Input::PeerUp(ValidatorIndex(j as u16)));
            }
        }
    }

    fn leader(&self, round: u64) -> usize {
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
