//! Transactions about validators and their stake, and the keys of the registry's rows.
//!
//! | kind | body | sender |
//! |---|---|---|
//! | bond | amount, key, name, address, proof of possession | the account that pays and owns the stake |
//! | unbond | validator, amount | the owner |
//! | rotate key | validator, new key, proofs of the old and the new key | the owner |
//! | set address | validator, address | the owner |
//! | ready | epoch, height, state commitment | the validator's key |
//! | report | evidence | any validator's key |
//!
//! The sender of *ready* and *report* is the id of a validator's key, which need not be an
//! account: fee and nonce are 0, and the state itself says whether the same was said before.

use std::net::SocketAddrV6;

use falconet_crypto::falcon::{
    Job, Key, KeyPair, PreparedKey, PublicKey, Signature, SigningMessage, Verifier,
};

use crate::evidence::Evidence;
use crate::ids::{AccountId, ChainId, Epoch, Height, ValidatorId};
use crate::signing::{self, Signer};
use crate::validators::{put_address, put_key, put_name, read_address, read_key, read_name};
use crate::wire::{Reader, Wire, WireError, put_signature};
use falconet_crypto::hash::Digest;

/// Tag of the proof that whoever bonds a key has it.
const TAG_BOND: &str = "falconet/bond";
/// Tag of both keys' consent to a rotation.
const TAG_ROTATE: &str = "falconet/rotate";

/// What a transaction about stake says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stake {
    /// Bonds stake to a validator: to a new one, or to one of the sender's.
    Bond {
        /// What moves from the sender's balance into the bond.
        amount: u64,
        /// The validator's key.
        key: PublicKey,
        /// A name, unique among validators; for one that exists already, its name.
        name: String,
        /// Where the validator's STOQ endpoint listens.
        address: SocketAddrV6,
        /// By the key, see [`bond_message`]: nobody bonds a key that is not theirs.
        proof: Signature,
    },
    /// Takes stake out of the bond. It returns to the owner after the unbonding time.
    Unbond {
        /// The validator.
        validator: ValidatorId,
        /// How much: all of it, or so that the least stake remains.
        amount: u64,
    },
    /// Replaces the validator's key from the next epoch on.
    RotateKey {
        /// The validator.
        validator: ValidatorId,
        /// The new key.
        key: PublicKey,
        /// By the new key, see [`rotate_message`].
        proof_new: Signature,
        /// By the key that the validator has now.
        proof_old: Signature,
    },
    /// Changes the address from the next epoch on.
    SetAddress {
        /// The validator.
        validator: ValidatorId,
        /// Where its STOQ endpoint listens.
        address: SocketAddrV6,
    },
    /// A validator that waits to join has executed the chain up to a height of this epoch.
    Ready {
        /// The present epoch.
        epoch: Epoch,
        /// A height of which the ledger keeps the commitment.
        height: Height,
        /// The state commitment at that height.
        commitment: Digest,
    },
    /// A validator broke the protocol.
    Report {
        /// The proof.
        evidence: Evidence,
    },
}

impl Stake {
    /// True for what a validator's key signs instead of an account's: no fee, no nonce.
    #[must_use]
    pub fn is_by_validator(&self) -> bool {
        matches!(self, Self::Ready { .. } | Self::Report { .. })
    }

    /// What moves out of the sender's balance beside the fee.
    #[must_use]
    pub fn amount(&self) -> u64 {
        match self {
            Self::Bond { amount, .. } => *amount,
            _ => 0,
        }
    }

    /// The body kind in a transaction.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Bond { .. } => 3,
            Self::Unbond { .. } => 4,
            Self::RotateKey { .. } => 5,
            Self::SetAddress { .. } => 6,
            Self::Ready { .. } => 7,
            Self::Report { .. } => 8,
        }
    }

    pub(crate) fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bond {
                amount,
                key,
                name,
                address,
                proof,
            } => {
                out.extend_from_slice(&amount.to_le_bytes());
                put_key(out, key);
                put_name(out, name);
                put_address(out, Some(address));
                put_signature(out, proof);
            }
            Self::Unbond { validator, amount } => {
                out.extend_from_slice(validator.as_ref());
                out.extend_from_slice(&amount.to_le_bytes());
            }
            Self::RotateKey {
                validator,
                key,
                proof_new,
                proof_old,
            } => {
                out.extend_from_slice(validator.as_ref());
                put_key(out, key);
                put_signature(out, proof_new);
                put_signature(out, proof_old);
            }
            Self::SetAddress { validator, address } => {
                out.extend_from_slice(validator.as_ref());
                put_address(out, Some(address));
            }
            Self::Ready {
                epoch,
                height,
                commitment,
            } => {
                epoch.encode(out);
                height.encode(out);
                out.extend_from_slice(commitment.as_ref());
            }
            Self::Report { evidence } => evidence.encode(out),
        }
    }

    pub(crate) fn decode_body(kind: u8, r: &mut Reader<'_>) -> Result<Self, WireError> {
        let some_address = |r: &mut Reader<'_>| read_address(r)?.ok_or(WireError::Value("address"));
        Ok(match kind {
            3 => Self::Bond {
                amount: r.u64()?,
                key: read_key(r)?,
                name: read_name(r)?,
                address: some_address(r)?,
                proof: r.signature()?,
            },
            4 => Self::Unbond {
                validator: r.digest()?,
                amount: r.u64()?,
            },
            5 => Self::RotateKey {
                validator: r.digest()?,
                key: read_key(r)?,
                proof_new: r.signature()?,
                proof_old: r.signature()?,
            },
            6 => Self::SetAddress {
                validator: r.digest()?,
                address: some_address(r)?,
            },
            7 => Self::Ready {
                epoch: Epoch::decode(r)?,
                height: Height::decode(r)?,
                commitment: r.digest()?,
            },
            8 => Self::Report {
                evidence: Evidence::decode(r)?,
            },
            _ => return Err(WireError::Value("body kind")),
        })
    }

    /// A bond with its proof of possession.
    #[must_use]
    pub fn bond(
        chain: ChainId,
        owner: AccountId,
        key: &KeyPair,
        amount: u64,
        name: &str,
        address: SocketAddrV6,
    ) -> Self {
        let message = bond_message(chain, key.public().id(), owner, name);
        Self::Bond {
            amount,
            key: key.public().clone(),
            name: name.to_owned(),
            address,
            proof: Signer::sign(key, &message),
        }
    }

    /// A rotation with the consent of both keys.
    #[must_use]
    pub fn rotate(chain: ChainId, validator: ValidatorId, old: &KeyPair, new: &KeyPair) -> Self {
        let (old_id, new_id) = (old.public().id(), new.public().id());
        let message = |signer| rotate_message(chain, signer, validator, old_id, new_id);
        Self::RotateKey {
            validator,
            key: new.public().clone(),
            proof_new: Signer::sign(new, &message(new_id)),
            proof_old: Signer::sign(old, &message(old_id)),
        }
    }
}

/// What a key signs to be bonded by `owner` under `name`. Somebody else cannot use it again: the
/// owner is the sender of the transaction.
#[must_use]
pub fn bond_message(
    chain: ChainId,
    key_id: Digest,
    owner: AccountId,
    name: &str,
) -> SigningMessage {
    let mut content = owner.as_ref().to_vec();
    put_name(&mut content, name);
    signing::message(TAG_BOND, chain, key_id, &content)
}

/// What the old and the new key sign, each with its own id as `signer`.
#[must_use]
pub fn rotate_message(
    chain: ChainId,
    signer: Digest,
    validator: ValidatorId,
    old: Digest,
    new: Digest,
) -> SigningMessage {
    let content = [validator.as_ref(), old.as_ref(), new.as_ref()].concat();
    signing::message(TAG_ROTATE, chain, signer, &content)
}

/// Checks one signature of a key over one message.
#[must_use]
pub fn verifies(
    key: &PublicKey,
    message: &SigningMessage,
    signature: &Signature,
    verifier: &mut Verifier,
) -> bool {
    if key.scheme() != signature.scheme() {
        return false;
    }
    let prepared = PreparedKey::from_public(key);
    let mut valid = falconet_crypto::falcon::Bitmap::new();
    let job = Job {
        key: Key::Prepared(&prepared),
        message: &message.as_bytes(),
        signature: signature.as_bytes(),
    };
    verifier.verify_batch(&[job], &mut valid);
    valid.iter().next() == Some(true)
}

/// Names a row of the registry of validators: a kind, a number (big-endian, so that rows in order
/// of their ids are in the order of their numbers) and a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub [u8; Self::LEN]);

impl RowId {
    /// Bytes of an id.
    pub const LEN: usize = 1 + 8 + 32;

    /// Puts an id together.
    #[must_use]
    pub fn new(kind: u8, number: u64, digest: &Digest) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[0] = kind;
        bytes[1..9].copy_from_slice(&number.to_be_bytes());
        bytes[9..].copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// The kind of the row.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.0[0]
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::from_be_bytes(self.0[1..9].try_into().expect("eight bytes"))
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(self.0[9..].try_into().expect("32 bytes"))
    }
}
