//! A validator that breaks the protocol on purpose, in builds with the feature `danger-byzantine`;
//! in all others [`Danger`] and [`Bent`] are empty and the compiler removes what calls them.
//!
//! The actor ([`falconet_adversary`]) sits between the core and the log: it hears peers before the
//! cores do, and a turn's messages become what it makes of them, some of them later. What the thread
//! of history answers goes past the cores; of it [`Hoard`] keeps back what a hoarder does.

#[cfg(feature = "danger-byzantine")]
pub use danger::{Bent, Danger, Hoard};
#[cfg(not(feature = "danger-byzantine"))]
pub use honest::{Bent, Danger, Hoard};

#[cfg(feature = "danger-byzantine")]
mod danger {
    use std::collections::BTreeMap;

    use falconet_adversary::{Byzantine, Config, Kind, Sending};
    use falconet_crypto::falcon::KeyPair;
    use falconet_hotstuff::{HotStuff, Misbehaviour};
    use falconet_types::ValidatorIndex;
    use falconet_types::message::PeerMessage;
    use falconet_types::time::Now;

    use crate::chain::Chain;
    use crate::pipeline::{To, Turn};

    /// Messages of the flooder to each peer, a second.
    const FLOOD_PER_S: u64 = 4_000;
    /// Messages that wait for their time; more are not said.
    const WAITING_MAX: usize = 65_536;

    /// Which actor a process is, if any.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Danger(pub Option<Kind>);

    /// What becomes of answers from history.
    #[derive(Debug, Clone, Copy)]
    pub struct Hoard(bool);

    impl Hoard {
        /// What becomes of them where `danger` acts.
        #[must_use]
        pub fn new(danger: Danger) -> Self {
            Self(danger.0 == Some(Kind::Hoarder))
        }

        /// What is left of an answer.
        #[must_use]
        pub fn left(self, answer: PeerMessage) -> Option<PeerMessage> {
            if self.0 {
                falconet_adversary::hoarded(answer)
            } else {
                Some(answer)
            }
        }
    }

    /// The actor around a core, if there is one.
    #[derive(Default)]
    pub struct Bent {
        actor: Option<Byzantine>,
        waiting: BTreeMap<(u64, u64), (Option<ValidatorIndex>, PeerMessage)>,
        sequence: u64,
        /// What it said when it only listened.
        said: Vec<Sending>,
    }

    impl Bent {
        /// The actor that `danger` names, around `core`.
        #[must_use]
        pub fn new(danger: Danger, chain: &Chain, key: &KeyPair, core: &mut HotStuff) -> Self {
            let Some(kind) = danger.0 else {
                return Self::default();
            };
            tracing::warn!(%kind, "this validator breaks the protocol on purpose");
            // An honest core stops when it meets its own signature under what it did not sign.
            core.misbehave(Misbehaviour::Twin);
            let config = Config {
                chain_id: chain.id,
                me: chain.me(),
                set: chain.set(),
                round_timeout_us: chain.genesis.params.round_timeout_ms * 1_000,
                flood_per_s: FLOOD_PER_S,
                seed: u64::from(chain.me().0),
            };
            Self {
                actor: Some(Byzantine::new(kind, config, Box::new(key.clone()))),
                ..Self::default()
            }
        }

        /// Whether the cores hear what a peer says.
        pub fn hears(&mut self, now: Now, from: ValidatorIndex, said: &PeerMessage) -> bool {
            let Some(actor) = &mut self.actor else {
                return true;
            };
            actor.hears(now, from, said, &mut self.said)
        }

        /// Makes of a turn's messages what the actor likes.
        pub fn bend(&mut self, now: Now, turn: &mut Turn) {
            let Some(actor) = &mut self.actor else {
                return;
            };
            let mut said = std::mem::take(&mut self.said);
            for (to, message) in turn.sends.drain(..) {
                let to = match to {
                    To::All => None,
                    To::One(index) => Some(index),
                };
                actor.says(now, to, message, &mut said);
            }
            if actor.next_tick_us().is_some_and(|at| at <= now.mono_us) {
                actor.tick(now, &mut said);
            }
            for sending in said {
                if self.waiting.len() < WAITING_MAX {
                    let due = (now.mono_us + sending.after_us, self.sequence);
                    self.sequence += 1;
                    self.waiting.insert(due, (sending.to, sending.message));
                }
            }
            while let Some(first) = self.waiting.first_entry()
                && first.key().0 <= now.mono_us
            {
                let (to, message) = first.remove();
                turn.sends.push((to.map_or(To::All, To::One), message));
            }
        }

        /// When it wants a turn.
        #[must_use]
        pub fn deadline_us(&self) -> Option<u64> {
            let tick = self.actor.as_ref().and_then(Byzantine::next_tick_us);
            let waiting = self.waiting.first_key_value().map(|((at, _), _)| *at);
            tick.into_iter().chain(waiting).min()
        }
    }
}

#[cfg(not(feature = "danger-byzantine"))]
mod honest {
    use falconet_crypto::falcon::KeyPair;
    use falconet_hotstuff::HotStuff;
    use falconet_types::ValidatorIndex;
    use falconet_types::message::PeerMessage;
    use falconet_types::time::Now;

    use crate::chain::Chain;
    use crate::pipeline::Turn;

    /// Nothing: this build has no actors.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Danger {}

    /// Nothing: this build has no actors.
    #[derive(Debug, Clone, Copy)]
    pub struct Hoard;

    impl Hoard {
        /// Nothing.
        #[must_use]
        pub fn new(_: Danger) -> Self {
            Self
        }

        /// All of an answer.
        #[inline]
        #[must_use]
        pub fn left(self, answer: PeerMessage) -> Option<PeerMessage> {
            Some(answer)
        }
    }

    /// Nothing: this build has no actors.
    #[derive(Default)]
    pub struct Bent;

    impl Bent {
        /// Nothing.
        #[must_use]
        pub fn new(_: Danger, _: &Chain, _: &KeyPair, _: &mut HotStuff) -> Self {
            Self
        }

        /// The cores hear everything.
        #[inline]
        pub fn hears(&mut self, _: Now, _: ValidatorIndex, _: &PeerMessage) -> bool {
            true
        }

        /// A turn stays as it is.
        #[inline]
        pub fn bend(&mut self, _: Now, _: &mut Turn) {}

        /// Never.
        #[inline]
        #[must_use]
        pub fn deadline_us(&self) -> Option<u64> {
            None
        }
    }
}
