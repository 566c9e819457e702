//! A bounded cache of prepared keys.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{PreparedKey, PublicKey};
use crate::hash::Digest;

/// Most keys that a [`KeyCache`] of the default size holds: 64 MiB of coefficients.
pub const CACHE_KEYS_MAX: usize = 32 * 1024;

/// Independent parts of the cache, each behind its own lock.
const SHARDS: usize = 16;

/// Prepared keys by key id ([`PublicKey::id`]), shared between threads.
///
/// The cache is sharded by the first byte of the id, so that threads seldom meet at a lock, and
/// bounded: a full shard evicts by the CLOCK rule (a key that was used since the hand last passed
/// gets a second chance). Where strangers can offer keys, insert a key only after a signature has
/// verified under it; then flooding the cache costs a signature per entry.
pub struct KeyCache {
    shards: [Mutex<Shard>; SHARDS],
}

struct Shard {
    index: HashMap<Digest, usize>,
    entries: Vec<Entry>,
    entries_max: usize,
    /// The CLOCK hand: where the search for a victim goes on.
    hand: usize,
}

struct Entry {
    id: Digest,
    key: Arc<PreparedKey>,
    used: bool,
}

impl KeyCache {
    /// An empty cache for [`CACHE_KEYS_MAX`] keys.
    pub fn new() -> Self {
        Self::with_capacity(CACHE_KEYS_MAX)
    }

    /// An empty cache for about `keys_max` keys (rounded up to a multiple of the shards).
    ///
    /// # Panics
    /// If `keys_max` is zero.
    pub fn with_capacity(keys_max: usize) -> Self {
        assert!(keys_max > 0, "a cache holds at least one key");
        let shard = || Shard {
            index: HashMap::new(),
            entries: Vec::new(),
            entries_max: keys_max.div_ceil(SHARDS),
            hand: 0,
        };
        Self {
            shards: std::array::from_fn(|_| Mutex::new(shard())),
        }
    }

    /// The key with this id, if it is cached.
    pub fn get(&self, id: &Digest) -> Option<Arc<PreparedKey>> {
        let mut shard = self.shard(id);
        let at = *shard.index.get(id)?;
        let entry = &mut shard.entries[at];
        entry.used = true;
        Some(Arc::clone(&entry.key))
    }

    /// Adds a key, evicting another one when its shard is full.
    pub fn insert(&self, id: Digest, key: Arc<PreparedKey>) {
        self.shard(&id).insert(Entry {
            id,
            key,
            used: false,
        });
    }

    /// The prepared form of `key`, from the cache or newly prepared and added.
    pub fn get_or_prepare(&self, key: &PublicKey) -> Arc<PreparedKey> {
        let id = key.id();
        self.get(&id).unwrap_or_else(|| {
            // Prepared outside the lock; two threads may do it at the same time, with one result.
            let prepared = Arc::new(PreparedKey::from_public(key));
            self.insert(id, Arc::clone(&prepared));
            prepared
        })
    }

    /// Number of cached keys.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| lock(shard).entries.len())
            .sum()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, id: &Digest) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(id.0[0]) % SHARDS])
    }
}

impl Default for KeyCache {
    fn default() -> Self {
        Self::new()
    }
}

impl Shard {
    fn insert(&mut self, entry: Entry) {
        if let Some(&at) = self.index.get(&entry.id) {
            self.entries[at] = entry;
            return;
        }
        let at = if self.entries.len() < self.entries_max {
            self.index.insert(entry.id, self.entries.len());
            self.entries.push(entry);
            return;
        } else {
            self.victim()
        };
        self.index.remove(&self.entries[at].id);
        self.index.insert(entry.id, at);
        self.entries[at] = entry;
    }

    /// The next entry that has not been used since the hand last passed. Ends within two rounds.
    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            if !std::mem::take(&mut self.entries[at].used) {
                return at;
            }
        }
    }
}

/// A panic while a shard is locked leaves it consistent enough: at worst an id is not found.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::falcon::Scheme;

    fn id(n: u8) -> Digest {
        // Same first byte: same shard.
        let mut bytes = [0; 32];
        bytes[31] = n;
        Digest(bytes)
    }

    fn any_key() -> Arc<PreparedKey> {
        let mut bytes = vec![0; Scheme::Falcon512.public_key_len()];
        bytes[0] = Scheme::Falcon512.public_key_header();
        Arc::new(PreparedKey::from_bytes(Scheme::Falcon512, &bytes).expect("zeros are a key"))
    }

    #[test]
    fn a_full_shard_evicts_what_was_not_used() {
        let cache = KeyCache::with_capacity(4 * SHARDS);
        for n in 0..4 {
            cache.insert(id(n), any_key());
        }
        assert!(cache.get(&id(0)).is_some() && cache.get(&id(2)).is_some());
        cache.insert(id(4), any_key());
        cache.insert(id(5), any_key());
        let cached: Vec<u8> = (0..6).filter(|&n| cache.get(&id(n)).is_some()).collect();
        assert_eq!(cached, [0, 2, 4, 5]);
        assert_eq!(cache.len(), 4);
    }

    #[test]
    fn the_cache_stays_within_its_capacity() {
        let cache = KeyCache::with_capacity(SHARDS);
        let key = any_key();
        for n in 0..200 {
            let spread = crate::hash::hash("spread", &[&[n]]);
            cache.insert(spread, Arc::clone(&key));
            cache.insert(spread, Arc::clone(&key));
            assert!(cache.get(&spread).is_some());
        }
        assert!(cache.len() <= SHARDS);
    }

    #[test]
    fn a_prepared_key_is_the_key() {
        let pair = crate::KeyPair::from_seed(Scheme::Falcon512, &[1; 32]);
        let cache = KeyCache::new();
        assert!(cache.is_empty());
        let first = cache.get_or_prepare(pair.public());
        assert_eq!(*first, PreparedKey::from_public(pair.public()));
        assert!(Arc::ptr_eq(&first, &cache.get_or_prepare(pair.public())));
    }
}
