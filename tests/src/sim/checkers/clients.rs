//! What clients rely on.

use std::collections::{BTreeMap, BTreeSet};

use falconet_ledger::{BlockResult, View};
use falconet_types::genesis::Genesis;
use falconet_types::transaction::{Body, SignedTransaction};
use falconet_types::{Height, TxId};

use super::super::keys::STAKE_UNIT;
use super::super::workload::Workload;
use super::{Check, ensure};

/// What clients were promised: an acknowledged transaction executes on every node, in the same
/// place, and each transaction takes effect at most once.
#[derive(Debug, Default)]
pub struct Promises {
    acknowledged: BTreeMap<TxId, SignedTransaction>,
    /// The receipts of each height, from whoever executed it first: each transaction, and whether it
    /// took effect.
    blocks: BTreeMap<Height, Vec<(TxId, bool)>>,
    /// How often each took effect, per node.
    effects: BTreeMap<usize, BTreeMap<TxId, u32>>,
    /// Transactions with any receipt, per node.
    settled: BTreeMap<usize, BTreeSet<TxId>>,
    /// Acknowledged transactions about stake that could not take effect at some time since.
    void: BTreeSet<TxId>,
}

impl Promises {
    /// A node told a client that it holds the transaction durably.
    pub fn acknowledged(&mut self, tx: &SignedTransaction) {
        self.acknowledged.insert(tx.id(), tx.clone());
    }

    /// A node starts again with the state of a height, perhaps one that others gave it, and executes
    /// again what is above.
    pub fn restarted(&mut self, node: usize, height: Height) -> Check {
        self.effects.remove(&node);
        self.settled.remove(&node);
        let blocks = self.blocks.range(..=height);
        let below: Vec<_> = blocks.flat_map(|(_, receipts)| receipts.clone()).collect();
        self.settle(node, &below)
    }

    /// Receipts of a block on a node.
    pub fn executed(&mut self, node: usize, result: &BlockResult) -> Check {
        let receipts = result.receipts.iter();
        let receipts: Vec<_> = receipts
            .map(|receipt| (receipt.tx_id, Workload::took_effect(receipt)))
            .collect();
        let known = self.blocks.entry(result.height);
        let known = known.or_insert_with(|| receipts.clone());
        ensure!(
            *known == receipts,
            "receipts differ at height {}: node {node} has others than another",
            result.height
        );
        self.settle(node, &receipts)
    }

    fn settle(&mut self, node: usize, receipts: &[(TxId, bool)]) -> Check {
        let effects = self.effects.entry(node).or_default();
        let settled = self.settled.entry(node).or_default();
        for (id, took_effect) in receipts {
            settled.insert(*id);
            if *took_effect {
                let times = effects.entry(*id).or_default();
                *times += 1;
                ensure!(
                    *times == 1,
                    "transaction {id} took effect {times} times on node {node}"
                );
            }
        }
        Ok(())
    }

    /// A node has executed a block. Whether something about stake can take effect changes with the
    /// registry, there and back; who looks at it in between, having got it from a validator that
    /// left, drops it.
    pub fn looked_at(&mut self, node: usize, view: &View, wall_ms: u64) {
        let about_stake = |tx: &SignedTransaction| matches!(tx.body, Body::Stake(_));
        let void = self.open_ids(node).filter(|id| {
            let tx = &self.acknowledged[*id];
            about_stake(tx) && view.check(tx, wall_ms).is_err()
        });
        let void: Vec<TxId> = void.copied().collect();
        self.void.extend(void);
    }

    /// Acknowledged transactions that a node has not executed.
    #[must_use]
    pub fn open(&self, node: usize) -> usize {
        self.open_ids(node).count()
    }

    /// Which these are.
    pub fn open_ids(&self, node: usize) -> impl Iterator<Item = &TxId> {
        let settled = self.settled.get(&node);
        let is_open = move |id: &&TxId| settled.is_none_or(|settled| !settled.contains(*id));
        self.acknowledged.keys().filter(is_open)
    }

    /// Of these, those that the node would still execute. A validator that left the set gives what
    /// it accepted to others, who look at it again, and nobody hears what became of a transaction
    /// that cannot take effect any more, or could not for a while ([`Self::looked_at`]).
    #[must_use]
    pub fn lost(&self, node: usize, view: &View, wall_ms: u64) -> usize {
        let executable = |id: &&TxId| {
            view.check(&self.acknowledged[*id], wall_ms).is_ok() && !self.void.contains(*id)
        };
        self.open_ids(node).filter(executable).count()
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

/// Money is neither made nor lost: balances, stake that is bonded or on its way back, and what was
/// burned add up to what genesis had.
pub fn conservation(node: usize, view: &View, genesis: &Genesis) -> Check {
    let balances = genesis.accounts.iter().map(|account| account.balance);
    let stakes = genesis.validators.iter().map(|v| v.weight * STAKE_UNIT);
    let supply: u64 = balances.chain(stakes).sum();
    let registry = view.registry();
    let accounts = genesis.accounts.iter();
    let held: u64 = accounts
        .filter_map(|account| view.account(&account.id))
        .map(|account| account.balance)
        .sum();
    let bonded: u64 = registry.candidates().map(|(_, row)| row.stake).sum();
    let returning: u64 = registry.unbondings().map(|(_, _, row)| row.amount).sum();
    ensure!(
        held + bonded + returning + view.burned() == supply,
        "node {node}: {held} held, {bonded} bonded, {returning} on their way back and {} burned \
         of {supply}",
        view.burned()
    );
    Ok(())
}
