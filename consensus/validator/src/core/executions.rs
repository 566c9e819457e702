//! State commitments, by which headers are judged and made (rules H4, V1).

use std::collections::BTreeMap;

use falconet_types::block;
use falconet_types::genesis::Params;
use falconet_types::{Digest, Height};

/// Commitments of the last executed blocks that are remembered.
pub const COMMITMENTS_MAX: usize = 4096;
/// Commitments of checkpoints before those that are remembered. While only commit votes commit, the
/// state that headers name stands still; then it goes on from there, one checkpoint a header, however
/// far execution is by then.
pub const CHECKPOINTS_MAX: usize = 4096;

/// The state commitments of executed blocks, as far back as headers may name them.
pub struct Executions {
    by_height: BTreeMap<Height, Digest>,
    /// Checkpoints below those.
    checkpoints: BTreeMap<Height, Digest>,
    genesis: Digest,
    params: Params,
}

impl Executions {
    /// What is known at start: genesis, the block that execution stands at, and those before it that
    /// headers may name which are still to be judged or proposed: the state that the last committed
    /// header names, and above.
    #[must_use]
    pub fn new(
        (params, genesis): (Params, Digest),
        recent: impl IntoIterator<Item = (Height, Digest)>,
        height: Height,
        commitment: Digest,
    ) -> Self {
        let mut executions = Self {
            by_height: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            genesis,
            params,
        };
        for (height, commitment) in recent {
            executions.add(height, commitment);
        }
        executions.add(height, commitment);
        executions
    }

    /// Blocks before `executed` whose commitments are worth remembering, where the block at
    /// `executed` names the state of `named`.
    pub fn worth(params: &Params, named: Height, executed: Height) -> impl Iterator<Item = Height> {
        let recent = executed.0.saturating_sub(COMMITMENTS_MAX as u64 - 1);
        let heights = (named.0..executed.0).map(Height);
        heights.filter(move |height| height.0 >= recent || params.is_checkpoint(*height))
    }

    /// A block was executed.
    pub fn add(&mut self, height: Height, commitment: Digest) {
        self.by_height.insert(height, commitment);
        if self.by_height.len() > COMMITMENTS_MAX {
            let oldest = self.by_height.pop_first();
            self.checkpoints
                .extend(oldest.filter(|(height, _)| self.params.is_checkpoint(*height)));
        }
        if self.checkpoints.len() > CHECKPOINTS_MAX {
            self.checkpoints.pop_first();
        }
    }

    /// The last executed block.
    ///
    /// # Panics
    /// Never: there is one from the start.
    #[must_use]
    pub fn last(&self) -> block::Executed {
        let last = self.by_height.last_key_value();
        let (height, root) = last.expect("there is always the last executed block");
        block::Executed {
            height: *height,
            root: *root,
        }
    }

    /// The commitment after the block at a height.
    #[must_use]
    pub fn at(&self, height: Height) -> Option<Digest> {
        if height == Height::ZERO {
            return Some(self.genesis);
        }
        let recent = self.by_height.get(&height);
        recent.or_else(|| self.checkpoints.get(&height)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(height: u64) -> Digest {
        falconet_crypto::hash::hash("test", &[&height.to_le_bytes()])
    }

    #[test]
    fn checkpoints_are_remembered_however_long_nothing_new_is_named() {
        let params = Params::default();
        let step = params.checkpoint_above(Height::ZERO).0;
        let last = 5 * COMMITMENTS_MAX as u64;
        let mut executions = Executions::new((params.clone(), root(0)), [], Height(1), root(1));
        for height in 2..=last {
            executions.add(Height(height), root(height));
        }
        let checks = |executions: &Executions| {
            assert_eq!(executions.last().height, Height(last));
            assert_eq!(executions.at(Height::ZERO), Some(root(0)));
            for checkpoint in (step..=last).step_by(step as usize) {
                assert_eq!(executions.at(Height(checkpoint)), Some(root(checkpoint)));
            }
            let recent = last - COMMITMENTS_MAX as u64 + 1;
            assert_eq!(executions.at(Height(recent)), Some(root(recent)));
            assert_eq!(executions.at(Height(step + 1)), None);
        };
        checks(&executions);
        // A start remembers the same.
        let worth = Executions::worth(&params, Height(2), Height(last));
        let worth = worth.map(|height| (height, root(height.0)));
        let again = Executions::new((params.clone(), root(0)), worth, Height(last), root(last));
        checks(&again);
    }
}
