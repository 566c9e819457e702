//! What a transaction cost the network: CPU, bytes on the wire, syncs, verifications. And how
//! long validators themselves took, beside what a client saw.
//!
//! From the counters that every validator exports at `/metrics`, read before and after the load.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::process::ThreadTimes;

/// Lines of one answer that are read at most.
const LINES_MAX: usize = 20_000;

const BYTES_OUT: &str = "falconet_stoq_sent_bytes_total";
const FSYNCS: &str = "falconet_fsync_time_seconds_count";
const VERIFIED: &str = "falconet_signatures_verified_total";
const LOG_BYTES: &str = "falconet_log_written_bytes_total";
const COMMIT_LATENCY: &str = "falconet_commit_latency_seconds";

/// Counters of one validator or of all, by name with labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts(BTreeMap<String, f64>);

impl Counts {
    /// Reads the text that `/metrics` answers.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().take(LINES_MAX);
        let values = lines
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse::<f64>().ok()?))
            });
        Self(values.collect())
    }

    /// Adds another validator's.
    pub fn add(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            *self.0.entry(name.clone()).or_default() += value;
        }
    }

    /// What was added since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = |(name, value): (&String, &f64)| {
            let was = before.0.get(name).copied().unwrap_or(0.0);
            (name.clone(), (value - was).max(0.0))
        };
        Self(self.0.iter().map(grown).collect())
    }

    /// One counter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// A quantile of a histogram, in its unit, between two bounds by linear interpolation.
    #[must_use]
    pub fn quantile(&self, name: &str, quantile: f64) -> Option<f64> {
        let prefix = format!("{name}_bucket{{le=\"");
        let mut buckets: Vec<(f64, f64)> = self
            .0
            .iter()
            .filter_map(|(key, count)| {
                let bound = key.strip_prefix(&prefix)?.strip_suffix("\"}")?;
                let bound = if bound == "+Inf" {
                    f64::INFINITY
                } else {
                    bound.parse().ok()?
                };
                Some((bound, *count))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = buckets.last()?.1;
        if total <= 0.0 {
            return None;
        }
        let wanted = total * quantile;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= wanted {
                if !bound.is_finite() {
                    return Some(lower);
                }
                let share = if count > below {
                    (wanted - below) / (count - below)
                } else {
                    1.0
                };
                return Some(lower + (bound - lower) * share);
            }
            (lower, below) = (bound, count);
        }
        None
    }
}

/// Costs of one committed transaction, all validators together unless said otherwise.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Costs {
    /// CPU time of the validators, microseconds.
    pub cpu_us: f64,
    /// UDP payload bytes that the validators sent, to each other and to clients.
    pub wire_bytes: f64,
    /// fdatasync calls.
    pub fsyncs: f64,
    /// Signatures verified, transactions' and consensus'.
    pub verifications: f64,
    /// Bytes appended to the logs.
    pub log_bytes: f64,
    /// From admission to execution within a validator, median, milliseconds: what consensus adds,
    /// without the way from and to the client.
    pub consensus_p50_ms: Option<f64>,
    /// The same at 99 %.
    pub consensus_p99_ms: Option<f64>,
    /// The CPU time again, thread by thread: microseconds by the thread's name. Empty where the
    /// kernel does not count it.
    #[serde(default)]
    pub threads_us: BTreeMap<String, f64>,
}

impl Costs {
    /// From what was counted while `committed` transactions were committed with `cpu_s` seconds
    /// of CPU time, of which the threads say more; nothing when none was.
    #[must_use]
    pub fn of(counts: &Counts, committed: u64, cpu_s: f64, threads: &ThreadTimes) -> Option<Self> {
        if committed == 0 {
            return None;
        }
        let each = |name: &str| counts.get(name).unwrap_or(0.0) / committed as f64;
        let latency = |q| {
            let seconds = counts.quantile(COMMIT_LATENCY, q)?;
            Some(seconds * 1e3)
        };
        Some(Self {
            cpu_us: cpu_s * 1e6 / committed as f64,
            wire_bytes: each(BYTES_OUT),
            fsyncs: each(FSYNCS),
            verifications: each(VERIFIED),
            log_bytes: each(LOG_BYTES),
            consensus_p50_ms: latency(0.5),
            consensus_p99_ms: latency(0.99),
            threads_us: threads
                .iter()
                .map(|(name, time)| (name.to_owned(), time.as_secs_f64() * 1e6 / committed as f64))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE falconet_x counter\nfalconet_fsync_time_seconds_count 4\n\
        falconet_commit_latency_seconds_bucket{le=\"0.01\"} 50\n\
        falconet_commit_latency_seconds_bucket{le=\"0.02\"} 100\n\
        falconet_commit_latency_seconds_bucket{le=\"+Inf\"} 100\nbroken\n";

    #[test]
    fn costs_are_what_was_added_during_the_load() {
        let before = Counts::parse("falconet_fsync_time_seconds_count 2\n");
        let mut after = Counts::parse(TEXT);
        after.add(&Counts::parse("falconet_fsync_time_seconds_count 8\n"));
        let costs = Costs::of(&after.since(&before), 5, 0.001, &ThreadTimes::default()).unwrap();
        assert!((costs.fsyncs - 2.0).abs() < 1e-9);
        assert!((costs.cpu_us - 200.0).abs() < 1e-9);
        assert!((costs.consensus_p50_ms.unwrap() - 10.0).abs() < 1e-9);
        assert!((costs.consensus_p99_ms.unwrap() - 19.8).abs() < 1e-9);
        assert_eq!(Costs::of(&after, 0, 1.0, &ThreadTimes::default()), None);
    }

    #[test]
    fn validators_export_what_is_read_here() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let table = std::fs::read_to_string(path).unwrap();
        for name in [BYTES_OUT, FSYNCS, VERIFIED, LOG_BYTES, COMMIT_LATENCY] {
            let metric = name.strip_suffix("_count").unwrap_or(name);
            assert!(table.contains(&format!("| `{metric}` |")), "{name}");
        }
    }

    #[test]
    fn a_histogram_without_values_has_no_quantile() {
        assert_eq!(Counts::parse("").quantile("x", 0.5), None);
        assert_eq!(
            Counts::parse("x_bucket{le=\"+Inf\"} 0").quantile("x", 0.5),
            None
        );
        assert_eq!(
            Counts::parse("x_bucket{le=\"+Inf\"} 3").quantile("x", 0.5),
            Some(0.0)
        );
    }
}
