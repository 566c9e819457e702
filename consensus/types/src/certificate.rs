//! Votes, timeouts and the certificates that are made of them.
//!
//! FALCON signatures do not aggregate, so a certificate is a list of distinct signers with their
//! signatures. Rules: Jolteon (arXiv 2106.10362), 2-chain with timeout certificates; see
//! `docs/protocol.md`.

use falconet_crypto::falcon::Signature;

use crate::ids::{BlockId, ChainId, Epoch, Round, ValidatorIndex};
use crate::signing::{self, Claim, Invalid, Signed, Signer, Statement, check_epoch};
use crate::validators::{VALIDATORS_MAX, ValidatorSet};
use crate::wire::{Reader, Wire, WireError, put_count16, put_signature};

const TAG_VOTE: &str = "falconet/vote";
const TAG_TIMEOUT: &str = "falconet/timeout";

/// A validator's vote for a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// Epoch of the block.
    pub epoch: Epoch,
    /// Round of the block.
    pub round: Round,
    /// The block.
    pub block_id: BlockId,
    /// Round of the block's parent: makes a lock violation provable.
    pub parent_round: Round,
    /// Who votes.
    pub voter: ValidatorIndex,
    /// Over all fields but `voter`, which the key stands for.
    pub signature: Signature,
}

fn vote_content(epoch: Epoch, round: Round, block_id: BlockId, parent_round: Round) -> Vec<u8> {
    let mut out = Vec::with_capacity(56);
    epoch.encode(&mut out);
    round.encode(&mut out);
    parent_round.encode(&mut out);
    out.extend_from_slice(block_id.as_ref());
    out
}

impl Vote {
    /// Signs a vote.
    #[must_use]
    pub fn sign(
        epoch: Epoch,
        round: Round,
        block_id: BlockId,
        parent_round: Round,
        voter: ValidatorIndex,
        chain: ChainId,
        signer: &dyn Signer,
    ) -> Self {
        let content = vote_content(epoch, round, block_id, parent_round);
        let signature = signer.sign(&signing::message(
            TAG_VOTE,
            chain,
            signer.key_id(),
            &content,
        ));
        Self {
            epoch,
            round,
            block_id,
            parent_round,
            voter,
            signature,
        }
    }
}

impl Wire for Vote {
    fn encode(&self, out: &mut Vec<u8>) {
        self.voter.encode(out);
        out.extend_from_slice(&vote_content(
            self.epoch,
            self.round,
            self.block_id,
            self.parent_round,
        ));
        put_signature(out, &self.signature);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let voter = ValidatorIndex::decode(r)?;
        let epoch = Epoch::decode(r)?;
        let round = Round::decode(r)?;
        let parent_round = Round::decode(r)?;
        let block_id = r.digest()?;
        let signature = r.signature()?;
        Ok(Self {
            epoch,
            round,
            block_id,
            parent_round,
            voter,
            signature,
        })
    }
}

impl Signed for Vote {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        if self.parent_round >= self.round {
            return Err(Invalid::Malformed("the round is not above the parent's"));
        }
        let vote = Statement {
            epoch: self.epoch,
            signer: self.voter,
            tag: TAG_VOTE,
            content: &vote_content(self.epoch, self.round, self.block_id, self.parent_round),
            signature: &self.signature,
        };
        out.push(vote.claim(chain, set)?);
        Ok(())
    }
}

/// A validator's statement that it gives up on a round, naming its highest QC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeout {
    /// Epoch.
    pub epoch: Epoch,
    /// The round that is given up.
    pub round: Round,
    /// Round of the author's highest QC, below `round`.
    pub hqc_round: Round,
    /// Block of that QC.
    pub hqc_id: BlockId,
    /// Who gives up.
    pub author: ValidatorIndex,
    /// Over all fields but `author`.
    pub signature: Signature,
}

fn timeout_content(epoch: Epoch, round: Round, hqc_round: Round, hqc_id: BlockId) -> Vec<u8> {
    let mut out = Vec::with_capacity(56);
    epoch.encode(&mut out);
    round.encode(&mut out);
    hqc_round.encode(&mut out);
    out.extend_from_slice(hqc_id.as_ref());
    out
}

impl Timeout {
    /// Signs a timeout.
    #[must_use]
    pub fn sign(
        epoch: Epoch,
        round: Round,
        hqc_round: Round,
        hqc_id: BlockId,
        author: ValidatorIndex,
        chain: ChainId,
        signer: &dyn Signer,
    ) -> Self {
        let content = timeout_content(epoch, round, hqc_round, hqc_id);
        let signature = signer.sign(&signing::message(
            TAG_TIMEOUT,
            chain,
            signer.key_id(),
            &content,
        ));
        Self {
            epoch,
            round,
            hqc_round,
            hqc_id,
            author,
            signature,
        }
    }
}

impl Wire for Timeout {
    fn encode(&self, out: &mut Vec<u8>) {
        self.author.encode(out);
        out.extend_from_slice(&timeout_content(
            self.epoch,
            self.round,
            self.hqc_round,
            self.hqc_id,
        ));
        put_signature(out, &self.signature);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let author = ValidatorIndex::decode(r)?;
        let epoch = Epoch::decode(r)?;
        let round = Round::decode(r)?;
        let hqc_round = Round::decode(r)?;
        let hqc_id = r.digest()?;
        let signature = r.signature()?;
        Ok(Self {
            epoch,
            round,
            hqc_round,
            hqc_id,
            author,
            signature,
        })
    }
}

impl Signed for Timeout {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        if self.hqc_round >= self.round {
            return Err(Invalid::Malformed("the highest QC is not below the round"));
        }
        let timeout = Statement {
            epoch: self.epoch,
            signer: self.author,
            tag: TAG_TIMEOUT,
            content: &timeout_content(self.epoch, self.round, self.hqc_round, self.hqc_id),
            signature: &self.signature,
        };
        out.push(timeout.claim(chain, set)?);
        Ok(())
    }
}

/// A quorum certificate: distinct validators of weight >= Q voted for one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qc {
    /// Epoch of the block.
    pub epoch: Epoch,
    /// Round of the block.
    pub round: Round,
    /// The block.
    pub block_id: BlockId,
    /// Round of the block's parent.
    pub parent_round: Round,
    /// Signers in ascending order; empty only for genesis.
    pub votes: Vec<(ValidatorIndex, Signature)>,
}

impl Qc {
    /// The certificate of the block that an epoch starts from, which needs no signatures. Round 0,
    /// and parent round 0 as well.
    #[must_use]
    pub fn genesis(epoch: Epoch, id: BlockId) -> Self {
        Self {
            epoch,
            round: Round::ZERO,
            block_id: id,
            parent_round: Round::ZERO,
            votes: Vec::new(),
        }
    }
}

impl Wire for Qc {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&vote_content(
            self.epoch,
            self.round,
            self.block_id,
            self.parent_round,
        ));
        put_count16(out, self.votes.len());
        for (voter, signature) in &self.votes {
            voter.encode(out);
            put_signature(out, signature);
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let epoch = Epoch::decode(r)?;
        let round = Round::decode(r)?;
        let parent_round = Round::decode(r)?;
        let block_id = r.digest()?;
        let n = r.count16("votes", VALIDATORS_MAX)?;
        let mut votes = Vec::with_capacity(n.min(r.remaining() / 64));
        for _ in 0..n {
            votes.push((ValidatorIndex::decode(r)?, r.signature()?));
        }
        Ok(Self {
            epoch,
            round,
            block_id,
            parent_round,
            votes,
        })
    }
}

fn check_quorum(
    signers: impl Iterator<Item = ValidatorIndex>,
    set: &ValidatorSet,
) -> Result<(), Invalid> {
    let mut last = None;
    let mut have = 0;
    for signer in signers {
        if last.is_some_and(|l| l >= signer) {
            return Err(Invalid::SignerOrder);
        }
        last = Some(signer);
        have += set
            .get(signer)
            .ok_or(Invalid::UnknownSigner(signer))?
            .weight;
    }
    let need = set.quorum_weight();
    if have < need {
        Err(Invalid::Weight { have, need })
    } else {
        Ok(())
    }
}

impl Signed for Qc {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        check_epoch(self.epoch, set)?;
        if self.round == Round::ZERO {
            return if *self == Self::genesis(self.epoch, set.genesis()) {
                Ok(())
            } else {
                Err(Invalid::Malformed(
                    "a round-0 certificate that is not genesis",
                ))
            };
        }
        if self.parent_round >= self.round {
            return Err(Invalid::Malformed("the round is not above the parent's"));
        }
        check_quorum(self.votes.iter().map(|(voter, _)| *voter), set)?;
        let content = vote_content(self.epoch, self.round, self.block_id, self.parent_round);
        for (voter, signature) in &self.votes {
            let key_id = set.get(*voter).expect("checked above").key.id();
            let message = signing::message(TAG_VOTE, chain, key_id, &content);
            out.push(Claim {
                signer: *voter,
                message,
                signature,
            });
        }
        Ok(())
    }
}

/// One timeout inside a TC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcEntry {
    /// Who gave up.
    pub author: ValidatorIndex,
    /// Round of its highest QC.
    pub hqc_round: Round,
    /// Block of that QC.
    pub hqc_id: BlockId,
    /// Its signature over the timeout.
    pub signature: Signature,
}

/// A timeout certificate: distinct validators of weight >= Q gave up on one round; with the
/// highest QC among those that they name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tc {
    /// Epoch.
    pub epoch: Epoch,
    /// The round that was given up.
    pub round: Round,
    /// Authors in ascending order.
    pub entries: Vec<TcEntry>,
    /// The QC of the highest `hqc_round` among the entries.
    pub max_qc: Qc,
}

impl Tc {
    /// The highest `hqc_round` of the entries.
    #[must_use]
    pub fn max_hqc_round(&self) -> Round {
        self.entries
            .iter()
            .map(|e| e.hqc_round)
            .max()
            .unwrap_or(Round::ZERO)
    }
}

impl Wire for Tc {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.round.encode(out);
        put_count16(out, self.entries.len());
        for entry in &self.entries {
            entry.author.encode(out);
            entry.hqc_round.encode(out);
            out.extend_from_slice(entry.hqc_id.as_ref());
            put_signature(out, &entry.signature);
        }
        self.max_qc.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let epoch = Epoch::decode(r)?;
        let round = Round::decode(r)?;
        let n = r.count16("timeouts", VALIDATORS_MAX)?;
        let mut entries = Vec::with_capacity(n.min(r.remaining() / 64));
        for _ in 0..n {
            entries.push(TcEntry {
                author: ValidatorIndex::decode(r)?,
                hqc_round: Round::decode(r)?,
                hqc_id: r.digest()?,
                signature: r.signature()?,
            });
        }
        let max_qc = Qc::decode(r)?;
        Ok(Self {
            epoch,
            round,
            entries,
            max_qc,
        })
    }
}

impl Signed for Tc {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        check_epoch(self.epoch, set)?;
        check_quorum(self.entries.iter().map(|e| e.author), set)?;
        if self.entries.iter().any(|e| e.hqc_round >= self.round) {
            return Err(Invalid::Malformed(
                "a timeout names a QC that is not below the round",
            ));
        }
        let max = self.max_hqc_round();
        if self.max_qc.round != max {
            return Err(Invalid::Malformed(
                "the QC is not the highest that the timeouts name",
            ));
        }
        let named = |e: &&TcEntry| e.hqc_round == max;
        if self
            .entries
            .iter()
            .filter(named)
            .any(|e| e.hqc_id != self.max_qc.block_id)
        {
            return Err(Invalid::Malformed(
                "a timeout names another block for the highest QC",
            ));
        }
        for entry in &self.entries {
            let key_id = set.get(entry.author).expect("checked above").key.id();
            let content = timeout_content(self.epoch, self.round, entry.hqc_round, entry.hqc_id);
            let message = signing::message(TAG_TIMEOUT, chain, key_id, &content);
            out.push(Claim {
                signer: entry.author,
                message,
                signature: &entry.signature,
            });
        }
        self.max_qc.claims(chain, set, out)
    }
}
