//! What peers hold, as far as their watermarks tell (rules D2 to D4 of `docs/protocol.md`).
//!
//! **What a watermark proves.** An honest peer acknowledges (seq, hash) only when it holds
//! durably every batch of the lane from its executed base up to that batch, each named by the
//! next one's `prev_hash`. A hash pins its whole prefix. So from a peer at (s', h'):
//!
//! * it holds exactly (s', h'): always counted;
//! * it holds our batch at s < s': counted only when our own chain reaches s' and has the hash h'
//!   there (*matched*). At another hash the peer may be on another branch; while our chain is
//!   shorter we cannot know.
//!
//! Nothing is ever taken back: an honest peer keeps superseded branches, so an older, matched
//! statement stays true. A Byzantine peer may say anything and is worth its own weight only.
//!
//! A peer that is always one batch ahead of us would never match if only its last word were
//! kept, so a few unmatched tips are remembered, the oldest among them: our chain reaches that
//! one soon.

use falconet_types::Seq;
use falconet_types::ValidatorIndex;
use falconet_types::block::LaneTip;
use falconet_types::validators::ValidatorSet;

use crate::lane::Lane;
use crate::limits::WATERMARKS_AHEAD_MAX;

/// Effect of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observed {
    /// New, and our chain has that batch: a quorum may have grown.
    Confirmed,
    /// New, and our chain does not have that batch (yet).
    Unmatched,
    /// Known already.
    Same,
    /// Lower than what the same peer said before: ignored.
    Regressed,
}

#[derive(Clone, Default)]
struct Row {
    /// The last and highest statement.
    latest: LaneTip,
    /// The highest statement that our chain confirms.
    matched: LaneTip,
    /// Unmatched statements in ascending order of their sequence numbers.
    ahead: Vec<LaneTip>,
}

/// One row for each peer and lane.
pub(crate) struct Watermarks {
    lanes: usize,
    rows: Vec<Row>,
}

impl Watermarks {
    pub(crate) fn new(validators: usize) -> Self {
        Self {
            lanes: validators,
            rows: vec![Row::default(); validators * validators],
        }
    }

    /// `peer` says that it holds `tip` in `lane` (number `index`).
    pub(crate) fn observe(
        &mut self,
        peer: ValidatorIndex,
        index: ValidatorIndex,
        tip: LaneTip,
        lane: &Lane,
    ) -> Observed {
        let row = &mut self.rows[peer.at() * self.lanes + index.at()];
        if tip == row.latest {
            return Observed::Same;
        }
        if tip.seq < row.latest.seq {
            return Observed::Regressed;
        }
        row.latest = tip;
        if lane.holds(tip) {
            row.confirm(tip);
            return Observed::Confirmed;
        }
        if tip.seq > lane.base().seq {
            row.remember(tip, lane.tip().seq);
        }
        Observed::Unmatched
    }

    /// The chain of lane `index` grew to `tip`.
    pub(crate) fn grown(&mut self, index: ValidatorIndex, tip: LaneTip) {
        for peer in 0..self.lanes {
            let row = &mut self.rows[peer * self.lanes + index.at()];
            if row.ahead.contains(&tip) {
                row.confirm(tip);
            }
        }
    }

    /// The chain of lane `index` was re-routed: every statement is judged again.
    pub(crate) fn rerouted(&mut self, index: ValidatorIndex, lane: &Lane) {
        for peer in 0..self.lanes {
            let row = &mut self.rows[peer * self.lanes + index.at()];
            let mut tips = std::mem::take(&mut row.ahead);
            tips.extend([row.matched, row.latest]);
            tips.sort_by_key(|tip| (tip.seq, tip.hash));
            tips.dedup();
            row.matched = LaneTip::default();
            for tip in tips.into_iter().filter(|tip| tip.seq > Seq::ZERO) {
                if lane.holds(tip) {
                    row.confirm(tip);
                } else if tip.seq > lane.base().seq {
                    row.remember(tip, lane.tip().seq);
                }
            }
        }
    }

    /// Highest sequence number that `peer` ever named in lane `index`.
    pub(crate) fn latest(&self, peer: ValidatorIndex, index: ValidatorIndex) -> Seq {
        self.rows[peer.at() * self.lanes + index.at()].latest.seq
    }

    /// Highest sequence number of this node's chain that `peer` is known to hold.
    pub(crate) fn matched(&self, peer: ValidatorIndex, index: ValidatorIndex) -> Seq {
        self.rows[peer.at() * self.lanes + index.at()].matched.seq
    }

    /// True when `peer` is known to hold exactly `tip`.
    pub(crate) fn covers(
        &self,
        peer: ValidatorIndex,
        index: ValidatorIndex,
        tip: LaneTip,
        lane: &Lane,
    ) -> bool {
        let row = &self.rows[peer.at() * self.lanes + index.at()];
        row.latest == tip
            || row.matched == tip
            || row.ahead.contains(&tip)
            || (row.matched.seq >= tip.seq && lane.holds(tip))
    }

    /// Highest sequence number on our chain that validators of weight `need` hold, this node
    /// (`me`) included; zero when there is none.
    pub(crate) fn quorum(
        &self,
        index: ValidatorIndex,
        lane: &Lane,
        me: ValidatorIndex,
        set: &ValidatorSet,
        need: u64,
    ) -> Seq {
        let seq_of = |peer: ValidatorIndex| {
            if peer == me {
                lane.tip().seq
            } else {
                self.matched(peer, index)
            }
        };
        reached(set, need, seq_of)
    }

    /// Highest sequence number in lane `index` that peers of weight `need` claim to hold at least,
    /// on whatever branch.
    pub(crate) fn claimed(
        &self,
        index: ValidatorIndex,
        me: ValidatorIndex,
        set: &ValidatorSet,
        need: u64,
    ) -> Seq {
        let seq_of = |peer: ValidatorIndex| {
            if peer == me {
                Seq::ZERO
            } else {
                self.latest(peer, index)
            }
        };
        reached(set, need, seq_of)
    }
}

/// Highest value that validators of weight `need` have or exceed.
fn reached(set: &ValidatorSet, need: u64, seq_of: impl Fn(ValidatorIndex) -> Seq) -> Seq {
    let mut seqs: Vec<(Seq, u64)> = set.iter().map(|v| (seq_of(v.index), v.weight)).collect();
    seqs.sort_unstable_by(|a, b| b.cmp(a));
    let mut weight = 0;
    for (seq, add) in seqs {
        weight += add;
        if weight >= need {
            return seq;
        }
    }
    Seq::ZERO
}

impl Row {
    /// Our chain has `tip`.
    fn confirm(&mut self, tip: LaneTip) {
        if tip.seq > self.matched.seq {
            self.matched = tip;
        }
        self.ahead.retain(|other| other.seq > tip.seq);
    }

    /// Our chain, whose tip is at `chain_seq`, does not have `tip`.
    fn remember(&mut self, tip: LaneTip, chain_seq: Seq) {
        if self.ahead.contains(&tip) {
            return;
        }
        if self.ahead.len() == WATERMARKS_AHEAD_MAX {
            // One on another branch goes first, otherwise the second: the oldest is the one that
            // our chain will reach first.
            let other_branch = self.ahead.iter().position(|old| old.seq <= chain_seq);
            self.ahead.remove(other_branch.unwrap_or(1));
        }
        self.ahead.push(tip);
    }
}
