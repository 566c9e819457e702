//! Small lies: mutations of valid messages, as in ByzzFuzz (Winter et al., OOPSLA 2023).
//!
//! A correct node runs behind; some of what it sends is changed in one place before it leaves:
//! a round off by one, another block's id, another epoch, an inflated or lowered QC, a dropped or
//! doubled signer, another parent, an old message once more. Where the message is the actor's own
//! it is signed again, so that receivers must judge the content; where others signed it, their
//! signatures stay and no longer match. Lies go to a random part of the peers, the truth to the
//! rest.

use std::collections::VecDeque;

use falconet_ledger::snapshot::{Rows, put_row};
use falconet_types::batch::Batch;
use falconet_types::block::{Header, HeaderKind, LaneTip, SignedHeader};
use falconet_types::certificate::{Qc, Tc, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::message::{CertRef, PeerMessage};
use falconet_types::snapshot::{Chunk, SnapshotOffer};
use falconet_types::{BlockId, Digest, Epoch, Height, Round, Seq};

use super::actor::{Actor, Stage};
use super::rng::Rng;

/// Headers and messages that are remembered to lie with.
const REMEMBERED: usize = 64;
/// How far back another parent is looked for, in headers.
const RECENT: usize = 4;

/// Sends mutated messages.
#[derive(Debug)]
pub struct Mutator {
    /// How many of a thousand messages are changed.
    per_mille: u64,
    headers: VecDeque<SignedHeader>,
    messages: VecDeque<PeerMessage>,
}

impl Mutator {
    /// An actor that changes so many of a thousand messages.
    #[must_use]
    pub fn new(per_mille: u64) -> Self {
        Self {
            per_mille,
            headers: VecDeque::new(),
            messages: VecDeque::new(),
        }
    }

    fn remember(&mut self, message: &PeerMessage) {
        if let PeerMessage::Header(header) = message {
            push(&mut self.headers, header.clone());
        }
    }

    fn known(&self, rng: &mut Rng) -> Option<&SignedHeader> {
        let len = self.headers.len();
        (len > 0).then(|| &self.headers[rng.index(len)])
    }

    fn some_id(&self, rng: &mut Rng) -> BlockId {
        match self.known(rng) {
            Some(header) if rng.chance(900) => header.id(),
            _ => Digest([rng.below(256) as u8; 32]),
        }
    }

    fn header(&self, stage: &mut Stage<'_>, header: &SignedHeader) -> SignedHeader {
        let mut lie: Header = header.header().clone();
        let rng = &mut *stage.rng;
        match rng.below(10) {
            0 => lie.round = off_by_one(lie.round, rng),
            1 => lie.parent_round = off_by_one(lie.parent_round, rng),
            2 => lie.parent_id = self.some_id(rng),
            3 => lie.height = Height(lie.height.0.wrapping_add(rng.below(3)).saturating_sub(1)),
            4 => {
                lie.time_ms = lie
                    .time_ms
                    .wrapping_add(rng.below(2_000))
                    .wrapping_sub(1_000)
            }
            5 => lie.executed.root = Digest([7; 32]),
            6 => lie.epoch = Epoch(lie.epoch.0 + rng.between(1, 2)),
            7 => {
                let len = lie.cut.0.len();
                let tip = &mut lie.cut.0[rng.index(len)];
                *tip = other_tip(*tip, rng);
            }
            _ => match recent(&self.headers, lie.round, rng) {
                Some(parent) => reparent(&mut lie, parent),
                None => lie.time_ms += 1,
            },
        }
        SignedHeader::sign(lie, stage.chain.id, &stage.signer())
    }

    fn vote(&self, stage: &mut Stage<'_>, vote: &Vote) -> Vote {
        let mut lie = vote.clone();
        let rng = &mut *stage.rng;
        match rng.below(5) {
            0 => lie.round = off_by_one(lie.round, rng),
            1 => lie.parent_round = off_by_one(lie.parent_round, rng),
            2 => lie.epoch = Epoch(lie.epoch.0 + 1),
            3 => lie.round = Round(lie.round.0.saturating_add(rng.below(1 << 40))),
            _ => lie.block_id = self.some_id(rng),
        }
        Vote::sign(
            lie.epoch,
            lie.round,
            lie.block_id,
            lie.parent_round,
            stage.me,
            stage.chain.id,
            &stage.signer(),
        )
    }

    fn commit_vote(&self, stage: &mut Stage<'_>, vote: &CommitVote) -> CommitVote {
        let mut lie = vote.clone();
        let rng = &mut *stage.rng;
        match rng.below(4) {
            0 => lie.round = off_by_one(lie.round, rng),
            1 => lie.epoch = Epoch(lie.epoch.0 + 1),
            2 => lie.round = Round(lie.round.0.saturating_add(rng.below(1 << 40))),
            _ => lie.block_id = self.some_id(rng),
        }
        let (epoch, round, id) = (lie.epoch, lie.round, lie.block_id);
        let chain = stage.chain.id;
        CommitVote::sign(epoch, round, id, stage.me, chain, &stage.signer())
    }

    fn timeout(&self, stage: &mut Stage<'_>, timeout: &Timeout) -> Timeout {
        let mut lie = timeout.clone();
        let rng = &mut *stage.rng;
        match rng.below(5) {
            0 => lie.round = off_by_one(lie.round, rng),
            1 => lie.hqc_round = lie.round.prev(), // inflated
            2 => lie.epoch = Epoch(lie.epoch.0 + 1),
            3 => lie.hqc_id = self.some_id(rng),
            _ => {
                if let Some(header) = self.known(rng) {
                    lie.hqc_round = header.round;
                    lie.hqc_id = header.id();
                }
            }
        }
        Timeout::sign(
            lie.epoch,
            lie.round,
            lie.hqc_round,
            lie.hqc_id,
            stage.me,
            stage.chain.id,
            &stage.signer(),
        )
    }

    fn qc(&self, rng: &mut Rng, qc: &Qc) -> Qc {
        let mut lie = qc.clone();
        match rng.below(5) {
            0 => {
                lie.votes.pop();
            }
            1 => twice(&mut lie.votes, rng),
            2 => lie.block_id = self.some_id(rng),
            3 => lie.round = off_by_one(lie.round, rng),
            _ => lie.epoch = Epoch(lie.epoch.0 + 1),
        }
        lie
    }

    fn tc(&self, rng: &mut Rng, tc: &Tc) -> Tc {
        let mut lie = tc.clone();
        let len = lie.entries.len();
        match rng.below(6) {
            0 => {
                lie.entries.pop();
            }
            1 => twice(&mut lie.entries, rng),
            2 => lie.round = off_by_one(lie.round, rng),
            3 if len > 0 => lie.entries[rng.index(len)].hqc_round = lie.round.prev(),
            4 => lie.epoch = Epoch(lie.epoch.0 + 1),
            _ => lie.max_qc = self.qc(rng, &tc.max_qc),
        }
        lie
    }

    fn batch(stage: &Stage<'_>, bytes: &bytes::Bytes) -> Option<PeerMessage> {
        let batch = Batch::parse(bytes.clone()).ok()?;
        let header = batch.header();
        if header.lane != stage.me {
            return None;
        }
        // The lane forks: other transactions under the same sequence number.
        let mut txs: Vec<_> = batch.transactions().collect();
        txs.push(txs[0].clone());
        let tip = LaneTip {
            seq: Seq(header.seq.0 - 1),
            hash: header.prev_hash,
        };
        let fork = Batch::seal(
            header.epoch,
            header.lane,
            tip,
            &txs,
            stage.chain.id,
            &stage.signer(),
        );
        Some(PeerMessage::Batch(fork.bytes().clone()))
    }

    /// Other heights than it has, or another state than the chain's.
    fn offer(stage: &mut Stage<'_>, offer: &SnapshotOffer) -> Box<SnapshotOffer> {
        let mut offer = offer.clone();
        match &mut offer.manifest {
            Some(manifest) if stage.rng.chance(500) => match stage.rng.below(3) {
                0 => manifest.tree_root.0[0] ^= 1,
                1 => manifest.burned += 1,
                _ => manifest.results.0[0] ^= 1,
            },
            _ => match stage.rng.below(3) {
                0 => offer.horizon = Height(stage.rng.below(1 << 20)),
                1 => offer.horizon = Height(1),
                _ => offer.heights = vec![Height(1 + stage.rng.below(1_000))],
            },
        }
        Box::new(offer)
    }

    /// A balance that is another, or accounts that are missing.
    fn chunk(stage: &mut Stage<'_>, chunk: &Chunk) -> Option<Chunk> {
        let (id, row) = Rows::new(&chunk.rows).next()?.ok()?;
        let mut rows = Vec::new();
        if stage.rng.chance(700) {
            let mut lie = row.to_vec();
            // The first field after the version: eight bytes of balance.
            lie[1] ^= 1;
            put_row(&mut rows, &id, &lie);
        }
        for row in Rows::new(&chunk.rows).skip(1) {
            let (id, row) = row.ok()?;
            put_row(&mut rows, &id, row);
        }
        Some(Chunk {
            rows: rows.into(),
            ..chunk.clone()
        })
    }

    fn lie(&self, stage: &mut Stage<'_>, message: &PeerMessage) -> Option<PeerMessage> {
        Some(match message {
            PeerMessage::Header(header) => PeerMessage::Header(self.header(stage, header)),
            PeerMessage::Vote(vote) => PeerMessage::Vote(self.vote(stage, vote)),
            PeerMessage::CommitVote(vote) => PeerMessage::CommitVote(self.commit_vote(stage, vote)),
            PeerMessage::Timeout(timeout) => PeerMessage::Timeout(self.timeout(stage, timeout)),
            PeerMessage::Qc(qc) => PeerMessage::Qc(self.qc(stage.rng, qc)),
            PeerMessage::Tc(tc) => PeerMessage::Tc(self.tc(stage.rng, tc)),
            PeerMessage::CertRefs(refs) => {
                let mut refs = refs.clone();
                for cert in &mut refs {
                    match cert {
                        CertRef::Qc { round, .. } | CertRef::Tc { round, .. } => {
                            *round = Round(round.0.saturating_add(1 << stage.rng.below(64)));
                        }
                    }
                }
                PeerMessage::CertRefs(refs)
            }
            PeerMessage::Watermark(watermark) => {
                let mut watermark = watermark.clone();
                for (_, tip) in &mut watermark.tips {
                    *tip = other_tip(*tip, stage.rng);
                }
                PeerMessage::Watermark(watermark)
            }
            PeerMessage::GetBlocks(request) => {
                let mut request = *request;
                request.from = self.some_id(stage.rng);
                request.stop_height = Height(stage.rng.below(1_000));
                PeerMessage::GetBlocks(request)
            }
            PeerMessage::Blocks(headers) => {
                let mut headers = headers.clone();
                let len = headers.len();
                if len > 1 && stage.rng.chance(500) {
                    headers.remove(stage.rng.index(len));
                } else {
                    headers.reverse();
                }
                PeerMessage::Blocks(headers)
            }
            PeerMessage::Batch(bytes) => return Self::batch(stage, bytes),
            PeerMessage::Snapshot(offer) => PeerMessage::Snapshot(Self::offer(stage, offer)),
            PeerMessage::Chunk(chunk) => PeerMessage::Chunk(Self::chunk(stage, chunk)?),
            _ => return None,
        })
    }
}

impl Actor for Mutator {
    fn name(&self) -> &'static str {
        "mutator"
    }

    fn on_message(
        &mut self,
        _: &mut Stage<'_>,
        _: usize,
        message: PeerMessage,
    ) -> Option<PeerMessage> {
        self.remember(&message);
        Some(message)
    }

    fn on_send(&mut self, stage: &mut Stage<'_>, to: Option<usize>, message: PeerMessage) {
        self.remember(&message);
        push(&mut self.messages, message.clone());
        // Snapshots are asked for seldom.
        let seldom = matches!(message, PeerMessage::Snapshot(_) | PeerMessage::Chunk(_));
        let per_mille = self.per_mille.max(if seldom { 500 } else { 0 });
        if !stage.rng.chance(per_mille) {
            stage.send_after(0, to, message);
            return;
        }
        if stage.rng.chance(150) {
            let old = stage.rng.index(self.messages.len());
            stage.send_after(0, to, self.messages[old].clone());
        }
        let Some(lie) = self.lie(stage, &message) else {
            stage.send_after(0, to, message);
            return;
        };
        // Now and then the lie and the truth, to the same peers.
        let both = stage.rng.chance(250);
        let peers: Vec<usize> = to.map_or_else(|| stage.others().collect(), |to| vec![to]);
        for peer in peers {
            let lied_to = stage.rng.chance(700);
            if lied_to {
                stage.send(peer, lie.clone());
            }
            if both || !lied_to {
                stage.send(peer, message.clone());
            }
        }
    }
}

/// A leader that ignores the highest QC that it holds: when it proposes after a TC, it does so on
/// some older block.
#[derive(Debug, Default)]
pub struct StaleLeader {
    headers: VecDeque<SignedHeader>,
}

impl Actor for StaleLeader {
    fn name(&self) -> &'static str {
        "stale-leader"
    }

    fn on_message(
        &mut self,
        _: &mut Stage<'_>,
        _: usize,
        message: PeerMessage,
    ) -> Option<PeerMessage> {
        if let PeerMessage::Header(header) = &message {
            push(&mut self.headers, header.clone());
        }
        Some(message)
    }

    fn on_send(&mut self, stage: &mut Stage<'_>, to: Option<usize>, message: PeerMessage) {
        let message = match message {
            PeerMessage::Header(header)
                if header.author == stage.me && header.kind == HeaderKind::Recovery =>
            {
                let mut lie = header.header().clone();
                if let Some(parent) = recent(&self.headers, header.parent_round, stage.rng) {
                    reparent(&mut lie, parent);
                }
                PeerMessage::Header(SignedHeader::sign(lie, stage.chain.id, &stage.signer()))
            }
            other => other,
        };
        stage.send_after(0, to, message);
    }
}

/// One of the last few headers below a round.
fn recent<'a>(
    headers: &'a VecDeque<SignedHeader>,
    below: Round,
    rng: &mut Rng,
) -> Option<&'a SignedHeader> {
    let nth = rng.index(RECENT);
    let older = headers.iter().rev().filter(|header| header.round < below);
    older.take(RECENT).nth(nth)
}

/// Puts a header on another parent, well-formed in every other way.
fn reparent(header: &mut Header, parent: &SignedHeader) {
    header.parent_id = parent.id();
    header.parent_round = parent.round;
    header.height = parent.height.next();
    header.cut = parent.cut.clone();
    header.time_ms = parent.time_ms + 1;
    header.executed = parent.executed;
    header.kind = if parent.round.next() == header.round {
        HeaderKind::Normal
    } else {
        HeaderKind::Recovery
    };
}

fn push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == REMEMBERED {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn off_by_one(round: Round, rng: &mut Rng) -> Round {
    if rng.chance(500) {
        round.next()
    } else {
        round.prev()
    }
}

fn twice<T: Clone>(signers: &mut Vec<T>, rng: &mut Rng) {
    if !signers.is_empty() {
        let at = rng.index(signers.len());
        signers.insert(at, signers[at].clone());
    }
}

/// A tip that can be encoded, and is not the given one.
fn other_tip(tip: LaneTip, rng: &mut Rng) -> LaneTip {
    let seq = Seq(tip.seq.0 + rng.below(3));
    if seq == Seq::ZERO {
        return LaneTip {
            seq: Seq(1),
            hash: Digest([9; 32]),
        };
    }
    LaneTip {
        seq,
        hash: Digest([rng.between(1, 255) as u8; 32]),
    }
}
