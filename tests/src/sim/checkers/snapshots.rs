//! Old history goes, and snapshots take its place.

use std::collections::BTreeMap;

use falconet_sync::head_of;
use falconet_types::message::PeerMessage;
use falconet_types::snapshot::SnapshotOffer;
use falconet_types::{BlockId, Height};

use super::super::disk::Disk;
use super::{Agreement, Check, ensure};

/// What a correct node offers is there: the blocks from its horizon on, and manifests of the state
/// that everybody has.
pub fn offered(node: usize, offer: &SnapshotOffer, disk: &Disk, agreement: &Agreement) -> Check {
    let last = disk.last_committed();
    for height in offer.horizon.0..=last.0 {
        ensure!(
            disk.header_at(Height(height)).is_some(),
            "node {node} claims to have blocks from {} on, and lacks {height}",
            offer.horizon
        );
    }
    let Some(manifest) = &offer.manifest else {
        return Ok(());
    };
    let height = manifest.height();
    let state = manifest.commitment(head_of(manifest).accounts_root());
    let known = agreement.state_at(height);
    ensure!(
        known.is_none_or(|known| known == state),
        "node {node} offers a snapshot of height {height} with state {state}, others have {known:?}"
    );
    Ok(())
}

/// Nobody prunes what must be kept for others.
pub fn pruned(node: usize, height: Height, executed: u64, history_heights: u64) -> Check {
    ensure!(
        height.0 + history_heights <= executed,
        "node {node} prunes below {height} at height {executed}, and must keep {history_heights}"
    );
    Ok(())
}

/// Most headers between a snapshot and what commits the one that names it.
const PROOF_HEADERS_MAX: u64 = 256;

/// Whose first blocks are gone has something for those who need them: a snapshot, with a committed
/// header that names its state and is of its epoch, and with a certified block above that, which is, or
/// goes back to, one of the round after its parent's.
pub fn left(node: usize, disk: &Disk) -> Check {
    let first = disk.first_of_last_run();
    let provable = |height: Height| {
        let within = |from: Height| (from.0..height.0 + PROOF_HEADERS_MAX - 1).map(Height);
        let epoch = disk.header_at(height)?.epoch;
        let naming = within(height).find_map(|at| {
            let header = disk.header_at(at)?;
            (header.executed.height == height && header.epoch == epoch).then_some(at)
        })?;
        within(naming).find(|at| {
            // A certified block above, and what lies between.
            let mut above = disk.commit_proof(*at).map(|(child, _)| child);
            while let Some(header) = above
                && header.epoch == epoch
                && header.height > naming
            {
                if header.parent_round.next() == header.round {
                    return true;
                }
                above = disk.header(&header.parent_id).cloned();
            }
            false
        })
    };
    let mut snapshots = disk.files.snapshots().map(|snapshot| snapshot.height);
    ensure!(
        first <= Height(1) || snapshots.any(|at| at >= first && provable(at).is_some()),
        "node {node} has no block below {first} any more, and no snapshot that it can prove"
    );
    Ok(())
}

/// Nobody votes for a state that it does not know: where a block names another state than its parent,
/// a correct node that votes for it has executed up to there, or began with a snapshot at or above it.
/// (What the parent names a quorum has looked at already.)
#[derive(Debug, Default)]
pub struct Sight {
    /// The parent of each block, and the height that it names, as correct nodes proposed it.
    proposed: BTreeMap<BlockId, (BlockId, Height)>,
}

impl Sight {
    /// A message left a correct node.
    pub fn sent(
        &mut self,
        node: usize,
        message: &PeerMessage,
        disk: &Disk,
        agreement: &Agreement,
    ) -> Check {
        if let PeerMessage::Header(header) = message {
            let names = (header.parent_id, header.executed.height);
            self.proposed.insert(header.id(), names);
        }
        let PeerMessage::Vote(vote) = message else {
            return Ok(());
        };
        let known = |id: &BlockId| {
            let logged = disk.header(id);
            let logged = logged.map(|header| (header.parent_id, header.executed.height));
            logged.or_else(|| self.proposed.get(id).copied())
        };
        let Some((parent, named)) = known(&vote.block_id) else {
            return Ok(());
        };
        let Some((_, before)) = known(&parent) else {
            return Ok(());
        };
        let executed = agreement.heights_of(node).1;
        ensure!(
            named == before || named.0 <= executed,
            "node {node} votes in round {} for the first block that names the state of height {named}, \
             and has executed {executed}: it votes before it is synced",
            vote.round
        );
        Ok(())
    }
}
