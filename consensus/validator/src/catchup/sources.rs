//! Whom to ask, and when to ask whether epochs are over.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use falconet_dataplane::ConnId;
use falconet_types::epoch::EpochInfo;
use falconet_types::time::Now;
use falconet_types::{Digest, Epoch, Height, ValidatorIndex};

/// A node that is behind and executes nothing for this long asks whether its epoch is over.
const EPOCHS_ASK_AFTER: Duration = Duration::from_millis(500);
/// Time between two rounds of that question.
const EPOCHS_ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Peers that are asked in one round.
const EPOCHS_ASKED: usize = 3;

/// When to ask whether epochs are over.
pub(super) struct Asking {
    executed: Height,
    /// Since when this node is behind without executing anything.
    stuck_since_us: Option<u64>,
    asked_us: Option<u64>,
    turn: usize,
}

impl Asking {
    pub(super) fn new(now: Now) -> Self {
        Self {
            executed: Height::ZERO,
            stuck_since_us: None,
            asked_us: None,
            turn: now.wall_ms as usize,
        }
    }

    pub(super) fn progress(&mut self, now: Now, executed: Height, behind: bool) {
        if executed > self.executed || !behind {
            self.stuck_since_us = None;
        }
        self.executed = executed;
        if behind {
            self.stuck_since_us.get_or_insert(now.mono_us);
        }
    }

    pub(super) fn is_stuck(&self, now: Now) -> bool {
        let after_us = EPOCHS_ASK_AFTER.as_micros() as u64;
        self.stuck_since_us
            .is_some_and(|since| now.mono_us >= since + after_us)
    }

    pub(super) fn is_due(&self, now: Now) -> bool {
        let interval_us = EPOCHS_ASK_INTERVAL.as_micros() as u64;
        let due = self
            .asked_us
            .is_none_or(|at| now.mono_us >= at + interval_us);
        due && self.is_stuck(now)
    }

    /// Whom to ask now: others each time.
    pub(super) fn choose(&mut self, now: Now, sources: &Sources) -> Vec<ConnId> {
        self.asked_us = Some(now.mono_us);
        let conns: Vec<ConnId> = sources.conns().collect();
        let first = self.turn;
        self.turn = first.wrapping_add(EPOCHS_ASKED);
        (0..conns.len().min(EPOCHS_ASKED))
            .map(|step| conns[first.wrapping_add(step) % conns.len()])
            .collect()
    }
}

/// The connections behind the indices of the newest known epoch.
#[derive(Default)]
pub(super) struct Sources {
    epoch: Epoch,
    index_of: HashMap<Digest, ValidatorIndex>,
    conn_of: Vec<Option<ConnId>>,
    key_of: BTreeMap<ConnId, Digest>,
}

impl Sources {
    /// Indices are those of this epoch from now on; who of it is connected.
    pub(super) fn follow(&mut self, info: &EpochInfo) -> Vec<ValidatorIndex> {
        self.epoch = info.start.epoch;
        let members = info.set.iter().map(|v| (v.key.id(), v.index));
        self.index_of = members.collect();
        self.conn_of = vec![None; info.set.len()];
        let known = std::mem::take(&mut self.key_of).into_iter();
        let present = known.filter_map(|(conn, key)| self.up(conn, key));
        present.collect()
    }

    /// The epoch whose indices these are.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A connection is up; the index behind it.
    pub(super) fn up(&mut self, conn: ConnId, key: Digest) -> Option<ValidatorIndex> {
        self.key_of.insert(conn, key);
        let index = *self.index_of.get(&key)?;
        self.conn_of[index.at()] = Some(conn);
        Some(index)
    }

    /// A connection is gone; who can no longer be reached.
    pub(super) fn down(&mut self, conn: ConnId) -> Option<ValidatorIndex> {
        let index = *self.index_of.get(&self.key_of.remove(&conn)?)?;
        (self.conn_of[index.at()] == Some(conn)).then(|| {
            self.conn_of[index.at()] = None;
            index
        })
    }

    pub(super) fn index(&self, conn: ConnId) -> Option<ValidatorIndex> {
        self.index_of.get(self.key_of.get(&conn)?).copied()
    }

    pub(super) fn conn(&self, index: ValidatorIndex) -> Option<ConnId> {
        self.conn_of.get(index.at()).copied().flatten()
    }

    /// Everybody who proved a key.
    pub(super) fn conns(&self) -> impl Iterator<Item = ConnId> {
        self.key_of.keys().copied()
    }
}
