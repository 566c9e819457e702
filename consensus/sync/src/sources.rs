//! Whom to ask, and when to ask whether epochs are over.

use std::collections::BTreeMap;

use falconet_types::epoch::EpochInfo;
use falconet_types::time::Now;
use falconet_types::{Digest, Epoch, Height, ValidatorIndex};

use crate::limits::{EPOCHS_ASK_AFTER_US, EPOCHS_ASK_INTERVAL_US, EPOCHS_ASKED, EPOCHS_HEDGE_US};

/// When to ask whether epochs are over.
#[derive(Debug)]
pub(crate) struct Asking {
    executed: Height,
    /// Since when this node is behind without executing anything.
    stuck_since_us: Option<u64>,
    /// When to ask (again).
    due_us: u64,
    turn: usize,
}

impl Asking {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            executed: Height::ZERO,
            stuck_since_us: None,
            due_us: 0,
            turn: now.wall_ms as usize,
        }
    }

    pub(crate) fn progress(&mut self, now: Now, executed: Height, behind: bool) {
        if executed > self.executed || !behind {
            self.stuck_since_us = None;
        }
        self.executed = executed;
        if behind {
            self.stuck_since_us.get_or_insert(now.mono_us);
        }
    }

    pub(crate) fn is_stuck(&self, now: Now) -> bool {
        self.stuck_since_us
            .is_some_and(|since| now.mono_us >= since + EPOCHS_ASK_AFTER_US)
    }

    pub(crate) fn is_due(&self, now: Now) -> bool {
        now.mono_us >= self.due_us && self.is_stuck(now)
    }

    /// When to ask next, should this node be stuck then, microseconds.
    pub(crate) fn due_us(&self) -> Option<u64> {
        self.stuck_since_us
            .map(|since_us| self.due_us.max(since_us + EPOCHS_ASK_AFTER_US))
    }

    /// An epoch was learned of: whoever told of it was asked for the next, others are before long.
    pub(crate) fn learned(&mut self, now: Now) {
        self.due_us = self.due_us.min(now.mono_us + EPOCHS_HEDGE_US);
    }

    /// Whom to ask now: others each time.
    pub(crate) fn choose<P: Copy + Ord>(&mut self, now: Now, sources: &Sources<P>) -> Vec<P> {
        self.due_us = now.mono_us + EPOCHS_ASK_INTERVAL_US;
        let all: Vec<P> = sources.key_of.keys().copied().collect();
        let first = self.turn;
        self.turn = first.wrapping_add(EPOCHS_ASKED);
        (0..all.len().min(EPOCHS_ASKED))
            .map(|step| all[first.wrapping_add(step) % all.len()])
            .collect()
    }
}

/// The connections behind the indices of the epoch that is asked.
#[derive(Debug)]
pub(crate) struct Sources<P> {
    epoch: Epoch,
    index_of: BTreeMap<Digest, ValidatorIndex>,
    conn_of: Vec<Option<P>>,
    key_of: BTreeMap<P, Digest>,
}

impl<P> Default for Sources<P> {
    fn default() -> Self {
        Self {
            epoch: Epoch::ZERO,
            index_of: BTreeMap::new(),
            conn_of: Vec::new(),
            key_of: BTreeMap::new(),
        }
    }
}

impl<P: Copy + Ord> Sources<P> {
    /// Indices are those of this epoch from now on; who of it is connected.
    pub(crate) fn follow(&mut self, info: &EpochInfo) -> Vec<ValidatorIndex> {
        self.epoch = info.start.epoch;
        let members = info.set.iter().map(|v| (v.key.id(), v.index));
        self.index_of = members.collect();
        self.conn_of = vec![None; info.set.len()];
        let known = std::mem::take(&mut self.key_of).into_iter();
        let present = known.filter_map(|(conn, key)| self.up(conn, key));
        present.collect()
    }

    /// The epoch whose indices these are.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A connection is up; the index behind it.
    pub(crate) fn up(&mut self, conn: P, key: Digest) -> Option<ValidatorIndex> {
        self.key_of.insert(conn, key);
        let index = *self.index_of.get(&key)?;
        self.conn_of[index.at()] = Some(conn);
        Some(index)
    }

    /// A connection is gone; who can no longer be reached.
    pub(crate) fn down(&mut self, conn: P) -> Option<ValidatorIndex> {
        let index = *self.index_of.get(&self.key_of.remove(&conn)?)?;
        (self.conn_of[index.at()] == Some(conn)).then(|| {
            self.conn_of[index.at()] = None;
            index
        })
    }

    pub(crate) fn index(&self, conn: P) -> Option<ValidatorIndex> {
        self.index_of.get(self.key_of.get(&conn)?).copied()
    }

    pub(crate) fn conn(&self, index: ValidatorIndex) -> Option<P> {
        self.conn_of.get(index.at()).copied().flatten()
    }
}
