//! One real core: rebuilt from its inputs, with the log that it wrote.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use falconet_crypto::falcon::SigningMessage;
use falconet_hotstuff::{
    Config, Effect, HotStuff, Input, Payload, Record, Recovered, SafetyRecord,
};
use falconet_types::block::{Cut, Executed, SignedHeader};
use falconet_types::certificate::{Qc, Tc};
use falconet_types::epoch::EpochStart;
use falconet_types::genesis::Params;
use falconet_types::message::PeerMessage;
use falconet_types::signing::{Signer, Verified};
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{
    BlockId, ChainId, Digest, Epoch, Height, KeyPair, PublicKey, Round, Scheme, Signature,
    ValidatorIndex,
};

use super::Setting;

/// Validators, one of them Byzantine.
pub(super) const N: usize = 4;
pub(super) const CHAIN: ChainId = Digest([7; 32]);
pub(super) const GENESIS_MS: u64 = 1_000_000;
/// Monotonic time at which all cores start, microseconds.
const START_US: u64 = 1_000_000;

/// A signature as a function of key and message. Nobody forges here: `Verified::trusted` stands
/// for the verify stage.
pub(super) struct FakeSigner(pub Digest);

impl Signer for FakeSigner {
    fn sign(&self, message: &SigningMessage) -> Signature {
        let scheme = Scheme::Falcon512;
        let mut bytes = vec![0; scheme.signature_len()];
        bytes[0] = scheme.signature_header();
        let digest =
            falconet_crypto::hash::hash("model/signature", &[self.0.as_ref(), &message.as_bytes()]);
        bytes[1..33].copy_from_slice(digest.as_ref());
        Signature::from_bytes(scheme, &bytes).expect("length and header are right")
    }
    fn key_id(&self) -> Digest {
        self.0
    }
}

fn keys() -> &'static [PublicKey] {
    static KEYS: OnceLock<Vec<PublicKey>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let key = |i| {
            KeyPair::from_seed(Scheme::Falcon512, &[i; 32])
                .public()
                .clone()
        };
        (0..u8::try_from(N).expect("few")).map(key).collect()
    })
}

pub(super) fn set() -> Arc<ValidatorSet> {
    let members: Vec<_> = keys().iter().map(|key| (key.clone(), 1)).collect();
    Arc::new(ValidatorSet::new(CHAIN, Epoch(0), &members).expect("a valid set"))
}

pub(super) fn signer(i: ValidatorIndex) -> FakeSigner {
    FakeSigner(keys()[i.at()].id())
}

pub(super) fn genesis_state() -> Executed {
    Executed {
        height: Height::ZERO,
        root: Digest([0x55; 32]),
    }
}

/// No payload, nothing executed: the check is about votes and certificates.
struct NoPayload;

impl Payload for NoPayload {
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
        genesis_state()
    }
    fn commitment_at(&self, height: Height) -> Option<Digest> {
        (height == Height::ZERO).then(|| genesis_state().root)
    }
}

/// What a core takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    Message(ValidatorIndex, Arc<PeerMessage>),
    Timer,
    Restart,
}

/// A core's past, and what it says of the present.
#[derive(Debug, Clone)]
pub(super) struct Node {
    me: ValidatorIndex,
    prepare: fn(&mut HotStuff),
    commit_votes: bool,
    past: Arc<Vec<Taken>>,
    /// Hash of the whole core as it is now; nodes with equal cores, clocks, logs
    /// and signed statements are equal.
    fingerprint: u64,
    pub round: Round,
    pub timers: u8,
    pub committed: Vec<(Height, BlockId)>,
    pub alarms: usize,
    /// All votes, commit votes and timeouts that it ever sent.
    pub said: Vec<PeerMessage>,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

/// A core that runs.
struct Running {
    core: HotStuff,
    now_us: u64,
    log: Log,
    node: Node,
}

impl Node {
    /// A core that has started, and what it sent.
    pub(super) fn start(me: ValidatorIndex, setting: &Setting) -> (Self, Vec<Effect>) {
        let node = Self {
            me,
            prepare: setting.prepare,
            commit_votes: setting.commit_votes,
            past: Arc::default(),
            fingerprint: 0,
            round: Round::ZERO,
            timers: 0,
            committed: Vec::new(),
            alarms: 0,
            said: Vec::new(),
        };
        let mut running = Running::new(node);
        let mut out = Vec::new();
        running.connect(&mut out);
        (running.stop(), out)
    }

    /// Takes one thing more.
    pub(super) fn take(&self, taken: Taken) -> (Self, Vec<Effect>) {
        let mut running = Running::new(self.clone());
        let mut out = Vec::new();
        running.connect(&mut out);
        for past in self.past.iter() {
            out.clear();
            running.take(past, &mut out);
        }
        out.clear();
        running.take(&taken, &mut out);
        let mut past = Vec::clone(&self.past);
        past.push(taken);
        running.node.past = Arc::new(past);
        (running.stop(), out)
    }
}

impl Running {
    fn new(mut node: Node) -> Self {
        node.committed.clear();
        node.said.clear();
        node.alarms = 0;
        node.timers = 0;
        Self {
            core: core(&node, Recovered::default()),
            now_us: START_US,
            log: Log::default(),
            node,
        }
    }

    fn now(&self) -> Now {
        Now {
            mono_us: self.now_us,
            wall_ms: GENESIS_MS + self.now_us / 1_000,
        }
    }

    fn connect(&mut self, out: &mut Vec<Effect>) {
        for i in 0..N {
            let peer = ValidatorIndex(u16::try_from(i).expect("few"));
            if peer != self.node.me {
                self.input(Input::PeerUp(peer), out);
            }
        }
    }

    fn take(&mut self, taken: &Taken, out: &mut Vec<Effect>) {
        match taken {
            Taken::Message(from, message) => {
                if let Some(input) = input(*from, message) {
                    self.input(input, out);
                }
            }
            Taken::Timer => {
                self.node.timers += 1;
                let due = self.core.next_deadline_us().unwrap_or(self.now_us);
                self.now_us = self.now_us.max(due);
                self.input(Input::Tick, out);
            }
            Taken::Restart => {
                self.core = core(&self.node, self.log.recovered());
                self.connect(out);
            }
        }
    }

    fn input(&mut self, input: Input, out: &mut Vec<Effect>) {
        let from = out.len();
        self.core.handle(self.now(), input, &NoPayload, out);
        for effect in &out[from..] {
            match effect {
                Effect::Persist(record) => self.log.append(record),
                Effect::Commit(committed) => {
                    let place = (committed.header.height, committed.header.id());
                    self.node.committed.push(place);
                }
                Effect::Alarm(_) => self.node.alarms += 1,
                Effect::Broadcast(message) | Effect::Send { message, .. } => {
                    let signed = matches!(
                        message,
                        PeerMessage::Vote(_) | PeerMessage::CommitVote(_) | PeerMessage::Timeout(_)
                    );
                    if signed && !self.node.said.contains(message) {
                        self.node.said.push(message.clone());
                    }
                }
                _ => {}
            }
        }
    }

    fn stop(mut self) -> Node {
        self.node.round = self.core.progress().round;
        let mut hasher = std::hash::DefaultHasher::new();
        format!(
            "{:?}{}{:?}{:?}",
            self.core, self.now_us, self.log, self.node.said
        )
        .hash(&mut hasher);
        self.node.fingerprint = hasher.finish();
        self.node
    }
}

fn core(node: &Node, recovered: Recovered) -> HotStuff {
    let me = node.me;
    let config = Config {
        chain_id: CHAIN,
        me,
        set: set(),
        params: Params {
            // Leaders propose at once: waiting is for the simulator to vary.
            block_interval_ms_min: 0,
            block_interval_ms_idle: 0,
            commit_votes: node.commit_votes,
            ..Params::default()
        },
        start: EpochStart::genesis(CHAIN, GENESIS_MS),
    };
    let core = HotStuff::new(config, Box::new(signer(me)), recovered);
    let mut core = core.expect("its own log fits a core");
    // When timers fire is for the search to vary.
    core.wait_as_genesis_says();
    (node.prepare)(&mut core);
    core
}

/// Only what carries signatures.
fn input(from: ValidatorIndex, message: &PeerMessage) -> Option<Input> {
    let input = Input::from_message(from, Verified::trusted(message.clone())).ok()?;
    let signed = matches!(
        input,
        Input::Header { .. }
            | Input::Vote { .. }
            | Input::CommitVote { .. }
            | Input::Timeout { .. }
            | Input::Qc { .. }
            | Input::Tc { .. }
    );
    signed.then_some(input)
}

/// What a store would give back.
#[derive(Debug, Clone, Default)]
struct Log {
    safety: Option<SafetyRecord>,
    committed: Option<(Height, BlockId)>,
    headers: BTreeMap<BlockId, SignedHeader>,
    qcs: BTreeMap<Round, Qc>,
    tcs: Vec<Tc>,
}

impl Log {
    fn append(&mut self, record: &Record) {
        match record {
            Record::Safety(safety) => self.safety = Some(SafetyRecord::clone(safety)),
            Record::Header(header) => {
                self.headers
                    .insert(header.id(), SignedHeader::clone(header));
            }
            Record::Tc(tc) => self.tcs = vec![Tc::clone(tc)],
            Record::Committed {
                height,
                block_id,
                proof,
            } => {
                self.committed = Some((*height, *block_id));
                self.qcs = BTreeMap::from([(proof.qc.round, Qc::clone(&proof.qc))]);
            }
        }
    }

    fn recovered(&self) -> Recovered {
        let from = self.committed.map_or(Height::ZERO, |(height, _)| height);
        let kept = |header: &&SignedHeader| header.height >= from;
        Recovered {
            safety: self.safety.clone(),
            committed: self.committed,
            headers: self.headers.values().filter(kept).cloned().collect(),
            qcs: self.qcs.values().cloned().collect(),
            tcs: self.tcs.clone(),
            safety_damage: None,
            forfeited: None,
        }
    }
}
