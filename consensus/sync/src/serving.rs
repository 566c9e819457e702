//! What a node has to offer to one that fell behind, and what proves it (rule Z2).

use falconet_epochs::Chronicle;
use falconet_ledger::snapshot::Head;
use falconet_types::block::{Cut, LaneTip, SignedHeader};
use falconet_types::certificate::Qc;
use falconet_types::receipt::StateRoots;
use falconet_types::snapshot::{MANIFEST_HEADERS_MAX, Manifest};
use falconet_types::{Epoch, Height, Seq, ValidatorIndex};

/// A log that may have been pruned.
pub trait Archive: Chronicle {
    /// The last committed height.
    fn last_committed(&self) -> Option<Height>;
    /// True when the batch at a position of an epoch's lane is here.
    fn has_batch_at(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        seq: Seq,
    ) -> Result<bool, Self::Error>;
}

/// The lowest height, from `from` on, whose block and batches are here; the one above the last
/// where there is none.
pub fn horizon<A: Archive>(archive: &A, from: Height) -> Result<Height, A::Error> {
    let Some(last) = archive.last_committed() else {
        return Ok(Height(1));
    };
    let mut height = from;
    while height <= last && !has_payload(archive, height)? {
        height = height.next();
    }
    Ok(height)
}

/// True when the block of a height and the oldest batch that it adds to each lane are here; older
/// batches go before younger ones.
fn has_payload<A: Archive>(archive: &A, height: Height) -> Result<bool, A::Error> {
    let Some(header) = archive.header_at(height)? else {
        return Ok(false);
    };
    let none = || Cut::empty(header.cut.0.len());
    let parent_cut = match archive.header(&header.parent_id)? {
        Some(parent) if parent.epoch == header.epoch => parent.cut.clone(),
        // The first block of its epoch.
        Some(_) => none(),
        None if height == Height(1) => none(),
        None => return Ok(false),
    };
    for (lane, old, _) in header.cut.advances(&parent_cut) {
        let LaneTip { seq, .. } = old;
        if !archive.has_batch_at(header.epoch, lane, seq.next())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// True when the snapshot of a height can be proven: it has a manifest.
pub fn is_proven<A: Archive>(archive: &A, height: Height) -> Result<bool, A::Error> {
    let found = committed_headers(archive, height, MANIFEST_HEADERS_MAX)?;
    Ok(found.is_some_and(|(_, _, named)| named == height))
}

/// What proves the snapshot of a height; `None` while its state is not named by a committed header.
pub fn manifest<A: Archive>(
    archive: &A,
    height: Height,
    (head, roots): (&Head, &StateRoots),
    rows_bytes: u64,
) -> Result<Option<Manifest>, A::Error> {
    let found = committed_headers(archive, height, MANIFEST_HEADERS_MAX)?;
    let Some((headers, qc, named)) = found else {
        return Ok(None);
    };
    Ok((named == height).then(|| Manifest {
        tree_root: head.tree_root,
        burned: head.burned,
        registry: head.registry.clone(),
        validators: roots.validators,
        results: roots.results,
        rows_bytes,
        headers,
        qc,
    }))
}

/// Headers, each the parent of the next, the certificate of the last, and the height whose state one
/// of them names.
pub type CommittedHeaders = (Vec<SignedHeader>, Qc, Height);

/// Headers from `height` to the first committed one that names the state of `height` or of a later
/// block, and on to a block with a certified child, with its certificate and the height that is
/// named: at most `max` headers, all of one epoch.
pub fn committed_headers<A: Archive>(
    archive: &A,
    height: Height,
    max: usize,
) -> Result<Option<CommittedHeaders>, A::Error> {
    let mut headers: Vec<SignedHeader> = Vec::new();
    let mut at = height;
    let named = loop {
        let Some(header) = archive.header_at(at)? else {
            return Ok(None);
        };
        // A block above the epoch's end may be named in the next one only, whose validators
        // judge other headers.
        let strange = headers.last().is_some_and(|h| h.epoch != header.epoch);
        if strange || headers.len() >= max - 1 {
            return Ok(None);
        }
        let named = header.executed.height;
        headers.push(header);
        if named >= height {
            break named;
        }
        at = at.next();
    };
    // From the certified block that commits the last of them back to it. One that commit votes
    // made final is marked before there is such a block; a later mark has it.
    let naming = headers.last().expect("just pushed").clone();
    while headers.len() < max && at.0 - height.0 < max as u64 {
        let Some((child, child_qc)) = archive.commit_proof(at)? else {
            return Ok(None);
        };
        let room = max - headers.len();
        let above = down_to(archive, child, &naming, room)?;
        let commits = |header: &SignedHeader| header.parent_round.next() == header.round;
        if let Some(above) = above
            && above.iter().any(commits)
        {
            headers.extend(above.into_iter().rev());
            return Ok(Some((headers, child_qc, named)));
        }
        at = at.next();
    }
    Ok(None)
}

/// The headers from `top` down to the one above `bottom`, at most so many. At the end of an epoch
/// blocks lie between that nothing in the log counts as committed (rule N2).
fn down_to<A: Archive>(
    archive: &A,
    top: SignedHeader,
    bottom: &SignedHeader,
    max: usize,
) -> Result<Option<Vec<SignedHeader>>, A::Error> {
    let mut headers = Vec::new();
    let mut at = Some(top);
    let end = bottom.id();
    while let Some(header) = at {
        if header.id() == end {
            return Ok(Some(headers));
        }
        if headers.len() >= max || header.height <= bottom.height {
            return Ok(None);
        }
        at = archive.header(&header.parent_id)?;
        headers.push(header);
    }
    Ok(None)
}
