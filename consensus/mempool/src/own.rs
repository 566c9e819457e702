//! The own lane: admission, sealing, and what may stop this node from sealing.
//!
//! **When a batch is sealed.** At once when the pending transactions fill a batch; otherwise one
//! interval after the *last seal*, not after the first pending transaction. A lone transaction on
//! an idle lane therefore leaves in the turn in which it came, and under load there is at most
//! one timer-sealed batch an interval, the same rate of signatures and records as with a trailing
//! timer. "Nothing in flight" would be the other trigger (Nagle); it makes the delay depend on the
//! commit latency, where this rule bounds it by the interval.
//! The interval stretches with the batches in flight: when commits take long, waiting a little
//! longer adds little and saves a signature, a record and n-1 verifications for each batch that
//! is not made.
//!
//! **Never two batches for one sequence number.** A batch is in the durable log before it leaves
//! (turn semantics), and recovery hands every durable own batch back. A disk that was restored
//! from an old copy would break this, so a node does not seal before a quorum has told how far it
//! saw the lane, and not while anybody proves to know more of it than this node.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use falconet_types::batch::{BATCH_BYTES_MAX, BATCH_TXS_MAX, TX_BYTES_MIN, TX_PREFIX_LEN};
use falconet_types::genesis::Params;
use falconet_types::message::Admission;
use falconet_types::receipt::Outcome;
use falconet_types::time::Now;
use falconet_types::{Seq, TxId};

use crate::api::{Counters, OwnLaneState};
use crate::lane::Lane;
use crate::limits::{
    OWN_BATCHES_AHEAD_MAX, PENDING_BYTES_MAX, PENDING_TXS_MAX, RECENT_IDS_MAX, RETRY_AFTER_MS,
    SEAL_STRETCH_BATCHES, SEAL_STRETCH_MAX,
};

const _: () = assert!(
    PENDING_TXS_MAX < RECENT_IDS_MAX,
    "a pending id must not be forgotten"
);

/// Commit latency assumed before the first own batch was committed, microseconds.
const LATENCY_US_DEFAULT: u64 = 100_000;

pub(crate) struct OwnLane {
    batch_bytes_target: u64,
    batch_interval_us: u64,
    backlog_bytes_max: u64,
    pub(crate) state: OwnLaneState,
    pending: VecDeque<Bytes>,
    /// Payload bytes of `pending`, length prefixes included.
    pending_bytes: u64,
    recent: RecentIds,
    last_seal_us: Option<u64>,
    /// When each batch that is not committed yet was sealed.
    in_flight: VecDeque<(Seq, u64)>,
    /// Time from sealing to commit, smoothed.
    pub(crate) latency_us: u64,
}

impl OwnLane {
    pub(crate) fn new(params: &Params, state: OwnLaneState) -> Self {
        let bytes_max = BATCH_BYTES_MAX as u64;
        Self {
            batch_bytes_target: params.batch_bytes_target.clamp(1, bytes_max),
            batch_interval_us: params.batch_interval_ms.saturating_mul(1_000),
            backlog_bytes_max: params.lane_backlog_bytes_max,
            state,
            pending: VecDeque::new(),
            pending_bytes: 0,
            recent: RecentIds::new(),
            last_seal_us: None,
            in_flight: VecDeque::new(),
            latency_us: LATENCY_US_DEFAULT,
        }
    }

    pub(crate) fn pending_txs(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// The lane begins anew. `again` goes out before what waits already; it was accepted, so no
    /// limit holds it back, only what is admitted after it.
    pub(crate) fn start_epoch(&mut self, state: OwnLaneState, mut again: VecDeque<Bytes>) {
        self.state = state;
        self.in_flight.clear();
        self.last_seal_us = None;
        again.append(&mut self.pending);
        self.pending = again;
        let size = |tx: &Bytes| (TX_PREFIX_LEN + tx.len()) as u64;
        self.pending_bytes = self.pending.iter().map(size).sum();
    }

    /// Takes a verified transaction into the lane, or says why not.
    pub(crate) fn admit(
        &mut self,
        lane: &Lane,
        id: TxId,
        bytes: Bytes,
        counters: &mut Counters,
    ) -> Admission {
        if bytes.len() < TX_BYTES_MIN || bytes.len() > usize::from(u16::MAX) {
            return Admission::Refused(Outcome::Malformed);
        }
        if self.recent.contains(&id) {
            counters.duplicates += 1;
            return Admission::Duplicate;
        }
        let size = (TX_PREFIX_LEN + bytes.len()) as u64;
        let pending = self.pending_bytes + size;
        let stopped = matches!(
            self.state,
            OwnLaneState::Behind { .. } | OwnLaneState::Forked
        );
        if stopped
            || self.pending.len() >= PENDING_TXS_MAX
            || pending > PENDING_BYTES_MAX
            || lane.ahead_bytes() + pending > self.backlog_bytes_max
            || lane.ahead_batches() >= OWN_BATCHES_AHEAD_MAX
        {
            counters.busy += 1;
            return Admission::Busy {
                retry_after_ms: self.retry_after_ms(),
            };
        }
        counters.admitted += 1;
        self.recent.insert(id);
        self.pending.push_back(bytes);
        self.pending_bytes = pending;
        Admission::Accepted
    }

    /// When the next batch should be sealed, microseconds; `None` while there is nothing to seal
    /// or sealing is not allowed.
    pub(crate) fn seal_due_us(&self, lane: &Lane) -> Option<u64> {
        if self.state != OwnLaneState::Open
            || self.pending.is_empty()
            || lane.ahead_batches() >= OWN_BATCHES_AHEAD_MAX
        {
            return None;
        }
        let full =
            self.pending_bytes >= self.batch_bytes_target || self.pending.len() >= BATCH_TXS_MAX;
        let Some(last_us) = self.last_seal_us.filter(|_| !full) else {
            return Some(0);
        };
        let in_flight = self.in_flight.len() as u64;
        let stretch = (1 + in_flight / SEAL_STRETCH_BATCHES).min(SEAL_STRETCH_MAX);
        Some(last_us.saturating_add(self.batch_interval_us.saturating_mul(stretch)))
    }

    /// Moves the transactions of the next batch into `txs`: as many as reach the target, at least
    /// one.
    pub(crate) fn take_batch(&mut self, txs: &mut Vec<Bytes>) {
        let mut bytes = 0;
        while let Some(tx) = self.pending.front() {
            let size = (TX_PREFIX_LEN + tx.len()) as u64;
            let fits = bytes + size <= self.batch_bytes_target && txs.len() < BATCH_TXS_MAX;
            if !txs.is_empty() && !fits {
                break;
            }
            bytes += size;
            txs.push(self.pending.pop_front().expect("it is the front"));
        }
        self.pending_bytes -= bytes;
    }

    /// Batch `seq` was sealed.
    pub(crate) fn sealed(&mut self, now: Now, seq: Seq) {
        self.last_seal_us = Some(now.mono_us);
        self.in_flight.push_back((seq, now.mono_us));
    }

    /// The lane was committed up to `seq`.
    pub(crate) fn committed(&mut self, now: Now, seq: Seq) {
        while let Some((_, sealed_us)) = self.in_flight.front().filter(|(s, _)| *s <= seq) {
            let sample_us = now.mono_us.saturating_sub(*sealed_us);
            self.latency_us = (self.latency_us * 7 + sample_us) / 8;
            self.in_flight.pop_front();
        }
    }

    /// Half the time that a batch takes to commit: by then about half of a full backlog is gone.
    fn retry_after_ms(&self) -> u32 {
        let ms = (self.latency_us / 2_000).clamp(*RETRY_AFTER_MS.start(), *RETRY_AFTER_MS.end());
        u32::try_from(ms).expect("the range is small")
    }
}

/// The ids of the last [`RECENT_IDS_MAX`] admitted transactions: those pending and those sealed
/// recently. Older duplicates are caught by the replay window of execution. The set is only
/// looked up, never iterated, so its order cannot influence anything.
struct RecentIds {
    order: VecDeque<TxId>,
    set: HashSet<TxId>,
}

impl RecentIds {
    fn new() -> Self {
        Self {
            order: VecDeque::new(),
            set: HashSet::new(),
        }
    }

    fn contains(&self, id: &TxId) -> bool {
        self.set.contains(id)
    }

    fn insert(&mut self, id: TxId) {
        if self.order.len() == RECENT_IDS_MAX {
            let oldest = self.order.pop_front().expect("it is full");
            self.set.remove(&oldest);
        }
        if self.set.insert(id) {
            self.order.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use falconet_types::Digest;

    use super::*;

    #[test]
    fn the_oldest_id_is_forgotten_first_and_memory_is_bounded() {
        let id = |i: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(i as u64).to_le_bytes());
            Digest(bytes)
        };
        let mut recent = RecentIds::new();
        for i in 0..RECENT_IDS_MAX + 10 {
            recent.insert(id(i));
        }
        assert_eq!(
            (recent.order.len(), recent.set.len()),
            (RECENT_IDS_MAX, RECENT_IDS_MAX)
        );
        assert!(!recent.contains(&id(9)));
        assert!(recent.contains(&id(10)) && recent.contains(&id(RECENT_IDS_MAX + 9)));
    }
}
