//! The validator set of an epoch: keys, weights, quorums and the order of leaders.

use std::sync::Arc;

use falconet_crypto::falcon::{PreparedKey, PublicKey};
use falconet_crypto::hash;

use crate::ids::{ChainId, Epoch, Round, ValidatorIndex};

/// Most validators in a set; bounds every table with one entry a validator.
pub const VALIDATORS_MAX: usize = 256;
/// Largest weight of one validator, so that sums never overflow.
pub const WEIGHT_MAX: u64 = 1 << 40;

/// One member of the set.
#[derive(Clone)]
pub struct Validator {
    /// Position in the set.
    pub index: ValidatorIndex,
    /// Its key, for consensus and for the handshake.
    pub key: PublicKey,
    /// The key, ready for verification.
    pub prepared: Arc<PreparedKey>,
    /// Voting weight, above 0.
    pub weight: u64,
}

/// The validators of one epoch.
#[derive(Clone)]
pub struct ValidatorSet {
    epoch: Epoch,
    validators: Vec<Validator>,
    total_weight: u64,
    leaders: Vec<ValidatorIndex>,
}

/// Why a list of validators is no validator set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// The list is empty or above [`VALIDATORS_MAX`].
    #[error("{0} validators; between 1 and {VALIDATORS_MAX} are allowed")]
    Count(usize),
    /// A weight is 0 or above [`WEIGHT_MAX`].
    #[error("validator {0} has weight {1}; between 1 and {WEIGHT_MAX} are allowed")]
    Weight(usize, u64),
    /// The same key stands twice.
    #[error("validators {0} and {1} have the same key")]
    SameKey(usize, usize),
}

impl ValidatorSet {
    /// Makes the set of `epoch` from keys and weights, in the order of their indices.
    pub fn new(
        chain: ChainId,
        epoch: Epoch,
        members: &[(PublicKey, u64)],
    ) -> Result<Self, SetError> {
        if members.is_empty() || members.len() > VALIDATORS_MAX {
            return Err(SetError::Count(members.len()));
        }
        let mut validators = Vec::with_capacity(members.len());
        let mut total_weight = 0u64;
        for (i, (key, weight)) in members.iter().enumerate() {
            if *weight == 0 || *weight > WEIGHT_MAX {
                return Err(SetError::Weight(i, *weight));
            }
            if let Some(j) = members[..i].iter().position(|(other, _)| other == key) {
                return Err(SetError::SameKey(j, i));
            }
            total_weight += weight;
            let index = ValidatorIndex(u16::try_from(i).expect("VALIDATORS_MAX fits u16"));
            let prepared = Arc::new(PreparedKey::from_public(key));
            validators.push(Validator {
                index,
                key: key.clone(),
                prepared,
                weight: *weight,
            });
        }
        let leaders = leader_order(chain, epoch, validators.len());
        Ok(Self {
            epoch,
            validators,
            total_weight,
            leaders,
        })
    }

    /// The epoch in which this set rules.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Number of validators, at least 1.
    #[must_use]
    pub fn len(&self) -> usize {
        self.validators.len()
    }

    /// Never true: a set has at least one member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.validators.is_empty()
    }

    /// The validator at `index`.
    #[must_use]
    pub fn get(&self, index: ValidatorIndex) -> Option<&Validator> {
        self.validators.get(index.at())
    }

    /// All validators in order.
    pub fn iter(&self) -> impl Iterator<Item = &Validator> {
        self.validators.iter()
    }

    /// Finds a validator by its key.
    #[must_use]
    pub fn by_key(&self, key: &PublicKey) -> Option<ValidatorIndex> {
        self.validators
            .iter()
            .find(|v| v.key == *key)
            .map(|v| v.index)
    }

    /// Weight of `index`, 0 for a stranger.
    #[must_use]
    pub fn weight(&self, index: ValidatorIndex) -> u64 {
        self.get(index).map_or(0, |v| v.weight)
    }

    /// Sum of weights.
    pub fn weight_of(&self, indices: impl IntoIterator<Item = ValidatorIndex>) -> u64 {
        indices.into_iter().map(|i| self.weight(i)).sum()
    }

    /// W: the weight of all.
    #[must_use]
    pub fn total_weight(&self) -> u64 {
        self.total_weight
    }

    /// Q: the least weight above 2W/3. Two quorums share an honest validator.
    #[must_use]
    pub fn quorum_weight(&self) -> u64 {
        self.total_weight * 2 / 3 + 1
    }

    /// F1: the least weight above W/3. Such a group has an honest member.
    #[must_use]
    pub fn weak_weight(&self) -> u64 {
        self.total_weight / 3 + 1
    }

    /// The leader of `round`. Every validator leads once in each run of `len()` rounds, which the
    /// liveness of the consecutive-round commit rule needs.
    #[must_use]
    pub fn leader(&self, round: Round) -> ValidatorIndex {
        let n = self.leaders.len() as u64;
        let slot = usize::try_from(round.0 % n).expect("below VALIDATORS_MAX");
        self.leaders[slot]
    }
}

impl std::fmt::Debug for ValidatorSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ValidatorSet {{ epoch: {}, n: {} }}",
            self.epoch,
            self.validators.len()
        )
    }
}

/// A shuffle seeded by chain and epoch (Fisher-Yates; each swap takes 8 bytes of a hash, whose
/// bias for 256 members is below 2^-55).
fn leader_order(chain: ChainId, epoch: Epoch, n: usize) -> Vec<ValidatorIndex> {
    let mut order: Vec<ValidatorIndex> = (0..n)
        .map(|i| ValidatorIndex(u16::try_from(i).expect("VALIDATORS_MAX")))
        .collect();
    for i in (1..n).rev() {
        let seed = hash::hash(
            "falconet/leaders",
            &[
                chain.as_ref(),
                &epoch.0.to_le_bytes(),
                &(i as u64).to_le_bytes(),
            ],
        );
        let word = u64::from_le_bytes(seed.0[..8].try_into().expect("8 bytes"));
        let j = usize::try_from(word % (i as u64 + 1)).expect("below VALIDATORS_MAX");
        order.swap(i, j);
    }
    order
}
