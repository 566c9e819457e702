//! The named Byzantine actors of `falconet-adversary` in the simulator: the same code that runs in
//! a test network's process.

use std::collections::BTreeMap;

use falconet_adversary::{Byzantine, Config, Kind, Sending};
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::{Epoch, ValidatorIndex};

use crate::sim::actor::{Actor, Stage};

/// Messages a second and peer of the flooder, when a run has other faults too. A simulated node
/// with a slow CPU has no allowance for its peers to exceed, and must be able to cope.
const FLOOD_PER_S: u64 = 100;

/// What a validator takes of a peer that it throttles, a second, and twice as much at once: of
/// consensus messages (`CONSENSUS_RATE_BANNED` in the validator's `peers/standing.rs`) and of data
/// (`DATA_RATE_BANNED`). A flooder's forged signatures have it throttled before its first turn.
const THROTTLED_PER_S: [u64; 2] = [1_000, 20];

/// What the receivers of a flood take of it: its own proposals and votes drown in it as well.
#[derive(Default)]
struct Throttle {
    /// For each receiver and class: what it took and would not take again yet, in millionths of a
    /// message, and when that was so, microseconds.
    taken: BTreeMap<(ValidatorIndex, usize), (u64, u64)>,
}

impl Throttle {
    fn admits(&mut self, now: Now, to: ValidatorIndex, message: &PeerMessage) -> bool {
        let class = usize::from(matches!(
            message,
            PeerMessage::Batch(_)
                | PeerMessage::Watermark(_)
                | PeerMessage::GetBatches(_)
                | PeerMessage::GetBlocks(_)
        ));
        let per_s = THROTTLED_PER_S[class];
        let taken = self.taken.entry((to, class)).or_insert((0, now.mono_us));
        let back = now.mono_us.saturating_sub(taken.1).saturating_mul(per_s);
        *taken = (taken.0.saturating_sub(back), now.mono_us);
        let admitted = taken.0 + 1_000_000 <= 2 * per_s * 1_000_000;
        if admitted {
            taken.0 += 1_000_000;
        }
        admitted
    }
}

/// A named actor in front of a simulated node.
pub struct Named {
    kind: Kind,
    flood_per_s: u64,
    throttle: Option<Throttle>,
    /// The epoch in which it acts, once it is known; without an actor where it has no seat.
    acting: Option<(Epoch, Option<Byzantine>)>,
}

impl Named {
    /// An actor of this kind.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            flood_per_s: FLOOD_PER_S,
            throttle: (kind == Kind::Flooder).then(Throttle::default),
            acting: None,
        }
    }

    /// A flooder of so many messages a second to each peer.
    #[must_use]
    pub fn flooder(per_s: u64) -> Self {
        Self {
            flood_per_s: per_s,
            ..Self::new(Kind::Flooder)
        }
    }

    /// The actor itself; it comes to be when it knows whom it stands before, and in each epoch
    /// anew. `None` where its validator is in no set: it has nothing to break.
    fn byzantine(&mut self, stage: &Stage<'_>) -> Option<&mut Byzantine> {
        let epoch = stage.chain.set.epoch();
        if self
            .acting
            .as_ref()
            .is_none_or(|(known, _)| *known != epoch)
        {
            let config = Config {
                chain_id: stage.chain.id,
                me: stage.me,
                set: stage.chain.set.clone(),
                round_timeout_us: stage.chain.genesis.params.round_timeout_ms * 1_000,
                flood_per_s: self.flood_per_s,
                seed: stage.node as u64,
            };
            let seated = stage.me != ValidatorIndex::NOBODY;
            let kind = self.kind;
            let actor = seated.then(|| Byzantine::new(kind, config, Box::new(stage.signer())));
            self.acting = Some((epoch, actor));
        }
        self.acting.as_mut()?.1.as_mut()
    }

    fn pass_on(&mut self, stage: &mut Stage<'_>, said: Vec<Sending>) {
        let me = stage.me;
        for sending in said {
            let peers = (0..stage.members.len()).map(|i| ValidatorIndex(i as u16));
            let peers: Vec<_> = peers.filter(|peer| *peer != me).collect();
            match (sending.to, &mut self.throttle) {
                (None, None) => stage.send_after(sending.after_us, None, sending.message),
                (to, throttle) => {
                    let to = to.map_or(peers, |to| vec![to]);
                    for to in to {
                        let admitted = throttle
                            .as_mut()
                            .is_none_or(|all| all.admits(stage.now, to, &sending.message));
                        if let Some(node) = stage.members.get(to.at()).filter(|_| admitted) {
                            let message = sending.message.clone();
                            stage.send_after(sending.after_us, Some(*node), message);
                        }
                    }
                }
            }
        }
    }
}

impl Actor for Named {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn on_message(
        &mut self,
        stage: &mut Stage<'_>,
        from: usize,
        message: PeerMessage,
    ) -> Option<PeerMessage> {
        let mut said = Vec::new();
        let (now, from) = (stage.now, stage.index(from));
        let hears = match (self.byzantine(stage), from) {
            (Some(actor), Some(from)) => actor.hears(now, from, &message, &mut said),
            _ => true,
        };
        self.pass_on(stage, said);
        hears.then_some(message)
    }

    fn on_send(&mut self, stage: &mut Stage<'_>, to: Option<usize>, message: PeerMessage) {
        let mut said = Vec::new();
        let now = stage.now;
        let index = to.map(|to| stage.index(to));
        match (self.byzantine(stage), index) {
            (Some(actor), None) => actor.says(now, None, message, &mut said),
            (Some(actor), Some(Some(to))) => actor.says(now, Some(to), message, &mut said),
            _ => stage.send_after(0, to, message),
        }
        self.pass_on(stage, said);
    }

    fn on_tick(&mut self, stage: &mut Stage<'_>) {
        let mut said = Vec::new();
        let now = stage.now;
        if let Some(actor) = self.byzantine(stage) {
            actor.tick(now, &mut said);
        }
        self.pass_on(stage, said);
    }

    fn next_tick_us(&self) -> Option<u64> {
        match &self.acting {
            Some((_, byzantine)) => byzantine.as_ref()?.next_tick_us(),
            // Some speak by themselves, and all learn here whom they stand before.
            None => Some(0),
        }
    }
}
