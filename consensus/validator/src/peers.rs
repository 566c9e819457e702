//! Who is connected: which connection leads to which validator, and which connections are
//! clients', and how they stand.

pub mod score;
pub mod standing;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddrV6;
use std::sync::Arc;

use falconet_crypto::hash::Digest;
use falconet_dataplane::{ConnId, TargetId};
use falconet_types::ValidatorIndex;
use falconet_types::ids::FOLLOWERS_MAX;
use falconet_types::validators::ValidatorSet;
use parking_lot::{Mutex, MutexGuard, RwLock};

use self::score::{Bucket, Rate};

/// The table of connections, shared by the threads that receive, send and report. Validators have
/// the indices of the current epoch; nodes that were validators in an earlier one have the numbers
/// of followers.
pub struct Peers {
    table: RwLock<Table>,
    /// The nodes that this one keeps dialling, by the ids of their keys.
    dialled: Mutex<HashMap<Digest, (SocketAddrV6, TargetId)>>,
}

struct Table {
    set: Arc<ValidatorSet>,
    me: ValidatorIndex,
    conn_of: Vec<Option<ConnId>>,
    followers: Vec<Option<ConnId>>,
    index_of: HashMap<ConnId, ValidatorIndex>,
    /// The key that each of them proved.
    key_of: HashMap<ConnId, Digest>,
    clients: HashSet<ConnId>,
    /// Followers that show no key.
    anonymous: HashMap<ConnId, Bucket>,
}

/// What one follower may ask for, in requests.
const FOLLOWER_RATE: Rate = Rate {
    per_s: 500,
    burst: 1_000,
};

impl Table {
    fn index_of_anonymous(&self, conn: ConnId) -> Option<ValidatorIndex> {
        self.anonymous.get(&conn)?;
        let slot = self.followers.iter().position(|c| *c == Some(conn))?;
        Some(ValidatorIndex::of_follower(slot))
    }

    fn place_anonymous(&mut self, conn: ConnId) -> Option<ValidatorIndex> {
        let slot = self.followers.iter().position(Option::is_none)?;
        self.followers[slot] = Some(conn);
        Some(ValidatorIndex::of_follower(slot))
    }

    fn place(&mut self, conn: ConnId, key_id: &Digest) -> Option<ValidatorIndex> {
        let index = self.set.iter().find(|v| v.key.id() == *key_id);
        let index = match index.map(|v| v.index) {
            Some(index) if index == self.me => return None,
            Some(index) => {
                if let Some(old) = self.conn_of[index.at()].replace(conn) {
                    self.index_of.remove(&old);
                    self.key_of.remove(&old);
                }
                index
            }
            None => {
                let slot = self.followers.iter().position(Option::is_none)?;
                self.followers[slot] = Some(conn);
                ValidatorIndex::of_follower(slot)
            }
        };
        self.index_of.insert(conn, index);
        self.key_of.insert(conn, *key_id);
        Some(index)
    }
}

impl Peers {
    /// Nobody is connected yet.
    #[must_use]
    pub fn new(set: Arc<ValidatorSet>, me: ValidatorIndex) -> Self {
        let table = Table {
            conn_of: vec![None; set.len()],
            followers: vec![None; FOLLOWERS_MAX],
            index_of: HashMap::new(),
            key_of: HashMap::new(),
            clients: HashSet::new(),
            anonymous: HashMap::new(),
            set,
            me,
        };
        Self {
            table: RwLock::new(table),
            dialled: Mutex::default(),
        }
    }

    /// Indices are those of another set from now on. Returns who is connected.
    pub fn start_epoch(
        &self,
        set: Arc<ValidatorSet>,
        me: ValidatorIndex,
    ) -> Vec<(ValidatorIndex, ConnId)> {
        let mut table = self.table.write();
        table.conn_of = vec![None; set.len()];
        table.followers = vec![None; FOLLOWERS_MAX];
        table.index_of.clear();
        let mut keys: Vec<(ConnId, Digest)> = table.key_of.drain().collect();
        keys.sort_unstable_by_key(|(conn, _)| conn.number());
        (table.set, table.me) = (set, me);
        let mut present: Vec<(ValidatorIndex, ConnId)> = keys
            .into_iter()
            .filter_map(|(conn, key)| Some((table.place(conn, &key)?, conn)))
            .collect();
        let mut anonymous: Vec<ConnId> = table.anonymous.keys().copied().collect();
        anonymous.sort_unstable_by_key(|conn| conn.number());
        for conn in anonymous {
            match table.place_anonymous(conn) {
                Some(index) => present.push((index, conn)),
                // Those that were validators go before it; it will ask again as a client.
                None => drop(table.anonymous.remove(&conn)),
            }
        }
        present
    }

    /// Which nodes this one keeps dialling, and where; by the ids of their keys. It outlives the
    /// stages, as the endpoint does.
    pub fn dialled(&self) -> MutexGuard<'_, HashMap<Digest, (SocketAddrV6, TargetId)>> {
        self.dialled.lock()
    }

    /// Who is connected.
    #[must_use]
    pub fn present(&self) -> Vec<(ValidatorIndex, ConnId)> {
        let table = self.table.read();
        let mut present: Vec<_> = table.index_of.iter().map(|(c, i)| (*i, *c)).collect();
        present.sort_unstable_by_key(|(index, _)| *index);
        present
    }

    /// Records a connection with the node that proved `key_id`, a trusted key. Returns its index;
    /// `None` when there is no room for one that is no validator. A newer connection takes the
    /// place of an older one.
    pub fn validator_up(&self, conn: ConnId, key_id: &Digest) -> Option<ValidatorIndex> {
        self.table.write().place(conn, key_id)
    }

    /// Records a client's connection.
    pub fn client_up(&self, conn: ConnId) {
        self.table.write().clients.insert(conn);
    }

    /// Records that a client's connection is that of a follower. Returns by which number the cores
    /// know it; `None` when all places are taken.
    pub fn follower_up(&self, conn: ConnId, now_us: u64) -> Option<ValidatorIndex> {
        let mut table = self.table.write();
        if let Some(index) = table.index_of_anonymous(conn) {
            return Some(index);
        }
        let index = table.place_anonymous(conn)?;
        table.anonymous.insert(conn, Bucket::full(now_us));
        Some(index)
    }

    /// The follower without a key behind a connection, and whether it may ask for something more
    /// now.
    #[must_use]
    pub fn follower(&self, conn: ConnId, now_us: u64) -> Option<(ValidatorIndex, bool)> {
        let mut table = self.table.write();
        let index = table.index_of_anonymous(conn)?;
        let bucket = table.anonymous.get_mut(&conn)?;
        Some((index, bucket.take(now_us, 1, FOLLOWER_RATE)))
    }

    /// True for the connection of a follower that shows no key.
    #[must_use]
    pub fn is_anonymous(&self, conn: ConnId) -> bool {
        self.table.read().anonymous.contains_key(&conn)
    }

    /// Connections to all followers that show no key.
    #[must_use]
    pub fn anonymous(&self) -> Vec<ConnId> {
        self.table.read().anonymous.keys().copied().collect()
    }

    /// Forgets a connection; the validator or follower that can no longer be reached, if it was
    /// one's current connection.
    pub fn down(&self, conn: ConnId) -> Option<ValidatorIndex> {
        let mut table = self.table.write();
        table.clients.remove(&conn);
        if let Some(index) = table.index_of_anonymous(conn) {
            table.anonymous.remove(&conn);
            let slot = index.follower_slot().expect("followers have slots");
            table.followers[slot] = None;
            return Some(index);
        }
        table.key_of.remove(&conn);
        let index = table.index_of.remove(&conn)?;
        match index.follower_slot() {
            Some(slot) => table.followers[slot] = None,
            None => table.conn_of[index.at()] = None,
        }
        Some(index)
    }

    /// The id of the key that was proven on a connection, whether it is a validator's now or was
    /// one's or will be.
    #[must_use]
    pub fn key(&self, conn: ConnId) -> Option<Digest> {
        self.table.read().key_of.get(&conn).copied()
    }

    /// The validator behind a connection.
    #[must_use]
    pub fn validator(&self, conn: ConnId) -> Option<ValidatorIndex> {
        self.table.read().index_of.get(&conn).copied()
    }

    /// Who is behind a connection: a validator, or a follower, with or without a key.
    #[must_use]
    pub fn index(&self, conn: ConnId) -> Option<ValidatorIndex> {
        let table = self.table.read();
        let keyed = table.index_of.get(&conn).copied();
        keyed.or_else(|| table.index_of_anonymous(conn))
    }

    /// The connection to a validator or follower.
    #[must_use]
    pub fn conn(&self, index: ValidatorIndex) -> Option<ConnId> {
        let table = self.table.read();
        match index.follower_slot() {
            Some(slot) => table.followers[slot],
            None => table.conn_of.get(index.at()).copied().flatten(),
        }
    }

    /// Connections to all validators that are connected; with `followers`, also to nodes that were
    /// validators.
    #[must_use]
    pub fn conns(&self, followers: bool) -> Vec<ConnId> {
        let table = self.table.read();
        let keyed = |conn: &&Option<ConnId>| {
            followers && conn.is_some_and(|conn| !table.anonymous.contains_key(&conn))
        };
        let others = table.followers.iter().filter(keyed);
        table
            .conn_of
            .iter()
            .chain(others)
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
            .map(|(i, conn)| i == table.me.at() || conn.is_some())
            .collect()
    }

    /// Validators that are connected, without this one.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        self.table.read().conn_of.iter().flatten().count()
    }

    /// Number of clients.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.table.read().clients.len()
    }
}
