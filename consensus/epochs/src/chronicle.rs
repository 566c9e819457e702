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
    /// Root of the registry after an executed block. It must be noted, as durably as the state, from
    /// the last height of an epoch until the next one begins ([`crate::Timeline::is_past_end`]).
    fn registry_root_at(&self, height: Height) -> Result<Option<Digest>, Self::Error>;
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

/// The highest block of an epoch that the log holds; the epoch's last one is at `end`.
fn last_of<C: Chronicle>(
    log: &C,
    info: &EpochInfo,
    end: Height,
) -> Result<Option<SignedHeader>, C::Error> {
    for height in (info.start.height.0 + 1..=end.0).rev() {
        if let Some(header) = log.header_at(Height(height))? {
            return Ok((header.epoch == info.start.epoch).then_some(header));
        }
    }
    Ok(None)
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
        let last = last_of(log, info, next.start.height)?;
        let is_end = last
            .as_ref()
            .is_some_and(|last| last.height == next.start.height);
        let (was, is) = ((&*info.set, place(info)), (&*next.set, place(next)));
        for lane in info.set.iter() {
            // A node that was in this epoch when it went on to a snapshot of a later one does not
            // know what the epoch came to. But what it promised itself it sees to all the same: what
            // was executed is not executed again.
            let own = lane.index == was.1;
            if !(own || is_end && falconet_mempool::takes_over(was, lane.index, is)) {
                continue;
            }
            let tip = last.as_ref().map(|last| last.cut.0[lane.index.at()].seq);
            let above = tip.unwrap_or(Seq::ZERO);
            for batch in log.lane_above(info.start.epoch, lane.index, above)? {
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
    // Down to the last block, or to one of consecutive rounds above it, which names it (rule N9).
    let mut commits = false;
    loop {
        let lowest = headers.last().expect("at least one");
        commits |= lowest.parent_round.next() == lowest.round;
        if lowest.parent_id == last.id() || (commits && lowest.ended_by == last.id()) {
            break;
        }
        if headers.len() >= HEADERS_MAX - 2 {
            return Err(missing("a commit proof that is short enough"));
        }
        let parent = lowest.parent_id;
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use falconet_types::Round;
    use falconet_types::block::{Executed, Header, HeaderKind, LaneTip};
    use falconet_types::validators::ValidatorSet;

    use super::*;
    use crate::fixtures::{genesis, key};

    /// The last block of epoch 0, and batches of it.
    struct Memory {
        last: Option<SignedHeader>,
        batches: Vec<Batch>,
    }

    impl Chronicle for Memory {
        type Error = Infallible;

        fn header(&self, _: &BlockId) -> Result<Option<SignedHeader>, Infallible> {
            Ok(None)
        }
        fn header_at(&self, height: Height) -> Result<Option<SignedHeader>, Infallible> {
            Ok(self.last.clone().filter(|last| last.height == height))
        }
        fn commit_proof(&self, _: Height) -> Result<Option<(SignedHeader, Qc)>, Infallible> {
            Ok(None)
        }
        fn batch(&self, _: &Digest) -> Result<Option<Batch>, Infallible> {
            Ok(None)
        }
        fn lane_above(
            &self,
            epoch: Epoch,
            lane: ValidatorIndex,
            above: Seq,
        ) -> Result<Vec<Batch>, Infallible> {
            let its = |batch: &&Batch| {
                let header = batch.header();
                (header.epoch, header.lane) == (epoch, lane) && header.seq > above
            };
            Ok(self.batches.iter().filter(its).cloned().collect())
        }
        fn roots_at(&self, _: Height) -> Result<Option<StateRoots>, Infallible> {
            Ok(None)
        }
        fn registry_root_at(&self, _: Height) -> Result<Option<Digest>, Infallible> {
            Ok(None)
        }
    }

    fn tx(name: u8) -> Bytes {
        Bytes::from(vec![name; 120])
    }

    /// Epoch 0 of keys 0 and 1, epoch 1, from height 10 on, of keys 0, 2, 3 and 4. In lane 0
    /// transaction 1 was committed, 2 and 3 were not; in lane 1 transaction 4 was not.
    fn history() -> (Timeline, Memory) {
        let genesis = genesis(&[0, 1]);
        let chain = genesis.chain_id();
        let first = EpochInfo::genesis(&genesis).expect("a valid set");
        let seal = |lane: u8, tip, txs: &[Bytes]| {
            let index = ValidatorIndex(u16::from(lane));
            Batch::seal(Epoch::ZERO, index, tip, txs, chain, &key(lane))
        };
        let one = seal(0, LaneTip::default(), &[tx(1)]);
        let two = seal(0, one.tip(), &[tx(2), tx(3)]);
        let other = seal(1, LaneTip::default(), &[tx(4)]);
        let header = Header {
            epoch: Epoch::ZERO,
            round: Round(10),
            kind: HeaderKind::Normal,
            parent_id: Digest([1; 32]),
            parent_round: Round(9),
            height: Height(10),
            cut: Cut(vec![one.tip(), LaneTip::default()]),
            time_ms: 2_000,
            executed: Executed {
                height: Height(5),
                root: Digest::ZERO,
            },
            ended_by: Digest::ZERO,
            author: ValidatorIndex(0),
        };
        let last = SignedHeader::sign(header, chain, &key(0));
        let mut next = first.clone();
        next.start.epoch = Epoch(1);
        next.start.height = Height(10);
        next.start.id = Digest([2; 32]);
        let members: Vec<_> = [0, 2, 3, 4].map(|n| (key(n).public().clone(), 1)).into();
        let set = ValidatorSet::new(next.start.id, Epoch(1), &members);
        next.set = Arc::new(set.expect("a valid set"));
        let mut timeline = Timeline::new(first);
        timeline.push(next);
        let batches = vec![one, two, other];
        let last = Some(last);
        (timeline, Memory { last, batches })
    }

    fn unsettled_of(timeline: &Timeline, log: &Memory, number: u8, settled: &[u8]) -> Vec<u8> {
        let settled = |tx: &Bytes| Ok(settled.contains(&tx[0]));
        let found = unsettled(timeline, log, key(number).public(), settled);
        let found = found.expect("memory is readable");
        found.iter().map(|tx| tx[0]).collect()
    }

    #[test]
    fn the_owner_of_a_lane_sees_to_what_no_block_named() {
        let (timeline, log) = history();
        assert_eq!(unsettled_of(&timeline, &log, 0, &[]), [2, 3]);
        assert_eq!(
            unsettled_of(&timeline, &log, 0, &[2]),
            [3],
            "executed since"
        );
        assert_eq!(unsettled_of(&timeline, &log, 1, &[]), [4], "who left, too");
    }

    #[test]
    fn two_of_the_next_validators_see_to_the_lane_of_one_that_left() {
        let (timeline, log) = history();
        for (number, expected) in [(2, &[4][..]), (3, &[4]), (4, &[]), (7, &[])] {
            let found = unsettled_of(&timeline, &log, number, &[]);
            assert_eq!(found, expected, "key {number}");
        }
    }

    #[test]
    fn nothing_is_carried_over_from_an_epoch_that_goes_on_or_is_not_in_the_log() {
        let (mut timeline, mut log) = history();
        let first = timeline.info(Epoch::ZERO).cloned().expect("it is known");
        timeline.settle(first);
        assert!(
            unsettled_of(&timeline, &log, 0, &[]).is_empty(),
            "it goes on"
        );
        let (timeline, _) = history();
        // The directory began with a snapshot.
        (log.last, log.batches) = (None, Vec::new());
        assert!(unsettled_of(&timeline, &log, 0, &[]).is_empty());
    }

    /// Found by the simulator: a node that was behind accepted transactions in an epoch that was over,
    /// and went on with a snapshot of the next one.
    #[test]
    fn what_was_promised_before_a_snapshot_of_a_later_epoch_is_seen_to() {
        let (timeline, mut log) = history();
        let mut header = log.last.take().expect("it is there").header().clone();
        header.height = Height(7);
        log.last = Some(SignedHeader::sign(
            header,
            timeline.current().set.genesis(),
            &key(0),
        ));
        assert_eq!(unsettled_of(&timeline, &log, 0, &[]), [2, 3]);
        assert_eq!(unsettled_of(&timeline, &log, 1, &[]), [4]);
        let adopter = unsettled_of(&timeline, &log, 2, &[]);
        assert!(adopter.is_empty(), "others know what is to be adopted");
        log.last = None;
        assert_eq!(unsettled_of(&timeline, &log, 0, &[]), [1, 2, 3]);
    }
}
