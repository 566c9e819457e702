//! The epochs that a node knows, from genesis to the current one.

use std::sync::Arc;

use falconet_types::block::Header;
use falconet_types::epoch::{EpochInfo, EpochStart};
use falconet_types::genesis::Params;
use falconet_types::{Epoch, Height};

/// Epochs whose validators are kept in memory, the newest; of older ones only where they start.
pub const INFOS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// Where each epoch starts, from 0.
    starts: Vec<EpochStart>,
    /// The newest epochs; the last is the current one.
    infos: Vec<Arc<EpochInfo>>,
}

impl Timeline {
    /// Only epoch 0.
    #[must_use]
    pub fn new(genesis: EpochInfo) -> Self {
        assert_eq!(genesis.start.epoch, Epoch::ZERO, "time begins with genesis");
        Self {
            starts: vec![genesis.start],
            infos: vec![Arc::new(genesis)],
        }
    }

    /// The epoch that the node is in.
    #[must_use]
    pub fn current(&self) -> &Arc<EpochInfo> {
        self.infos.last().expect("epoch 0 is there")
    }

    /// The newest epochs, oldest first.
    #[must_use]
    pub fn newest(&self) -> &[Arc<EpochInfo>] {
        &self.infos
    }

    /// An epoch with its validators, if it is one of the newest.
    #[must_use]
    pub fn info(&self, epoch: Epoch) -> Option<&Arc<EpochInfo>> {
        self.infos.iter().find(|info| info.start.epoch == epoch)
    }

    /// Where an epoch starts.
    #[must_use]
    pub fn start(&self, epoch: Epoch) -> Option<EpochStart> {
        let at = usize::try_from(epoch.0).ok()?;
        self.starts.get(at).copied()
    }

    /// The next epoch begins.
    ///
    /// # Panics
    /// If it is not the next one.
    pub fn push(&mut self, info: EpochInfo) {
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
