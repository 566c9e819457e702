//! From one epoch to the next (rules N4 to N8 of `docs/protocol.md`).
//!
//! The next epoch starts in the turn in which the last block of the current one is found executed:
//! the proof is put together, written before anything else of the turn, and both cores go over at
//! once. Messages of the next epoch that arrive before wait here, unchecked, because its validators
//! are not known yet.

use std::collections::VecDeque;
use std::sync::Arc;

use falconet_hotstuff::{Effect, HotStuff};
use falconet_mempool::Mempool;
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, SignedHeader};
use falconet_types::epoch::{EpochInfo, EpochProof};
use falconet_types::genesis::Params;
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::{ChainId, Epoch, Height, ValidatorIndex};

use crate::chronicle::{Chronicle, ProveError, prove};
use crate::ending::Ending;

/// Messages of the next epoch that wait.
pub const EARLY_MAX: usize = 1024;
/// Of one connection.
pub const EARLY_PER_PEER_MAX: usize = 64;

/// Where a message belongs, seen from an epoch (rule N4: each is judged by its own epoch's
/// validators only).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is of this epoch, or of none.
    Here,
    /// It is of the next epoch: it waits.
    Next,
    /// It is of another epoch and of no use but to show that there is one.
    Elsewhere(Epoch),
}

impl Place {
    /// Where a message belongs whose epoch this is, if it has one.
    #[must_use]
    pub fn of(epoch: Option<Epoch>, current: Epoch) -> Self {
        match epoch {
            Some(epoch) if epoch == current.next() => Self::Next,
            Some(epoch) if epoch != current => Self::Elsewhere(epoch),
            _ => Self::Here,
        }
    }
}

/// The epoch of a message; also of a batch, if it can be read.
#[must_use]
pub fn epoch_of(message: &PeerMessage) -> Option<Epoch> {
    match message {
        PeerMessage::Batch(bytes) => Batch::parse(bytes.clone()).ok().map(|b| b.header().epoch),
        other => other.epoch(),
    }
}

/// An epoch that begins.
#[derive(Debug, Clone)]
pub struct NextEpoch {
    /// Proves that the one before is over.
    pub proof: Arc<EpochProof>,
    /// Its validators and where it starts.
    pub info: EpochInfo,
}

/// What a node knows on its way from one epoch to the next. `P` names a connection.
#[derive(Debug)]
pub struct Handover<P> {
    /// The last block of the current epoch, once committed.
    pub last: Option<Arc<SignedHeader>>,
    /// What execution says of the next epoch.
    pub ending: Option<Box<Ending>>,
    /// A proof that a peer has shown, for when this node cannot make one.
    pub shown: Option<Box<EpochProof>>,
    /// Transactions of epochs that are over which wait to be sealed again.
    again: usize,
    early: VecDeque<(P, PeerMessage)>,
}

impl<P> Default for Handover<P> {
    fn default() -> Self {
        Self {
            last: None,
            ending: None,
            shown: None,
            again: 0,
            early: VecDeque::new(),
        }
    }
}

impl<P: Copy + PartialEq> Handover<P> {
    /// After a start: so many transactions of epochs that are over wait to be sealed again.
    pub fn carry_over(&mut self, again: usize) {
        self.again += again;
    }

    /// Keeps a message of the next epoch, as far as there is room.
    pub fn keep(&mut self, from: P, message: PeerMessage) {
        let share = self
            .early
            .iter()
            .filter(|(other, _)| *other == from)
            .count();
        if share < EARLY_PER_PEER_MAX && self.early.len() < EARLY_MAX {
            self.early.push_back((from, message));
        }
    }

    /// What came too early and does so no longer, after [`Handover::cross`]. Its signatures were
    /// not checked.
    pub fn take_early(&mut self) -> Vec<(P, PeerMessage)> {
        self.early.drain(..).collect()
    }

    /// So many transactions were sealed into a batch of the own lane. Returns how many of them, the
    /// first, are of epochs that are over.
    pub fn sealed(&mut self, count: usize) -> usize {
        let again = count.min(self.again);
        self.again -= again;
        again
    }

    /// The next epoch, if the current one is over and executed up to its last block: from what was
    /// executed here, else as a peer has shown it. `failed` hears why it cannot be proven here.
    pub fn next<C: Chronicle>(
        &mut self,
        (chain, params): (ChainId, &Params),
        current: &EpochInfo,
        log: &C,
        executed: impl FnOnce() -> Height,
        failed: impl FnOnce(&ProveError<C::Error>),
    ) -> Option<NextEpoch> {
        let last = self.last.clone()?;
        if executed() != last.height {
            return None;
        }
        let found = |(proof, info)| NextEpoch {
            proof: Arc::new(proof),
            info,
        };
        if let Some(ending) = &self.ending {
            match prove(chain, params, current, log, &last, ending) {
                Ok(made) => return Some(found(made)),
                Err(error) => {
                    failed(&error);
                    self.ending = None;
                }
            }
        }
        let shown = self.shown.take()?;
        let next = shown.check_links(chain, params, current);
        let next = next.ok().filter(|_| shown.last().id() == last.id())?;
        Some(found((*shown, next)))
    }

    /// Both cores go over; `me` is this node's place in the new set. Returns the cut from which the
    /// lanes of the epoch begin. The caller says who is connected anew, and lets the cores have
    /// [`Handover::take_early`].
    pub fn cross(
        &mut self,
        now: Now,
        next: &NextEpoch,
        me: ValidatorIndex,
        (hotstuff, mempool): (&mut HotStuff, &mut Mempool),
        out: &mut Vec<Effect>,
    ) -> Cut {
        let (set, start) = (Arc::clone(&next.info.set), next.info.start);
        (self.last, self.ending, self.shown) = (None, None, None);
        let waiting = mempool.status().pending_txs - self.again;
        mempool.start_epoch(Arc::clone(&set), me, start.height);
        // Without a lane nothing waits here any more.
        self.again = mempool.status().pending_txs.saturating_sub(waiting);
        let cut = Cut::empty(set.len());
        let next = falconet_hotstuff::NextEpoch {
            set,
            me,
            start,
            proof: Arc::clone(&next.proof),
        };
        hotstuff.start_epoch(now, next, out);
        cut
    }
}

#[cfg(test)]
mod tests {
    use falconet_types::message::PeerMessage;

    use super::*;

    #[test]
    fn a_message_waits_for_the_next_epoch_only() {
        let place = |epoch| Place::of(epoch, Epoch(3));
        assert_eq!(place(None), Place::Here);
        assert_eq!(place(Some(Epoch(3))), Place::Here);
        assert_eq!(place(Some(Epoch(4))), Place::Next);
        assert_eq!(place(Some(Epoch(5))), Place::Elsewhere(Epoch(5)));
        assert_eq!(place(Some(Epoch(2))), Place::Elsewhere(Epoch(2)));
    }

    #[test]
    fn early_messages_are_bounded_for_each_and_for_all() {
        let mut handover = Handover::default();
        for _ in 0..2 * EARLY_PER_PEER_MAX {
            handover.keep(0, PeerMessage::GetEpochProof(Epoch(1)));
        }
        assert_eq!(handover.take_early().len(), EARLY_PER_PEER_MAX);
        for from in 0..2 * EARLY_MAX {
            handover.keep(from, PeerMessage::GetEpochProof(Epoch(1)));
        }
        assert_eq!(handover.take_early().len(), EARLY_MAX);
        assert!(handover.take_early().is_empty());
    }
}
