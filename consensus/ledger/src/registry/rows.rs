//! The rows of the registry, as the store keeps them and as the state commitment sees them.

use std::net::SocketAddrV6;

use falconet_crypto::falcon::PublicKey;
use falconet_types::stake::RowId;
use falconet_types::validators::{
    Member, put_address, put_key, put_name, read_address, read_key, read_name,
};
use falconet_types::wire::{Reader, Wire, WireError};
use falconet_types::{AccountId, Digest, Epoch, Height, ValidatorId};

/// Kinds of rows: the first byte of a [`RowId`].
pub(crate) mod kind {
    /// Where the chain of epochs stands.
    pub(crate) const PRESENT: u8 = 0;
    /// A validator with stake, or one that has just taken it out.
    pub(crate) const CANDIDATE: u8 = 1;
    /// Stake on its way back.
    pub(crate) const UNBONDING: u8 = 2;
    /// A member of the set of an epoch.
    pub(crate) const MEMBER: u8 = 3;
    /// Punished misbehaviour.
    pub(crate) const OFFENCE: u8 = 4;
    /// A state commitment that somebody may have to know.
    pub(crate) const CHECKPOINT: u8 = 5;
    /// How many kinds there are.
    pub(crate) const COUNT: u8 = 6;
}

/// A validator, in the set or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name, unique among candidates.
    pub name: String,
    /// Its key in this epoch.
    pub key: PublicKey,
    /// Its key from the next epoch on, if it changes.
    pub next_key: Option<PublicKey>,
    /// The account that the stake belongs to.
    pub owner: AccountId,
    /// Where its STOQ endpoint listens.
    pub address: Option<SocketAddrV6>,
    /// Its stake.
    pub stake: u64,
    /// The epoch in which it last proved that it follows the chain.
    pub ready: Option<Epoch>,
    /// The first epoch whose set it may be in again, after misbehaviour; 0 without any.
    pub barred_until: Epoch,
}

impl Wire for Candidate {
    fn encode(&self, out: &mut Vec<u8>) {
        put_name(out, &self.name);
        put_key(out, &self.key);
        match &self.next_key {
            None => out.push(0),
            Some(key) => put_key(out, key),
        }
        out.extend_from_slice(self.owner.as_ref());
        put_address(out, self.address.as_ref());
        out.extend_from_slice(&self.stake.to_le_bytes());
        match self.ready {
            None => out.push(0),
            Some(epoch) => {
                out.push(1);
                epoch.encode(out);
            }
        }
        self.barred_until.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let name = read_name(r)?;
        let key = read_key(r)?;
        let next_key = match r.clone().u8()? {
            0 => r.u8().map(|_| None)?,
            _ => Some(read_key(r)?),
        };
        Ok(Self {
            name,
            key,
            next_key,
            owner: r.digest()?,
            address: read_address(r)?,
            stake: r.u64()?,
            ready: match r.u8()? {
                0 => None,
                1 => Some(Epoch::decode(r)?),
                _ => return Err(WireError::Value("ready")),
            },
            barred_until: Epoch::decode(r)?,
        })
    }
}

/// Stake on its way back to its owner. Until then it answers for misbehaviour in the epochs in
/// which it counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unbonding {
    /// Who gets it.
    pub owner: AccountId,
    /// How much.
    pub amount: u64,
    /// The epoch in which it was taken out; it counted in that one for the last time.
    pub since: Epoch,
}

impl Wire for Unbonding {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.owner.as_ref());
        out.extend_from_slice(&self.amount.to_le_bytes());
        self.since.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            owner: r.digest()?,
            amount: r.u64()?,
            since: Epoch::decode(r)?,
        })
    }
}

/// A validator in the set of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetMember {
    /// Which candidate it is, or was.
    pub validator: ValidatorId,
    /// Its name, key, weight and address in that epoch.
    pub member: Member,
}

impl Wire for SetMember {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.validator.as_ref());
        self.member.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            validator: r.digest()?,
            member: Member::decode(r)?,
        })
    }
}

/// Punished misbehaviour: one for a validator and epoch, however often it misbehaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offence {
    /// Height of the block that carried the report.
    pub reported: Height,
    /// What was burned.
    pub burned: u64,
}

impl Wire for Offence {
    fn encode(&self, out: &mut Vec<u8>) {
        self.reported.encode(out);
        out.extend_from_slice(&self.burned.to_le_bytes());
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            reported: Height::decode(r)?,
            burned: r.u64()?,
        })
    }
}

/// The state commitment after a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Height of the block.
    pub height: Height,
    /// The commitment.
    pub commitment: Digest,
}

impl Wire for Checkpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
        out.extend_from_slice(self.commitment.as_ref());
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            height: Height::decode(r)?,
            commitment: r.digest()?,
        })
    }
}

/// Where the chain of epochs stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Present {
    /// The epoch whose set was worked out last; transactions execute in it.
    pub(crate) epoch: Epoch,
    /// Height of the block that ended the epoch before; 0 in the first.
    pub(crate) since: Height,
}

impl Wire for Present {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.since.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            epoch: Epoch::decode(r)?,
            since: Height::decode(r)?,
        })
    }
}

/// Row of [`Present`].
pub(crate) fn present_row() -> RowId {
    RowId::new(kind::PRESENT, 0, &Digest::ZERO)
}

/// Row of a candidate.
pub(crate) fn candidate_row(id: &ValidatorId) -> RowId {
    RowId::new(kind::CANDIDATE, 0, id)
}

/// Row of stake that returns with the beginning of `release`.
pub(crate) fn unbonding_row(release: Epoch, id: &ValidatorId) -> RowId {
    RowId::new(kind::UNBONDING, release.0, id)
}

/// Row of the member at `index` of the set of `epoch`.
pub(crate) fn member_row(epoch: Epoch, index: usize) -> RowId {
    let mut digest = Digest::ZERO;
    let index = u16::try_from(index).expect("VALIDATORS_MAX fits u16");
    digest.0[..2].copy_from_slice(&index.to_be_bytes());
    RowId::new(kind::MEMBER, epoch.0, &digest)
}

/// Row of an offence in `epoch`.
pub(crate) fn offence_row(epoch: Epoch, id: &ValidatorId) -> RowId {
    RowId::new(kind::OFFENCE, epoch.0, id)
}

/// Row of a checkpoint.
pub(crate) fn checkpoint_row(slot: u64) -> RowId {
    RowId::new(kind::CHECKPOINT, slot, &Digest::ZERO)
}
