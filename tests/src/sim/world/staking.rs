//! Validators come, go and change their keys: what the owners of stake send, whom it is sent to.

use falconet_types::stake::Stake;
use falconet_types::{AccountId, ValidatorId};

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
        let (owner, name) = match known {
            Some(validator) => (validator.owner, validator.name),
            None => (keys::validator(node).id(), format!("validator-{node}")),
        };
        let bond = keys::bond(self.chain.id, owner, node, amount, &name);
        self.send_stake(node, owner, bond);
    }

    /// All of it for 0, or when less than the least stake would remain.
    pub(super) fn unbond(&mut self, node: usize, amount: u64) {
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

    fn send_stake(&mut self, node: usize, owner: AccountId, what: Stake) {
        self.stake_nonce += 1;
        let tx = keys::stake(self.chain.id, owner, self.stake_nonce, what);
        let at_us = self.now_us;
        let to = node % self.scenario.n;
        let submission = Submission { at_us, to, tx };
        self.schedule(at_us, Event::Submit(Box::new(submission)));
    }
}
