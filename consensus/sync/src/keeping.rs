//! What a node keeps for those who fall behind: which snapshots, and how much history (rule Z10).
//!
//! Who lacks blocks that nobody has any more needs a snapshot, and somebody who can prove it. A
//! snapshot can be proven once a committed header names its state and two certified blocks of
//! consecutive rounds commit that header (rule Z2). That takes a few blocks as a rule. But commit
//! votes alone (rule C5) may commit blocks for as long as a faulty leader sits between the correct
//! ones, and the one who would change that may be the one who fell behind. So history stays from the
//! newest snapshot on that can be proven, and that snapshot stays, however many newer ones there are.

use falconet_types::Height;
use falconet_types::block::Header;

/// Snapshots that are kept for being the newest. The older one serves those who began with it.
pub const SNAPSHOTS_KEPT: usize = 2;
/// Snapshots that are kept at most: those, and the newest that can be proven if none of them can.
pub const SNAPSHOTS_MAX: usize = SNAPSHOTS_KEPT + 1;

/// The newest of these snapshots, newest first, that can be proven ([`crate::serving::is_proven`]).
///
/// # Errors
/// What `is_proven` says when the log cannot be read.
pub fn newest_proven<S, E>(
    newest_first: impl IntoIterator<Item = S>,
    mut is_proven: impl FnMut(&S) -> Result<bool, E>,
) -> Result<Option<S>, E> {
    for snapshot in newest_first {
        if is_proven(&snapshot)? {
            return Ok(Some(snapshot));
        }
    }
    Ok(None)
}

/// True for a snapshot that stays: the newest [`SNAPSHOTS_KEPT`], and the newest that can be proven.
/// `newer` counts the snapshots above it.
#[must_use]
pub fn stays(height: Height, newer: usize, proven: Option<Height>) -> bool {
    newer < SNAPSHOTS_KEPT || proven == Some(height)
}

/// Below which height history may go: the wanted one, but nothing that the newest proven snapshot
/// needs. Without one that can be proven nothing goes, and everybody begins with the first block.
#[must_use]
pub fn prune_below(wanted: Height, proven: Option<Height>) -> Height {
    wanted.min(proven.unwrap_or(Height::ZERO))
}

/// Below which height results of blocks (roots, receipts) may be forgotten once `header` is executed,
/// of a history of so many heights. What it names, and what lies above, headers to come may name, and
/// the end of an epoch is proven with (rules H4, N5), however long ago that was.
#[must_use]
pub fn forget_below(header: &Header, history_heights: u64) -> Height {
    let wanted = header.height.0.saturating_sub(history_heights);
    Height(wanted).min(header.executed.height)
}
