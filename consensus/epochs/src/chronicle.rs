//! What is read back from a node's log: the cut that a block extends, its payload, and the proof
//! that an epoch is over.

use bytes::Bytes;
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, SignedHeader};
use falconet_types::certificate::Qc;
use falconet_types::epoch::{EpochInfo, EpochProof, EpochProofError, HEADERS_MAX, NextMembers};
use falconet_types::genesis::Params;
use falconet_types::receipt::StateRoots;
use falconet_types::{BlockId, ChainId, Digest, Epoch, Height, PublicKey, Seq, ValidatorIndex};

use crate::ending::Ending;
use crate::timeline::Timeline;

/// What a node wrote down.
pub trait Chronicle {
    /// Why it cannot be read.
    type Error: std::error::Error;

    /// A logged header.
    fn header(&self, id: &BlockId) -> Result<Option<SignedHeader>, Self::Error>;
    /// The committed header at a height.
    fn header_at(&self, height: Height) -> Result<Option<SignedHeader>, Self::Error>;
    /// The certified header, with its certificate, that commits the block at a height: its child
    /// or a later descendant.
    fn commit_proof(&self, height: Height) -> Result<Option<(SignedHeader, Qc)>, Self::Error>;
    /// A batch.
    fn batch(&self, hash: &Digest) -> Result<Option<Batch>, Self::Error>;
    /// The batches of an epoch's lane above a position, in order; positions may be missing.
    fn lane_above(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        above: Seq,
    ) -> Result<Vec<Batch>, Self::Error>;
    /// Roots of the state after an executed block.
    fn roots_at(&self, height: Height) -> Result<Option<StateRoots>, Self::Error>;
}

/// The cut that the block above `height` extends: that of the block at `height`, or nothing in any
/// lane where an epoch begins. `current` is the epoch that the node is in.
pub fn cut_after<C: Chronicle>(
    current: &EpochInfo,
    log: &C,
    height: Height,
) -> Result<Cut, C::Error> {
    let lanes = current.set.len();
    if height <= current.start.height {
        // Below the start of the current epoch the next block says how many lanes there are.
        let next = log.header_at(height.next())?;
        return Ok(match next {
            Some(next) => parent_cut(log, &next)?,
            None => Cut::empty(lanes),
        });
    }
    let header = log.header_at(height)?;
    Ok(header.map_or_else(|| Cut::empty(lanes), |header| header.cut.clone()))
}

/// The cut that a block extends: its parent's, or nothing in any lane for the first of an epoch.
pub fn parent_cut<C: Chronicle>(log: &C, header: &SignedHeader) -> Result<Cut, C::Error> {
    let parent = log.header_at(header.height.prev())?;
    Ok(match parent {
        Some(parent) if parent.epoch == header.epoch => parent.cut.clone(),
        _ => Cut::empty(header.cut.0.len()),
    })
}

/// The batches of a block, in the order of execution; `None` when one is missing. Walks each lane
/// back from the tip that the cut pins.
pub fn payload_of<C: Chronicle>(
    log: &C,
    header: &SignedHeader,
    parent_cut: &Cut,
) -> Result<Option<Vec<Batch>>, C::Error> {
    let mut batches = Vec::new();
    for (_, old, new) in header.cut.advances(parent_cut) {
        let lane_start = batches.len();
        let mut hash = new.hash;
        for _ in old.seq.0..new.seq.0 {
            let Some(batch) = log.batch(&hash)? else {
                return Ok(None);
            };
            hash = batch.header().prev_hash;
            batches.push(batch);
        }
        batches[lane_start..].reverse();
    }
    Ok(Some(batches))
}

/// Transactions in batches of epochs that are over which no block names, as far as the node with
/// this key is to see to them ([`falconet_mempool::takes_over`]) and `is_settled` does not say that
/// they were executed since. For a start: while the node runs, its mempool carries them over.
pub fn unsettled<C: Chronicle>(
    timeline: &Timeline,
    log: &C,
    key: &PublicKey,
    is_settled: impl Fn(&Bytes) -> Result<bool, C::Error>,
) -> Result<Vec<Bytes>, C::Error> {
    let mut found = Vec::new();
    let place = |info: &EpochInfo| info.set.by_key(key).unwrap_or(ValidatorIndex::NOBODY);
    let current = timeline.current().start.epoch;
    for pair in timeline.newest().windows(2) {
        let (info, next) = (&pair[0], &pair[1]);
        if next.start.epoch > current {
            break;
        }
        // A node that began with a snapshot does not have what came before.
        let Some(last) = log.header_at(next.start.height)? else {
            continue;
        };
        let (was, is) = ((&*info.set, place(info)), (&*next.set, place(next)));
        for (lane, tip) in info.set.iter().zip(&last.cut.0) {
            if !falconet_mempool::takes_over(was, lane.index, is) {
                continue;
            }
            for batch in log.lane_above(info.start.epoch, lane.index, tip.seq)? {
                for tx in batch.transactions() {
                    if !is_settled(&tx)? {
                        found.push(tx);
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Puts the proof together that `last` ended `current`; with the next epoch. The log holds the
/// block and what commits it.
pub fn prove<C: Chronicle>(
    chain: ChainId,
    params: &Params,
    current: &EpochInfo,
    log: &C,
    last: &SignedHeader,
    ending: &Ending,
) -> Result<(EpochProof, EpochInfo), ProveError<C::Error>> {
    assert_eq!(last.height, ending.height, "the end of another epoch");
    let missing = ProveError::Missing;
    let commit = log.commit_proof(last.height).map_err(ProveError::Log)?;
    let (certified, qc) = commit.ok_or(missing("the commit proof"))?;
    let mut headers = vec![certified.header().clone()];
    while headers.last().expect("at least one").parent_id != last.id() {
        if headers.len() >= HEADERS_MAX {
            return Err(missing("a commit proof that is short enough"));
        }
        let parent = headers.last().expect("at least one").parent_id;
        let parent = log.header(&parent).map_err(ProveError::Log)?;
        headers.push(parent.ok_or(missing("a header"))?.header().clone());
    }
    headers.push(last.header().clone());
    let before = log.header_at(last.height.prev()).map_err(ProveError::Log)?;
    headers.push(before.ok_or(missing("the parent"))?.header().clone());
    headers.reverse();
    let proof = EpochProof {
        headers,
        qc,
        accounts: ending.accounts,
        results: ending.results,
        next: ending
            .next
            .clone()
            .map(|(members, registry)| NextMembers { members, registry }),
    };
    let next = proof.check_links(chain, params, current)?;
    Ok((proof, next))
}

/// Why a proof cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError<E: std::error::Error> {
    /// The log cannot be read.
    #[error(transparent)]
    Log(E),
    /// The log lacks something.
    #[error("the log lacks {0} of the epoch's last block")]
    Missing(&'static str),
    /// The pieces do not fit.
    #[error(transparent)]
    Proof(#[from] EpochProofError),
}
