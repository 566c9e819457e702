//! Open loop: when each transaction is *meant* to be sent.
//!
//! The intended times follow from the rate alone. When the system under load, or the generator
//! itself, stalls, the following transactions keep their intended times, and the wait counts as
//! their latency. A generator that sends the next only after the last was answered would leave
//! the worst moments out of the histogram ("coordinated omission").

/// Nanoseconds in a second.
const NS_PER_S: u128 = 1_000_000_000;

/// A constant rate. Times are nanoseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    rate: u64,
}

impl Schedule {
    /// A schedule of `rate` transactions a second, at least 1.
    #[must_use]
    pub fn new(rate: u64) -> Self {
        Self { rate: rate.max(1) }
    }

    /// Transactions a second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// When transaction `n` (from 0) is meant to be sent. Computed from `n`, not summed up, so
    /// that no rounding error grows.
    #[must_use]
    pub fn intended_ns(&self, n: u64) -> u64 {
        u64::try_from(u128::from(n) * NS_PER_S / u128::from(self.rate)).unwrap_or(u64::MAX)
    }

    /// How many transactions are meant to be sent at or before `now_ns`.
    #[must_use]
    pub fn due(&self, now_ns: u64) -> u64 {
        // n is due iff floor(n * 1e9 / rate) <= now, that is n * 1e9 < (now + 1) * rate.
        let bound = (u128::from(now_ns) + 1) * u128::from(self.rate);
        u64::try_from(bound.div_ceil(NS_PER_S)).unwrap_or(u64::MAX)
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
    fn a_rate_of_zero_does_not_divide_by_zero() {
        assert_eq!(Schedule::new(0).rate(), 1);
    }
}
