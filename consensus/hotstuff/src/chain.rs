//! From certificates to committed blocks: connecting certified blocks to the tree, fetching what
//! is missing between, and the commit rule.

use std::collections::BTreeSet;
use std::sync::Arc;

use falconet_types::block::SignedHeader;
use falconet_types::certificate::Qc;
use falconet_types::ids::FOLLOWERS_MAX;
use falconet_types::message::{BLOCKS_PER_ANSWER_MAX, GetBlocks, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::time::Now;
use falconet_types::{BlockId, ValidatorIndex};

use crate::api::{Alarm, CommitProof, Committed, Effect, Record};
use crate::core::HotStuff;
use crate::misbehaviour::Misbehaviour;
use crate::reputation::window_rounds;
use crate::sync::{Step, Walk};

impl HotStuff {
    /// Connects a certified block to the tree, or walks towards that. True when something
    /// changed that other rules may depend on.
    pub(crate) fn try_connect(&mut self, now: Now, out: &mut Vec<Effect>) -> bool {
        if self.ended.is_some() {
            return false; // N2: nothing above the epoch's last block is of interest
        }
        self.choose_target(now);
        let Some(mut walk) = self.walk.take() else {
            return false;
        };
        loop {
            if self.tree.contains(&walk.cursor) {
                return self.connect(walk, out);
            }
            let below_root = walk
                .expected
                .is_some_and(|(_, height)| height <= self.tree.root().height);
            let Some(header) = self.loose_header(&walk.cursor).cloned() else {
                if below_root {
                    self.conflict(&walk, out);
                } else {
                    self.walk = Some(walk);
                }
                return false;
            };
            if below_root || walk.step(header) == Step::Broken {
                self.conflict(&walk, out);
                return false;
            }
        }
    }

    /// The commit rule (rule C2): a certified C whose round follows its parent's commits the parent
    /// and all ancestors. C is certified when its QC is held, or when it is an ancestor of a block
    /// whose QC is held. All nodes that hold the same high QC thus commit the same blocks, which
    /// they need to agree on the executed state that headers name.
    pub(crate) fn try_commit(&mut self, out: &mut Vec<Effect>) -> bool {
        if !std::mem::take(&mut self.commit_may_advance) || self.ended.is_some() {
            return false;
        }
        let mut seen = BTreeSet::new();
        let end = self.end_shown.iter();
        let found = end.chain(self.certificates.qcs_from_high()).find_map(|qc| {
            let tip = self.tree.get(&qc.block_id)?;
            let mut child = tip;
            while child.parent_id != self.tree.root().id && seen.insert(child.id()) {
                let consecutive = child.parent_round.next() == child.round
                    || self.rules.misbehaving.by(Misbehaviour::CommitAcrossGaps);
                if consecutive {
                    let own = self.certificates.qc(child.round, &child.id());
                    let (header, qc) = own.map_or((tip, qc), |own| (child, own));
                    let proof = CommitProof {
                        child: header.clone(),
                        qc: qc.clone(),
                    };
                    return Some((child.parent_id, proof));
                }
                child = self.tree.get(&child.parent_id)?;
            }
            None
        });
        let by_chain = found.is_some();
        if let Some((id, proof)) = found {
            self.commit(&id, proof, out);
        }
        self.try_commit_by_votes(out) || by_chain
    }

    /// Headers that a peer sent (rule Y2): judged by content alone.
    pub(crate) fn on_blocks(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        headers: Vec<Verified<SignedHeader>>,
        out: &mut Vec<Effect>,
    ) {
        if self.take_past(&headers) {
            return;
        }
        self.take_proposal(now, from, &headers, out);
        let Some(mut walk) = self.walk.take() else {
            return;
        };
        let blocks_per_answer = self.blocks_per_answer();
        let mut taken = 0;
        for header in headers.into_iter().take(BLOCKS_PER_ANSWER_MAX) {
            if self.tree.contains(&walk.cursor) {
                break;
            }
            match walk.step(Arc::new(header.into_inner())) {
                Step::Taken => taken += 1,
                Step::Other => break,
                Step::Broken => {
                    self.conflict(&walk, out);
                    return;
                }
            }
        }
        if taken > 0 {
            walk.failures = 0;
            walk.asked.clear();
            if taken * 2 >= blocks_per_answer || self.tree.contains(&walk.cursor) {
                walk.source = Some(from);
                walk.tried.clear();
                if let Some(peer) = self.peers.get_mut(from.at()) {
                    peer.kept_back = 0;
                }
            } else {
                // It ends where the peer's memory does, or the peer leads this node on by a header
                // at a time: somebody else goes on.
                walk.source = None;
                if !walk.tried.contains(&from) {
                    walk.tried.push(from);
                }
            }
            walk.due_us = now.mono_us;
        }
        self.walk = Some(walk);
    }

    /// Sends the requests that are due: certificates and headers.
    pub(crate) fn ask(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.ask_for_certificates(now, out);
        self.ask_for_proposal(now, out);
        if let Some(mut walk) = self.walk.take_if(|walk| walk.due_us <= now.mono_us) {
            self.ask_for_headers(now, &mut walk, out);
            self.walk = Some(walk);
        }
    }

    fn ask_for_headers(&mut self, now: Now, walk: &mut Walk, out: &mut Vec<Effect>) {
        let request = GetBlocks {
            from: walk.cursor,
            stop_height: self.tree.root().height,
            max: u16::try_from(BLOCKS_PER_ANSWER_MAX).expect("fits"),
        };
        let wait = self.times.retry_us() << walk.failures.min(8);
        walk.due_us = now.mono_us + wait.min(self.times.round_us);
        let attempt = walk.failures;
        walk.failures = walk.failures.saturating_add(1);
        // First whoever answered last, or the author; then voters of the certificate, two at a
        // time; then everybody in turn: those outside the set too, among whom are, for a node that
        // is behind by epochs, the validators of today. Whoever kept something back of late comes
        // after those who did not. Who voted for a block holds it.
        let voted = |peer: &ValidatorIndex| walk.target.votes.iter().any(|(v, _)| v == peer);
        self.note_kept_back(std::mem::take(&mut walk.asked).into_iter().filter(voted));
        let author = self.config.set.leader(walk.target.round); // a guess
        let first = walk.source.unwrap_or(author);
        let voters = walk.target.votes.iter().map(|(voter, _)| *voter);
        let all = self.config.set.iter().map(|v| v.index);
        let mut order: Vec<ValidatorIndex> = Vec::new();
        let others = (0..FOLLOWERS_MAX).map(ValidatorIndex::of_follower);
        let everybody = voters.chain(all).chain(others);
        for peer in [first, author].into_iter().chain(everybody) {
            if self.peers[peer.at()].up && peer != self.config.me && !order.contains(&peer) {
                order.push(peer);
            }
        }
        if order.iter().all(|peer| walk.tried.contains(peer)) {
            walk.tried.clear();
        }
        order.sort_by_key(|p| (walk.tried.contains(p), self.peers[p.at()].kept_back));
        for to in order.into_iter().take(if attempt == 0 { 1 } else { 2 }) {
            walk.asked.push(to);
            walk.tried.push(to);
            self.counters.block_requests += 1;
            let message = PeerMessage::GetBlocks(request);
            out.push(Effect::Send { to, message });
        }
    }

    /// The block that must be connected first: that which ends the epoch, if a peer has shown it;
    /// that of the highest QC; else the certified parent of a proposal for the current round.
    fn choose_target(&mut self, now: Now) {
        let root = self.tree.root().round;
        if let Some(walk) = &self.walk {
            let over = walk.target.round <= root || self.tree.contains(&walk.target.block_id);
            if !over {
                return;
            }
        }
        let high = self.certificates.high_qc();
        let dead = |qc: &Qc| self.dead_target == Some(qc.block_id);
        let missing =
            |qc: &&Arc<Qc>| qc.round > root && !self.tree.contains(&qc.block_id) && !dead(qc);
        let end = self.end_shown.as_ref().filter(missing);
        let target = end.or(Some(high).filter(missing)).or_else(|| {
            self.candidates().find_map(|header| {
                self.certificates
                    .qc(header.parent_round, &header.parent_id)
                    .filter(missing)
            })
        });
        // What should arrive by itself gets a little time to do so.
        self.walk = target.map(|qc| Walk::new(qc.clone(), now.mono_us + self.times.grace_us()));
    }

    fn connect(&mut self, mut walk: Walk, out: &mut Vec<Effect>) -> bool {
        self.commit_may_advance = true;
        for header in walk.run.iter().rev() {
            let slot = self.slots.get_mut(&(header.round, header.kind));
            let logged = self.shelf.contains_key(&header.id())
                || slot
                    .filter(|slot| slot.header.id() == header.id())
                    .is_some_and(|slot| std::mem::replace(&mut slot.logged, true));
            if !self.tree.insert(header.clone()) {
                self.conflict(&walk, out);
                return false;
            }
            if !logged {
                self.persist(Record::Header(header.clone()), out);
            }
        }
        if let Some(proof) = walk.proof.clone()
            && !walk.checkpoints.is_empty()
            && let Some(newest) = walk.run.first()
        {
            let id = newest.id();
            self.persist(Record::Header(proof.child.clone()), out);
            self.commit(&id, proof, out);
        }
        if self.ended.is_none() && walk.next_run() {
            self.walk = Some(walk);
        }
        true
    }

    /// Commits up to `id`, or up to the epoch's last block below it (rule N2).
    pub(crate) fn commit(&mut self, id: &BlockId, proof: CommitProof, out: &mut Vec<Effect>) {
        // The proof nearest above each block: its own child's, when that is certified and
        // consecutive, else that of the block after it.
        let path = self.tree.path(id);
        let mut proofs = Vec::with_capacity(path.len());
        let mut nearest = proof;
        let mut child: Option<&Arc<SignedHeader>> = None;
        for header in path.iter().rev() {
            if let Some(child) = child
                && child.parent_round.next() == child.round
                && let Some(qc) = self.certificates.qc(child.round, &child.id())
            {
                nearest = CommitProof {
                    child: child.clone(),
                    qc: qc.clone(),
                };
            }
            proofs.push(nearest.clone());
            child = Some(header);
        }
        let last = path.iter().find(|header| self.ends_epoch(header)).cloned();
        let committed = self
            .tree
            .commit(&last.as_ref().map_or(*id, |last| last.id()));
        for ((header, parent_cut), proof) in committed.into_iter().zip(proofs.into_iter().rev()) {
            self.counters.blocks_committed += 1;
            let rounds = window_rounds(&self.config.set);
            self.reputation.count(&header, rounds);
            let mark = Record::Committed {
                height: header.height,
                block_id: header.id(),
                proof: proof.clone(),
            };
            self.persist(mark, out);
            out.push(Effect::Commit(Committed {
                header,
                parent_cut,
                proof,
            }));
        }
        self.pace.failed_rounds = 0;
        let root = self.tree.root();
        self.certificates.prune_below(root.round);
        let height = root.height;
        self.shelf.retain(|_, header| header.height > height);
        if let Some(last) = last {
            self.end_epoch(last, out);
        }
    }

    /// A certified chain that does not contain the committed block: more than a third of the
    /// weight is faulty. Nothing this node could sign would help.
    fn conflict(&mut self, walk: &Walk, out: &mut Vec<Effect>) {
        self.dead_target = Some(walk.target.block_id);
        if walk.target.round <= self.tree.root().round {
            return;
        }
        let committed = self.tree.root().id;
        self.silent_for_good = true;
        self.not_signing.get_or_insert_with(|| {
            format!(
                "a certified chain does not contain block {committed}, which is committed here: \
                 more than a third of the validators' weight is faulty"
            )
        });
        out.push(Effect::Alarm(Alarm::ConflictingChain {
            committed,
            certified: walk.target.block_id,
        }));
    }

    /// A header that is held but not in the tree.
    pub(crate) fn loose_header(&self, id: &BlockId) -> Option<&Arc<SignedHeader>> {
        let mut slots = self.slots.values();
        slots
            .find(|slot| slot.header.id() == *id)
            .map(|slot| &slot.header)
            .or_else(|| self.shelf.get(id))
    }

    /// The proposals for the current round.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &Arc<SignedHeader>> {
        let round = self.pace.round;
        self.slots
            .range(
                (round, falconet_types::block::HeaderKind::Normal)
                    ..=(round, falconet_types::block::HeaderKind::Recovery),
            )
            .map(|(_, slot)| &slot.header)
    }
}
