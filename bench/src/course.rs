//! A run from its first to its last second: does it stand still, and is its end like its beginning?

use serde::{Deserialize, Serialize};

use crate::load::Interval;

/// Parts that a run is read in.
const PARTS: usize = 10;
/// Shortest run that is read: each part has some seconds then.
pub const SECONDS_MIN: usize = 60;
/// Parts at the begin and at the end that are compared, the very first left out: it fills caches.
const COMPARED: usize = 3;
/// Growth from the begin to the end that still counts as flat: a share of the latency, and
/// milliseconds.
const FLAT_SHARE: f64 = 0.25;
const FLAT_MS: f64 = 5.0;

/// A tenth of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Where it ends, seconds from the start of the load.
    pub end_s: f64,
    /// Committed transactions a second.
    pub committed_tps: f64,
    /// The least of them in a second.
    pub committed_tps_min: u64,
    /// The middle one of its seconds' medians, milliseconds.
    pub p50_ms: f64,
    /// The middle one of its seconds' 99th percentiles, milliseconds.
    pub p99_ms: f64,
    /// Longest latency, milliseconds.
    pub max_ms: f64,
}

/// What the seconds of a run say together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Its tenths.
    pub parts: Vec<Part>,
    /// Seconds in which nothing was committed.
    pub silent_s: usize,
    /// Median latency of the last three tenths divided by that of the second to the fourth.
    pub latency_ratio: f64,
    /// Whether it is at most a quarter or 5 ms longer at the end.
    pub flat: bool,
}

impl Course {
    /// From the seconds of a run; nothing for a run of less than [`SECONDS_MIN`].
    #[must_use]
    pub fn of(seconds: &[Interval]) -> Option<Self> {
        if seconds.len() < SECONDS_MIN {
            return None;
        }
        let bounds = |part: usize| part * seconds.len() / PARTS;
        let parts: Vec<_> = (0..PARTS)
            .map(|part| Part::of(&seconds[bounds(part)..bounds(part + 1)]))
            .collect();
        let p50 = |parts: &[Part]| middle(parts.iter().map(|part| part.p50_ms));
        let (begin, end) = (p50(&parts[1..=COMPARED]), p50(&parts[PARTS - COMPARED..]));
        Some(Self {
            silent_s: seconds.iter().filter(|s| s.committed == 0).count(),
            latency_ratio: if begin > 0.0 { end / begin } else { 0.0 },
            flat: end <= (begin * (1.0 + FLAT_SHARE)).max(begin + FLAT_MS),
            parts,
        })
    }
}

impl Part {
    /// From its seconds, at least one.
    fn of(seconds: &[Interval]) -> Self {
        let committed: u64 = seconds.iter().map(|s| s.committed).sum();
        let busy = || seconds.iter().filter(|s| s.committed > 0);
        Self {
            end_s: seconds[seconds.len() - 1].end_s,
            committed_tps: committed as f64 / seconds.len() as f64,
            committed_tps_min: seconds.iter().map(|s| s.committed).min().unwrap_or(0),
            p50_ms: middle(busy().map(|s| s.p50_ms)),
            p99_ms: middle(busy().map(|s| s.p99_ms)),
            max_ms: seconds.iter().map(|s| s.max_ms).fold(0.0, f64::max),
        }
    }
}

/// The middle one of some values, the upper of two; 0 of none.
fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: usize, p50_ms: impl Fn(usize) -> f64) -> Vec<Interval> {
        let second = |at: usize| Interval {
            end_s: (at + 1) as f64,
            committed: 1_000 + at as u64,
            p50_ms: p50_ms(at),
            p99_ms: 3.0 * p50_ms(at),
            max_ms: 4.0 * p50_ms(at),
        };
        (0..count).map(second).collect()
    }

    #[test]
    fn a_run_is_read_in_tenths() {
        let course = Course::of(&seconds(605, |_| 20.0)).unwrap();
        assert_eq!(course.parts.len(), PARTS);
        let (first, last) = (course.parts[0], course.parts[PARTS - 1]);
        assert_eq!((first.end_s, last.end_s), (60.0, 605.0));
        assert_eq!(first.committed_tps, 1_029.5);
        assert_eq!(first.committed_tps_min, 1_000);
        assert_eq!(
            (first.p50_ms, first.p99_ms, first.max_ms),
            (20.0, 60.0, 80.0)
        );
        assert_eq!((course.latency_ratio, course.silent_s), (1.0, 0));
        assert!(course.flat);
    }

    #[test]
    fn the_first_tenth_and_a_bad_second_decide_nothing() {
        let course = Course::of(&seconds(600, |at| match at {
            0..60 => 300.0,
            570 => 900.0,
            _ => 20.0,
        }));
        assert!(course.unwrap().flat);
    }

    #[test]
    fn latency_that_grows_is_not_flat() {
        let course = Course::of(&seconds(600, |at| 20.0 + at as f64 / 20.0)).unwrap();
        assert!(!course.flat && course.latency_ratio > 1.25, "{course:?}");
        let small = Course::of(&seconds(600, |at| 4.0 + at as f64 / 150.0)).unwrap();
        assert!(small.flat, "4 ms of growth at the bottom: {small:?}");
    }

    #[test]
    fn silence_is_counted() {
        let mut stalled = seconds(100, |_| 20.0);
        for second in &mut stalled[50..53] {
            *second = Interval {
                committed: 0,
                p50_ms: 0.0,
                p99_ms: 0.0,
                max_ms: 0.0,
                ..*second
            };
        }
        let course = Course::of(&stalled).unwrap();
        assert_eq!(course.silent_s, 3);
        assert_eq!(course.parts[5].committed_tps_min, 0);
        assert_eq!(course.parts[5].p50_ms, 20.0, "of the seconds that had some");
    }

    #[test]
    fn a_short_run_is_not_read() {
        assert_eq!(Course::of(&seconds(SECONDS_MIN - 1, |_| 20.0)), None);
    }
}
