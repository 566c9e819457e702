//! Rates from low to high until a network falls behind: the knee of the throughput-latency curve.
//!
//! A rate is *held* when the network commits what is offered, the second half of the time is not
//! slower than the first (steady state), and p99 stays within [`Limits::p99_ms_max`]. The knee is
//! the highest rate that was held; a search between it and the first that was not narrows it down.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::load::Interval;
use crate::report::Report;

/// Most rates of one sweep.
pub const STEPS_MAX: usize = 64;
/// Share of the offered transactions that a rate must commit to be held.
const COMMITTED_SHARE_MIN: f64 = 0.98;
/// How much larger the median latency of the second half of a run may be than that of the first.
const DRIFT_MAX: f64 = 1.5;
/// Latency below which a drift means nothing, milliseconds.
const DRIFT_FLOOR_MS: f64 = 20.0;
/// Seconds that a steady state is looked for in, at least.
const STEADY_SECONDS_MIN: usize = 4;
/// Width of the curve in the terminal, characters.
const PLOT_WIDTH: usize = 50;

/// When a rate counts as held.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest 99th percentile, milliseconds.
    pub p99_ms_max: f64,
    /// The search ends when the knee is known to this share of its rate.
    pub precision: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            p99_ms_max: 500.0,
            precision: 0.1,
        }
    }
}

/// Whether the network works off its load as fast at the end of a run as at its beginning.
#[must_use]
pub fn is_steady(intervals: &[Interval]) -> bool {
    let busy: Vec<f64> = intervals
        .iter()
        .filter(|interval| interval.committed > 0)
        .map(|interval| interval.p50_ms)
        .collect();
    if busy.len() < STEADY_SECONDS_MIN {
        return true;
    }
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    // The first second holds the warm-up of caches and connections.
    let (first, second) = busy[1..].split_at((busy.len() - 1) / 2);
    mean(second) <= (mean(first) * DRIFT_MAX).max(DRIFT_FLOOR_MS)
}

/// Why a rate was not held; nothing when it was.
#[must_use]
pub fn why_not_held(report: &Report, limits: &Limits) -> Option<String> {
    let share = report.committed_tps / report.offered_tps as f64;
    if report.generator_behind {
        return Some("the generator was behind".into());
    }
    if share < COMMITTED_SHARE_MIN {
        return Some(format!("committed {:.0} % of it", share * 100.0));
    }
    if report.latency_ms.p99 > limits.p99_ms_max {
        return Some(format!("p99 above {} ms", limits.p99_ms_max));
    }
    if !is_steady(&report.intervals) {
        return Some("latency grew during the run".into());
    }
    None
}

/// One rate of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Why the rate was not held; nothing when it was.
    pub not_held: Option<String>,
    /// What was measured.
    pub report: Report,
}

/// A sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// `sweep`
    pub benchmark: String,
    /// When a rate counts as held.
    pub limits: Limits,
    /// The highest rate that was held, transactions a second; 0 when none was.
    pub knee_tps: u64,
    /// The most transactions that were committed in a second on average, whatever the latency.
    pub saturation_tps: f64,
    /// Machine and build.
    pub environment: Environment,
    /// Every rate, ascending.
    pub steps: Vec<Step>,
}

/// Which rate to try next.
#[derive(Debug, Clone)]
pub struct Search {
    limits: Limits,
    next: Option<u64>,
    max: u64,
    held: Option<u64>,
    failed: Option<u64>,
    tried: usize,
}

impl Search {
    /// From `first`, doubling, to `max` at most.
    #[must_use]
    pub fn new(first: u64, max: u64, limits: Limits) -> Self {
        Self {
            limits,
            next: Some(first.clamp(1, max.max(1))),
            max: max.max(1),
            held: None,
            failed: None,
            tried: 0,
        }
    }

    /// The rate to try now; nothing when the knee is known.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.next
    }

    /// The current rate was held, or not.
    pub fn answer(&mut self, held: bool) {
        let Some(rate) = self.next else { return };
        self.tried += 1;
        if held {
            self.held = Some(rate);
        } else {
            self.failed = Some(rate);
        }
        self.next = match (self.held, self.failed) {
            _ if self.tried >= STEPS_MAX => None,
            (Some(held), None) => (held < self.max).then(|| held.saturating_mul(2).min(self.max)),
            (held, Some(failed)) => {
                let low = held.unwrap_or(0);
                let gap = failed.saturating_sub(low);
                let wanted = (failed as f64 * self.limits.precision).max(1.0);
                // Below a sixteenth of the first rate the network does not work at all.
                let hopeless = held.is_none() && self.tried > 4;
                (gap as f64 > wanted && !hopeless).then_some(low + gap / 2)
            }
            (None, None) => None,
        };
    }
}

impl Sweep {
    /// Whether the highest rate tried was held, so that the knee is not known.
    #[must_use]
    pub fn is_knee_above(&self) -> bool {
        let highest = self.steps.iter().max_by_key(|step| step.report.offered_tps);
        highest.is_some_and(|step| step.not_held.is_none())
    }

    /// Puts the steps in order and finds the knee.
    #[must_use]
    pub fn new(mut steps: Vec<Step>, limits: Limits, environment: Environment) -> Self {
        steps.sort_by_key(|step| step.report.offered_tps);
        let held = steps.iter().filter(|step| step.not_held.is_none());
        Self {
            benchmark: "sweep".into(),
            limits,
            knee_tps: held.map(|step| step.report.offered_tps).max().unwrap_or(0),
            saturation_tps: steps
                .iter()
                .map(|step| step.report.committed_tps)
                .fold(0.0, f64::max),
            environment,
            steps,
        }
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "offered", "committed", "p50 ms", "p99", "p99.9", "p99.99", "max"
        )?;
        for Step { not_held, report } in &self.steps {
            let l = &report.latency_ms;
            writeln!(
                f,
                "{:>9} {:>9.0} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1}  {}",
                report.offered_tps,
                report.committed_tps,
                l.p50,
                l.p99,
                l.p999,
                l.p9999,
                l.max,
                not_held.as_deref().unwrap_or("held")
            )?;
        }
        writeln!(f, "\np50 (o) and p99 (x) by rate, logarithmic")?;
        let all = self
            .steps
            .iter()
            .flat_map(|s| [s.report.latency_ms.p50, s.report.latency_ms.p99]);
        let all: Vec<f64> = all.filter(|ms| *ms > 0.0).collect();
        let low = all.iter().copied().fold(f64::INFINITY, f64::min);
        let high = all.iter().copied().fold(low, f64::max);
        for Step { report, .. } in &self.steps {
            let mut line = [b' '; PLOT_WIDTH + 1];
            for (ms, mark) in [(report.latency_ms.p50, b'o'), (report.latency_ms.p99, b'x')] {
                if ms > 0.0 {
                    let span = (high / low).ln().max(f64::MIN_POSITIVE);
                    let at = (ms / low).ln() / span * PLOT_WIDTH as f64;
                    line[(at.round() as usize).min(PLOT_WIDTH)] = mark;
                }
            }
            let line = std::str::from_utf8(&line).expect("ASCII");
            writeln!(f, "{:>9} |{}", report.offered_tps, line.trim_end())?;
        }
        if low.is_finite() {
            writeln!(
                f,
                "{:>9} {low:.1} ms {:>width$.1} ms",
                "",
                high,
                width = PLOT_WIDTH - 8
            )?;
        }
        writeln!(f, "\nknee        {} tx/s", self.knee_tps)?;
        if self.is_knee_above() {
            writeln!(f, "            every rate was held: the knee lies above")?;
        }
        writeln!(f, "saturation  {:.0} tx/s", self.saturation_tps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(p50_ms: f64) -> Interval {
        Interval {
            end_s: 1.0,
            committed: 10,
            p50_ms,
            p99_ms: p50_ms,
            max_ms: p50_ms,
        }
    }

    #[test]
    fn a_queue_that_grows_is_no_steady_state() {
        let steady: Vec<Interval> = [90.0, 30.0, 31.0, 29.0, 30.0].map(interval).into();
        assert!(is_steady(&steady));
        let growing: Vec<Interval> = [30.0, 30.0, 60.0, 120.0, 240.0].map(interval).into();
        assert!(!is_steady(&growing));
        assert!(is_steady(&growing[..3]), "too short to tell");
    }

    #[test]
    fn the_search_finds_the_knee() {
        for knee in [1_000, 7_300, 15_999, 40_000] {
            let mut search = Search::new(1_000, 64_000, Limits::default());
            let mut best = 0;
            while let Some(rate) = search.rate() {
                search.answer(rate <= knee);
                if rate <= knee {
                    best = best.max(rate);
                }
            }
            assert!(
                best <= knee && best as f64 >= knee as f64 * 0.85,
                "{knee}: {best}"
            );
            assert!(search.tried < 16);
        }
    }

    #[test]
    fn the_search_ends_at_its_bounds() {
        let mut search = Search::new(500, 2_000, Limits::default());
        let mut tried = Vec::new();
        while let Some(rate) = search.rate() {
            tried.push(rate);
            search.answer(true);
        }
        assert_eq!(tried, [500, 1_000, 2_000]);
        let mut hopeless = Search::new(1_000, 2_000, Limits::default());
        while hopeless.rate().is_some() {
            hopeless.answer(false);
        }
        assert!(hopeless.tried <= 6);
    }
}
