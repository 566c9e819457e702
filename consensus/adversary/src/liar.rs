//! Lies in timeouts. After a vote it gives the round up with the genesis QC (below its lock:
//! provable), or with a QC that does not exist, or with two stories, or far ahead of everybody.

use falconet_crypto::hash;
use falconet_types::block;
use falconet_types::certificate::Vote;
use falconet_types::message::PeerMessage;
use falconet_types::{BlockId, ChainId, Epoch, Round, ValidatorIndex};

use crate::Behaviour;
use crate::stage::Stage;

/// How far ahead it gives up rounds.
const ROUNDS_AHEAD: u64 = 5;

#[derive(Default)]
pub(crate) struct TimeoutLiar {
    lies: u64,
    /// The block that an epoch begins on, once a header named it.
    genesis: Option<(Epoch, BlockId)>,
}

impl TimeoutLiar {
    fn learn(&mut self, message: &PeerMessage) {
        if let PeerMessage::Header(header) = message
            && header.parent_round == Round::ZERO
        {
            self.genesis = Some((header.epoch, header.parent_id));
        }
    }

    fn genesis(&self, epoch: Epoch, chain: ChainId) -> BlockId {
        match self.genesis {
            Some((known, id)) if known == epoch => id,
            _ => block::genesis_id(chain),
        }
    }

    fn lie(&mut self, stage: &mut Stage<'_>, vote: &Vote) {
        let (epoch, round) = (vote.epoch, vote.round);
        let genesis = self.genesis(epoch, stage.config.chain_id);
        let nobody = hash::hash("adversary/qc", &[vote.block_id.as_ref()]);
        let low = stage.timeout(epoch, round, Round::ZERO, genesis);
        let lies = match self.lies % 4 {
            0 => vec![low],
            1 => vec![stage.timeout(epoch, round.next(), round, nobody)],
            2 => vec![
                stage.timeout(epoch, round, vote.parent_round, vote.block_id),
                low,
            ],
            _ => {
                let far = Round(round.0 + ROUNDS_AHEAD);
                vec![stage.timeout(epoch, far, far.prev(), nobody)]
            }
        };
        self.lies += 1;
        for lie in lies {
            stage.send(None, lie);
        }
    }
}

impl Behaviour for TimeoutLiar {
    fn hears(&mut self, _: &mut Stage<'_>, _: ValidatorIndex, said: &PeerMessage) -> bool {
        self.learn(said);
        true
    }

    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        self.learn(&message);
        match message {
            PeerMessage::Vote(vote) if to.is_none() && vote.voter == stage.config.me => {
                stage.send(None, PeerMessage::Vote(vote.clone()));
                // A lie about a lock needs one.
                if vote.parent_round.0 > 0 {
                    self.lie(stage, &vote);
                }
            }
            PeerMessage::Timeout(timeout) if to.is_none() => {
                let genesis = self.genesis(timeout.epoch, stage.config.chain_id);
                let round = timeout.round;
                let low = stage.timeout(timeout.epoch, round, Round::ZERO, genesis);
                for (i, peer) in stage.peers().into_iter().enumerate() {
                    let truth = PeerMessage::Timeout(timeout.clone());
                    let said = if i % 2 == 0 { truth } else { low.clone() };
                    stage.send(Some(peer), said);
                }
            }
            other => stage.send(to, other),
        }
    }
}
