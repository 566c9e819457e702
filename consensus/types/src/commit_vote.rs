//! Commit votes: a validator's statement that it holds a block's QC and has not given up the
//! block's round. A quorum of them makes the block and its ancestors final (rule C4 of
//! `docs/protocol.md`; Aptos order votes, Simplex finalizations), one message delay before the QC
//! of a child could.

use falconet_crypto::falcon::Signature;

use crate::ids::{BlockId, ChainId, Epoch, Round, ValidatorIndex};
use crate::signing::{self, Claim, Invalid, Signed, Signer, Statement};
use crate::validators::ValidatorSet;
use crate::wire::{Reader, Wire, WireError, put_signature};

const TAG_COMMIT_VOTE: &str = "falconet/commit";

/// A validator's vote to commit a certified block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitVote {
    /// Epoch of the block.
    pub epoch: Epoch,
    /// Round of the block.
    pub round: Round,
    /// The block.
    pub block_id: BlockId,
    /// Who votes.
    pub voter: ValidatorIndex,
    /// Over all fields but `voter`, which the key stands for.
    pub signature: Signature,
}

fn content(epoch: Epoch, round: Round, block_id: BlockId) -> Vec<u8> {
    let mut out = Vec::with_capacity(48);
    epoch.encode(&mut out);
    round.encode(&mut out);
    out.extend_from_slice(block_id.as_ref());
    out
}

impl CommitVote {
    /// Signs a commit vote.
    #[must_use]
    pub fn sign(
        epoch: Epoch,
        round: Round,
        block_id: BlockId,
        voter: ValidatorIndex,
        chain: ChainId,
        signer: &dyn Signer,
    ) -> Self {
        let content = content(epoch, round, block_id);
        let message = signing::message(TAG_COMMIT_VOTE, chain, signer.key_id(), &content);
        Self {
            epoch,
            round,
            block_id,
            voter,
            signature: signer.sign(&message),
        }
    }
}

impl Wire for CommitVote {
    fn encode(&self, out: &mut Vec<u8>) {
        self.voter.encode(out);
        out.extend_from_slice(&content(self.epoch, self.round, self.block_id));
        put_signature(out, &self.signature);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            voter: ValidatorIndex::decode(r)?,
            epoch: Epoch::decode(r)?,
            round: Round::decode(r)?,
            block_id: r.digest()?,
            signature: r.signature()?,
        })
    }
}

impl Signed for CommitVote {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        if self.round == Round::ZERO {
            return Err(Invalid::Malformed("what an epoch starts from is final"));
        }
        let vote = Statement {
            epoch: self.epoch,
            signer: self.voter,
            tag: TAG_COMMIT_VOTE,
            content: &content(self.epoch, self.round, self.block_id),
            signature: &self.signature,
        };
        out.push(vote.claim(chain, set)?);
        Ok(())
    }
}
