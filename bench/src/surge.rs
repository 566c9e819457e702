//! A surge: the middle third of the measured time is offered a multiple of the rate. Does the
//! network go on at its best, and how soon is it itself again?
//!
//! How soon depends on what clients do. Those that give up what nobody takes leave nothing behind:
//! then it is a matter of the network alone. Those that wait bring everything after the surge, and
//! however good the network is, it needs *backlog / (throughput - rate)* for it; the report says
//! that time beside what was measured.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::{Interval, SurgeSeen};
use crate::report::LatencyMs;

/// After a surge a second counts as calm when its 99th percentile is within this, milliseconds.
const CALM_P99_MS: f64 = 500.0;
/// The peak is the best mean over so many seconds: longer than a stall and what is made up after it.
const PEAK_SECONDS: usize = 3;

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
    /// The best mean over three seconds of the whole measured time.
    #[serde(default)]
    pub peak_tps: f64,
    /// `during_tps` divided by `peak_tps`.
    #[serde(default)]
    pub during_over_peak: f64,
    /// Of what was offered and accepted during it: from that offer to the receipt.
    #[serde(default)]
    pub accepted_latency_ms: LatencyMs,
    /// Answers "busy" during it.
    #[serde(default)]
    pub busy: u64,
    /// Transactions due in it that clients kept back, or dropped, because validators were known to
    /// be busy: back-pressure.
    #[serde(default)]
    pub withheld: u64,
    /// Transactions due and not answered at its end.
    #[serde(default)]
    pub backlog: u64,
    /// Seconds that the backlog takes at least: at the throughput during the surge, less the rate that
    /// goes on being offered. Nothing when that is not less.
    #[serde(default)]
    pub recovery_least_s: Option<f64>,
    /// Seconds from its end until everything offered during it was answered and the 99th percentile
    /// of a second was within half a second, to stay there; nothing if that was not reached within
    /// the measured time.
    pub recovery_s: Option<f64>,
}

impl SurgeReport {
    /// From the seconds of a run whose load began at 0: `rate` transactions a second outside the
    /// surge, until `end`.
    #[must_use]
    pub fn of(
        surge: &Surge,
        rate: u64,
        (warmup, end): (Duration, Duration),
        intervals: &[Interval],
        seen: &SurgeSeen,
    ) -> Self {
        let within = |from: Duration, to: Duration| {
            let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
            let belongs = move |second: &&Interval| {
                second.end_s - 1.0 >= from - 1e-9 && second.end_s <= to + 1e-9
            };
            intervals.iter().filter(belongs)
        };
        let committed = |from, to| -> Vec<f64> {
            let seconds = within(from, to);
            seconds.map(|second| second.committed as f64).collect()
        };
        let mean = |seconds: &[f64]| seconds.iter().sum::<f64>() / seconds.len().max(1) as f64;
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let during = committed(surge.from, surge.to);
        // The first second fills queues.
        let settled = during.get(1..).filter(|rest| !rest.is_empty());
        let settled = settled.unwrap_or(&during);
        let least = settled.iter().copied().fold(f64::INFINITY, f64::min);
        let least = if least.is_finite() { least } else { 0.0 };
        let best = most(&mut settled.iter().copied());
        let during_tps = mean(&during);
        let all = committed(warmup, end);
        let peak_tps = most(&mut all.windows(PEAK_SECONDS.min(all.len().max(1))).map(mean));
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let mut calm_since = None;
        for second in within(surge.to, end).filter(|second| second.committed > 0) {
            let calm = second.p99_ms <= CALM_P99_MS;
            calm_since = match calm_since {
                Some(since) if calm => Some(since),
                _ => calm.then_some(second.end_s - 1.0),
            };
        }
        let spare_tps = during_tps - rate as f64;
        Self {
            factor: surge.factor,
            before_tps: mean(&committed(warmup, surge.from)),
            during_tps,
            during_tps_min: least,
            evenness: share(least, best),
            after_tps: mean(&committed(surge.to, end)),
            peak_tps,
            during_over_peak: share(during_tps, peak_tps),
            accepted_latency_ms: LatencyMs::of(&seen.accepted_us),
            busy: seen.busy,
            withheld: seen.withheld,
            backlog: seen.backlog,
            recovery_least_s: (spare_tps > 0.0).then(|| seen.backlog as f64 / spare_tps),
            recovery_s: calm_since.map(|since| (since - surge.to.as_secs_f64()).max(0.0)),
        }
    }

    /// For people, line by line: what, and how much.
    #[must_use]
    pub fn lines(&self) -> [(&'static str, String); 3] {
        let seconds = |s: Option<f64>| s.map_or_else(|| "not".into(), |s| format!("{s:.1} s"));
        let l = &self.accepted_latency_ms;
        [
            (
                "surge, tx/s",
                format!(
                    "{} x: {:.0} before, {:.0} during (least {:.0}), {:.0} after; {:.0} % of the peak {:.0}",
                    self.factor,
                    self.before_tps,
                    self.during_tps,
                    self.during_tps_min,
                    self.after_tps,
                    self.during_over_peak * 100.0,
                    self.peak_tps
                ),
            ),
            (
                "  accepted in it, ms",
                format!(
                    "p50 {:.1}  p99 {:.1}  max {:.1}; {} answers \"busy\", {} not offered when due",
                    l.p50, l.p99, l.max, self.busy, self.withheld
                ),
            ),
            (
                "  recovered after",
                format!(
                    "{}; {} left behind take {} at least",
                    seconds(self.recovery_s),
                    self.backlog,
                    seconds(self.recovery_least_s)
                ),
            ),
        ]
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
        let mut seen = SurgeSeen {
            busy: 7,
            withheld: 300,
            backlog: 100,
            ..SurgeSeen::default()
        };
        for ms in 1..=100u64 {
            seen.accepted_us.record(ms * 10_000).expect("in bounds");
        }
        let read =
            |seconds: &[Interval]| SurgeReport::of(&surge, 100, (s(2), s(12)), seconds, &seen);
        let report = read(&seconds);
        assert_eq!(report.before_tps, 100.0);
        assert_eq!(report.during_tps, 150.0);
        assert_eq!((report.during_tps_min, report.evenness), (160.0, 0.8));
        assert_eq!(report.recovery_s, Some(1.0));
        assert_eq!(report.peak_tps, (160.0 + 200.0 + 200.0) / 3.0);
        assert!((report.during_over_peak - 150.0 / report.peak_tps).abs() < 1e-9);
        assert_eq!(report.recovery_least_s, Some(100.0 / 50.0));
        assert_eq!(
            (report.busy, report.withheld, report.backlog),
            (7, 300, 100)
        );
        assert!((report.accepted_latency_ms.p99 - 990.0).abs() < 1.0);
        let text = report.lines().map(|(_, text)| text).join(" ");
        assert!(text.contains("80 % of the peak 187"), "{text}");
        assert!(text.contains("1.0 s; 100 left behind take 2.0 s"), "{text}");
        seconds.push(second(12, 10, 9_000.0));
        assert_eq!(read(&seconds).recovery_s, None, "it did not last");
        seconds.pop();
        seconds.push(second(13, 10, 9_000.0));
        let after = read(&seconds).recovery_s;
        assert_eq!(after, Some(1.0), "after the end nothing is measured");
    }

    #[test]
    fn a_backlog_without_time_to_spare_is_never_gone() {
        let s = Duration::from_secs;
        let surge = Surge::middle_third(3.0, s(0), s(3));
        let seconds: Vec<Interval> = (1..=3).map(|i| second(i, 100, 50.0)).collect();
        let seen = SurgeSeen::default();
        let report = SurgeReport::of(&surge, 100, (s(0), s(3)), &seconds, &seen);
        assert_eq!(report.recovery_least_s, None);
        let none = SurgeReport::of(&surge, 100, (s(0), s(3)), &[], &seen);
        assert_eq!((none.peak_tps, none.during_over_peak), (0.0, 0.0));
    }
}
