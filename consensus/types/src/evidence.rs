//! Evidence: two messages that one validator signed and that no correct validator signs both.
//!
//! It speaks for itself: whoever knows the validators of the epoch can check it, whoever brought
//! it. What cannot be proven is not here: a vote after a timeout (nobody knows the order of the
//! two), and two different timeouts for one round, which harm nobody.
//!
//! | kind | the two messages |
//! |---|---|
//! | headers | one author, epoch, round and kind; different ids |
//! | votes | one voter, epoch and round; different blocks or parent rounds |
//! | lock violation | a vote in round *r* for a child of round *p*, and a timeout of a round at or above *r* that names a QC below *p* |
//! | commit votes | one voter, epoch and round; different blocks |
//! | commit violation | a commit vote in round *r*, and a timeout of a round at or above *r* that names a QC below *r* |
//! | batches | one lane and epoch; one sequence number and different hashes, or neighbours of which the second does not name the first |
//!
//! Rules E1 to E6 of `docs/protocol.md`.

use falconet_crypto::falcon::Verifier;

use crate::batch::{BatchHeader, SignedBatchHeader};
use crate::block::SignedHeader;
use crate::certificate::{Timeout, Vote};
use crate::commit_vote::CommitVote;
use crate::ids::{ChainId, Epoch, ValidatorIndex};
use crate::signing::{self, Claim, Invalid, Signed};
use crate::validators::ValidatorSet;
use crate::wire::{Reader, Wire, WireError};

const VERSION: u8 = 1;
/// Largest encoded evidence: two signed headers with [`crate::validators::VALIDATORS_MAX`] lanes.
pub const EVIDENCE_BYTES_MAX: usize = 28 << 10;

/// Two signed messages that prove misbehaviour of one validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// Two headers of one author, epoch, round and kind.
    Headers(Box<SignedHeader>, Box<SignedHeader>),
    /// Two votes of one voter, epoch and round.
    Votes(Box<Vote>, Box<Vote>),
    /// A vote for a child of a certified block, and a timeout of the same or a later round that
    /// names a lower QC than the voter must have held.
    LockViolation(Box<Vote>, Box<Timeout>),
    /// Two batches that cannot both be in one lane.
    Batches(Box<SignedBatchHeader>, Box<SignedBatchHeader>),
    /// Two commit votes of one voter, epoch and round.
    CommitVotes(Box<CommitVote>, Box<CommitVote>),
    /// A vote to commit a block, and a timeout of its round or a later one that names a lower QC
    /// than the block's, which the voter held.
    CommitViolation(Box<CommitVote>, Box<Timeout>),
}

impl Evidence {
    /// The epoch in which it happened, as the first message says.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Headers(a, _) => a.epoch,
            Self::Votes(a, _) | Self::LockViolation(a, _) => a.epoch,
            Self::Batches(a, _) => a.header.epoch,
            Self::CommitVotes(a, _) | Self::CommitViolation(a, _) => a.epoch,
        }
    }

    /// The accused, in the set of that epoch, as the first message says.
    #[must_use]
    pub fn offender(&self) -> ValidatorIndex {
        match self {
            Self::Headers(a, _) => a.author,
            Self::Votes(a, _) | Self::LockViolation(a, _) => a.voter,
            Self::Batches(a, _) => a.header.lane,
            Self::CommitVotes(a, _) | Self::CommitViolation(a, _) => a.voter,
        }
    }

    /// What it proves, for people and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Headers(..) => "headers",
            Self::Votes(..) => "votes",
            Self::LockViolation(..) => "lock_violation",
            Self::Batches(..) => "batches",
            Self::CommitVotes(..) => "commit_votes",
            Self::CommitViolation(..) => "commit_violation",
        }
    }

    /// True when the two messages contradict each other. Signatures are not looked at.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Headers(a, b) => {
                (a.author, a.epoch, a.round, a.kind) == (b.author, b.epoch, b.round, b.kind)
                    && a.id() != b.id()
            }
            Self::Votes(a, b) => {
                (a.voter, a.epoch, a.round) == (b.voter, b.epoch, b.round)
                    && (a.block_id, a.parent_round) != (b.block_id, b.parent_round)
            }
            Self::LockViolation(vote, timeout) => {
                (vote.voter, vote.epoch) == (timeout.author, timeout.epoch)
                    && timeout.round >= vote.round
                    && timeout.hqc_round < vote.parent_round
            }
            Self::Batches(a, b) => batches_conflict(&a.header, &b.header),
            Self::CommitVotes(a, b) => {
                (a.voter, a.epoch, a.round) == (b.voter, b.epoch, b.round)
                    && a.block_id != b.block_id
            }
            Self::CommitViolation(vote, timeout) => {
                (vote.voter, vote.epoch) == (timeout.author, timeout.epoch)
                    && timeout.round >= vote.round
                    && timeout.hqc_round < vote.round
            }
        }
    }

    /// Checks everything against the validators of the epoch: the messages contradict each other
    /// and one validator signed both. Returns who.
    pub fn verify(
        &self,
        chain: ChainId,
        set: &ValidatorSet,
        verifier: &mut Verifier,
    ) -> Result<ValidatorIndex, Invalid> {
        signing::verify(self.clone(), chain, set, verifier)?;
        Ok(self.offender())
    }
}

fn batches_conflict(a: &BatchHeader, b: &BatchHeader) -> bool {
    let unlinked = |low: &BatchHeader, high: &BatchHeader| {
        low.seq.0.checked_add(1) == Some(high.seq.0) && high.prev_hash != low.hash()
    };
    (a.epoch, a.lane) == (b.epoch, b.lane)
        && ((a.seq == b.seq && a.hash() != b.hash()) || unlinked(a, b) || unlinked(b, a))
}

impl Signed for Evidence {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        if !self.is_conflict() {
            return Err(Invalid::Malformed(
                "the two messages do not contradict each other",
            ));
        }
        match self {
            Self::Headers(a, b) => {
                out.push(a.author_claim(chain, set)?);
                out.push(b.author_claim(chain, set)?);
                Ok(())
            }
            Self::Votes(a, b) => {
                a.claims(chain, set, out)?;
                b.claims(chain, set, out)
            }
            Self::LockViolation(vote, timeout) => {
                vote.claims(chain, set, out)?;
                timeout.claims(chain, set, out)
            }
            Self::Batches(a, b) => {
                a.claims(chain, set, out)?;
                b.claims(chain, set, out)
            }
            Self::CommitVotes(a, b) => {
                a.claims(chain, set, out)?;
                b.claims(chain, set, out)
            }
            Self::CommitViolation(vote, timeout) => {
                vote.claims(chain, set, out)?;
                timeout.claims(chain, set, out)
            }
        }
    }
}

impl Wire for Evidence {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Self::Headers(a, b) => {
                out.push(1);
                a.encode(out);
                b.encode(out);
            }
            Self::Votes(a, b) => {
                out.push(2);
                a.encode(out);
                b.encode(out);
            }
            Self::LockViolation(vote, timeout) => {
                out.push(3);
                vote.encode(out);
                timeout.encode(out);
            }
            Self::Batches(a, b) => {
                out.push(4);
                a.encode(out);
                b.encode(out);
            }
            Self::CommitVotes(a, b) => {
                out.push(5);
                a.encode(out);
                b.encode(out);
            }
            Self::CommitViolation(vote, timeout) => {
                out.push(6);
                vote.encode(out);
                timeout.encode(out);
            }
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "evidence",
                found: version,
            });
        }
        fn boxed<T: Wire>(r: &mut Reader<'_>) -> Result<Box<T>, WireError> {
            T::decode(r).map(Box::new)
        }
        let evidence = match r.u8()? {
            1 => Self::Headers(boxed(r)?, boxed(r)?),
            2 => Self::Votes(boxed(r)?, boxed(r)?),
            3 => Self::LockViolation(boxed(r)?, boxed(r)?),
            4 => Self::Batches(boxed(r)?, boxed(r)?),
            5 => Self::CommitVotes(boxed(r)?, boxed(r)?),
            6 => Self::CommitViolation(boxed(r)?, boxed(r)?),
            _ => return Err(WireError::Value("evidence kind")),
        };
        Ok(evidence)
    }
}
