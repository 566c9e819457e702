//! The core thread on its way from one epoch to the next (rules N5 to N8 of `docs/protocol.md`).
//!
//! The next epoch starts in the turn in which the last block of the current one is found executed:
//! the proof is put together, written before anything else of the turn, and both cores, the table
//! of connections and the surroundings go over at once. Between turns no thread sees half of it.
//!
//! Messages of the next epoch that arrive before wait here, unchecked, because its validators are
//! not known yet; then they are checked and handled as if they had just arrived.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use falconet_crypto::falcon::Verifier;
use falconet_dataplane::ConnId;
use falconet_hotstuff::NextEpoch;
use falconet_types::ValidatorIndex;
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, SignedHeader};
use falconet_types::epoch::{EpochInfo, EpochProof};
use falconet_types::message::PeerMessage;
use falconet_types::signing::{self, Verified};
use falconet_types::time::Now;

use crate::core::Core;
use crate::epochs::Ending;
use crate::history::History;
use crate::neighbours::Neighbours;
use crate::pipeline::Turn;

/// Messages of the next epoch that wait.
const EARLY_MAX: usize = 1024;
/// Of one connection.
const EARLY_PER_PEER_MAX: usize = 64;

/// What the core thread needs for, and knows of, the change of epochs.
pub struct Handover {
    /// What follows the validator set.
    pub neighbours: Neighbours,
    /// The log.
    pub history: History,
    /// This node in the current epoch.
    pub me: ValidatorIndex,
    /// The index of each connection in the current epoch.
    pub live: HashMap<ConnId, ValidatorIndex>,
    /// The last block of the current epoch, once committed.
    pub last: Option<Arc<SignedHeader>>,
    /// What execution says of the next epoch.
    pub ending: Option<Box<Ending>>,
    /// A proof that a peer has shown, for when this node cannot make one.
    pub shown: Option<Box<EpochProof>>,
    /// Transactions of epochs that are over which wait to be sealed again.
    pub again: usize,
    /// Messages of the next epoch.
    pub early: VecDeque<(ConnId, PeerMessage)>,
}

impl Handover {
    /// Nobody is connected, nothing has ended.
    #[must_use]
    pub fn new(neighbours: Neighbours, history: History, me: ValidatorIndex) -> Self {
        Self {
            neighbours,
            history,
            me,
            live: HashMap::new(),
            last: None,
            ending: None,
            shown: None,
            again: 0,
            early: VecDeque::new(),
        }
    }

    /// Who is at the other end.
    pub(crate) fn from(&self, conn: ConnId) -> Option<ValidatorIndex> {
        self.live.get(&conn).copied()
    }

    /// A connection is up; it takes the place of an older one with the same node.
    pub(crate) fn up(&mut self, conn: ConnId) -> Option<ValidatorIndex> {
        let index = self.neighbours.peers.index(conn)?;
        self.live.retain(|_, other| *other != index);
        self.live.insert(conn, index);
        Some(index)
    }

    /// A connection is gone.
    pub(crate) fn down(&mut self, conn: ConnId) -> Option<ValidatorIndex> {
        self.live.remove(&conn)
    }
}

impl Core {
    /// Keeps a message of the next epoch, and asks whether this one is over.
    pub(crate) fn early(&mut self, now: Now, conn: ConnId, message: PeerMessage, turn: &mut Turn) {
        let Some(from) = self.handover.from(conn) else {
            return;
        };
        let epoch = self.hotstuff.epoch();
        let its_epoch = match &message {
            PeerMessage::Batch(bytes) => Batch::parse(bytes.clone()).ok().map(|b| b.header().epoch),
            other => other.epoch(),
        };
        if its_epoch == Some(epoch) {
            // This node went over while the message was on its way here.
            return self.judge_early(now, vec![(conn, message)], turn);
        }
        let early = &mut self.handover.early;
        let share = early.iter().filter(|(other, _)| *other == conn).count();
        if share < EARLY_PER_PEER_MAX && early.len() < EARLY_MAX {
            early.push_back((conn, message));
        }
        if self.handover.last.is_none() {
            let epoch = epoch.next();
            let input = falconet_hotstuff::Input::OtherEpoch { from, epoch };
            self.hotstuff(now, input, turn);
        }
    }

    /// Starts the next epoch, if the current one is over and executed.
    pub(crate) fn hand_over(&mut self, now: Now, turn: &mut Turn) {
        let Some(last) = self.handover.last.clone() else {
            return;
        };
        if self.mempool.status().executed != last.height {
            return;
        }
        let Some((proof, next)) = self.proof_of(&last) else {
            return;
        };
        tracing::info!(
            epoch = next.start.epoch.0,
            height = next.start.height.0,
            validators = next.set.len(),
            "an epoch begins"
        );
        let proof = Arc::new(proof);
        turn.epoch = Some(Arc::clone(&proof));
        let (set, start) = (Arc::clone(&next.set), next.start);
        self.chain.epochs.begin(next);
        let handover = &mut self.handover;
        let me = self.chain.me();
        let present = handover.neighbours.follow(&self.chain);
        handover.me = me;
        handover.live = present
            .iter()
            .map(|(index, conn)| (*conn, *index))
            .collect();
        (handover.last, handover.ending, handover.shown) = (None, None, None);
        let waiting = self.mempool.status().pending_txs - handover.again;
        self.mempool.start_epoch(Arc::clone(&set), me, start.height);
        handover.again = self.mempool.status().pending_txs - waiting;
        self.cut = Cut::empty(set.len());
        let mut effects = Vec::new();
        let next = NextEpoch {
            set,
            me,
            start,
            proof,
        };
        self.hotstuff.start_epoch(now, next, &mut effects);
        self.carry_out(now, effects, turn);
        self.metrics.epoch.set(start.epoch.0 as i64);
        for (index, _) in present {
            self.mempool(now, falconet_mempool::Input::PeerUp(index), turn);
            self.hotstuff(now, falconet_hotstuff::Input::PeerUp(index), turn);
        }
        let early = self.handover.early.drain(..).collect();
        self.judge_early(now, early, turn);
    }

    /// The proof that `last` ended the epoch, and the epoch after it: from what was executed here,
    /// else as a peer has shown it.
    fn proof_of(&mut self, last: &SignedHeader) -> Option<(EpochProof, EpochInfo)> {
        let reader = self.handover.history.reader();
        if let Some(ending) = &self.handover.ending {
            match self.chain.epochs.prove(reader, last, ending) {
                Ok(made) => return Some(made),
                Err(error) => {
                    tracing::error!(%error, "the end of the epoch cannot be proven here");
                    self.handover.ending = None;
                }
            }
        }
        let shown = self.handover.shown.take()?;
        let (chain, params) = (self.chain.id, &self.chain.genesis.params);
        let next = shown.check_links(chain, params, &self.chain.info());
        let next = next.ok().filter(|_| shown.last().id() == last.id())?;
        Some((*shown, next))
    }

    /// Checks messages of what is now the current epoch, and handles them.
    fn judge_early(&mut self, now: Now, early: Vec<(ConnId, PeerMessage)>, turn: &mut Turn) {
        if early.is_empty() {
            return;
        }
        let info = self.chain.info();
        let mut verifier = Verifier::new();
        for (conn, message) in early {
            let Some(from) = self.handover.from(conn) else {
                continue;
            };
            if let PeerMessage::Batch(bytes) = message {
                let Ok(batch) = Batch::parse(bytes) else {
                    continue;
                };
                let checked = signing::verify(batch, self.chain.id, &info.set, &mut verifier);
                if let Ok(batch) = checked {
                    let input = falconet_mempool::Input::Batch { from, batch };
                    self.mempool(now, input, turn);
                }
                continue;
            }
            match signing::verify(message, self.chain.id, &info.set, &mut verifier) {
                Ok(message) => self.peer(
                    now,
                    (from, conn),
                    Verified::trusted(message.into_inner()),
                    turn,
                ),
                Err(error) => {
                    self.metrics.refused("signature");
                    tracing::debug!(validator = from.0, %error, "message refused");
                }
            }
        }
    }
}
