//! A surge: the middle third of the measured time is offered a multiple of the rate. Does the
//! network go on at its best, and how soon is it itself again?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::Interval;

/// After a surge a second counts as calm when its 99th percentile is within this, milliseconds.
const CALM_P99_MS: f64 = 500.0;

/// When more is offered, and how much more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Surge {
    /// Multiple of the rate.
    pub factor: f64,
    /// Its begin, from the start of the load.
    pub from: Duration,
    /// Its end.
    pub to: Duration,
}

impl Surge {
    /// The middle third of the measured time.
    #[must_use]
    pub fn middle_third(factor: f64, warmup: Duration, duration: Duration) -> Self {
        Self {
            factor,
            from: warmup + duration / 3,
            to: warmup + duration * 2 / 3,
        }
    }
}

/// How a network came through a surge. Rates are committed transactions a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SurgeReport {
    /// Multiple of the rate that was offered.
    pub factor: f64,
    /// Before it.
    pub before_tps: f64,
    /// During it.
    pub during_tps: f64,
    /// The least in a second of it, the first left out.
    pub during_tps_min: f64,
    /// Of each second during it, the lowest divided by the highest, the first left out: how evenly
    /// it went on.
    pub evenness: f64,
    /// After it, until the end of the measured time.
    pub after_tps: f64,
    /// Seconds from its end until everything offered during it was answered and the 99th percentile
    /// of a second was within half a second, to stay there; nothing if that was not reached.
    pub recovery_s: Option<f64>,
}

impl SurgeReport {
    /// From the seconds of a run whose load began at 0.
    #[must_use]
    pub fn of(surge: &Surge, warmup: Duration, end: Duration, intervals: &[Interval]) -> Self {
        let within = |from: Duration, to: Duration| {
            let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
            let seconds: Vec<f64> = intervals
                .iter()
                .filter(|second| second.end_s - 1.0 >= from - 1e-9 && second.end_s <= to + 1e-9)
                .map(|second| second.committed as f64)
                .collect();
            seconds
        };
        let mean = |seconds: &[f64]| seconds.iter().sum::<f64>() / seconds.len().max(1) as f64;
        let during = within(surge.from, surge.to);
        // The first second fills queues.
        let settled = during.get(1..).filter(|rest| !rest.is_empty());
        let settled = settled.unwrap_or(&during);
        let least = settled.iter().copied().fold(f64::INFINITY, f64::min);
        let most = settled.iter().copied().fold(0.0, f64::max);
        let least = if least.is_finite() { least } else { 0.0 };
        let over_s = surge.to.as_secs_f64();
        let later = intervals.iter().filter(|second| second.end_s > over_s);
        let mut calm_since = None;
        for second in later.filter(|second| second.committed > 0) {
            let calm = second.p99_ms <= CALM_P99_MS;
            calm_since = match calm_since {
                Some(since) if calm => Some(since),
                _ => calm.then_some(second.end_s - 1.0),
            };
        }
        Self {
            factor: surge.factor,
            before_tps: mean(&within(warmup, surge.from)),
            during_tps: mean(&during),
            during_tps_min: least,
            evenness: if most > 0.0 { least / most } else { 0.0 },
            after_tps: mean(&within(surge.to, end)),
            recovery_s: calm_since.map(|since| (since - over_s).max(0.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(end_s: u32, committed: u64, p99_ms: f64) -> Interval {
        Interval {
            end_s: f64::from(end_s),
            committed,
            p50_ms: p99_ms / 2.0,
            p99_ms,
            max_ms: p99_ms,
        }
    }

    #[test]
    fn a_surge_is_read_from_the_seconds() {
        let s = Duration::from_secs;
        let surge = Surge::middle_third(3.0, s(2), s(9));
        assert_eq!((surge.from, surge.to), (s(5), s(8)));
        let mut seconds: Vec<Interval> = (1..=5).map(|i| second(i, 100, 50.0)).collect();
        seconds.extend([
            second(6, 90, 400.0),
            second(7, 160, 900.0),
            second(8, 200, 1_200.0),
        ]);
        seconds.extend([
            second(9, 200, 1_500.0),
            second(10, 120, 200.0),
            second(11, 110, 60.0),
        ]);
        let report = SurgeReport::of(&surge, s(2), s(11), &seconds);
        assert_eq!(report.before_tps, 100.0);
        assert_eq!(report.during_tps, 150.0);
        assert_eq!((report.during_tps_min, report.evenness), (160.0, 0.8));
        assert_eq!(report.recovery_s, Some(1.0));
        seconds.push(second(12, 10, 9_000.0));
        let report = SurgeReport::of(&surge, s(2), s(11), &seconds);
        assert_eq!(report.recovery_s, None, "it did not last");
    }
}
