//! The named Byzantine actors of `falconet-adversary` in the simulator: the same code that runs in
//! a test network's process.

use falconet_adversary::{Byzantine, Config, Kind, Sending};
use falconet_types::ValidatorIndex;
use falconet_types::message::PeerMessage;

use crate::sim::actor::{Actor, Stage};
use crate::sim::keys::SimSigner;

/// Messages a second and peer of the flooder, when a run has other faults too. A simulated node
/// with a slow CPU has no allowance for its peers to exceed, and must be able to cope.
const FLOOD_PER_S: u64 = 100;

/// A named actor in front of a simulated node.
pub struct Named {
    kind: Kind,
    flood_per_s: u64,
    byzantine: Option<Byzantine>,
}

impl Named {
    /// An actor of this kind.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            flood_per_s: FLOOD_PER_S,
            byzantine: None,
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

    /// The actor itself; it comes to be when it knows whom it stands before.
    fn byzantine(&mut self, stage: &Stage<'_>) -> &mut Byzantine {
        let (kind, flood_per_s) = (self.kind, self.flood_per_s);
        self.byzantine.get_or_insert_with(|| {
            let config = Config {
                chain_id: stage.chain.id,
                me: stage.me,
                set: stage.chain.set.clone(),
                round_timeout_us: stage.chain.genesis.params.round_timeout_ms * 1_000,
                flood_per_s,
                seed: u64::from(stage.me.0),
            };
            Byzantine::new(kind, config, Box::new(SimSigner(stage.me.at())))
        })
    }

    fn pass_on(stage: &mut Stage<'_>, said: Vec<Sending>) {
        for sending in said {
            let to = sending.to.map(ValidatorIndex::at);
            stage.send_after(sending.after_us, to, sending.message);
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
        let from = ValidatorIndex(u16::try_from(from).expect("few validators"));
        let now = stage.now;
        let hears = self.byzantine(stage).hears(now, from, &message, &mut said);
        Self::pass_on(stage, said);
        hears.then_some(message)
    }

    fn on_send(&mut self, stage: &mut Stage<'_>, to: Option<usize>, message: PeerMessage) {
        let mut said = Vec::new();
        let to = to.map(|to| ValidatorIndex(u16::try_from(to).expect("few validators")));
        let now = stage.now;
        self.byzantine(stage).says(now, to, message, &mut said);
        Self::pass_on(stage, said);
    }

    fn on_tick(&mut self, stage: &mut Stage<'_>) {
        let mut said = Vec::new();
        let now = stage.now;
        self.byzantine(stage).tick(now, &mut said);
        Self::pass_on(stage, said);
    }

    fn next_tick_us(&self) -> Option<u64> {
        match &self.byzantine {
            Some(byzantine) => byzantine.next_tick_us(),
            // Some speak by themselves, and all learn here whom they stand before.
            None => Some(0),
        }
    }
}
