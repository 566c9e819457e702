//! Says what it has, and gives away next to nothing of it: a header of each run that it is asked for,
//! a snapshot's height and neither manifest nor part, no batch, no proof that an epoch is over.

use falconet_types::ValidatorIndex;
use falconet_types::message::PeerMessage;

use crate::Behaviour;
use crate::stage::Stage;

/// What becomes of an answer to one peer.
#[must_use]
pub fn hoarded(answer: PeerMessage) -> Option<PeerMessage> {
    match answer {
        PeerMessage::Snapshot(mut offer) => {
            offer.manifest = None;
            Some(PeerMessage::Snapshot(offer))
        }
        PeerMessage::Blocks(mut headers) => {
            headers.truncate(1);
            Some(PeerMessage::Blocks(headers))
        }
        PeerMessage::Chunk(_) | PeerMessage::Batch(_) | PeerMessage::EpochProof(_) => None,
        other => Some(other),
    }
}

pub(crate) struct Hoarder;

impl Behaviour for Hoarder {
    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        // What is for everybody answers nobody.
        let left = match to {
            Some(_) => hoarded(message),
            None => Some(message),
        };
        if let Some(message) = left {
            stage.send(to, message);
        }
    }
}
