//! The core thread on its way from one epoch to the next (rules N5 to N8 of `docs/protocol.md`).
//!
//! The next epoch starts in the turn in which the last block of the current one is found executed:
//! the proof is put together, written before anything else of the turn, and both cores, the table
//! of connections and the surroundings go over at once. Between turns no thread sees half of it.
//!
//! Messages of the next epoch that arrive before wait here, unchecked, because its validators are
//! not known yet; then they are checked and handled as if they had just arrived.

use std::collections::HashMap;
use std::sync::Arc;

use falconet_crypto::falcon::Verifier;
use falconet_dataplane::ConnId;
use falconet_epochs::handover::epoch_of;
use falconet_types::ValidatorIndex;
use falconet_types::batch::Batch;
use falconet_types::message::PeerMessage;
use falconet_types::signing::{self, Verified};
use falconet_types::time::Now;

use crate::core::Core;
use crate::epochs::Log;
use crate::history::History;
use crate::neighbours::Neighbours;
use crate::pipeline::Turn;

/// What the core thread needs for, and knows of, the change of epochs.
pub struct Handover {
    /// What follows the validator set.
    pub neighbours: Arc<Neighbours>,
    /// The log.
    pub history: History,
    /// This node in the current epoch.
    pub me: ValidatorIndex,
    /// The index of each connection in the current epoch.
    pub live: HashMap<ConnId, ValidatorIndex>,
    /// What is known of the end of the current epoch and of the next one.
    pub end: falconet_epochs::Handover<ConnId>,
}

impl Handover {
    /// Nobody is connected, nothing has ended.
    #[must_use]
    pub fn new(neighbours: Arc<Neighbours>, history: History, me: ValidatorIndex) -> Self {
        Self {
            neighbours,
            history,
            me,
            live: HashMap::new(),
            end: falconet_epochs::Handover::default(),
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
        if epoch_of(&message) == Some(epoch) {
            // This node went over while the message was on its way here.
            return self.judge_early(now, vec![(conn, message)], turn);
        }
        self.handover.end.keep(conn, message);
        // After the last block the proof is made of what was executed. A node that began with a
        // snapshot may not know enough for that, and needs a peer's.
        let end = &self.handover.end;
        if end.last.is_none() || (end.ending.is_none() && end.shown.is_none()) {
            let epoch = epoch.next();
            let input = falconet_hotstuff::Input::OtherEpoch { from, epoch };
            self.hotstuff(now, input, turn);
        }
    }

    /// Starts the next epoch, if the current one is over and executed.
    pub(crate) fn hand_over(&mut self, now: Now, turn: &mut Turn) {
        let handover = &mut self.handover;
        let end = &mut handover.end;
        if end.last.is_some() && end.shown.is_none() {
            end.shown = self.chain.epochs.shown().map(Box::new);
        }
        let next = handover.end.next(
            (self.chain.id, &self.chain.genesis.params),
            &self.chain.info(),
            &Log(handover.history.reader()),
            || self.mempool.status().executed,
            |error| tracing::error!(%error, "the end of the epoch cannot be proven here"),
        );
        let Some(next) = next else {
            return;
        };
        let start = next.info.start;
        tracing::info!(
            epoch = start.epoch.0,
            height = start.height.0,
            validators = next.info.set.len(),
            "an epoch begins"
        );
        turn.epoch = Some(Arc::clone(&next.proof));
        self.chain.epochs.begin(next.info.clone());
        let me = self.chain.me();
        let present = handover.neighbours.follow(&self.chain);
        handover.me = me;
        handover.live = present
            .iter()
            .map(|(index, conn)| (*conn, *index))
            .collect();
        let mut effects = Vec::new();
        let cores = (&mut self.hotstuff, &mut self.mempool);
        self.cut = handover.end.cross(now, &next, me, cores, &mut effects);
        self.reporter.adopt(self.mempool.take_orphans());
        self.carry_out(now, effects, turn);
        self.metrics.epoch.set(start.epoch.0 as i64);
        for (index, _) in present {
            self.mempool(now, falconet_mempool::Input::PeerUp(index), turn);
            self.hotstuff(now, falconet_hotstuff::Input::PeerUp(index), turn);
        }
        let early = self.handover.end.take_early();
        self.judge_early(now, early, turn);
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
