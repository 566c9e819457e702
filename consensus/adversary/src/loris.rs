//! Says everything, but as late as it just still counts: when others' timers are about to fire.

use falconet_types::ValidatorIndex;
use falconet_types::message::PeerMessage;

use crate::Behaviour;
use crate::stage::Stage;

pub(crate) struct SlowLoris;

impl Behaviour for SlowLoris {
    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        let timer_us = stage.config.round_timeout_us;
        // Between half of the timer and all of it.
        let late_us = timer_us / 2 + stage.random.u64(..) % (timer_us / 2).max(1);
        stage.send_after(late_us, to, message);
    }
}
