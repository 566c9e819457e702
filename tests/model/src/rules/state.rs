//! What the honest validators have signed and stored.

use super::blocks::SLOTS_MAX;

/// Honest validators of both epochs together: the first three are the first epoch's, the last
/// three the second's.
pub const HONEST: usize = 4;
/// Honest validators of each epoch.
pub const HONEST_PER_EPOCH: usize = 3;

/// One honest validator. Sets of blocks are bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Node {
    /// Epoch that it signs in.
    pub epoch: u8,
    /// Blocks that it voted for.
    pub votes: u64,
    /// Blocks that it sent commit votes for.
    pub commit_votes: u64,
    /// Blocks that it proposed.
    pub proposals: u64,
    /// For each round the QC's block that its timeout named, plus 1; 0 without a timeout.
    pub timeouts: [u8; SLOTS_MAX],
    /// Blocks whose payload it holds durably.
    pub holds: u64,
    /// Blocks whose payload it acknowledged.
    pub acknowledged: u64,
}

/// All honest validators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct State(pub [Node; HONEST]);

/// The bit of a block.
#[must_use]
pub fn bit(block: usize) -> u64 {
    1 << block
}

/// The blocks of a set.
pub fn members(set: u64) -> impl Iterator<Item = usize> {
    (0..u64::BITS as usize).filter(move |&b| set & bit(b) != 0)
}
