//! What a behaviour acts with: time, its key, its peers, and the way out.

use falconet_types::block::{Header, SignedHeader};
use falconet_types::certificate::{Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Signer;
use falconet_types::time::Now;
use falconet_types::{BlockId, Epoch, Round, ValidatorIndex};

use crate::Config;

/// A message that leaves an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    /// So many microseconds from now.
    pub after_us: u64,
    /// `None` is everybody else.
    pub to: Option<ValidatorIndex>,
    /// What.
    pub message: PeerMessage,
}

pub(crate) struct Stage<'a> {
    pub now: Now,
    pub config: &'a Config,
    pub signer: &'a dyn Signer,
    pub random: &'a mut fastrand::Rng,
    pub out: &'a mut Vec<Sending>,
}

impl Stage<'_> {
    pub fn send(&mut self, to: Option<ValidatorIndex>, message: PeerMessage) {
        self.send_after(0, to, message);
    }

    pub fn send_after(&mut self, after_us: u64, to: Option<ValidatorIndex>, message: PeerMessage) {
        self.out.push(Sending {
            after_us,
            to,
            message,
        });
    }

    /// All other validators, in order.
    pub fn peers(&self) -> Vec<ValidatorIndex> {
        let me = self.config.me;
        let all = self.config.set.iter().map(|validator| validator.index);
        all.filter(|index| *index != me).collect()
    }

    /// Most validators that may be faulty, were all weights equal.
    pub fn faulty_max(&self) -> usize {
        (self.config.set.len() - 1) / 3
    }

    pub fn header(&self, header: Header) -> PeerMessage {
        PeerMessage::Header(SignedHeader::sign(
            header,
            self.config.chain_id,
            self.signer,
        ))
    }

    pub fn vote(
        &self,
        epoch: Epoch,
        round: Round,
        block_id: BlockId,
        parent_round: Round,
    ) -> PeerMessage {
        let (me, chain) = (self.config.me, self.config.chain_id);
        PeerMessage::Vote(Vote::sign(
            epoch,
            round,
            block_id,
            parent_round,
            me,
            chain,
            self.signer,
        ))
    }

    pub fn commit_vote(&self, epoch: Epoch, round: Round, block_id: BlockId) -> PeerMessage {
        let (me, chain) = (self.config.me, self.config.chain_id);
        let vote = CommitVote::sign(epoch, round, block_id, me, chain, self.signer);
        PeerMessage::CommitVote(vote)
    }

    pub fn timeout(
        &self,
        epoch: Epoch,
        round: Round,
        hqc_round: Round,
        hqc_id: BlockId,
    ) -> PeerMessage {
        let (me, chain) = (self.config.me, self.config.chain_id);
        PeerMessage::Timeout(Timeout::sign(
            epoch,
            round,
            hqc_round,
            hqc_id,
            me,
            chain,
            self.signer,
        ))
    }
}
