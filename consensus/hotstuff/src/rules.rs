//! The only place that signs. Each method checks its rule again, on its own, and panics when the
//! caller broke it: a wrong signature cannot be taken back.

use falconet_types::block::{Header, HeaderKind, SignedHeader};
use falconet_types::certificate::{Qc, Tc, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::signing::Signer;
use falconet_types::{ChainId, Round, ValidatorIndex};

use crate::misbehaviour::{Misbehaving, Misbehaviour};
use crate::safety::SafetyRecord;

/// The safety record with the key that signs under its rules.
pub(crate) struct SafetyRules {
    chain_id: ChainId,
    me: ValidatorIndex,
    signer: Box<dyn Signer>,
    record: SafetyRecord,
    /// Certificate of what the epoch starts from.
    genesis: Qc,
    dirty: bool,
    pub(crate) misbehaving: Misbehaving,
}

impl SafetyRules {
    pub(crate) fn new(
        chain_id: ChainId,
        me: ValidatorIndex,
        signer: Box<dyn Signer>,
        record: SafetyRecord,
        genesis: Qc,
        first: bool,
    ) -> Self {
        Self {
            chain_id,
            me,
            signer,
            record,
            genesis,
            // A new node logs its empty record before anything else, so that a log without one
            // can only mean that it was lost.
            dirty: first,
            misbehaving: Misbehaving::default(),
        }
    }

    /// Rule N6: one record replaces the other, so no crash leaves a mixture of two epochs.
    pub(crate) fn start_epoch(&mut self, me: ValidatorIndex, genesis: Qc) {
        assert!(
            genesis.epoch > self.record.epoch,
            "N6: epoch {} after epoch {}",
            genesis.epoch,
            self.record.epoch
        );
        let key_id = self.signer.key_id();
        self.me = me;
        let fresh = SafetyRecord::fresh(self.chain_id, key_id, genesis.clone());
        let before = std::mem::replace(&mut self.record, fresh);
        if self.misbehaving.by(Misbehaviour::RecordOfLastEpoch) {
            self.record.last_voted_round = before.last_voted_round;
            self.record.highest_timeout_round = before.highest_timeout_round;
        }
        self.genesis = genesis;
        self.dirty = true;
    }

    /// The record of this epoch is not written: something else must stay in its place.
    pub(crate) fn forget_change(&mut self) {
        self.dirty = false;
    }

    pub(crate) fn record(&self) -> &SafetyRecord {
        &self.record
    }

    /// True once after each change: the record must become durable before this turn's messages
    /// leave.
    pub(crate) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// Rule V2: neither voted in `round` or later, nor gave it up.
    pub(crate) fn may_vote(&self, round: Round) -> bool {
        if self.misbehaving.by(Misbehaviour::VoteAfterTimeout) {
            let voted = self.record.last_vote.as_ref().map(|vote| vote.round);
            return Some(round) > voted;
        }
        round > self.record.last_voted_round && round > self.record.highest_timeout_round
    }

    /// Rule P2: has not given up `round` or a later one, and voted in no later round.
    pub(crate) fn may_time_out(&self, round: Round, high_qc: &Qc) -> bool {
        round > self.record.highest_timeout_round
            && round >= self.record.last_voted_round
            && high_qc.round >= self.record.locked.round
            && high_qc.round < round
    }

    /// Rule V4: the timeouts of the TC name no QC above the parent.
    pub(crate) fn tc_allows(&self, tc: &Tc, parent_round: Round) -> bool {
        tc.max_hqc_round() <= parent_round || self.misbehaving.by(Misbehaviour::TcMaxUnchecked)
    }

    /// Signs a vote. `qc` certifies the parent; `tc` is the TC of the round before, if one is
    /// held.
    pub(crate) fn vote(&mut self, header: &SignedHeader, qc: &Qc, tc: Option<&Tc>) -> Vote {
        assert!(
            self.may_vote(header.round),
            "V2: vote in round {}",
            header.round
        );
        assert!(
            (qc.block_id == header.parent_id && qc.round == header.parent_round)
                || self.misbehaving.by(Misbehaviour::VoteWithoutParentQc),
            "V3: the parent's QC is not held"
        );
        let by_tc = tc.is_some_and(|tc| {
            tc.round.next() == header.round && self.tc_allows(tc, header.parent_round)
        });
        assert!(
            header.parent_round.next() == header.round || by_tc,
            "V4: nothing justifies the parent"
        );
        self.lock(qc);
        self.record.last_voted_round = self.record.last_voted_round.max(header.round);
        let vote = Vote::sign(
            header.epoch,
            header.round,
            header.id(),
            header.parent_round,
            self.me,
            self.chain_id,
            &*self.signer,
        );
        self.record.last_vote = Some(vote.clone());
        self.dirty = true;
        vote
    }

    /// Rule C4: gave up neither `round` nor a later one, and voted to commit nothing of `round` or
    /// later.
    pub(crate) fn may_commit_vote(&self, round: Round) -> bool {
        let last = self.record.last_commit_vote.as_ref();
        let on_time = round > self.record.highest_timeout_round
            || self.misbehaving.by(Misbehaviour::CommitVoteAfterTimeout);
        on_time && round > last.map_or(Round::ZERO, |last| last.round)
    }

    /// Signs a vote to commit the block that `qc` certifies.
    pub(crate) fn commit_vote(&mut self, qc: &Qc) -> CommitVote {
        assert!(
            self.may_commit_vote(qc.round),
            "C4: commit vote in round {}",
            qc.round
        );
        if !self.misbehaving.by(Misbehaviour::CommitVoteWithoutLock) {
            self.lock(qc);
        }
        let vote = CommitVote::sign(
            qc.epoch,
            qc.round,
            qc.block_id,
            self.me,
            self.chain_id,
            &*self.signer,
        );
        self.record.last_commit_vote = Some(vote.clone());
        self.dirty = true;
        vote
    }

    /// Signs a timeout of `round`. `entered` says that this node holds the certificate that leads
    /// into the round.
    pub(crate) fn time_out(&mut self, round: Round, high_qc: &Qc, tc: Option<&Tc>) -> Timeout {
        assert!(
            self.may_time_out(round, high_qc),
            "P2: timeout of round {round}"
        );
        assert!(
            high_qc.round.next() == round || tc.is_some_and(|tc| tc.round.next() == round),
            "P2: round {round} was not entered"
        );
        self.lock(high_qc);
        self.record.highest_timeout_round = round;
        self.record.last_voted_round = self.record.last_voted_round.max(round);
        let named = if self.misbehaving.by(Misbehaviour::ForgetLock) {
            &self.genesis
        } else {
            high_qc
        };
        let timeout = Timeout::sign(
            self.record.epoch,
            round,
            named.round,
            named.block_id,
            self.me,
            self.chain_id,
            &*self.signer,
        );
        self.record.last_timeout = Some(timeout.clone());
        self.dirty = true;
        timeout
    }

    /// Signs a proposal on top of the block that `qc` certifies.
    pub(crate) fn propose(&mut self, header: Header, qc: &Qc) -> SignedHeader {
        assert!(qc.block_id == header.parent_id && qc.round == header.parent_round);
        self.lock(qc);
        self.sign_header(header)
    }

    /// Rule H5: this node voted for the parent in the round before and has not given that up.
    pub(crate) fn may_propose_ahead(&self, round: Round) -> bool {
        let record = &self.record;
        let voted = record.last_vote.as_ref();
        voted.is_some_and(|vote| vote.round.next() == round)
            && record.highest_timeout_round < round.prev()
            && (record.last_normal.as_ref()).is_none_or(|header| header.round < round)
    }

    /// Signs a normal proposal on top of the block that this node voted for last. It relies on no
    /// certificate, so nothing is locked.
    pub(crate) fn propose_ahead(&mut self, header: Header) -> SignedHeader {
        let voted = self.record.last_vote.as_ref().map(|vote| vote.block_id);
        assert!(
            self.may_propose_ahead(header.round)
                && header.kind == HeaderKind::Normal
                && voted == Some(header.parent_id),
            "H5: proposal ahead for round {}",
            header.round
        );
        self.sign_header(header)
    }

    fn sign_header(&mut self, header: Header) -> SignedHeader {
        let last = self
            .record
            .proposal(header.kind)
            .map_or(Round::ZERO, |last| last.round);
        assert!(
            header.round > last,
            "H1: second header for round {}",
            header.round
        );
        let kind = header.kind;
        let signed = SignedHeader::sign(header, self.chain_id, &*self.signer);
        let slot = match kind {
            HeaderKind::Normal => &mut self.record.last_normal,
            HeaderKind::Recovery => &mut self.record.last_recovery,
        };
        *slot = Some(signed.clone());
        self.dirty = true;
        signed
    }

    /// The record as it is written.
    pub(crate) fn to_write(&self) -> SafetyRecord {
        let mut record = self.record.clone();
        if self.misbehaving.by(Misbehaviour::LostLock) {
            record.locked = self.genesis.clone();
        }
        record
    }

    #[cfg(feature = "misbehave")]
    pub(crate) fn with_signer(&self, signer: Box<dyn Signer>) -> Self {
        Self {
            chain_id: self.chain_id,
            me: self.me,
            signer,
            record: self.record.clone(),
            genesis: self.genesis.clone(),
            dirty: self.dirty,
            misbehaving: self.misbehaving,
        }
    }

    #[cfg(feature = "misbehave")]
    pub(crate) fn forget_votes(&mut self) {
        self.record.last_voted_round = Round::ZERO;
        self.record.highest_timeout_round = Round::ZERO;
        self.record.last_vote = None;
        self.record.last_timeout = None;
        self.record.last_commit_vote = None;
    }

    /// Remembers the highest QC that a signed message relies on, so that this node can always
    /// deliver what it names.
    fn lock(&mut self, qc: &Qc) {
        if qc.round > self.record.locked.round {
            self.record.locked = qc.clone();
        }
    }
}

impl std::fmt::Debug for SafetyRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SafetyRules")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}
