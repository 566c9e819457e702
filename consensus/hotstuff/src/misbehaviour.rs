//! Rules that a test may turn off, one at a time, to see that somebody notices. Without the
//! feature `misbehave` nothing here can be turned on, and the compiler removes every trace.

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Commits a block whose certified child skipped rounds (against C2; the flaw of early
    /// Fast-HotStuff drafts).
    CommitAcrossGaps,
    /// Votes in a round that it gave up (against V2).
    VoteAfterTimeout,
    /// Names the genesis QC when it gives up a round, whatever it is locked on (against P2): a
    /// timeout below the lock.
    ForgetLock,
    /// Takes any TC of the round before for a justification, whatever QC its timeouts name
    /// (against V4).
    TcMaxUnchecked,
    /// Votes for a child of a block that it has no QC of (against V3).
    VoteWithoutParentQc,
    /// Writes its safety record without the lock (against S1).
    LostLock,
    /// Forgets after a restart in which rounds it voted and gave up (against S2).
    #[cfg(feature = "misbehave")]
    ForgetVotes,
    /// Writes its safety record in the turn after the message that depends on it (against S1).
    LateRecord,
    /// Counts heads instead of weight when it makes a QC (against C1).
    QuorumByHeads,
    /// Counts a vote as often as it arrives when it makes a QC (against C1).
    DuplicateSigner,
    /// Votes to commit a block of a round that it gave up (against C4).
    CommitVoteAfterTimeout,
    /// Votes to commit a block and does not lock it (against S6).
    CommitVoteWithoutLock,
    /// Weighs a QC with the quorum of the epoch before (against N4).
    QuorumOfLastEpoch,
    /// Takes the rounds in which it voted and gave up along into the next epoch (against N6).
    RecordOfLastEpoch,
    /// Keeps its index when it has none in the next epoch (against N6).
    SeatOfLastEpoch,
    /// Votes for a block that names a state which it has not executed up to (against V1): before it
    /// is synced.
    VoteBeforeSynced,
    /// Goes on when its own key signs elsewhere (against S5): one of two twins.
    Twin,
}

/// The rule that is off, if any.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Misbehaving(Option<Misbehaviour>);

impl Misbehaving {
    pub(crate) fn by(self, rule: Misbehaviour) -> bool {
        cfg!(feature = "misbehave") && self.0 == Some(rule)
    }
}

#[cfg(feature = "misbehave")]
impl crate::HotStuff {
    /// Turns a rule off.
    pub fn misbehave(&mut self, rule: Misbehaviour) {
        self.rules.misbehaving = Misbehaving(Some(rule));
        self.votes.misbehaving = Misbehaving(Some(rule));
        if rule == Misbehaviour::ForgetVotes {
            self.rules.forget_votes();
        }
    }
}
