//! What all connections of an endpoint share: limits, counters, the event queue.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use falconet_crypto::hash::Digest;

use crate::{Event, EventBudget, Limits, Stats, TrustedKeys, frame, send::Registry, stats::Count};

/// Shared by the connections of one endpoint, owned by it.
pub(super) struct Core {
    pub(super) limits: Limits,
    pub(super) stats: Arc<Stats>,
    pub(super) budget: Arc<EventBudget>,
    pub(super) registry: Arc<Registry>,
    pub(super) trusted: TrustedKeys,
    pub(super) chain_id: Digest,
    pub(super) has_identity: bool,
    /// Whether datagrams are sent and taken.
    pub(super) datagrams: bool,
    pub(super) events: VecDeque<Event>,
    pub(super) headers: HeaderArena,
    pub(super) log: LogLimiter,
}

/// Frame headers are eight bytes each; carving them from a larger piece saves an allocation for
/// every frame sent.
#[derive(Default)]
pub(super) struct HeaderArena(BytesMut);

/// Size of one piece of the header arena, bytes.
const ARENA_BYTES: usize = 4096;

impl HeaderArena {
    pub(super) fn header(&mut self, kind: u8, len: usize) -> Bytes {
        let len = u32::try_from(len).expect("frame lengths are checked before queueing");
        self.carve(&frame::header(kind, len))
    }

    pub(super) fn carve(&mut self, bytes: &[u8]) -> Bytes {
        if self.0.capacity() - self.0.len() < bytes.len() && !self.0.try_reclaim(ARENA_BYTES) {
            self.0 = BytesMut::with_capacity(ARENA_BYTES);
        }
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
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

    #[test]
    fn headers_share_their_memory() {
        let mut arena = HeaderArena::default();
        let (a, b) = (arena.header(16, 1), arena.header(17, 2));
        assert_eq!(a[..], frame::header(16, 1));
        assert_eq!(
            b.as_ptr() as usize - a.as_ptr() as usize,
            frame::HEADER_BYTES
        );
    }
}
