//! The durable safety record and the rules that guard it.
//!
//! One record holds everything a validator must remember to never contradict itself. It is
//! written, with fsync, before any message leaves that depends on it; see `docs/protocol.md`,
//! rules S1 to S6. Losing the locked QC while keeping its round would leave the node unable to
//! time out validly, so the certificate itself is part of the record; likewise the bytes of the
//! last messages, which are resent and never signed again.

use falconet_types::block::{HeaderKind, SignedHeader};
use falconet_types::certificate::{Qc, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::wire::{Reader, Wire, WireError};
use falconet_types::{ChainId, Digest, Epoch, Round};

const VERSION: u8 = 2;
/// The record before there were commit votes.
const VERSION_WITHOUT_COMMIT_VOTE: u8 = 1;

/// What a validator must never forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetyRecord {
    /// The chain that the record is bound to.
    pub chain_id: ChainId,
    /// Id of the key that signs.
    pub key_id: Digest,
    /// Epoch of all rounds below.
    pub epoch: Epoch,
    /// Highest round in which this node voted or gave up.
    pub last_voted_round: Round,
    /// Highest round that this node gave up.
    pub highest_timeout_round: Round,
    /// The highest QC that this node ever relied on in something it signed.
    pub locked: Qc,
    /// The last vote, as sent.
    pub last_vote: Option<Vote>,
    /// The last timeout, as sent.
    pub last_timeout: Option<Timeout>,
    /// The last normal header, as sent.
    pub last_normal: Option<SignedHeader>,
    /// The last recovery header, as sent.
    pub last_recovery: Option<SignedHeader>,
    /// The last commit vote, as sent.
    pub last_commit_vote: Option<CommitVote>,
}

impl SafetyRecord {
    /// The record of a node that never signed anything in the epoch that `genesis` begins.
    #[must_use]
    pub fn fresh(chain_id: ChainId, key_id: Digest, genesis: Qc) -> Self {
        Self {
            chain_id,
            key_id,
            epoch: genesis.epoch,
            last_voted_round: Round::ZERO,
            highest_timeout_round: Round::ZERO,
            locked: genesis,
            last_vote: None,
            last_timeout: None,
            last_normal: None,
            last_recovery: None,
            last_commit_vote: None,
        }
    }

    /// The last proposal of a kind.
    #[must_use]
    pub fn proposal(&self, kind: HeaderKind) -> Option<&SignedHeader> {
        match kind {
            HeaderKind::Normal => self.last_normal.as_ref(),
            HeaderKind::Recovery => self.last_recovery.as_ref(),
        }
    }
}

impl Wire for SafetyRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(self.chain_id.as_ref());
        out.extend_from_slice(self.key_id.as_ref());
        self.epoch.encode(out);
        self.last_voted_round.encode(out);
        self.highest_timeout_round.encode(out);
        self.locked.encode(out);
        put_option(out, self.last_vote.as_ref());
        put_option(out, self.last_timeout.as_ref());
        put_option(out, self.last_normal.as_ref());
        put_option(out, self.last_recovery.as_ref());
        put_option(out, self.last_commit_vote.as_ref());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION && version != VERSION_WITHOUT_COMMIT_VOTE {
            return Err(WireError::Version {
                what: "safety record",
                found: version,
            });
        }
        Ok(Self {
            chain_id: r.digest()?,
            key_id: r.digest()?,
            epoch: Epoch::decode(r)?,
            last_voted_round: Round::decode(r)?,
            highest_timeout_round: Round::decode(r)?,
            locked: Qc::decode(r)?,
            last_vote: option(r)?,
            last_timeout: option(r)?,
            last_normal: option(r)?,
            last_recovery: option(r)?,
            last_commit_vote: if version == VERSION { option(r)? } else { None },
        })
    }
}

fn put_option<T: Wire>(out: &mut Vec<u8>, value: Option<&T>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            value.encode(out);
        }
    }
}

fn option<T: Wire>(r: &mut Reader<'_>) -> Result<Option<T>, WireError> {
    match r.u8()? {
        0 => Ok(None),
        1 => T::decode(r).map(Some),
        _ => Err(WireError::Value("option")),
    }
}
