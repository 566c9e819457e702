//! The own lane: admission, sealing, and what may stop this node from sealing.
//!
//! **When a batch is sealed.** At once when the pending transactions fill a batch; otherwise one
//! interval after the *last seal*, not after the first pending transaction. A lone transaction on
//! an idle lane therefore leaves in the turn in which it came, and under load there is at most
//! one timer-sealed batch an interval, the same rate of signatures and records as with a trailing
//! timer. "Nothing in flight" would be the other trigger (Nagle); it makes the delay depend on the
//! commit latency, where this rule bounds it by the interval.
//! The interval stretches with the rate at which the lane fills (see `pacing`), and with the
//! batches in flight: when commits take long, waiting a little longer adds little and saves a
//! signature, a record and n-1 verifications for each batch that is not made. So a batch is full
//! at four times `batch_bytes_target`: the target is what makes it worth its costs, and in a
//! stretched interval more comes together.
//!
//! **Never two batches for one sequence number.** A batch is in the durable log before it leaves
//! (turn semantics), and recovery hands every durable own batch back. A disk that was restored
//! from an old copy would break this, so a node does not seal before a quorum has told how far it
//! saw the lane, and not while anybody proves to know more of it than this node.

use std::collections::VecDeque;

use bytes::Bytes;
use falconet_types::Seq;
use falconet_types::batch::{BATCH_BYTES_MAX, BATCH_TXS_MAX, TX_BYTES_MIN};
use falconet_types::genesis::Params;
use falconet_types::message::Admission;
use falconet_types::receipt::Outcome;
use falconet_types::time::Now;

use crate::api::{Counters, Evicted, Intake, Offered, OwnLaneState};
use crate::lane::Lane;
use crate::limits::{
    BATCH_FULL_TARGETS, CONTENDED_PART, OWN_BATCHES_AHEAD_MAX, PENDING_PER_SENDER_MAX,
    PENDING_TXS_MAX, RETRY_AFTER_MS, SEAL_STRETCH_BATCHES, SEAL_STRETCH_MAX,
};
use crate::pacing::{Crowd, Meter, Window};
use crate::pending::{Pending, RecentIds, Waiting, size};

/// The window never shrinks below so many targets of a batch.
const WINDOW_BATCHES_MIN: u64 = 8;

/// A batch on its way.
struct Sealed {
    seq: Seq,
    at_us: u64,
    bytes: u64,
}

pub(crate) struct OwnLane {
    batch_bytes_target: u64,
    /// At so many bytes a batch is full.
    pub(crate) batch_bytes_full: u64,
    batch_interval_us: u64,
    backlog_bytes_max: u64,
    pub(crate) state: OwnLaneState,
    pending: Pending,
    recent: RecentIds,
    last_seal_us: Option<u64>,
    /// Least time from the last seal to the next, by the rate at which the lane filled then.
    interval_us: u64,
    /// What is admitted.
    filling: Meter,
    /// Busy part of the machine's time, per mille.
    pub(crate) busy: u64,
    /// Sealed by this process and not executed yet, oldest first.
    unexecuted: VecDeque<Sealed>,
    /// How many of them are not committed.
    uncommitted: u64,
    /// Time from sealing to commit, smoothed, microseconds.
    pub(crate) latency_us: u64,
    window: Window,
}

/// Commit latency assumed before the first own batch was committed, microseconds.
const LATENCY_US_DEFAULT: u64 = 100_000;

impl OwnLane {
    pub(crate) fn new(params: &Params, state: OwnLaneState) -> Self {
        let bytes_max = BATCH_BYTES_MAX as u64;
        let target = params.batch_bytes_target.clamp(1, bytes_max);
        let interval_us = params.batch_interval_ms.saturating_mul(1_000);
        let backlog = params.lane_backlog_bytes_max;
        Self {
            batch_bytes_target: target,
            batch_bytes_full: (target * BATCH_FULL_TARGETS)
                .min(bytes_max)
                // A block must be able to name it.
                .min(params.block_bytes_max)
                .max(target),
            batch_interval_us: interval_us,
            backlog_bytes_max: backlog,
            state,
            pending: Pending::default(),
            recent: RecentIds::new(),
            last_seal_us: None,
            interval_us,
            filling: Meter::default(),
            busy: 1_000,
            unexecuted: VecDeque::new(),
            uncommitted: 0,
            latency_us: LATENCY_US_DEFAULT,
            window: Window::new(backlog, target * WINDOW_BATCHES_MIN),
        }
    }

    pub(crate) fn pending_txs(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending.bytes()
    }

    pub(crate) fn window_bytes(&self) -> u64 {
        self.window.bytes()
    }

    /// Time from sealing to execution, smoothed, microseconds.
    pub(crate) fn execution_latency_us(&self) -> u64 {
        self.window.latency_us()
    }

    /// What may be admitted now, as far as can be said without looking at a transaction.
    pub(crate) fn intake(&self, now: Now, lane: &Lane) -> Intake {
        let stopped = self.is_stopped() || lane.ahead_batches() >= OWN_BATCHES_AHEAD_MAX;
        let room = self.window.pending_bytes_max();
        let backlog = self.backlog_bytes_max.saturating_sub(lane.ahead_bytes());
        let oldest = self.unexecuted.front();
        let stuck = oldest.is_some_and(|sealed| {
            self.window
                .is_stuck(now.mono_us.saturating_sub(sealed.at_us))
        });
        let full = stopped || stuck || self.pending.len() >= PENDING_TXS_MAX;
        let room = room.min(backlog).saturating_sub(self.pending.bytes());
        Intake {
            room_bytes: if full { 0 } else { room },
            outbid: match self.is_stopped() {
                true => None,
                false => self.pending.lowest_priority(),
            },
            retry_after_ms: self.retry_after_ms(),
        }
    }

    fn is_stopped(&self) -> bool {
        matches!(
            self.state,
            OwnLaneState::Behind { .. } | OwnLaneState::Forked
        )
    }

    /// The lane begins anew.
    pub(crate) fn start_epoch(&mut self, state: OwnLaneState) {
        self.state = state;
        self.unexecuted.clear();
        self.uncommitted = 0;
        self.last_seal_us = None;
    }

    /// `again` goes out before what waits already; it was accepted, so no limit holds it back, only
    /// what is admitted after it.
    pub(crate) fn carry_over(&mut self, again: VecDeque<Bytes>) {
        let waiting = std::mem::take(&mut self.pending);
        for bytes in again {
            self.pending.push(u64::MAX, Waiting::accepted(bytes));
        }
        for (priority, tx) in waiting.into_iter() {
            self.pending.push(priority, tx);
        }
    }

    /// Everything that waits, in the order in which it would be sealed: there is no lane any more.
    pub(crate) fn give_away(&mut self) -> impl Iterator<Item = Bytes> {
        let waiting = std::mem::take(&mut self.pending).into_iter();
        waiting.map(|(_, tx)| tx.bytes)
    }

    /// Takes a verified transaction into the lane, or says why not. While the queue is contended a
    /// sender has a quota; when it is full, a transaction gets in only in the place of those with
    /// lower priority.
    pub(crate) fn admit(
        &mut self,
        now: Now,
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
        let stopped = self.is_stopped();
        let contended = self.pending.bytes() > self.window.pending_bytes_max() / CONTENDED_PART;
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
        self.filling.add(now, size(&offered.bytes));
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
        let pending_bytes_max = self.window.pending_bytes_max();
        let fits = |bytes: u64, count: usize| {
            count <= PENDING_TXS_MAX
                && bytes <= pending_bytes_max
                && ahead + bytes <= self.backlog_bytes_max
        };
        let batches = lane.ahead_batches() < OWN_BATCHES_AHEAD_MAX;
        let mut bytes = self.pending.bytes() + size(&offered.bytes);
        let mut count = self.pending.len() + 1;
        if batches && fits(bytes, count) {
            return Some(0);
        }
        for (gone, size) in (1..).zip(self.pending.sizes_below(offered.priority)) {
            bytes -= size;
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
            || self.pending.is_empty()
            || lane.ahead_batches() >= OWN_BATCHES_AHEAD_MAX
            || lane.unexecuted_bytes() >= self.window.bytes()
        {
            return None;
        }
        let full =
            self.pending.bytes() >= self.batch_bytes_full || self.pending.len() >= BATCH_TXS_MAX;
        let Some(last_us) = self.last_seal_us.filter(|_| !full) else {
            return Some(0);
        };
        let stretch = (1 + self.uncommitted / SEAL_STRETCH_BATCHES).min(SEAL_STRETCH_MAX);
        let in_flight_us = self.batch_interval_us.saturating_mul(stretch);
        Some(last_us.saturating_add(self.interval_us.max(in_flight_us)))
    }

    /// Moves the transactions of the next batch into `txs`, those of the highest priority first: as
    /// many as fill it, at least one. Returns their tickets.
    pub(crate) fn take_batch(&mut self, txs: &mut Vec<Bytes>) -> Vec<u64> {
        let mut bytes = 0;
        let mut tickets = Vec::new();
        while let Some(tx) = self.pending.highest() {
            let size = size(&tx.bytes);
            let fits = bytes + size <= self.batch_bytes_full && txs.len() < BATCH_TXS_MAX;
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

    /// Batch `seq` with `bytes` of payload was sealed, one lane among as many as `crowd` says.
    pub(crate) fn sealed(&mut self, now: Now, seq: Seq, bytes: u64, crowd: Crowd) {
        self.last_seal_us = Some(now.mono_us);
        self.filling.add(now, 0);
        self.interval_us = crowd.batch_interval_us(
            self.batch_interval_us,
            self.filling.bytes_per_s(),
            self.batch_bytes_target,
            self.busy,
        );
        let at_us = now.mono_us;
        self.unexecuted.push_back(Sealed { seq, at_us, bytes });
        self.uncommitted += 1;
    }

    /// The lane was committed up to `seq`.
    pub(crate) fn committed(&mut self, now: Now, seq: Seq) {
        let first = self.unexecuted.len() as u64 - self.uncommitted;
        let uncommitted = self.unexecuted.iter().skip(first as usize);
        for sealed in uncommitted.take_while(|sealed| sealed.seq <= seq) {
            let sample_us = now.mono_us.saturating_sub(sealed.at_us);
            self.latency_us = (self.latency_us * 7 + sample_us) / 8;
            self.uncommitted -= 1;
        }
    }

    /// The lane was executed up to `seq`; `left` bytes are still on their way.
    pub(crate) fn executed(&mut self, now: Now, seq: Seq, left: u64) {
        while let Some(sealed) = self.unexecuted.front().filter(|sealed| sealed.seq <= seq) {
            let took_us = now.mono_us.saturating_sub(sealed.at_us);
            self.window.executed(now, took_us, sealed.bytes, left);
            self.unexecuted.pop_front();
        }
        self.uncommitted = self.uncommitted.min(self.unexecuted.len() as u64);
    }

    /// Half the time that a batch takes to be executed: by then about half of a full backlog is gone.
    fn retry_after_ms(&self) -> u32 {
        let ms = (self.window.latency_us() / 2_000)
            .clamp(*RETRY_AFTER_MS.start(), *RETRY_AFTER_MS.end());
        u32::try_from(ms).expect("the range is small")
    }
}
