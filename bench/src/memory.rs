//! Memory of the validators in the course of a run: does it level off, or grow for ever?

use serde::{Deserialize, Serialize};

/// Samples that are kept; beyond, every second one goes and the interval doubles.
pub const SAMPLES_MAX: usize = 600;
/// Growth over the second half of a run that still counts as flat: of the mean, and in MiB.
const FLAT_SHARE: f64 = 0.05;
const FLAT_MIB: f64 = 16.0;

/// Resident memory of one validator, sampled at equal intervals.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Seconds between two samples.
    pub interval_s: f64,
    /// For each validator, MiB; nothing while it does not run.
    pub rss_mib: Vec<Vec<Option<f64>>>,
    /// For each validator, how fast it grows in the second half of the run, by least squares, MiB an
    /// hour; nothing with fewer than three samples there.
    pub slope_mib_per_hour: Vec<Option<f64>>,
    /// Whether no validator grew in the second half by more than a twentieth and 16 MiB. A short
    /// run proves little: give it some minutes.
    pub flat: bool,
}

/// Takes the samples.
#[derive(Debug)]
pub struct MemoryMeter {
    interval_s: f64,
    due_s: f64,
    rss_mib: Vec<Vec<Option<f64>>>,
}

impl MemoryMeter {
    /// A meter for so many validators that begins with a sample a second.
    #[must_use]
    pub fn new(validators: usize) -> Self {
        Self {
            interval_s: 1.0,
            due_s: 0.0,
            rss_mib: vec![Vec::new(); validators],
        }
    }

    /// The present, `now_s` after the start; kept when a sample is due.
    pub fn look(&mut self, now_s: f64, rss_mib: impl Iterator<Item = Option<f64>>) {
        if now_s < self.due_s {
            return;
        }
        for (samples, rss) in self.rss_mib.iter_mut().zip(rss_mib) {
            samples.push(rss);
        }
        if self.rss_mib.first().is_some_and(|s| s.len() > SAMPLES_MAX) {
            self.interval_s *= 2.0;
            for samples in &mut self.rss_mib {
                let mut place = 0;
                samples.retain(|_| {
                    place += 1;
                    place % 2 == 1
                });
            }
        }
        self.due_s += self.interval_s;
    }

    /// The verdict.
    #[must_use]
    pub fn finish(self) -> Memory {
        let growths: Vec<_> = (self.rss_mib.iter())
            .map(|samples| Growth::of(&samples[samples.len() / 2..]))
            .collect();
        let slope =
            |growth: &Option<Growth>| growth.map(|g| g.a_sample / self.interval_s * 3_600.0);
        Memory {
            interval_s: self.interval_s,
            slope_mib_per_hour: growths.iter().map(slope).collect(),
            flat: growths.iter().flatten().all(Growth::is_flat),
            rss_mib: self.rss_mib,
        }
    }
}

/// A straight line through samples.
#[derive(Debug, Clone, Copy)]
struct Growth {
    a_sample: f64,
    samples: f64,
    mean: f64,
}

impl Growth {
    fn of(samples: &[Option<f64>]) -> Option<Self> {
        let points: Vec<(f64, f64)> = (samples.iter().enumerate())
            .filter_map(|(i, rss)| Some((i as f64, (*rss)?)))
            .collect();
        if points.len() < 3 {
            return None;
        }
        let count = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (at, rss) = (mean(|p| p.0), mean(|p| p.1));
        let covariance: f64 = points.iter().map(|p| (p.0 - at) * (p.1 - rss)).sum();
        let variance: f64 = points.iter().map(|p| (p.0 - at).powi(2)).sum();
        Some(Self {
            a_sample: covariance / variance,
            samples: count,
            mean: rss,
        })
    }

    fn is_flat(&self) -> bool {
        self.a_sample * self.samples <= FLAT_MIB.max(self.mean * FLAT_SHARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(seconds: usize, rss: impl Fn(usize) -> Option<f64>) -> Memory {
        let mut meter = MemoryMeter::new(2);
        for quarter in 0..seconds * 4 {
            let now_s = quarter as f64 / 4.0;
            let mib = rss(quarter / 4);
            meter.look(now_s, [mib, Some(50.0)].into_iter());
        }
        meter.finish()
    }

    #[test]
    fn growth_is_told_from_a_level() {
        // 200 MiB after a minute, noise of 3 MiB.
        let level = measured(300, |s| {
            Some(200.0_f64.min(s as f64 * 4.0) + (s % 3) as f64)
        });
        assert!(level.flat && level.rss_mib[0].len() == 300, "{level:?}");
        let growing = measured(300, |s| Some(200.0 + s as f64 * 0.5));
        assert!(!growing.flat);
        let slope = growing.slope_mib_per_hour[0].expect("many samples");
        assert!((slope - 1_800.0).abs() < 1.0, "{slope}");
        assert_eq!(growing.slope_mib_per_hour[1], Some(0.0));
    }

    #[test]
    fn samples_are_bounded_and_a_dead_validator_has_none() {
        let memory = measured(5_000, |s| (s < 100).then_some(10.0));
        assert!(memory.rss_mib[0].len() <= SAMPLES_MAX);
        assert_eq!(memory.interval_s, 16.0);
        assert_eq!(memory.slope_mib_per_hour[0], None);
        assert!(memory.flat);
    }
}
