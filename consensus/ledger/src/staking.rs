//! Which transaction about stake may take effect, and what it does.
//!
//! Asked after the rules of [`crate::rules`], which settle who speaks and that the fee is paid:
//!
//! - all: the chain has epochs ([`Outcome::NoEpochs`]);
//! - *bond* to a new validator: key and name are free ([`Outcome::Taken`]), the amount is the
//!   least stake or more ([`Outcome::StakeTooLow`]), there is room ([`Outcome::LimitReached`]),
//!   and the key consents ([`Outcome::BadProof`]); to an existing one: the sender owns it
//!   ([`Outcome::NotOwner`]) and gives its name ([`Outcome::Taken`]);
//! - *unbond*: the sender owns the validator; what remains is nothing or the least stake;
//! - *rotate key*: the sender owns it, the new key is free, both keys consent;
//! - *set address*: the sender owns it;
//! - *ready*: the sender is the key of a validator outside of the set that has not said so in
//!   this epoch ([`Outcome::AlreadyReported`]); the commitment is the ledger's for that height,
//!   a height of this epoch ([`Outcome::BadProof`]);
//! - *report*: the epoch is in the window ([`Outcome::OutsideWindow`]), the validator was not
//!   punished for that epoch ([`Outcome::AlreadyReported`]), and the evidence proves what it
//!   says ([`Outcome::BadEvidence`]).
//!
//! Whoever bonds with a key that was barred under another row gains nothing: a validator is the
//! key with which it was first bonded, and that key stays taken while its past can be reported.

use falconet_crypto::falcon::Verifier;
use falconet_types::receipt::Outcome;
use falconet_types::stake::{Stake, bond_message, rotate_message, verifies};
use falconet_types::transaction::Transaction;
use falconet_types::{AccountId, Epoch, Height, ValidatorId};

use crate::registry::{CANDIDATES_MAX, Candidate, Registry, UNBONDINGS_MAX, Unbonding};

/// Transactions about stake that a block may execute out of one lane; more are refused. Each costs
/// up to two signatures that nobody checked ahead. By lane, so that a validator that fills its lane
/// with garbage keeps nobody else's transactions and reports out.
pub const STAKE_TXS_PER_LANE_MAX: usize = 64;
/// Reports that a block may execute out of one lane.
pub const REPORTS_PER_LANE_MAX: usize = 16;

/// Asks the rules.
pub(crate) fn check(
    registry: &Registry,
    tx: &Transaction,
    stake: &Stake,
    verifier: &mut Verifier,
) -> Result<(), Outcome> {
    if !registry.has_epochs() {
        return Err(Outcome::NoEpochs);
    }
    match stake {
        Stake::Bond { .. } => check_bond(registry, tx.sender, stake, verifier),
        Stake::Unbond { validator, amount } => {
            let row = owned(registry, validator, &tx.sender)?;
            let left = row.stake.checked_sub(*amount);
            let left = left.ok_or(Outcome::InsufficientFunds)?;
            if *amount == 0 || (left > 0 && left < registry.params().bond_min) {
                return Err(Outcome::StakeTooLow);
            }
            if registry.unbondings_len() >= UNBONDINGS_MAX {
                return Err(Outcome::LimitReached);
            }
            Ok(())
        }
        Stake::RotateKey {
            validator,
            key,
            proof_new,
            proof_old,
        } => {
            let row = owned(registry, validator, &tx.sender)?;
            let (old, new) = (row.key.id(), key.id());
            if registry.key_taken(&new, validator) {
                return Err(Outcome::Taken);
            }
            let message = |signer| rotate_message(registry.chain(), signer, *validator, old, new);
            let consent = verifies(key, &message(new), proof_new, verifier)
                && verifies(&row.key, &message(old), proof_old, verifier);
            consent.then_some(()).ok_or(Outcome::BadProof)
        }
        Stake::SetAddress { validator, .. } => owned(registry, validator, &tx.sender).map(|_| ()),
        Stake::Ready {
            epoch,
            height,
            commitment,
        } => {
            let found = registry.candidate_by_key(&tx.sender);
            let (id, row) = found.ok_or(Outcome::UnknownValidator)?;
            if *epoch != registry.epoch() {
                return Err(Outcome::OutsideWindow);
            }
            if registry.is_member(id) || row.ready == Some(*epoch) {
                return Err(Outcome::AlreadyReported);
            }
            if registry.checkpoint(*height) != Some(*commitment) {
                return Err(Outcome::BadProof);
            }
            Ok(())
        }
        Stake::Report { evidence } => {
            let (epoch, present) = (evidence.epoch(), registry.epoch());
            let set = registry.set(epoch).filter(|_| epoch <= present);
            let set = set.ok_or(Outcome::OutsideWindow)?;
            let id = registry.validator_at(epoch, evidence.offender());
            let id = id.ok_or(Outcome::BadEvidence)?;
            if registry.offence(epoch, &id).is_some() {
                return Err(Outcome::AlreadyReported);
            }
            let verdict = evidence.verify(registry.chain(), set, verifier);
            verdict.map(|_| ()).map_err(|_| Outcome::BadEvidence)
        }
    }
}

fn check_bond(
    registry: &Registry,
    sender: AccountId,
    stake: &Stake,
    verifier: &mut Verifier,
) -> Result<(), Outcome> {
    let Stake::Bond {
        amount,
        key,
        name,
        proof,
        ..
    } = stake
    else {
        unreachable!("asked for bonds only");
    };
    match registry.candidate_by_key(&key.id()) {
        Some((id, _)) => {
            let row = owned(registry, id, &sender)?;
            if row.name != *name {
                return Err(Outcome::Taken);
            }
            // Stake that was slashed or taken out is filled up to the least at once, or not.
            let sum = row.stake.checked_add(*amount).ok_or(Outcome::Overflow)?;
            if *amount == 0 || sum < registry.params().bond_min {
                return Err(Outcome::StakeTooLow);
            }
        }
        None => {
            let id = key.id();
            if registry.candidate(&id).is_some()
                || registry.key_taken(&id, &id)
                || registry.name_taken(name)
            {
                return Err(Outcome::Taken);
            }
            if *amount < registry.params().bond_min {
                return Err(Outcome::StakeTooLow);
            }
            if registry.candidates_len() >= CANDIDATES_MAX {
                return Err(Outcome::LimitReached);
            }
        }
    }
    let message = bond_message(registry.chain(), key.id(), sender, name);
    let consent = verifies(key, &message, proof, verifier);
    consent.then_some(()).ok_or(Outcome::BadProof)
}

fn owned<'a>(
    registry: &'a Registry,
    id: &ValidatorId,
    sender: &AccountId,
) -> Result<&'a Candidate, Outcome> {
    let row = registry.candidate(id).ok_or(Outcome::UnknownValidator)?;
    (row.owner == *sender)
        .then_some(row)
        .ok_or(Outcome::NotOwner)
}

/// Carries out what [`check`] has allowed; returns what is burned.
pub(crate) fn apply(
    registry: &mut Registry,
    sender: AccountId,
    stake: &Stake,
    height: Height,
) -> u64 {
    match stake {
        Stake::Bond {
            amount,
            key,
            name,
            address,
            ..
        } => {
            let known = registry.candidate_by_key(&key.id()).map(|(id, _)| *id);
            match known {
                Some(id) => registry.change_candidate(&id, |row| {
                    row.stake += amount;
                    row.address = Some(*address);
                }),
                None => {
                    let barred_until = barred_before(registry, &key.id());
                    let row = Candidate {
                        name: name.clone(),
                        key: key.clone(),
                        next_key: None,
                        owner: sender,
                        address: Some(*address),
                        stake: *amount,
                        ready: None,
                        barred_until,
                    };
                    registry.put_candidate(key.id(), row);
                }
            }
        }
        Stake::Unbond { validator, amount } => {
            let since = registry.epoch();
            let release = Epoch(since.0 + registry.params().unbonding_epochs);
            registry.change_candidate(validator, |row| row.stake -= amount);
            let row = Unbonding {
                owner: sender,
                amount: *amount,
                since,
            };
            registry.put_unbonding(release, *validator, row);
        }
        Stake::RotateKey { validator, key, .. } => {
            registry.change_candidate(validator, |row| row.next_key = Some(key.clone()));
        }
        Stake::SetAddress { validator, address } => {
            registry.change_candidate(validator, |row| row.address = Some(*address));
        }
        Stake::Ready { epoch, .. } => {
            let found = registry.candidate_by_key(&sender).map(|(id, _)| *id);
            let id = found.expect("checked before");
            registry.change_candidate(&id, |row| row.ready = Some(*epoch));
        }
        Stake::Report { evidence } => {
            let epoch = evidence.epoch();
            let id = registry.validator_at(epoch, evidence.offender());
            return registry.punish(epoch, &id.expect("checked before"), height);
        }
    }
    0
}

/// Somebody who took out everything after misbehaviour and comes back with the same key is barred
/// as long as he would have been.
fn barred_before(registry: &Registry, id: &ValidatorId) -> Epoch {
    let punished = registry.offences().any(|(_, other, _)| other == id);
    if punished {
        registry.barred_until()
    } else {
        Epoch::ZERO
    }
}
