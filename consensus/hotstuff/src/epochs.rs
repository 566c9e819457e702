//! From one epoch to the next (rules N1 to N8 of `docs/protocol.md`).
//!
//! ```text
//!   votes above E: the cut stays ──▶ F committed ──▶ EpochEnded ─ ─ ▶ start_epoch
//!                                    nothing above    F executed:     new set, round 1,
//!                                    commits          set known       new safety record
//! ```
//!
//! The core of an epoch keeps nothing for the next one but counters and the proof that the epoch is
//! over. Whoever is still in it is shown that proof.

use std::sync::Arc;

use falconet_types::block::SignedHeader;
use falconet_types::certificate::Qc;
use falconet_types::epoch::EpochProof;
use falconet_types::ids::FOLLOWERS_MAX;
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::validators::{VALIDATORS_MAX, ValidatorSet};
use falconet_types::{Epoch, Round, ValidatorIndex};

use crate::api::{Effect, NextEpoch};
use crate::certificates::Certificates;
use crate::commit_votes::CommitVotes;
use crate::core::{HotStuff, Pace};
use crate::leading::NOTHING_ANNOUNCED;
use crate::limits::END_FAILURES_MAX;
use crate::misbehaviour::Misbehaviour;
use crate::pulls::Pulls;
use crate::reputation::Reputation;
use crate::serving::Peer;
use crate::tally::Timeouts;
use crate::tree::{Parent, Tree};

impl HotStuff {
    /// Starts the next epoch, once the last block of the current one is executed
    /// ([`Effect::EpochEnded`]). False, and without effect, for the current epoch or an earlier
    /// one: a notice that comes late puts no node back (rule N7). The shell says who is connected
    /// anew, with [`crate::Input::PeerUp`] and the indices of the new epoch.
    ///
    /// # Panics
    /// If the epoch is not the next one, or does not start from the last block.
    pub fn start_epoch(&mut self, now: Now, next: NextEpoch, out: &mut Vec<Effect>) -> bool {
        if next.set.epoch() <= self.epoch() {
            return false;
        }
        let last = self.ended.take().expect("the epoch before is over");
        assert_eq!(next.set.epoch(), self.epoch().next(), "one epoch at a time");
        assert_eq!(next.start.epoch, next.set.epoch(), "start and set are one");
        assert_eq!(next.start.id, next.set.genesis(), "start and set are one");
        assert_eq!(next.start.height, last.height, "epochs leave no gap");
        let NextEpoch {
            set,
            me,
            start,
            proof,
        } = next;
        let stays = self.rules.misbehaving.by(Misbehaviour::SeatOfLastEpoch);
        let me = match set.get(me) {
            None if stays => self.config.me,
            _ => me,
        };
        let genesis = Qc::genesis(set.epoch(), set.genesis());
        self.rules.start_epoch(me, genesis.clone());
        if !self.silent_for_good {
            self.not_signing =
                not_a_member(&set, me).or_else(|| forfeits(self.forfeited, set.epoch()));
        }
        if forfeits(self.forfeited, set.epoch()).is_some() {
            // The mark in the place of the record stays (rule Z8).
            self.rules.forget_change();
        }
        self.tree = Tree::new(Parent::start(&start, set.len()), None);
        self.reputation = Reputation::fresh();
        self.certificates = Certificates::new(genesis);
        self.votes = self.votes.after(&self.config.set);
        self.commit_votes = CommitVotes::default();
        self.timeouts = Timeouts::default();
        self.slots.clear();
        self.shelf.clear();
        self.pulls = Pulls::default();
        self.walk = None;
        self.overlooked = None;
        self.dead_target = None;
        self.end_shown = None;
        self.commit_may_advance = false;
        self.peers = no_peers();
        self.punished.clear();
        self.announced = NOTHING_ANNOUNCED;
        self.clock_wait_us = None;
        self.propose_due_us = None;
        self.patience = self.patience.after(&set);
        self.config.set = set;
        self.config.me = me;
        self.config.start = start;
        self.pace = Pace::new(Round(1));
        self.arm(now);
        self.counters.epochs_started += 1;
        // First of all the record: a crash finds either epoch, whole.
        self.persist_safety(out);
        // Whoever has not committed the last block yet learns of it.
        out.push(Effect::Broadcast(PeerMessage::EpochProof(Box::new(
            EpochProof::clone(&proof),
        ))));
        self.came_by = Some(proof);
        true
    }

    /// After a restart: the proof that led into the current epoch, to show it to others.
    pub fn remember_proof(&mut self, proof: Arc<EpochProof>) {
        if proof.epoch().next() == self.epoch() {
            self.came_by = Some(proof);
        }
    }

    /// True for the epoch's last block (rule N2), given that nothing below it is.
    pub(crate) fn ends_epoch(&self, header: &SignedHeader) -> bool {
        self.config.start.is_over(&self.config.params, header)
    }

    /// The last block of the epoch is committed.
    pub(crate) fn end_epoch(&mut self, last: Arc<SignedHeader>, out: &mut Vec<Effect>) {
        self.walk = None;
        self.ended = Some(last.clone());
        out.push(Effect::EpochEnded { last });
    }

    /// A peer speaks of another epoch (rules N4 and N5): one that is behind is shown that its epoch
    /// is over, one that is ahead is asked.
    pub(crate) fn on_other_epoch(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        epoch: Epoch,
        out: &mut Vec<Effect>,
    ) {
        if epoch == self.epoch() || from == self.config.me {
            return;
        }
        let interval = self.times.answer_us;
        let Some(state) = self.peers.get_mut(from.at()) else {
            return;
        };
        let told = &mut state.epoch_told_us;
        if told.is_some_and(|told| now.mono_us < told + interval) {
            return;
        }
        *told = Some(now.mono_us);
        if epoch > self.epoch() {
            let message = PeerMessage::GetEpochProof(self.epoch());
            out.push(Effect::Send { to: from, message });
        } else {
            self.show_end_of(from, epoch, out);
        }
    }

    /// A peer asks for the proof that an epoch is over.
    pub(crate) fn on_get_epoch_proof(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        epoch: Epoch,
        out: &mut Vec<Effect>,
    ) {
        if epoch < self.epoch() && self.may_answer(now, from) {
            self.show_end_of(from, epoch, out);
        }
    }

    /// The epoch that this node is in is over (rule N5): the certificate leads to its last block,
    /// before any other that this node holds. A higher one may be of a block that nobody has any
    /// more, or of one beside the block that commits the last one: its peers have gone on.
    pub(crate) fn on_epoch_proof(&mut self, now: Now, proof: EpochProof, out: &mut Vec<Effect>) {
        if proof.epoch() != self.epoch() || self.ended.is_some() {
            return;
        }
        let qc = Arc::new(proof.qc);
        // Peers may show different ones. One is followed until nobody answers.
        let follows = self.end_shown.as_ref().is_some_and(|shown| {
            let walk = self.walk.as_ref();
            let towards = walk.filter(|walk| walk.target.block_id == shown.block_id);
            shown.block_id == qc.block_id
                || towards.is_some_and(|walk| walk.failures < END_FAILURES_MAX)
        });
        if !follows {
            self.end_shown = Some(qc.clone());
            self.walk = None;
        }
        self.on_qc(now, qc, out);
    }

    fn show_end_of(&self, to: ValidatorIndex, epoch: Epoch, out: &mut Vec<Effect>) {
        match &self.came_by {
            Some(proof) if proof.epoch() == epoch => {
                let message = PeerMessage::EpochProof(Box::new(EpochProof::clone(proof)));
                out.push(Effect::Send { to, message });
            }
            _ => out.push(Effect::ServeEpochProof { to, epoch }),
        }
    }
}

/// Nothing is known of anybody: members by index, then followers by slot.
pub(crate) fn no_peers() -> Vec<Peer> {
    vec![Peer::default(); VALIDATORS_MAX + FOLLOWERS_MAX]
}

/// Why a node does not sign in an epoch of which it does not know what it signed (rule Z8).
pub(crate) fn forfeits(through: Option<Epoch>, epoch: Epoch) -> Option<String> {
    let through = through.filter(|through| *through >= epoch)?;
    Some(format!(
        "the data directory began with a snapshot, so nobody knows what this key signed before: it \
         signs again from epoch {} on",
        through.next()
    ))
}

/// Why a node outside the set does not sign.
pub(crate) fn not_a_member(set: &ValidatorSet, me: ValidatorIndex) -> Option<String> {
    set.get(me).is_none().then(|| {
        format!(
            "a follower: the key is not in the validator set of epoch {}",
            set.epoch()
        )
    })
}
