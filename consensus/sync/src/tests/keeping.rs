//! What stays for others: snapshots, and history, on chains whose commits prove more or less.

use std::convert::Infallible;

use falconet_epochs::Chronicle;
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, Executed, Header, HeaderKind, SignedHeader};
use falconet_types::certificate::Qc;
use falconet_types::receipt::StateRoots;
use falconet_types::{BlockId, Digest, Epoch, Height, Round, Seq, ValidatorIndex};

use super::world::{qc_of, signed};
use crate::Archive;
use crate::keeping::{
    SNAPSHOTS_KEPT, SNAPSHOTS_MAX, forget_below, newest_proven, prune_below, stays,
};
use crate::serving::is_proven;

/// Heights between two checkpoints.
const STEP: u64 = 10;

/// A log of committed blocks from height 1 on, and a certified block above them.
struct Chain {
    headers: Vec<SignedHeader>,
    /// Heights below are deleted.
    first: u64,
}

impl Chain {
    /// Blocks up to `last`. Up to `pairs` each is in the round after its parent's; above, no two
    /// rounds in a row succeed, and commit votes commit. Each names the newest checkpoint that its
    /// ancestors commit in pairs and that lies three below it.
    fn new(last: u64, pairs: u64) -> Self {
        let mut headers: Vec<SignedHeader> = Vec::new();
        for height in 1..=last + 1 {
            let parent = headers.last();
            let parent_round = parent.map_or(Round::ZERO, |parent| parent.round);
            let skipped = u64::from(height > pairs);
            let named = (height.saturating_sub(3)).min(pairs) / STEP * STEP;
            headers.push(signed(Header {
                epoch: Epoch::ZERO,
                round: Round(parent_round.0 + 1 + skipped),
                kind: HeaderKind::Normal,
                parent_id: parent.map_or(Digest([2; 32]), SignedHeader::id),
                parent_round,
                height: Height(height),
                cut: Cut::empty(4),
                time_ms: height,
                executed: Executed {
                    height: Height(named),
                    root: Digest([8; 32]),
                },
                ended_by: Digest::ZERO,
                author: ValidatorIndex(0),
            }));
        }
        Self { headers, first: 1 }
    }

    fn last(&self) -> u64 {
        self.headers.len() as u64 - 1
    }

    /// Checkpoints, newest first.
    fn checkpoints(&self) -> impl Iterator<Item = Height> + use<> {
        (1..=self.last() / STEP).rev().map(|n| Height(n * STEP))
    }

    fn proven(&self) -> Option<Height> {
        match newest_proven(self.checkpoints(), |height| is_proven(self, *height)) {
            Ok(proven) => proven,
            Err(never) => match never {},
        }
    }
}

impl Chronicle for Chain {
    type Error = Infallible;

    fn header(&self, id: &BlockId) -> Result<Option<SignedHeader>, Infallible> {
        let found = self.headers.iter().find(|header| header.id() == *id);
        Ok(found.filter(|h| h.height.0 >= self.first).cloned())
    }
    fn header_at(&self, height: Height) -> Result<Option<SignedHeader>, Infallible> {
        let kept = (self.first..=self.last()).contains(&height.0);
        Ok(kept.then(|| self.headers[height.0 as usize - 1].clone()))
    }
    fn commit_proof(&self, height: Height) -> Result<Option<(SignedHeader, Qc)>, Infallible> {
        let kept = (self.first..=self.last()).contains(&height.0);
        let child = || self.headers[height.0 as usize].clone();
        Ok(kept.then(|| (child(), qc_of(&child()))))
    }
    fn batch(&self, _: &Digest) -> Result<Option<Batch>, Infallible> {
        Ok(None)
    }
    fn lane_above(&self, _: Epoch, _: ValidatorIndex, _: Seq) -> Result<Vec<Batch>, Infallible> {
        Ok(Vec::new())
    }
    fn roots_at(&self, _: Height) -> Result<Option<StateRoots>, Infallible> {
        Ok(None)
    }
    fn registry_root_at(&self, _: Height) -> Result<Option<Digest>, Infallible> {
        Ok(None)
    }
}

impl Archive for Chain {
    fn last_committed(&self) -> Option<Height> {
        Some(Height(self.last()))
    }
    fn has_batch_at(&self, _: Epoch, _: ValidatorIndex, _: Seq) -> Result<bool, Infallible> {
        Ok(true)
    }
}

#[test]
fn as_a_rule_the_newest_checkpoint_is_proven_after_a_few_blocks() {
    // Block 33 names the state of 30, 34 is certified in the round after its, and commits it.
    assert_eq!(Chain::new(33, 99).proven(), Some(Height(30)));
    assert_eq!(Chain::new(32, 99).proven(), Some(Height(20)));
    assert_eq!(Chain::new(12, 99).proven(), None);
}

#[test]
fn what_only_commit_votes_committed_proves_no_newer_snapshot_and_holds_history() {
    // From height 36 on no two rounds in a row succeed.
    for last in [40, 60, 100, 1_000] {
        let mut chain = Chain::new(last, 35);
        assert_eq!(chain.proven(), Some(Height(30)), "{last}");
        let wanted = Height(last - 20);
        let below = prune_below(wanted, chain.proven());
        assert_eq!(below, wanted.min(Height(30)));
        chain.first = below.0;
        assert_eq!(chain.proven(), Some(Height(30)), "what proves it stays");
        // Each newer one is unproven, and it stays beside the newest of them.
        let kept: Vec<_> = chain
            .checkpoints()
            .enumerate()
            .filter(|(newer, height)| stays(*height, *newer, Some(Height(30))))
            .map(|(_, height)| height)
            .collect();
        assert!(kept.contains(&Height(30)) && kept.len() <= SNAPSHOTS_MAX);
        assert_eq!(
            kept[..SNAPSHOTS_KEPT],
            chain.checkpoints().take(SNAPSHOTS_KEPT).collect::<Vec<_>>()
        );
    }
    // One deleted too early, and there is nothing to begin with.
    let mut chain = Chain::new(100, 35);
    chain.first = 31;
    assert_eq!(chain.proven(), None);
}

#[test]
fn without_a_proven_snapshot_nothing_goes() {
    assert_eq!(prune_below(Height(500), None), Height::ZERO);
    assert_eq!(prune_below(Height(500), Some(Height(400))), Height(400));
    assert_eq!(prune_below(Height(500), Some(Height(600))), Height(500));
    assert!(stays(Height(9), 0, None) && stays(Height(8), 1, None));
    assert!(!stays(Height(7), 2, None) && stays(Height(7), 2, Some(Height(7))));
}

#[test]
fn what_headers_may_still_name_is_not_forgotten() {
    // The last header names 30, though history wants to go up to 980.
    let chain = Chain::new(1_000, 35);
    assert_eq!(forget_below(&chain.headers[999], 20), Height(30));
    let chain = Chain::new(1_000, 9_999);
    assert_eq!(forget_below(&chain.headers[999], 20), Height(980));
    assert_eq!(forget_below(&chain.headers[9], 20), Height(0));
}
