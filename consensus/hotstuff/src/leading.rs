//! Leading a round (rules H1 to H4).

use std::sync::Arc;

use falconet_types::block::{Executed, Header, HeaderKind, SignedHeader};
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::{Digest, Height};

use crate::api::{Effect, Payload};
use crate::core::{HotStuff, Slot};
use crate::tree::Parent;
use crate::voting::{executed_of, highest_named};

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
        if !self.leads(round) || !self.signs() || self.announced == round {
            return false;
        }
        if let Some(header) = self.rules.record().proposal_of(round) {
            // H2: after a restart the bytes that were signed are sent again.
            let header = Arc::new(header.clone());
            self.announce(header, out);
            return true;
        }
        if !self.rules.may_vote(round) {
            return false;
        }
        let qc = self.certificates.high_qc().clone();
        let Some(parent) = self.tree.parent(&qc.block_id) else {
            return false;
        };
        let due_us = self.proposal_due_us(&parent, payload);
        if due_us > now.mono_us || self.proposed_this_input {
            self.propose_due_us = Some(due_us.max(now.mono_us));
            return false;
        }
        let before = round.prev();
        let kind = if qc.round == before {
            HeaderKind::Normal
        } else {
            let tc = self.certificates.tc(before);
            let tc = tc.expect("a round is entered by its QC or its TC");
            assert!(
                tc.max_hqc_round() <= qc.round,
                "the highest QC of a TC is held"
            );
            HeaderKind::Recovery
        };
        let header = Header {
            epoch: self.epoch(),
            round,
            kind,
            parent_id: parent.id,
            parent_round: parent.round,
            height: parent.height.next(),
            cut: if self.is_past_end(&parent) {
                parent.cut.clone() // N1
            } else {
                payload.propose(&parent.cut)
            },
            time_ms: now.wall_ms.max(parent.time_ms.saturating_add(1)),
            executed: self.executed_to_name(&parent, self.tree.settled(&parent.id), payload),
            evidence_root: Digest::ZERO,
            author: self.config.me,
        };
        assert!(header.cut.extends(&parent.cut), "a cut never goes back");
        let header = Arc::new(self.rules.propose(header, &qc));
        self.counters.headers_proposed += 1;
        self.proposed_this_input = true;
        self.announce(header, out);
        true
    }

    fn announce(&mut self, header: Arc<SignedHeader>, out: &mut Vec<Effect>) {
        self.announced = header.round;
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
    /// payload waits because more of it is coming; a child that commits waits for nothing, which
    /// is what a lone transaction's latency consists of.
    /// Intervals count from the parent's time, yet never last longer than themselves from the
    /// entry into the round: a clock that was set back cannot hold a leader up.
    fn proposal_due_us(&self, parent: &Parent, payload: &dyn Payload) -> u64 {
        let params = &self.config.params;
        // N3: what follows the block that ends the epoch only waits for execution and commits.
        let interval_ms = if self.is_past_end(parent) || payload.has_work(&parent.cut) {
            params.block_interval_ms_min
        } else if self.tree.has_payload_above_root(&parent.id) {
            0
        } else {
            params.block_interval_ms_idle
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
