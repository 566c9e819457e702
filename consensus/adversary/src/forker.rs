//! Forks its lane: two batches for one place, each for one half of the peers; every other time
//! both for everybody, which proves it.

use falconet_types::block::LaneTip;
use falconet_types::message::PeerMessage;
use falconet_types::{ValidatorIndex, batch::Batch};

use crate::Behaviour;
use crate::stage::Stage;

pub(crate) struct LaneForker;

impl Behaviour for LaneForker {
    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        let (None, PeerMessage::Batch(bytes)) = (to, &message) else {
            return stage.send(to, message);
        };
        let Ok(batch) = Batch::parse(bytes.clone()) else {
            unreachable!("a node sends whole batches");
        };
        let header = batch.header();
        if header.lane != stage.config.me {
            return stage.send(to, message);
        }
        let mut txs: Vec<_> = batch.transactions().collect();
        if txs.len() > 1 {
            txs.pop();
        } else {
            txs.push(txs[0].clone());
        }
        let before = LaneTip {
            seq: header.seq.prev(),
            hash: header.prev_hash,
        };
        let (epoch, lane) = (header.epoch, header.lane);
        let other = Batch::seal(
            epoch,
            lane,
            before,
            &txs,
            stage.config.chain_id,
            stage.signer,
        );
        let branches = [message.clone(), PeerMessage::Batch(other.bytes().clone())];
        let careless = header.seq.0 % 2 == 0;
        for (i, peer) in stage.peers().into_iter().enumerate() {
            stage.send(Some(peer), branches[i % 2].clone());
            if careless {
                stage.send(Some(peer), branches[(i + 1) % 2].clone());
            }
        }
    }
}
