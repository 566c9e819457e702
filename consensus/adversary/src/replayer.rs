//! Remembers what was said, by itself and by others, from the beginning and just now, and says it
//! again and again to whomever: signatures are valid, only the time has passed.

use std::collections::VecDeque;

use falconet_types::ValidatorIndex;
use falconet_types::message::PeerMessage;

use crate::Behaviour;
use crate::stage::Stage;

/// Messages kept from the beginning (of each epoch).
const OLDEST_MAX: usize = 128;
/// Messages kept from just now.
const NEWEST_MAX: usize = 512;
/// Larger ones are not kept, bytes.
const BYTES_MAX: usize = 64 << 10;
/// Time between two repetitions, microseconds.
const INTERVAL_US: u64 = 10_000;
/// Messages at a time.
const BURST: usize = 8;

#[derive(Default)]
pub(crate) struct Replayer {
    oldest: Vec<PeerMessage>,
    newest: VecDeque<PeerMessage>,
    next_us: u64,
}

impl Replayer {
    fn remember(&mut self, message: &PeerMessage) {
        if let PeerMessage::Batch(bytes) = message
            && bytes.len() > BYTES_MAX
        {
            return;
        }
        if self.oldest.len() < OLDEST_MAX {
            self.oldest.push(message.clone());
            return;
        }
        if self.newest.len() == NEWEST_MAX {
            self.newest.pop_front();
        }
        self.newest.push_back(message.clone());
    }
}

impl Behaviour for Replayer {
    fn hears(&mut self, _: &mut Stage<'_>, _: ValidatorIndex, said: &PeerMessage) -> bool {
        self.remember(said);
        true
    }

    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        self.remember(&message);
        stage.send(to, message);
    }

    fn tick(&mut self, stage: &mut Stage<'_>) {
        self.next_us = stage.now.mono_us + INTERVAL_US;
        let peers = stage.peers();
        let known = self.oldest.len() + self.newest.len();
        for _ in 0..BURST {
            if known == 0 || peers.is_empty() {
                return;
            }
            let at = stage.random.usize(..known);
            let message = match self.oldest.get(at) {
                Some(message) => message.clone(),
                None => self.newest[at - self.oldest.len()].clone(),
            };
            let to = peers[stage.random.usize(..peers.len())];
            stage.send(Some(to), message);
        }
    }

    fn next_tick_us(&self) -> Option<u64> {
        Some(self.next_us)
    }
}
