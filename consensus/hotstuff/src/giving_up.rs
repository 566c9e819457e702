//! Timeouts, timeout certificates, and how long which leader is waited for (rules P2 to P8).

use std::sync::Arc;

use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::{Round, ValidatorIndex};

use crate::api::{Effect, Payload};
use crate::core::{HotStuff, Pace};
use crate::limits::{SILENT_CYCLES, TELL_LEADER_GRACES};

impl HotStuff {
    /// Rules P7 and P8: the timers of the round that was just entered.
    pub(crate) fn arm(&mut self, now: Now) {
        let round = self.pace.round;
        let leader = self.leader_of(round);
        self.times.base_us = self.patience.base_us();
        let passed_over = self.leader_is_passed_over(now, leader);
        self.counters.rounds_passed_over += u64::from(passed_over);
        let skip =
            passed_over || self.is_silent(now, leader, round) || self.leader_is_punished(leader);
        let (failed, times) = (self.pace.failed_rounds, &self.times);
        let (timer_us, limit_us) = if skip {
            (0, 0)
        } else {
            (times.round_timer_us(failed), times.genesis_timer_us(failed))
        };
        self.pace = Pace {
            round,
            leader,
            entered: now,
            expected_us: now.mono_us + times.idle_us,
            look_us: now.mono_us,
            look_again: false,
            timer_us,
            limit_us: now.mono_us + limit_us,
            waited_us: None,
            tell_leader_us: None,
            resend_us: now.mono_us + times.resend_us(),
            ..self.pace
        };
        self.pace.tell_leader_us = (leader != self.config.me && !skip && self.patience.learns())
            .then(|| self.pace.expected_us + TELL_LEADER_GRACES * times.grace_us());
    }

    /// Rule P7: finds out since when the leader has had a reason to propose (H3), as far as this
    /// node can tell: what it knows of payload, the leader knows too.
    pub(crate) fn expect_proposal(&mut self, now: Now, payload: &dyn Payload) {
        self.pace.look_again = false;
        if self.pace.expected_us <= now.mono_us || self.pace.timer_us == 0 {
            return;
        }
        if now.mono_us < self.pace.look_us {
            self.pace.look_again = true;
            return;
        }
        let grace_us = self.times.grace_us();
        self.pace.look_us = now.mono_us + grace_us.max(1);
        let qc = self.certificates.high_qc();
        let Some(parent) = self.tree.parent(&qc.block_id) else {
            return;
        };
        let unfinished = self.tree.has_payload_above_root(&parent.id);
        let due_us = self.proposal_due_us(&parent, unfinished, payload);
        let expected_us = due_us.max(now.mono_us).min(self.pace.expected_us);
        self.pace.expected_us = expected_us;
        if let Some(tell_us) = &mut self.pace.tell_leader_us {
            *tell_us = expected_us + TELL_LEADER_GRACES * grace_us;
        }
    }

    /// Rule P6: a leader whose proposal is late may lack the certificate that ends the round
    /// before, if the votes for it did not reach everybody.
    pub(crate) fn tell_leader(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.pace.tell_leader_us.is_none_or(|at| at > now.mono_us) {
            return;
        }
        self.pace.tell_leader_us = None;
        let refs = self.certificates.best_refs();
        if self.candidates().next().is_none() && !refs.is_empty() && self.signs() {
            let to = self.pace.leader;
            let message = PeerMessage::CertRefs(refs);
            out.push(Effect::Send { to, message });
        }
    }

    /// Rule P8: what the round that ends now says of its leader.
    pub(crate) fn learn(&mut self, now: Now, by_tc: bool) {
        let Pace { round, leader, .. } = self.pace;
        let (set, patience) = (&self.config.set, &mut self.patience);
        if !by_tc && self.certificates.high_qc().round == round {
            let took_us = now.mono_us.saturating_sub(self.pace.expected_us);
            patience.succeeded(leader, took_us, set);
        }
        // Others' timers may fire a little earlier than this node's. Whoever is not waited for, or
        // gave up by itself, tells nothing of how long rounds take.
        let waited = self.pace.waited_us.filter(|waited| {
            by_tc && self.pace.timer_us > 0 && waited.saturating_mul(2) >= self.pace.timer_us
        });
        if let Some(waited_us) = waited
            && self.certificates.high_tc_round() == round
        {
            patience.failed(now.mono_us, leader, waited_us, set);
            self.pace.lost = Some((round, leader, self.pace.expected_us));
        }
    }

    /// Rule P8: a round that was given up was certified after all, so its leader is slow, or the
    /// network is; it did not fail.
    pub(crate) fn redeem(&mut self, now: Now, round: Round) {
        let lost = self.pace.lost.take_if(|(lost, ..)| *lost == round);
        if let Some((_, leader, expected_us)) = lost {
            let took_us = now.mono_us.saturating_sub(expected_us);
            self.patience.succeeded(leader, took_us, &self.config.set);
        }
    }

    /// Rule P8: this leader's turns failed of late. When a whole cycle of leaders failed since the
    /// last commit, everybody is waited for again.
    fn leader_is_passed_over(&self, now: Now, leader: ValidatorIndex) -> bool {
        let set = &self.config.set;
        leader != self.config.me
            && u64::from(self.pace.failed_rounds) < set.cycle_rounds()
            && self
                .patience
                .passes_over(now.mono_us, leader, set, |other| {
                    self.is_silent(now, other, self.pace.round) || self.punished.contains(&other)
                })
    }

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
        if now.mono_us < self.pace.deadline_us() && !by_leader && !by_others {
            return false;
        }
        let high_qc = self.certificates.high_qc().clone();
        let tc = self.certificates.tc(round.prev()).cloned();
        let timeout = self.rules.time_out(round, &high_qc, tc.as_deref());
        self.counters.timeouts_signed += 1;
        self.pace.waited_us = Some(now.mono_us.saturating_sub(self.pace.expected_us));
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
        self.pace.resend_us = now.mono_us + self.times.resend_us();
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
    pub(crate) fn hear(&mut self, now: Now, author: ValidatorIndex, round: Round) {
        // What somebody else says again does not count.
        if let Some(peer) = self.peers.get_mut(author.at()).filter(|p| p.heard < round) {
            peer.heard = round;
            peer.heard_us = now.mono_us;
        }
    }

    /// Rule P7: nothing was heard of the leader for whole cycles of leaders and for the longest base,
    /// while a quorum was heard of. Only this node's patience depends on it, never the choice of the
    /// leader.
    fn is_silent(&self, now: Now, leader: ValidatorIndex, round: Round) -> bool {
        let set = &self.config.set;
        if leader == self.config.me {
            return false;
        }
        let cycles = SILENT_CYCLES * set.cycle_rounds();
        let recent = |peer: ValidatorIndex| {
            peer == self.config.me
                || self.peers[peer.at()].heard.0.saturating_add(cycles) >= round.0
        };
        let heard = set.weight_of(set.iter().map(|v| v.index).filter(|p| recent(*p)));
        // Rounds may pass faster than messages travel, where few validators are a quorum.
        let lately_us = self.peers[leader.at()].heard_us + self.times.round_us;
        !recent(leader) && lately_us <= now.mono_us && heard >= set.quorum_weight()
    }

    /// Rule P7: the ledger has punished the leader for misbehaviour in this epoch. As long as those
    /// who were punished are less than a weak quorum, the others need nobody's patience with them.
    pub(crate) fn leader_is_punished(&self, leader: ValidatorIndex) -> bool {
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
