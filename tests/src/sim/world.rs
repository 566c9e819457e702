//! Virtual time and everything in it.

mod lifecycle;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use falconet_crypto::hash::Hasher;
use falconet_types::Digest;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Signed;
use falconet_types::time::Now;

use super::checkers::{
    Agreement, Availability, Check, Locks, Promises, SelfConsistency, Violation, conservation,
    extends_genesis,
};
use super::keys::{self, GENESIS_MS};
use super::network::{Fate, Network};
use super::node::{Chain, Node, Setup, Turn};
use super::rng::Rng;
use super::scenario::{CrashPoint, Fault, Scenario};
use super::workload::{Submission, Workload};

/// Events in one run; a run that needs more goes round in circles.
const EVENTS_MAX: u64 = 3_000_000;
/// Blocks that every correct node must commit after the last fault.
const BLOCKS_AFTER_CALM: u64 = 5;
/// One message in so many is encoded, parsed and compared, and its structure checked as a
/// receiver's verify stage would.
const WIRE_CHECK: u64 = 16;
/// A client waits this long before it tries the next validator, microseconds.
const CLIENT_RETRY_US: u64 = 100_000;

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
    /// Pieces of evidence that correct nodes found; only against twins.
    pub accusations: usize,
    /// From the last fault until all was in order, virtual microseconds.
    pub recovery_us: u64,
}

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
    Link {
        node: usize,
        life: u64,
        peer: usize,
        up: bool,
    },
    Submit(Box<Submission>),
    Fault(Fault),
}

/// A run under way.
pub struct World {
    scenario: Scenario,
    rng: Rng,
    chain: Chain,
    nodes: Vec<Node>,
    network: Network,
    workload: Workload,
    now_us: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    stalled_until_us: Vec<u64>,
    crash_points: Vec<Option<CrashPoint>>,
    crashes: u64,
    accusations: usize,
    log: Hasher,
    tell: bool,
    setup: Setup,
    agreement: Agreement,
    consistency: SelfConsistency,
    locks: Locks,
    availability: Availability,
    promises: Promises,
}

impl World {
    /// The world of a scenario at time 0. With `tell`, every event is printed.
    #[must_use]
    pub fn new(scenario: Scenario, tell: bool) -> Self {
        let n = scenario.n;
        let count = scenario.nodes();
        let genesis = keys::genesis(scenario.seed, n, scenario.params.clone());
        let chain = Chain {
            id: genesis.chain_id(),
            set: Arc::new(genesis.validator_set().expect("a valid set")),
            genesis,
        };
        let mut rng = Rng::new(!scenario.seed);
        let workload = Workload::random(&mut rng, chain.id, n, scenario.calm_us);
        let mut world = Self {
            nodes: (0..count)
                .map(|i| Node::new(i, scenario.validator_of(i)))
                .collect(),
            network: Network::new(count),
            now_us: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            stalled_until_us: vec![0; count],
            crash_points: vec![None; count],
            crashes: 0,
            accusations: 0,
            log: Hasher::new("simulation/log"),
            tell,
            setup: |_, _| {},
            agreement: Agreement::default(),
            consistency: SelfConsistency::default(),
            locks: Locks::default(),
            availability: Availability::default(),
            promises: Promises::default(),
            rng,
            chain,
            workload,
            scenario,
        };
        for (at, fault) in world.scenario.faults.clone() {
            world.schedule(at, Event::Fault(fault));
        }
        for submission in world.workload.submissions.clone() {
            world.schedule(submission.at_us, Event::Submit(Box::new(submission)));
        }
        world
    }

    /// Calls `setup` for each HotStuff core that starts.
    #[must_use]
    pub fn with_setup(mut self, setup: Setup) -> Self {
        self.setup = setup;
        self
    }

    /// Runs to the end, or to the first broken promise.
    pub fn run(mut self) -> Result<Outcome, Violation> {
        self.run_to_end().map_err(|violation| {
            format!(
                "seed {}: at {} us: {violation}\n  {:?}\n  again, told step by step: cargo run -p falconet-tests --example seed -- {}",
                self.scenario.seed, self.now_us, self.scenario, self.scenario.seed
            )
        })
    }

    fn run_to_end(&mut self) -> Result<Outcome, Violation> {
        for i in 0..self.nodes.len() {
            self.start(i)?;
        }
        let mut events = 0;
        let mut target = None;
        loop {
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
                Some(node) => {
                    let now = self.now(node);
                    self.nodes[node].tick(now);
                    self.after_turns(node)?;
                }
            }
            events += 1;
            if events > EVENTS_MAX {
                return Err(format!("{EVENTS_MAX} events and no end"));
            }
            if self.now_us > self.scenario.calm_us {
                let target =
                    *target.get_or_insert_with(|| self.agreement.highest() + BLOCKS_AFTER_CALM);
                if self.in_order(target) {
                    break;
                }
            }
        }
        for (i, node) in self.nodes.iter().enumerate() {
            if let Some(view) = node.view().filter(|_| self.scenario.correct(i)) {
                conservation(i, &view)?;
                self.promises.conflicts(i, &self.workload.conflicts)?;
            }
        }
        let log = std::mem::replace(&mut self.log, Hasher::new("simulation/log"));
        Ok(Outcome {
            log: log.finish(),
            events,
            height: self.agreement.highest(),
            acknowledged: self.promises.count(),
            crashes: self.crashes,
            accusations: self.accusations,
            recovery_us: self.now_us - self.scenario.calm_us,
        })
    }

    /// The next thing to happen: an event of the queue, or a node's timer.
    fn next(&self) -> Option<(u64, Option<usize>)> {
        let event = self.queue.first_key_value().map(|((at, _), _)| *at);
        let timer = self
            .nodes
            .iter()
            .filter_map(|node| {
                let at = node.deadline_us()?;
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

    /// Everybody who is correct committed enough, executed all of it, and owes no client anything.
    fn in_order(&self, target: u64) -> bool {
        (0..self.nodes.len())
            .filter(|i| self.scenario.correct(*i))
            .all(|i| {
                let (committed, executed) = self.agreement.heights_of(i);
                committed >= target && executed >= target && self.promises.open(i) == 0
            })
    }

    fn stuck(&self) -> Violation {
        let mut text = String::from("not in order long after the last fault:");
        for (i, node) in self.nodes.iter().enumerate() {
            let (committed, executed) = self.agreement.heights_of(i);
            let open = self.promises.open(i);
            let _ = write!(
                text,
                "\n  node {i}: committed {committed}, executed {executed}, {open} transactions open"
            );
            if let Some(live) = &node.live {
                let hotstuff = live.hotstuff.status();
                let _ = write!(
                    text,
                    "; round {} by QC {} or TC {}, locked {}, not signing: {:?}, syncing: {}",
                    hotstuff.round,
                    hotstuff.high_qc_round,
                    hotstuff.high_tc_round,
                    hotstuff.locked_round,
                    hotstuff.not_signing,
                    hotstuff.syncing
                );
                let _ = write!(text, "; own lane {:?}", live.mempool.status().own_lane);
            }
        }
        text
    }

    fn handle(&mut self, event: Event) -> Check {
        match event {
            Event::Deliver {
                from,
                to,
                generation,
                message,
            } => {
                let same = self.network.generation(from, to) == generation;
                if !same || !self.network.connected(from, to) || self.nodes[to].live.is_none() {
                    return Ok(());
                }
                if self.postpone(to) {
                    let at = self.stalled_until_us[to];
                    self.schedule(
                        at,
                        Event::Deliver {
                            from,
                            to,
                            generation,
                            message,
                        },
                    );
                    return Ok(());
                }
                self.note(|| format!("{to} <- {from}: {}", brief(&message)));
                let now = self.now(to);
                let from = self.scenario.validator_of(from);
                self.nodes[to].peer(now, from, *message);
                self.after_turns(to)
            }
            Event::Synced { node, life } => self.synced(node, life),
            Event::Executed { node, life } => self.executed(node, life),
            Event::Link {
                node,
                life,
                peer,
                up,
            } => {
                if self.nodes[node].life != life || self.nodes[node].live.is_none() {
                    return Ok(());
                }
                if up && (!self.network.connected(node, peer) || self.nodes[peer].live.is_none()) {
                    return Ok(());
                }
                self.note(|| {
                    format!(
                        "{node}: connection to {peer} {}",
                        if up { "up" } else { "down" }
                    )
                });
                let now = self.now(node);
                let peer = self.scenario.validator_of(peer);
                self.nodes[node].link(now, peer, up);
                self.after_turns(node)
            }
            Event::Submit(submission) => self.submit(*submission),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    fn submit(&mut self, submission: Submission) -> Check {
        let to = submission.to;
        let now = self.now(to);
        let answer = if self.postpone(to) {
            None
        } else {
            self.nodes[to].submit(now, &submission.tx)
        };
        let id = submission.tx.id();
        self.note(|| format!("{to} <- client: {} {answer:?}", id.short()));
        // Clients retry until calm is over: what was never accepted is no promise.
        if Workload::tries_again(answer) && self.now_us < self.scenario.calm_us + 1_000_000 {
            let next = Submission {
                to: (to + 1) % self.scenario.n,
                ..submission
            };
            let at = self.now_us + CLIENT_RETRY_US;
            self.schedule(at, Event::Submit(Box::new(next)));
        }
        self.after_turns(to)
    }

    /// After anything that made turns: starts a sync, or dies before it.
    fn after_turns(&mut self, i: usize) -> Check {
        if self.nodes[i].live.is_none() {
            return Ok(());
        }
        if self.crash_points[i] == Some(CrashPoint::BeforeSync) && self.nodes[i].disk.pending() > 0
        {
            let survive = self.rng.index(self.nodes[i].disk.pending() + 1);
            return self.crash(i, survive);
        }
        let node = &mut self.nodes[i];
        let life = node.life;
        let live = node.live.as_mut().expect("checked above");
        if live.syncing.is_none() && !live.turns.is_empty() {
            let nothing = live.turns.iter().all(|turn| turn.records == 0);
            live.syncing = Some(live.turns.len());
            let (least, most) = self.scenario.sync_us;
            let wait = if nothing {
                0
            } else {
                self.rng.between(least, most)
            };
            let at = self.now_us + wait;
            self.schedule(at, Event::Synced { node: i, life });
        }
        Ok(())
    }

    fn synced(&mut self, i: usize, life: u64) -> Check {
        let node = &mut self.nodes[i];
        if node.life != life {
            return Ok(());
        }
        let Some(live) = &mut node.live else {
            return Ok(());
        };
        let count = live.syncing.take().expect("a sync was under way");
        let turns: Vec<Turn> = live.turns.drain(..count).collect();
        let records: usize = turns.iter().map(|turn| turn.records).sum();
        node.disk.sync(records);
        if let Some(record) = node.disk.safety()
            && self.scenario.correct(i)
        {
            self.locks.durable(i, record)?;
        }
        if records > 0 && self.crash_points[i] == Some(CrashPoint::AfterSync) {
            return self.crash(i, 0);
        }
        for turn in turns {
            self.release(i, turn)?;
            if self.nodes[i].live.is_none() {
                return Ok(());
            }
        }
        self.execute_next(i);
        self.after_turns(i)
    }

    /// What a durable turn promised may leave now.
    fn release(&mut self, i: usize, turn: Turn) -> Check {
        let correct = self.scenario.correct(i);
        if correct {
            if let Some(alarm) = turn.alarms.first() {
                return Err(format!("node {i} raises an alarm: {alarm:?}"));
            }
            let wrong = |accused: &&usize| !self.scenario.twins.contains(accused);
            if let Some(accused) = turn.accused.iter().find(wrong) {
                return Err(format!(
                    "node {i} accuses validator {accused}, which is correct"
                ));
            }
            self.accusations += turn.accused.len();
            for id in &turn.acknowledged {
                self.promises.acknowledged(*id);
            }
        }
        for block in &turn.commits {
            self.note(|| {
                let (height, id) = (block.header.height, block.header.id());
                format!("{i} commits {height} {}", id.short())
            });
            if correct {
                extends_genesis(block, self.chain.id)?;
                let disk = &self.nodes[i].disk;
                self.agreement.committed(i, block, &self.chain.set, disk)?;
                let disks: Vec<_> = self
                    .nodes
                    .iter()
                    .filter(|node| self.scenario.correct(node.index))
                    .map(|node| &node.disk)
                    .collect();
                self.availability.committed(block, &disks)?;
            }
        }
        let mut left = usize::MAX;
        if self.crash_points[i] == Some(CrashPoint::WhileSending) && turn.sends.len() > 1 {
            left = self.rng.index(turn.sends.len());
        }
        for (to, message) in turn.sends {
            if left == 0 {
                return self.crash(i, 0);
            }
            left -= 1;
            if correct {
                self.consistency.sent(i, &message)?;
            }
            self.send_to(i, to, message)?;
        }
        for (to, request) in turn.history {
            for message in self.nodes[i].history(&request) {
                self.send_to(i, Some(to), message)?;
            }
        }
        let live = self.nodes[i].live.as_mut().expect("it did not crash");
        live.to_execute.extend(turn.payloads);
        Ok(())
    }

    /// Sends to a validator (twins both get it), or to all others.
    fn send_to(&mut self, from: usize, to: Option<usize>, message: PeerMessage) -> Check {
        let me = self.scenario.validator_of(from);
        if let Some(to) = to
            && (to >= self.scenario.n || to == me)
        {
            return Err(format!("node {from} sends {} to {to}", brief(&message)));
        }
        for node in 0..self.nodes.len() {
            let validator = self.scenario.validator_of(node);
            if validator != me && to.is_none_or(|to| to == validator) {
                self.send(from, node, message.clone())?;
            }
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, message: PeerMessage) -> Check {
        if self.rng.below(WIRE_CHECK) == 0 {
            let parsed = PeerMessage::parse(message.kind(), &message.payload());
            if parsed.as_ref() != Ok(&message) {
                return Err(format!("{message:?} does not survive its own encoding"));
            }
            let structure = message.claims(self.chain.id, &self.chain.set, &mut Vec::new());
            structure.map_err(|why| format!("node {from} sends {message:?}: {why}"))?;
        }
        match self.network.fate(from, to, &mut self.rng) {
            Fate::Lost => {}
            Fate::Reset => self.reset(from, to),
            Fate::Arrives(delay, again) => {
                let generation = self.network.generation(from, to);
                for delay in [Some(delay), again].into_iter().flatten() {
                    let event = Event::Deliver {
                        from,
                        to,
                        generation,
                        message: Box::new(message.clone()),
                    };
                    self.schedule(self.now_us + delay, event);
                }
            }
        }
        Ok(())
    }

    fn execute_next(&mut self, i: usize) {
        if self.nodes[i].begin_execution() {
            let (least, most) = self.scenario.execute_us;
            let at = self.now_us + self.rng.between(least, most);
            let life = self.nodes[i].life;
            self.schedule(at, Event::Executed { node: i, life });
        }
    }

    fn executed(&mut self, i: usize, life: u64) -> Check {
        if self.nodes[i].life != life {
            return Ok(());
        }
        let now = self.now(i);
        let Some((payload, result)) = self.nodes[i].executed(now) else {
            return Ok(());
        };
        self.note(|| {
            format!(
                "{i} executed {} {}",
                result.height,
                result.commitment().short()
            )
        });
        if payload.header.height != result.height {
            return Err(format!("node {i} executed another height than delivered"));
        }
        if self.scenario.correct(i) {
            self.agreement.executed(i, &result)?;
            self.promises.executed(i, &result)?;
        }
        if !result.receipts.is_empty()
            && let Some(view) = self.nodes[i].view()
        {
            conservation(i, &view)?;
        }
        self.execute_next(i);
        self.after_turns(i)
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
        if self.tell {
            print!("{line}");
        }
        self.log.update(line.as_bytes());
    }
}

/// A message in a few words.
fn brief(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Header(h) => format!(
            "header {} round {} {:?} on {} {}",
            h.height,
            h.round,
            h.kind,
            h.parent_round,
            h.id().short()
        ),
        PeerMessage::Vote(v) => format!("vote round {} {}", v.round, v.block_id.short()),
        PeerMessage::Timeout(t) => format!("timeout round {} with {}", t.round, t.hqc_round),
        PeerMessage::Qc(qc) => format!("QC round {} {}", qc.round, qc.block_id.short()),
        PeerMessage::Tc(tc) => format!("TC round {} max {}", tc.round, tc.max_hqc_round()),
        PeerMessage::Blocks(headers) => format!("{} headers", headers.len()),
        PeerMessage::Batch(bytes) => format!("batch of {} bytes", bytes.len()),
        PeerMessage::Watermark(w) => format!(
            "watermark {:?}",
            w.tips
                .iter()
                .map(|(lane, tip)| (lane.0, tip.seq.0))
                .collect::<Vec<_>>()
        ),
        other => format!("{other:?}"),
    }
}
