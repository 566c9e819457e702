//! What HotStuff asks of the data layer: the leader's cut (rule D3 of `docs/protocol.md`) and the
//! availability rule (D4, which is V5 of a vote).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use falconet_types::block::{Cut, LaneTip};
use falconet_types::{Seq, ValidatorIndex};

use crate::lane::{Range, payload_bytes};
use crate::limits::{
    BLOCK_BYTES_WORTH, BLOCK_LANE_BATCHES_MAX, EXECUTION_DEBT_FULL_BLOCKS, FETCH_DEBT_BATCHES_MAX,
};
use crate::mempool::Mempool;
use crate::pacing::Crowd;

impl Mempool {
    /// The leader's cut (D3): in each lane the highest batch on this node's chain that a quorum (this
    /// node included) holds, not below the parent's cut, only where the chain continues the
    /// parent's tip. When more than `block_bytes_max` would fit, the lane with the fewest bytes
    /// so far gets the next batch, so that a lane that offers little is served whole and the
    /// others share the rest equally.
    #[must_use]
    pub fn propose(&self, parent: &Cut) -> Cut {
        let mut cut = parent.clone();
        if !self.may_lead(parent) {
            return cut;
        }
        // Ties go round: whoever is first for this parent is not first for the next.
        let lanes = self.lanes.len();
        let start = parent
            .0
            .iter()
            .fold(0u64, |sum, tip| sum.wrapping_add(tip.seq.0));
        let mut next: BinaryHeap<Reverse<(u64, usize)>> =
            (0..lanes).map(|turn| Reverse((0, turn))).collect();
        let mut bytes_left = self.config.params.block_bytes_max;
        while let Some(Reverse((lane_bytes, turn))) = next.pop() {
            let index = (turn + (start % lanes as u64) as usize) % lanes;
            let (lane, at) = (&self.lanes[index], cut.0[index]);
            if at.seq >= self.quorum_above(index, parent.0[index]) {
                continue;
            }
            let batch = lane
                .batch_at(at.seq.next())
                .expect("a quorum is on the chain");
            let bytes = payload_bytes(batch);
            // A lane whose next batch does not fit has had its share.
            if bytes <= bytes_left {
                bytes_left -= bytes;
                cut.0[index] = batch.tip();
                next.push(Reverse((lane_bytes + bytes, turn)));
            }
        }
        cut
    }

    /// Whether [`Self::propose`] would go beyond the parent.
    #[must_use]
    pub fn has_work(&self, parent: &Cut) -> bool {
        self.may_lead(parent)
            && (0..self.lanes.len()).any(|i| self.quorum_above(i, parent.0[i]) > parent.0[i].seq)
    }

    /// How long a leader waits between blocks with new payload, microseconds, where genesis allows
    /// `least_us`: by the law of `pacing`, with the rate at which all lanes together grow. A block
    /// that would be half full waits no longer than that.
    #[must_use]
    pub fn block_interval_us(&self, parent: &Cut, least_us: u64) -> u64 {
        let full = self.config.params.block_bytes_max;
        let waiting: u64 = (parent.0.iter().zip(&self.lanes).enumerate())
            .map(|(i, (old, lane))| lane.bytes_between(old.seq, self.quorum_above(i, *old)))
            .sum();
        if waiting >= full / 2 {
            return least_us;
        }
        let worth = BLOCK_BYTES_WORTH.min(full / 4);
        let rate = self.growth.bytes_per_s();
        let crowd = Crowd::of(self.lanes.len());
        crowd.block_interval_us(least_us, rate, worth, self.own.busy)
    }

    /// The availability rule (D4): whether this node may vote for a block with `cut` on a parent with
    /// `parent`. In each advanced lane either this node holds (parent, cut] under exactly the
    /// hash that the cut names, or peers of weight F1 say that they hold exactly that batch, one
    /// of them honest. No more than `block_bytes_max` as far as the bytes are known, and neither
    /// too much data missing here nor too much waiting for execution.
    #[must_use]
    pub fn available(&self, parent: &Cut, cut: &Cut) -> bool {
        if parent.0.len() != self.lanes.len() || !cut.extends(parent) {
            return false;
        }
        if cut == parent {
            return true;
        }
        if self.is_in_debt(self.execution_debt_bytes_max()) {
            return false;
        }
        let mut bytes = 0u64;
        for (lane, old, new) in cut.advances(parent) {
            if new.seq.0 - old.seq.0 > BLOCK_LANE_BATCHES_MAX {
                return false;
            }
            match self.lanes[lane.at()].range(old, new) {
                Range::Held(range_bytes) => bytes = bytes.saturating_add(range_bytes),
                Range::Conflict => return false,
                Range::Missing if self.is_covered(lane, new) => {}
                Range::Missing => return false,
            }
        }
        bytes <= self.config.params.block_bytes_max
    }

    /// True when peers of weight F1 hold exactly `tip`.
    fn is_covered(&self, index: ValidatorIndex, tip: LaneTip) -> bool {
        let (set, lane) = (&self.config.set, &self.lanes[index.at()]);
        let peers = set
            .iter()
            .map(|v| v.index)
            .filter(|peer| *peer != self.config.me && self.marks.covers(*peer, index, tip, lane));
        set.weight_of(peers) >= set.weak_weight()
    }

    /// Highest batch that a proposal may name in a lane where the parent is at `old`.
    fn quorum_above(&self, index: usize, old: LaneTip) -> Seq {
        let lane = &self.lanes[index];
        if lane.quorum <= old.seq || !lane.holds(old) {
            return old.seq;
        }
        lane.quorum.min(Seq(old.seq.0 + BLOCK_LANE_BATCHES_MAX))
    }

    fn may_lead(&self, parent: &Cut) -> bool {
        parent.0.len() == self.lanes.len() && !self.is_in_debt(self.execution_debt_bytes_max() / 2)
    }

    fn is_in_debt(&self, execution_bytes_max: u64) -> bool {
        self.delivery.missing() > FETCH_DEBT_BATCHES_MAX
            || self.delivery.is_congested(execution_bytes_max)
    }

    pub(crate) fn execution_debt_bytes_max(&self) -> u64 {
        self.config
            .params
            .block_bytes_max
            .saturating_mul(EXECUTION_DEBT_FULL_BLOCKS)
    }
}
