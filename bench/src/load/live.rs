//! Figures of a running load, for a display.

use std::sync::{Arc, Mutex};

use serde::Serialize;

/// The figures at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct LiveSnapshot {
    /// Seconds since the load began.
    pub elapsed_s: f64,
    /// Transactions a second that the schedule asks for.
    pub offered_tps: u64,
    /// Transactions sent so far.
    pub sent: u64,
    /// Transactions executed so far.
    pub committed: u64,
    /// Transactions executed in the last full second.
    pub committed_tps: f64,
    /// Median latency in the last full second, milliseconds; nothing while none was executed.
    pub p50_ms: Option<f64>,
    /// 99th percentile in the last full second, milliseconds.
    pub p99_ms: Option<f64>,
    /// Transactions without a final answer.
    pub in_flight: u64,
    /// Answers "busy" so far.
    pub busy: u64,
    /// Transactions refused at the door or failed in execution so far.
    pub refused: u64,
    /// Transactions that the supply did not have in time so far.
    pub starved: u64,
    /// Validators that are connected.
    pub connected: usize,
    /// Whether the generator itself, not the network, limits the load.
    pub generator_behind: bool,
}

/// Where the latest figures are. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LiveHandle(Arc<Mutex<LiveSnapshot>>);

impl LiveHandle {
    /// The latest figures.
    #[must_use]
    pub fn snapshot(&self) -> LiveSnapshot {
        *self.0.lock().expect("no panic while the lock is held")
    }

    pub(super) fn publish(&self, snapshot: LiveSnapshot) {
        *self.0.lock().expect("no panic while the lock is held") = snapshot;
    }
}
