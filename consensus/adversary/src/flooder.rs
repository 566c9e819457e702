//! Sends more than anybody could want: statements about the far future up to the last number there
//! is, signatures that belong to something else, garbage, and requests without end.

use bytes::Bytes;
use falconet_crypto::hash::{self, Digest};
use falconet_types::batch::Watermark;
use falconet_types::block::LaneTip;
use falconet_types::message::{BLOCKS_PER_ANSWER_MAX, CertRef, GetBatches, GetBlocks, PeerMessage};
use falconet_types::{Epoch, Height, Round, Seq, ValidatorIndex};

use crate::Behaviour;
use crate::stage::Stage;

/// Shortest time between two bursts, microseconds.
const INTERVAL_US_MIN: u64 = 5_000;
/// Bytes of a frame of garbage.
const GARBAGE_BYTES: usize = 32 << 10;

pub(crate) struct Flooder {
    /// Messages in a burst, for each peer.
    burst: u64,
    interval_us: u64,
    next_us: u64,
    /// What the node said last: valid signatures to put under other content.
    vote: Option<falconet_types::certificate::Vote>,
    epoch: Epoch,
    round: Round,
}

impl Flooder {
    pub(crate) fn new(per_s: u64) -> Self {
        Self {
            burst: (per_s * INTERVAL_US_MIN / 1_000_000).max(1),
            interval_us: INTERVAL_US_MIN.max(1_000_000 / per_s.max(1)),
            next_us: 0,
            vote: None,
            epoch: Epoch::ZERO,
            round: Round::ZERO,
        }
    }

    fn message(&self, stage: &mut Stage<'_>) -> PeerMessage {
        let epoch = self.epoch;
        let random = stage.random.u64(..);
        let digest = hash::hash("adversary/flood", &[&random.to_le_bytes()]);
        let far = match random % 3 {
            0 => Round(u64::MAX),
            1 => Round(self.round.0 + random % 1_000),
            _ => Round(random),
        };
        match stage.random.usize(..9) {
            0 => stage.vote(epoch, far, digest, far.prev()),
            1 => stage.timeout(epoch, far, far.prev(), digest),
            2 => match &self.vote {
                // Somebody's vote for something that the signature is not about.
                Some(vote) => {
                    let mut forged = vote.clone();
                    forged.block_id = digest;
                    PeerMessage::Vote(forged)
                }
                None => stage.vote(epoch, far, digest, far.prev()),
            },
            3 => PeerMessage::GetBlocks(GetBlocks {
                from: digest,
                stop_height: Height::ZERO,
                max: u16::try_from(BLOCKS_PER_ANSWER_MAX).expect("a limit of the wire"),
            }),
            4 => PeerMessage::GetCert(CertRef::Qc {
                epoch,
                round: far,
                block_id: digest,
            }),
            5 => PeerMessage::GetBatches(GetBatches {
                epoch,
                lane: ValidatorIndex((random % stage.config.set.len() as u64) as u16),
                first: Seq(1),
                last: Seq(u64::MAX),
            }),
            6 => PeerMessage::CertRefs(vec![
                CertRef::Tc { epoch, round: far };
                PeerMessage::CERT_REFS_MAX
            ]),
            7 => PeerMessage::Watermark(Watermark {
                epoch,
                tips: vec![(
                    stage.config.me,
                    LaneTip {
                        seq: Seq(random | 1),
                        hash: Digest(digest.0),
                    },
                )],
            }),
            _ => PeerMessage::Batch(Bytes::from(vec![random as u8; GARBAGE_BYTES])),
        }
    }
}

impl Behaviour for Flooder {
    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        if let PeerMessage::Vote(vote) = &message {
            (self.epoch, self.round) = (vote.epoch, vote.round);
            self.vote = Some(vote.clone());
        }
        stage.send(to, message);
    }

    fn tick(&mut self, stage: &mut Stage<'_>) {
        self.next_us = stage.now.mono_us + self.interval_us;
        for peer in stage.peers() {
            for _ in 0..self.burst {
                let message = self.message(stage);
                stage.send(Some(peer), message);
            }
        }
    }

    fn next_tick_us(&self) -> Option<u64> {
        Some(self.next_us)
    }
}
