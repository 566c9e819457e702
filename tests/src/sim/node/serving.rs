//! What is read back from the disk: for peers, and for the rules of epochs.

use std::collections::BTreeMap;
use std::convert::Infallible;

use falconet_epochs::Chronicle;
use falconet_types::batch::Batch;
use falconet_types::block::SignedHeader;
use falconet_types::certificate::Qc;
use falconet_types::message::{BLOCKS_PER_ANSWER_MAX, GetBlocks, PeerMessage};
use falconet_types::receipt::StateRoots;
use falconet_types::{BlockId, Digest, Epoch, Height, Seq, ValidatorIndex};

use super::super::disk::Disk;
use super::Node;

/// What a peer wants from the disk.
#[derive(Debug)]
pub enum History {
    /// Headers.
    Blocks(GetBlocks),
    /// The proof that an epoch is over.
    EpochProof(Epoch),
    /// Batches of an epoch's lane, from the newest, until so many bytes.
    Batches((Epoch, ValidatorIndex), Seq, Seq, u64),
}

/// The disk, and the roots of executed states, as the rules of epochs read them.
pub(super) struct Log<'a> {
    pub(super) disk: &'a Disk,
    pub(super) roots: &'a BTreeMap<Height, StateRoots>,
}

impl Chronicle for Log<'_> {
    type Error = Infallible;

    fn header(&self, id: &BlockId) -> Result<Option<SignedHeader>, Infallible> {
        Ok(self.disk.header(id).cloned())
    }
    fn header_at(&self, height: Height) -> Result<Option<SignedHeader>, Infallible> {
        Ok(self.disk.header_at(height).cloned())
    }
    fn commit_proof(&self, height: Height) -> Result<Option<(SignedHeader, Qc)>, Infallible> {
        Ok(self.disk.commit_proof(height))
    }
    fn batch(&self, hash: &Digest) -> Result<Option<Batch>, Infallible> {
        Ok(self.disk.batch(hash).cloned())
    }
    fn lane_above(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        above: Seq,
    ) -> Result<Vec<Batch>, Infallible> {
        let last = Seq(u64::MAX);
        let mut batches: Vec<Batch> = self
            .disk
            .lane(epoch, lane, above.next(), last)
            .cloned()
            .collect();
        batches.reverse();
        Ok(batches)
    }
    fn roots_at(&self, height: Height) -> Result<Option<StateRoots>, Infallible> {
        Ok(self.roots.get(&height).copied())
    }
}

/// What a log that is always readable says.
pub(super) fn sure<T>(answer: Result<T, Infallible>) -> T {
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

impl Node {
    /// Answers a request for history from the disk.
    #[must_use]
    pub fn history(&self, request: &History) -> Vec<PeerMessage> {
        match request {
            History::Blocks(request) => {
                let mut headers = Vec::new();
                let mut id = request.from;
                while let Some(header) = self.disk.header(&id) {
                    let enough = headers.len() >= BLOCKS_PER_ANSWER_MAX.min(request.max.into());
                    if enough || header.height <= request.stop_height {
                        break;
                    }
                    id = header.parent_id;
                    headers.push(header.clone());
                }
                if headers.is_empty() {
                    Vec::new()
                } else {
                    vec![PeerMessage::Blocks(headers)]
                }
            }
            History::EpochProof(epoch) => {
                let proof = self.disk.proof(*epoch);
                let message = proof.map(|proof| PeerMessage::EpochProof(Box::new(proof.clone())));
                message.into_iter().collect()
            }
            History::Batches((epoch, lane), first, last, bytes_max) => {
                let mut bytes = 0;
                let mut batches = Vec::new();
                for batch in self.disk.lane(*epoch, *lane, *first, *last) {
                    if bytes >= *bytes_max {
                        break;
                    }
                    bytes += batch.bytes().len() as u64;
                    batches.push(PeerMessage::Batch(batch.bytes().clone()));
                }
                batches
            }
        }
    }
}
