//! What all connections of an endpoint share: limits, counters, the event queue.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use falconet_crypto::hash::Digest;

use crate::{
    Event, EventBudget, Limits, Stats, TrustedKeys, pool::SmallCopies, send::Registry, stats::Count,
};

/// Shared by the connections of one endpoint, owned by it.
pub(super) struct Core {
    pub(super) limits: Limits,
    pub(super) stats: Arc<Stats>,
    pub(super) budget: Arc<EventBudget>,
    pub(super) registry: Arc<Registry>,
    pub(super) trusted: TrustedKeys,
    pub(super) chain_id: Digest,
    /// Whether datagrams are sent and taken.
    pub(super) datagrams: bool,
    /// How long small frames and messages may wait for company.
    pub(super) flush_after: Option<Duration>,
    /// Whether Bulk frames come in pieces.
    pub(super) bulk_in_pieces: bool,
    pub(super) events: VecDeque<Event>,
    /// Datagrams and their bytes that came and are not counted yet.
    pub(super) received: (u64, u64),
    /// Where small payloads are copied to.
    pub(super) copies: SmallCopies,
    pub(super) log: LogLimiter,
}

impl Core {
    /// Counts what came since the last call: once a turn, as counters that other threads read cost
    /// more than the sums here.
    pub(super) fn count_received(&mut self) {
        let (datagrams, bytes) = std::mem::take(&mut self.received);
        if datagrams > 0 {
            self.stats.datagrams_in.add(datagrams);
            self.stats.bytes_in.add(bytes);
        }
    }
}

/// Lets one line for each cause through in an interval, so that a peer cannot fill the log.
#[derive(Default)]
pub(super) struct LogLimiter(HashMap<&'static str, (Instant, u64)>);

/// Interval in which one line for each cause is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

impl LogLimiter {
    /// `Some(n)` when a line may be logged; `n` similar ones were suppressed before it.
    pub(super) fn permit(
        &mut self,
        now: Instant,
        cause: &'static str,
        stats: &Stats,
    ) -> Option<u64> {
        match self.0.get_mut(cause) {
            Some((last, suppressed)) if now.saturating_duration_since(*last) < LOG_INTERVAL => {
                *suppressed += 1;
                stats.log_suppressed.inc();
                None
            }
            Some((last, suppressed)) => {
                *last = now;
                Some(std::mem::take(suppressed))
            }
            None => {
                self.0.insert(cause, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_cause_and_interval() {
        let (mut log, stats, start) = (LogLimiter::default(), Stats::default(), Instant::now());
        assert_eq!(log.permit(start, "a", &stats), Some(0));
        assert_eq!(log.permit(start, "a", &stats), None);
        assert_eq!(log.permit(start, "b", &stats), Some(0));
        assert_eq!(log.permit(start + LOG_INTERVAL, "a", &stats), Some(1));
        assert_eq!(stats.snapshot().log_suppressed, 1);
    }
}
