//! What a load measured.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::hlog;

/// Most seconds that are kept one by one.
pub const INTERVALS_MAX: usize = 7_200;
/// Part of the measured transactions that may be sent late or not at all by the generator's own
/// fault before the run says that the generator was behind.
const BEHIND_SHARE: f64 = 0.01;
/// Longest latency that a histogram holds, microseconds: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Where the transactions of a load went. Those marked * are final: each scheduled transaction
/// ends in exactly one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Meant to be sent.
    pub scheduled: u64,
    /// Sent at least once.
    pub sent: u64,
    /// * Executed with effect.
    pub committed: u64,
    /// * Ordered, and without effect in execution.
    pub failed: u64,
    /// * Refused at the door.
    pub refused: u64,
    /// * Dropped because a validator was busy.
    pub dropped: u64,
    /// * Sent again after a lost connection and known there already: its first copy counts for
    ///   the chain, but this run has no receipt of it.
    pub known: u64,
    /// * Not sent: too many without a final answer.
    pub shed: u64,
    /// * Not sent: the supply had none in time.
    pub starved: u64,
    /// * Without a final answer at the end.
    pub unresolved: u64,
    /// Answers "busy".
    pub busy: u64,
    /// Sent again after a lost connection, or because a validator fell silent.
    pub resent: u64,
    /// Validators passed over because they fell silent.
    #[serde(default)]
    pub silences: u64,
    /// Not offered when due, because validators were known to be too busy: those that were offered
    /// later, and those dropped unoffered.
    #[serde(default)]
    pub withheld: u64,
    /// Waits because a send queue was full.
    pub overruns: u64,
    /// Receipts for transactions that have their final answer already.
    pub repeated_receipts: u64,
    /// Sent more than the tolerance later than meant.
    pub late: u64,
    /// Connections lost.
    pub disconnects: u64,
}

impl Counters {
    /// Whether every scheduled transaction is accounted for once.
    #[must_use]
    pub fn balance(&self) -> bool {
        let ends = [
            self.committed,
            self.failed,
            self.refused,
            self.dropped,
            self.known,
            self.shed,
            self.starved,
            self.unresolved,
        ];
        self.scheduled == ends.iter().sum::<u64>()
    }

    /// Whether the generator itself limited the load.
    #[must_use]
    pub fn generator_behind(&self) -> bool {
        (self.late + self.starved) as f64 > self.scheduled as f64 * BEHIND_SHARE
    }
}

/// One second of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its end, seconds since the load began.
    pub end_s: f64,
    /// Transactions executed in it.
    pub committed: u64,
    /// Median latency, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
    /// Longest, milliseconds.
    pub max_ms: f64,
}

/// What a load measured.
#[derive(Debug, Clone)]
pub struct LoadOutcome {
    /// Transactions a second that the schedule asked for.
    pub offered_tps: u64,
    /// The measured time, seconds: without warm-up and drain.
    pub duration_s: f64,
    /// Receipts of executed transactions that arrived in the measured time.
    pub committed: u64,
    /// The same a second.
    pub committed_tps: f64,
    /// Latency in microseconds, from the intended time of sending to the receipt, of executed
    /// transactions that were meant to be sent in the measured time.
    pub latency_us: Histogram<u64>,
    /// Latency in microseconds from the offer that was accepted to the receipt, of transactions whose
    /// offer was in the measured time: without what passed before, when validators were busy.
    pub accepted_us: Histogram<u64>,
    /// How much later than meant the measured transactions were sent, microseconds.
    pub send_delay_us: Histogram<u64>,
    /// Everything, warm-up and drain included.
    pub counters: Counters,
    /// Second by second, the last [`INTERVALS_MAX`].
    pub intervals: Vec<Interval>,
    /// The histograms of these seconds.
    pub hlog: Vec<hlog::Entry>,
    /// What was noted of a surge, if there was one.
    pub surge: Option<SurgeSeen>,
}

/// What a load noted of a surge.
#[derive(Debug, Clone)]
pub struct SurgeSeen {
    /// Latency in microseconds from the offer that was accepted to the receipt, of offers in the
    /// surge.
    pub accepted_us: Histogram<u64>,
    /// Answers "busy" in it.
    pub busy: u64,
    /// Transactions due in it that were offered later or not at all, because validators were known
    /// to be busy.
    pub withheld: u64,
    /// Transactions due and without a final answer at its end.
    pub backlog: u64,
}

impl Default for SurgeSeen {
    fn default() -> Self {
        Self {
            accepted_us: histogram(),
            busy: 0,
            withheld: 0,
            backlog: 0,
        }
    }
}

/// An empty histogram of microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are valid")
}

/// Microseconds at a quantile as milliseconds; 0 when nothing is recorded.
pub(crate) fn quantile_ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    if histogram.is_empty() {
        return 0.0;
    }
    histogram.value_at_quantile(quantile) as f64 / 1e3
}
