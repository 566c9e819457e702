//! How well somebody behaves: a score from 100 (spotless) down to 0, and bans that expire.
//!
//! Sans-IO: times are passed in. A fault costs points, points come back with time, and a *debt* of
//! a hundred points is a ban. What a bad network or a slow machine alone can cause (late, useless)
//! lowers the score but never bans; only broken rules and excess do. Each further ban of somebody
//! who has not been spotless in between is twice as long. Scores decide over this node's own time
//! and room and nothing else: nothing here is proof, so nothing here costs stake.

use std::collections::HashMap;
use std::hash::Hash;

/// Points of somebody spotless.
pub const SCORE_MAX: u8 = 100;
/// A thousandth of a point is the unit of account.
const MILLI: u64 = 1_000;
/// The debt that is a ban.
const DEBT_MAX: u64 = SCORE_MAX as u64 * MILLI;
/// The debt that is left when a ban expires: the next one is near, but not at the first fault.
const DEBT_AFTER_BAN: u64 = DEBT_MAX / 2;
/// Microseconds in which a thousandth of a point comes back: half a point a second.
const US_PER_MILLI: u64 = 2_000;
/// Bans whose doubling is counted.
const DOUBLINGS_MAX: u32 = 16;

/// What somebody did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A message whose signature or structure does not hold.
    Invalid,
    /// Bytes that are no message at all.
    Malformed,
    /// A message about a round that is long over.
    Late,
    /// A message that helps nobody: what nobody asked for, what is known not to be.
    Useless,
    /// More than the allowance.
    Excessive,
    /// Two signed statements that contradict each other.
    Proven,
}

impl Fault {
    /// Every fault, as metrics name them.
    pub const ALL: [Self; 6] = [
        Self::Invalid,
        Self::Malformed,
        Self::Late,
        Self::Useless,
        Self::Excessive,
        Self::Proven,
    ];

    /// A short stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Malformed => "malformed",
            Self::Late => "late",
            Self::Useless => "useless",
            Self::Excessive => "excessive",
            Self::Proven => "proven",
        }
    }

    /// What it costs, thousandths of a point.
    fn cost(self) -> u64 {
        match self {
            Self::Late => 50,
            Self::Excessive => 100,
            Self::Useless => 200,
            Self::Invalid => 10 * MILLI,
            Self::Malformed => 40 * MILLI,
            Self::Proven => DEBT_MAX,
        }
    }

    /// The debt beyond which it costs nothing more, thousandths of a point.
    fn debt_max(self) -> u64 {
        match self {
            Self::Late => DEBT_MAX / 2,
            Self::Useless => DEBT_MAX * 3 / 4,
            Self::Invalid | Self::Malformed | Self::Excessive | Self::Proven => DEBT_MAX,
        }
    }
}

/// How long bans last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The first, microseconds.
    pub ban_us_min: u64,
    /// The longest, microseconds.
    pub ban_us_max: u64,
    /// Somebodies that are remembered; the faults of more are forgiven.
    pub entries_max: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    debt: u64,
    at_us: u64,
    bans: u32,
    banned_until_us: Option<u64>,
}

impl Entry {
    /// Lets time pass.
    fn settle(&mut self, now_us: u64) {
        if let Some(until) = self.banned_until_us {
            if now_us < until {
                return;
            }
            *self = Self {
                debt: DEBT_AFTER_BAN,
                at_us: until,
                bans: self.bans,
                banned_until_us: None,
            };
        }
        let back = now_us.saturating_sub(self.at_us) / US_PER_MILLI;
        // The remainder of the division is kept for the next time.
        self.at_us += back * US_PER_MILLI;
        self.debt = self.debt.saturating_sub(back);
        if self.debt == 0 {
            self.bans = 0;
        }
    }

    fn is_spotless(&self) -> bool {
        self.debt == 0 && self.banned_until_us.is_none()
    }
}

/// The scores of many.
#[derive(Debug)]
pub struct Scores<K> {
    terms: Terms,
    entries: HashMap<K, Entry>,
}

impl<K: Eq + Hash + Copy> Scores<K> {
    /// Everybody is spotless.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            entries: HashMap::new(),
        }
    }

    /// Counts `times` faults. Returns the end of the ban that this began, in microseconds.
    pub fn fault(&mut self, now_us: u64, who: K, fault: Fault, times: u64) -> Option<u64> {
        if !self.entries.contains_key(&who) && self.entries.len() >= self.terms.entries_max {
            self.entries.retain(|_, entry| {
                entry.settle(now_us);
                !entry.is_spotless()
            });
            if self.entries.len() >= self.terms.entries_max {
                return None;
            }
        }
        let entry = self.entries.entry(who).or_insert(Entry {
            at_us: now_us,
            ..Entry::default()
        });
        entry.settle(now_us);
        if entry.banned_until_us.is_some() {
            return None;
        }
        let debt = entry
            .debt
            .saturating_add(fault.cost().saturating_mul(times));
        entry.debt = debt.min(fault.debt_max()).max(entry.debt);
        if entry.debt < DEBT_MAX {
            return None;
        }
        let ban_us = self.terms.ban_us_min << entry.bans.min(DOUBLINGS_MAX);
        let until = now_us.saturating_add(ban_us.min(self.terms.ban_us_max));
        entry.bans += 1;
        entry.banned_until_us = Some(until);
        Some(until)
    }

    /// The score now: 0 to [`SCORE_MAX`], 0 during a ban.
    #[must_use]
    pub fn score(&self, now_us: u64, who: K) -> u8 {
        let entry = self.at(now_us, who);
        if entry.banned_until_us.is_some() {
            return 0;
        }
        let lost = entry.debt.div_ceil(MILLI);
        SCORE_MAX - u8::try_from(lost).expect("a debt is at most the maximum")
    }

    /// The end of the ban that holds now, microseconds.
    #[must_use]
    pub fn banned_until_us(&self, now_us: u64, who: K) -> Option<u64> {
        self.at(now_us, who).banned_until_us
    }

    /// How many are banned now.
    #[must_use]
    pub fn banned(&self, now_us: u64) -> usize {
        let holds = |entry: &&Entry| entry.banned_until_us.is_some_and(|until| now_us < until);
        self.entries.values().filter(holds).count()
    }

    fn at(&self, now_us: u64, who: K) -> Entry {
        let mut entry = self.entries.get(&who).copied().unwrap_or_default();
        entry.settle(now_us);
        entry
    }
}

/// A bucket of tokens: so many a second, so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back in a second.
    pub per_s: u64,
    /// Tokens of a full bucket.
    pub burst: u64,
}

/// A bucket of a [`Rate`], which may change from call to call.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    /// Tokens taken and not come back yet, in millionths.
    taken: u64,
    at_us: u64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn full(now_us: u64) -> Self {
        Self {
            taken: 0,
            at_us: now_us,
        }
    }

    /// Takes `tokens`; false when there are too few. A message that costs more than a whole bucket
    /// passes when the bucket is full: it must be possible to say.
    pub fn take(&mut self, now_us: u64, tokens: u64, rate: Rate) -> bool {
        let back = now_us.saturating_sub(self.at_us).saturating_mul(rate.per_s);
        self.at_us = now_us.max(self.at_us);
        let full = rate.burst.saturating_mul(1_000_000);
        // After a change to a smaller bucket nothing more than that is owed.
        self.taken = self.taken.min(full).saturating_sub(back);
        let more = tokens.saturating_mul(1_000_000).min(full);
        if self.taken + more > full {
            return false;
        }
        self.taken += more;
        true
    }
}

#[cfg(test)]
mod tests;
