//! Keeps data back: each of its batches misses f+1 to 2f peers, and it answers no request, so that
//! the others must get it from one another.

use falconet_types::ValidatorIndex;
use falconet_types::batch::Batch;
use falconet_types::message::PeerMessage;

use crate::Behaviour;
use crate::stage::Stage;

pub(crate) struct Withholder;

impl Behaviour for Withholder {
    fn hears(&mut self, _: &mut Stage<'_>, _: ValidatorIndex, said: &PeerMessage) -> bool {
        !matches!(
            said,
            PeerMessage::GetCert(_) | PeerMessage::GetBlocks(_) | PeerMessage::GetBatches(_)
        )
    }

    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        let PeerMessage::Batch(bytes) = &message else {
            return stage.send(to, message);
        };
        let Ok(batch) = Batch::parse(bytes.clone()) else {
            unreachable!("a node sends whole batches");
        };
        let (peers, f) = (stage.peers(), stage.faulty_max());
        let seq = batch.header().seq.0 as usize;
        // f+1 when that is all there is (n = 4), up to 2f where f is larger.
        let misses = (f + 1 + seq % f.max(1)).min(peers.len().saturating_sub(1));
        for k in 0..peers.len() - misses {
            stage.send(Some(peers[(seq + k) % peers.len()]), message.clone());
        }
    }
}
