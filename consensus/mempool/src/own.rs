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

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use falconet_types::batch::{BATCH_BYTES_MAX, BATCH_TXS_MAX, TX_BYTES_MIN, TX_PREFIX_LEN};
use falconet_types::genesis::Params;
use falconet_types::message::Admission;
use falconet_types::receipt::Outcome;
use falconet_types::time::Now;
use falconet_types::{AccountId, Seq, TxId};

use crate::api::{Counters, Evicted, Offered, OwnLaneState};
use crate::lane::Lane;
use crate::limits::{
    CONTENDED_BYTES, INTAKE_LATENCY_US_MAX, OWN_BATCHES_AHEAD_MAX, PENDING_BYTES_MAX,
    PENDING_PER_SENDER_MAX, PENDING_TXS_MAX, RECENT_IDS_MAX, RETRY_AFTER_MS, SEAL_STRETCH_BATCHES,
    SEAL_STRETCH_MAX,
};

const _: () = assert!(
    PENDING_TXS_MAX < RECENT_IDS_MAX,
    "a pending id must not be forgotten"
);

/// Commit latency assumed before the first own batch was committed, microseconds.
const LATENCY_US_DEFAULT: u64 = 100_000;
/// The window never shrinks below so many full batches.
const WINDOW_BATCHES_MIN: u64 = 4;

pub(crate) struct OwnLane {
    batch_bytes_target: u64,
    batch_interval_us: u64,
    backlog_bytes_max: u64,
    pub(crate) state: OwnLaneState,
    pending: Pending,
    recent: RecentIds,
    last_seal_us: Option<u64>,
    /// When each batch that is not committed yet was sealed.
    in_flight: VecDeque<(Seq, u64)>,
    /// Time from sealing to commit, smoothed.
    pub(crate) latency_us: u64,
    /// Payload bytes that the lane may be ahead of its commits.
    window_bytes: u64,
    /// When the window was last made smaller.
    shrunk_us: u64,
}

impl OwnLane {
    pub(crate) fn new(params: &Params, state: OwnLaneState) -> Self {
        let bytes_max = BATCH_BYTES_MAX as u64;
        Self {
            batch_bytes_target: params.batch_bytes_target.clamp(1, bytes_max),
            batch_interval_us: params.batch_interval_ms.saturating_mul(1_000),
            backlog_bytes_max: params.lane_backlog_bytes_max,
            state,
            pending: Pending::default(),
            recent: RecentIds::new(),
            last_seal_us: None,
            in_flight: VecDeque::new(),
            latency_us: LATENCY_US_DEFAULT,
            window_bytes: params.lane_backlog_bytes_max,
            shrunk_us: 0,
        }
    }

    pub(crate) fn pending_txs(&self) -> usize {
        self.pending.queue.len()
    }

    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending.bytes
    }

    pub(crate) fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    /// The lane begins anew. `again` goes out before what waits already; it was accepted, so no
    /// limit holds it back, only what is admitted after it.
    pub(crate) fn start_epoch(&mut self, state: OwnLaneState, again: VecDeque<Bytes>) {
        self.state = state;
        self.in_flight.clear();
        self.last_seal_us = None;
        let waiting = std::mem::take(&mut self.pending);
        for bytes in again {
            self.pending.push(u64::MAX, Waiting::accepted(bytes));
        }
        for ((Reverse(priority), _), tx) in waiting.queue {
            self.pending.push(priority, tx);
        }
    }

    /// Takes a verified transaction into the lane, or says why not. While the queue is contended a
    /// sender has a quota; when it is full, a transaction gets in only in the place of those with
    /// lower priority.
    pub(crate) fn admit(
        &mut self,
        lane: &Lane,
        offered: Offered,
        evicted: &mut Vec<Evicted>,
        counters: &mut Counters,
    ) -> Admission {
        let bytes = &offered.bytes;
        if bytes.len() < TX_BYTES_MIN || bytes.len() > usize::from(u16::MAX) {
            return Admission::Refused(Outcome::Malformed);
        }
        if self.recent.contains(&offered.id) {
            counters.duplicates += 1;
            return Admission::Duplicate;
        }
        let stopped = matches!(
            self.state,
            OwnLaneState::Behind { .. } | OwnLaneState::Forked
        );
        let contended = self.pending.bytes > CONTENDED_BYTES;
        let over_quota = contended
            && offered
                .sender
                .is_some_and(|sender| self.pending.of(&sender) >= PENDING_PER_SENDER_MAX);
        let room = (!stopped && !over_quota).then(|| self.room(lane, &offered));
        let Some(victims) = room.flatten() else {
            counters.busy += 1;
            return Admission::Busy {
                retry_after_ms: self.retry_after_ms(),
            };
        };
        for _ in 0..victims {
            let tx = self.pending.pop_lowest().expect("counted before");
            counters.evicted += 1;
            self.recent.forget(&tx.id);
            evicted.extend(tx.ticket.map(|ticket| Evicted { id: tx.id, ticket }));
        }
        counters.admitted += 1;
        self.recent.insert(offered.id);
        let tx = Waiting {
            id: offered.id,
            bytes: offered.bytes,
            sender: offered.sender,
            ticket: Some(offered.ticket),
        };
        self.pending.push(offered.priority, tx);
        Admission::Accepted
    }

    /// How many waiting transactions of lower priority have to go so that this one fits; `None`
    /// when it does not fit even then.
    fn room(&self, lane: &Lane, offered: &Offered) -> Option<usize> {
        let ahead = lane.ahead_bytes();
        let fits = |bytes: u64, count: usize| {
            count <= PENDING_TXS_MAX
                && bytes <= PENDING_BYTES_MAX
                && ahead + bytes <= self.backlog_bytes_max
        };
        let batches = lane.ahead_batches() < OWN_BATCHES_AHEAD_MAX;
        let mut bytes = self.pending.bytes + size(&offered.bytes);
        let mut count = self.pending.queue.len() + 1;
        if batches && fits(bytes, count) {
            return Some(0);
        }
        let lower = self.pending.queue.iter().rev();
        let lower = lower.take_while(|((Reverse(priority), _), _)| *priority < offered.priority);
        for (gone, (_, tx)) in (1..).zip(lower) {
            bytes -= size(&tx.bytes);
            count -= 1;
            if fits(bytes, count) {
                return Some(gone);
            }
        }
        None
    }

    /// When the next batch should be sealed, microseconds; `None` while there is nothing to seal
    /// or sealing is not allowed.
    pub(crate) fn seal_due_us(&self, lane: &Lane) -> Option<u64> {
        if self.state != OwnLaneState::Open
            || self.pending.queue.is_empty()
            || lane.ahead_batches() >= OWN_BATCHES_AHEAD_MAX
            || lane.ahead_bytes() >= self.window_bytes
        {
            return None;
        }
        let full = self.pending.bytes >= self.batch_bytes_target
            || self.pending.queue.len() >= BATCH_TXS_MAX;
        let Some(last_us) = self.last_seal_us.filter(|_| !full) else {
            return Some(0);
        };
        let in_flight = self.in_flight.len() as u64;
        let stretch = (1 + in_flight / SEAL_STRETCH_BATCHES).min(SEAL_STRETCH_MAX);
        Some(last_us.saturating_add(self.batch_interval_us.saturating_mul(stretch)))
    }

    /// Moves the transactions of the next batch into `txs`, those of the highest priority first: as
    /// many as reach the target, at least one. Returns their tickets.
    pub(crate) fn take_batch(&mut self, txs: &mut Vec<Bytes>) -> Vec<u64> {
        let mut bytes = 0;
        let mut tickets = Vec::new();
        while let Some((_, tx)) = self.pending.queue.first_key_value() {
            let size = size(&tx.bytes);
            let fits = bytes + size <= self.batch_bytes_target && txs.len() < BATCH_TXS_MAX;
            if !txs.is_empty() && !fits {
                break;
            }
            bytes += size;
            let tx = self.pending.pop_highest().expect("it is the first");
            tickets.extend(tx.ticket);
            txs.push(tx.bytes);
        }
        tickets
    }

    /// Batch `seq` was sealed.
    pub(crate) fn sealed(&mut self, now: Now, seq: Seq) {
        self.last_seal_us = Some(now.mono_us);
        self.in_flight.push_back((seq, now.mono_us));
    }

    /// The lane was committed up to `seq`; `ahead_bytes` are still on their way.
    ///
    /// The window is additive increase, multiplicative decrease, as in TCP: what does not fit into
    /// it waits, where fees decide, instead of in the lane, where nothing can overtake any more.
    pub(crate) fn committed(&mut self, now: Now, seq: Seq, ahead_bytes: u64) {
        while let Some((_, sealed_us)) = self.in_flight.front().filter(|(s, _)| *s <= seq) {
            let sample_us = now.mono_us.saturating_sub(*sealed_us);
            self.latency_us = (self.latency_us * 7 + sample_us) / 8;
            self.in_flight.pop_front();
            if sample_us <= INTAKE_LATENCY_US_MAX {
                let more = self.window_bytes.saturating_add(self.batch_bytes_target);
                self.window_bytes = more.min(self.backlog_bytes_max);
            } else if now.mono_us.saturating_sub(self.shrunk_us) >= self.latency_us {
                // Once a round trip: what is under way still tells of the old window.
                self.shrunk_us = now.mono_us;
                let least = self.batch_bytes_target.saturating_mul(WINDOW_BATCHES_MIN);
                let used = self.window_bytes.min(ahead_bytes.max(least));
                self.window_bytes = (used / 10 * 7).max(least).min(self.backlog_bytes_max);
            }
        }
    }

    /// Half the time that a batch takes to commit: by then about half of a full backlog is gone.
    fn retry_after_ms(&self) -> u32 {
        let ms = (self.latency_us / 2_000).clamp(*RETRY_AFTER_MS.start(), *RETRY_AFTER_MS.end());
        u32::try_from(ms).expect("the range is small")
    }
}

/// Bytes that a transaction takes in a batch.
fn size(tx: &Bytes) -> u64 {
    (TX_PREFIX_LEN + tx.len()) as u64
}

/// A transaction that waits to be sealed.
struct Waiting {
    id: TxId,
    bytes: Bytes,
    sender: Option<AccountId>,
    /// `None` for one that was accepted in an earlier epoch: nobody waits for a word.
    ticket: Option<u64>,
}

impl Waiting {
    fn accepted(bytes: Bytes) -> Self {
        Self {
            id: TxId::ZERO,
            bytes,
            sender: None,
            ticket: None,
        }
    }
}

/// What waits to be sealed: by priority, then by arrival.
#[derive(Default)]
struct Pending {
    queue: BTreeMap<(Reverse<u64>, u64), Waiting>,
    /// Payload bytes, length prefixes included.
    bytes: u64,
    arrivals: u64,
    /// Waiting transactions of each sender. Looked up, never iterated.
    senders: HashMap<AccountId, u32>,
}

impl Pending {
    fn push(&mut self, priority: u64, tx: Waiting) {
        self.bytes += size(&tx.bytes);
        if let Some(sender) = tx.sender {
            *self.senders.entry(sender).or_default() += 1;
        }
        self.queue.insert((Reverse(priority), self.arrivals), tx);
        self.arrivals += 1;
    }

    fn pop_highest(&mut self) -> Option<Waiting> {
        let (_, tx) = self.queue.pop_first()?;
        self.gone(&tx);
        Some(tx)
    }

    fn pop_lowest(&mut self) -> Option<Waiting> {
        let (_, tx) = self.queue.pop_last()?;
        self.gone(&tx);
        Some(tx)
    }

    fn gone(&mut self, tx: &Waiting) {
        self.bytes -= size(&tx.bytes);
        if let Some(sender) = tx.sender
            && let Some(count) = self.senders.get_mut(&sender)
        {
            *count -= 1;
            if *count == 0 {
                self.senders.remove(&sender);
            }
        }
    }

    fn of(&self, sender: &AccountId) -> u32 {
        self.senders.get(sender).copied().unwrap_or(0)
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

    /// An id that may be admitted again. Its place in the order stays until it is the oldest.
    fn forget(&mut self, id: &TxId) {
        self.set.remove(id);
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
