//! Votes and timeouts on their way to becoming certificates, and the evidence that they contain.
//!
//! Bounds: one vote a validator and round inside the window of rounds that the core keeps; one
//! timeout a validator, the highest.

use std::collections::BTreeMap;

use falconet_types::certificate::{Qc, Tc, TcEntry, Timeout, Vote};
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, Round, ValidatorIndex};

use crate::certificates::Certificates;
use crate::misbehaviour::{Misbehaving, Misbehaviour};

/// What came of adding a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added<T> {
    New,
    Known,
    /// The author said something else for the same round; reported once.
    Conflict(T),
}

#[derive(Debug, Clone)]
struct Slot {
    vote: Vote,
    conflict_reported: bool,
    /// Times it arrived. Counts for nothing.
    copies: u64,
}

/// Votes by round and voter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Votes {
    rounds: BTreeMap<Round, BTreeMap<ValidatorIndex, Slot>>,
    pub(crate) misbehaving: Misbehaving,
    /// Weight of a quorum in the epoch before. Counts for nothing.
    quorum_before: Option<u64>,
}

impl Votes {
    /// No votes yet, in the epoch after that of `set`.
    pub(crate) fn after(&self, set: &ValidatorSet) -> Self {
        Self {
            misbehaving: self.misbehaving,
            quorum_before: Some(set.quorum_weight()),
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, vote: Vote) -> Added<Vote> {
        let round = self.rounds.entry(vote.round).or_default();
        match round.get_mut(&vote.voter) {
            None => {
                round.insert(
                    vote.voter,
                    Slot {
                        vote,
                        conflict_reported: false,
                        copies: 1,
                    },
                );
                Added::New
            }
            Some(slot)
                if slot.vote.block_id == vote.block_id
                    && slot.vote.parent_round == vote.parent_round =>
            {
                slot.copies += 1;
                Added::Known
            }
            Some(slot) if slot.conflict_reported => Added::Known,
            Some(slot) => {
                slot.conflict_reported = true;
                Added::Conflict(slot.vote.clone())
            }
        }
    }

    /// The QC that the votes equal to `vote` make, if their weight is a quorum.
    pub(crate) fn qc(&self, vote: &Vote, set: &ValidatorSet) -> Option<Qc> {
        let slots = self.rounds.get(&vote.round)?.values();
        let same: Vec<&Vote> = slots
            .filter(|slot| {
                slot.vote.block_id == vote.block_id && slot.vote.parent_round == vote.parent_round
            })
            .flat_map(|slot| {
                let again = self.misbehaving.by(Misbehaviour::DuplicateSigner);
                let copies = if again { slot.copies } else { 1 };
                (0..copies).map(move |_| &slot.vote)
            })
            .collect();
        let (have, need) = if self.misbehaving.by(Misbehaviour::QuorumByHeads) {
            (same.len() as u64, set.len() as u64 * 2 / 3 + 1)
        } else {
            let before = self.misbehaving.by(Misbehaviour::QuorumOfLastEpoch);
            let before = self.quorum_before.filter(|_| before);
            (
                set.weight_of(same.iter().map(|v| v.voter)),
                before.unwrap_or(set.quorum_weight()),
            )
        };
        if have < need {
            return None;
        }
        Some(Qc {
            epoch: vote.epoch,
            round: vote.round,
            block_id: vote.block_id,
            parent_round: vote.parent_round,
            votes: same
                .into_iter()
                .map(|v| (v.voter, v.signature.clone()))
                .collect(),
        })
    }

    /// The votes of one validator.
    pub(crate) fn of(&self, voter: ValidatorIndex) -> impl Iterator<Item = &Vote> {
        self.rounds
            .values()
            .filter_map(move |round| round.get(&voter).map(|slot| &slot.vote))
    }

    /// Who voted for a block of a round.
    pub(crate) fn voters(
        &self,
        round: Round,
        id: &BlockId,
    ) -> impl Iterator<Item = ValidatorIndex> {
        let votes = self
            .in_round(round)
            .filter(move |vote| vote.block_id == *id);
        votes.map(|vote| vote.voter)
    }

    /// The votes of a round.
    pub(crate) fn in_round(&self, round: Round) -> impl Iterator<Item = &Vote> {
        let slots = self.rounds.get(&round).into_iter().flatten();
        slots.map(|(_, slot)| &slot.vote)
    }

    pub(crate) fn prune_below(&mut self, round: Round) {
        self.rounds = self.rounds.split_off(&round);
    }

    #[cfg(feature = "misbehave")]
    pub(crate) fn all(&self) -> impl Iterator<Item = &Vote> {
        let rounds = self.rounds.values();
        rounds.flat_map(|round| round.values().map(|slot| &slot.vote))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.rounds.values().map(BTreeMap::len).sum()
    }
}

/// The highest timeout of each validator.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timeouts {
    highest: BTreeMap<ValidatorIndex, Timeout>,
    /// The highest round in which each validator's lock violation was reported.
    violations: BTreeMap<ValidatorIndex, Round>,
    /// The highest round in which two timeouts of each validator were reported.
    conflicts: BTreeMap<ValidatorIndex, Round>,
}

impl Timeouts {
    pub(crate) fn add(&mut self, timeout: Timeout) -> Added<Timeout> {
        match self.highest.get(&timeout.author) {
            Some(held) if held.round > timeout.round => Added::Known,
            Some(held) if held.round == timeout.round => {
                let same = (held.hqc_round, held.hqc_id) == (timeout.hqc_round, timeout.hqc_id);
                // Reported once: a liar could repeat it for ever.
                let again = !same
                    && self.conflicts.insert(timeout.author, timeout.round) == Some(timeout.round);
                if same || again {
                    Added::Known
                } else {
                    Added::Conflict(held.clone())
                }
            }
            _ => {
                self.highest.insert(timeout.author, timeout);
                Added::New
            }
        }
    }

    /// Whether no lock violation of this or a later round was reported for the author; then this
    /// one is, and counts as reported.
    pub(crate) fn is_first_violation(&mut self, timeout: &Timeout) -> bool {
        let reported = self.violations.get(&timeout.author);
        if reported.is_some_and(|round| *round >= timeout.round) {
            return false;
        }
        self.violations.insert(timeout.author, timeout.round);
        true
    }

    pub(crate) fn of(&self, author: ValidatorIndex) -> Option<&Timeout> {
        self.highest.get(&author)
    }

    /// Weight of the validators that gave up `round` or a later one.
    pub(crate) fn weight_from(&self, round: Round, set: &ValidatorSet) -> u64 {
        set.weight_of(
            self.highest
                .values()
                .filter(|t| t.round >= round)
                .map(|t| t.author),
        )
    }

    /// The highest TC at or above `from` that the timeouts make. A timeout counts once this node
    /// holds the QC that it names (rule P4), so the highest of those QCs is at hand.
    pub(crate) fn tc(
        &self,
        from: Round,
        certificates: &Certificates,
        set: &ValidatorSet,
    ) -> Option<Tc> {
        let mut rounds: BTreeMap<Round, Vec<&Timeout>> = BTreeMap::new();
        for timeout in self.highest.values().filter(|t| t.round >= from) {
            let held = certificates.qc(timeout.hqc_round, &timeout.hqc_id);
            if held.is_some() {
                rounds.entry(timeout.round).or_default().push(timeout);
            }
        }
        let (round, counted) = rounds.into_iter().rev().find(|(_, counted)| {
            set.weight_of(counted.iter().map(|t| t.author)) >= set.quorum_weight()
        })?;
        let max = counted
            .iter()
            .max_by_key(|t| t.hqc_round)
            .expect("a quorum has members");
        let max_qc = certificates
            .qc(max.hqc_round, &max.hqc_id)
            .expect("checked above");
        Some(Tc {
            epoch: max.epoch,
            round,
            max_qc: Qc::clone(max_qc),
            entries: counted
                .iter()
                .map(|t| TcEntry {
                    author: t.author,
                    hqc_round: t.hqc_round,
                    hqc_id: t.hqc_id,
                    signature: t.signature.clone(),
                })
                .collect(),
        })
    }

    /// Forgets timeouts of rounds that are over.
    pub(crate) fn prune_below(&mut self, round: Round) {
        self.highest.retain(|_, timeout| timeout.round >= round);
    }
}

/// A lock violation among one validator's votes and its timeout (rule E3): having voted for a
/// child of a QC of round p, it must not name a QC below p when it gives up that or a later round.
pub(crate) fn lock_violation(votes: &Votes, timeout: &Timeout) -> Option<Vote> {
    votes
        .of(timeout.author)
        .find(|vote| vote.round <= timeout.round && timeout.hqc_round < vote.parent_round)
        .cloned()
}
