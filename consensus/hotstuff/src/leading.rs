//! Leading a round (rules H1 to H5).

use std::sync::Arc;

use falconet_types::block::{Executed, Header, HeaderKind, SignedHeader};
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::{Height, Round};

use crate::api::{Effect, Payload};
use crate::core::{HotStuff, Slot};
use crate::tree::Parent;
use crate::voting::{executed_of, highest_named};

/// Before the first proposal of a process or an epoch.
pub(crate) const NOTHING_ANNOUNCED: (Round, HeaderKind) = (Round::ZERO, HeaderKind::Normal);

impl HotStuff {
    /// Proposes, when this node leads the current round and it is time. True when a proposal was
    /// added.
    pub(crate) fn try_propose(
        &mut self,
        now: Now,
        payload: &dyn Payload,
        out: &mut Vec<Effect>,
    ) -> bool {
        let round = self.pace.round;
        let qc = self.certificates.high_qc().clone();
        if !self.signs() || self.leader_on(round, &qc.block_id) != Some(self.config.me) {
            return false;
        }
        let before = round.prev();
        let kind = if qc.round == before {
            HeaderKind::Normal
        } else {
            HeaderKind::Recovery
        };
        if self.announced >= (round, kind) {
            return false;
        }
        if let Some(header) = self.own_proposal(round, kind) {
            // H2: after a restart the bytes that were signed are sent again.
            let header = Arc::new(header.clone());
            self.announce(header, out);
            return true;
        }
        if !self.rules.may_vote(round) {
            return false;
        }
        let Some(parent) = self.tree.parent(&qc.block_id) else {
            return false;
        };
        let unfinished = self.tree.has_payload_above_root(&parent.id);
        if !self.is_due(now, &parent, unfinished, payload) {
            return false;
        }
        if kind == HeaderKind::Recovery {
            let tc = self.certificates.tc(before);
            let tc = tc.expect("a round is entered by its QC or its TC");
            assert!(
                tc.max_hqc_round() <= qc.round,
                "the highest QC of a TC is held"
            );
        }
        let settled = self.tree.settled(&parent.id);
        let header = self.draft(now, round, kind, &parent, settled, payload);
        let header = Arc::new(self.rules.propose(header, &qc));
        self.count_proposal(header, out);
        true
    }

    /// Rule H5: the leader of the next round proposes on top of the block that it has just voted
    /// for, before that block's QC exists. True when a proposal was added.
    pub(crate) fn try_propose_ahead(
        &mut self,
        now: Now,
        payload: &dyn Payload,
        out: &mut Vec<Effect>,
    ) -> bool {
        let next = self.pace.round.next();
        if !self.config.params.optimistic_proposals
            || !self.signs()
            || !self.rules.may_propose_ahead(next)
        {
            return false;
        }
        let vote = self.rules.record().last_vote.as_ref();
        let voted = vote.expect("H5 asks for a vote").block_id;
        let Some(voted) = self.loose_header(&voted).cloned() else {
            return false;
        };
        let Some(before) = self.tree.parent(&voted.parent_id) else {
            return false;
        };
        // What decides about the leader is far below the voted block.
        if self.leader_on(next, &before.id) != Some(self.config.me) {
            return false;
        }
        let parent = Parent::of(&voted);
        // What ends an epoch gets no company before it is certified.
        if self.is_past_end(&parent) {
            return false;
        }
        let unfinished =
            voted.cut != before.cut || self.tree.has_payload_above_root(&voted.parent_id);
        if !self.is_due(now, &parent, unfinished, payload) {
            return false;
        }
        // The voted block is not certified yet: it settles nothing.
        let settled = self.tree.settled(&voted.parent_id);
        let header = self.draft(now, next, HeaderKind::Normal, &parent, settled, payload);
        let header = Arc::new(self.rules.propose_ahead(header));
        self.count_proposal(header, out);
        true
    }

    /// The header of a round that this node has signed and that still stands: a normal one ahead
    /// of a QC that did not come is of no use in a round that was entered by a TC.
    fn own_proposal(&self, round: Round, kind: HeaderKind) -> Option<&SignedHeader> {
        let record = self.rules.record();
        let normal = (record.last_normal.as_ref()).filter(|_| kind == HeaderKind::Normal);
        let mut standing = record.last_recovery.as_ref().into_iter().chain(normal);
        standing.find(|header| header.round == round)
    }

    /// Whether it is time for a proposal on top of `parent`; if not, sets when.
    fn is_due(
        &mut self,
        now: Now,
        parent: &Parent,
        unfinished: bool,
        payload: &dyn Payload,
    ) -> bool {
        let due_us = self.proposal_due_us(parent, unfinished, payload);
        let wait = due_us > now.mono_us || self.proposed_this_input;
        if wait {
            self.propose_due_us = Some(due_us.max(now.mono_us));
        }
        !wait
    }

    fn draft(
        &self,
        now: Now,
        round: Round,
        kind: HeaderKind,
        parent: &Parent,
        settled: Height,
        payload: &dyn Payload,
    ) -> Header {
        let cut = if self.is_past_end(parent) {
            parent.cut.clone() // N1
        } else {
            payload.propose(&parent.cut)
        };
        assert!(cut.extends(&parent.cut), "a cut never goes back");
        Header {
            epoch: self.epoch(),
            round,
            kind,
            parent_id: parent.id,
            parent_round: parent.round,
            height: parent.height.next(),
            cut,
            time_ms: now.wall_ms.max(parent.time_ms.saturating_add(1)),
            executed: self.executed_to_name(parent, settled, payload),
            ended_by: self.ended_by(parent),
            author: self.config.me,
        }
    }

    fn count_proposal(&mut self, header: Arc<SignedHeader>, out: &mut Vec<Effect>) {
        self.counters.headers_proposed += 1;
        self.proposed_this_input = true;
        self.announce(header, out);
    }

    fn announce(&mut self, header: Arc<SignedHeader>, out: &mut Vec<Effect>) {
        self.announced = (header.round, header.kind);
        let message = PeerMessage::Header(SignedHeader::clone(&header));
        out.push(Effect::Broadcast(message));
        self.slots
            .entry((header.round, header.kind))
            .or_insert(Slot {
                header,
                // The safety record holds its bytes; a header record follows with the vote.
                logged: false,
                conflict_reported: false,
                mismatch_reported: false,
            });
    }

    /// Rule H3: at once when payload only needs children to be committed, no faster than the
    /// minimal block interval when there is new payload, after the idle interval otherwise. New
    /// payload waits because more of it is coming, up to the idle interval if the data layer says
    /// that it is worth it; a child that commits waits for nothing, which is what a lone
    /// transaction's latency consists of.
    /// Intervals count from the parent's time, yet never last longer than themselves from the
    /// entry into the round: a clock that was set back cannot hold a leader up.
    pub(crate) fn proposal_due_us(
        &self,
        parent: &Parent,
        unfinished: bool,
        payload: &dyn Payload,
    ) -> u64 {
        let params = &self.config.params;
        // N3: what follows the block that ends the epoch only waits for execution and commits.
        let (least_ms, idle_ms) = (params.block_interval_ms_min, params.block_interval_ms_idle);
        let interval_ms = if self.is_past_end(parent) {
            least_ms
        } else if payload.has_work(&parent.cut) {
            let wanted_us = payload.interval_us(&parent.cut, least_ms * 1_000);
            (wanted_us / 1_000).clamp(least_ms, idle_ms)
        } else if unfinished {
            0
        } else {
            idle_ms
        };
        let entered = self.pace.entered;
        let wait_ms = parent
            .time_ms
            .saturating_add(interval_ms)
            .saturating_sub(entered.wall_ms)
            .min(interval_ms);
        entered.mono_us + wait_ms * 1_000
    }

    /// Rule H4: the highest state that this node knows and voters must come to know, never below
    /// the parent's, never beyond the next checkpoint. Voters surely commit what the proposal's own
    /// chain commits, nothing more.
    fn executed_to_name(
        &self,
        parent: &Parent,
        settled: Height,
        payload: &dyn Payload,
    ) -> Executed {
        let before = executed_of(parent, payload);
        let height = payload
            .executed()
            .height
            .min(settled)
            .min(highest_named(parent.height.next()))
            .min(self.config.params.checkpoint_above(before.height));
        if height <= before.height {
            return before;
        }
        match payload.commitment_at(height) {
            Some(root) => Executed { height, root },
            None => before,
        }
    }
}
