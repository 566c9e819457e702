//! One chain, one state, and the data behind it.

use std::collections::{BTreeMap, BTreeSet};

use falconet_hotstuff::Committed;
use falconet_ledger::BlockResult;
use falconet_types::block::{Cut, SignedHeader, genesis_id};
use falconet_types::certificate::Qc;
use falconet_types::message::PeerMessage;
use falconet_types::{BlockId, ChainId, Digest, Epoch, Height, ValidatorIndex};

use super::super::disk::Disk;
use super::super::keys;
use super::{Check, Eras, ensure};

/// Agreement: one block a height, one state a height; commits go up by one on each node, over
/// restarts too; each commit is proven.
#[derive(Debug, Default)]
pub struct Agreement {
    chain: BTreeMap<u64, BlockId>,
    epoch: Epoch,
    states: BTreeMap<Height, Digest>,
    /// Committed height of each node.
    heights: BTreeMap<usize, u64>,
    executed: BTreeMap<usize, u64>,
    /// Which nodes voted to commit what.
    commit_votes: BTreeMap<BlockId, BTreeSet<usize>>,
}

impl Agreement {
    /// A message left a correct node.
    pub fn sent(&mut self, node: usize, message: &PeerMessage, eras: &Eras) {
        if let PeerMessage::CommitVote(vote) = message
            && eras.who(vote.epoch, vote.voter) == Some(node)
        {
            let voters = self.commit_votes.entry(vote.block_id).or_default();
            voters.insert(node);
        }
    }

    /// A quorum may have voted to commit the block: the correct ones who said so, the node that
    /// counts (its own vote may not have left it yet), and all faulty ones.
    fn voted(
        &self,
        node: usize,
        block: (Epoch, BlockId),
        eras: &Eras,
        faulty: impl Fn(usize) -> bool,
    ) -> bool {
        let (epoch, id) = block;
        let Some(set) = eras.set(epoch) else {
            return false;
        };
        let said = self.commit_votes.get(&id);
        let counts = |v: &ValidatorIndex| {
            let who = eras.who(epoch, *v).expect("it is in the set");
            who == node || faulty(who) || said.is_some_and(|said| said.contains(&who))
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
        eras: &Eras,
        disk: &Disk,
        faulty: impl Fn(usize) -> bool,
    ) -> Check {
        let header = &block.header;
        let Some(era) = eras.info(header.epoch) else {
            return Err(format!(
                "node {node} commits in epoch {}, which nobody began",
                header.epoch
            ));
        };
        let height = self.heights.entry(node).or_default();
        ensure!(
            header.height.0 == *height + 1,
            "node {node} commits height {} after {height}",
            header.height
        );
        *height += 1;
        let at = *height;
        match self.chain.get(&at) {
            Some(id) => ensure!(
                *id == header.id(),
                "agreement: node {node} commits {} at height {}, another node {id}",
                header.id(),
                header.height
            ),
            None => {
                let parent = if header.height == era.start.height.next() {
                    Some(&era.start.id)
                } else {
                    // One that everybody skipped by snapshot is not known.
                    self.chain.get(&(at - 1))
                };
                ensure!(
                    parent.is_none_or(|parent| header.parent_id == *parent),
                    "node {node} commits height {} on another parent than the chain's",
                    header.height
                );
                let (epoch, above) = (header.epoch, eras.info(header.epoch.next()));
                ensure!(
                    epoch >= self.epoch
                        && above.is_none_or(|next| header.height <= next.start.height),
                    "node {node} commits height {} in epoch {epoch}, which was over",
                    header.height
                );
                self.epoch = epoch;
                self.chain.insert(at, header.id());
            }
        }
        let epoch = header.epoch;
        let voted = |id: &BlockId| self.voted(node, (epoch, *id), eras, &faulty);
        proven(node, block, chain, eras, disk, voted)
    }

    /// A node starts again with what is on its disk.
    pub fn restarted(&mut self, node: usize, disk: &Disk) -> Check {
        let last = disk.last_committed().0;
        let height = self.heights.entry(node).or_default();
        ensure!(
            last >= *height,
            "node {node} forgot commits: {last} is on disk, {height} was announced"
        );
        for (height, id) in disk.committed() {
            let at = height.0;
            match self.chain.get(&at) {
                Some(known) => ensure!(
                    *known == id,
                    "agreement: node {node} has {id} at height {at} on its disk, another {known}"
                ),
                None => {
                    let header = disk.header(&id);
                    let parent = header.map(|header| header.parent_id);
                    let first = header.is_some_and(|header| header.epoch > self.epoch);
                    let below = self.chain.get(&(at - 1));
                    ensure!(
                        first || below.is_none_or(|below| parent == Some(*below)),
                        "node {node} has {id} committed on another parent than the chain's"
                    );
                    self.epoch = header.map_or(self.epoch, |header| header.epoch.max(self.epoch));
                    self.chain.insert(at, id);
                }
            }
        }
        // Marks may be durable that were not announced before the crash, and a snapshot skips some.
        *height = last;
        self.executed.insert(node, disk.files.state_height().0);
        Ok(())
    }

    /// A node holds the state of a height without having executed up to it: its own from before a
    /// restart, or one that others gave it.
    pub fn holds(&mut self, node: usize, height: Height, state: Digest) -> Check {
        ensure!(
            self.chain.contains_key(&height.0),
            "node {node} holds a state of height {height}, at which nothing was committed"
        );
        self.state(node, height, state)
    }

    /// The state that everybody has at a height, as far as anybody executed it.
    #[must_use]
    pub fn state_at(&self, height: Height) -> Option<Digest> {
        self.states.get(&height).copied()
    }

    fn state(&mut self, node: usize, height: Height, state: Digest) -> Check {
        let known = *self.states.entry(height).or_insert(state);
        ensure!(
            known == state,
            "states differ at height {height}: node {node} has {state}, another {known}"
        );
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
        self.state(node, result.height, result.commitment())
    }

    /// Highest committed height of any node.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.chain.last_key_value().map_or(0, |(height, _)| *height)
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
    eras: &Eras,
    disk: &Disk,
    voted: impl Fn(&BlockId) -> bool,
) -> Check {
    let (child, qc) = (&block.proof.child, &block.proof.qc);
    // Its own epoch's validators, and only theirs.
    let epoch = block.header.epoch;
    let set = eras.set(epoch).expect("the epoch is known");
    let weight = set.weight_of(qc.votes.iter().map(|(voter, _)| *voter));
    let voters: BTreeSet<_> = qc.votes.iter().map(|(voter, _)| *voter).collect();
    let id = block.header.id();
    ensure!(
        qc.block_id == child.id()
            && (qc.epoch, child.epoch) == (epoch, epoch)
            && qc.round == child.round
            && voters.len() == qc.votes.len()
            && weight * 3 > set.total_weight() * 2
            && signed(chain, eras, qc)
            && child.height >= block.header.height,
        "node {node} commits {id} with something that is no proof"
    );
    // Signed headers know their ids: who slept commits thousands of blocks by one proof, and each
    // walks down to its own.
    let mut at: &SignedHeader = child;
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
        at = below;
    }
    ensure!(
        consecutive,
        "node {node} commits {id} without consecutive rounds or commit votes"
    );
    Ok(())
}

/// Every signature is its voter's, over the vote that the QC is made of.
fn signed(chain: ChainId, eras: &Eras, qc: &Qc) -> bool {
    qc.votes.iter().all(|(voter, signature)| {
        eras.who(qc.epoch, *voter).is_some_and(|node| {
            let vote = keys::vote(chain, qc, *voter, node);
            vote.voter == *voter && vote.signature == *signature
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
