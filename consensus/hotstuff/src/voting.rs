//! Voting (rules V1 to V5).

use falconet_types::block::{Executed, HeaderKind, SignedHeader};
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::{BlockId, Digest, Height};

use crate::api::{Alarm, Effect, Payload, Record};
use crate::core::HotStuff;
use crate::misbehaviour::Misbehaviour;
use crate::tree::Parent;

/// A header commits to the state of an ancestor at least this far below it, so that voters had
/// the time to execute it.
pub(crate) const EXECUTED_LAG: u64 = 3;

/// What to do about a proposal.
enum Verdict {
    Vote,
    /// Something that may still come is missing.
    Wait,
    /// Wrong for good.
    Refuse,
}

impl HotStuff {
    /// Votes for a proposal of the current round, if the rules allow it.
    pub(crate) fn try_vote(
        &mut self,
        now: Now,
        payload: &dyn Payload,
        out: &mut Vec<Effect>,
    ) -> bool {
        let round = self.pace.round;
        if !self.signs() || !self.rules.may_vote(round) {
            return false;
        }
        for kind in [HeaderKind::Normal, HeaderKind::Recovery] {
            let Some(slot) = self.slots.get(&(round, kind)) else {
                continue;
            };
            let header = slot.header.clone();
            if let Verdict::Vote = self.judge(now, &header, payload, out) {
                self.vote_for(now, &header, out);
                return true;
            }
        }
        false
    }

    fn vote_for(&mut self, now: Now, header: &SignedHeader, out: &mut Vec<Effect>) {
        let qc = self
            .certificates
            .qc(header.parent_round, &header.parent_id)
            .or_else(|| {
                let blind = self.rules.misbehaving.by(Misbehaviour::VoteWithoutParentQc);
                blind.then(|| self.certificates.high_qc())
            })
            .expect("the verdict saw it")
            .clone();
        let tc = self.certificates.tc(header.round.prev()).cloned();
        let vote = self.rules.vote(header, &qc, tc.as_deref());
        let slot = self
            .slots
            .get_mut(&(header.round, header.kind))
            .expect("the proposal is in its slot");
        if !std::mem::replace(&mut slot.logged, true) {
            let record = Record::Header(slot.header.clone());
            self.persist(record, out);
        }
        self.counters.votes_signed += 1;
        out.push(Effect::Broadcast(PeerMessage::Vote(vote.clone())));
        self.count_vote(now, vote, out);
    }

    fn judge(
        &mut self,
        now: Now,
        header: &SignedHeader,
        payload: &dyn Payload,
        out: &mut Vec<Effect>,
    ) -> Verdict {
        // V3: the parent's QC, from the votes or pulled; and the parent itself.
        let qc_held = self
            .certificates
            .qc(header.parent_round, &header.parent_id)
            .is_some();
        if !qc_held && !self.rules.misbehaving.by(Misbehaviour::VoteWithoutParentQc) {
            self.pull_what_justifies(now, header.author, header);
            return Verdict::Wait;
        }
        let parent = self.tree.parent(&header.parent_id).or_else(|| {
            let blind = self.rules.misbehaving.by(Misbehaviour::VoteWithoutParentQc);
            let loose = self.loose_header(&header.parent_id).filter(|_| blind);
            loose.map(|header| Parent::of(header))
        });
        let Some(parent) = parent else {
            // Fetched by `try_connect`; below the committed block it will never be there.
            return Verdict::Wait;
        };
        // V1: its author leads the round.
        match self.leader_on(header.round, &parent.id) {
            None => return Verdict::Wait,
            Some(leader) if leader != header.author => return Verdict::Refuse,
            Some(_) => {}
        }
        // V1: well-formed against the parent.
        if !well_formed(header, &parent)
            || header.ended_by != self.ended_by(&parent)
            || !self.may_carry(header, &parent)
        {
            return Verdict::Refuse;
        }
        // V4: the parent is of the round before, or a TC says that nothing above it can be
        // committed. A recovery header always needs the TC of the round before.
        let before = header.round.prev();
        let tc = self.certificates.tc(before);
        let skips = header.parent_round != before;
        if skips || header.kind == HeaderKind::Recovery {
            let justified = tc.is_some_and(|tc| self.rules.tc_allows(tc, header.parent_round));
            if !justified {
                self.pull_what_justifies(now, header.author, header);
                return Verdict::Wait;
            }
        }
        // V1: not too far ahead of this node's clock.
        let ahead_ms = header.time_ms.saturating_sub(now.wall_ms);
        if let Some(wait_ms) = ahead_ms.checked_sub(self.config.params.clock_drift_ms_max)
            && wait_ms > 0
        {
            // A clock may be set at any time: look again before the round ends anyway.
            let wait_us = wait_ms.saturating_mul(1_000).min(self.times.round_us);
            self.clock_wait_us = Some(now.mono_us + wait_us);
            return Verdict::Wait;
        }
        // V1: the state that it names.
        match self.judge_state(header, &parent, payload, out) {
            Verdict::Vote => {}
            verdict => return verdict,
        }
        // V5: the payload is available.
        if payload.available(&parent.cut, &header.cut) {
            Verdict::Vote
        } else {
            Verdict::Wait
        }
    }

    /// Rule N1: above the block that ends the epoch the cut stays the parent's.
    fn may_carry(&self, header: &SignedHeader, parent: &Parent) -> bool {
        !self.is_past_end(parent) || header.cut == parent.cut
    }

    /// True for the block that ends the epoch and all above it.
    pub(crate) fn is_past_end(&self, parent: &Parent) -> bool {
        let end = self.config.start.end(&self.config.params);
        end.is_some_and(|end| parent.height >= end)
    }

    /// Rule N9: what a child of `parent` says of the block that ends the epoch.
    pub(crate) fn ended_by(&self, parent: &Parent) -> BlockId {
        let end = self.config.start.end(&self.config.params);
        let ends = |parent: &Parent| {
            let named = parent.executed.map_or(Height::ZERO, |named| named.height);
            end.is_some_and(|end| named >= end)
        };
        if parent.ended_by == BlockId::ZERO && ends(parent) {
            parent.id
        } else {
            parent.ended_by
        }
    }

    fn judge_state(
        &mut self,
        header: &SignedHeader,
        parent: &Parent,
        payload: &dyn Payload,
        out: &mut Vec<Effect>,
    ) -> Verdict {
        let claim = header.executed;
        let before = executed_of(parent, payload);
        if claim.height <= before.height {
            return if claim == before {
                Verdict::Vote
            } else {
                Verdict::Refuse
            };
        }
        if claim.height > highest_named(header.height)
            || claim.height > self.config.params.checkpoint_above(before.height)
        {
            return Verdict::Refuse;
        }
        match payload.commitment_at(claim.height) {
            None if self.rules.misbehaving.by(Misbehaviour::VoteBeforeSynced) => Verdict::Vote,
            None => Verdict::Wait,
            Some(computed) if computed == claim.root => Verdict::Vote,
            Some(computed) => {
                self.report_mismatch(header, computed, out);
                Verdict::Refuse
            }
        }
    }

    fn report_mismatch(&mut self, header: &SignedHeader, computed: Digest, out: &mut Vec<Effect>) {
        if let Some(slot) = self.slots.get_mut(&(header.round, header.kind))
            && !std::mem::replace(&mut slot.mismatch_reported, true)
        {
            out.push(Effect::Alarm(Alarm::StateMismatch {
                header: slot.header.clone(),
                computed,
            }));
        }
    }
}

/// Rule V1, as far as header and parent alone decide it. What the header alone decides was
/// checked with its signature.
fn well_formed(header: &SignedHeader, parent: &Parent) -> bool {
    header.height == parent.height.next()
        && header.parent_round == parent.round
        && header.time_ms > parent.time_ms
        && header.cut.extends(&parent.cut)
}

/// The state that a parent names; genesis names its own.
pub(crate) fn executed_of(parent: &Parent, payload: &dyn Payload) -> Executed {
    parent.executed.unwrap_or_else(|| Executed {
        height: Height::ZERO,
        root: payload
            .commitment_at(Height::ZERO)
            .expect("the state of genesis is always known"),
    })
}

/// The highest executed height that a header at `height` may name.
pub(crate) fn highest_named(height: Height) -> Height {
    Height(height.0.saturating_sub(EXECUTED_LAG))
}
