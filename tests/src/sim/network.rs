//! The network: how long a message takes, whether it arrives, how often.

use std::collections::{BTreeMap, BTreeSet};

use super::rng::Rng;

/// How bad the network is. All chances are per mille.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Shortest way, microseconds.
    pub delay_us_min: u64,
    /// Longest ordinary way, microseconds.
    pub delay_us_max: u64,
    /// A message is held up.
    pub slow: u64,
    /// For up to this long, microseconds.
    pub slow_us_max: u64,
    /// A message is lost although the connection stays.
    pub loss: u64,
    /// A message arrives twice.
    pub duplicate: u64,
    /// The connection breaks at this message: all that travels on it is lost and both ends learn
    /// of it.
    pub reset: u64,
}

impl Profile {
    /// A quiet network.
    pub const CALM: Self = Self {
        delay_us_min: 500,
        delay_us_max: 4_000,
        slow: 0,
        slow_us_max: 0,
        loss: 0,
        duplicate: 0,
        reset: 0,
    };

    /// A random network.
    #[must_use]
    pub fn random(rng: &mut Rng) -> Self {
        let mut some = |most: u64| if rng.chance(500) { rng.below(most) } else { 0 };
        Self {
            delay_us_min: 200,
            delay_us_max: 1_000 + some(60_000),
            slow: some(100),
            slow_us_max: 1_000 + some(600_000),
            loss: some(150),
            duplicate: some(100),
            reset: some(8),
        }
    }
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives.
    Lost,
    /// It arrives after so many microseconds, and perhaps once more.
    Arrives(u64, Option<u64>),
    /// The connection breaks.
    Reset,
}

/// Messages that are lost although their connection stays. Everything that is not named matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The sending node.
    pub from: Option<usize>,
    /// The receiving node.
    pub to: Option<usize>,
    /// Kinds of messages ([`falconet_types::message::kind`]); empty for all.
    pub kinds: Vec<u8>,
    /// How many of a thousand.
    pub per_mille: u64,
}

/// Links between all nodes.
#[derive(Debug)]
pub struct Network {
    profile: Profile,
    /// Nodes of different groups do not reach one another.
    groups: Vec<u8>,
    /// One way only: what `.0` sends to `.1` is lost, and nobody is told.
    deaf: BTreeSet<(usize, usize)>,
    /// Links that take longer, one way, microseconds.
    slow: BTreeMap<(usize, usize), u64>,
    losses: Vec<Loss>,
    /// Per link and direction (from * n + to): messages sent before the last break are lost.
    generation: Vec<u64>,
}

impl Network {
    /// A whole network of `n` nodes.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self {
            profile: Profile::CALM,
            groups: vec![0; n],
            deaf: BTreeSet::new(),
            slow: BTreeMap::new(),
            losses: Vec::new(),
            generation: vec![0; n * n],
        }
    }

    /// Changes how bad it is.
    pub fn set_profile(&mut self, profile: Profile) {
        self.profile = profile;
    }

    /// Splits the network, or joins it (all in one group).
    pub fn set_groups(&mut self, groups: Vec<u8>) {
        assert_eq!(groups.len(), self.groups.len());
        self.groups = groups;
    }

    /// Silences directions; replaces what was silenced before.
    pub fn set_deaf(&mut self, links: impl IntoIterator<Item = (usize, usize)>) {
        self.deaf = links.into_iter().collect();
    }

    /// Slows one direction down, microseconds; 0 for not.
    pub fn set_slow(&mut self, from: usize, to: usize, us: u64) {
        self.slow.insert((from, to), us);
    }

    /// Losses of chosen messages; replaces those before.
    pub fn set_losses(&mut self, losses: Vec<Loss>) {
        self.losses = losses;
    }

    /// Everything but groups is as on the first day.
    pub fn mend(&mut self) {
        self.profile = Profile::CALM;
        self.deaf.clear();
        self.slow.clear();
        self.losses.clear();
    }

    /// True when the connection of `from` and `to` can stand.
    #[must_use]
    pub fn connected(&self, from: usize, to: usize) -> bool {
        self.groups[from] == self.groups[to]
    }

    /// The link's age; a message of another age is lost.
    #[must_use]
    pub fn generation(&self, from: usize, to: usize) -> u64 {
        self.generation[from * self.groups.len() + to]
    }

    /// Breaks the connection between two nodes.
    pub fn break_link(&mut self, a: usize, b: usize) {
        let n = self.groups.len();
        self.generation[a * n + b] += 1;
        self.generation[b * n + a] += 1;
    }

    /// Decides over one message.
    pub fn fate(&self, from: usize, to: usize, kind: u8, rng: &mut Rng) -> Fate {
        let p = &self.profile;
        if !self.connected(from, to) || self.deaf.contains(&(from, to)) || rng.chance(p.loss) {
            return Fate::Lost;
        }
        for loss in &self.losses {
            let this = loss.from.is_none_or(|node| node == from)
                && loss.to.is_none_or(|node| node == to)
                && (loss.kinds.is_empty() || loss.kinds.contains(&kind));
            if this && rng.chance(loss.per_mille) {
                return Fate::Lost;
            }
        }
        if rng.chance(p.reset) {
            return Fate::Reset;
        }
        let extra = self.slow.get(&(from, to)).copied().unwrap_or(0);
        let mut delay = || {
            let ordinary = extra + rng.between(p.delay_us_min, p.delay_us_max);
            if rng.chance(p.slow) {
                ordinary + rng.below(p.slow_us_max.max(1))
            } else {
                ordinary
            }
        };
        let first = delay();
        let second = delay();
        let again = rng.chance(p.duplicate).then_some(second);
        Fate::Arrives(first, again)
    }
}
