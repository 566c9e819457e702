//! The keys that may connect with a proof of identity: the validator set. It changes at run time
//! when the set of an epoch changes.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use falconet_crypto::{
    falcon::{PreparedKey, PublicKey},
    hash::Digest,
};

/// A shared, replaceable set of trusted keys. Clones refer to the same set.
#[derive(Clone, Default)]
pub struct TrustedKeys(Arc<Shared>);

#[derive(Default)]
struct Shared {
    set: ArcSwap<TrustedSet>,
    generation: AtomicU64,
}

/// The keys at one moment, by identifier.
#[derive(Default)]
struct TrustedSet(HashMap<Digest, Arc<PreparedKey>>);

impl TrustedKeys {
    /// A set of these keys.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a PublicKey>) -> Self {
        let trusted = TrustedKeys::default();
        trusted.replace(keys);
        trusted
    }

    /// Replaces the whole set. Handshakes see it at once; connections whose key left the set are
    /// closed at the endpoint's next turn.
    pub fn replace<'a>(&self, keys: impl IntoIterator<Item = &'a PublicKey>) {
        let before = self.0.set.load();
        let set = keys
            .into_iter()
            .map(|key| {
                let id = key.id();
                let prepared = before.0.get(&id).cloned();
                let prepared = prepared.unwrap_or_else(|| Arc::new(PreparedKey::from_public(key)));
                (id, prepared)
            })
            .collect();
        self.0.set.store(Arc::new(TrustedSet(set)));
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether the key with this identifier is trusted.
    pub fn contains(&self, key_id: &Digest) -> bool {
        self.0.set.load().0.contains_key(key_id)
    }

    /// How many keys are trusted.
    pub fn len(&self) -> usize {
        self.0.set.load().0.len()
    }

    /// Whether no key is trusted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Grows with every replacement.
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// The prepared key with this identifier, when it is trusted.
    pub(super) fn prepared(&self, key_id: &Digest) -> Option<Arc<PreparedKey>> {
        self.0.set.load().0.get(key_id).cloned()
    }
}

impl fmt::Debug for TrustedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustedKeys({} keys)", self.len())
    }
}
