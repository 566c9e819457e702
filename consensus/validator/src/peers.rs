//! Who is connected: which connection leads to which validator, and which connections are
//! clients', and how they stand.

pub mod score;
pub mod standing;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use falconet_crypto::hash::Digest;
use falconet_dataplane::ConnId;
use falconet_types::ValidatorIndex;
use falconet_types::validators::ValidatorSet;
use parking_lot::RwLock;

/// The table of connections, shared by the threads that receive, send and report.
pub struct Peers {
    set: Arc<ValidatorSet>,
    me: ValidatorIndex,
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    conn_of: Vec<Option<ConnId>>,
    validator_of: HashMap<ConnId, ValidatorIndex>,
    clients: HashSet<ConnId>,
}

impl Peers {
    /// Nobody is connected yet.
    #[must_use]
    pub fn new(set: Arc<ValidatorSet>, me: ValidatorIndex) -> Self {
        let table = Table {
            conn_of: vec![None; set.len()],
            ..Table::default()
        };
        Self {
            set,
            me,
            table: RwLock::new(table),
        }
    }

    /// Records a connection with the validator who proved `key_id`. Returns its index, `None`
    /// for a key outside the set. A newer connection takes the place of an older one.
    pub fn validator_up(&self, conn: ConnId, key_id: &Digest) -> Option<ValidatorIndex> {
        let index = self.set.iter().find(|v| v.key.id() == *key_id)?.index;
        if index == self.me {
            return None;
        }
        let mut table = self.table.write();
        if let Some(old) = table.conn_of[index.at()].replace(conn) {
            table.validator_of.remove(&old);
        }
        table.validator_of.insert(conn, index);
        Some(index)
    }

    /// Records a client's connection.
    pub fn client_up(&self, conn: ConnId) {
        self.table.write().clients.insert(conn);
    }

    /// Forgets a connection; the validator that can no longer be reached, if it was one's
    /// current connection.
    pub fn down(&self, conn: ConnId) -> Option<ValidatorIndex> {
        let mut table = self.table.write();
        table.clients.remove(&conn);
        let index = table.validator_of.remove(&conn)?;
        table.conn_of[index.at()] = None;
        Some(index)
    }

    /// The validator behind a connection.
    #[must_use]
    pub fn validator(&self, conn: ConnId) -> Option<ValidatorIndex> {
        self.table.read().validator_of.get(&conn).copied()
    }

    /// The connection to a validator.
    #[must_use]
    pub fn conn(&self, index: ValidatorIndex) -> Option<ConnId> {
        self.table.read().conn_of.get(index.at()).copied().flatten()
    }

    /// Connections to all validators that are connected.
    #[must_use]
    pub fn conns(&self) -> Vec<ConnId> {
        self.table
            .read()
            .conn_of
            .iter()
            .flatten()
            .copied()
            .collect()
    }

    /// For each validator in order: is it connected (this validator itself counts as such).
    #[must_use]
    pub fn connected(&self) -> Vec<bool> {
        let table = self.table.read();
        table
            .conn_of
            .iter()
            .enumerate()
            .map(|(i, conn)| i == self.me.at() || conn.is_some())
            .collect()
    }

    /// Number of clients.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.table.read().clients.len()
    }
}
