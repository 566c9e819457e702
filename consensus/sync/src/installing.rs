//! What a node does with a snapshot that is complete (rules Z7 and Z8): first the log gets the block
//! at which the state stands, then the state takes the place of the old one.
//!
//! A crash anywhere in between finds the snapshot as it was, and all of this is done again.

use falconet_hotstuff::SafetyRecord;
use falconet_types::block::SignedHeader;
use falconet_types::certificate::Qc;
use falconet_types::epoch::EpochInfo;
use falconet_types::snapshot::Manifest;
use falconet_types::{BlockId, ChainId, Digest, Epoch, Height};

/// What the log holds before the snapshot is installed.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// True when the log has a commit mark: the node took part, or followed, before.
    pub committed: bool,
    /// The safety record, if there is one and it can be read.
    pub safety: Option<&'a SafetyRecord>,
    /// The newest epoch that is known.
    pub newest: Epoch,
    /// The chain, and the key of this node.
    pub ids: (ChainId, Digest),
}

/// A record for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The mark, in the place of the safety record, that the key signs nothing through this epoch.
    Forfeit(Epoch),
    /// A safety record of one that signed nothing in the snapshot's epoch.
    Safety(Box<SafetyRecord>),
    /// A header of the manifest.
    Header(Box<SignedHeader>),
    /// The commit mark of the block at which the state stands.
    Committed {
        /// Its height.
        height: Height,
        /// The block.
        block_id: BlockId,
        /// The certified header that commits it.
        child: Box<SignedHeader>,
        /// The certificate of that header.
        qc: Box<Qc>,
    },
}

/// What the log must get, in this order and all of it, before the state is replaced. `epoch` is the
/// manifest's, if it is known.
#[must_use]
pub fn steps(manifest: &Manifest, epoch: Option<&EpochInfo>, found: Found<'_>) -> Vec<Step> {
    let mut steps: Vec<Step> = safety(manifest, epoch, found).into_iter().collect();
    let headers = manifest.headers.iter().cloned().map(Box::new);
    steps.extend(headers.map(Step::Header));
    let last = manifest.headers.last().expect("it begins with the anchor");
    steps.push(Step::Committed {
        height: manifest.height(),
        block_id: manifest.anchor().id(),
        child: Box::new(last.clone()),
        qc: Box::new(manifest.qc.clone()),
    });
    steps
}

/// What must stand in the place of the safety record before the log holds anything of the
/// snapshot's epoch (rule Z8); `None` if what stands there is right.
fn safety(manifest: &Manifest, info: Option<&EpochInfo>, found: Found<'_>) -> Option<Step> {
    // What this key signed before is unknown, though it may have given up first rounds since. A
    // crash in here finds the mark, and leaves it.
    if !found.committed {
        return Some(Step::Forfeit(found.newest));
    }
    let record = found.safety?;
    // A record of an earlier epoch says that nothing was signed in this one: had this node begun to,
    // a record of it would stand there.
    let epoch = manifest.anchor().epoch;
    let is_ours = (record.chain_id, record.key_id) == found.ids;
    if !is_ours || record.epoch >= epoch {
        return None;
    }
    let genesis = Qc::genesis(epoch, info?.set.genesis());
    let fresh = SafetyRecord::fresh(found.ids.0, found.ids.1, genesis);
    Some(Step::Safety(Box::new(fresh)))
}
