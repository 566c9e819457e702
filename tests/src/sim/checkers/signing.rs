//! What validators sign: on the wire and in their safety records.

use std::collections::{BTreeMap, BTreeSet};

use falconet_hotstuff::SafetyRecord;
use falconet_types::block::HeaderKind;
use falconet_types::certificate::{Qc, Timeout, Vote};
use falconet_types::message::PeerMessage;
use falconet_types::{BlockId, Epoch, Round, ValidatorIndex};

use super::{Check, Eras, ensure};

/// Nobody contradicts itself, over restarts too: one vote, one timeout, one header a round (and
/// kind), always with the same bytes. And nobody speaks for another: a certificate that a correct
/// node sends, by itself or in a TC, an epoch's proof or a manifest, holds no vote or timeout of a
/// correct validator that this one did not send.
#[derive(Debug, Clone, Default)]
pub struct SelfConsistency {
    votes: BTreeMap<(usize, Epoch, Round), PeerMessage>,
    timeouts: BTreeMap<(usize, Epoch, Round), PeerMessage>,
    commit_votes: BTreeMap<(usize, Epoch, Round), PeerMessage>,
    /// Timeouts that were sent by themselves. A TC may carry one that was durable when the node
    /// crashed before it sent anything, and after the restart the vote before it is sent first.
    gave_up: BTreeSet<(usize, Epoch, Round)>,
    headers: BTreeMap<(usize, Epoch, Round, HeaderKind), PeerMessage>,
}

impl SelfConsistency {
    /// A message left a correct node. `correct` says of which nodes every message is seen here.
    pub fn sent(
        &mut self,
        node: usize,
        message: &PeerMessage,
        eras: &Eras,
        correct: impl Fn(usize) -> bool,
    ) -> Check {
        let is = |epoch, index| eras.who(epoch, index) == Some(node);
        let known = match message {
            PeerMessage::Vote(vote) if is(vote.epoch, vote.voter) => {
                let key = (node, vote.epoch, vote.round);
                let last = (node, vote.epoch, Round(u64::MAX));
                ensure!(
                    self.votes.contains_key(&key)
                        || self.gave_up.range(key..=last).next().is_none(),
                    "node {node} votes in round {} after it gave up that or a later one",
                    vote.round
                );
                self.votes.entry(key)
            }
            PeerMessage::CommitVote(vote) if is(vote.epoch, vote.voter) => {
                let key = (node, vote.epoch, vote.round);
                let last = (node, vote.epoch, Round(u64::MAX));
                ensure!(
                    self.commit_votes.contains_key(&key)
                        || self.gave_up.range(key..=last).next().is_none(),
                    "node {node} votes to commit in round {} after it gave up that or a later one",
                    vote.round
                );
                self.commit_votes.entry(key)
            }
            PeerMessage::Timeout(timeout) if is(timeout.epoch, timeout.author) => {
                let key = (node, timeout.epoch, timeout.round);
                let first = (node, timeout.epoch, timeout.hqc_round.next());
                let above = (first <= key).then(|| self.commit_votes.range(first..=key).next());
                ensure!(
                    above.flatten().is_none(),
                    "node {node} gives up round {} with a QC of {}, below what it voted to commit",
                    timeout.round,
                    timeout.hqc_round
                );
                self.gave_up.insert(key);
                self.timeouts.entry(key)
            }
            PeerMessage::Header(header) if is(header.epoch, header.author) => {
                let key = (node, header.epoch, header.round, header.kind);
                let known = self.headers.entry(key).or_insert_with(|| message.clone());
                ensure!(known == message, "node {node} signs two headers: {key:?}");
                return Ok(());
            }
            PeerMessage::Qc(qc) => return self.certificate(node, qc, eras, &correct),
            PeerMessage::Tc(tc) => {
                for entry in &tc.entries {
                    let who = eras.who(tc.epoch, entry.author);
                    let Some(who) = who.filter(|who| correct(*who)) else {
                        continue;
                    };
                    if who == node {
                        let timeout = Timeout {
                            epoch: tc.epoch,
                            round: tc.round,
                            hqc_round: entry.hqc_round,
                            hqc_id: entry.hqc_id,
                            author: entry.author,
                            signature: entry.signature.clone(),
                        };
                        let key = (node, tc.epoch, tc.round);
                        let said = self.timeouts.entry(key);
                        said.or_insert(PeerMessage::Timeout(timeout));
                    }
                    let said = self.timeouts.get(&(who, tc.epoch, tc.round));
                    let so = matches!(said, Some(PeerMessage::Timeout(timeout))
                        if timeout.hqc_round == entry.hqc_round && timeout.hqc_id == entry.hqc_id);
                    ensure!(
                        so,
                        "node {node} sends a TC of round {} with a timeout that validator {} \
                         never sent",
                        tc.round,
                        entry.author
                    );
                }
                // Who holds a TC holds this QC, too, and may show it by itself from then on.
                return self.certificate(node, &tc.max_qc, eras, &correct);
            }
            PeerMessage::EpochProof(proof) => {
                return self.certificate(node, &proof.qc, eras, &correct);
            }
            PeerMessage::Snapshot(offer) => {
                let manifest = offer.manifest.as_ref();
                return manifest.map_or(Ok(()), |manifest| {
                    self.certificate(node, &manifest.qc, eras, &correct)
                });
            }
            _ => return Ok(()),
        };
        let known = known.or_insert_with(|| message.clone());
        ensure!(
            known == message,
            "node {node} contradicts itself: {known:?}, then {message:?}"
        );
        Ok(())
    }

    /// A QC left a correct node, by itself or inside of something.
    fn certificate(
        &mut self,
        node: usize,
        qc: &Qc,
        eras: &Eras,
        correct: impl Fn(usize) -> bool,
    ) -> Check {
        for (voter, signature) in &qc.votes {
            let Some(who) = eras.who(qc.epoch, *voter).filter(|who| correct(*who)) else {
                continue;
            };
            if who == node {
                // Words of its own count as said: a crash may have come before the send.
                let vote = Vote {
                    epoch: qc.epoch,
                    round: qc.round,
                    block_id: qc.block_id,
                    parent_round: qc.parent_round,
                    voter: *voter,
                    signature: signature.clone(),
                };
                let key = (node, qc.epoch, qc.round);
                let said = self.votes.entry(key);
                said.or_insert(PeerMessage::Vote(vote));
            }
            let said = self.votes.get(&(who, qc.epoch, qc.round));
            let so = matches!(said, Some(PeerMessage::Vote(vote))
                if vote.block_id == qc.block_id && vote.parent_round == qc.parent_round);
            ensure!(
                so,
                "node {node} sends a QC of round {} with a vote that validator {voter} never sent",
                qc.round
            );
        }
        Ok(())
    }
}

/// A vote for a block whose parent is not of the round before stands on a TC whose timeouts name
/// no QC above that parent (rule V4). Faulty validators can sign any timeout; for the rest of a
/// quorum, correct validators must have sent theirs.
#[derive(Debug, Clone, Default)]
pub struct Justification {
    /// The QC's round that each correct validator named.
    named: BTreeMap<(Epoch, Round), BTreeMap<ValidatorIndex, Round>>,
}

impl Justification {
    /// A message left a correct node.
    pub fn sent(
        &mut self,
        node: usize,
        message: &PeerMessage,
        eras: &Eras,
        faulty: impl Fn(usize) -> bool,
    ) -> Check {
        let is = |epoch, index| eras.who(epoch, index) == Some(node);
        match message {
            PeerMessage::Timeout(timeout) if is(timeout.epoch, timeout.author) => {
                let round = (timeout.epoch, timeout.round);
                let named = self.named.entry(round).or_default();
                named.insert(timeout.author, timeout.hqc_round);
            }
            PeerMessage::Tc(tc) => {
                for entry in tc.entries.iter().filter(|e| is(tc.epoch, e.author)) {
                    let named = self.named.entry((tc.epoch, tc.round)).or_default();
                    named.insert(entry.author, entry.hqc_round);
                }
            }
            PeerMessage::Vote(vote)
                if is(vote.epoch, vote.voter) && vote.parent_round.next() != vote.round =>
            {
                let Some(set) = eras.set(vote.epoch) else {
                    return Err(format!("node {node} votes in an epoch that nobody began"));
                };
                let named = self.named.get(&(vote.epoch, vote.round.prev()));
                // Its own timeout may have been durable at a crash and never sent.
                let unsent = named.is_none_or(|named| !named.contains_key(&vote.voter));
                let own = if unsent { set.weight(vote.voter) } else { 0 };
                let low = named.into_iter().flatten();
                let low = low.filter(|(_, round)| **round <= vote.parent_round);
                let most: u64 = low.map(|(author, _)| set.weight(*author)).sum::<u64>()
                    + own
                    + set
                        .iter()
                        .filter(|v| eras.who(vote.epoch, v.index).is_some_and(&faulty))
                        .map(|v| v.weight)
                        .sum::<u64>();
                ensure!(
                    most * 3 > set.total_weight() * 2,
                    "node {node} votes in round {} on a parent of round {}, which no TC justifies",
                    vote.round,
                    vote.parent_round
                );
            }
            _ => {}
        }
        Ok(())
    }
}

/// The last record of a node: epoch, block and round of the lock, last vote, highest timeout, last
/// commit vote.
type Last = (Epoch, (Round, BlockId), Round, Round, Round);

/// The durable safety record never goes back, and never locks below what it voted on.
#[derive(Debug, Default)]
pub struct Locks {
    last: BTreeMap<usize, Last>,
}

impl Locks {
    /// The record on a node's disk.
    pub fn durable(&mut self, node: usize, record: &SafetyRecord) -> Check {
        let locked = (record.locked.round, record.locked.block_id);
        let now = (
            record.epoch,
            locked,
            record.last_voted_round,
            record.highest_timeout_round,
            (record.last_commit_vote.as_ref()).map_or(Round::ZERO, |vote| vote.round),
        );
        let last = *self.last.entry(node).or_insert(now);
        ensure!(
            now.0 >= last.0,
            "node {node}: its safety record went back to epoch {} from {}",
            now.0,
            last.0
        );
        ensure!(
            now.0 > last.0
                || (now.1.0 >= last.1.0 && now.2 >= last.2 && now.3 >= last.3 && now.4 >= last.4),
            "node {node}: its safety record went back from {last:?} to {now:?}"
        );
        ensure!(
            now.0 > last.0 || now.1.0 > last.1.0 || now.1.1 == last.1.1,
            "node {node} is locked on another block of round {} than before",
            now.1.0
        );
        if let Some(vote) = record.last_vote.as_ref()
            && vote.epoch == record.epoch
        {
            ensure!(
                record.locked.round >= vote.parent_round,
                "node {node} voted on round {} and is locked on {}",
                vote.parent_round,
                record.locked.round
            );
        }
        ensure!(
            record.locked.round >= now.4,
            "node {node} voted to commit in round {} and is locked on {}",
            now.4,
            record.locked.round
        );
        self.last.insert(node, now);
        Ok(())
    }
}
