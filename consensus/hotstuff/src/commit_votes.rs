//! Commit votes (rules C4 to C6): whoever holds the QC of a block and has not given up the block's
//! round says so; a quorum of that commits the block one message delay before a child's QC could.
//!
//! A quorum of commit votes stays where it formed. What proves a commit to others is still two
//! certified blocks of consecutive rounds (rule C2), which the next blocks bring; so proofs,
//! snapshots and the change of epochs know one kind of commit only. That is also why an epoch's
//! last block waits for C2: nobody would be left to certify its child.
//!
//! Bounds: one commit vote a validator and round inside the window of rounds that the core keeps.

use std::collections::BTreeMap;
use std::sync::Arc;

use falconet_types::certificate::Timeout;
use falconet_types::commit_vote::CommitVote;
use falconet_types::message::{CertRef, PeerMessage};
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, Round, ValidatorIndex};

use crate::api::{CommitProof, Effect, Evidence};
use crate::core::HotStuff;
use crate::tally::Added;

#[derive(Debug, Clone)]
struct Slot {
    vote: CommitVote,
    conflict_reported: bool,
}

/// Commit votes by round and voter, and the highest block that a quorum of them commits.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommitVotes {
    rounds: BTreeMap<Round, BTreeMap<ValidatorIndex, Slot>>,
    certified: Option<(Round, BlockId)>,
}

impl CommitVotes {
    fn add(&mut self, vote: CommitVote) -> Added<CommitVote> {
        let round = self.rounds.entry(vote.round).or_default();
        match round.get_mut(&vote.voter) {
            None => {
                let voter = vote.voter;
                let slot = Slot {
                    vote,
                    conflict_reported: false,
                };
                round.insert(voter, slot);
                Added::New
            }
            Some(slot) if slot.vote.block_id == vote.block_id || slot.conflict_reported => {
                Added::Known
            }
            Some(slot) => {
                slot.conflict_reported = true;
                Added::Conflict(slot.vote.clone())
            }
        }
    }

    /// True when the votes for this block are a quorum, and the block is above all others of which
    /// that was true.
    fn certify(&mut self, round: Round, block_id: BlockId, set: &ValidatorSet) -> bool {
        let slots = self.rounds.get(&round).into_iter().flatten();
        let same = slots.filter(|(_, slot)| slot.vote.block_id == block_id);
        let weight = set.weight_of(same.map(|(voter, _)| *voter));
        let news = weight >= set.quorum_weight()
            && self.certified.is_none_or(|(highest, _)| highest < round);
        if news {
            self.certified = Some((round, block_id));
        }
        news
    }

    /// A commit vote that the timeout contradicts (rule E6).
    pub(crate) fn violated_by(&self, timeout: &Timeout) -> Option<CommitVote> {
        let voted = self.rounds.range(..=timeout.round).rev();
        let mut voted = voted.filter_map(|(_, round)| round.get(&timeout.author));
        let violated = voted.find(|slot| timeout.hqc_round < slot.vote.round);
        violated.map(|slot| slot.vote.clone())
    }

    pub(crate) fn prune_below(&mut self, round: Round) {
        self.rounds = self.rounds.split_off(&round);
    }

    #[cfg(feature = "misbehave")]
    pub(crate) fn all(&self) -> impl Iterator<Item = &CommitVote> {
        let rounds = self.rounds.values();
        rounds.flat_map(|round| round.values().map(|slot| &slot.vote))
    }
}

impl HotStuff {
    /// Rule C4: votes to commit the block of the highest QC.
    pub(crate) fn try_commit_vote(&mut self, out: &mut Vec<Effect>) -> bool {
        if !self.config.params.commit_votes || !self.signs() {
            return false;
        }
        let qc = self.certificates.high_qc().clone();
        if !self.rules.may_commit_vote(qc.round) {
            return false;
        }
        let vote = self.rules.commit_vote(&qc);
        self.counters.commit_votes_signed += 1;
        out.push(Effect::Broadcast(PeerMessage::CommitVote(vote.clone())));
        self.count_commit_vote(vote, out);
        true
    }

    /// Somebody votes to commit.
    pub(crate) fn on_commit_vote(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        vote: CommitVote,
        out: &mut Vec<Effect>,
    ) {
        if vote.epoch != self.epoch() {
            return self.on_other_epoch(now, from, vote.epoch, out);
        }
        if !self.config.params.commit_votes {
            self.counters.dropped_by_limit += 1;
            return;
        }
        self.hear(now, vote.voter, vote.round);
        if vote.voter == self.config.me {
            let own = self.rules.record().last_commit_vote.as_ref();
            let known = own.map_or(Round::ZERO, |own| own.round);
            let other = own.is_some_and(|own| own.block_id != vote.block_id);
            if vote.round > known || (vote.round == known && other) {
                self.stop_foreign(vote.round, out);
            }
        }
        if vote.round < self.window_start() {
            self.answer_laggard(now, from, out);
            return;
        }
        if vote.round > self.window_end() {
            self.counters.dropped_by_limit += 1;
            return;
        }
        // Whoever votes to commit a block can deliver its QC (S6); votes usually bring it first.
        if vote.round > self.certificates.high_qc().round {
            let cert = CertRef::Qc {
                epoch: vote.epoch,
                round: vote.round,
                block_id: vote.block_id,
            };
            self.want(now.mono_us + self.times.grace_us(), cert, from, false);
        }
        self.count_commit_vote(vote, out);
    }

    pub(crate) fn count_commit_vote(&mut self, vote: CommitVote, out: &mut Vec<Effect>) {
        match self.commit_votes.add(vote.clone()) {
            Added::Known => return,
            Added::Conflict(first) => {
                return self.report(Evidence::CommitVotes(first, vote), out);
            }
            Added::New => {}
        }
        if let Some(timeout) = self.timeouts.of(vote.voter).cloned() {
            self.look_for_violation(&timeout, out);
        }
        let (round, id) = (vote.round, vote.block_id);
        if self.commit_votes.certify(round, id, &self.config.set) {
            self.commit_may_advance = true;
        }
    }

    /// Rule C5: commits the block that a quorum voted to commit, and its ancestors, but not the
    /// epoch's last block (C6). Waits until the block is connected.
    pub(crate) fn try_commit_by_votes(&mut self, out: &mut Vec<Effect>) -> bool {
        let Some((_, id)) = self.commit_votes.certified else {
            return false;
        };
        if self.ended.is_some() || self.tree.get(&id).is_none() {
            return false;
        }
        let mut path = self.tree.path(&id);
        let last = path.iter().position(|header| self.ends_epoch(header));
        // The last block waits for two leaders in a row, so timers must grow until there are (P7).
        let failed = last.map_or(0, |_| self.pace.failed_rounds);
        path.truncate(last.unwrap_or(path.len()));
        let Some(top) = path.last().map(|header| header.id()) else {
            return false;
        };
        let tip = self.certificates.qcs_from_high().find_map(|qc| {
            let tip = self.tree.get(&qc.block_id)?;
            let above = self.tree.path(&qc.block_id);
            let covers = above.iter().any(|header| header.id() == id);
            covers.then(|| CommitProof {
                child: Arc::clone(tip),
                qc: qc.clone(),
            })
        });
        // Its certificate may have been dropped after long without commits (B1): then C2 commits.
        let Some(tip) = tip else { return false };
        self.counters.commits_by_votes += path.len() as u64;
        self.commit(&top, tip, out);
        self.pace.failed_rounds = failed;
        true
    }
}
