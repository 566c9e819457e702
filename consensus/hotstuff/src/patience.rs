//! How long a leader is waited for (rules P7 and P8 of `docs/protocol.md`).
//!
//! Genesis says how long at most. A network whose rounds take ten milliseconds need not wait a
//! second for each leader that wastes its round, so the *base* of the round timer follows what
//! rounds take: a few times the slowest of each leader's latest rounds, of a quorum of leaders.
//! Whoever is faulty is less than what a quorum leaves out, so no faulty leader lengthens the base
//! by being slow; and a round that failed counts with the time that it was waited for, so a network
//! that has become slower than the base lengthens it, before the growth with failed rounds does.
//! (A retransmission timer as of RFC 6298, with a quantile over leaders in the place of the
//! mean, which an attacker could move.)
//!
//! A leader whose turns fail is *passed over* for a while: its next rounds are given up at once.
//!
//! All of it is this node's own view, forgotten with the process. Nodes may differ: only patience
//! depends on it, never who leads, and safety does not rest on timers.

use std::collections::VecDeque;

use falconet_types::ValidatorIndex;
use falconet_types::validators::ValidatorSet;

use crate::limits::{
    BASE_ROUNDS, PASSED_OVER_FACTOR, PASSED_OVER_US_MAX, PATIENCE_TURNS, TURN_FAILURES_MAX,
};

/// What is known of one leader.
#[derive(Debug, Clone, Default)]
struct Turns {
    /// What its latest rounds took, microseconds: those that failed, as long as they were waited
    /// for. At most [`PATIENCE_TURNS`].
    took_us: VecDeque<u64>,
    /// Turns that failed, less those that succeeded; at most [`TURN_FAILURES_MAX`].
    failures: u32,
    passed_over_until_us: u64,
}

impl Turns {
    fn add(&mut self, took_us: u64) {
        if self.took_us.len() == PATIENCE_TURNS {
            self.took_us.pop_front();
        }
        self.took_us.push_back(took_us);
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    leaders: Vec<Turns>,
    /// What a leader that did not lead yet is taken to need, microseconds.
    prior_us: u64,
    base_us: u64,
    /// The base never is less or more, microseconds.
    floor_us: u64,
    ceiling_us: u64,
    /// Always false in a product; see [`crate::HotStuff::wait_as_genesis_says`].
    learns_nothing: bool,
}

impl Patience {
    /// Nothing is known: genesis decides.
    pub(crate) fn new(set: &ValidatorSet, floor_us: u64, ceiling_us: u64) -> Self {
        Self {
            leaders: vec![Turns::default(); set.len()],
            prior_us: ceiling_us,
            base_us: ceiling_us,
            floor_us: floor_us.min(ceiling_us),
            ceiling_us,
            learns_nothing: false,
        }
    }

    /// For the epoch after: its leaders are taken to need what those of this one did.
    pub(crate) fn after(&self, set: &ValidatorSet) -> Self {
        Self {
            leaders: vec![Turns::default(); set.len()],
            prior_us: self.base_us.div_ceil(BASE_ROUNDS),
            ..*self
        }
    }

    /// From now on genesis decides, whatever happens.
    #[cfg(feature = "misbehave")]
    pub(crate) fn learn_nothing(&mut self) {
        self.learns_nothing = true;
    }

    /// Always true in a product.
    pub(crate) fn learns(&self) -> bool {
        !self.learns_nothing
    }

    /// The base of the round timer, microseconds.
    pub(crate) fn base_us(&self) -> u64 {
        self.base_us
    }

    fn turns(&mut self, leader: ValidatorIndex) -> Option<&mut Turns> {
        let learns = self.learns();
        self.leaders.get_mut(leader.at()).filter(|_| learns)
    }

    /// A round of `leader` ended with its QC after so many microseconds.
    pub(crate) fn succeeded(&mut self, leader: ValidatorIndex, took_us: u64, set: &ValidatorSet) {
        let Some(turns) = self.turns(leader) else {
            return;
        };
        turns.add(took_us);
        turns.failures = turns.failures.saturating_sub(1);
        turns.passed_over_until_us = 0;
        self.follow(set);
    }

    /// A round of `leader` was given up after so many microseconds, and failed.
    pub(crate) fn failed(
        &mut self,
        now_us: u64,
        leader: ValidatorIndex,
        waited_us: u64,
        set: &ValidatorSet,
    ) {
        let Some(turns) = self.turns(leader) else {
            return;
        };
        turns.add(waited_us);
        let pause_us = (waited_us.saturating_mul(PASSED_OVER_FACTOR)) << turns.failures;
        turns.failures = (turns.failures + 1).min(TURN_FAILURES_MAX);
        turns.passed_over_until_us = now_us + pause_us.min(PASSED_OVER_US_MAX);
        self.follow(set);
    }

    /// Whether `leader` is passed over now. With those who are `gone` anyway only as many are, those
    /// with most failures first, as may be faulty: more tell of the network, and without the others
    /// there might be no two rounds in a row that bring a block to commit (rule C2).
    pub(crate) fn passes_over(
        &self,
        now_us: u64,
        leader: ValidatorIndex,
        set: &ValidatorSet,
        gone: impl Fn(ValidatorIndex) -> bool,
    ) -> bool {
        let place = |index: ValidatorIndex| {
            let turns = self.leaders.get(index.at())?;
            (turns.passed_over_until_us > now_us).then_some((turns.failures, index))
        };
        let Some(own) = place(leader) else {
            return false;
        };
        let members = set.iter().map(|validator| validator.index);
        let not_better = members.filter(|index| gone(*index) || place(*index) >= Some(own));
        set.weight_of(not_better) < set.weak_weight()
    }

    /// The base after another round: of the leaders that need least, as many as are a quorum, and
    /// more than half.
    fn follow(&mut self, set: &ValidatorSet) {
        let needs = |index: ValidatorIndex| {
            let slowest = self.leaders[index.at()].took_us.iter().max();
            slowest.copied().unwrap_or(self.prior_us)
        };
        let mut all: Vec<(u64, u64)> = set
            .iter()
            .map(|validator| (needs(validator.index), validator.weight))
            .collect();
        all.sort_unstable();
        let (mut weight, mut count) = (0, 0);
        let quorum = all.into_iter().find(|(_, its)| {
            weight += its;
            count += 1;
            weight >= set.quorum_weight() && count * 2 > set.len()
        });
        let (slowest_us, _) = quorum.expect("all together are a quorum");
        self.base_us = slowest_us
            .saturating_mul(BASE_ROUNDS)
            .clamp(self.floor_us, self.ceiling_us);
    }
}
