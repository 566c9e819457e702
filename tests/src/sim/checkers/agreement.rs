//! One chain, one state, and the data behind it.

use std::collections::{BTreeMap, BTreeSet};

use falconet_hotstuff::Committed;
use falconet_ledger::BlockResult;
use falconet_types::block::{Cut, genesis_id};
use falconet_types::certificate::Qc;
use falconet_types::message::PeerMessage;
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, ChainId, Digest, Height, ValidatorIndex};

use super::super::disk::Disk;
use super::super::keys;
use super::{Check, ensure};

/// Agreement: one block a height, one state a height; commits go up by one on each node, over
/// restarts too; each commit is proven.
#[derive(Debug, Default)]
pub struct Agreement {
    chain: Vec<BlockId>,
    states: BTreeMap<Height, Digest>,
    /// Committed height of each node.
    heights: BTreeMap<usize, u64>,
    executed: BTreeMap<usize, u64>,
    /// Who voted to commit what.
    commit_votes: BTreeMap<BlockId, BTreeSet<ValidatorIndex>>,
}

impl Agreement {
    /// A message left a correct node, which is the validator of the same number.
    pub fn sent(&mut self, node: usize, message: &PeerMessage) {
        if let PeerMessage::CommitVote(vote) = message
            && vote.voter.at() == node
        {
            let voters = self.commit_votes.entry(vote.block_id).or_default();
            voters.insert(vote.voter);
        }
    }

    /// A quorum may have voted to commit the block: the correct ones who said so, the node that
    /// counts (its own vote may not have left it yet), and all faulty ones.
    fn voted(
        &self,
        node: usize,
        id: &BlockId,
        set: &ValidatorSet,
        faulty: impl Fn(ValidatorIndex) -> bool,
    ) -> bool {
        let said = self.commit_votes.get(id);
        let counts = |v: &ValidatorIndex| {
            v.at() == node || faulty(*v) || said.is_some_and(|said| said.contains(v))
        };
        let all = set.iter().map(|validator| validator.index);
        set.weight_of(all.filter(counts)) * 3 > set.total_weight() * 2
    }

    /// A node committed a block, durably.
    pub fn committed(
        &mut self,
        node: usize,
        block: &Committed,
        chain: ChainId,
        set: &ValidatorSet,
        disk: &Disk,
        faulty: impl Fn(ValidatorIndex) -> bool,
    ) -> Check {
        let header = &block.header;
        let height = self.heights.entry(node).or_default();
        ensure!(
            header.height.0 == *height + 1,
            "node {node} commits height {} after {height}",
            header.height
        );
        *height += 1;
        let at = *height as usize - 1;
        match self.chain.get(at) {
            Some(id) => ensure!(
                *id == header.id(),
                "agreement: node {node} commits {} at height {}, another node {id}",
                header.id(),
                header.height
            ),
            None => {
                ensure!(
                    at == 0 || header.parent_id == self.chain[at - 1],
                    "node {node} commits height {} on another parent than the chain's",
                    header.height
                );
                self.chain.push(header.id());
            }
        }
        let voted = |id: &BlockId| self.voted(node, id, set, &faulty);
        proven(node, block, chain, set, disk, voted)
    }

    /// A node starts again with what is on its disk.
    pub fn restarted(&mut self, node: usize, disk: &Disk) -> Check {
        let committed = disk.committed();
        let height = self.heights.entry(node).or_default();
        ensure!(
            committed.len() as u64 >= *height,
            "node {node} forgot commits: {} on disk, {height} announced",
            committed.len()
        );
        for (at, id) in committed.iter().enumerate() {
            match self.chain.get(at) {
                Some(known) => ensure!(
                    known == id,
                    "agreement: node {node} has {id} at height {} on its disk, another {known}",
                    at + 1
                ),
                None => {
                    let parent = disk.header(id).map(|header| header.parent_id);
                    ensure!(
                        at == 0 || parent == Some(self.chain[at - 1]),
                        "node {node} has {id} committed on another parent than the chain's"
                    );
                    self.chain.push(*id);
                }
            }
        }
        // Marks may be durable that were not announced before the crash.
        *height = committed.len() as u64;
        self.executed.insert(node, 0);
        Ok(())
    }

    /// A node executed a block (perhaps again, after a restart).
    pub fn executed(&mut self, node: usize, result: &BlockResult) -> Check {
        let height = self.executed.entry(node).or_default();
        ensure!(
            result.height.0 == *height + 1,
            "node {node} executes height {} after {height}",
            result.height
        );
        *height += 1;
        let state = result.commitment();
        let known = *self.states.entry(result.height).or_insert(state);
        ensure!(
            known == state,
            "states differ at height {}: node {node} has {state}, another {known}",
            result.height
        );
        Ok(())
    }

    /// Highest committed height of any node.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.chain.len() as u64
    }

    /// Committed and executed height of a node.
    #[must_use]
    pub fn heights_of(&self, node: usize) -> (u64, u64) {
        let of = |map: &BTreeMap<usize, u64>| map.get(&node).copied().unwrap_or(0);
        (of(&self.heights), of(&self.executed))
    }
}

/// The proof's QC is a quorum's, and the headers from the certified block down to the committed
/// one, as they are in the node's log, hold two of consecutive rounds at or above the block, or one
/// that a quorum voted to commit.
fn proven(
    node: usize,
    block: &Committed,
    chain: ChainId,
    set: &ValidatorSet,
    disk: &Disk,
    voted: impl Fn(&BlockId) -> bool,
) -> Check {
    let (child, qc) = (&block.proof.child, &block.proof.qc);
    let weight = set.weight_of(qc.votes.iter().map(|(voter, _)| *voter));
    let voters: BTreeSet<_> = qc.votes.iter().map(|(voter, _)| *voter).collect();
    let id = block.header.id();
    ensure!(
        qc.block_id == child.id()
            && qc.round == child.round
            && voters.len() == qc.votes.len()
            && weight * 3 > set.total_weight() * 2
            && signed(chain, set, qc)
            && child.height >= block.header.height,
        "node {node} commits {id} with something that is no proof"
    );
    let mut at = child.header();
    let mut consecutive = false;
    loop {
        consecutive |= voted(&at.id());
        if at.id() == id {
            break;
        }
        consecutive |= at.parent_round.next() == at.round;
        let below = disk.header(&at.parent_id);
        let Some(below) = below.filter(|below| below.height >= block.header.height) else {
            return Err(format!(
                "node {node}: the proof of {id} proves another block"
            ));
        };
        at = below.header();
    }
    ensure!(
        consecutive,
        "node {node} commits {id} without consecutive rounds or commit votes"
    );
    Ok(())
}

/// Every signature is its voter's, over the vote that the QC is made of.
fn signed(chain: ChainId, set: &ValidatorSet, qc: &Qc) -> bool {
    qc.votes.iter().all(|(voter, signature)| {
        set.get(*voter).is_some_and(|validator| {
            let vote = keys::vote(chain, qc, *voter);
            vote.voter == *voter
                && validator.key == *keys::validator(voter.at())
                && vote.signature == *signature
        })
    })
}

/// Every committed batch is on the disk of some node.
#[derive(Debug, Default)]
pub struct Availability {
    cuts: BTreeMap<u64, Cut>,
}

impl Availability {
    /// A block was committed for the first time.
    pub fn committed(&mut self, block: &Committed, disks: &[&Disk]) -> Check {
        let height = block.header.height.0;
        if self.cuts.insert(height, block.header.cut.clone()).is_some() {
            return Ok(());
        }
        for (lane, old, new) in block.header.cut.advances(&block.parent_cut) {
            let mut hash = new.hash;
            for seq in (old.seq.0 + 1..=new.seq.0).rev() {
                let batch = disks.iter().find_map(|disk| disk.batch(&hash));
                let Some(batch) = batch else {
                    return Err(format!(
                        "batch {seq} of lane {lane}, committed at height {height}, is on no disk"
                    ));
                };
                hash = batch.header().prev_hash;
            }
            ensure!(
                hash == old.hash,
                "lane {lane} was committed with a gap at height {height}"
            );
        }
        Ok(())
    }
}

/// The first block extends genesis.
pub fn extends_genesis(block: &Committed, chain: ChainId) -> Check {
    ensure!(
        block.header.height != Height(1) || block.header.parent_id == genesis_id(chain),
        "the first block does not extend genesis"
    );
    Ok(())
}
