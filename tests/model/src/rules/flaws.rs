//! Rules that may be switched off, to see that the check would notice.

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// A vote after a TC whose highest QC is above the parent (against V4).
    TcMaximumUnchecked,
    /// A vote in a round that was given up (against V2).
    VoteAfterTimeout,
    /// A certified child commits its parent although rounds were skipped (against C2).
    CommitAcrossGaps,
    /// A timeout may name a QC below the lock (against P2).
    LostLock,
    /// The record of votes does not survive a restart (against S1).
    Amnesia,
    /// A vote for a block whose parent's QC is not held (against V3).
    ParentUncertified,
    /// A commit vote in a round that was given up (against C4).
    CommitVoteAfterTimeout,
    /// A commit vote does not raise the lock, or the lock is lost with the record (against C4, S6).
    CommitVoteWithoutLock,
    /// A commit vote for a block whose QC is not held (against C4).
    CommitVoteUncertified,
    /// A leader forgets over a restart what it proposed (against H2).
    ProposeTwice,
    /// A batch is acknowledged before it is durable (against D2).
    AcknowledgeEarly,
    /// One watermark is enough for the availability rule (against D4).
    OneWatermark,
    /// Blocks above the end of an epoch commit in it.
    CommitPastEnd,
    /// The next epoch is entered when its ending block is certified, not committed.
    EnterEarly,
    /// Signatures of a validator that has left the set still count.
    LeaversCount,
}
