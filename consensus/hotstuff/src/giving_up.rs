//! Timeouts, timeout certificates and silent leaders (rules P2 to P7).

use std::sync::Arc;

use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::{Round, ValidatorIndex};

use crate::api::Effect;
use crate::core::HotStuff;
use crate::limits::SILENT_CYCLES;

impl HotStuff {
    /// True while this node may still give up the current round.
    pub(crate) fn may_give_up(&self) -> bool {
        let high_qc = self.certificates.high_qc();
        self.signs() && self.rules.may_time_out(self.pace.round, high_qc)
    }

    /// Rule P2: gives up the current round when its timer fired, when a weak quorum gave up this
    /// or a later round (one of them is honest), or when its own leader did.
    pub(crate) fn try_give_up(&mut self, now: Now, out: &mut Vec<Effect>) -> bool {
        if !self.may_give_up() {
            return false;
        }
        let round = self.pace.round;
        let leader = self.leader_of(round);
        let set = &self.config.set;
        let by_leader = self.timeouts.of(leader).is_some_and(|t| t.round == round);
        let by_others = self.timeouts.weight_from(round, set) >= set.weak_weight();
        if now.mono_us < self.pace.deadline_us && !by_leader && !by_others {
            return false;
        }
        let high_qc = self.certificates.high_qc().clone();
        let tc = self.certificates.tc(round.prev()).cloned();
        let timeout = self.rules.time_out(round, &high_qc, tc.as_deref());
        self.counters.timeouts_signed += 1;
        self.count_timeout(timeout, out);
        self.resend(now, out);
        true
    }

    /// Rule P5: makes a TC of the timeouts that count.
    pub(crate) fn try_tc(&mut self, now: Now, out: &mut Vec<Effect>) -> bool {
        let round = self.pace.round;
        let tc = self
            .timeouts
            .tc(round, &self.certificates, &self.config.set);
        let Some(tc) = tc else { return false };
        self.counters.tcs_formed += 1;
        self.on_tc(now, Arc::new(tc), out);
        assert!(
            self.pace.round > round,
            "a TC of the current round ends the round"
        );
        true
    }

    /// Rule P6: sends what peers in the same round may lack: what brought this node here, its own
    /// last words as they were signed, and the votes that may still make a QC.
    pub(crate) fn resend(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.pace.resend_us = now.mono_us + self.times.resend_us;
        for message in self.last_words() {
            out.push(Effect::Broadcast(message));
        }
    }

    /// What a peer needs from this node to go on, after it may have missed anything.
    pub(crate) fn last_words(&self) -> Vec<PeerMessage> {
        let mut words = Vec::new();
        let refs = self.certificates.best_refs();
        if !refs.is_empty() {
            words.push(PeerMessage::CertRefs(refs));
        }
        if !self.signs() {
            // Whoever says nothing is shown nothing: nobody learns from it in which epoch it still
            // is (rule N5). It may know of no validator but those that have left.
            if self.config.start.end(&self.config.params).is_some() {
                words.push(PeerMessage::GetEpochProof(self.epoch()));
            }
            return words;
        }
        let record = self.rules.record();
        let round = self.pace.round;
        if self.announced.0 == round {
            let proposals = record.last_normal.iter().chain(&record.last_recovery);
            let of_round = proposals.filter(|header| header.round == round);
            words.extend(of_round.cloned().map(PeerMessage::Header));
        }
        let certified = self.certificates.high_qc().round;
        if let Some(vote) = &record.last_vote
            && vote.round > certified
        {
            words.push(PeerMessage::Vote(vote.clone()));
        }
        if let Some(vote) = &record.last_commit_vote
            && vote.round > self.tree.root().round
        {
            words.push(PeerMessage::CommitVote(vote.clone()));
        }
        if let Some(timeout) = &record.last_timeout
            && timeout.round >= round
        {
            words.push(PeerMessage::Timeout(timeout.clone()));
        }
        words
    }

    /// Notes that something signed by a validator in this round was seen.
    pub(crate) fn hear(&mut self, author: ValidatorIndex, round: Round) {
        if let Some(peer) = self.peers.get_mut(author.at()) {
            peer.heard = peer.heard.max(round);
        }
    }

    /// Rule P7: nothing was heard of the leader for whole cycles of leaders, while a quorum was
    /// heard of. Only this node's patience depends on it, never the choice of the leader.
    pub(crate) fn leader_is_silent(&self, round: Round) -> bool {
        let leader = self.leader_of(round);
        let set = &self.config.set;
        if leader == self.config.me {
            return false;
        }
        let cycles = SILENT_CYCLES * set.len() as u64;
        let recent = |peer: ValidatorIndex| {
            peer == self.config.me
                || self.peers[peer.at()].heard.0.saturating_add(cycles) >= round.0
        };
        let heard = set.weight_of(set.iter().map(|v| v.index).filter(|p| recent(*p)));
        !recent(leader) && heard >= set.quorum_weight()
    }

    /// Rule P7: the ledger has punished the leader for misbehaviour in this epoch. As long as those
    /// who were punished are less than a weak quorum, the others need nobody's patience with them.
    pub(crate) fn leader_is_punished(&self, round: Round) -> bool {
        let leader = self.leader_of(round);
        let set = &self.config.set;
        leader != self.config.me
            && self.punished.contains(&leader)
            && set.weight_of(self.punished.iter().copied()) < set.weak_weight()
    }

    /// Who was punished for misbehaviour in the current epoch, as this node has executed it. Their
    /// rounds are given up at once from the next one on; which of them are, nodes need not agree on.
    pub fn punish(&mut self, offenders: impl IntoIterator<Item = ValidatorIndex>) {
        self.punished = offenders.into_iter().collect();
    }
}
