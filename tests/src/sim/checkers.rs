//! What must hold, whatever happens. Independent of the code under test: each checker sees only
//! what a node sends, logs, commits and executes.

use std::collections::{BTreeMap, BTreeSet};

use falconet_hotstuff::{Committed, SafetyRecord};
use falconet_ledger::{BlockResult, View};
use falconet_types::block::{Cut, HeaderKind, genesis_id};
use falconet_types::message::PeerMessage;
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, ChainId, Digest, Height, Round, TxId};

use super::disk::Disk;
use super::keys::{ACCOUNTS, BALANCE, account};
use super::workload::Workload;

/// A broken promise, in words.
pub type Violation = String;
/// What every check returns.
pub type Check = Result<(), Violation>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

/// Agreement: one block a height, one state a height; commits go up by one on each node, over
/// restarts too; each commit is proven.
#[derive(Debug, Default)]
pub struct Agreement {
    chain: Vec<BlockId>,
    states: BTreeMap<Height, Digest>,
    /// Committed height of each node.
    heights: BTreeMap<usize, u64>,
    executed: BTreeMap<usize, u64>,
}

impl Agreement {
    /// A node committed a block, durably.
    pub fn committed(
        &mut self,
        node: usize,
        block: &Committed,
        set: &ValidatorSet,
        disk: &Disk,
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
        proven(node, block, set, disk)
    }

    /// A node starts again with these blocks committed on its disk.
    pub fn restarted(&mut self, node: usize, committed: &[BlockId]) -> Check {
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
                None => self.chain.push(*id),
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
/// one, as they are in the node's log, hold two of consecutive rounds at or above the block.
fn proven(node: usize, block: &Committed, set: &ValidatorSet, disk: &Disk) -> Check {
    let (child, qc) = (&block.proof.child, &block.proof.qc);
    let weight = set.weight_of(qc.votes.iter().map(|(voter, _)| *voter));
    let voters: BTreeSet<_> = qc.votes.iter().map(|(voter, _)| *voter).collect();
    let id = block.header.id();
    ensure!(
        qc.block_id == child.id()
            && qc.round == child.round
            && voters.len() == qc.votes.len()
            && weight * 3 > set.total_weight() * 2
            && child.height > block.header.height,
        "node {node} commits {id} with something that is no proof"
    );
    let mut at = child.header();
    let mut consecutive = false;
    loop {
        consecutive |= at.parent_round.next() == at.round;
        if at.parent_id == id {
            break;
        }
        let below = disk.header(&at.parent_id);
        let Some(below) = below.filter(|below| below.height > block.header.height) else {
            return Err(format!(
                "node {node}: the proof of {id} proves another block"
            ));
        };
        at = below.header();
    }
    ensure!(
        consecutive,
        "node {node} commits {id} without consecutive rounds"
    );
    Ok(())
}

/// Nobody contradicts itself, over restarts too: one vote, one timeout, one header a round (and
/// kind), always with the same bytes.
#[derive(Debug, Default)]
pub struct SelfConsistency {
    votes: BTreeMap<(usize, Round), PeerMessage>,
    timeouts: BTreeMap<(usize, Round), PeerMessage>,
    headers: BTreeMap<(usize, Round, HeaderKind), PeerMessage>,
}

impl SelfConsistency {
    /// A message left a node.
    pub fn sent(&mut self, node: usize, message: &PeerMessage) -> Check {
        let known = match message {
            PeerMessage::Vote(vote) if vote.voter.at() == node => {
                ensure!(
                    !self
                        .timeouts
                        .range((node, vote.round)..=(node, Round(u64::MAX)))
                        .any(|_| !self.votes.contains_key(&(node, vote.round))),
                    "node {node} votes in round {} after it gave up that or a later one",
                    vote.round
                );
                self.votes.entry((node, vote.round))
            }
            PeerMessage::Timeout(timeout) if timeout.author.at() == node => {
                self.timeouts.entry((node, timeout.round))
            }
            PeerMessage::Header(header) if header.author.at() == node => {
                let key = (node, header.round, header.kind);
                let known = self.headers.entry(key).or_insert_with(|| message.clone());
                ensure!(known == message, "node {node} signs two headers: {key:?}");
                return Ok(());
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
}

/// The durable safety record never goes back, and never locks below what it voted on.
#[derive(Debug, Default)]
pub struct Locks {
    last: BTreeMap<usize, (Round, Round, Round)>,
}

impl Locks {
    /// The record on a node's disk.
    pub fn durable(&mut self, node: usize, record: &SafetyRecord) -> Check {
        let now = (
            record.locked.round,
            record.last_voted_round,
            record.highest_timeout_round,
        );
        let last = self.last.entry(node).or_default();
        ensure!(
            now.0 >= last.0 && now.1 >= last.1 && now.2 >= last.2,
            "node {node}: its safety record went back from {last:?} to {now:?}"
        );
        if let Some(vote) = &record.last_vote {
            ensure!(
                record.locked.round >= vote.parent_round,
                "node {node} voted on round {} and is locked on {}",
                vote.parent_round,
                record.locked.round
            );
        }
        *last = now;
        Ok(())
    }
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

/// What clients were promised: an acknowledged transaction executes on every node, in the same
/// place, and each transaction takes effect at most once.
#[derive(Debug, Default)]
pub struct Promises {
    acknowledged: BTreeSet<TxId>,
    /// How often each took effect, per node since its last start.
    effects: BTreeMap<usize, BTreeMap<TxId, u32>>,
    /// Transactions with any receipt, per node.
    settled: BTreeMap<usize, BTreeSet<TxId>>,
}

impl Promises {
    /// A node told a client that it holds the transaction durably.
    pub fn acknowledged(&mut self, id: TxId) {
        self.acknowledged.insert(id);
    }

    /// A node starts again and executes again what it had.
    pub fn restarted(&mut self, node: usize) {
        self.effects.remove(&node);
        self.settled.remove(&node);
    }

    /// Receipts of a block on a node.
    pub fn executed(&mut self, node: usize, result: &BlockResult) -> Check {
        let effects = self.effects.entry(node).or_default();
        let settled = self.settled.entry(node).or_default();
        for receipt in &result.receipts {
            settled.insert(receipt.tx_id);
            if Workload::took_effect(receipt) {
                let times = effects.entry(receipt.tx_id).or_default();
                *times += 1;
                ensure!(
                    *times == 1,
                    "transaction {} took effect {times} times on node {node}",
                    receipt.tx_id
                );
            }
        }
        Ok(())
    }

    /// Acknowledged transactions that a node has not executed.
    #[must_use]
    pub fn open(&self, node: usize) -> usize {
        let empty = BTreeSet::new();
        let settled = self.settled.get(&node).unwrap_or(&empty);
        self.acknowledged.difference(settled).count()
    }

    /// At the end: of two transfers that cannot both be paid for, exactly one took effect, if
    /// both executed.
    pub fn conflicts(&self, node: usize, pairs: &[(TxId, TxId)]) -> Check {
        let (Some(effects), Some(settled)) = (self.effects.get(&node), self.settled.get(&node))
        else {
            return Ok(());
        };
        for (a, b) in pairs {
            let both = effects.contains_key(a) && effects.contains_key(b);
            let none = !effects.contains_key(a) && !effects.contains_key(b);
            let all = settled.contains(a) && settled.contains(b);
            ensure!(!both, "node {node}: {a} and {b} both took effect");
            ensure!(
                !(all && none),
                "node {node}: neither {a} nor {b} took effect"
            );
        }
        Ok(())
    }

    /// Number of acknowledged transactions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.acknowledged.len()
    }
}

/// Money is neither made nor lost: balances and burned fees add up to the supply.
pub fn conservation(node: usize, view: &View) -> Check {
    let supply = BALANCE * ACCOUNTS as u64;
    let held: u64 = (0..ACCOUNTS)
        .filter_map(|i| view.account(&account(i)))
        .map(|account| account.balance)
        .sum();
    ensure!(
        held + view.burned() == supply,
        "node {node}: {held} held and {} burned of {supply}",
        view.burned()
    );
    Ok(())
}

/// The first block extends genesis.
pub fn extends_genesis(block: &Committed, chain: ChainId) -> Check {
    ensure!(
        block.header.height != Height(1) || block.header.parent_id == genesis_id(chain),
        "the first block does not extend genesis"
    );
    Ok(())
}
