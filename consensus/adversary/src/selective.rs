//! Each message that it should send to all reaches one half of the peers, another half each time,
//! and nobody gets a certificate from it: the rest must pull it from others.

use falconet_types::ValidatorIndex;
use falconet_types::message::PeerMessage;

use crate::Behaviour;
use crate::stage::Stage;

#[derive(Default)]
pub(crate) struct SelectiveSender {
    turn: usize,
}

impl Behaviour for SelectiveSender {
    fn hears(&mut self, _: &mut Stage<'_>, _: ValidatorIndex, said: &PeerMessage) -> bool {
        !matches!(said, PeerMessage::GetCert(_))
    }

    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        if matches!(
            message,
            PeerMessage::Qc(_) | PeerMessage::Tc(_) | PeerMessage::CertRefs(_)
        ) {
            return;
        }
        if to.is_some() {
            return stage.send(to, message);
        }
        self.turn += 1;
        let peers = stage.peers();
        let half = peers.len().div_ceil(2);
        for k in 0..half {
            let peer = peers[(self.turn + k) % peers.len()];
            stage.send(Some(peer), message.clone());
        }
    }
}
