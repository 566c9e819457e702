//! Named Byzantine actors: validators that break the protocol in one way each, as thoroughly as
//! their key allows.
//!
//! An actor is a sans-IO filter around an honest node. It hears what peers say before the node
//! does, it decides what becomes of everything that the node says, it may speak by itself, and it
//! holds the node's key, so it can sign what the node never would. The same code runs in the
//! simulator and in a validator process of a test network (`falconet run --danger-byzantine KIND`,
//! only in builds with the feature `danger-byzantine`).
//!
//! ```text
//!            ┌─────────── Byzantine ───────────┐
//!  peers ──▶ │ hears ──▶ honest node ──▶ says  │ ──▶ peers, now or later
//!            └───────────── tick ──────────────┘
//! ```
//!
//! | kind | what it does | provable |
//! |---|---|---|
//! | [`Kind::Equivocator`] | two or three proposals a round, two votes | yes |
//! | [`Kind::Withholder`] | its batches reach f to f+1 peers short of all; answers no request | no |
//! | [`Kind::LaneForker`] | two batches for one place in its lane | yes |
//! | [`Kind::TimeoutLiar`] | gives up rounds that it voted in, naming no lock or a QC that is none | yes |
//! | [`Kind::SelectiveSender`] | each message reaches one half of the peers; certificates are kept | no |
//! | [`Kind::Replayer`] | says again what it and others said, long ago and just now | no |
//! | [`Kind::Flooder`] | votes and timeouts of the far future, forged signatures, requests without end | no |
//! | [`Kind::Hoarder`] | says what history it has, and gives next to nothing of it away | no |
//! | [`Kind::SlowLoris`] | everything, but as late as it just still counts | no |

mod equivocator;
mod flooder;
mod forker;
mod hoarder;
mod liar;
mod loris;
mod replayer;
mod selective;
mod stage;
#[cfg(test)]
mod tests;
mod withholder;

use std::str::FromStr;
use std::sync::Arc;

use falconet_types::message::PeerMessage;
use falconet_types::signing::Signer;
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{ChainId, ValidatorIndex};

pub use hoarder::hoarded;
pub use stage::Sending;
use stage::Stage;

/// In which way an actor breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Signs two or three proposals a round, and two votes.
    Equivocator,
    /// Keeps its data, and what it is asked for, from its peers.
    Withholder,
    /// Signs two batches for one place in its lane.
    LaneForker,
    /// Lies in timeouts.
    TimeoutLiar,
    /// Speaks to one half of its peers at a time.
    SelectiveSender,
    /// Says old things again.
    Replayer,
    /// Sends more than anybody could want.
    Flooder,
    /// Sends everything too late.
    SlowLoris,
    /// Says what it has, and gives next to nothing of it away.
    Hoarder,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Equivocator,
        Self::Withholder,
        Self::LaneForker,
        Self::TimeoutLiar,
        Self::SelectiveSender,
        Self::Replayer,
        Self::Flooder,
        Self::SlowLoris,
        Self::Hoarder,
    ];

    /// The name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Equivocator => "equivocator",
            Self::Withholder => "withholder",
            Self::LaneForker => "lane-forker",
            Self::TimeoutLiar => "timeout-liar",
            Self::SelectiveSender => "selective-sender",
            Self::Replayer => "replayer",
            Self::Flooder => "flooder",
            Self::SlowLoris => "slow-loris",
            Self::Hoarder => "hoarder",
        }
    }

    /// Whether what it does can be proved with two of its signatures.
    #[must_use]
    pub fn is_provable(self) -> bool {
        matches!(
            self,
            Self::Equivocator | Self::LaneForker | Self::TimeoutLiar
        )
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// No actor has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKind(String);

impl std::fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = Kind::ALL.map(Kind::name).join(", ");
        write!(
            f,
            "no Byzantine actor is called {:?}; there are {names}",
            self.0
        )
    }
}

impl std::error::Error for UnknownKind {}

impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| UnknownKind(text.into()))
    }
}

/// What an actor knows of its network.
#[derive(Debug, Clone)]
pub struct Config {
    /// The chain.
    pub chain_id: ChainId,
    /// Whose key it holds.
    pub me: ValidatorIndex,
    /// The validators.
    pub set: Arc<ValidatorSet>,
    /// Base of the round timer, microseconds: the slow-loris stays just below it.
    pub round_timeout_us: u64,
    /// Messages a second and peer of the flooder.
    pub flood_per_s: u64,
    /// Seed of its choices.
    pub seed: u64,
}

/// A Byzantine validator around an honest one.
pub struct Byzantine {
    config: Config,
    signer: Box<dyn Signer>,
    random: fastrand::Rng,
    behaviour: Box<dyn Behaviour>,
}

/// One way to break the protocol.
trait Behaviour: Send {
    /// A peer speaks; false when the node shall not hear it.
    fn hears(
        &mut self,
        _stage: &mut Stage<'_>,
        _from: ValidatorIndex,
        _said: &PeerMessage,
    ) -> bool {
        true
    }

    /// The node speaks, to one peer or (`None`) to all.
    fn says(&mut self, stage: &mut Stage<'_>, to: Option<ValidatorIndex>, message: PeerMessage) {
        stage.send(to, message);
    }

    /// Due at [`Behaviour::next_tick_us`].
    fn tick(&mut self, _stage: &mut Stage<'_>) {}

    /// When it wants to speak by itself, in [`Now::mono_us`].
    fn next_tick_us(&self) -> Option<u64> {
        None
    }
}

impl Byzantine {
    /// An actor that acts from the start.
    #[must_use]
    pub fn new(kind: Kind, config: Config, signer: Box<dyn Signer>) -> Self {
        let behaviour: Box<dyn Behaviour> = match kind {
            Kind::Equivocator => Box::new(equivocator::Equivocator::default()),
            Kind::Withholder => Box::new(withholder::Withholder),
            Kind::LaneForker => Box::new(forker::LaneForker),
            Kind::TimeoutLiar => Box::new(liar::TimeoutLiar::default()),
            Kind::SelectiveSender => Box::new(selective::SelectiveSender::default()),
            Kind::Replayer => Box::new(replayer::Replayer::default()),
            Kind::Flooder => Box::new(flooder::Flooder::new(config.flood_per_s)),
            Kind::SlowLoris => Box::new(loris::SlowLoris),
            Kind::Hoarder => Box::new(hoarder::Hoarder),
        };
        Self {
            random: fastrand::Rng::with_seed(config.seed),
            config,
            signer,
            behaviour,
        }
    }

    /// A peer's message arrives. False when the node behind shall not hear of it.
    #[must_use]
    pub fn hears(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        said: &PeerMessage,
        out: &mut Vec<Sending>,
    ) -> bool {
        let (behaviour, mut stage) = self.stage(now, out);
        behaviour.hears(&mut stage, from, said)
    }

    /// The node behind says something, to one peer or (`None`) to all. What leaves instead is
    /// appended to `out`.
    pub fn says(
        &mut self,
        now: Now,
        to: Option<ValidatorIndex>,
        message: PeerMessage,
        out: &mut Vec<Sending>,
    ) {
        let (behaviour, mut stage) = self.stage(now, out);
        behaviour.says(&mut stage, to, message);
    }

    /// Time passed; due whenever [`Byzantine::next_tick_us`] says so.
    pub fn tick(&mut self, now: Now, out: &mut Vec<Sending>) {
        let (behaviour, mut stage) = self.stage(now, out);
        behaviour.tick(&mut stage);
    }

    /// When [`Byzantine::tick`] does something, in [`Now::mono_us`].
    #[must_use]
    pub fn next_tick_us(&self) -> Option<u64> {
        self.behaviour.next_tick_us()
    }

    fn stage<'a>(
        &'a mut self,
        now: Now,
        out: &'a mut Vec<Sending>,
    ) -> (&'a mut dyn Behaviour, Stage<'a>) {
        let stage = Stage {
            now,
            config: &self.config,
            signer: self.signer.as_ref(),
            random: &mut self.random,
            out,
        };
        (self.behaviour.as_mut(), stage)
    }
}
