//! Newtypes for the numbers and digests that must not be confused with one another.

use std::fmt;

use falconet_crypto::hash::Digest;

use crate::wire::{Reader, Wire, WireError};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $read:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The value before the first.
            pub const ZERO: Self = Self(0);

            /// The following value. Panics on overflow, which no real run reaches: values that
            /// come from a peer are bounded before arithmetic is done on them.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("number exhausted"))
            }

            /// The value before this one; zero stays zero.
            #[must_use]
            pub fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl Wire for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0.to_le_bytes());
            }
            fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
                Ok(Self(r.$read()?))
            }
        }
    };
}

number!(
    /// A round of the HotStuff core. Round 0 belongs to genesis; rounds restart in each epoch.
    Round(u64), u64
);
number!(
    /// Height of a block: genesis is 0, a child is one above its parent.
    Height(u64), u64
);
number!(
    /// An epoch: the time during which one validator set rules.
    Epoch(u64), u64
);
number!(
    /// Position of a batch in its lane; the first batch has 1, 0 stands for "none yet".
    Seq(u64), u64
);
number!(
    /// Position of a validator in the set of its epoch, also the number of its lane.
    ValidatorIndex(u16), u16
);

/// Most followers that one validator serves; the peers' tables of the cores have room for them.
pub const FOLLOWERS_MAX: usize = 16;

impl ValidatorIndex {
    /// Stands for this node itself when its key is not in the set: it follows the chain.
    pub const NOBODY: Self = Self(u16::MAX);

    /// Names a connected follower towards the cores: numbers that no member of a set can have.
    /// They are local, never on the wire, and are used again after a follower has gone.
    #[must_use]
    pub fn of_follower(slot: usize) -> Self {
        assert!(slot < FOLLOWERS_MAX, "a follower's slot is below the limit");
        let number = crate::validators::VALIDATORS_MAX + slot;
        Self(u16::try_from(number).expect("both limits are small"))
    }

    /// The slot of a follower; `None` for a validator.
    #[must_use]
    pub fn follower_slot(self) -> Option<usize> {
        let slot = self.at().checked_sub(crate::validators::VALIDATORS_MAX)?;
        (slot < FOLLOWERS_MAX).then_some(slot)
    }

    /// As an index into a table with one entry a validator.
    #[must_use]
    pub fn at(self) -> usize {
        usize::from(self.0)
    }
}

/// Identifies a chain: the hash of its genesis document, see [`crate::genesis::Genesis::chain_id`].
pub type ChainId = Digest;
/// Identifies a block: the hash of its header without the signature.
pub type BlockId = Digest;
/// Identifies a transaction: the hash of its bytes without the signature.
pub type TxId = Digest;
/// Identifies an account: the id of its public key (hash of scheme byte and key).
pub type AccountId = Digest;
/// Identifies a validator for as long as it has stake, whatever key it has: the id of the key with
/// which it was first bonded.
pub type ValidatorId = Digest;
