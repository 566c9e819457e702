//! States with their proofs, peers of every kind, and a network in virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use falconet_crypto::falcon::SigningMessage;
use falconet_ledger::Account;
use falconet_ledger::snapshot::{BUCKET_COUNT, Head, LeafBuilder, LeafTree, bucket_of, put_row};
use falconet_types::block::{Cut, Executed, Header, HeaderKind, SignedHeader};
use falconet_types::certificate::Qc;
use falconet_types::genesis::{ApplicationKind, Genesis, Params, StakeParams};
use falconet_types::message::PeerMessage;
use falconet_types::receipt;
use falconet_types::signing::{Signer, Verified};
use falconet_types::snapshot::{Chunk, GetChunk, Manifest, SnapshotOffer};
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::wire::Wire;
use falconet_types::{
    AccountId, Digest, Epoch, Height, KeyPair, Round, Scheme, Signature, ValidatorIndex,
};

use crate::{Config, Download, Effect, Input, Resume};

const CHAIN: Digest = Digest([7; 32]);

struct FakeSigner;

impl Signer for FakeSigner {
    fn sign(&self, _: &SigningMessage) -> Signature {
        let bytes = vec![0x39; Scheme::Falcon512.signature_len()];
        Signature::from_bytes(Scheme::Falcon512, &bytes).expect("the form of a signature")
    }
    fn key_id(&self) -> Digest {
        Digest([1; 32])
    }
}

/// A header with something in the form of a signature.
pub fn signed(header: Header) -> SignedHeader {
    SignedHeader::sign(header, CHAIN, &FakeSigner)
}

/// A certificate of a block, without votes.
pub fn qc_of(header: &SignedHeader) -> Qc {
    Qc {
        epoch: header.epoch,
        round: header.round,
        block_id: header.id(),
        parent_round: header.parent_round,
        votes: Vec::new(),
    }
}

pub fn v(index: usize) -> ValidatorIndex {
    ValidatorIndex(u16::try_from(index).expect("few"))
}

pub fn set(n: usize) -> Arc<ValidatorSet> {
    weighted(&vec![1; n])
}

/// Validators of these weights, by index.
fn weighted(weights: &[u64]) -> Arc<ValidatorSet> {
    static KEYS: OnceLock<Vec<KeyPair>> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let key = |i| KeyPair::from_seed(Scheme::Falcon512, &[i; 32]);
        (0..7).map(key).collect()
    });
    let members = keys.iter().zip(weights);
    let members: Vec<_> = members.map(|(k, w)| (k.public().clone(), *w)).collect();
    Arc::new(ValidatorSet::new(CHAIN, Epoch::ZERO, &members).expect("a valid set"))
}

/// A chain without a registry.
fn genesis() -> Genesis {
    Genesis {
        name: "test".into(),
        time_ms: 1_000,
        application: ApplicationKind::Opaque,
        params: Params::default(),
        validators: Vec::new(),
        stake: StakeParams::default(),
        accounts: Vec::new(),
    }
}

/// A state at a height, as a correct peer serves it.
pub struct State {
    pub height: Height,
    pub rows: BTreeMap<AccountId, Vec<u8>>,
    buckets: Vec<Vec<u8>>,
    tree: LeafTree,
}

impl State {
    /// `accounts` accounts whose balances depend on the height.
    pub fn new(height: u64, accounts: u64) -> Self {
        let mut rows = BTreeMap::new();
        for i in 0..accounts {
            let id = falconet_crypto::hash::hash("test", &[&i.to_le_bytes()]);
            let account = Account {
                balance: i + 1_000 * height,
                ..Account::default()
            };
            rows.insert(id, account.to_bytes());
        }
        let mut buckets = vec![Vec::new(); BUCKET_COUNT];
        let mut builders: Vec<LeafBuilder> = Vec::new();
        builders.resize_with(BUCKET_COUNT, LeafBuilder::default);
        for (id, stored) in &rows {
            let bucket = usize::from(bucket_of(id));
            put_row(&mut buckets[bucket], id, stored);
            builders[bucket].add(id, stored).expect("an account");
        }
        let leaves = builders.iter_mut().map(LeafBuilder::finish).collect();
        Self {
            height: Height(height),
            rows,
            buckets,
            tree: LeafTree::new(leaves),
        }
    }

    pub fn manifest(&self) -> Manifest {
        let head = Head {
            tree_root: self.tree.root(),
            burned: 5,
            registry: Bytes::new(),
        };
        let (validators, results) = (Digest::ZERO, Digest([4; 32]));
        let commitment =
            receipt::commitment(self.height, head.accounts_root(), validators, results);
        let mut headers: Vec<SignedHeader> = Vec::new();
        for i in 0..6 {
            let height = self.height.0 + i;
            let named = match i {
                0..4 => (Height(self.height.0 - 3), Digest([8; 32])),
                _ => (self.height, commitment),
            };
            let header = Header {
                epoch: Epoch::ZERO,
                round: Round(height),
                kind: HeaderKind::Normal,
                parent_id: headers.last().map_or(Digest([2; 32]), SignedHeader::id),
                parent_round: Round(height - 1),
                height: Height(height),
                cut: Cut::empty(4),
                time_ms: height,
                executed: Executed {
                    height: named.0,
                    root: named.1,
                },
                ended_by: Digest::ZERO,
                author: v(0),
            };
            headers.push(signed(header));
        }
        let qc = qc_of(headers.last().expect("six of them"));
        Manifest {
            tree_root: head.tree_root,
            burned: head.burned,
            registry: head.registry,
            validators,
            results,
            rows_bytes: self.buckets.iter().map(Vec::len).sum::<usize>() as u64,
            headers,
            qc,
        }
    }

    /// At most `bytes` of rows, whole buckets, at least one.
    pub fn chunk(&self, request: &GetChunk, bytes: usize) -> Chunk {
        let mut rows = Vec::new();
        let mut last = request.first;
        for bucket in request.first..=request.last {
            rows.extend_from_slice(&self.buckets[usize::from(bucket)]);
            last = bucket;
            if rows.len() >= bytes {
                break;
            }
        }
        let (left, right) = self.tree.beside(request.first, last);
        Chunk {
            height: self.height,
            first: request.first,
            last,
            left,
            right,
            rows: rows.into(),
        }
    }
}

fn is_for_manifest(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::GetSnapshot(request) if request.height != Height::ZERO)
}

/// How a peer behaves.
#[derive(Clone)]
pub enum Kind {
    /// Serves these states.
    Honest(Vec<Arc<State>>),
    /// The same, and changes one byte of each chunk.
    Garbles(Arc<State>),
    /// Serves chunks of the second state as if they were of the first.
    Swaps(Arc<State>, Arc<State>),
    /// Shows a manifest whose tree is another one's.
    Forges(Arc<State>, Arc<State>),
    /// Serves this state, and chunks only so many microseconds after they were asked for.
    Stalls(Arc<State>, u64),
    /// Offers, and never serves a chunk.
    Withholds(Arc<State>),
    /// Offers, and never shows a manifest, though it says something at once.
    Conceals(Arc<State>),
    /// Offers the first, and shows the manifest of the second, of which it serves nothing.
    Misleads(Arc<State>, Arc<State>),
    /// Serves everything, the manifest only so many microseconds after it was asked for.
    Dawdles(Arc<State>, u64),
    /// Its manifest tells of rows without end.
    Inflates(Arc<State>),
    /// Serves one bucket of whatever it is asked for.
    Drips(Arc<State>),
    /// Says nothing.
    Mute,
    /// Has all history, and serves none of it.
    Claims,
}

/// Peers, the machine, and what it stored.
pub struct World {
    pub machine: Download,
    pub now: Now,
    pub peers: Vec<Kind>,
    /// Bytes of rows in a chunk.
    pub chunk_bytes: usize,
    pub manifest: Option<Manifest>,
    pub stored: Vec<Chunk>,
    pub complete: bool,
    pub begun: usize,
    pub abandoned: usize,
    pub misbehaved: Vec<ValidatorIndex>,
    /// Most chunks that were asked for and did not arrive yet.
    pub in_flight_max: usize,
    /// What each peer was asked for.
    pub asked: Vec<Vec<PeerMessage>>,
    /// Messages on their way to the machine.
    pending: Vec<Input>,
    /// Chunks of peers that stall, by the time at which they arrive.
    stalled: Vec<(u64, Input)>,
    started: u64,
}

impl World {
    /// The machine is the last of the validators; all others are connected.
    pub fn new(peers: Vec<Kind>) -> Self {
        Self::resumed(peers, None)
    }

    pub fn resumed(peers: Vec<Kind>, resume: Option<Resume>) -> Self {
        let set = set(peers.len() + 1);
        Self::among(set, peers, resume)
    }

    /// The machine weighs so much, each of the others 1.
    pub fn weighing(weight: u64, peers: Vec<Kind>) -> Self {
        let mut weights = vec![1; peers.len()];
        weights.push(weight);
        Self::among(weighted(&weights), peers, None)
    }

    fn among(set: Arc<ValidatorSet>, peers: Vec<Kind>, resume: Option<Resume>) -> Self {
        let me = v(peers.len());
        let config = Config {
            set,
            me,
            genesis: Arc::new(genesis()),
        };
        let mut out = Vec::new();
        let machine = Download::new(config, resume, &mut out);
        let now = Now {
            mono_us: 1_000_000,
            wall_ms: 0,
        };
        let mut world = Self {
            machine,
            now,
            asked: vec![Vec::new(); peers.len()],
            peers,
            chunk_bytes: 4_000,
            manifest: None,
            stored: Vec::new(),
            complete: false,
            begun: 0,
            abandoned: 0,
            misbehaved: Vec::new(),
            in_flight_max: 0,
            pending: Vec::new(),
            stalled: Vec::new(),
            started: 1_000_000,
        };
        world.carry_out(out);
        for peer in 0..world.peers.len() {
            world.input(Input::PeerUp(v(peer)));
        }
        world
    }

    pub fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.machine.handle(self.now, input, &mut out);
        self.in_flight_max = self.in_flight_max.max(self.machine.in_flight().0);
        self.carry_out(out);
    }

    pub fn behind(&mut self, executed: u64) {
        self.input(Input::Progress {
            executed: Height(executed),
            behind: true,
        });
    }

    fn carry_out(&mut self, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Send { to, message } => {
                    assert!(to.at() < self.peers.len(), "nobody asks itself");
                    self.asked[to.at()].push(message.clone());
                    let answer = self.answer(to, &message);
                    match (&self.peers[to.at()], answer) {
                        (Kind::Stalls(_, after_us), Some(chunk @ Input::Chunk { .. })) => {
                            self.stalled.push((self.now.mono_us + after_us, chunk));
                        }
                        (Kind::Dawdles(_, after_us), Some(offer)) if is_for_manifest(&message) => {
                            self.stalled.push((self.now.mono_us + after_us, offer));
                        }
                        (_, answer) => self.pending.extend(answer),
                    }
                }
                Effect::Begin(manifest) => {
                    self.manifest = Some(*manifest);
                    self.stored.clear();
                    self.begun += 1;
                }
                Effect::Store(chunk) => self.stored.push(chunk),
                Effect::Abandon => {
                    self.manifest = None;
                    self.stored.clear();
                    self.abandoned += 1;
                }
                Effect::Complete => {
                    assert!(!self.complete, "complete once");
                    self.complete = true;
                }
                Effect::Misbehaved { peer, .. } => self.misbehaved.push(peer),
            }
        }
    }

    fn answer(&self, from: ValidatorIndex, message: &PeerMessage) -> Option<Input> {
        self.answer_of(&self.peers[from.at()], from, message)
    }

    /// What an honest peer in the place of `from` would say, which has this state.
    pub fn honest_answer(
        &self,
        from: usize,
        message: &PeerMessage,
        state: &Arc<State>,
    ) -> Option<Input> {
        self.answer_of(&Kind::Honest(vec![state.clone()]), v(from), message)
    }

    fn answer_of(&self, kind: &Kind, from: ValidatorIndex, message: &PeerMessage) -> Option<Input> {
        match message {
            PeerMessage::GetSnapshot(request) => {
                let states: Vec<&Arc<State>> = match kind {
                    Kind::Honest(states) => states.iter().collect(),
                    Kind::Garbles(a)
                    | Kind::Withholds(a)
                    | Kind::Stalls(a, _)
                    | Kind::Conceals(a)
                    | Kind::Misleads(a, _)
                    | Kind::Dawdles(a, _)
                    | Kind::Inflates(a)
                    | Kind::Drips(a)
                    | Kind::Swaps(a, _)
                    | Kind::Forges(a, _) => vec![a],
                    Kind::Claims => Vec::new(),
                    Kind::Mute => return None,
                };
                let horizon = match kind {
                    Kind::Claims => Height(1),
                    _ => Height(1_000),
                };
                let wanted = states.iter().find(|s| s.height == request.height);
                let wanted = wanted.filter(|_| !matches!(kind, Kind::Conceals(_)));
                let manifest = wanted.map(|state| {
                    let mut manifest = state.manifest();
                    match kind {
                        Kind::Forges(_, other) => manifest.tree_root = other.manifest().tree_root,
                        Kind::Misleads(_, other) => manifest = other.manifest(),
                        Kind::Inflates(_) => manifest.rows_bytes = u64::MAX,
                        _ => {}
                    }
                    manifest
                });
                let offer = SnapshotOffer {
                    horizon,
                    heights: states.iter().map(|state| state.height).collect(),
                    manifest,
                };
                let offer = Verified::trusted(offer);
                Some(Input::Offer { from, offer })
            }
            PeerMessage::GetChunk(request) => {
                let (state, told) = match kind {
                    Kind::Honest(states) => {
                        let state = states.iter().find(|s| s.height == request.height)?;
                        (state, state)
                    }
                    Kind::Garbles(a)
                    | Kind::Forges(a, _)
                    | Kind::Stalls(a, _)
                    | Kind::Conceals(a)
                    | Kind::Dawdles(a, _)
                    | Kind::Inflates(a)
                    | Kind::Drips(a) => (a, a),
                    Kind::Swaps(a, b) => (b, a),
                    Kind::Withholds(_) | Kind::Misleads(..) | Kind::Mute | Kind::Claims => {
                        return None;
                    }
                };
                let bytes = match kind {
                    Kind::Drips(_) => 0,
                    _ => self.chunk_bytes,
                };
                let mut chunk = state.chunk(request, bytes);
                chunk.height = told.height;
                if let Kind::Garbles(_) = kind {
                    let mut rows = chunk.rows.to_vec();
                    match rows.last_mut() {
                        Some(byte) => *byte ^= 1,
                        None => rows.push(0),
                    }
                    chunk.rows = Bytes::from(rows);
                }
                Some(Input::Chunk { from, chunk })
            }
            other => panic!("nobody asks for {other:?}"),
        }
    }

    /// One message, or the next timer when none is on its way. False once nothing is left.
    pub fn step(&mut self) -> bool {
        let stalled = self.stalled.iter().enumerate();
        let first = stalled.min_by_key(|(_, (at_us, _))| *at_us);
        if let Some((i, (at_us, _))) = first
            && (*at_us <= self.now.mono_us || self.pending.is_empty())
            && self
                .machine
                .next_deadline_us()
                .is_none_or(|due_us| *at_us <= due_us)
        {
            self.now.mono_us = self.now.mono_us.max(*at_us);
            let (_, input) = self.stalled.swap_remove(i);
            self.input(input);
            return true;
        }
        if !self.pending.is_empty() {
            self.now.mono_us += 1_000;
            let input = self.pending.remove(0);
            self.input(input);
            return true;
        }
        match self.machine.next_deadline_us() {
            Some(at_us) => {
                self.now.mono_us = at_us.max(self.now.mono_us + 1);
                self.input(Input::Tick);
                true
            }
            None => false,
        }
    }

    /// Runs until it is complete, for `seconds` at most.
    pub fn run(&mut self, seconds: u64) {
        let end_us = self.started + seconds * 1_000_000;
        while !self.complete && self.now.mono_us < end_us && self.step() {}
        self.started = self.now.mono_us;
    }

    /// The rows that were stored.
    pub fn rows(&self) -> BTreeMap<AccountId, Vec<u8>> {
        let mut rows = BTreeMap::new();
        for chunk in &self.stored {
            for row in falconet_ledger::snapshot::Rows::new(&chunk.rows) {
                let (id, stored) = row.expect("verified");
                assert!(rows.insert(id, stored.to_vec()).is_none(), "stored twice");
            }
        }
        rows
    }
}
