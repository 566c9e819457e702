//! The registry: who has stake, who is in which epoch's set, what was punished.
//!
//! It is part of the state: a root over its rows stands in every commitment, the store keeps the
//! rows, and what follows from them is computed here and nowhere else. A registry holds some
//! thousand rows at most, all of them bounded by the limits below, and changes in few blocks.
//!
//! ```text
//! leaf     = H("falconet/registry-row", row id (41) ‖ row)
//! root(k)  = Merkle root over the leaves of kind k, by ascending row id
//! registry = H("falconet/registry", root(0) ‖ ... ‖ root(5))
//! ```

mod epochs;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use falconet_crypto::falcon::PublicKey;
use falconet_crypto::hash::{self, Digest, merkle};
use falconet_types::evidence::Evidence;
use falconet_types::genesis::{Genesis, StakeParams};
use falconet_types::stake::RowId;
use falconet_types::validators::{Member, ValidatorSet, members_digest, validators_root};
use falconet_types::wire::{Wire, WireError};
use falconet_types::{ChainId, Epoch, Height, ValidatorId, ValidatorIndex};

pub use rows::{Candidate, Checkpoint, Offence, SetMember, Unbonding};
use rows::{Present, candidate_row, checkpoint_row, kind, member_row, present_row, unbonding_row};

/// Most validators with stake; those with the most are in the set.
pub const CANDIDATES_MAX: usize = 1_024;
/// Most pieces of stake on their way back: one for each validator and epoch of its unbonding.
pub const UNBONDINGS_MAX: usize = 16_384;
/// State commitments of an epoch that are kept for those who prove that they follow.
pub const CHECKPOINTS: u64 = 64;

/// Why stored rows are no registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// A row cannot be read.
    #[error("row {row} of kind {kind} cannot be read: {source}")]
    Row {
        /// The kind of the row.
        kind: u8,
        /// Its digest.
        row: Digest,
        /// What is wrong.
        source: WireError,
    },
    /// Rows are missing or do not fit together.
    #[error("{0}")]
    Incomplete(&'static str),
}

/// Validators, stake and epochs.
#[derive(Clone)]
pub struct Registry {
    chain: ChainId,
    params: StakeParams,
    /// 0: one epoch for ever.
    epoch_heights: u64,
    present: Present,
    candidates: BTreeMap<ValidatorId, Arc<Candidate>>,
    unbondings: BTreeMap<(Epoch, ValidatorId), Unbonding>,
    /// The sets of the present epoch and of those in which misbehaviour can still be reported.
    sets: BTreeMap<Epoch, Arc<EpochSet>>,
    offences: BTreeMap<(Epoch, ValidatorId), Offence>,
    checkpoints: BTreeMap<u64, Checkpoint>,
    leaves: BTreeMap<RowId, Digest>,
    roots: [Digest; kind::COUNT as usize],
    /// Rows that were written since the root was last computed.
    dirty: BTreeSet<RowId>,
}

/// The validators of one epoch.
struct EpochSet {
    members: Vec<SetMember>,
    digest: Digest,
    /// For verification; preparing keys costs time, so only when evidence arrives.
    set: OnceLock<ValidatorSet>,
}

impl EpochSet {
    fn new(epoch: Epoch, members: Vec<SetMember>) -> Self {
        let list: Vec<Member> = members.iter().map(|m| m.member.clone()).collect();
        Self {
            digest: members_digest(epoch, &list),
            members,
            set: OnceLock::new(),
        }
    }
}

impl Registry {
    /// The registry at height 0. The genesis document must have passed its checks.
    #[must_use]
    pub fn from_genesis(genesis: &Genesis) -> Self {
        let mut registry = Self::empty(genesis);
        registry.dirty.insert(present_row());
        let mut members = Vec::with_capacity(genesis.validators.len());
        for (validator, member) in genesis.validators.iter().zip(genesis.members()) {
            let id = validator.key.id();
            let candidate = Candidate {
                name: validator.name.clone(),
                key: validator.key.clone(),
                next_key: None,
                owner: validator.owner(),
                address: validator.address,
                stake: validator.weight * genesis.stake.unit,
                ready: None,
                barred_until: Epoch::ZERO,
            };
            registry.put_candidate(id, candidate);
            members.push(SetMember {
                validator: id,
                member,
            });
        }
        registry.put_set(Epoch::ZERO, members);
        registry.hash_dirty();
        registry
    }

    fn empty(genesis: &Genesis) -> Self {
        Self {
            chain: genesis.chain_id(),
            params: genesis.stake.clone(),
            epoch_heights: genesis.params.epoch_heights,
            present: Present::default(),
            candidates: BTreeMap::new(),
            unbondings: BTreeMap::new(),
            sets: BTreeMap::new(),
            offences: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            leaves: BTreeMap::new(),
            roots: [merkle::root(&[]); kind::COUNT as usize],
            dirty: BTreeSet::new(),
        }
    }

    /// A registry out of all of its rows, in any order.
    pub fn restore(
        genesis: &Genesis,
        rows: impl Iterator<Item = (RowId, Bytes)>,
    ) -> Result<Self, RegistryError> {
        let mut registry = Self::empty(genesis);
        let mut sets: BTreeMap<Epoch, BTreeMap<RowId, SetMember>> = BTreeMap::new();
        for (id, bytes) in rows {
            let read = registry.take_row(&id, &bytes, &mut sets);
            read.map_err(|source| RegistryError::Row {
                kind: id.kind(),
                row: id.digest(),
                source,
            })?;
            registry.leaves.insert(id, leaf(&id, &bytes));
        }
        for (epoch, members) in sets {
            let dense = (0..).zip(members.keys());
            if dense.into_iter().any(|(i, id)| *id != member_row(epoch, i)) {
                return Err(RegistryError::Incomplete("the set of an epoch has gaps"));
            }
            let members = members.into_values().collect();
            let set = EpochSet::new(epoch, members);
            registry.sets.insert(epoch, Arc::new(set));
        }
        if !registry.sets.contains_key(&registry.present.epoch) {
            return Err(RegistryError::Incomplete(
                "the set of the present epoch is missing",
            ));
        }
        for kind in 0..kind::COUNT {
            registry.hash_kind(kind);
        }
        Ok(registry)
    }

    /// Takes a stored row; members gather in `sets` until all are there.
    fn take_row(
        &mut self,
        id: &RowId,
        bytes: &[u8],
        sets: &mut BTreeMap<Epoch, BTreeMap<RowId, SetMember>>,
    ) -> Result<(), WireError> {
        let (number, digest) = (id.number(), id.digest());
        match id.kind() {
            kind::PRESENT => self.present = Present::from_bytes(bytes)?,
            kind::CANDIDATE => {
                let row = Arc::new(Candidate::from_bytes(bytes)?);
                self.candidates.insert(digest, row);
            }
            kind::UNBONDING => {
                let row = Unbonding::from_bytes(bytes)?;
                self.unbondings.insert((Epoch(number), digest), row);
            }
            kind::MEMBER => {
                let row = SetMember::from_bytes(bytes)?;
                sets.entry(Epoch(number)).or_default().insert(*id, row);
            }
            kind::OFFENCE => {
                let row = Offence::from_bytes(bytes)?;
                self.offences.insert((Epoch(number), digest), row);
            }
            kind::CHECKPOINT => {
                self.checkpoints
                    .insert(number, Checkpoint::from_bytes(bytes)?);
            }
            _ => return Err(WireError::Value("row kind")),
        }
        Ok(())
    }

    /// False when there is one epoch for ever and stake never moves.
    #[must_use]
    pub fn has_epochs(&self) -> bool {
        self.epoch_heights > 0
    }

    /// Rules of stake.
    #[must_use]
    pub fn params(&self) -> &StakeParams {
        &self.params
    }

    /// The epoch whose set was worked out last; transactions execute in it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.present.epoch
    }

    /// Every validator with stake, by ascending id.
    pub fn candidates(&self) -> impl Iterator<Item = (&ValidatorId, &Candidate)> {
        self.candidates.iter().map(|(id, row)| (id, &**row))
    }

    /// One validator.
    #[must_use]
    pub fn candidate(&self, id: &ValidatorId) -> Option<&Candidate> {
        self.candidates.get(id).map(|row| &**row)
    }

    /// The validator whose key in this epoch has this id.
    #[must_use]
    pub fn candidate_by_key(&self, key_id: &Digest) -> Option<(&ValidatorId, &Candidate)> {
        self.candidates().find(|(_, row)| row.key.id() == *key_id)
    }

    /// Stake on its way back: release epoch, validator, what.
    pub fn unbondings(&self) -> impl Iterator<Item = (Epoch, &ValidatorId, &Unbonding)> {
        self.unbondings
            .iter()
            .map(|((release, id), row)| (*release, id, row))
    }

    /// Punished misbehaviour: epoch in which it happened, validator, what it cost.
    pub fn offences(&self) -> impl Iterator<Item = (Epoch, &ValidatorId, &Offence)> {
        self.offences
            .iter()
            .map(|((epoch, id), row)| (*epoch, id, row))
    }

    /// The set of an epoch in the order of indices, if it is still or already known.
    #[must_use]
    pub fn members(&self, epoch: Epoch) -> Option<&[SetMember]> {
        self.sets.get(&epoch).map(|set| &set.members[..])
    }

    /// True when the validator is in the set of the present epoch.
    #[must_use]
    pub fn is_member(&self, id: &ValidatorId) -> bool {
        let members = self.members(self.present.epoch);
        let members = members.expect("the present set is always known");
        members.iter().any(|member| member.validator == *id)
    }

    /// A state commitment of the present epoch that is kept.
    #[must_use]
    pub fn checkpoint(&self, height: Height) -> Option<Digest> {
        let row = self.checkpoints.get(&self.slot(height))?;
        (row.height == height && height > self.present.since).then_some(row.commitment)
    }

    /// The newest checkpoint of the present epoch.
    #[must_use]
    pub fn newest_checkpoint(&self) -> Option<Checkpoint> {
        let newest = self.checkpoints.values().max_by_key(|row| row.height)?;
        (newest.height > self.present.since).then_some(*newest)
    }

    /// True when nothing can come of reporting this any more: it was punished, or its epoch is
    /// not one of which misbehaviour can be reported.
    #[must_use]
    pub fn is_settled(&self, evidence: &Evidence) -> bool {
        let epoch = evidence.epoch();
        let id = self.validator_at(epoch, evidence.offender());
        epoch > self.epoch() || id.is_none_or(|id| self.offence(epoch, &id).is_some())
    }

    /// The key with this id, if a validator has it: in this epoch or from the next one on.
    #[must_use]
    pub fn key(&self, key_id: &Digest) -> Option<&PublicKey> {
        self.keys().find(|key| key.id() == *key_id)
    }

    /// The keys that may speak for a validator. Some may come twice.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        let of_candidates = self
            .candidates
            .values()
            .flat_map(|row| std::iter::once(&row.key).chain(&row.next_key));
        let present = self.members(self.present.epoch).unwrap_or_default();
        of_candidates.chain(present.iter().map(|member| &member.member.key))
    }

    /// All stake, bonded and on its way back.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        let bonded = self.candidates.values().map(|row| row.stake);
        let returning = self.unbondings.values().map(|row| row.amount);
        bonded.chain(returning).try_fold(0, u64::checked_add)
    }

    /// The validators root of a state commitment.
    #[must_use]
    pub fn root(&self) -> Digest {
        assert!(self.dirty.is_empty(), "rows were written after the root");
        let members = self.sets[&self.present.epoch].digest;
        validators_root(members, self.registry_root())
    }

    /// The root over all rows: what a proof of the next epoch shows beside the set.
    #[must_use]
    pub fn registry_root(&self) -> Digest {
        let roots: Vec<&[u8]> = self.roots.iter().map(AsRef::as_ref).collect();
        hash::hash("falconet/registry", &roots)
    }

    /// Every row, by ascending id.
    pub fn rows(&self) -> impl Iterator<Item = (RowId, Bytes)> + '_ {
        self.leaves.keys().map(|id| {
            let row = self.row(id).expect("a row has a leaf");
            (*id, row)
        })
    }

    /// Rows written since the last call, `None` for those that are gone, by ascending id; brings
    /// the root up to date.
    pub(crate) fn take_changes(&mut self) -> Vec<(RowId, Option<Bytes>)> {
        let changes = self.dirty.iter().map(|id| (*id, self.row(id))).collect();
        self.hash_dirty();
        changes
    }

    pub(crate) fn chain(&self) -> ChainId {
        self.chain
    }

    /// The validators of an epoch, ready to verify evidence.
    pub(crate) fn set(&self, epoch: Epoch) -> Option<&ValidatorSet> {
        let set = self.sets.get(&epoch)?;
        Some(set.set.get_or_init(|| {
            let members: Vec<(PublicKey, u64)> = set
                .members
                .iter()
                .map(|m| (m.member.key.clone(), m.member.weight))
                .collect();
            ValidatorSet::new(self.chain, epoch, &members)
                .expect("a set of the registry follows the rules of sets")
        }))
    }

    pub(crate) fn validator_at(&self, epoch: Epoch, index: ValidatorIndex) -> Option<ValidatorId> {
        Some(self.members(epoch)?.get(index.at())?.validator)
    }

    pub(crate) fn offence(&self, epoch: Epoch, id: &ValidatorId) -> Option<&Offence> {
        self.offences.get(&(epoch, *id))
    }

    pub(crate) fn unbondings_len(&self) -> usize {
        self.unbondings.len()
    }

    pub(crate) fn candidates_len(&self) -> usize {
        self.candidates.len()
    }

    /// True when a key is not free for `id`: a candidate has or gets it, or another validator had
    /// it in an epoch whose misbehaviour can still be reported.
    pub(crate) fn key_taken(&self, key_id: &Digest, id: &ValidatorId) -> bool {
        let now = self.candidates.values().any(|row| {
            row.key.id() == *key_id || row.next_key.as_ref().is_some_and(|k| k.id() == *key_id)
        });
        let before = |set: &Arc<EpochSet>| {
            set.members
                .iter()
                .any(|m| m.member.key.id() == *key_id && m.validator != *id)
        };
        now || self.sets.values().any(before)
    }

    pub(crate) fn name_taken(&self, name: &str) -> bool {
        let present = self.members(self.present.epoch).unwrap_or_default();
        self.candidates.values().any(|row| row.name == name)
            || present.iter().any(|member| member.member.name == name)
    }

    pub(crate) fn put_candidate(&mut self, id: ValidatorId, row: Candidate) {
        self.candidates.insert(id, Arc::new(row));
        self.dirty.insert(candidate_row(&id));
    }

    pub(crate) fn change_candidate(
        &mut self,
        id: &ValidatorId,
        change: impl FnOnce(&mut Candidate),
    ) {
        let row = self.candidates.get_mut(id).expect("the candidate exists");
        change(Arc::make_mut(row));
        self.dirty.insert(candidate_row(id));
    }

    pub(crate) fn put_unbonding(&mut self, release: Epoch, id: ValidatorId, row: Unbonding) {
        let merged = self
            .unbondings
            .entry((release, id))
            .or_insert(Unbonding { amount: 0, ..row });
        merged.amount += row.amount;
        self.dirty.insert(unbonding_row(release, &id));
    }

    /// Notes the commitment of the last executed block, if it is one of those to keep.
    pub(crate) fn wants_checkpoint(&self, height: Height) -> bool {
        self.has_epochs() && height.0.is_multiple_of(self.stride()) && height > self.present.since
    }

    pub(crate) fn put_checkpoint(&mut self, height: Height, commitment: Digest) {
        let slot = self.slot(height);
        self.checkpoints
            .insert(slot, Checkpoint { height, commitment });
        self.dirty.insert(checkpoint_row(slot));
    }

    /// Heights between two checkpoints: an epoch has [`CHECKPOINTS`] of them.
    fn stride(&self) -> u64 {
        (self.epoch_heights / CHECKPOINTS).max(1)
    }

    fn slot(&self, height: Height) -> u64 {
        height.0 / self.stride() % CHECKPOINTS
    }

    fn put_set(&mut self, epoch: Epoch, members: Vec<SetMember>) {
        for index in 0..members.len() {
            self.dirty.insert(member_row(epoch, index));
        }
        let set = EpochSet::new(epoch, members);
        self.sets.insert(epoch, Arc::new(set));
    }

    /// The bytes of a row, `None` when there is none.
    fn row(&self, id: &RowId) -> Option<Bytes> {
        let (number, digest) = (id.number(), id.digest());
        let bytes = match id.kind() {
            kind::PRESENT => self.present.to_bytes(),
            kind::CANDIDATE => self.candidates.get(&digest)?.to_bytes(),
            kind::UNBONDING => self.unbondings.get(&(Epoch(number), digest))?.to_bytes(),
            kind::MEMBER => {
                let index = u16::from_be_bytes([digest.0[0], digest.0[1]]);
                let set = self.sets.get(&Epoch(number))?;
                set.members.get(usize::from(index))?.to_bytes()
            }
            kind::OFFENCE => self.offences.get(&(Epoch(number), digest))?.to_bytes(),
            kind::CHECKPOINT => self.checkpoints.get(&number)?.to_bytes(),
            other => unreachable!("row kind {other}"),
        };
        Some(bytes.into())
    }

    fn hash_dirty(&mut self) {
        let mut kinds = [false; kind::COUNT as usize];
        for id in std::mem::take(&mut self.dirty) {
            kinds[usize::from(id.kind())] = true;
            match self.row(&id) {
                Some(row) => self.leaves.insert(id, leaf(&id, &row)),
                None => self.leaves.remove(&id),
            };
        }
        for kind in (0..kind::COUNT).filter(|kind| kinds[usize::from(*kind)]) {
            self.hash_kind(kind);
        }
    }

    fn hash_kind(&mut self, kind: u8) {
        let first = RowId::new(kind, 0, &Digest::ZERO);
        let last = RowId::new(kind, u64::MAX, &Digest([0xff; 32]));
        let leaves: Vec<Digest> = self.leaves.range(first..=last).map(|(_, l)| *l).collect();
        self.roots[usize::from(kind)] = merkle::root(&leaves);
    }
}

fn leaf(id: &RowId, row: &[u8]) -> Digest {
    hash::hash("falconet/registry-row", &[&id.0, row])
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Registry {{ epoch: {}, candidates: {}, sets: {} }}",
            self.present.epoch,
            self.candidates.len(),
            self.sets.len()
        )
    }
}
