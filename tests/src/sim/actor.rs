//! Byzantine validators: an [`Actor`] stands in for a validator's node, or sits between a correct
//! node and the network and bends what passes.
//!
//! An actor holds its validator's key and nothing else: what it sends passes the receivers' verify
//! stage (structure and signatures) exactly as bytes from a wire would, so it can lie about
//! everything but other people's signatures.
//!
//! ```text
//!             ┌────────── validator ──────────┐
//!  peers ───▶ │ on_message ─▶ node ─▶ on_send │ ───▶ peers      wraps() == true
//!  peers ───▶ │ on_message ─────── stage.send │ ───▶ peers      wraps() == false
//!             └──────── on_tick ──────────────┘
//! ```

use bytes::Bytes;
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::{Round, ValidatorIndex};

use super::keys::SimSigner;
use super::node::Chain;
use super::rng::Rng;

/// What an actor sees and may do while it handles something.
pub struct Stage<'a> {
    /// The node's own clocks.
    pub now: Now,
    /// The index, in the epoch that its node is in, of the validator whose key the actor holds;
    /// [`ValidatorIndex::NOBODY`] once it is none any more.
    pub me: ValidatorIndex,
    /// The node's number, which is also that of its key.
    pub node: usize,
    /// Genesis, chain id and the validator set of that epoch.
    pub chain: &'a Chain,
    /// The nodes that are its validators, by index.
    pub members: &'a [usize],
    /// Randomness that belongs to the run's seed.
    pub rng: &'a mut Rng,
    pub(super) sends: Vec<Sending>,
}

/// A message that an actor sends.
#[derive(Debug)]
pub(super) struct Sending {
    pub after_us: u64,
    /// `None` is everybody else.
    pub to: Option<usize>,
    pub what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Message(PeerMessage),
    Frame(u8, Bytes),
}

impl Stage<'_> {
    /// Signs with the actor's own key, whatever it likes.
    #[must_use]
    pub fn signer(&self) -> SimSigner {
        SimSigner(self.node)
    }

    /// Number of validators in the epoch.
    #[must_use]
    pub fn n(&self) -> usize {
        self.chain.set.len()
    }

    /// The node that leads a round.
    #[must_use]
    pub fn leader(&self, round: Round) -> usize {
        self.members[self.chain.set.leader(round).at()]
    }

    /// All validators but the actor's.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.node;
        let others = self.members.iter().copied().filter(move |i| *i != me);
        others.collect::<Vec<_>>().into_iter()
    }

    /// The index of a node in the epoch, if it has one.
    #[must_use]
    pub fn index(&self, node: usize) -> Option<ValidatorIndex> {
        let at = self.members.iter().position(|member| *member == node)?;
        Some(ValidatorIndex(u16::try_from(at).expect("few nodes")))
    }

    /// Sends to one node.
    pub fn send(&mut self, to: usize, message: PeerMessage) {
        self.send_after(0, Some(to), message);
    }

    /// Sends to all other validators.
    pub fn broadcast(&mut self, message: PeerMessage) {
        self.send_after(0, None, message);
    }

    /// Sends later; `None` is everybody else.
    pub fn send_after(&mut self, after_us: u64, to: Option<usize>, message: PeerMessage) {
        let what = What::Message(message);
        self.sends.push(Sending { after_us, to, what });
    }

    /// Sends a frame that need not be a message at all; `None` is everybody else.
    pub fn send_frame(&mut self, to: Option<usize>, kind: u8, payload: Bytes) {
        let what = What::Frame(kind, payload);
        let after_us = 0;
        self.sends.push(Sending { after_us, to, what });
    }
}

/// A Byzantine validator. See the module's text for how it stands in the way.
pub trait Actor: Send {
    /// In a word, for reports and for `--nodes-byzantine K:NAME`.
    fn name(&self) -> &'static str;

    /// True when a correct node runs behind the actor. It does not stop when it meets its own
    /// signature under something that it did not sign.
    fn wraps(&self) -> bool {
        true
    }

    /// A message arrives from a validator. What is returned goes on to the node behind.
    fn on_message(
        &mut self,
        stage: &mut Stage<'_>,
        from: usize,
        message: PeerMessage,
    ) -> Option<PeerMessage> {
        let _ = (stage, from);
        Some(message)
    }

    /// The node behind sends something, to one validator or (`None`) to all others. Nothing leaves
    /// but what is handed to the stage.
    fn on_send(&mut self, stage: &mut Stage<'_>, to: Option<usize>, message: PeerMessage) {
        stage.send_after(0, to, message);
    }

    /// Due at [`Actor::next_tick_us`].
    fn on_tick(&mut self, stage: &mut Stage<'_>) {
        let _ = stage;
    }

    /// Virtual time of the next [`Actor::on_tick`], microseconds; `None` for never. Asked once
    /// before the run begins.
    fn next_tick_us(&self) -> Option<u64> {
        None
    }
}
