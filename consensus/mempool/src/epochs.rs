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
        self.own.start_epoch(state, again);
        self.counters.epochs_started += 1;
        true
    }

    /// Transactions in batches that no block names, as far as this node is to see to them.
    fn unsettled(&self, next: &ValidatorSet, me: ValidatorIndex) -> VecDeque<Bytes> {
        let mut again = VecDeque::new();
        let n = next.len();
        for (owner, lane) in self.config.set.iter().zip(&self.lanes) {
            let mine = owner.index == self.config.me;
            let left = next.by_key(&owner.key).is_none();
            let turn = (me.at() + n - owner.index.at() % n) % n;
            let adopts = left && me.at() < VALIDATORS_MAX && turn < ADOPTERS;
            if mine || adopts {
                again.extend(lane.above_base().flat_map(|batch| batch.transactions()));
            }
        }
        again
    }
}
