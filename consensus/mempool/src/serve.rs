//! Answers to peers that ask for batches.
//!
//! Newest first, because the asker verifies by walking back from a hash that it knows: each batch
//! can be judged the moment it arrives. What is above the executed base comes from memory, the
//! rest from the store through the shell. A request names sequence numbers; where a lane is
//! forked every durable branch is sent and the asker picks by hash.
//!
//! Bounds: bytes for one request, and for each peer a token bucket in bytes. Requests beyond it
//! are dropped; the asker asks somebody else.

use falconet_types::message::{GetBatches, PeerMessage};
use falconet_types::time::Now;
use falconet_types::{Seq, ValidatorIndex};

use crate::api::Effect;
use crate::limits::{
    REQUEST_BATCHES_MAX, SERVE_BURST_BYTES, SERVE_BYTES_MAX, SERVE_BYTES_PER_S,
    SERVE_CHARGE_MIN_BYTES,
};
use crate::mempool::Mempool;

/// What a peer may still ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    bytes: u64,
    at_us: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            bytes: SERVE_BURST_BYTES,
            at_us: 0,
        }
    }
}

impl Allowance {
    /// Tops up for the time that has passed; false when nothing is left.
    fn refill(&mut self, now: Now) -> bool {
        let passed_us = now.mono_us.saturating_sub(self.at_us).min(1_000_000);
        self.at_us = now.mono_us;
        let refill = SERVE_BYTES_PER_S * passed_us / 1_000_000;
        self.bytes = (self.bytes + refill).min(SERVE_BURST_BYTES);
        self.bytes > 0
    }

    fn charge(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes.max(SERVE_CHARGE_MIN_BYTES));
    }
}

impl Mempool {
    pub(crate) fn serve(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        request: GetBatches,
        out: &mut Vec<Effect>,
    ) {
        let epoch = self.config.set.epoch();
        let known = request.epoch <= epoch
            && (request.epoch < epoch || request.lane.at() < self.lanes.len())
            && Seq::ZERO < request.first
            && request.first <= request.last
            && from != self.config.me
            && (from.at() < self.lanes.len() || from.follower_slot().is_some());
        if !known || !self.allowances[from.at()].refill(now) {
            self.counters.serve_refused += 1;
            return;
        }
        if request.epoch < epoch {
            return self.serve_history(from, request, out);
        }
        let lane = &self.lanes[request.lane.at()];
        let last = request.last.min(lane.durable_seq());
        let lowest = Seq(last.0.saturating_sub(REQUEST_BATCHES_MAX - 1));
        let first = request.first.max(lowest);
        let mut bytes = 0;
        let mut at = last;
        while at >= first && at > lane.base().seq && bytes < SERVE_BYTES_MAX {
            for batch in lane.batch_at(at).into_iter().chain(lane.aside_at(at)) {
                bytes += batch.bytes().len() as u64;
                let message = PeerMessage::Batch(batch.bytes().clone());
                out.push(Effect::Send { to: from, message });
            }
            at = at.prev();
        }
        if at >= first && at > Seq::ZERO && bytes < SERVE_BYTES_MAX {
            let bytes_max = SERVE_BYTES_MAX - bytes;
            // The store may reach the bound; it is charged as if it does, up to a batch each.
            let batches = at.0 - first.0 + 1;
            bytes += bytes_max.min(batches.saturating_mul(self.config.params.batch_bytes_target));
            out.push(Effect::Serve {
                to: from,
                epoch,
                lane: request.lane,
                first,
                last: at,
                bytes_max,
            });
        }
        self.counters.served += 1;
        self.allowances[from.at()].charge(bytes);
    }
    /// Lanes of an epoch that is over are in the store only (N8).
    fn serve_history(&mut self, from: ValidatorIndex, request: GetBatches, out: &mut Vec<Effect>) {
        let batches = (request.last.0 - request.first.0 + 1).min(REQUEST_BATCHES_MAX);
        out.push(Effect::Serve {
            to: from,
            epoch: request.epoch,
            lane: request.lane,
            first: Seq(request.last.0 - (batches - 1)),
            last: request.last,
            bytes_max: SERVE_BYTES_MAX,
        });
        let expected = batches.saturating_mul(self.config.params.batch_bytes_target);
        self.counters.served += 1;
        self.allowances[from.at()].charge(expected.min(SERVE_BYTES_MAX));
    }
}
