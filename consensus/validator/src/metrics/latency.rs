//! A histogram that can be read back, for the latency shown live. The exported histogram is the
//! one of the metrics; this one answers "what were p50 and p99 of the last second" in this process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Lower end of the first bucket, seconds.
const FIRST_S: f64 = 50e-6;
/// Each bucket is wider than the one before by this factor: values are known to within 5 %.
const FACTOR: f64 = 1.1;
/// Buckets; the last one begins at about 100 s.
const BUCKETS: usize = 154;

/// Counts by bucket, only ever growing.
#[derive(Debug)]
pub struct LatencyCounts([AtomicU64; BUCKETS]);

/// The counts at one moment.
#[derive(Debug, Clone)]
pub struct LatencySnapshot([u64; BUCKETS]);

impl Default for LatencyCounts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Default for LatencySnapshot {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl LatencyCounts {
    /// Counts one latency.
    pub fn record(&self, latency: Duration) {
        let steps = (latency.as_secs_f64() / FIRST_S).ln() / FACTOR.ln();
        // A negative or infinite number of steps saturates at the ends.
        let bucket = (steps as usize).min(BUCKETS - 1);
        self.0[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// Reads all counts.
    #[must_use]
    pub fn snapshot(&self) -> LatencySnapshot {
        LatencySnapshot(std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed)))
    }
}

impl LatencySnapshot {
    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|i| {
            self.0[i].saturating_sub(earlier.0[i])
        }))
    }

    /// How many latencies were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The latency, in milliseconds, that a share `quantile` of all does not exceed; the middle of
    /// its bucket. `None` when nothing was counted.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((count as f64 * quantile).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        let bucket = self.0.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        let low_ms = FIRST_S * FACTOR.powi(i32::try_from(bucket).expect("few buckets")) * 1e3;
        Some(low_ms * (1.0 + FACTOR) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let counts = LatencyCounts::default();
        for ms in 1..=1000 {
            counts.record(Duration::from_millis(ms));
        }
        let snapshot = counts.snapshot();
        assert_eq!(snapshot.count(), 1000);
        for (quantile, truth) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = snapshot.quantile_ms(quantile).unwrap();
            assert!((found / truth - 1.0).abs() < 0.06, "{quantile}: {found}");
        }
    }

    #[test]
    fn extremes_saturate_and_windows_subtract() {
        let counts = LatencyCounts::default();
        counts.record(Duration::ZERO);
        counts.record(Duration::MAX);
        let before = counts.snapshot();
        assert_eq!(before.count(), 2);
        counts.record(Duration::from_millis(10));
        let window = counts.snapshot().since(&before);
        assert_eq!(window.count(), 1);
        assert!((window.quantile_ms(0.5).unwrap() / 10.0 - 1.0).abs() < 0.06);
        assert_eq!(LatencySnapshot::default().quantile_ms(0.5), None);
    }
}
