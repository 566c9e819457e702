//! The validator set of an epoch: keys, weights, quorums and the order of leaders.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;

use falconet_crypto::falcon::{PreparedKey, PublicKey, Scheme};
use falconet_crypto::hash::{self, Digest};

use crate::block;
use crate::genesis::NAME_LEN_MAX;
use crate::ids::{BlockId, ChainId, Epoch, Round, ValidatorIndex};
use crate::wire::{Reader, Wire, WireError, put_count16};

/// Most validators in a set; bounds every table with one entry a validator.
pub const VALIDATORS_MAX: usize = 256;
/// Largest weight of one validator, so that sums never overflow.
pub const WEIGHT_MAX: u64 = 1 << 40;

/// A validator as the state names it for an epoch to come, and as the proof of that epoch carries
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// A name for people, unique among validators.
    pub name: String,
    /// Its key, for consensus and for the handshake.
    pub key: PublicKey,
    /// Voting weight, above 0.
    pub weight: u64,
    /// Where its STOQ endpoint listens, if it has said so.
    pub address: Option<SocketAddrV6>,
}

impl Wire for Member {
    fn encode(&self, out: &mut Vec<u8>) {
        put_name(out, &self.name);
        put_key(out, &self.key);
        out.extend_from_slice(&self.weight.to_le_bytes());
        put_address(out, self.address.as_ref());
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            name: read_name(r)?,
            key: read_key(r)?,
            weight: r.u64()?,
            address: read_address(r)?,
        })
    }
}

/// Digest of the set of an epoch: members in the order of their indices.
#[must_use]
pub fn members_digest(epoch: Epoch, members: &[Member]) -> Digest {
    let mut out = epoch.to_bytes();
    put_count16(&mut out, members.len());
    members.iter().for_each(|member| member.encode(&mut out));
    hash::hash("falconet/members", &[&out])
}

/// What a state commitment says about validators: the digest of the newest set that was computed
/// ([`members_digest`]) and the root over the registry of stake. So the proof of a new epoch needs
/// the set and one digest, not the registry.
#[must_use]
pub fn validators_root(members: Digest, registry: Digest) -> Digest {
    hash::hash(
        "falconet/validators",
        &[members.as_ref(), registry.as_ref()],
    )
}

/// Names of validators are keys of configuration files and stand in logs: short and plain.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= NAME_LEN_MAX && name.chars().all(plain)
}

/// True for an address that means the same on every machine.
#[must_use]
pub fn is_plain(address: &SocketAddrV6) -> bool {
    address.scope_id() == 0 && address.flowinfo() == 0 && address.port() != 0
}

/// Appends a name: one byte of length, then its characters.
pub fn put_name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).expect("names are short"));
    out.extend_from_slice(name.as_bytes());
}

/// Reads a name for which [`is_name`] holds.
pub fn read_name(r: &mut Reader<'_>) -> Result<String, WireError> {
    let len = usize::from(r.u8()?);
    match std::str::from_utf8(r.bytes(len)?) {
        Ok(name) if is_name(name) => Ok(name.to_owned()),
        _ => Err(WireError::Value("name")),
    }
}

/// Appends a key: scheme byte, then its bytes.
pub fn put_key(out: &mut Vec<u8>, key: &PublicKey) {
    out.push(key.scheme().as_byte());
    out.extend_from_slice(key.as_bytes());
}

/// Reads a key with its scheme byte.
pub fn read_key(r: &mut Reader<'_>) -> Result<PublicKey, WireError> {
    let scheme = Scheme::try_from(r.u8()?).map_err(|_| WireError::Value("scheme"))?;
    let bytes = r.bytes(scheme.public_key_len())?;
    PublicKey::from_bytes(scheme, bytes).map_err(|_| WireError::Value("public key"))
}

/// Appends an address: 0, or 1 with 16 bytes of address and two of port, little-endian.
pub fn put_address(out: &mut Vec<u8>, address: Option<&SocketAddrV6>) {
    match address {
        None => out.push(0),
        Some(address) => {
            out.push(1);
            out.extend_from_slice(&address.ip().octets());
            out.extend_from_slice(&address.port().to_le_bytes());
        }
    }
}

/// Reads what [`put_address`] appends.
pub fn read_address(r: &mut Reader<'_>) -> Result<Option<SocketAddrV6>, WireError> {
    match r.u8()? {
        0 => Ok(None),
        1 => {
            let ip = Ipv6Addr::from(r.array::<16>()?);
            match r.u16()? {
                0 => Err(WireError::Value("port")),
                port => Ok(Some(SocketAddrV6::new(ip, port, 0, 0))),
            }
        }
        _ => Err(WireError::Value("address")),
    }
}

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
    genesis: BlockId,
    validators: Vec<Validator>,
    total_weight: u64,
    leaders: Vec<ValidatorIndex>,
    /// Rounds in a row of which one leads.
    turn_rounds: u64,
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
        let turn_rounds = turn_rounds(&validators, total_weight);
        Ok(Self {
            epoch,
            genesis: block::genesis_id(chain),
            validators,
            total_weight,
            leaders,
            turn_rounds,
        })
    }

    /// The same set, for an epoch that starts from the block `genesis` instead of the chain's own
    /// genesis block.
    #[must_use]
    pub fn starting_at(mut self, genesis: BlockId) -> Self {
        self.genesis = genesis;
        self
    }

    /// Id of the block that the epoch starts from: the chain's genesis block, or what
    /// [`block::epoch_genesis_id`] gives.
    #[must_use]
    pub fn genesis(&self) -> BlockId {
        self.genesis
    }

    /// Digest of the keys and weights in order.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        put_count16(&mut bytes, self.validators.len());
        for validator in &self.validators {
            bytes.extend_from_slice(&validator.key.to_wire());
            bytes.extend_from_slice(&validator.weight.to_le_bytes());
        }
        hash::hash("falconet/validator-set", &[&bytes])
    }

    /// The same set with other leaders: round r is led by entry r modulo their number.
    ///
    /// # Panics
    /// When a leader is no member, or none is given.
    #[cfg(feature = "schedule")]
    #[must_use]
    pub fn with_leaders(mut self, leaders: Vec<ValidatorIndex>) -> Self {
        assert!(!leaders.is_empty() && leaders.iter().all(|leader| self.get(*leader).is_some()));
        (self.leaders, self.turn_rounds) = (leaders, 1);
        self
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
        quorum_of(self.total_weight)
    }

    /// F1: the least weight above W/3. Such a group has an honest member.
    #[must_use]
    pub fn weak_weight(&self) -> u64 {
        self.total_weight / 3 + 1
    }

    /// The leader of `round`. Every validator has one turn in each cycle
    /// ([`Self::cycle_rounds`]), which the liveness of the consecutive-round commit rule needs.
    #[must_use]
    pub fn leader(&self, round: Round) -> ValidatorIndex {
        let n = self.leaders.len() as u64;
        let turn = round.0.div_ceil(self.turn_rounds);
        let slot = usize::try_from(turn % n).expect("below VALIDATORS_MAX");
        self.leaders[slot]
    }

    /// Rounds in a row that are one leader's turn: 1, or 2 where those who may be faulty are too
    /// many heads for one round each (`docs/protocol.md`, Leaders). The first turn begins with
    /// round 1.
    #[must_use]
    pub fn turn_rounds(&self) -> u64 {
        self.turn_rounds
    }

    /// Rounds in which everybody has one turn.
    #[must_use]
    pub fn cycle_rounds(&self) -> u64 {
        self.leaders.len() as u64 * self.turn_rounds
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

/// The least weight above two thirds of it all.
fn quorum_of(total_weight: u64) -> u64 {
    total_weight * 2 / 3 + 1
}

/// A commit takes two rounds in a row with correct leaders. In any order of turns of one round there
/// are such while at most every third leader is faulty. But those who may be faulty are counted by
/// weight: many small validators may be more than a third of all heads. Where that is so, each
/// leads twice in a row.
fn turn_rounds(validators: &[Validator], total_weight: u64) -> u64 {
    let mut weights: Vec<u64> = validators.iter().map(|v| v.weight).collect();
    weights.sort_unstable();
    let mut left = total_weight - quorum_of(total_weight);
    let bearable = weights.iter().take_while(|weight| {
        let bears = **weight <= left;
        left = left.saturating_sub(**weight);
        bears
    });
    if validators.len() > 3 * bearable.count() {
        1
    } else {
        2
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
