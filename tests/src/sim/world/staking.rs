//! Validators come, go and change their keys: what the owners of stake send, whom it is sent to.

use falconet_types::stake::Stake;
use falconet_types::{AccountId, Height, ValidatorId};

use super::super::keys;
use super::super::workload::Submission;
use super::{Event, World};

/// What the ledger says of a node's key.
struct Validator {
    id: ValidatorId,
    owner: AccountId,
    name: String,
    stake: u64,
}

impl World {
    /// Owners look at some node's state; without any, they do nothing.
    fn validator(&self, node: usize) -> Option<Option<Validator>> {
        let view = self.correct().find_map(|i| self.nodes[i].view())?;
        let registry = view.registry();
        let key_id = keys::validator(node).id();
        let found = registry.candidate_by_key(&key_id);
        Some(found.map(|(id, row)| Validator {
            id: *id,
            owner: row.owner,
            name: row.name.clone(),
            stake: row.stake,
        }))
    }

    pub(super) fn bond(&mut self, node: usize, amount: u64) {
        let Some(known) = self.validator(node) else {
            return;
        };
        if node < self.scenario.n && self.may_forfeit(node) {
            self.note(|| format!("nobody bonds to {node}, which has no block of the chain yet"));
            return;
        }
        if !self.bears(node, amount) {
            self.note(|| {
                format!("nobody bonds {amount} to {node}: faulty ones stay below a third")
            });
            return;
        }
        let (owner, name) = match known {
            Some(validator) => (validator.owner, validator.name),
            None => (keys::validator(node).id(), format!("validator-{node}")),
        };
        let bond = keys::bond(self.chain.id, owner, node, amount, &name);
        self.send_stake(node, owner, bond);
    }

    /// All of it for 0, or when less than the least stake would remain.
    pub(super) fn unbond(&mut self, node: usize, amount: u64) {
        let mut others = (0..self.scenario.n).filter(|other| *other != node);
        if let Some(other) = others.find(|other| self.may_forfeit(*other)) {
            self.note(|| format!("nobody leaves {other} more of the weight than it has"));
            return;
        }
        if let Some(Some(validator)) = self.validator(node) {
            let left = validator.stake.saturating_sub(amount);
            let all = amount == 0 || left < keys::STAKE_UNIT;
            let unbond = Stake::Unbond {
                validator: validator.id,
                amount: if all { validator.stake } else { amount },
            };
            self.send_stake(node, validator.owner, unbond);
        }
    }

    pub(super) fn rotate(&mut self, from: usize, to: usize) {
        if let Some(Some(validator)) = self.validator(from) {
            let rotate = keys::rotate(self.chain.id, validator.id, from, to);
            self.send_stake(from, validator.owner, rotate);
        }
    }

    /// True for a validator that may yet begin with a snapshot, and sign nothing in the epochs that
    /// it finds (rule Z8). A chain that depended on its weight would wait for ever.
    pub(super) fn may_forfeit(&self, node: usize) -> bool {
        self.scenario.prunes() && self.nodes[node].disk.last_committed() == Height::ZERO
    }

    /// True when the faulty validators weigh less than a third in every epoch to come, with so much
    /// more stake on a node. All that was ever bonded to them counts, and of the correct ones what
    /// counts in the newest epoch: where some are faulty, owners take no stake away.
    fn bears(&mut self, node: usize, amount: u64) -> bool {
        if !self.scenario.faulty(self.scenario.validator_of(node)) {
            return true;
        }
        let faulty = self.faulty_stake + amount;
        let correct = self.eras.correct_weight() * keys::STAKE_UNIT;
        let bears = faulty * 3 < faulty + correct;
        if bears {
            self.faulty_stake = faulty;
        }
        bears
    }

    fn send_stake(&mut self, node: usize, owner: AccountId, what: Stake) {
        self.stake_nonce += 1;
        let tx = keys::stake(self.chain.id, owner, self.stake_nonce, what);
        let at_us = self.now_us;
        let to = node % self.scenario.n;
        let submission = Submission { at_us, to, tx };
        self.schedule(at_us, Event::Submit(Box::new(submission)));
    }
}
