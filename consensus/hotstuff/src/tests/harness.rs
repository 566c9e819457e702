//! One core, fed by hand, with peers whose messages the test makes up. Signatures are a function
//! of key and message; `Verified::trusted` stands for the verify stage.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use falconet_types::block::{self, Cut, Executed, Header, HeaderKind, LaneTip, SignedHeader};
use falconet_types::certificate::{Qc, Tc, TcEntry, Timeout, Vote};
use falconet_types::epoch::{EpochProof, EpochStart};
use falconet_types::genesis::Params;
use falconet_types::message::PeerMessage;
use falconet_types::signing::{Signer, Verified};
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{
    BlockId, ChainId, Digest, Epoch, Height, KeyPair, PublicKey, Round, Scheme, Seq, Signature,
    ValidatorIndex,
};

use crate::{
    CommitProof, Committed, Config, Effect, Evidence, HotStuff, Input, Payload, Record, Recovered,
    SafetyRecord,
};

pub(super) const CHAIN: ChainId = Digest([7; 32]);
pub(super) const GENESIS_MS: u64 = 1_000_000;

pub(super) struct FakeSigner(pub Digest);

impl Signer for FakeSigner {
    fn sign(&self, message: &falconet_crypto::falcon::SigningMessage) -> Signature {
        let scheme = Scheme::Falcon512;
        let mut bytes = vec![0; scheme.signature_len()];
        bytes[0] = scheme.signature_header();
        bytes[1..33].copy_from_slice(self.0.as_ref());
        bytes[33..81].copy_from_slice(&message.as_bytes());
        Signature::from_bytes(scheme, &bytes).expect("length and header are right")
    }
    fn key_id(&self) -> Digest {
        self.0
    }
}

pub(super) fn keys() -> &'static [PublicKey] {
    static KEYS: OnceLock<Vec<PublicKey>> = OnceLock::new();
    KEYS.get_or_init(|| {
        (0..7u8)
            .map(|i| {
                KeyPair::from_seed(Scheme::Falcon512, &[i; 32])
                    .public()
                    .clone()
            })
            .collect()
    })
}

pub(super) fn set(n: usize) -> Arc<ValidatorSet> {
    let members: Vec<_> = keys()[..n].iter().map(|key| (key.clone(), 1)).collect();
    Arc::new(ValidatorSet::new(CHAIN, Epoch(0), &members).expect("a valid set"))
}

/// The set of an epoch, made of the keys at `members`. Its genesis is not set.
pub(super) fn set_of(epoch: u64, members: &[usize]) -> Arc<ValidatorSet> {
    let members: Vec<_> = members.iter().map(|i| (keys()[*i].clone(), 1)).collect();
    Arc::new(ValidatorSet::new(CHAIN, Epoch(epoch), &members).expect("a valid set"))
}

pub(super) fn signer(i: ValidatorIndex) -> FakeSigner {
    let stranger = Digest([0xee; 32]);
    FakeSigner(keys().get(i.at()).map_or(stranger, PublicKey::id))
}

pub(super) fn params() -> Params {
    Params {
        block_interval_ms_min: 0,
        // Checkpoints at multiples of 256 heights.
        history_heights_min: 1,
        ..Params::default()
    }
}

pub(super) fn config(set: &Arc<ValidatorSet>, me: ValidatorIndex) -> Config {
    Config {
        chain_id: CHAIN,
        me,
        set: set.clone(),
        params: params(),
        start: EpochStart::genesis(CHAIN, GENESIS_MS),
    }
}

pub(super) fn genesis_qc() -> Qc {
    Qc::genesis(Epoch(0), block::genesis_id(CHAIN))
}

/// The state commitment of a height, as every test computes it.
pub(super) fn state(height: Height) -> Digest {
    let mut digest = [0x55; 32];
    digest[..8].copy_from_slice(&height.0.to_le_bytes());
    Digest(digest)
}

/// A data layer under the test's control.
#[derive(Debug, Clone)]
pub(super) struct TestPayload {
    pub work: bool,
    pub available: bool,
    pub executed: Height,
    /// What the data layer makes of the least interval.
    pub stretch: u64,
}

impl Default for TestPayload {
    fn default() -> Self {
        Self {
            work: false,
            available: true,
            executed: Height::ZERO,
            stretch: 1,
        }
    }
}

impl Payload for TestPayload {
    fn propose(&self, parent: &Cut) -> Cut {
        let mut cut = parent.clone();
        if self.work {
            cut.0[0] = tip(parent.0[0].seq.0 + 1);
        }
        cut
    }
    fn has_work(&self, _: &Cut) -> bool {
        self.work
    }
    fn interval_us(&self, _: &Cut, least_us: u64) -> u64 {
        least_us * self.stretch
    }
    fn available(&self, _: &Cut, _: &Cut) -> bool {
        self.available
    }
    fn executed(&self) -> Executed {
        Executed {
            height: self.executed,
            root: state(self.executed),
        }
    }
    fn commitment_at(&self, height: Height) -> Option<Digest> {
        (height <= self.executed).then(|| state(height))
    }
}

pub(super) fn tip(seq: u64) -> LaneTip {
    let hash = if seq == 0 {
        Digest::ZERO
    } else {
        Digest([9; 32])
    };
    LaneTip {
        seq: Seq(seq),
        hash,
    }
}

/// A chain that the test makes: headers that a correct leader could have signed.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    pub set: Arc<ValidatorSet>,
}

impl Maker {
    /// A header on top of genesis (`None`) or of another, before signing.
    pub(super) fn draft(&self, parent: Option<&SignedHeader>, round: u64) -> Header {
        let round = Round(round);
        let (id, parent_round, height, time, cut, executed) = match parent {
            Some(p) => (
                p.id(),
                p.round,
                p.height,
                p.time_ms,
                p.cut.clone(),
                p.executed,
            ),
            None => (
                block::genesis_id(CHAIN),
                Round::ZERO,
                Height::ZERO,
                GENESIS_MS,
                Cut::empty(self.set.len()),
                Executed {
                    height: Height::ZERO,
                    root: state(Height::ZERO),
                },
            ),
        };
        Header {
            epoch: Epoch(0),
            round,
            kind: if parent_round.next() == round {
                HeaderKind::Normal
            } else {
                HeaderKind::Recovery
            },
            parent_id: id,
            parent_round,
            height: height.next(),
            cut,
            time_ms: time + 1,
            executed,
            ended_by: Digest::ZERO,
            author: self.set.leader(round),
        }
    }

    pub(super) fn sign(&self, header: Header) -> SignedHeader {
        let author = header.author;
        SignedHeader::sign(header, CHAIN, &signer(author))
    }

    pub(super) fn header(&self, parent: Option<&SignedHeader>, round: u64) -> SignedHeader {
        self.sign(self.draft(parent, round))
    }

    /// A chain of headers, one for each round given.
    pub(super) fn chain(&self, rounds: impl IntoIterator<Item = u64>) -> Vec<SignedHeader> {
        let mut chain: Vec<SignedHeader> = Vec::new();
        for round in rounds {
            chain.push(self.header(chain.last(), round));
        }
        chain
    }

    pub(super) fn vote(&self, voter: u16, header: &SignedHeader) -> Vote {
        let voter = ValidatorIndex(voter);
        let (round, parent) = (header.round, header.parent_round);
        Vote::sign(
            Epoch(0),
            round,
            header.id(),
            parent,
            voter,
            CHAIN,
            &signer(voter),
        )
    }

    /// A QC of everybody but `without`.
    pub(super) fn qc_without(&self, header: &SignedHeader, without: u16) -> Qc {
        let n = u16::try_from(self.set.len()).unwrap();
        Qc {
            epoch: Epoch(0),
            round: header.round,
            block_id: header.id(),
            parent_round: header.parent_round,
            votes: (0..n)
                .filter(|i| *i != without)
                .map(|i| (ValidatorIndex(i), self.vote(i, header).signature))
                .collect(),
        }
    }

    pub(super) fn timeout(&self, author: u16, round: u64, hqc: &Qc) -> Timeout {
        self.timeout_naming(author, round, hqc.round, hqc.block_id)
    }

    pub(super) fn timeout_naming(
        &self,
        author: u16,
        round: u64,
        hqc_round: Round,
        hqc_id: BlockId,
    ) -> Timeout {
        let author = ValidatorIndex(author);
        let round = Round(round);
        Timeout::sign(
            Epoch(0),
            round,
            hqc_round,
            hqc_id,
            author,
            CHAIN,
            &signer(author),
        )
    }

    /// A TC of three validators that name these QCs.
    pub(super) fn tc(&self, round: u64, hqcs: [(u16, &Qc); 3]) -> Tc {
        let max = hqcs.iter().max_by_key(|(_, qc)| qc.round).unwrap().1;
        Tc {
            epoch: Epoch(0),
            round: Round(round),
            entries: hqcs
                .iter()
                .map(|(author, qc)| TcEntry {
                    author: ValidatorIndex(*author),
                    hqc_round: qc.round,
                    hqc_id: qc.block_id,
                    signature: self.timeout(*author, round, qc).signature,
                })
                .collect(),
            max_qc: max.clone(),
        }
    }

    pub(super) fn genesis_qc(&self) -> Qc {
        genesis_qc()
    }
}

/// One core and what it said.
pub(super) struct Solo {
    pub core: HotStuff,
    pub maker: Maker,
    pub now: Now,
    pub payload: TestPayload,
    pub effects: Vec<Effect>,
}

impl Solo {
    /// A fresh validator `me` of 4.
    pub(super) fn new(me: u16) -> Self {
        Self::recover(me, Recovered::default())
    }

    pub(super) fn recover(me: u16, recovered: Recovered) -> Self {
        Self::start(me, params(), recovered)
    }

    /// A fresh validator `me` of 4 on a chain with other parameters.
    pub(super) fn with_params(me: u16, params: Params) -> Self {
        Self::start(me, params, Recovered::default())
    }

    pub(super) fn start(me: u16, params: Params, recovered: Recovered) -> Self {
        let set = set(4);
        let me = ValidatorIndex(me);
        let config = Config {
            params,
            ..config(&set, me)
        };
        let core = HotStuff::new(config, Box::new(signer(me)), recovered)
            .expect("the recovered state fits");
        let mut solo = Self {
            core,
            maker: Maker { set },
            now: Now {
                mono_us: 5_000_000,
                wall_ms: GENESIS_MS + 1_000,
            },
            payload: TestPayload::default(),
            effects: Vec::new(),
        };
        for i in 0..4 {
            if i != me.0 {
                solo.input(Input::PeerUp(ValidatorIndex(i)));
            }
        }
        solo
    }

    /// A validator of 4 that leads none of the rounds given.
    pub(super) fn follower(rounds: impl IntoIterator<Item = u64>) -> Self {
        let set = set(4);
        let leaders: Vec<u16> = rounds.into_iter().map(|r| set.leader(Round(r)).0).collect();
        let me = (0..4)
            .find(|i| !leaders.contains(i))
            .expect("at most three rounds");
        Self::new(me)
    }

    /// A validator of 4 that leads round 2, but not 1, 3, 4 or 5.
    pub(super) fn leader_of_2() -> Self {
        Self::new(set(4).leader(Round(2)).0)
    }

    pub(super) fn me(&self) -> u16 {
        self.core.config.me.0
    }

    /// Everybody else.
    pub(super) fn others(&self) -> Vec<u16> {
        (0..4).filter(|i| *i != self.me()).collect()
    }

    pub(super) fn input(&mut self, input: Input) {
        self.core
            .handle(self.now, input, &self.payload, &mut self.effects);
    }

    pub(super) fn advance_ms(&mut self, ms: u64) {
        self.now.mono_us += ms * 1_000;
        self.now.wall_ms += ms;
        self.input(Input::Tick);
    }

    pub(super) fn header(&mut self, header: &SignedHeader) {
        let from = header.author;
        self.input(Input::Header {
            from,
            header: Verified::trusted(header.clone()),
        });
    }

    /// Certified headers, one after the other. Those of rounds that this node leads itself, for
    /// which it has its own proposal, come as fetched blocks.
    pub(super) fn feed(&mut self, chain: &[SignedHeader]) {
        for header in chain {
            let own = header.author.0 == self.me();
            if !own {
                self.header(header);
            }
            self.qc(header);
            if own {
                let from = ValidatorIndex(self.others()[0]);
                let headers = vec![Verified::trusted(header.clone())];
                self.input(Input::Blocks { from, headers });
            }
        }
    }

    pub(super) fn vote(&mut self, vote: Vote) {
        self.input(Input::Vote {
            from: vote.voter,
            vote: Verified::trusted(vote),
        });
    }

    pub(super) fn qc(&mut self, header: &SignedHeader) {
        let qc = self.maker.qc_without(header, self.me());
        self.give_qc(qc);
    }

    pub(super) fn give_qc(&mut self, qc: Qc) {
        let from = ValidatorIndex(self.others()[0]);
        self.input(Input::Qc {
            from,
            qc: Verified::trusted(qc),
        });
    }

    pub(super) fn timeout(&mut self, timeout: Timeout) {
        self.input(Input::Timeout {
            from: timeout.author,
            timeout: Verified::trusted(timeout),
        });
    }

    pub(super) fn tc(&mut self, tc: Tc) {
        let from = ValidatorIndex(self.others()[0]);
        self.input(Input::Tc {
            from,
            tc: Verified::trusted(tc),
        });
    }

    /// Takes what was said since the last call.
    pub(super) fn said(&mut self) -> Said {
        Said(std::mem::take(&mut self.effects))
    }

    /// What the log would give back now, from all effects so far given.
    pub(super) fn round(&self) -> u64 {
        self.core.status().round.0
    }
}

/// Effects, sorted.
pub(super) struct Said(pub Vec<Effect>);

impl Said {
    pub(super) fn votes(&self) -> Vec<Vote> {
        self.broadcasts()
            .filter_map(|m| {
                if let PeerMessage::Vote(v) = m {
                    Some(v.clone())
                } else {
                    None
                }
            })
            .collect()
    }
    pub(super) fn timeouts(&self) -> Vec<Timeout> {
        self.broadcasts()
            .filter_map(|m| {
                if let PeerMessage::Timeout(t) = m {
                    Some(t.clone())
                } else {
                    None
                }
            })
            .collect()
    }
    pub(super) fn headers(&self) -> Vec<SignedHeader> {
        self.broadcasts()
            .filter_map(|m| {
                if let PeerMessage::Header(h) = m {
                    Some(h.clone())
                } else {
                    None
                }
            })
            .collect()
    }
    pub(super) fn broadcasts(&self) -> impl Iterator<Item = &PeerMessage> {
        self.0.iter().filter_map(|e| {
            if let Effect::Broadcast(m) = e {
                Some(m)
            } else {
                None
            }
        })
    }
    pub(super) fn sends(&self) -> Vec<(u16, PeerMessage)> {
        self.0
            .iter()
            .filter_map(|e| match e {
                Effect::Send { to, message } => Some((to.0, message.clone())),
                _ => None,
            })
            .collect()
    }
    pub(super) fn commits(&self) -> Vec<Committed> {
        self.0
            .iter()
            .filter_map(|e| {
                if let Effect::Commit(c) = e {
                    Some(c.clone())
                } else {
                    None
                }
            })
            .collect()
    }
    pub(super) fn committed_heights(&self) -> Vec<u64> {
        self.commits().iter().map(|c| c.header.height.0).collect()
    }
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.0.iter().filter_map(|e| {
            if let Effect::Persist(r) = e {
                Some(r)
            } else {
                None
            }
        })
    }
    pub(super) fn safety(&self) -> Option<SafetyRecord> {
        self.records()
            .filter_map(|r| {
                if let Record::Safety(s) = r {
                    Some(SafetyRecord::clone(s))
                } else {
                    None
                }
            })
            .last()
    }
    pub(super) fn evidence(&self) -> Vec<Evidence> {
        self.0
            .iter()
            .filter_map(|e| {
                if let Effect::Evidence(e) = e {
                    Some(Evidence::clone(e))
                } else {
                    None
                }
            })
            .collect()
    }
}

/// A log: what a store gives back after a restart.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    safety: Option<SafetyRecord>,
    committed: Option<(Height, BlockId)>,
    headers: BTreeMap<BlockId, SignedHeader>,
    qcs: BTreeMap<Round, Qc>,
    tcs: Vec<Tc>,
    last_proof: Option<CommitProof>,
    /// Heights below the committed block that are given back too.
    pub past_heights: u64,
    /// Of each epoch that has ended, in order.
    pub proofs: Vec<EpochProof>,
}

impl Log {
    pub(super) fn append(&mut self, record: &Record) {
        match record {
            Record::Safety(s) => self.safety = Some(SafetyRecord::clone(s)),
            Record::Header(h) => {
                self.headers.insert(h.id(), SignedHeader::clone(h));
            }
            Record::Tc(tc) => self.tcs = vec![Tc::clone(tc)],
            Record::Committed {
                height,
                block_id,
                proof,
            } => {
                assert!(
                    self.headers.contains_key(block_id),
                    "header logged before its commit"
                );
                let child = proof.child.id();
                assert!(
                    self.headers.contains_key(&child),
                    "child logged before the commit"
                );
                self.last_proof = Some(proof.clone());
                self.committed = Some((*height, *block_id));
                self.qcs = BTreeMap::from([(proof.qc.round, Qc::clone(&proof.qc))]);
            }
        }
    }

    pub(super) fn header(&self, id: &BlockId) -> Option<&SignedHeader> {
        self.headers.get(id)
    }

    pub(super) fn lose_safety(&mut self) {
        self.safety = None;
    }

    /// The proof that `last` ended its epoch; its state is that of no application.
    pub(super) fn epoch_proof(&self, last: &SignedHeader) -> EpochProof {
        let proof = self.last_proof.as_ref().expect("it was committed last");
        let mut headers = vec![proof.child.header().clone()];
        while headers.last().unwrap().id() != last.parent_id {
            let parent = headers.last().unwrap().parent_id;
            headers.push(self.headers[&parent].header().clone());
        }
        headers.reverse();
        EpochProof {
            headers,
            qc: Qc::clone(&proof.qc),
            accounts: Digest::ZERO,
            results: Digest::ZERO,
            next: None,
        }
    }

    pub(super) fn recovered(&self) -> Recovered {
        let from = self.committed.map_or(Height::ZERO, |(height, _)| height);
        let from = Height(from.0.saturating_sub(self.past_heights));
        Recovered {
            safety: self.safety.clone(),
            committed: self.committed,
            headers: self
                .headers
                .values()
                .filter(|h| h.height >= from)
                .cloned()
                .collect(),
            qcs: self.qcs.values().cloned().collect(),
            tcs: self.tcs.clone(),
            safety_damage: None,
            forfeited: None,
        }
    }
}
