//! Values of every wire type, as a function of a seed.
//!
//! The values depend on nothing but this file: an own generator (SplitMix64), so that no other
//! crate's version can change a conformance hash.

use std::net::SocketAddrV6;

use bytes::Bytes;
use falconet_crypto::falcon::{PublicKey, Scheme, Signature, SigningMessage};
use falconet_types::batch::{Batch, BatchHeader, SignedBatchHeader, Watermark};
use falconet_types::block::{Cut, Executed, Header, HeaderKind, LaneTip, SignedHeader};
use falconet_types::certificate::{Qc, Tc, TcEntry, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::epoch::{EpochProof, NextMembers};
use falconet_types::evidence::Evidence;
use falconet_types::message::{
    Admission, CertRef, ClientMessage, GetBatches, GetBlocks, PeerMessage,
};
use falconet_types::proof::{CommittedChain, PortableProof, ReceiptPath, TransactionProof};
use falconet_types::receipt::{Outcome, Receipt, StateRoots};
use falconet_types::signing::Signer;
use falconet_types::snapshot::{Chunk, GetChunk, GetSnapshot, Manifest, SnapshotOffer};
use falconet_types::stake::Stake;
use falconet_types::transaction::{Body, SignedTransaction, Transaction};
use falconet_types::validators::Member;
use falconet_types::wire::{Wire, put_signature};
use falconet_types::{Digest, Epoch, Height, Round, Seq, ValidatorIndex};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Gen(u64);

impl Gen {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Any number of bits, so that small and large values are equally frequent.
    pub fn number(&mut self) -> u64 {
        let bits = self.u64() % 65;
        self.u64().checked_shr(64 - bits as u32).unwrap_or(0)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.u64() % n
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.u64() as u8).collect()
    }

    pub fn list<T>(&mut self, max: u64, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let n = self.below(max + 1);
        (0..n).map(|_| item(self)).collect()
    }

    pub fn value<T: Generate>(&mut self) -> T {
        T::generate(self)
    }
}

/// A value as a function of the generator's state.
pub trait Generate {
    fn generate(g: &mut Gen) -> Self;
}

impl Generate for Digest {
    fn generate(g: &mut Gen) -> Self {
        Digest(g.bytes(32).try_into().expect("32 bytes"))
    }
}

macro_rules! numbers {
    ($($name:ident),*) => { $(
        impl Generate for $name {
            fn generate(g: &mut Gen) -> Self {
                $name(g.number())
            }
        }
    )* };
}
numbers!(Epoch, Round, Height, Seq);

impl Generate for ValidatorIndex {
    fn generate(g: &mut Gen) -> Self {
        Self(g.number() as u16)
    }
}

impl Generate for Scheme {
    fn generate(g: &mut Gen) -> Self {
        Scheme::ALL[g.below(2) as usize]
    }
}

impl Generate for Signature {
    fn generate(g: &mut Gen) -> Self {
        let scheme: Scheme = g.value();
        signature(g, scheme)
    }
}

fn signature(g: &mut Gen, scheme: Scheme) -> Signature {
    let mut bytes = g.bytes(scheme.signature_len());
    bytes[0] = scheme.signature_header();
    Signature::from_bytes(scheme, &bytes).expect("length and header are right")
}

/// A canonical key with arbitrary coefficients: 14 bits each, big-endian, below q.
pub fn public_key(g: &mut Gen, scheme: Scheme) -> PublicKey {
    let mut bytes = vec![scheme.public_key_header()];
    let (mut pending, mut bits) = (0u64, 0);
    for _ in 0..scheme.degree() {
        pending = pending << 14 | g.below(12_289);
        bits += 14;
        while bits >= 8 {
            bits -= 8;
            bytes.push((pending >> bits) as u8);
        }
    }
    PublicKey::from_bytes(scheme, &bytes).expect("coefficients are below q")
}

impl Generate for LaneTip {
    fn generate(g: &mut Gen) -> Self {
        match g.below(4) {
            0 => LaneTip::default(),
            _ => LaneTip {
                seq: Seq(g.number().max(1)),
                hash: g.value(),
            },
        }
    }
}

impl Generate for Cut {
    fn generate(g: &mut Gen) -> Self {
        Cut(g.list(6, Gen::value))
    }
}

impl Generate for Executed {
    fn generate(g: &mut Gen) -> Self {
        Executed {
            height: g.value(),
            root: g.value(),
        }
    }
}

impl Generate for Header {
    fn generate(g: &mut Gen) -> Self {
        Header {
            epoch: g.value(),
            round: g.value(),
            kind: [HeaderKind::Normal, HeaderKind::Recovery][g.below(2) as usize],
            parent_id: g.value(),
            parent_round: g.value(),
            height: g.value(),
            cut: g.value(),
            time_ms: g.number(),
            executed: g.value(),
            ended_by: g.value(),
            author: g.value(),
        }
    }
}

impl Generate for SignedHeader {
    fn generate(g: &mut Gen) -> Self {
        let mut bytes = g.value::<Header>().to_bytes();
        put_signature(&mut bytes, &g.value());
        SignedHeader::from_bytes(&bytes).expect("header and signature")
    }
}

impl Generate for CommitVote {
    fn generate(g: &mut Gen) -> Self {
        CommitVote {
            epoch: g.value(),
            round: g.value(),
            block_id: g.value(),
            voter: g.value(),
            signature: g.value(),
        }
    }
}

impl Generate for Vote {
    fn generate(g: &mut Gen) -> Self {
        Vote {
            epoch: g.value(),
            round: g.value(),
            block_id: g.value(),
            parent_round: g.value(),
            voter: g.value(),
            signature: g.value(),
        }
    }
}

impl Generate for Timeout {
    fn generate(g: &mut Gen) -> Self {
        Timeout {
            epoch: g.value(),
            round: g.value(),
            hqc_round: g.value(),
            hqc_id: g.value(),
            author: g.value(),
            signature: g.value(),
        }
    }
}

impl Generate for Qc {
    fn generate(g: &mut Gen) -> Self {
        Qc {
            epoch: g.value(),
            round: g.value(),
            block_id: g.value(),
            parent_round: g.value(),
            votes: g.list(3, |g| (g.value(), g.value())),
        }
    }
}

impl Generate for Tc {
    fn generate(g: &mut Gen) -> Self {
        let entry = |g: &mut Gen| TcEntry {
            author: g.value(),
            hqc_round: g.value(),
            hqc_id: g.value(),
            signature: g.value(),
        };
        Tc {
            epoch: g.value(),
            round: g.value(),
            entries: g.list(3, entry),
            max_qc: g.value(),
        }
    }
}

impl Generate for BatchHeader {
    fn generate(g: &mut Gen) -> Self {
        BatchHeader {
            epoch: g.value(),
            lane: g.value(),
            seq: g.value(),
            prev_hash: g.value(),
            tx_root: g.value(),
            payload_len: g.below(1 + (1 << 20)) as u32,
            tx_count: g.below(1 + 16_384) as u32,
        }
    }
}

/// Returns the signature that it was made with.
struct Fixed(Signature);

impl Signer for Fixed {
    fn sign(&self, _: &SigningMessage) -> Signature {
        self.0.clone()
    }
    fn key_id(&self) -> Digest {
        Digest::ZERO
    }
}

impl Generate for Batch {
    fn generate(g: &mut Gen) -> Self {
        let tip: LaneTip = match g.value() {
            LaneTip {
                seq: Seq(u64::MAX), ..
            } => LaneTip::default(),
            tip => tip,
        };
        let mut txs: Vec<Bytes> = g.list(3, |g| {
            let len = 62 + g.below(100) as usize;
            g.bytes(len).into()
        });
        txs.push(g.bytes(62).into());
        let signer = Fixed(g.value());
        Batch::seal(g.value(), g.value(), tip, &txs, Digest::ZERO, &signer)
    }
}

impl Generate for Watermark {
    fn generate(g: &mut Gen) -> Self {
        let mut lane = 0;
        let tips = g.list(5, |g| {
            lane += 1 + g.below(20) as u16;
            (ValidatorIndex(lane), g.value())
        });
        Watermark {
            epoch: g.value(),
            tips,
        }
    }
}

impl Generate for Transaction {
    fn generate(g: &mut Gen) -> Self {
        let scheme: Scheme = g.value();
        let (sender, body) = match g.below(8) {
            1..4 => (g.value(), Body::Stake(Box::new(g.value()))),
            0 => {
                let key = public_key(g, scheme);
                (key.id(), Body::RegisterKey { key })
            }
            _ => (
                g.value(),
                Body::Transfer {
                    to: g.value(),
                    amount: g.number(),
                },
            ),
        };
        let free = matches!(&body, Body::Stake(stake) if stake.is_by_validator());
        Transaction {
            scheme,
            chain_id: g.value(),
            sender,
            nonce: if free { 0 } else { g.number() },
            valid_until_ms: g.number(),
            fee: if free { 0 } else { g.number() },
            body,
        }
    }
}

impl Generate for SignedTransaction {
    fn generate(g: &mut Gen) -> Self {
        let tx: Transaction = g.value();
        let mut bytes = tx.to_bytes();
        bytes.extend_from_slice(signature(g, tx.scheme).as_bytes());
        SignedTransaction::parse(bytes.into()).expect("transaction and signature")
    }
}

impl Generate for SignedBatchHeader {
    fn generate(g: &mut Gen) -> Self {
        SignedBatchHeader {
            header: g.value(),
            signature: g.value(),
        }
    }
}

impl Generate for Evidence {
    fn generate(g: &mut Gen) -> Self {
        match g.below(6) {
            0 => Evidence::Headers(Box::new(g.value()), Box::new(g.value())),
            1 => Evidence::Votes(Box::new(g.value()), Box::new(g.value())),
            2 => Evidence::LockViolation(Box::new(g.value()), Box::new(g.value())),
            3 => Evidence::CommitVotes(Box::new(g.value()), Box::new(g.value())),
            4 => Evidence::CommitViolation(Box::new(g.value()), Box::new(g.value())),
            _ => Evidence::Batches(Box::new(g.value()), Box::new(g.value())),
        }
    }
}

fn name(g: &mut Gen) -> String {
    let len = 1 + g.below(12);
    (0..len)
        .map(|_| char::from(b'a' + g.below(26) as u8))
        .collect()
}

fn address(g: &mut Gen) -> SocketAddrV6 {
    let ip: [u8; 16] = g.bytes(16).try_into().expect("16 bytes");
    SocketAddrV6::new(ip.into(), 1 + g.below(65_535) as u16, 0, 0)
}

impl Generate for Stake {
    fn generate(g: &mut Gen) -> Self {
        let scheme = g.value();
        match g.below(6) {
            0 => Stake::Bond {
                amount: g.number(),
                key: public_key(g, scheme),
                name: name(g),
                address: address(g),
                proof: g.value(),
            },
            1 => Stake::Unbond {
                validator: g.value(),
                amount: g.number(),
            },
            2 => Stake::RotateKey {
                validator: g.value(),
                key: public_key(g, scheme),
                proof_new: g.value(),
                proof_old: g.value(),
            },
            3 => Stake::SetAddress {
                validator: g.value(),
                address: address(g),
            },
            4 => Stake::Ready {
                epoch: g.value(),
                height: g.value(),
                commitment: g.value(),
            },
            _ => Stake::Report {
                evidence: g.value(),
            },
        }
    }
}

impl Generate for Outcome {
    fn generate(g: &mut Gen) -> Self {
        Outcome::ALL[g.below(Outcome::ALL.len() as u64) as usize]
    }
}

impl Generate for Receipt {
    fn generate(g: &mut Gen) -> Self {
        Receipt {
            tx_id: g.value(),
            height: g.value(),
            lane: g.value(),
            seq: g.value(),
            index: g.number() as u32,
            outcome: g.value(),
        }
    }
}

impl Generate for StateRoots {
    fn generate(g: &mut Gen) -> Self {
        StateRoots {
            receipts: g.value(),
            accounts: g.value(),
            validators: g.value(),
            results: g.value(),
        }
    }
}

impl Generate for CertRef {
    fn generate(g: &mut Gen) -> Self {
        match g.below(2) {
            0 => CertRef::Qc {
                epoch: g.value(),
                round: g.value(),
                block_id: g.value(),
            },
            _ => CertRef::Tc {
                epoch: g.value(),
                round: g.value(),
            },
        }
    }
}

impl Generate for GetBlocks {
    fn generate(g: &mut Gen) -> Self {
        GetBlocks {
            from: g.value(),
            stop_height: g.value(),
            max: g.below(65) as u16,
        }
    }
}

impl Generate for GetBatches {
    fn generate(g: &mut Gen) -> Self {
        let first = g.number().max(1);
        let last = first.saturating_add(g.number());
        GetBatches {
            epoch: g.value(),
            lane: g.value(),
            first: Seq(first),
            last: Seq(last),
        }
    }
}

impl Generate for Admission {
    fn generate(g: &mut Gen) -> Self {
        match g.below(4) {
            0 => Admission::Accepted,
            1 => Admission::Duplicate,
            2 => Admission::Busy {
                retry_after_ms: g.number() as u32,
            },
            _ => Admission::Refused(g.value()),
        }
    }
}

impl Generate for Member {
    fn generate(g: &mut Gen) -> Self {
        let scheme = [Scheme::Falcon512, Scheme::Falcon1024][g.below(2) as usize];
        Self {
            name: format!("v{}", g.below(100)),
            key: public_key(g, scheme),
            weight: g.number(),
            address: (g.below(2) == 0).then(|| {
                let ip = u128::from(g.u64()) << 64 | u128::from(g.u64());
                SocketAddrV6::new(ip.into(), g.below(65_535) as u16 + 1, 0, 0)
            }),
        }
    }
}

impl Generate for EpochProof {
    fn generate(g: &mut Gen) -> Self {
        let mut headers = vec![g.value(), g.value(), g.value()];
        headers.extend(g.list(2, Gen::value));
        Self {
            headers,
            qc: g.value(),
            accounts: g.value(),
            results: g.value(),
            next: (g.below(2) == 0).then(|| NextMembers {
                members: g.list(3, Gen::value),
                registry: g.value(),
            }),
        }
    }
}

impl Generate for PeerMessage {
    fn generate(g: &mut Gen) -> Self {
        match g.below(21) {
            0 => Self::Header(g.value()),
            1 => Self::Vote(g.value()),
            2 => Self::Timeout(g.value()),
            3 => Self::Qc(g.value()),
            4 => Self::Tc(g.value()),
            5 => Self::CertRefs(g.list(4, Gen::value)),
            6 => Self::GetCert(g.value()),
            7 => Self::GetBlocks(g.value()),
            8 => Self::Blocks(g.list(3, Gen::value)),
            9 => Self::Watermark(g.value()),
            10 => Self::GetBatches(g.value()),
            11 => Self::GetSnapshot(g.value()),
            12 => Self::Snapshot(Box::new(g.value())),
            13 => Self::GetChunk(g.value()),
            14 => Self::Chunk(g.value()),
            15 => Self::Follow,
            18 => Self::Relay(g.bytes(100).into()),
            16 => Self::GetEpochProof(g.value()),
            17 => Self::EpochProof(Box::new(g.value())),
            19 => Self::CommitVote(g.value()),
            _ => Self::Batch(g.value::<Batch>().bytes().clone()),
        }
    }
}

impl Generate for GetSnapshot {
    fn generate(g: &mut Gen) -> Self {
        Self { height: g.value() }
    }
}

impl Generate for SnapshotOffer {
    fn generate(g: &mut Gen) -> Self {
        let mut heights: Vec<Height> = g.list(3, |g| Height(g.number().max(1)));
        heights.sort_unstable_by(|a, b| b.cmp(a));
        heights.dedup();
        Self {
            horizon: g.value(),
            heights,
            manifest: (g.below(2) == 1).then(|| g.value()),
        }
    }
}

impl Generate for Manifest {
    fn generate(g: &mut Gen) -> Self {
        let mut headers = g.list(2, Gen::value);
        headers.push(g.value());
        let len = g.below(100) as usize;
        Self {
            tree_root: g.value(),
            burned: g.number(),
            registry: g.bytes(len).into(),
            validators: g.value(),
            results: g.value(),
            rows_bytes: g.number(),
            headers,
            qc: g.value(),
        }
    }
}

impl Generate for GetChunk {
    fn generate(g: &mut Gen) -> Self {
        let (a, b) = (g.u64() as u16, g.u64() as u16);
        Self {
            height: g.value(),
            first: a.min(b),
            last: a.max(b),
        }
    }
}

impl Generate for Chunk {
    fn generate(g: &mut Gen) -> Self {
        let GetChunk {
            height,
            first,
            last,
        } = g.value();
        let len = g.below(300) as usize;
        Self {
            height,
            first,
            last,
            left: g.list(16, Gen::value),
            right: g.list(16, Gen::value),
            rows: g.bytes(len).into(),
        }
    }
}

impl Generate for ClientMessage {
    fn generate(g: &mut Gen) -> Self {
        let bytes = |g: &mut Gen| -> Bytes {
            let len = g.below(200) as usize;
            g.bytes(len).into()
        };
        match g.below(7) {
            0 => {
                let mut txs = g.list(3, bytes);
                txs.push(bytes(g));
                Self::Submit { tag: g.u64(), txs }
            }
            1 => Self::Results {
                tag: g.u64(),
                results: g.list(9, Gen::value),
            },
            2 => Self::Receipts(g.list(9, Gen::value)),
            3 => Self::GetProof(g.value()),
            4 => Self::GetEpochProof(g.value()),
            5 => Self::EpochProof {
                epoch: g.value(),
                proof: bytes(g),
            },
            _ => Self::Proof {
                tx_id: g.value(),
                proof: bytes(g),
            },
        }
    }
}

impl Generate for PortableProof {
    fn generate(g: &mut Gen) -> Self {
        Self {
            epochs: g.list(2, Gen::value),
            proof: g.value(),
        }
    }
}

impl Generate for CommittedChain {
    fn generate(g: &mut Gen) -> Self {
        CommittedChain {
            headers: g.list(3, Gen::value),
            qc: g.value(),
        }
    }
}

impl Generate for TransactionProof {
    fn generate(g: &mut Gen) -> Self {
        let len = g.below(300) as usize;
        TransactionProof {
            tx: g.bytes(len).into(),
            receipt: g.value(),
            tx_path: g.list(3, Gen::value),
            batches: g.list(3, Gen::value),
            receipt_path: ReceiptPath {
                index: g.number() as u32,
                count: g.number() as u32,
                siblings: g.list(3, Gen::value),
            },
            results_before: g.value(),
            receipts_roots: g.list(3, Gen::value),
            accounts_root: g.value(),
            validators_root: g.value(),
            chain: g.value(),
        }
    }
}
