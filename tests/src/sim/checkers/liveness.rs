//! Once nothing goes wrong any more, rounds bring blocks.

use falconet_types::validators::ValidatorSet;
use falconet_types::{Epoch, Round};

use super::{Check, ensure};

/// Rounds within which something is committed, at most. One cycle of leaders may pass before all
/// are in one round (certificates, not timers, bring them together); in the next, faulty leaders may
/// sit so that no three correct ones follow each other across its end; in the third they do
/// (protocol rule P7, `docs/simulator.md`).
#[must_use]
pub fn rounds_max(set: &ValidatorSet) -> u64 {
    3 * set.cycle_rounds() + 3
}

/// All correct nodes at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The highest epoch, and the highest round in it.
    pub place: (Epoch, Round),
    /// Rounds within which something is committed there, at most ([`rounds_max`]).
    pub rounds_max: u64,
    /// All correct nodes are in it.
    pub together: bool,
    /// What everybody has committed and executed.
    pub everybody: u64,
    /// What somebody has committed.
    pub somebody: u64,
}

/// Since when, and since which round, nothing was committed.
#[derive(Debug, Clone, Copy)]
struct Since {
    place: (Epoch, Round),
    height: u64,
}

/// After the last fault: while everybody is where the last commit was, so that nobody has anything
/// to catch up with, rounds do not go by without another. (Who still catches up gives up rounds with
/// the others and cannot vote in them.)
#[derive(Debug, Default)]
pub struct Liveness {
    since: Option<Since>,
}

impl Liveness {
    /// Something happened after the last fault.
    pub fn saw(&mut self, now: Moment) -> Check {
        let begin = Since {
            place: now.place,
            height: now.somebody,
        };
        let since = self.since.get_or_insert(begin);
        let counts = now.together && now.everybody >= since.height;
        if !counts || now.somebody > since.height || now.place.0 > since.place.0 {
            *since = begin;
            return Ok(());
        }
        let rounds = now.place.1.0.saturating_sub(since.place.1.0);
        ensure!(
            rounds <= now.rounds_max,
            "{rounds} rounds since height {} was committed, with everybody there, and nothing new",
            since.height
        );
        Ok(())
    }
}
