//! Which transaction may take effect.
//!
//! The rules are asked in this order, and the first that is broken names the outcome:
//!
//! 1. the bytes are a transaction ([`Outcome::Malformed`]);
//! 2. it is made for this chain ([`Outcome::WrongChain`]);
//! 3. the sender's account exists ([`Outcome::UnknownSender`]);
//! 4. the sender has a registered key ([`Outcome::UnknownKey`]), a registration's has
//!    none ([`Outcome::AlreadyRegistered`]);
//! 5. the signature verifies under that key; a registration brings it ([`Outcome::BadSignature`]);
//! 6. the block's time is at most `valid_until_ms` ([`Outcome::Expired`]);
//! 7. the nonce window allows the nonce ([`Outcome::Replayed`]);
//! 8. the fee is at least the chain's minimum ([`Outcome::FeeTooLow`]);
//! 9. amount plus fee is below 2^64 ([`Outcome::Overflow`]);
//! 10. the balance covers amount plus fee ([`Outcome::InsufficientFunds`]).
//!
//! A transaction that breaks a rule changes nothing: no balance, no nonce, no fee. Up to rule 5
//! that is a must, since the owner of the account has not spoken. After it, charging is a choice.
//! For rules 6 and 7 it would be theft: anybody may send old bytes again. For rules 8 to 10 it
//! would take a nonce or a fee for nothing done, and would bring no protection: a failing
//! transaction gets into a block only through a validator's own lane, because the door of an
//! honest validator asks these same rules and refuses it, and a dishonest one can fill its lane
//! with garbage as cheaply. What a lane may carry is bounded by bytes, not by fees. The price of
//! the choice: a refusal after rule 5 is not final, the same bytes may be committed again and
//! take effect as long as the nonce is unused and `valid_until_ms` has not passed.
//!
//! What a validator's key signs instead of an account's (*ready*, *report*) is asked rules 1, 2, 5
//! and 6 with that key, which must be a validator's ([`Outcome::UnknownValidator`]); it pays
//! nothing, and the rules of stake refuse the second of a kind. What is about stake must
//! then fulfil the rules of `staking`.
//!
//! The recipient's balance cannot overflow: genesis checks that the whole supply is below 2^64,
//! and no rule creates any.

use falconet_types::ChainId;
use falconet_types::receipt::Outcome;
use falconet_types::transaction::{Body, Transaction};

use crate::account::Account;
use crate::registry::Registry;

/// What the rules need to know beside transaction and account.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The chain.
    pub chain_id: ChainId,
    /// Least fee.
    pub fee_min: u64,
    /// The block's time, milliseconds since 1970.
    pub time_ms: u64,
}

/// Asks rules 2 to 10. `verifies` answers whether the
/// signature verifies under the sender's key, rule 5, and is asked at most once. Returns what the
/// sender pays in total.
pub fn check(
    context: &Context,
    tx: &Transaction,
    sender: Option<&Account>,
    verifies: impl FnOnce() -> bool,
) -> Result<u64, Outcome> {
    if tx.chain_id != context.chain_id {
        return Err(Outcome::WrongChain);
    }
    let sender = sender.ok_or(Outcome::UnknownSender)?;
    let (scheme, amount) = match (&tx.body, sender.scheme) {
        (Body::Transfer { .. } | Body::Stake(_), None) => return Err(Outcome::UnknownKey),
        (Body::RegisterKey { .. }, Some(_)) => return Err(Outcome::AlreadyRegistered),
        (Body::Transfer { amount, .. }, Some(scheme)) => (scheme, *amount),
        (Body::Stake(stake), Some(scheme)) => (scheme, stake.amount()),
        (Body::RegisterKey { key }, None) => (key.scheme(), 0),
    };
    // A transaction may name another scheme than the account's key has; then the length of its
    // signature is wrong for the key.
    if scheme != tx.scheme || !verifies() {
        return Err(Outcome::BadSignature);
    }
    if context.time_ms > tx.valid_until_ms {
        return Err(Outcome::Expired);
    }
    if !sender.nonces.allows(tx.nonce) {
        return Err(Outcome::Replayed);
    }
    if tx.fee < context.fee_min {
        return Err(Outcome::FeeTooLow);
    }
    let total = amount.checked_add(tx.fee).ok_or(Outcome::Overflow)?;
    if total > sender.balance {
        return Err(Outcome::InsufficientFunds);
    }
    Ok(total)
}

/// Asks the rules for what a validator's key signs.
pub fn check_by_validator(
    context: &Context,
    tx: &Transaction,
    registry: &Registry,
    verifies: impl FnOnce() -> bool,
) -> Result<(), Outcome> {
    if tx.chain_id != context.chain_id {
        return Err(Outcome::WrongChain);
    }
    if !registry.has_epochs() {
        return Err(Outcome::NoEpochs);
    }
    let key = registry.key(&tx.sender).ok_or(Outcome::UnknownValidator)?;
    if key.scheme() != tx.scheme || !verifies() {
        return Err(Outcome::BadSignature);
    }
    if context.time_ms > tx.valid_until_ms {
        return Err(Outcome::Expired);
    }
    Ok(())
}
