//! A proposal of the current round that others voted for and that did not reach this node (rule
//! Y6). A leader that sends its proposal to some only would else waste the round: who has it votes,
//! and who has not is missing from the quorum.

use falconet_types::block::SignedHeader;
use falconet_types::message::{GetBlocks, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::time::Now;
use falconet_types::{BlockId, Round, ValidatorIndex};

use std::sync::Arc;

use crate::api::Effect;
use crate::core::HotStuff;

/// The proposal that is asked for: one at a time, of the current round.
#[derive(Debug, Clone)]
pub(crate) struct Overlooked {
    round: Round,
    id: BlockId,
    /// When to ask (again).
    pub due_us: u64,
    /// Who was asked.
    asked: Vec<ValidatorIndex>,
}

impl HotStuff {
    /// A block of the current round has votes. Of a weak quorum one voter is honest, so the block
    /// was proposed; if it does not come by itself, the voters have it.
    pub(crate) fn look_for_proposal(&mut self, now: Now, id: &BlockId) {
        let round = self.pace.round;
        let sought = self.overlooked.as_ref().is_some_and(|o| o.round == round);
        if sought || self.loose_header(id).is_some() || !self.patience.learns() {
            return;
        }
        let voters = self.votes.voters(round, id);
        if self.config.set.weight_of(voters) < self.config.set.weak_weight() {
            return;
        }
        self.overlooked = Some(Overlooked {
            round,
            id: *id,
            due_us: now.mono_us + self.times.grace_us(),
            asked: Vec::new(),
        });
    }

    /// Asks one voter, then two more at a time, each once.
    pub(crate) fn ask_for_proposal(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(mut overlooked) = self.overlooked.take() else {
            return;
        };
        let id = overlooked.id;
        if overlooked.round != self.pace.round || self.loose_header(&id).is_some() {
            return;
        }
        if overlooked.due_us > now.mono_us {
            self.overlooked = Some(overlooked);
            return;
        }
        let asked = &mut overlooked.asked;
        let mut voters: Vec<ValidatorIndex> = self
            .votes
            .voters(overlooked.round, &id)
            .filter(|voter| self.peers[voter.at()].up && *voter != self.config.me)
            .filter(|voter| !asked.contains(voter))
            .collect();
        voters.sort_by_key(|voter| self.peers[voter.at()].kept_back);
        let at_once = if asked.is_empty() { 1 } else { 2 };
        for to in voters.into_iter().take(at_once) {
            asked.push(to);
            let request = GetBlocks {
                from: id,
                stop_height: self.tree.root().height,
                max: 1,
            };
            self.counters.proposals_pulled += 1;
            let message = PeerMessage::GetBlocks(request);
            out.push(Effect::Send { to, message });
        }
        overlooked.due_us = now.mono_us + self.times.retry_us();
        self.overlooked = Some(overlooked);
    }

    /// The answer, as if the leader had sent it.
    pub(crate) fn take_proposal(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        headers: &[Verified<SignedHeader>],
        out: &mut Vec<Effect>,
    ) {
        let wanted = self.overlooked.as_ref().map(|overlooked| overlooked.id);
        let Some(header) = headers.first().filter(|h| Some(h.id()) == wanted) else {
            return;
        };
        self.overlooked = None;
        let header = Arc::new(SignedHeader::clone(header));
        self.on_header(now, from, header, out);
    }
}
