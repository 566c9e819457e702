//! Certificates and headers for peers, and requests for certificates (rules P4, P6, Y1, Y5).

use std::sync::Arc;

use falconet_types::block::{HeaderKind, SignedHeader};
use falconet_types::certificate::{Qc, Tc};
use falconet_types::message::{BLOCKS_PER_ANSWER_MAX, CertRef, GetBlocks, PeerMessage};
use falconet_types::time::Now;
use falconet_types::{Round, ValidatorIndex};

use crate::api::Effect;
use crate::core::HotStuff;
use crate::limits::{ANSWER_BYTES_MAX, ANSWERS_PER_INTERVAL_MAX, KEPT_BACK_MAX};

/// Bytes of a header besides its cut, and of one lane in the cut; upper bounds.
const HEADER_BYTES: usize = 1_600;
const LANE_BYTES: usize = 40;

/// What the core remembers of one validator.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// Connected.
    pub up: bool,
    /// Highest round of anything it signed.
    pub heard: Round,
    /// When that was heard, microseconds.
    pub heard_us: u64,
    /// When it was last told that it lags.
    told_us: Option<u64>,
    /// When it was last told, or asked, about the end of an epoch.
    pub epoch_told_us: Option<u64>,
    /// Start of the current answer interval.
    interval_us: u64,
    /// Answers given in it.
    answers: u32,
    /// Times that it did not hand over in time what it must hold, since it last did; at most
    /// [`KEPT_BACK_MAX`].
    pub kept_back: u32,
}

impl HotStuff {
    /// A connection is new: the peer may have missed everything.
    pub(crate) fn on_peer_up(&mut self, peer: ValidatorIndex, out: &mut Vec<Effect>) {
        let Some(state) = self.peers.get_mut(peer.at()) else {
            return;
        };
        state.up = true;
        state.told_us = None;
        state.epoch_told_us = None;
        for message in self.last_words() {
            out.push(Effect::Send { to: peer, message });
        }
    }

    /// A peer names its certificates.
    pub(crate) fn on_cert_refs(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        refs: &[CertRef],
        out: &mut Vec<Effect>,
    ) {
        let mut its_round = Round(1);
        for cert in refs.iter().take(PeerMessage::CERT_REFS_MAX) {
            let (CertRef::Qc { epoch, round, .. } | CertRef::Tc { epoch, round }) = cert;
            if *epoch != self.epoch() {
                return self.on_other_epoch(now, from, *epoch, out);
            }
            its_round = its_round.max(Round(round.0.saturating_add(1)));
            let leads_on = match cert {
                CertRef::Qc { round, .. } => *round > self.certificates.high_qc().round,
                CertRef::Tc { round, .. } => *round >= self.pace.round,
            };
            if leads_on {
                self.want(now.mono_us, *cert, from, false);
            }
        }
        if its_round < self.pace.round {
            self.answer_laggard(now, from, out);
        }
    }

    /// A peer asks for a certificate. Without it, the best ones are named.
    pub(crate) fn on_get_cert(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        cert: CertRef,
        out: &mut Vec<Effect>,
    ) {
        if cert.epoch() != self.epoch() {
            return self.on_other_epoch(now, from, cert.epoch(), out);
        }
        if !self.may_answer(now, from) {
            return;
        }
        let message = match cert {
            CertRef::Qc {
                round, block_id, ..
            } => self
                .certificates
                .qc(round, &block_id)
                .map(|qc| PeerMessage::Qc(Qc::clone(qc))),
            // A higher certificate serves as well: it leads further.
            CertRef::Tc { round, .. } => self
                .certificates
                .high_tc()
                .filter(|tc| tc.round >= round)
                .map(|tc| PeerMessage::Tc(Tc::clone(tc)))
                .or_else(|| {
                    let qc = self.certificates.high_qc();
                    (qc.round > round).then(|| PeerMessage::Qc(Qc::clone(qc)))
                }),
        };
        match message {
            Some(message) => out.push(Effect::Send { to: from, message }),
            None => self.answer_laggard(now, from, out),
        }
    }

    /// Headers in a full answer.
    pub(crate) fn blocks_per_answer(&self) -> usize {
        let header_bytes = HEADER_BYTES + LANE_BYTES * self.config.set.len();
        BLOCKS_PER_ANSWER_MAX.clamp(1, (ANSWER_BYTES_MAX / header_bytes).max(1))
    }

    /// A peer asks for headers: from memory as far as they are held, else from the store.
    pub(crate) fn on_get_blocks(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        request: GetBlocks,
        out: &mut Vec<Effect>,
    ) {
        if !self.may_answer(now, from) {
            return;
        }
        let max = self
            .blocks_per_answer()
            .min(usize::from(request.max).max(1));
        let mut headers: Vec<SignedHeader> = Vec::new();
        let mut id = request.from;
        while headers.len() < max {
            let held = self.tree.header(&id).or_else(|| self.loose_header(&id));
            let Some(header) = held else { break };
            if header.height <= request.stop_height {
                break;
            }
            id = header.parent_id;
            headers.push(SignedHeader::clone(header));
        }
        if headers.is_empty() {
            out.push(Effect::ServeBlocks { to: from, request });
        } else {
            let message = PeerMessage::Blocks(headers);
            out.push(Effect::Send { to: from, message });
        }
    }

    /// Tells a peer that lags which certificates there are, at most once an interval.
    pub(crate) fn answer_laggard(&mut self, now: Now, peer: ValidatorIndex, out: &mut Vec<Effect>) {
        let interval = self.times.tell_us();
        let Some(state) = self.peers.get_mut(peer.at()) else {
            return;
        };
        let recently = state
            .told_us
            .is_some_and(|told| now.mono_us < told + interval);
        let refs = self.certificates.best_refs();
        if recently || refs.is_empty() || peer == self.config.me {
            return;
        }
        state.told_us = Some(now.mono_us);
        let message = PeerMessage::CertRefs(refs);
        out.push(Effect::Send { to: peer, message });
    }

    /// Wants a certificate that `holder` named or implied. With `ask_others`, everybody is asked
    /// after it.
    pub(crate) fn want(
        &mut self,
        due_us: u64,
        cert: CertRef,
        holder: ValidatorIndex,
        ask_others: bool,
    ) {
        if !self.useful(&cert) || holder == self.config.me && !ask_others {
            return;
        }
        let me = self.config.me;
        let others: Vec<ValidatorIndex> = if ask_others {
            let all = self.config.set.iter().map(|v| v.index);
            all.filter(|peer| *peer != me).collect()
        } else {
            Vec::new()
        };
        let wanted = self.pulls.want(cert, holder, others, due_us);
        if !wanted {
            self.counters.dropped_by_limit += 1;
        }
    }

    /// Rule Y1: pulls the certificates that a proposal stands on and that are not held. They
    /// usually arrive by themselves (as votes and timeouts), so they get a little time to.
    pub(crate) fn pull_what_justifies(
        &mut self,
        now: Now,
        holder: ValidatorIndex,
        header: &SignedHeader,
    ) {
        let due_us = now.mono_us + self.times.grace_us();
        // A node that lacks the parent's QC may still be in the parent's round.
        let current = [self.pace.round, self.pace.round.next()].contains(&header.round);
        let parent = CertRef::Qc {
            epoch: header.epoch,
            round: header.parent_round,
            block_id: header.parent_id,
        };
        let before = header.round.prev();
        if current || header.parent_round > self.certificates.high_qc().round {
            self.want(due_us, parent, holder, current);
        }
        if header.kind == HeaderKind::Recovery && (current || header.round > self.pace.round) {
            let tc = self.certificates.tc(before);
            if tc.is_none_or(|tc| tc.max_hqc_round() > header.parent_round) {
                let cert = CertRef::Tc {
                    epoch: header.epoch,
                    round: before,
                };
                self.want(due_us, cert, holder, current);
            }
        }
    }

    pub(crate) fn ask_for_certificates(&mut self, now: Now, out: &mut Vec<Effect>) {
        let mut pulls = std::mem::take(&mut self.pulls);
        pulls.retain(|cert| self.useful(cert));
        let waits_us = (self.times.retry_us(), self.times.round_us);
        let peer = |index: ValidatorIndex| &self.peers[index.at()];
        let due = pulls.due(
            now.mono_us,
            waits_us,
            |index| index != self.config.me && peer(index).up,
            |index| peer(index).kept_back,
        );
        self.note_kept_back(due.kept_back);
        for (to, cert) in due.requests {
            self.counters.certificates_pulled += 1;
            let message = PeerMessage::GetCert(cert);
            out.push(Effect::Send { to, message });
        }
        self.pulls = pulls;
    }

    /// These peers did not hand over in time what they must hold.
    pub(crate) fn note_kept_back(&mut self, peers: impl IntoIterator<Item = ValidatorIndex>) {
        for peer in peers.into_iter().filter(|_| self.patience.learns()) {
            let count = &mut self.peers[peer.at()].kept_back;
            *count = (*count + 1).min(KEPT_BACK_MAX);
        }
    }

    /// A certificate came from a peer: the answer to a request, if it is `answers`.
    pub(crate) fn note_answer(&mut self, from: ValidatorIndex, answers: impl Fn(&CertRef) -> bool) {
        if self.pulls.asked(from, answers) {
            self.peers[from.at()].kept_back = 0;
        }
    }

    /// True when the certificate could change anything here.
    fn useful(&self, cert: &CertRef) -> bool {
        match cert {
            CertRef::Qc {
                epoch,
                round,
                block_id,
            } => {
                *epoch == self.epoch()
                    && *round >= self.tree.root().round
                    && *round > Round::ZERO
                    && self.certificates.qc(*round, block_id).is_none()
            }
            CertRef::Tc { epoch, round } => {
                // Of the round before the current one, another TC may admit a proposal that the
                // one held does not.
                let held = self.certificates.tc(*round);
                let admits_more = |header: &Arc<SignedHeader>| {
                    header.kind == HeaderKind::Recovery
                        && held.is_none_or(|tc| tc.max_hqc_round() > header.parent_round)
                };
                *epoch == self.epoch()
                    && (*round >= self.pace.round
                        || *round == self.pace.round.prev() && self.candidates().any(admits_more))
            }
        }
    }

    pub(crate) fn may_answer(&mut self, now: Now, peer: ValidatorIndex) -> bool {
        let interval = self.times.answer_us;
        let Some(state) = self.peers.get_mut(peer.at()) else {
            return false;
        };
        if now.mono_us >= state.interval_us + interval {
            state.interval_us = now.mono_us;
            state.answers = 0;
        }
        if state.answers >= ANSWERS_PER_INTERVAL_MAX {
            self.counters.dropped_by_limit += 1;
            return false;
        }
        state.answers += 1;
        true
    }
}
