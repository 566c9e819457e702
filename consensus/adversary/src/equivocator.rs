//! Signs two or three proposals for each round that it leads, and votes (and votes to commit) twice.
//!
//! Every other time each peer learns of one of two proposals only and has to fetch the other when
//! that one is certified; the times between everybody sees all of three, in different order.

use falconet_crypto::hash;
use falconet_types::message::PeerMessage;
use falconet_types::{BlockId, Round, ValidatorIndex};

use crate::Behaviour;
use crate::stage::Stage;

/// Every so many rounds it votes for a block that nobody proposed as well.
const VOTES_TWICE_EVERY: u64 = 3;

#[derive(Default)]
pub(crate) struct Equivocator {
    /// The round led last, and the proposals made for it.
    led: (Round, Vec<BlockId>),
    /// Rounds led. Rounds themselves may all be even: leaders take turns.
    turns: u64,
}

impl Behaviour for Equivocator {
    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        match message {
            PeerMessage::Header(header) if to.is_none() && header.author == stage.config.me => {
                let round = header.round;
                self.turns += 1;
                let ways = 2 + self.turns % 2;
                let mut variants = vec![PeerMessage::Header(header.clone())];
                for way in 1..ways {
                    let mut other = header.header().clone();
                    other.time_ms += way;
                    variants.push(stage.header(other));
                }
                let ids = variants.iter().map(|variant| match variant {
                    PeerMessage::Header(header) => header.id(),
                    _ => unreachable!("all are headers"),
                });
                self.led = (round, ids.collect());
                spread(stage, &variants, self.turns % 2 == 1);
            }
            PeerMessage::Vote(vote) if to.is_none() && vote.voter == stage.config.me => {
                let sign = |stage: &Stage<'_>, id| {
                    stage.vote(vote.epoch, vote.round, id, vote.parent_round)
                };
                if self.led.0 == vote.round {
                    let others = self.led.1.iter().filter(|id| **id != vote.block_id);
                    let mut variants: Vec<_> = others.map(|id| sign(stage, *id)).collect();
                    // In the order of the proposals: the honest one is the first of them.
                    variants.insert(0, PeerMessage::Vote(vote.clone()));
                    spread(stage, &variants, self.turns % 2 == 1);
                } else if vote.round.0 % VOTES_TWICE_EVERY == 0 {
                    let nobody = hash::hash("adversary/block", &[vote.block_id.as_ref()]);
                    let variants = [PeerMessage::Vote(vote.clone()), sign(stage, nobody)];
                    spread(stage, &variants, true);
                } else {
                    stage.send(None, PeerMessage::Vote(vote));
                }
            }
            PeerMessage::CommitVote(vote)
                if to.is_none()
                    && vote.voter == stage.config.me
                    && vote.round.0 % VOTES_TWICE_EVERY == 0 =>
            {
                let nobody = hash::hash("adversary/block", &[vote.block_id.as_ref()]);
                let other = stage.commit_vote(vote.epoch, vote.round, nobody);
                spread(stage, &[PeerMessage::CommitVote(vote), other], true);
            }
            other => stage.send(to, other),
        }
    }
}

/// Sends each peer another variant, and the rest of them too when it is `careless`.
fn spread(stage: &mut Stage<'_>, variants: &[PeerMessage], careless: bool) {
    for (i, peer) in stage.peers().into_iter().enumerate() {
        let count = if careless { variants.len() } else { 1 };
        for k in 0..count {
            let variant = variants[(i + k) % variants.len()].clone();
            stage.send(Some(peer), variant);
        }
    }
}
