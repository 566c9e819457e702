//! Open loop: when each transaction is *meant* to be sent.
//!
//! The intended times follow from the rate alone. When the system under load, or the generator
//! itself, stalls, the following transactions keep their intended times, and the wait counts as
//! their latency. A generator that sends the next only after the last was answered would leave
//! the worst moments out of the histogram ("coordinated omission").

use std::time::Duration;

use crate::surge::Surge;

/// Nanoseconds in a second.
const NS_PER_S: u128 = 1_000_000_000;

/// A rate that changes at given times. Times are nanoseconds since the start of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    rate: u64,
    /// Stretches of constant rate, the first at 0, the last without end.
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    from_ns: u64,
    /// Transactions before it.
    before: u64,
    rate: u64,
}

impl Schedule {
    /// A schedule of `rate` transactions a second, at least 1.
    #[must_use]
    pub fn new(rate: u64) -> Self {
        let rate = rate.max(1);
        Self {
            rate,
            pieces: vec![Piece {
                from_ns: 0,
                before: 0,
                rate,
            }],
        }
    }

    /// The same with the rate multiplied during a surge.
    #[must_use]
    pub fn with_surge(rate: u64, surge: &Surge) -> Self {
        let mut schedule = Self::new(rate);
        let high = (schedule.rate as f64 * surge.factor) as u64;
        schedule.then(surge.from, high.max(1));
        schedule.then(surge.to, schedule.rate);
        schedule
    }

    /// From then on another rate.
    fn then(&mut self, from: Duration, rate: u64) {
        let from_ns = u64::try_from(from.as_nanos()).unwrap_or(u64::MAX);
        // What is due at that very time belongs to the new stretch.
        let before = from_ns
            .checked_sub(1)
            .map_or(0, |last_ns| self.due(last_ns));
        self.pieces.push(Piece {
            from_ns,
            before,
            rate,
        });
    }

    /// Transactions a second, outside a surge.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// When transaction `n` (from 0) is meant to be sent. Computed from `n`, not summed up, so
    /// that no rounding error grows.
    #[must_use]
    pub fn intended_ns(&self, n: u64) -> u64 {
        let piece = self.last_piece(|piece| piece.before <= n);
        let within = u128::from(n - piece.before) * NS_PER_S / u128::from(piece.rate);
        u64::try_from(within)
            .unwrap_or(u64::MAX)
            .saturating_add(piece.from_ns)
    }

    /// How many transactions are meant to be sent at or before `now_ns`.
    #[must_use]
    pub fn due(&self, now_ns: u64) -> u64 {
        let piece = self.last_piece(|piece| piece.from_ns <= now_ns);
        // n is due iff floor(n * 1e9 / rate) <= now, that is n * 1e9 < (now + 1) * rate.
        let bound = (u128::from(now_ns - piece.from_ns) + 1) * u128::from(piece.rate);
        let within = u64::try_from(bound.div_ceil(NS_PER_S)).unwrap_or(u64::MAX);
        piece.before.saturating_add(within)
    }

    fn last_piece(&self, has_begun: impl Fn(&Piece) -> bool) -> Piece {
        let begun = self.pieces.iter().rev().find(|piece| has_begun(piece));
        *begun.expect("the first begins at 0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intended_times_do_not_drift() {
        let s = Schedule::new(3);
        assert_eq!(
            [0, 1, 2, 3].map(|n| s.intended_ns(n)),
            [0, 333_333_333, 666_666_666, 1_000_000_000]
        );
        // A year at an odd rate ends exactly on the second.
        let s = Schedule::new(77_777);
        let year_s = 365 * 86_400u64;
        assert_eq!(s.intended_ns(77_777 * year_s), year_s * 1_000_000_000);
    }

    #[test]
    fn due_is_the_inverse_of_intended() {
        for rate in [1, 2, 3, 7, 999, 50_000, 77_777, 1_000_000, 3_000_000_000] {
            let s = Schedule::new(rate);
            for n in (0..1_000).chain([10_000_019, 123_456_789]) {
                let at = s.intended_ns(n);
                assert!(s.due(at) > n, "rate {rate}: {n} is due at its time");
                if at > 0 {
                    assert!(
                        s.due(at - 1) <= n,
                        "rate {rate}: {n} is not due before its time"
                    );
                }
            }
        }
        assert_eq!(Schedule::new(1000).due(0), 1, "the first is due at once");
    }

    #[test]
    fn a_surge_sends_more_and_ends() {
        let s = Duration::from_secs;
        let surge = Surge {
            factor: 3.0,
            from: s(2),
            to: s(4),
        };
        let schedule = Schedule::with_surge(1_000, &surge);
        let count = |second: u64| schedule.due(second * 1_000_000_000 - 1);
        assert_eq!(
            [1, 2, 3, 4, 5].map(count),
            [1_000, 2_000, 5_000, 8_000, 9_000]
        );
        for n in 0..10_000 {
            let at = schedule.intended_ns(n);
            assert!(schedule.due(at) > n, "{n} is due at its time");
            assert!(
                at == 0 || schedule.due(at - 1) <= n,
                "{n} is not due before"
            );
        }
    }

    #[test]
    fn a_rate_of_zero_does_not_divide_by_zero() {
        assert_eq!(Schedule::new(0).rate(), 1);
    }
}
