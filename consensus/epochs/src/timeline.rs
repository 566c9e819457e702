//! The epochs that a node knows, from genesis to the current one, and beyond it as far as it was
//! shown proofs of epochs that it has not executed.

use std::sync::Arc;

use falconet_types::block::Header;
use falconet_types::epoch::{EpochInfo, EpochStart};
use falconet_types::genesis::Params;
use falconet_types::{Epoch, Height, PublicKey};

/// Epochs whose validators are kept in memory, the newest; of older ones only where they start.
pub const INFOS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// Where each epoch starts, from 0.
    starts: Vec<EpochStart>,
    /// The newest epochs that are known.
    infos: Vec<Arc<EpochInfo>>,
    /// The epoch that the node is in.
    current: Arc<EpochInfo>,
}

impl Timeline {
    /// Only epoch 0.
    #[must_use]
    pub fn new(genesis: EpochInfo) -> Self {
        assert_eq!(genesis.start.epoch, Epoch::ZERO, "time begins with genesis");
        let current = Arc::new(genesis);
        Self {
            starts: vec![current.start],
            infos: vec![Arc::clone(&current)],
            current,
        }
    }

    /// The epoch that the node is in.
    #[must_use]
    pub fn current(&self) -> &Arc<EpochInfo> {
        &self.current
    }

    /// The newest epoch that is known: the current one, or a later one.
    #[must_use]
    pub fn newest_known(&self) -> &Arc<EpochInfo> {
        self.infos.last().expect("epoch 0 is there")
    }

    /// The newest epoch that is known and has validators other than `me`: those who can be asked.
    /// Validators that leave serve until the epoch without them has committed.
    #[must_use]
    pub fn newest_with_others(&self, me: &PublicKey) -> &Arc<EpochInfo> {
        let others = |info: &&Arc<EpochInfo>| info.set.iter().any(|v| v.key != *me);
        let newest = self.infos.iter().rev().find(others);
        newest.unwrap_or_else(|| self.newest_known())
    }

    /// The newest epochs that are known, oldest first.
    #[must_use]
    pub fn newest(&self) -> &[Arc<EpochInfo>] {
        &self.infos
    }

    /// An epoch with its validators, if it is one of the newest.
    #[must_use]
    pub fn info(&self, epoch: Epoch) -> Option<&Arc<EpochInfo>> {
        let mut known = self.infos.iter().chain([&self.current]);
        known.find(|info| info.start.epoch == epoch)
    }

    /// The epoch in which a node is whose last committed block is at this height: the newest that
    /// starts there or below.
    #[must_use]
    pub fn epoch_at(&self, committed: Height) -> Epoch {
        let after = self
            .starts
            .partition_point(|start| start.height <= committed);
        Epoch(after as u64 - 1)
    }

    /// The node is in this epoch, which is known; later ones stay known.
    ///
    /// # Panics
    /// If it is not known.
    pub fn settle(&mut self, info: Arc<EpochInfo>) {
        let start = self.start(info.start.epoch);
        assert_eq!(start, Some(info.start), "a known epoch");
        self.current = info;
    }

    /// A later epoch has been proven: the next one after those that are known.
    ///
    /// # Panics
    /// If it is not the next one.
    pub fn learn(&mut self, info: EpochInfo) {
        assert_eq!(
            info.start.epoch.0,
            self.starts.len() as u64,
            "epochs follow one another"
        );
        self.starts.push(info.start);
        self.infos.push(Arc::new(info));
        if self.infos.len() > INFOS_MAX {
            self.infos.remove(0);
        }
    }

    /// Where an epoch starts.
    #[must_use]
    pub fn start(&self, epoch: Epoch) -> Option<EpochStart> {
        let at = usize::try_from(epoch.0).ok()?;
        self.starts.get(at).copied()
    }

    /// The next epoch begins. If it was known and starts elsewhere, more than a third of the weight
    /// of this epoch is faulty: what was executed here counts, and what was shown is forgotten.
    /// False then.
    ///
    /// # Panics
    /// If it is not the next one.
    pub fn push(&mut self, info: EpochInfo) -> bool {
        let epoch = info.start.epoch;
        assert_eq!(
            epoch,
            self.current.start.epoch.next(),
            "epochs follow one another"
        );
        let consistent = match self.start(epoch) {
            None => {
                self.learn(info.clone());
                true
            }
            Some(start) if start == info.start => true,
            Some(_) => {
                self.starts
                    .truncate(self.current.start.epoch.0 as usize + 1);
                self.infos.retain(|other| other.start.epoch < epoch);
                self.learn(info.clone());
                false
            }
        };
        self.current = Arc::new(info);
        consistent
    }

    /// True for the block at the last height of its epoch, from which the next set is computed.
    #[must_use]
    pub fn ends_epoch(&self, params: &Params, header: &Header) -> bool {
        self.end_of(params, header) == Some(header.height)
    }

    /// True for that block and all above it in the same epoch.
    #[must_use]
    pub fn is_past_end(&self, params: &Params, header: &Header) -> bool {
        self.end_of(params, header)
            .is_some_and(|end| header.height >= end)
    }

    /// True if `header` names a state that no block of its epoch may follow: the first such block
    /// is the epoch's last one.
    #[must_use]
    pub fn is_over(&self, params: &Params, header: &Header) -> bool {
        let start = self.start(header.epoch);
        start.is_some_and(|start| start.is_over(params, header))
    }

    fn end_of(&self, params: &Params, header: &Header) -> Option<Height> {
        self.start(header.epoch)?.end(params)
    }
}

#[cfg(test)]
mod tests {
    use falconet_types::Digest;

    use super::*;
    use crate::fixtures::{self, key};

    fn genesis() -> EpochInfo {
        genesis_of(&[1])
    }

    fn genesis_of(validators: &[u8]) -> EpochInfo {
        EpochInfo::genesis(&fixtures::genesis(validators)).unwrap()
    }

    /// The epoch after `info`, ten heights later.
    fn after(info: &EpochInfo, id: u8) -> EpochInfo {
        let mut next = info.clone();
        next.start.epoch = info.start.epoch.next();
        next.start.height.0 += 10;
        next.start.id = Digest([id; 32]);
        next
    }

    #[test]
    fn a_node_is_in_the_epoch_of_its_last_committed_block_whatever_it_was_shown() {
        let first = genesis();
        let mut timeline = Timeline::new(first.clone());
        let second = after(&first, 2);
        let third = after(&second, 3);
        timeline.learn(second.clone());
        timeline.learn(third.clone());
        assert_eq!(timeline.current().start.epoch, Epoch(0));
        assert_eq!(timeline.newest_known().start.epoch, Epoch(2));
        for (height, epoch) in [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (500, 2)] {
            assert_eq!(timeline.epoch_at(Height(height)), Epoch(epoch), "{height}");
        }
        assert!(timeline.push(second), "as it was shown");
        assert_eq!(timeline.current().start.epoch, Epoch(1));
        assert_eq!(timeline.newest_known().start.epoch, Epoch(2), "still known");
        timeline.settle(Arc::new(first));
        assert_eq!(timeline.current().start.epoch, Epoch(0));
    }

    #[test]
    fn whoever_is_alone_in_the_newest_epoch_asks_those_of_the_epoch_before() {
        let first = genesis_of(&[1, 2]);
        let mut timeline = Timeline::new(first.clone());
        let alone = EpochInfo {
            set: genesis_of(&[1]).set,
            ..after(&first, 2)
        };
        timeline.learn(alone);
        let asked = |seed| timeline.newest_with_others(key(seed).public()).start.epoch;
        assert_eq!((asked(1), asked(2)), (Epoch(0), Epoch(1)));
        let only = Timeline::new(genesis());
        assert_eq!(
            only.newest_with_others(key(1).public()).start.epoch,
            Epoch(0)
        );
    }

    #[test]
    fn what_was_executed_counts_more_than_what_was_shown() {
        let first = genesis();
        let mut timeline = Timeline::new(first.clone());
        let shown = after(&first, 2);
        timeline.learn(shown.clone());
        timeline.learn(after(&shown, 3));
        assert!(!timeline.push(after(&first, 4)));
        assert_eq!(timeline.newest_known().start.id, Digest([4; 32]));
        assert_eq!(timeline.start(Epoch(2)), None);
    }

    #[test]
    fn the_current_epoch_is_remembered_however_far_ahead_others_are() {
        let first = genesis();
        let mut timeline = Timeline::new(first.clone());
        let mut info = first;
        for _ in 0..2 * INFOS_MAX {
            info = after(&info, 7);
            timeline.learn(info.clone());
        }
        assert_eq!(timeline.newest().len(), INFOS_MAX);
        assert!(timeline.info(Epoch(0)).is_some());
        assert!(timeline.info(Epoch(1)).is_none());
        assert_eq!(timeline.start(Epoch(1)).unwrap().height, Height(10));
    }
}
