//! Keys, batches, headers and a single node driven by hand.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use falconet_types::batch::{Batch, Watermark};
use falconet_types::block::{Cut, Executed, Header, HeaderKind, LaneTip, SignedHeader};
use falconet_types::genesis::Params;
use falconet_types::message::{Admission, PeerMessage};
use falconet_types::signing::{Signer, Verified};
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{
    ChainId, Digest, Epoch, Height, KeyPair, Round, Scheme, Seq, Signature, ValidatorIndex,
};

use crate::{Config, Effect, Input, Mempool, Recovered};

pub const CHAIN: ChainId = Digest([7; 32]);

/// Signatures without cryptography: these tests decide themselves what is authentic.
pub struct FakeSigner(pub ValidatorIndex);

impl Signer for FakeSigner {
    fn sign(&self, message: &falconet_crypto::falcon::SigningMessage) -> Signature {
        let mut bytes = vec![0x39; Scheme::Falcon512.signature_len()];
        bytes[1..49].copy_from_slice(&message.as_bytes());
        Signature::from_bytes(Scheme::Falcon512, &bytes).expect("the form of a signature")
    }
    fn key_id(&self) -> Digest {
        Digest([u8::try_from(self.0.0).expect("few validators"); 32])
    }
}

pub fn v(index: usize) -> ValidatorIndex {
    ValidatorIndex(u16::try_from(index).expect("few validators"))
}

pub fn at(us: u64) -> Now {
    Now {
        mono_us: us,
        wall_ms: us / 1_000,
    }
}

/// A set with the given weights.
pub fn weighted_set(weights: &[u64]) -> Arc<ValidatorSet> {
    static KEYS: OnceLock<Vec<KeyPair>> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        (0..7)
            .map(|i| KeyPair::from_seed(Scheme::Falcon512, &[i; 32]))
            .collect()
    });
    let members: Vec<_> = keys
        .iter()
        .zip(weights)
        .map(|(key, weight)| (key.public().clone(), *weight))
        .collect();
    assert_eq!(members.len(), weights.len(), "not enough keys prepared");
    Arc::new(ValidatorSet::new(CHAIN, Epoch::ZERO, &members).expect("a valid set"))
}

pub fn set(n: usize) -> Arc<ValidatorSet> {
    weighted_set(&vec![1; n])
}

/// Small numbers, so that bounds are reached quickly.
pub fn params() -> Params {
    Params {
        batch_bytes_target: 1_000,
        batch_interval_ms: 5,
        block_bytes_max: 20_000,
        lane_backlog_bytes_max: 10_000,
        ..Params::default()
    }
}

pub fn config(me: usize, set: &Arc<ValidatorSet>, params: Params) -> Config {
    Config {
        chain_id: CHAIN,
        me: v(me),
        set: set.clone(),
        params,
    }
}

/// A batch that follows `tip`; `salt` makes branches differ.
pub fn batch(lane: usize, tip: LaneTip, salt: u8, bytes: usize) -> Batch {
    let tx = Bytes::from(vec![salt; bytes]);
    Batch::seal(
        Epoch::ZERO,
        v(lane),
        tip,
        &[tx],
        CHAIN,
        &FakeSigner(v(lane)),
    )
}

/// `count` batches that follow `tip`, 100 payload bytes each.
pub fn chain(lane: usize, mut tip: LaneTip, salt: u8, count: usize) -> Vec<Batch> {
    let next = |_| {
        let batch = batch(lane, tip, salt, 98);
        tip = batch.tip();
        batch
    };
    (0..count).map(next).collect()
}

pub fn header(height: u64, cut: Cut) -> Arc<SignedHeader> {
    let header = Header {
        epoch: Epoch::ZERO,
        round: Round(height),
        kind: HeaderKind::Normal,
        parent_id: Digest::ZERO,
        parent_round: Round(height - 1),
        height: Height(height),
        cut,
        time_ms: height,
        executed: Executed {
            height: Height::ZERO,
            root: Digest::ZERO,
        },
        ended_by: Digest::ZERO,
        author: v(0),
    };
    Arc::new(SignedHeader::sign(header, CHAIN, &FakeSigner(v(0))))
}

pub fn watermark(tips: &[(usize, LaneTip)]) -> Watermark {
    let tips = tips.iter().map(|(lane, tip)| (v(*lane), *tip)).collect();
    Watermark {
        epoch: Epoch::ZERO,
        tips,
    }
}

/// A cut that differs from the empty one of `n` lanes in the given tips.
pub fn cut(n: usize, tips: &[(usize, LaneTip)]) -> Cut {
    let mut cut = Cut::empty(n);
    for (lane, tip) in tips {
        cut.0[*lane] = *tip;
    }
    cut
}

/// One node and its clock.
pub struct Single {
    pub core: Mempool,
    pub now_us: u64,
    pub cut: Cut,
    pub height: u64,
}

impl Single {
    pub fn new(n: usize) -> Self {
        Self::with(config(0, &set(n), params()))
    }

    pub fn with(config: Config) -> Self {
        let cut = Cut::empty(config.set.len());
        let recovered = Recovered {
            cut,
            ..Recovered::default()
        };
        Self::recovered(config, recovered)
    }

    pub fn recovered(config: Config, recovered: Recovered) -> Self {
        let (cut, height) = (recovered.cut.clone(), recovered.executed.0);
        let signer = Box::new(FakeSigner(config.me));
        let core = Mempool::new(config, signer, recovered).expect("it starts");
        Self {
            core,
            now_us: 1_000_000,
            cut,
            height,
        }
    }

    pub fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.core.handle(at(self.now_us), input, &mut out);
        out
    }

    pub fn wait(&mut self, us: u64) -> Vec<Effect> {
        self.now_us += us;
        self.handle(Input::Tick)
    }

    pub fn batch(&mut self, from: usize, batch: &Batch) -> Vec<Effect> {
        let batch = Verified::trusted(batch.clone());
        self.handle(Input::Batch {
            from: v(from),
            batch,
        })
    }

    pub fn watermark(&mut self, from: usize, tips: &[(usize, LaneTip)]) -> Vec<Effect> {
        self.handle(Input::Watermark {
            from: v(from),
            watermark: watermark(tips),
        })
    }

    /// Connects all peers; each says that it holds nothing.
    pub fn connect(&mut self) {
        for peer in 1..self.cut.0.len() {
            self.handle(Input::PeerUp(v(peer)));
            self.watermark(peer, &[]);
        }
    }

    pub fn commit(&mut self, tips: &[(usize, LaneTip)]) -> Vec<Effect> {
        let parent_cut = self.cut.clone();
        for (lane, tip) in tips {
            self.cut.0[*lane] = *tip;
        }
        self.height += 1;
        let header = header(self.height, self.cut.clone());
        self.handle(Input::Committed { header, parent_cut })
    }

    pub fn execute(&mut self) -> Vec<Effect> {
        self.handle(Input::Executed {
            height: Height(self.height),
        })
    }

    pub fn admit(&mut self, number: u64, bytes: usize) -> Admission {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        self.core
            .admit(at(self.now_us), Digest(id), Bytes::from(vec![1; bytes]))
    }

    /// The tip that the lane had at `seq`.
    pub fn tip_at(&self, lane: usize, seq: Seq) -> LaneTip {
        let lane = &self.core.lanes[lane];
        let hash = lane.hash_at(seq).expect("it is on the chain");
        LaneTip { seq, hash }
    }

    pub fn tip(&self, lane: usize) -> LaneTip {
        self.core.status().lanes[lane].tip
    }
}

pub fn persisted(out: &[Effect]) -> Vec<Batch> {
    let of = |effect: &Effect| match effect {
        Effect::Persist(batch) => Some(batch.clone()),
        _ => None,
    };
    out.iter().filter_map(of).collect()
}

/// Batches that were sent to `to`, or broadcast when `to` is `None`.
pub fn sent_batches(out: &[Effect], to: Option<usize>) -> Vec<Seq> {
    let of = |effect: &Effect| match (effect, to) {
        (Effect::Broadcast(PeerMessage::Batch(bytes)), None) => Some(bytes.clone()),
        (
            Effect::Send {
                to,
                message: PeerMessage::Batch(bytes),
            },
            Some(peer),
        ) => (*to == v(peer)).then(|| bytes.clone()),
        _ => None,
    };
    let parse = |bytes| Batch::parse(bytes).expect("a batch").header().seq;
    out.iter().filter_map(of).map(parse).collect()
}

/// The watermarks that were broadcast.
pub fn watermarks(out: &[Effect]) -> Vec<Watermark> {
    let of = |effect: &Effect| match effect {
        Effect::Broadcast(PeerMessage::Watermark(watermark)) => Some(watermark.clone()),
        _ => None,
    };
    out.iter().filter_map(of).collect()
}

/// Requests for batches: (peer, lane, first, last).
pub fn requests(out: &[Effect]) -> Vec<(usize, usize, u64, u64)> {
    let of = |effect: &Effect| match effect {
        Effect::Send {
            to,
            message: PeerMessage::GetBatches(r),
        } => Some((to.at(), r.lane.at(), r.first.0, r.last.0)),
        _ => None,
    };
    out.iter().filter_map(of).collect()
}

/// The hashes of each delivered block, with its height.
pub fn delivered(out: &[Effect]) -> Vec<(u64, Vec<Digest>)> {
    let of = |effect: &Effect| match effect {
        Effect::Deliver(payload) => {
            let hashes = payload.batches.iter().map(Batch::hash).collect();
            Some((payload.header.height.0, hashes))
        }
        _ => None,
    };
    out.iter().filter_map(of).collect()
}

pub fn hashes(batches: &[Batch]) -> Vec<Digest> {
    batches.iter().map(Batch::hash).collect()
}

pub fn evidence(out: &[Effect]) -> Vec<crate::Evidence> {
    let of = |effect: &Effect| match effect {
        Effect::Evidence(evidence) => Some((**evidence).clone()),
        _ => None,
    };
    out.iter().filter_map(of).collect()
}
