//! The named Byzantine actors of `falconet-adversary` in the simulator: the same code that runs in
//! a test network's process.

use falconet_adversary::{Byzantine, Config, Kind, Sending};
use falconet_types::message::PeerMessage;
use falconet_types::{Epoch, ValidatorIndex};

use crate::sim::actor::{Actor, Stage};

/// Messages a second and peer of the flooder, when a run has other faults too. A simulated node
/// with a slow CPU has no allowance for its peers to exceed, and must be able to cope.
const FLOOD_PER_S: u64 = 100;

/// A named actor in front of a simulated node.
pub struct Named {
    kind: Kind,
    flood_per_s: u64,
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

    fn pass_on(stage: &mut Stage<'_>, said: Vec<Sending>) {
        for sending in said {
            match sending.to {
                None => stage.send_after(sending.after_us, None, sending.message),
                Some(to) => {
                    if let Some(node) = stage.members.get(to.at()) {
                        stage.send_after(sending.after_us, Some(*node), sending.message);
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
        Self::pass_on(stage, said);
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
        Self::pass_on(stage, said);
    }

    fn on_tick(&mut self, stage: &mut Stage<'_>) {
        let mut said = Vec::new();
        let now = stage.now;
        if let Some(actor) = self.byzantine(stage) {
            actor.tick(now, &mut said);
        }
        Self::pass_on(stage, said);
    }

    fn next_tick_us(&self) -> Option<u64> {
        match &self.acting {
            Some((_, byzantine)) => byzantine.as_ref()?.next_tick_us(),
            // Some speak by themselves, and all learn here whom they stand before.
            None => Some(0),
        }
    }
}
