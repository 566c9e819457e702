//! What the threads tell the static probes and, with the feature `otel`, the spans. The two pure
//! cores tell nothing themselves, so everything is seen from their inputs and effects.

use falconet_hotstuff::{Committed, Progress};
use falconet_probes as probes;
use falconet_probes::{NOBODY, TimeoutCause, id};
use falconet_types::message::{Admission, PeerMessage};
use falconet_types::{Round, TxId, ValidatorIndex};

use crate::pipeline::ReplyTo;

#[cfg(feature = "otel")]
pub use crate::otel::spans;

#[cfg(not(feature = "otel"))]
pub mod spans {
    //! Without the feature `otel` nobody collects spans.

    use falconet_types::Digest;
    use falconet_types::receipt::Receipt;

    use super::Moment;

    /// Something happened to a block.
    #[inline]
    pub fn block(_: Moment, _: &Digest, _height: Option<u64>, _round: Option<u64>) {}

    /// A transaction was admitted.
    #[inline]
    pub fn admitted(_: &Digest) {}

    /// An own batch was sealed.
    #[inline]
    pub fn sealed(_seq: u64) {}

    /// A transaction submitted here was executed.
    #[inline]
    pub fn finished(_: &Receipt) {}
}

/// A moment in the life of a block on one validator, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Its header arrived, verified.
    Received,
    /// This validator proposed it.
    Proposed,
    /// This validator voted for it.
    Voted,
    /// This validator saw a quorum of votes for it.
    Certified,
    /// It is final.
    Committed,
    /// Its execution begins: its payload is here, and all blocks before it are executed.
    ExecutionBegun,
    /// The application has executed it.
    Executed,
    /// Its changes are in the state database.
    StateWritten,
}

impl Moment {
    /// The name of the span that ends with it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Proposed => "proposed",
            Self::Voted => "voted",
            Self::Certified => "certified",
            Self::Committed => "committed",
            Self::ExecutionBegun => "execution begun",
            Self::Executed => "executed",
            Self::StateWritten => "state written",
        }
    }
}

/// The core thread's memory between probes: the pacemaker repeats what it sends, and a probe
/// fires once a round.
#[derive(Debug, Default)]
pub struct Watch {
    /// As of the last look.
    progress: Progress,
    /// Highest round of which a proposal is known.
    proposal: Round,
    proposed: Round,
    voted: Round,
    timed_out: Round,
}

impl Watch {
    /// A consensus message came from another validator.
    pub fn received(&mut self, from: ValidatorIndex, message: &PeerMessage) {
        match message {
            PeerMessage::Header(header) => {
                self.proposal = self.proposal.max(header.round);
                let (round, height, block) = (header.round.0, header.height.0, header.id());
                probes::header_received(round, height, id(&block.0), from.0.into());
                spans::block(Moment::Received, &block, Some(height), Some(round));
            }
            PeerMessage::Vote(vote) => {
                probes::vote_received(vote.round.0, id(&vote.block_id.0), vote.voter.0.into());
            }
            PeerMessage::Timeout(timeout) => probes::timeout_received(
                timeout.round.0,
                timeout.author.0.into(),
                timeout.hqc_round.0,
            ),
            _ => {}
        }
    }

    /// The consensus core wants a message sent.
    pub fn sends(&mut self, message: &PeerMessage, leader_of: impl Fn(Round) -> ValidatorIndex) {
        match message {
            PeerMessage::Header(header) if first(&mut self.proposed, header.round) => {
                self.proposal = self.proposal.max(header.round);
                let (round, height, block) = (header.round.0, header.height.0, header.id());
                probes::proposed(round, height, id(&block.0));
                spans::block(Moment::Proposed, &block, Some(height), Some(round));
            }
            PeerMessage::Vote(vote) if first(&mut self.voted, vote.round) => {
                probes::voted(vote.round.0, id(&vote.block_id.0));
                spans::block(Moment::Voted, &vote.block_id, None, Some(vote.round.0));
            }
            PeerMessage::Timeout(timeout) if first(&mut self.timed_out, timeout.round) => {
                let cause = if self.voted >= timeout.round {
                    TimeoutCause::NoQuorum
                } else if self.proposal >= timeout.round {
                    TimeoutCause::NotVotable
                } else {
                    TimeoutCause::NoProposal
                };
                probes::timed_out(
                    timeout.round.0,
                    leader_of(timeout.round).0.into(),
                    cause as u64,
                    timeout.hqc_round.0,
                );
            }
            _ => {}
        }
    }

    /// The consensus core handled an input.
    pub fn progress(&mut self, now: Progress, leader_of: impl Fn(Round) -> ValidatorIndex) {
        let before = std::mem::replace(&mut self.progress, now);
        if now.qcs_formed != before.qcs_formed {
            probes::qc_formed(now.high_qc_round.0, id(&now.high_qc_block.0));
            spans::block(Moment::Certified, &now.high_qc_block, None, None);
        }
        if now.round != before.round {
            let by_tc = u64::from(now.rounds_by_tc != before.rounds_by_tc);
            probes::round_entered(now.round.0, leader_of(now.round).0.into(), by_tc);
        }
    }
}

/// Whether `round` is above the highest so far, which it then becomes.
fn first(highest: &mut Round, round: Round) -> bool {
    let is_new = round > *highest;
    if is_new {
        *highest = round;
    }
    is_new
}

/// A block is final.
pub fn committed(block: &Committed) {
    let header = &block.header;
    let (round, height, block_id) = (header.round.0, header.height.0, header.id());
    probes::committed(height, round, id(&block_id.0));
    spans::block(Moment::Committed, &block_id, Some(height), Some(round));
    for (lane, old, new) in header.cut.advances(&block.parent_cut) {
        probes::lane_committed(header.height.0, lane.0.into(), old.seq.next().0, new.seq.0);
    }
}

/// A transaction was admitted or not.
pub fn admitted(tx: &TxId, admission: Admission, reply: &ReplyTo) {
    let code = match admission {
        Admission::Accepted => 0,
        Admission::Duplicate => 1,
        Admission::Busy { .. } => 2,
        Admission::Refused(_) => 3,
    };
    probes::tx_admitted(id(&tx.0), code, submitter(reply).0);
    if admission == Admission::Accepted {
        spans::admitted(tx);
    }
}

/// The connection and the tag of a submission.
pub fn submitter(reply: &ReplyTo) -> (u64, u64) {
    match reply {
        ReplyTo::Stoq { conn, tag } => (conn.number(), *tag),
        ReplyTo::Http(_) | ReplyTo::Nobody => (NOBODY, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pacemaker_repeats_counts_once() {
        let mut highest = Round(0);
        let seen = [1, 1, 3, 2, 3, 4].map(|round| first(&mut highest, Round(round)));
        assert_eq!(seen, [true, false, true, false, false, true]);
    }
}
