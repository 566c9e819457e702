//! The end of an epoch, and what misbehaviour costs.

use falconet_types::genesis::BASIS_POINTS;
use falconet_types::validators::{Member, VALIDATORS_MAX, WEIGHT_MAX};
use falconet_types::{AccountId, Epoch, Height, ValidatorId};

use super::rows::{
    Offence, Present, SetMember, candidate_row, member_row, offence_row, present_row, unbonding_row,
};
use super::{Registry, Unbonding};

impl Registry {
    /// Ends the present epoch with the block at `height`: works out the set of the next one and
    /// returns the stake that goes back to its owners.
    ///
    /// In the next set are those with the most stake, at most [`VALIDATORS_MAX`], among the
    /// candidates that have the least stake or more, are not barred, and are in the present set or
    /// have proved in this epoch that they follow the chain. Equal stake is ordered by id. When
    /// nobody is left the present set goes on, keys and all: a chain without validators would
    /// never have any again.
    pub(crate) fn end_epoch(&mut self, height: Height) -> Vec<(AccountId, u64)> {
        assert!(self.has_epochs(), "this chain has one epoch for ever");
        let next = self.present.epoch.next();
        let members = match self.chosen(next) {
            chosen if chosen.is_empty() => self.sets[&self.present.epoch].members.clone(),
            chosen => {
                self.rotate_keys();
                chosen
            }
        };
        self.forget_candidates(&members);
        self.put_set(next, members);
        self.present = Present {
            epoch: next,
            since: height,
        };
        self.dirty.insert(present_row());
        self.forget_before(next);
        self.release(next)
    }

    fn chosen(&self, next: Epoch) -> Vec<SetMember> {
        let mut eligible: Vec<_> = self
            .candidates
            .iter()
            .filter(|(id, row)| {
                row.stake >= self.params.bond_min
                    && row.barred_until <= next
                    && (row.ready == Some(self.present.epoch) || self.is_member(id))
            })
            .collect();
        eligible.sort_by_key(|(id, row)| (std::cmp::Reverse(row.stake), **id));
        eligible.truncate(VALIDATORS_MAX);
        let mut chosen: Vec<SetMember> = eligible
            .into_iter()
            .map(|(id, row)| SetMember {
                validator: *id,
                member: Member {
                    name: row.name.clone(),
                    key: row.next_key.as_ref().unwrap_or(&row.key).clone(),
                    weight: (row.stake / self.params.unit).min(WEIGHT_MAX),
                    address: row.address,
                },
            })
            .collect();
        chosen.sort_by_key(|member| member.member.key.id());
        chosen
    }

    fn rotate_keys(&mut self) {
        let rotating: Vec<ValidatorId> = self
            .candidates
            .iter()
            .filter(|(_, row)| row.next_key.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in rotating {
            self.change_candidate(&id, |row| {
                row.key = row.next_key.take().expect("filtered above");
            });
        }
    }

    /// Drops candidates that took out all of their stake and are no longer needed.
    fn forget_candidates(&mut self, members: &[SetMember]) {
        let gone: Vec<ValidatorId> = self
            .candidates
            .iter()
            .filter(|(id, row)| row.stake == 0 && members.iter().all(|m| m.validator != **id))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.candidates.remove(&id);
            self.dirty.insert(candidate_row(&id));
        }
    }

    /// Drops sets and offences of epochs whose misbehaviour can no longer be reported.
    fn forget_before(&mut self, present: Epoch) {
        let oldest = Epoch(present.0.saturating_sub(self.params.evidence_window_epochs));
        let kept = self.sets.split_off(&oldest);
        for (epoch, set) in std::mem::replace(&mut self.sets, kept) {
            let rows = (0..set.members.len()).map(|index| member_row(epoch, index));
            self.dirty.extend(rows);
        }
        let kept = self.offences.split_off(&(oldest, ValidatorId::ZERO));
        for (epoch, id) in std::mem::replace(&mut self.offences, kept).keys() {
            self.dirty.insert(offence_row(*epoch, id));
        }
    }

    /// Takes out what returns with the beginning of `epoch`.
    fn release(&mut self, epoch: Epoch) -> Vec<(AccountId, u64)> {
        let later = self
            .unbondings
            .split_off(&(epoch.next(), ValidatorId::ZERO));
        let due = std::mem::replace(&mut self.unbondings, later);
        self.dirty
            .extend(due.keys().map(|(release, id)| unbonding_row(*release, id)));
        due.values().map(|row| (row.owner, row.amount)).collect()
    }

    /// The first epoch whose set somebody who is punished now may be in again.
    pub(crate) fn barred_until(&self) -> Epoch {
        Epoch(self.present.epoch.0 + self.params.evidence_window_epochs + 2)
    }

    /// Punishes misbehaviour of `id` in `epoch`: burns part of its stake, also of what is on its
    /// way back and counted in that epoch, and bars it from the sets to come until nothing of its
    /// past can be reported any more. Returns what is burned.
    pub(crate) fn punish(&mut self, epoch: Epoch, id: &ValidatorId, height: Height) -> u64 {
        let part = |amount: u64| {
            // Rounded up, so that small pieces do not escape.
            let product = u128::from(amount) * u128::from(self.params.slash_basis_points);
            u64::try_from(product.div_ceil(u128::from(BASIS_POINTS))).expect("at most the amount")
        };
        let mut burned = 0;
        let mut returning: Vec<((Epoch, ValidatorId), Unbonding)> = Vec::new();
        for (key, row) in &self.unbondings {
            if key.1 == *id && row.since >= epoch {
                let lost = part(row.amount);
                burned += lost;
                let amount = row.amount - lost;
                returning.push((*key, Unbonding { amount, ..*row }));
            }
        }
        let lost = self.candidate(id).map(|row| part(row.stake));
        for ((release, id), row) in returning {
            self.dirty.insert(unbonding_row(release, &id));
            self.unbondings.insert((release, id), row);
        }
        let barred_until = self.barred_until();
        if let Some(lost) = lost {
            burned += lost;
            self.change_candidate(id, |row| {
                row.stake -= lost;
                row.ready = None;
                row.barred_until = barred_until;
            });
        }
        let offence = Offence {
            reported: height,
            burned,
        };
        self.offences.insert((epoch, *id), offence);
        self.dirty.insert(offence_row(epoch, id));
        burned
    }
}
