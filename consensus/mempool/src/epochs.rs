//! From one epoch to the next (rule N8 of `docs/protocol.md`).
//!
//! An epoch's payload ends with its last block, which is executed when the next epoch starts. So
//! nothing of the old lanes is in flight any more but batches that no block names. Their
//! transactions go into lanes of the new epoch: those of the own lane into the own lane, those of a
//! validator that left into the lanes of [`ADOPTERS`] others, each of which holds its batches
//! because it acknowledged them. A transaction that gets into two lanes executes once.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use falconet_types::block::{Cut, LaneTip};
use falconet_types::validators::{VALIDATORS_MAX, ValidatorSet};
use falconet_types::{Height, Seq, ValidatorIndex};

use crate::announce::Announced;
use crate::api::OwnLaneState;
use crate::delivery::Delivery;
use crate::fetch::Fetch;
use crate::lane::Lane;
use crate::mempool::Mempool;
use crate::watermarks::Watermarks;

/// Validators that take over the transactions of one that left.
const ADOPTERS: usize = 2;

/// True for a node that sees to what no block names of a lane when its epoch is over: the owner, and
/// some others if the owner has left. Both epochs come with this node's place in them.
#[must_use]
pub fn takes_over(
    (set, was): (&ValidatorSet, ValidatorIndex),
    lane: ValidatorIndex,
    (next, me): (&ValidatorSet, ValidatorIndex),
) -> bool {
    let n = next.len();
    let left = set
        .get(lane)
        .is_some_and(|owner| next.by_key(&owner.key).is_none());
    let turn = (me.at() + n - lane.at() % n) % n;
    lane == was || (left && me.at() < VALIDATORS_MAX && turn < ADOPTERS)
}

impl Mempool {
    /// Starts the next epoch, once the last block of the current one, at `last`, is executed. False,
    /// and without effect, for the current epoch or an earlier one. The shell says who is connected
    /// anew, with [`crate::Input::PeerUp`] and the indices of the new epoch.
    ///
    /// # Panics
    /// If something was committed above `last`, or `last` is not executed.
    pub fn start_epoch(
        &mut self,
        set: Arc<ValidatorSet>,
        me: ValidatorIndex,
        last: Height,
    ) -> bool {
        if set.epoch() <= self.config.set.epoch() {
            return false;
        }
        assert_eq!(
            set.epoch(),
            self.config.set.epoch().next(),
            "one epoch at a time"
        );
        assert_eq!(
            (self.delivery.committed(), self.delivery.executed()),
            (last, last),
            "an epoch starts when the one before is executed"
        );
        let n = set.len();
        let again = self.unsettled(&set, me);
        let backlog = self.config.params.lane_backlog_bytes_max;
        self.lanes = set
            .iter()
            .map(|owner| Lane::recover(owner.index, LaneTip::default(), backlog, Vec::new()))
            .collect();
        self.marks = Watermarks::new(n);
        self.delivery = Delivery::new(last, Cut::empty(n));
        self.fetch = Fetch::new(n);
        self.claimed = vec![Seq::ZERO; n];
        self.heard = vec![false; n];
        self.announced = Announced::new(vec![LaneTip::default(); n]);
        self.stale_quorum = vec![true; n];
        self.changed = true;
        self.config.set = set;
        self.config.me = me;
        let state = match self.lanes.get(me.at()) {
            Some(_) => OwnLaneState::Waiting,
            None => OwnLaneState::Absent,
        };
        self.own.start_epoch(state);
        self.carry_over(again);
        self.counters.epochs_started += 1;
        true
    }

    /// What was accepted in epochs that are over goes out first; without a lane the caller has to
    /// see to it ([`Mempool::take_orphans`]), and to what waits to be sealed: a node that takes
    /// several epochs at a time carries over into some that are over before it has sealed anything.
    pub(crate) fn carry_over(&mut self, again: VecDeque<Bytes>) {
        match self.own.state {
            OwnLaneState::Absent => {
                self.orphans.extend(self.own.give_away());
                self.orphans.extend(again);
            }
            _ => self.own.carry_over(again),
        }
    }

    /// Transactions that were accepted in epochs that are over, and that this node cannot put into
    /// a lane, because it has none any more: others have to. Each is returned once.
    pub fn take_orphans(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.orphans)
    }

    /// Transactions in batches that no block names, as far as this node is to see to them.
    fn unsettled(&self, next: &ValidatorSet, me: ValidatorIndex) -> VecDeque<Bytes> {
        let mut again = VecDeque::new();
        for (owner, lane) in self.config.set.iter().zip(&self.lanes) {
            if takes_over((&self.config.set, self.config.me), owner.index, (next, me)) {
                again.extend(lane.above_base().flat_map(|batch| batch.transactions()));
            }
        }
        again
    }
}
