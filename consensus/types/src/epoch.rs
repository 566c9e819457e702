//! Epochs: how one ends, how the next begins, and the proof that carries trust from the validators
//! of one to those of the next (`docs/protocol.md`, section "Epochs").
//!
//! ```text
//!  epoch e                                                                    epoch e + 1
//!  ... ── E ── · ── · ── P ── F ── C ◀── QC (validators of e)
//!         │                   │
//!         │ executed: the     ├─ names the state after E, or after a block above it
//!         │ next set is       │
//!         │ in the state      └── F, new set ══▶ first block's parent ── · ── ...
//! ```
//!
//! E is the block at the last height of its epoch; what follows it in the epoch carries nothing. F,
//! the epoch's *last block*, is the first committed one whose executed state is that of E or of a
//! block above it: from its header on, anybody can be shown who the next validators are.

use std::collections::VecDeque;
use std::sync::Arc;

use falconet_crypto::falcon::Verifier;
use falconet_crypto::hash::Digest;

use crate::block::{self, Executed, Header};
use crate::certificate::Qc;
use crate::genesis::{Genesis, Params};
use crate::ids::{BlockId, ChainId, Epoch, Height};
use crate::receipt::StateRoots;
use crate::signing::{self, Invalid};
use crate::validators::{
    Member, SetError, VALIDATORS_MAX, ValidatorSet, members_digest, validators_root,
};
use crate::wire::{Reader, Wire, WireError, put_count16};

const VERSION: u8 = 1;
/// Most headers in the proof of an epoch. Three are the rule; each certified block above the last
/// one whose round does not follow its parent's adds one.
pub const HEADERS_MAX: usize = 512;
/// Where the epoch's last block stands among them, above its parent.
const LAST: usize = 1;

/// What an epoch starts from: the parent of its first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// Id of the block that stands for the start: see [`ValidatorSet::genesis`].
    pub id: BlockId,
    /// Height of the last block of the epoch before; 0 for epoch 0.
    pub height: Height,
    /// Time of that block, milliseconds since 1970.
    pub time_ms: u64,
    /// The executed state that it names; `None` for epoch 0, whose state only the application
    /// knows.
    pub executed: Option<Executed>,
}

impl EpochStart {
    /// Epoch 0.
    #[must_use]
    pub fn genesis(chain: ChainId, time_ms: u64) -> Self {
        Self {
            epoch: Epoch::ZERO,
            id: block::genesis_id(chain),
            height: Height::ZERO,
            time_ms,
            executed: None,
        }
    }

    /// The epoch after the one whose last block is `last`, in which `set` rules, given as a set of
    /// that epoch. Also gives the set its genesis.
    #[must_use]
    pub fn after(chain: ChainId, last: &Header, set: ValidatorSet) -> (Self, ValidatorSet) {
        assert_eq!(set.epoch(), last.epoch.next(), "epochs follow one another");
        let id = block::epoch_genesis_id(chain, set.epoch(), last.id(), set.digest());
        let start = Self {
            epoch: set.epoch(),
            id,
            height: last.height,
            time_ms: last.time_ms,
            executed: Some(last.executed),
        };
        (start, set.starting_at(id))
    }

    /// Height of the block that ends the epoch (E); `None` when it goes on for ever.
    #[must_use]
    pub fn end(&self, params: &Params) -> Option<Height> {
        params.last_height(self.height.next())
    }

    /// True for the last block of this epoch (F), given that its parent is not it.
    #[must_use]
    pub fn is_over(&self, params: &Params, header: &Header) -> bool {
        self.end(params)
            .is_some_and(|end| header.executed.height >= end)
    }
}

/// An epoch's set with all that is known of its members.
#[derive(Debug, Clone)]
pub struct EpochInfo {
    /// Where it starts.
    pub start: EpochStart,
    /// Who rules.
    pub set: Arc<ValidatorSet>,
    /// Names, keys, weights and addresses, in the order of the set.
    pub members: Vec<Member>,
}

impl EpochInfo {
    /// Epoch 0 of a genesis document.
    pub fn genesis(genesis: &Genesis) -> Result<Self, SetError> {
        Ok(Self {
            start: EpochStart::genesis(genesis.chain_id(), genesis.time_ms),
            set: Arc::new(genesis.validator_set()?),
            members: genesis.members(),
        })
    }

    /// The epoch after this one, which `last` ended. `members` are its validators; `None`: the
    /// same go on.
    pub fn next(
        &self,
        chain: ChainId,
        last: &Header,
        members: Option<Vec<Member>>,
    ) -> Result<Self, SetError> {
        let members = members.unwrap_or_else(|| self.members.clone());
        let keys: Vec<_> = members.iter().map(|m| (m.key.clone(), m.weight)).collect();
        let set = ValidatorSet::new(chain, self.start.epoch.next(), &keys)?;
        let (start, set) = EpochStart::after(chain, last, set);
        Ok(Self {
            start,
            set: Arc::new(set),
            members,
        })
    }
}

/// Proves to anybody who knows the validators of an epoch that it is over, and who the validators
/// of the next one are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochProof {
    /// The parent of the epoch's last block, that block, and its descendants up to a certified one,
    /// all or from one on that names it, by ascending height. Without signatures: the id in the
    /// certificate pins them.
    pub headers: Vec<Header>,
    /// The certificate of the last header.
    pub qc: Qc,
    /// Accounts root at the height whose state the epoch's last block names.
    pub accounts: Digest,
    /// Results digest at that height.
    pub results: Digest,
    /// The next validators as that state has them; `None` where the application has no say, and
    /// the same validators go on.
    pub next: Option<NextMembers>,
}

/// The next validators, as a state commitment names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextMembers {
    /// In the order of their indices.
    pub members: Vec<Member>,
    /// Root over the registry of stake.
    pub registry: Digest,
}

/// Why a proof does not show that an epoch is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EpochProofError {
    /// The proof is for another epoch than the one that is to be left.
    #[error("the proof ends epoch {found}, not {expected}")]
    Epoch {
        /// Epoch of the proof.
        found: Epoch,
        /// Epoch of the validators that judge it.
        expected: Epoch,
    },
    /// This chain has one epoch only.
    #[error("this chain has one epoch for ever")]
    NoEpochs,
    /// Too few or too many headers.
    #[error("the proof has {0} headers, between 3 and {HEADERS_MAX} are allowed")]
    Headers(usize),
    /// Headers that do not follow one another.
    #[error("header {0} does not follow the one before it")]
    Broken(Height),
    /// The second header is not the epoch's last block.
    #[error("block {0} is not the last block of the epoch")]
    NotLast(Height),
    /// The certificate is for another block than the last header, or commits nothing.
    #[error("the certificate does not commit the epoch's last block: {0}")]
    NotCommitted(&'static str),
    /// The certificate is not valid.
    #[error("certificate: {0}")]
    Certificate(#[from] Invalid),
    /// The validators are not those of the state that the epoch's last block names.
    #[error("the next validators are not in the state that block {0} names")]
    OtherState(Height),
    /// The next validators are no set.
    #[error("next validators: {0}")]
    Set(#[from] SetError),
}

impl EpochProof {
    /// The epoch that it ends.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.qc.epoch
    }

    /// The epoch's last block (F). The proof has been checked.
    #[must_use]
    pub fn last(&self) -> &Header {
        &self.headers[1]
    }

    /// Checks everything but the certificate's signatures against the epoch that it ends; the next
    /// epoch.
    pub fn check_links(
        &self,
        chain: ChainId,
        params: &Params,
        epoch: &EpochInfo,
    ) -> Result<EpochInfo, EpochProofError> {
        let expected = epoch.start.epoch;
        if self.epoch() != expected {
            return Err(EpochProofError::Epoch {
                found: self.epoch(),
                expected,
            });
        }
        if self.headers.len() < 3 || self.headers.len() > HEADERS_MAX {
            return Err(EpochProofError::Headers(self.headers.len()));
        }
        for (at, pair) in self.headers.windows(2).enumerate() {
            let (parent, child) = (&pair[0], &pair[1]);
            let is_child = || {
                child.parent_id == parent.id()
                    && child.parent_round == parent.round
                    && child.height.0.checked_sub(1) == Some(parent.height.0)
            };
            // Rule N9: who voted for a header above the last block knows that it is above it.
            let is_above = || {
                at == LAST
                    && child.ended_by == parent.id()
                    && child.height > parent.height.next()
                    && child.round > parent.round
            };
            let in_epoch = child.epoch == expected && parent.epoch == expected;
            if !in_epoch || !(is_child() || is_above()) {
                return Err(EpochProofError::Broken(child.height));
            }
        }
        if epoch.start.end(params).is_none() {
            return Err(EpochProofError::NoEpochs);
        }
        let (before, last) = (&self.headers[0], &self.headers[LAST]);
        if epoch.start.is_over(params, before) || !epoch.start.is_over(params, last) {
            return Err(EpochProofError::NotLast(last.height));
        }
        let certified = self.headers.last().expect("at least three headers");
        let names = self.qc.block_id == certified.id()
            && self.qc.round == certified.round
            && self.qc.parent_round == certified.parent_round;
        if !names {
            return Err(EpochProofError::NotCommitted("it certifies another block"));
        }
        // Rule C2: among the certified headers above it, one of a round after its parent's.
        let commits =
            |header: &Header| header.parent_round.0.checked_add(1) == Some(header.round.0);
        if !self.headers[2..].iter().any(commits) {
            return Err(EpochProofError::NotCommitted(
                "no header above it has the round after its parent's",
            ));
        }
        self.check_state(last, expected.next())?;
        let members = self.next.as_ref().map(|next| next.members.clone());
        Ok(epoch.next(chain, last, members)?)
    }

    /// Checks the whole proof with the validators of the epoch that it ends; the next epoch.
    pub fn verify(
        &self,
        chain: ChainId,
        params: &Params,
        epoch: &EpochInfo,
        verifier: &mut Verifier,
    ) -> Result<EpochInfo, EpochProofError> {
        let next = self.check_links(chain, params, epoch)?;
        signing::verify(self.qc.clone(), chain, &epoch.set, verifier)?;
        Ok(next)
    }

    /// The validators are those that the state named by the last block commits to.
    fn check_state(&self, last: &Header, next_epoch: Epoch) -> Result<(), EpochProofError> {
        let validators = self.next.as_ref().map_or(Digest::ZERO, |next| {
            validators_root(members_digest(next_epoch, &next.members), next.registry)
        });
        let roots = StateRoots {
            receipts: Digest::ZERO,
            accounts: self.accounts,
            validators,
            results: self.results,
        };
        if roots.commitment(last.executed.height) == last.executed.root {
            Ok(())
        } else {
            Err(EpochProofError::OtherState(last.height))
        }
    }
}

/// Epochs whose validators an [`EpochTrail`] remembers, the newest.
pub const TRAIL_EPOCHS_KEPT: usize = 64;

/// Somebody's way from genesis through the epochs, one proof at a time: each proof is judged by the
/// validators that the one before it has proven, and by nobody else.
#[derive(Debug, Clone)]
pub struct EpochTrail {
    genesis: Genesis,
    chain: ChainId,
    /// The newest epochs, at least one, at most [`TRAIL_EPOCHS_KEPT`].
    infos: VecDeque<EpochInfo>,
}

impl EpochTrail {
    /// At epoch 0 of a genesis document that has passed its own checks.
    pub fn new(genesis: &Genesis) -> Result<Self, SetError> {
        Ok(Self {
            infos: VecDeque::from([EpochInfo::genesis(genesis)?]),
            chain: genesis.chain_id(),
            genesis: genesis.clone(),
        })
    }

    /// The genesis document.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The chain.
    #[must_use]
    pub fn chain(&self) -> ChainId {
        self.chain
    }

    /// The newest epoch that is known.
    #[must_use]
    pub fn newest(&self) -> &EpochInfo {
        self.infos.back().expect("at least one")
    }

    /// An epoch that is remembered.
    #[must_use]
    pub fn get(&self, epoch: Epoch) -> Option<&EpochInfo> {
        self.infos.iter().find(|info| info.start.epoch == epoch)
    }

    /// Takes the proof that the newest epoch is over; the next one. A proof of any other epoch, or
    /// one that its validators did not sign, is refused and changes nothing.
    pub fn follow(
        &mut self,
        proof: &EpochProof,
        verifier: &mut Verifier,
    ) -> Result<&EpochInfo, EpochProofError> {
        let params = &self.genesis.params;
        let next = proof.verify(self.chain, params, self.newest(), verifier)?;
        self.infos.push_back(next);
        if self.infos.len() > TRAIL_EPOCHS_KEPT {
            self.infos.pop_front();
        }
        Ok(self.newest())
    }
}

impl Wire for EpochProof {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_count16(out, self.headers.len());
        for header in &self.headers {
            header.encode(out);
        }
        self.qc.encode(out);
        out.extend_from_slice(self.accounts.as_ref());
        out.extend_from_slice(self.results.as_ref());
        let Some(next) = &self.next else {
            return out.push(0);
        };
        out.push(1);
        out.extend_from_slice(next.registry.as_ref());
        put_count16(out, next.members.len());
        for member in &next.members {
            member.encode(out);
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "epoch proof",
                found: version,
            });
        }
        let n = r.count16("headers", HEADERS_MAX)?;
        let mut headers = Vec::new();
        for _ in 0..n {
            headers.push(Header::decode(r)?);
        }
        if headers.len() < 3 {
            return Err(WireError::Value("headers"));
        }
        let qc = Qc::decode(r)?;
        let accounts = r.digest()?;
        let results = r.digest()?;
        let next = match r.u8()? {
            0 => None,
            1 => {
                let registry = r.digest()?;
                let n = r.count16("members", VALIDATORS_MAX)?;
                let mut members = Vec::new();
                for _ in 0..n {
                    members.push(Member::decode(r)?);
                }
                Some(NextMembers { members, registry })
            }
            _ => return Err(WireError::Value("next validators")),
        };
        Ok(Self {
            headers,
            qc,
            accounts,
            results,
            next,
        })
    }
}
